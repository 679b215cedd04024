"""The `scaling` command: its subcommands, exit codes and overview."""

from __future__ import annotations

import difflib
import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence

from scaling.cli.abilities import abilities
from scaling.cli.arguments import parse_and_call
from scaling.cli.audit import audit
from scaling.cli.backtest import backtest
from scaling.cli.compare import compare
from scaling.cli.completion import Shell, place, script
from scaling.cli.doctor import doctor, version
from scaling.cli.eval import evaluate
from scaling.cli.export import export
from scaling.cli.export_model import export_model
from scaling.cli.failures import BUG, mistake, report_bug
from scaling.cli.fit import fit, laws, validate, verify_published
from scaling.cli.forecast import forecast
from scaling.cli.generate import generate
from scaling.cli.harness import harness
from scaling.cli.help import coloured, help_text, usage, wrapped
from scaling.cli.import_runs import import_runs
from scaling.cli.inspect import inspect
from scaling.cli.output import each_note_once, say, show
from scaling.cli.plan import design, frontier, plan
from scaling.cli.report import figure, report, summary
from scaling.cli.schema import schema
from scaling.cli.signature import options
from scaling.cli.status_line import status_line
from scaling.cli.sweep import cancel, clean, logs, status, sweep, watch
from scaling.cli.train import data_list, data_prepare, train
from scaling.cli.transfer import transfer
from scaling.errors import ConfigError


def completion(shell: Shell, *, install: bool = False) -> None:
    """Print or install the completion script for a shell.

    Example: scaling completion bash --install

    Args:
        shell: Shell to complete in.
        install: Write the script to the shell's completion folder and print what remains to be
            done. Repeat this after an upgrade.
    """
    text = script(shell, {name: options(name, command) for name, command in COMMANDS.items()})
    if not install:
        show(text.rstrip("\n"))
        return
    path, hint = place(shell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    show(f"{path}: {hint}")


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "sweep": sweep,
    "status": status,
    "watch": watch,
    "logs": logs,
    "cancel": cancel,
    "clean": clean,
    "export": export,
    "eval": evaluate,
    "generate": generate,
    "harness": harness,
    "export-model": export_model,
    "abilities": abilities,
    "transfer": transfer,
    "inspect": inspect,
    "import": import_runs,
    "summary": summary,
    "fit": fit,
    "laws": laws,
    "validate": validate,
    "backtest": backtest,
    "audit": audit,
    "verify-published": verify_published,
    "frontier": frontier,
    "plan": plan,
    "forecast": forecast,
    "design": design,
    "compare": compare,
    "figure": figure,
    "report": report,
    "schema": schema,
    "data prepare": data_prepare,
    "data list": data_list,
    "completion": completion,
    "doctor": doctor,
}
"""Commands by name. Each imports what it needs when it is called, so that help loads neither
torch nor Ray nor pandas."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line.

    The exit code is 0 on success, 2 for a user error, 130 after Ctrl-C and 70 for a bug. The
    traceback of a bug is written to a file in the system's temporary folder, which the message
    names; SCALING_DEBUG=1 prints the traceback instead.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # escape what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = each_note_once()
                name, rest = _command(arguments)
                if not rest and (text := usage(name, COMMANDS[name])):
                    print(text, file=sys.stderr)
                    raise SystemExit(2)
                if {"-h", "--help"} & {*rest}:
                    print(coloured(help_text(name, COMMANDS[name])))
                    return
                with status_line():
                    parse_and_call(name, COMMANDS[name], rest)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except Exception as error:
            message = mistake(error)
            if message is None and os.environ.get("SCALING_DEBUG") == "1":
                raise
            say(message or report_bug(error, arguments))
            raise SystemExit(2 if message else BUG) from None
    except KeyboardInterrupt as stop:
        say(str(stop) or "stopped.")
        raise SystemExit(130) from None


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """Split a command line into the name of the command and its own arguments."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        show(_overview())
        raise SystemExit(0)
    if arguments[0] == "--version":
        show(version())
        raise SystemExit(0)
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    if arguments[0] == "data":
        raise ConfigError("`scaling data` needs one of: prepare, list.")
    near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "`scaling --help` lists the commands."
    raise ConfigError(f"there is no command {arguments[0]!r}. {hint}")


def _overview() -> str:
    width = max(shutil.get_terminal_size().columns, 50)
    lines = [
        "scaling: train models, run sweeps and fit neural scaling laws",
        "",
        "usage: scaling COMMAND [--help] ...",
        "",
    ]
    for name, function in COMMANDS.items():
        summary = (function.__doc__ or "").splitlines()[0]
        lines += wrapped(summary, width, " " * 20, first=f"  {name:<17} ")
    lines += [
        "",
        "  scaling sweep quickstart --dry-run     list the runs and estimate their time",
        "  scaling sweep quickstart --workers 2   train the missing runs",
        "  scaling summary results/quickstart     fit laws, plan, draw figures",
        "",
        "Shell completion (bash, zsh or fish): scaling completion bash --install",
    ]
    return "\n".join(lines)
