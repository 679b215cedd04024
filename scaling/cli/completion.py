"""Shell completion of commands, options and values for bash, zsh and fish."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Shell = Literal["bash", "zsh", "fish"]

Options = dict[str, tuple[str, ...]]
"""Options, each with its choices (empty: any value)."""


def script(shell: Shell, commands: dict[str, Options]) -> str:
    """Return the completion script of a shell for commands of one or two words."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def place(shell: Shell) -> tuple[Path, str]:
    """Return the path of a user's completion script, and what to do once it is there."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    if shell == "bash":
        path = data / "bash-completion/completions/scaling"
        return path, f"open a new shell. Without bash-completion, put `. {path}` in ~/.bashrc."
    if shell == "fish":
        return config / "fish/completions/scaling.fish", "open a new shell."
    folder = Path(os.environ.get("ZDOTDIR") or Path.home()) / ".zfunc"
    line = f"fpath+=({folder}); autoload -Uz compinit; compinit"
    return folder / "_scaling", f"put `{line}` in ~/.zshrc and open a new shell."


def _first_words(commands: dict[str, Options]) -> list[str]:
    return [*dict.fromkeys(name.split()[0] for name in commands), "--help", "--version"]


def _groups(commands: dict[str, Options]) -> dict[str, list[str]]:
    """Return {first word: second words} of the commands of two words."""
    groups: dict[str, list[str]] = {}
    for name in commands:
        first, _, second = name.partition(" ")
        if second:
            groups.setdefault(first, []).append(second)
    return groups


def _values(commands: dict[str, Options]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for name, known in commands.items():
        for option, values in known.items():
            if values:
                yield name, option, values


def _bash(commands: dict[str, Options]) -> str:
    lines = [
        "# bash completion of scaling: scaling completion bash",
        "_scaling() {",
        "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}",
        "  local command=${COMP_WORDS[1]} words=",
        "  COMPREPLY=()",
        "  if (( COMP_CWORD == 1 )); then",
        f'    words="{" ".join(_first_words(commands))}"',
    ]
    for first, second in _groups(commands).items():
        lines += [
            f"  elif [[ $command == {first} ]] && (( COMP_CWORD == 2 )); then",
            f'    words="{" ".join(second)}"',
        ]
    lines += ["  else"]
    for first in _groups(commands):
        lines += [f'    [[ $command == {first} ]] && command="$command ${{COMP_WORDS[2]}}"']
    lines += ['    case "$command $previous" in']
    for name, option, values in _values(commands):
        lines += [f'      "{name} {option}") words="{" ".join(values)}" ;;']
    lines += ["    esac", '    if [[ -z $words && $current == -* ]]; then case "$command" in']
    for name, known in commands.items():
        lines += [f'      "{name}") words="{" ".join(known)}" ;;']
    lines += [
        "    esac; fi",
        "  fi",
        '  [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -F _scaling scaling",  # falls back to file names
        "",
    ]
    return "\n".join(lines)


def _zsh(commands: dict[str, Options]) -> str:
    lines = [
        "#compdef scaling",
        "# zsh completion of scaling: scaling completion zsh",
        "_scaling() {",
        '  local command="$words[2]"',
        f"  if (( CURRENT == 2 )); then compadd -- {' '.join(_first_words(commands))}; return; fi",
    ]
    for first, second in _groups(commands).items():
        lines += [
            f"  if [[ $command == {first} ]]; then",
            f"    if (( CURRENT == 3 )); then compadd -- {' '.join(second)}; return; fi",
            '    command="$command $words[3]"',
            "  fi",
        ]
    lines += ['  case "$command $words[CURRENT-1]" in']
    for name, option, values in _values(commands):
        lines += [f'    "{name} {option}") compadd -- {" ".join(values)}; return ;;']
    lines += ["  esac", "  if [[ $PREFIX != -* ]]; then _files; return; fi", '  case "$command" in']
    for name, known in commands.items():
        lines += [f'    "{name}") compadd -- {" ".join(known)} ;;']
    lines += ["  esac", "}", '_scaling "$@"', ""]
    return "\n".join(lines)


def _fish(commands: dict[str, Options]) -> str:
    lines = ["# fish completion of scaling: scaling completion fish"]
    for word in _first_words(commands):
        lines += [f"complete -c scaling -n __fish_use_subcommand -f -a {word}"]
    for first, second in _groups(commands).items():
        words = " ".join(second)
        seen = f"__fish_seen_subcommand_from {first}"
        seen += f"; and not __fish_seen_subcommand_from {words}"
        lines += [f"complete -c scaling -n '{seen}' -f -a '{words}'"]
    for name, known in commands.items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        for option, values in known.items():
            given = f" -x -a '{' '.join(values)}'" if values else ""
            lines += [f"complete -c scaling -n '{seen}' -l {option.removeprefix('--')}{given}"]
    return "\n".join(lines) + "\n"
