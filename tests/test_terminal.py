"""Output in a terminal: no foreign control characters, any encoding, and progress."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from small import SMALL

from scaling import table
from scaling.cli import main
from scaling.errors import ConfigError
from scaling.text import printable
from sweeps import Sweep, control
from sweeps.display import Display, say
from sweeps.store import Store

ROOT = Path(__file__).parents[1]

EVIL = "a\x1b[31mred\x1b]0;title\x07\rover\b\0\x7f\x9b2J\u202egnp\u2066\u200b"
SHOWN = r"a\x1b[31mred\x1b]0;title\x07\rover\x08\x00\x7f\x9b2J\u202egnp\u2066\u200b"
"""EVIL as Python escapes it."""

FIRST = SHOWN.partition(r"\r")[0]
"""The first line of SHOWN, as in an error message of one line."""

pytestmark = pytest.mark.usefixtures("here")


def is_clean(text: str) -> bool:
    return not any(character in text for character in EVIL if not character.isprintable())


def spec(text: str = SMALL) -> Sweep:
    Path("small.toml").write_text(text, "utf-8")
    return Sweep.from_toml("small.toml")


def test_control_characters_are_escaped_and_everything_else_stays():
    assert printable(EVIL) == SHOWN
    for text in ("", "α → β, größe 😀\n\tx = 1", "L(N, D) · 3"):
        assert printable(text) == text
    assert printable("a\r\nb\rc") == "a\nb\\rc" and printable("\ud800") == "\\ud800"
    assert printable("größe", "ascii") == "gr\\xf6\\xdfe" and printable(EVIL, "ascii") == SHOWN


def test_lines_are_printed_as_they_are():
    out = io.StringIO()
    say(Console(file=out), f"[red]:smile: {EVIL}[/red] [/] " + "x" * 300)
    assert out.getvalue() == f"[red]:smile: {SHOWN}[/red] [/] " + "x" * 300 + "\n"


@pytest.fixture
def evil() -> Path:
    """Return a sweep whose tags, errors, description and logs come from somebody else."""
    escaped = EVIL.encode("unicode_escape").decode().replace("\\x", "\\u00")
    it = spec(SMALL.replace("[axes]", f'tag = "{escaped}"\n[axes]'))
    it.run(in_process=True, packs=False, quiet=True)
    assert {run.tag for run in it.spec.runs} == {EVIL}
    store = it.store
    for run in it.spec.runs:
        with (store.run_folder(run.run_id) / "output.log").open("a", newline="") as log:
            log.write(f"{EVIL}\nnext\tline\n")
        store.note(run.run_id, "killed", error=EVIL)
    return it.folder


@pytest.mark.filterwarnings("ignore:.*the median run has")
def test_commands_print_no_control_characters(evil, capsys):
    run_id = next((evil / "runs").iterdir()).name
    for command in (
        ["status", str(evil)],
        ["watch", str(evil)],
        ["logs", str(evil), run_id],
        ["logs", str(evil), ""],
        ["logs", str(evil), EVIL.replace("\0", "")],
        ["status", EVIL.replace("\0", "")],
        ["fit", f"{evil}/runs.csv", "--where", EVIL],
        ["clean", str(evil), "--dry-run"],
        ["sweep", "small.toml", "--in-process"],
    ):
        try:
            main(command)
        except SystemExit as stop:
            assert stop.code == 2
        out, err = capsys.readouterr()
        assert out + err and is_clean(out + err), command
    main(["logs", str(evil), run_id])
    out = capsys.readouterr().out
    assert f"{SHOWN}\nnext\tline\n" in out and f"error={SHOWN}" in out
    assert out.splitlines()[0] == f"{run_id} {SHOWN}"


def test_errors_of_runs_are_escaped_in_status_and_in_the_progress(monkeypatch, capsys):
    import scaling.training.train

    def fails(*_, **__):
        raise RuntimeError(EVIL)

    monkeypatch.setattr(scaling.training.train, "train_pack", fails)
    monkeypatch.setattr("sweeps.display._FIRST_LINE_SECONDS", 0.01)
    for console in (Console(file=sys.stdout), Console(file=sys.stdout, force_terminal=True)):
        spec().run(in_process=True, packs=False, retry_failed=True, console=console)
        out = capsys.readouterr().out
        assert "failed" in out
        assert EVIL[:5] not in out and "\x1b]0;" not in out and "\u202e" not in out
    main(["status", "results/small"])
    out = capsys.readouterr().out
    assert SHOWN.rpartition("\\r")[2] in out and is_clean(out)


def test_the_live_display_of_errors_is_escaped():
    from sweeps.queue import Outcome, Queue

    it = spec()
    queue = Queue(it.store, retries=0)
    run = it.spec.runs[0]
    queue.outcomes.append(Outcome(run.run_id, "failed", EVIL))
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=300)
    with Display(queue, it.store, it.spec.by_id, {run.run_id: 1.0}, workers=1, console=terminal):
        pass
    assert FIRST in out.getvalue() and "\x1b]0;" not in out.getvalue()


# ------------------------------------------------------------------ progress of a sweep


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_progress_goes_to_the_terminal_and_not_to_the_log_of_a_run(
    monkeypatch, capsys, terminal, packs
):
    import scaling.training.train

    train_pack = scaling.training.train.train_pack

    def slowly(*args, **options):
        print("this is the run's")
        import time

        time.sleep(1.2)  # the display is drawn twice a second
        return train_pack(*args, **options)

    monkeypatch.setattr(scaling.training.train, "train_pack", slowly)
    monkeypatch.setattr("sweeps.display._FIRST_LINE_SECONDS", 0.2)
    console = Console(force_terminal=True) if terminal else None
    it = spec()
    it.run(in_process=True, packs=packs, console=console)
    logs = "".join(path.read_text() for path in it.folder.glob("runs/*/output.log"))
    assert "this is the run's" in logs and "ETA" not in logs and "\x1b" not in logs
    out = capsys.readouterr().out
    assert "ETA" in out and "this is the run's" not in out
    if console is not None:  # it follows sys.stdout again
        said = io.StringIO()
        monkeypatch.setattr(sys, "stdout", said)
        console.print("after")
        assert "after" in said.getvalue()


# ------------------------------------------------------------------ a stdout with few characters


def in_ascii(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


ASCII = {"PYTHONIOENCODING": "ascii"}
POSIX = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("environment", [ASCII, POSIX], ids=["ascii", "C"])
def test_the_progress_of_a_sweep_survives_an_ascii_stdout(environment):
    tagged = SMALL.replace("[axes]", 'tag = "größe-π"\n[axes]')
    spec(tagged.replace("seed = [0, 1]", "seed = [0]"))
    code = (
        "import time, scaling.training.train, sweeps.display\n"
        "from sweeps import Sweep\n"
        "sweeps.display._FIRST_LINE_SECONDS = 0.05\n"
        "train_pack = scaling.training.train.train_pack\n"
        "def slowly(*args, **options):\n"
        "    print(chr(252))\n"
        "    time.sleep(0.5)\n"
        "    return train_pack(*args, **options)\n"
        "scaling.training.train.train_pack = slowly\n"
        "Sweep.from_toml('small.toml').run(in_process=True)\n"
    )
    done = in_ascii("-c", code, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("% - 0/1 runs - ETA") >= 2
    (log,) = Path("results/small/runs").glob("*/output.log")
    assert "ü" in log.read_text("utf-8")


@pytest.mark.parametrize("environment", [ASCII, POSIX], ids=["ascii", "C"])
def test_commands_survive_an_ascii_stdout(environment):
    text = SMALL.replace("[axes]", 'tag = "größe-π"\n[axes]').replace(
        '"small"', '"small"\ndescription = "→ ∞"'
    )
    it = spec(text)
    it.run(in_process=True, packs=False, quiet=True)
    run = it.spec.runs[0]
    pd.DataFrame({"größe": [1e6, 2e6], "D": 2e8, "L": [3.0, 2.9]}).to_csv("table.csv", index=False)
    code = (
        "import sys\n"
        "from scaling.cli import main\n"
        "for words in sys.argv[1:]:\n"
        "    try: main(words.split())\n"
        "    except SystemExit as stop: print(words, stop.code)\n"
    )
    commands = ["status results/small", f"logs results/small {run.run_id}", "watch results/small"]
    commands += [
        "laws",
        "figure --list",
        "data list",
        "fit table.csv --where größe>0",
        "logs größe x",
    ]
    commands += ["sweep small.toml --dry-run --in-process", "logs results/small größe-π"]
    done = in_ascii("-c", code, *commands, **environment)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr
    assert done.stdout.isascii() and done.stderr.isascii()
    assert "gr\\xf6\\xdfe-\\u03c0" in done.stdout
    assert "has no column 'N'" in done.stderr


# ------------------------------------------------------------------ files that are not regular


def refused(command: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(command)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1 and "Errno" not in err
    return err


def special(path: str | Path, kind: str) -> Path:
    path = Path(path)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_that_is_not_regular_is_refused_in_one_line(capsys, kind):
    spec()
    special("strange.txt", kind)
    for corpus in ("strange.txt", "texts"):
        Path("texts").mkdir(exist_ok=True)
        special("texts/a.txt", kind)
        said = refused(["data", "prepare", corpus], capsys)
        assert "not a regular file" in said and "SCALING_CACHE" not in said
        said = refused(
            ["sweep", "small.toml", "--in-process", "--set", f"data.corpus={corpus}"], capsys
        )
        assert "not a regular file" in said
    assert "neither a file" in refused(["sweep", str(special("s.toml", kind))], capsys)
    for suffix in (".csv", ".tsv", ".parquet", ".jsonl", ".json"):
        said = refused(["fit", str(special(f"t{suffix}", kind))], capsys)
        assert "not a regular file" in said
    Path("folder").mkdir()
    special("folder/runs.csv", kind)
    assert "not a regular file" in refused(["fit", "folder"], capsys)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_log_that_is_not_a_file_is_refused_in_one_line(capsys, kind):
    it = spec()
    run = it.spec.runs[0]
    it.store.begin(run)
    special(it.store.run_folder(run.run_id) / "output.log", kind)
    for packs in ([], ["--no-packs"]):
        said = refused(["sweep", "small.toml", "--in-process", *packs], capsys)
        assert "output.log" in said
    if kind == "pipe":
        assert "it is a named pipe" in said
    assert "output.log cannot be read: it is" in refused(
        ["logs", str(it.folder), run.run_id], capsys
    )


def test_a_log_is_not_written_through_a_link(capsys):
    it = spec()
    Path("mine").write_text("mine")
    run = it.spec.runs[0]
    (it.store.begin(run) / "output.log").symlink_to(Path("mine").absolute())
    refused(["sweep", "small.toml", "--in-process", "--no-packs"], capsys)
    assert Path("mine").read_text() == "mine"


def test_a_folder_of_texts_with_circular_links_is_read_once(capsys):
    Path("texts").mkdir()
    Path("corpus.txt").rename("texts/a.txt")
    Path("texts/again").symlink_to(Path("texts").absolute())
    Path("texts/folder.txt").mkdir()
    Path("loop").symlink_to("loop")
    main(["data", "prepare", "texts", "--tokenizer", "bytes"])
    assert "training and" in capsys.readouterr().out
    assert "'loop' is neither" in refused(["data", "prepare", "loop"], capsys)


# ------------------------------------------------------------------ byte order marks


def marked(path: str | Path, encoding: str = "utf-8-sig") -> None:
    Path(path).write_text(Path(path).read_text("utf-8"), encoding)


def test_a_byte_order_mark_is_not_part_of_the_text(capsys):
    from scaling.config import DataConfig
    from scaling.data import corpus

    data = DataConfig(corpus="corpus.txt", tokenizer="bytes")
    plain = corpus.prepare(data)
    marked("corpus.txt")
    with_mark = corpus.prepare(data)
    assert with_mark.hash == plain.hash and with_mark.train.read_bytes() == plain.train.read_bytes()
    for name in ("utf-16", "utf-32"):
        marked("corpus.txt")
        marked("corpus.txt", name)
        with pytest.raises(ConfigError, match=f"is not UTF-8 text but {name.upper()} .*iconv -f"):
            corpus.prepare(data)
        Path("corpus.txt").write_bytes(Path("corpus.txt").read_bytes().decode(name).encode("utf-8"))


def test_byte_order_marks_in_the_files_of_a_sweep_are_accepted(capsys):
    it = spec()
    marked("small.toml")
    it = Sweep.from_toml("small.toml")
    before = it.run(in_process=True, packs=False, quiet=True)
    files = [it.folder / "manifest.json", it.folder / "runs.csv"]
    files += [*it.folder.glob("runs/*/result.json"), *it.folder.glob("runs/*/config.json")]
    for path in files:
        marked(path)
    again = Sweep.from_toml("small.toml")
    runs = again.run(in_process=True, packs=False, quiet=True)
    assert runs.run_id.tolist() == before.run_id.tolist() and not again.store.messages
    assert table.read(it.folder).run_id.tolist() == before.run_id.tolist()
    assert Store(it.folder).manifest()["name"] == "small"
    assert "small: 2 runs: 2 ok" in str(control.status(it.folder))
    for path in files:
        assert path.is_file()
    marked("small.toml", "utf-16")
    assert "UTF-16" in refused(["sweep", "small.toml"], capsys)


def test_byte_order_marks_in_tables_are_accepted(capsys):
    from analysis import load

    there = pd.DataFrame({"N": [1e6, 2e6], "D": [2e8, 4e8], "L": [3.0, 2.8]})
    there.to_csv("t.csv", index=False)
    there.to_csv("t.tsv", index=False, sep="\t")
    there.to_json("t.jsonl", orient="records", lines=True)
    there.to_json("t.json", orient="records")
    Path("folder").mkdir()
    ours = there.assign(run_id=["a", "b"], status="ok", C=6 * there.N * there.D, B=1e3, S=1e3)
    ours[["run_id", *ours.columns.drop("run_id")]].to_csv("folder/runs.csv", index=False)
    for name in ("t.csv", "t.tsv", "t.jsonl", "t.json", "folder"):
        path = Path(name) / "runs.csv" if name == "folder" else Path(name)
        marked(path)
        assert load(name, need=("N", "D", "L"))["N"].tolist() == [1e6, 2e6]
        path.write_text(path.read_text("utf-8-sig"), "utf-16")
        if name == "folder":  # we wrote it, so another encoding is damage
            assert "is not UTF-8 text but UTF-16" in refused(["fit", name], capsys)
        else:
            assert load(name, need=("N", "D", "L"))["N"].tolist() == [1e6, 2e6]
