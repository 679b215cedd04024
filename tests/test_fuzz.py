"""Random specs, tables and results folders, each given to one command line of `scaling`.

Whatever a file holds, a command ends with exit code 0, 2 or 3, without a traceback, and in time. An
error is one line. No answer holds NaN. Nothing outside the results folder changes, no foreign code
runs, and no result is lost. `make fuzz` searches for minutes, with fresh seeds; without
FUZZ_SECONDS the same examples are tried each time.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fuzzing import RUNS, SPEC, Case, TooLong, World, limits
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from scaling.columns import COLUMNS as COLUMNS_OF_RUNS
from sweeps.measure import Machine
from sweeps.spec import Spec

# ------------------------------------------------------------------ strategies

pick = st.sampled_from
TEXTS = st.one_of(
    pick([
        "", " ", ".", "..", "../../out", "../../../out/folder", "@OUT", "@OUT/keep.txt",
        "@ID0", "@ID11",
        "evil.py:X", "@OUT/evil.py:X", "evil.py", "nan", "inf", "-1", "0", "1e308",
        "1e400", "9" * 400,
        "True", "ok", "failed", "x" * 300, "<!--<script>", "\x1b[31m", "\u202e\x00",
        "\ud800", "a\nb",
        "\ufeff", "∞", "s3://k:SECRET@b/x", "[bold]", "{0}", "%s", '"', ",,,", "@",
    ]),
    st.text(max_size=8),
)  # fmt: skip
NUMBERS = pick([0, -1, 1, 2, 3, 7, 1e-300, 1e300, -0.0, 1e30, 2**63, 10**400, float("nan"),
    float("inf"), 0.5])  # fmt: skip
VALUES = st.one_of(
    pick([None, True, False, [], {}, [[]], [1], {"a": {"b": []}}, "@DELETE"]), NUMBERS, TEXTS
)
RAW = pick([
    b"", b"[" * 100_000, b"{}", b"[]", b"null", b"NaN", b"1", b'"text"',
    b"\xff\xfe\x00", b"\0" * 64,
    b'{"format": 1}', b'{"format": 99}', b'{"format": "x"}', b"9" * 5000,
    b"\xef\xbb\xbf{}", b",,,\n",
    b'{"a":' * 50_000, b"PAR1", b"run_id,status\n", b"run_id,status\n,,\n", b"process 1 on here\n",
])  # fmt: skip
IN_RUN = ("result.json", "config.json", "attempts.jsonl", "progress.json", "output.log",
    "checkpoint.pt", "lock")  # fmt: skip
RUN = st.sampled_from([0, 1, 8, 9, 10, 11])
FILES = st.one_of(
    pick(["runs.csv", "manifest.json", "curves.parquet", "tests.parquet", "lock",
        "rounds/0001.json", "rungs/0a/@ID0.json"]),
    st.builds("runs/@ID{}/{}".format, RUN, pick(IN_RUN)),
    st.builds("runs/@ID{}/result.json".format, RUN),
)  # fmt: skip
FOLDERS = st.one_of(
    pick(["runs", "rounds", "rungs", "tensorboard", "tensorboard/@ID0", "figures", ".stop",
        "report.html"]),
    st.builds("runs/@ID{}".format, RUN),
    st.builds("runs/{}".format, TEXTS.filter(lambda t: t and "/" not in t and "\0" not in t)),
)  # fmt: skip
ANY = FILES | FOLDERS
COLUMNS = pick(["run_id"] * 4 + ["status", "N", "D", "C", "B", "S", "L", "L_stderr", "seconds",
    "error", "tag", "family", "corpus_hash", "n_layer", "d_model", "tied", "seed",
    "vocab_size"])  # fmt: skip
JSONS = pick(["manifest.json", "runs/@ID10/progress.json", "rounds/0001.json",
    "rungs/0a/@ID0.json"]) | st.builds(
    "runs/@ID{}/{}".format, RUN, pick(["result.json", "config.json", "attempts.jsonl"])
)  # fmt: skip
ROW = pick(["run_id", "status", "N", "D", "B", "S", "L", "seed", "error", "tag", "seconds", "lr",
    "tied", "corpus_hash", "n_layer"])  # fmt: skip
POINT = pick(["S", "D", "L", "run_id", "lr"])
WAY = st.one_of(
    st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple), st.tuples(pick(["row"]), ROW),
    st.tuples(pick(["curve", "tests"]), st.integers(0, 2), POINT),
    pick([("format",), ("row",), ("curve",), ("tests",)]),
)  # fmt: skip
HURT = st.one_of(
    st.tuples(pick(["flip"]), FILES, st.floats(0, 1), st.integers(0, 255)),
    st.tuples(pick(["cut"]), FILES, st.floats(0, 1)),
    st.tuples(pick(["write"]), ANY, RAW | TEXTS),
    st.tuples(pick(["remove", "make_folder", "make_fifo"]), ANY),
    st.tuples(pick(["link"]), ANY, pick(["@OUT", "@OUT/keep.txt", "@OUT/folder", "@OUT/none",
        "../../evil.py", "/dev/zero", ".", "link"])),
    st.tuples(pick(["lead_out"]), ANY, pick(["@OUT/moved", "../moved"])),
    st.tuples(pick(["swap"]), ANY, ANY),
    st.tuples(pick(["mode"]), ANY, pick([0, 0o400, 0o777])),
    st.tuples(pick(["set_json"]), JSONS, WAY, VALUES),
    st.tuples(pick(["set_row"]), st.integers(0, 20), COLUMNS, TEXTS),
    st.tuples(pick(["add_line"]), pick(["runs.csv", "runs/@ID0/attempts.jsonl",
        "runs/@ID0/output.log"]), st.integers(0, 20), TEXTS),
    st.tuples(pick(["set_points"]), pick(["curves.parquet", "tests.parquet"]),
        pick(["run_id", "S", "L", "D", "corpus"]), VALUES.filter(lambda v: not isinstance(v,
            list | dict) and v != 10**400)),
)  # fmt: skip
OFTEN = st.one_of(
    st.tuples(pick(["set_json"]), JSONS, WAY, VALUES),
    st.tuples(pick(["set_row"]), st.integers(0, 20), COLUMNS, TEXTS),
    st.tuples(
        pick(["write", "link", "lead_out"]),
        st.builds("runs/@ID{}".format, RUN) | FILES,
        pick(["@OUT/folder"]),
    ),
)
FIRST = [(), (), (), (("remove", "runs.csv"),), (("remove", "curves.parquet"),),
    (("remove", "runs.csv"), ("remove", "curves.parquet"))]  # fmt: skip
DAMAGES = st.builds(
    lambda first, hurt: (*first, *hurt), pick(FIRST), st.lists(HURT | OFTEN, max_size=3)
)

OTHER_MANIFEST = st.builds(
    lambda spec, changes: ("write", "manifest.json", json.dumps({"name": "x", "spec": spec,
        "changes": changes})),
    st.deferred(lambda: SPECS), st.dictionaries(pick(["name", "model.family", "seed", "scale", ""]),
        VALUES, max_size=2),
)  # fmt: skip


def _mutated(spec: str, changes: list[tuple[str, int, str]]) -> str:
    lines = spec.split("\n")
    for what, at, text in changes:
        at %= len(lines)
        key, equals, _ = lines[at].partition(" = ")
        if what == "value" and equals:
            lines[at] = f"{key} = {text}"
        elif what == "key" and equals:
            lines[at] = lines[at].replace(key, text, 1)
        elif what == "twice":
            lines.insert(at, lines[at])
        elif what == "gone" and len(lines) > 1:
            del lines[at]
        else:
            lines.insert(at, text)
    return "\n".join(lines)


def _toml(text: str) -> str:
    return json.dumps(text) if text.isprintable() else f"'{text}'"


TOML_VALUES = st.one_of(
    pick([
        "0", "-1", "1", "3", "1e308", "-1e308", "nan", "inf", "-inf", "9" * 400, "1e999",
        "true", "[]", "{}",
        "[1, 'a']", "[[]]", "[{}]", "[{ n_layer = 1 }, { d_model = 4 }]", "1979-05-27",
        "07:32:00", "''",
        "{ from = 1, to = 100, num = 3 }", "{ from = 0, to = inf, num = 2 }",
        "{ from = 2, to = 1, num = 5 }",
        "{ from = 1e-300, to = 1e300, num = 40 }", "{ from = 1, to = 2, num = 1e9 }",
        "{ from = 8, num = 2 }",
        "'evil.py:X'", "'@OUT/evil.py:X'", "'../out/evil.py:X'", "'lstm'", "'0.05 N^-0.25 D^'",
        "'1e999 N^-1'",
        "'N^N'", "'bpe-300'", "'bpe-0'", "'/dev/zero'", "'@OUT/keep.txt'", "'@OUT'",
        "'hub:'", "'bytes'",
        "'mup'", "'wsd'", "'bfloat16'", "[0]", "[1, 1]", "['../../out']", "{ lr = 1 }",
        "{" * 50, "[" * 5000,
    ]),
    st.integers().map(str), st.floats().map(repr), TEXTS.map(_toml),
)  # fmt: skip
KEYS = pick([
    "name", "description", "seed", "precision", "tag", "tokens", "tokens_per_parameter",
    "flops", "model",
    "model.family", "model.d_model", "model.n_layer", "model.n_head", "model.n_ctx",
    "model.n_repeat", "model.d_ff",
    "data.corpus", "data.tokenizer", "data.max_bytes", "data.unique_tokens", "optim.lr",
    "optim.schedule",
    "optim.warmup_tokens", "eval.others", "eval.points", "eval.patience", "eval.test_tokens", "zip",
    "nonsense", "",
    "a.b.c", "batch_tokens",
])  # fmt: skip
LINES = st.one_of(
    st.builds("{} = {}".format, KEYS, TOML_VALUES),
    pick([
        "[until]", "lr = { within = 1.25, factor = 4 }", "isoflop = { within = 1.5 }",
        "[[sets]]", "[sets]",
        "interval = { law = 'chinchilla', parameter = 'alpha', width = 0.05 }", "[isoflop]",
        "C = [1e5, 2e5]",
        "models = [{ n_layer = 1, d_model = 4 }, { n_layer = 1, d_model = 8 }]",
        "base.seed = 3", "[axes]",
        "axes.seed = [1, 2]", "[scale.gpu]", "base.precision = 'bfloat16'", "[base]", "\ufeff", "]",
        "'''", "# \x01",
    ]),
    TEXTS,
)  # fmt: skip
MUTATION = st.one_of(
    st.tuples(pick(["value"]), st.integers(0, 30), TOML_VALUES),
    st.tuples(pick(["key"]), st.integers(0, 30), KEYS),
    st.tuples(pick(["line", "line", "twice", "gone"]), st.integers(0, 30), LINES),
)
SPECS = st.lists(MUTATION, max_size=3).map(lambda changes: _mutated(SPEC, changes))
IN_SWEEP = "results/sweep"


def cheap(world: World, spec: str) -> bool:
    """Return whether a spec is invalid or takes moments to train."""
    try:
        with contextlib.chdir(world.good), limits(10, 1 << 30):
            runs = Spec.from_text(spec, path=Path("spec.toml")).runs
    except (Exception, TooLong):
        return True
    small = all(
        run.S <= 16 and run.batch_tokens <= 64 and run.eval.test_tokens <= 256
        and (run.model.n_layer * run.model.n_repeat * run.model.d_model * max(run.model.d_model,
            run.model.d_ff or 0)) < 4096
        and run.model.n_ctx <= 64 and run.data.tokenizer == "bytes" and run.eval.points < 99
        for run in runs
    )  # fmt: skip
    return small and len(runs) <= RUNS + 1


OPTION = {
    "filter": pick(["D<100", "model.n_layer=1", "seed!=0", "N", "x=1", "D<nan", "lr='a'", "tag=''",
        "L<1"]) | TEXTS,
    "tag": TEXTS, "scale": pick(["gpu", "x", ""]), "flops": None,
    "level": pick(["0.9", "0.5", "0", "1", "2", "nan"]),
    "set": pick(["seed=3", "model.family=evil.py:X", "model.family=@OUT/evil.py:X", "name=../x",
        "name=", "tokens=1e400", "x=1", "data.corpus=/dev/zero", "data.corpus=@OUT",
        "tokens=nan"]) | TEXTS,
    "budget-flops": NUMBERS.map(str), "budget-hours": pick(["0", "nan", "1"]),
    "price": NUMBERS.map(str),
    "where": pick(["D > 64", "L < 0", "N.", "1", "D == D.max()", "@x", "run_id.str.len() > 3",
        "N if D else L", "__import__('os')", "N/0", ""]) | TEXTS,
    "map": pick(["params=N,tokens=D,loss=L", "loss=L", "N=D,D=N", "log(loss)=L",
        "1e6*params=N,tokens=D,loss=L", "=", "a=b", "N=N"]) | TEXTS,
    "law": pick(["chinchilla", "kaplan_ND", "power_N", "floor_D", "broken_C", "power_status",
        "bottleneck", "none", ""]),
}  # fmt: skip


@st.composite
def words(draw: Any, *fixed: Any, **options: Any) -> tuple[str, ...]:
    """Draw the words of a command, with up to two options; an option of True is a switch."""
    found = [word if isinstance(word, str) else draw(word) for word in fixed]
    for name in draw(st.lists(pick(sorted(options)), max_size=2, unique=True)) if options else ():
        value, flag = options[name], "--" + name.replace("_", "-")
        found.append(flag if value is True else f"{flag}={draw(value)}")
    return tuple(found)


LOOK = st.one_of(
    words("status", IN_SWEEP, filter=OPTION["filter"], tag=OPTION["tag"]),
    words("watch", IN_SWEEP), words("cancel", IN_SWEEP, now=True),
    words("logs", IN_SWEEP, pick(["@ID0", "@ID9",
        "@ID11"]) | TEXTS.filter(lambda t: not t.startswith("-"))),
    words("clean", IN_SWEEP), words("clean", IN_SWEEP, dry_run=True),
)  # fmt: skip
if importlib.util.find_spec("tensorboard"):
    LOOK |= words("export", IN_SWEEP, pick(["--to=tensorboard"]), again=True)
TRAIN = words(
    "sweep", "spec.toml", pick(["--dry-run", "--in-process"]), filter=OPTION["filter"],
    tag=OPTION["tag"], set=OPTION["set"],
    scale=OPTION["scale"], budget_flops=OPTION["budget-flops"], budget_hours=OPTION["budget-hours"],
    price=OPTION["price"],
)  # fmt: skip

OURS = ("run_id", "status", "N", "D", "C", "B", "S", "L")
THEIRS = {
    OURS: "", ("N", "D", "L"): "", ("params", "tokens", "loss"): "params=N,tokens=D,loss=L",
    ("Name", "ID", "State", "n_params", "train/tokens",
        "val/loss"): "n_params=N,train/tokens=D,val/loss=L",
    ("run_id", "S", "N", "D", "C", "L"): "", ("Step", "a - val/loss", "b - val/loss",
        "b - val/loss__MIN"): "",
    ("n_layers", "d_model", "batch", "seq_len", "max_steps",
        "val_loss"): "1e3*d_model=N,batch*seq_len*max_steps=D,val_loss=L",
    ("L", "L", "N"): "", (): "",
}  # fmt: skip
"""{columns of a table: the --map that makes them ours}"""


def _cell(column: str, row: int) -> Any:
    N, D = 10.0 ** (3 + row % 5), 10.0 ** (5 + row // 5)
    kind = column.lower()
    if "loss" in kind or column == "L":
        return 1.7 + 40 / N**0.4 + 90 / D**0.5
    known = {
        "status": "ok",
        "state": "finished",
        "c": 6 * N * D,
        "b": 4096,
        "s": D // 4096 + 1,
        "step": row,
    }
    is_N, is_D = kind == "n" or "params" in kind, kind == "d" or "token" in kind
    return (
        N
        if is_N
        else D
        if is_D
        else known.get(kind, f"r{row}" if kind in ("run_id", "id", "name") else 4)
    )


@st.composite
def tables(draw: Any) -> tuple[str, bytes, str]:
    """Draw (name, content, map) of a table of runs that is good except for some cells."""
    columns, number = draw(pick([OURS, *THEIRS])), draw(pick([20, 20, 20, 5, 1, 0]))
    rows = [[_cell(column, row) for column in columns] for row in range(number)]
    for row, column, value in draw(
        st.lists(st.tuples(st.integers(0, 19), st.integers(0, 9), VALUES), max_size=4)
    ):
        if row < len(rows) and columns:
            rows[row][column % len(columns)] = value
    for row in draw(st.lists(st.integers(0, 19), max_size=2)):
        rows += rows[row : row + 1]
    kind = draw(pick([".csv", ".csv", ".csv", ".tsv", ".jsonl", ".json", ".parquet"]))
    if kind == ".parquet":
        table = (
            pd.DataFrame(rows, columns=pd.Index(columns).drop_duplicates()[: len(columns)])
            if len(set(columns)) == len(columns)
            else pd.DataFrame()
        )
        with contextlib.suppress(Exception):  # cells of several types
            return f"t{kind}", table.to_parquet(), THEIRS[columns]
        kind = ".jsonl"
    if kind in (".jsonl", ".json"):
        lines = [dict(zip(columns, row, strict=True)) for row in rows]
        text = json.dumps(lines) if kind == ".json" else "\n".join(map(json.dumps, lines))
    else:
        separator = "\t" if kind == ".tsv" else draw(pick([",", ",", ",", ",", ";", "|"]))
        file = io.StringIO()
        csv.writer(file, delimiter=separator).writerows([columns, *rows])
        text = file.getvalue() + draw(
            pick(["", "", "", "", "\n\n", ",,,\n", '"', "a,b,c,d,e,f,g,h,i,j,k,l\n"])
        )
    coding = draw(pick(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    data = text.encode(coding, "replace" if coding == "latin-1" else "surrogatepass")
    at = draw(st.floats(0, 1)) if draw(st.integers(0, 9)) == 9 else 1.0
    return f"t{kind}", data[: int(at * len(data))], THEIRS[columns]


BOOT = pick(["0", "3"])
SIZES = pick(["1e12", "1e6", "1e-300", "1e308", "0", "-1", "nan", "inf", "1e400", "1"])
LEVEL, MAP, LAW, WHERE = (OPTION[name] for name in ("level", "map", "law", "where"))
ANALYSE = st.one_of(
    words("fit", "@T", law=LAW, map=MAP, where=WHERE, level=LEVEL, bootstrap=BOOT,
        json=True, latex=True,
          objective=pick(["huber", "ls", "lad"]), on=pick(["log", "raw"]),
          intervals=pick(["bootstrap", "residual", "wild", "delta"]),
          delta=SIZES, cluster=COLUMNS, seed=pick(["0", "-1", "99999999999999"])),
    words("frontier", "@T", pick([f"--bootstrap={n}" for n in (0, 3)]), map=MAP,
        level=LEVEL, json=True,
          method=pick(["envelope", "isoflop", "akima", "parametric", "kaplan"]), law=LAW,
          tolerance=SIZES, latex=True,
          params=pick(["N_total", "N_kaplan", "N_head", "d_model", "x"]),
          flops=pick(["6 N_total D", "C_kaplan", "C_matmul", "6 x D", "x"])),
    words("plan", "@T", st.builds("--{}={}".format, pick(["flops", "params", "tokens", "loss"]),
        SIZES), map=MAP, level=LEVEL, json=True,
          law=LAW, inference_tokens=SIZES, unique_tokens=SIZES, gpus=SIZES, hours=SIZES, mfu=SIZES),
    words("validate", "@T", "--bootstrap=3", map=MAP, law=LAW, by=COLUMNS, level=LEVEL, where=WHERE,
        json=True, against=LAW),
    words("design", "@T", "--bootstrap=3", pick(["--budget=1e12", "--budget=1e-300", "--budget=nan",
        "--budget=1e20"]), map=MAP, law=LAW,
          target=pick(["a", "alpha", "L@1e18", "N@nan", "N@-1", "L@", "x"]), out=pick(["new.toml"]),
          noise=SIZES, level=LEVEL, json=True,
          most_runs=pick(["0", "1", "5"])),
)  # fmt: skip
PAGES = st.one_of(
    words("summary", IN_SWEEP), words("report", IN_SWEEP),
    words("figure", pick(["kaplan1", "frontier", "isoflop", "again", "x"]), IN_SWEEP),
)  # fmt: skip


FOLDERS_OF_OTHERS = st.one_of(
    DAMAGES,
    DAMAGES,
    DAMAGES,
    st.builds(lambda damage, manifest: (*damage, manifest), DAMAGES, OTHER_MANIFEST),
)


@st.composite
def looks(draw: Any) -> Case:
    """Draw a foreign or damaged folder, and a command that looks at it or cleans it."""
    return Case(draw(LOOK), draw(FOLDERS_OF_OTHERS))


@st.composite
def sweeps(draw: Any) -> Case:
    command, damage = draw(TRAIN), draw(DAMAGES)
    return Case(command, damage, {"spec.toml": draw(SPECS)} if draw(st.booleans()) else {})


@st.composite
def analyses(draw: Any) -> Case:
    command = draw(ANALYSE)
    if draw(st.integers(0, 3)) == 0:
        return Case(tuple(w.replace("@T", IN_SWEEP) for w in command), draw(FOLDERS_OF_OTHERS))
    name, data, to_ours = draw(tables())
    if to_ours and draw(st.integers(0, 9)):
        command = (*(w for w in command if not w.startswith("--map")), f"--map={to_ours}")
    return Case(tuple(w.replace("@T", name) for w in command), (), {name: data})


pages = st.builds(Case, PAGES, FOLDERS_OF_OTHERS)
KINDS = {
    "looks": (looks(), 100),
    "sweeps": (sweeps(), 40),
    "analyses": (analyses(), 30),
    "pages": (pages, 3),
}
"""{kind: (strategy, number of examples that take some seconds)}"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    memory = Path("/dev/shm")  # thousands of small files come and go
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_CACHE", str(folder / "cache"))
        patch.setenv("SCALING_DEBUG", "1")  # a bug is raised
        patch.setattr(
            Machine, "measure", lambda self, runs, compiled=False: {}
        )  # would start child processes
        yield World(folder)
    shutil.rmtree(folder, ignore_errors=True)


def check(world: World, case: Case) -> None:
    if "--in-process" in case.words:
        spec = case.files.get("spec.toml", SPEC)
        changed = any(word.startswith(("--set", "--scale")) for word in case.words)
        if changed or not cheap(world, str(spec)):
            case = Case(
                tuple(w.replace("--in-process", "--dry-run") for w in case.words),
                case.damage,
                case.files,
            )
    world.check(case)


MANIFEST = json.dumps({"name": "x", "spec": SPEC.replace("model.n_layer",
    "model.family = 'evil.py:X'\nmodel.n_layer")})  # fmt: skip
KNOWN = {
    "an id is a path": Case(("clean", IN_SWEEP), (("set_row", 0, "run_id", "@OUT"),)),
    "an id leads up": Case(("clean", IN_SWEEP), (("set_row", 0, "run_id", "../../../../out"),)),
    "no id": Case(("clean", IN_SWEEP), (("set_row", 0, "run_id", ""),)),
    "an empty row": Case(("clean", IN_SWEEP), (("add_line", "runs.csv", 3,
        "," * (len(COLUMNS_OF_RUNS) - 1)),)),
    "a run that is a link": Case(("clean", IN_SWEEP), (("lead_out", "runs/@ID1", "@OUT/moved"),)),
    "a lock that is a link": Case(("clean", IN_SWEEP), (("link", "lock", "@OUT/keep.txt"),)),
    "a strange folder as a run": Case(("status", IN_SWEEP), (("link", "runs/x", "@OUT/folder"),)),
    "a run trained elsewhere": Case(("sweep", "spec.toml", "--in-process"),
        (("lead_out", "runs/@ID10", "@OUT/moved"),)),
    "code in a manifest": Case(("status", IN_SWEEP), (("write", "manifest.json", MANIFEST),)),
    "code to be cleaned": Case(("clean", IN_SWEEP, "--dry-run"),
        (("write", "manifest.json", MANIFEST),)),
    "code elsewhere": Case(("sweep", "spec.toml", "--dry-run"), (),
        {"spec.toml": SPEC.replace("model.n_layer",
            "model.family = '@OUT/evil.py:X'\nmodel.n_layer")}),
    "a pipe": Case(("status", IN_SWEEP), (("remove", "runs.csv"), ("make_fifo",
        "runs/@ID1/result.json"))),
    "an endless file": Case(("logs", IN_SWEEP, "@ID0"), (("link", "manifest.json", "/dev/zero"),)),
    "N is a word": Case(("sweep", "spec.toml", "--in-process"),
        (("remove", "runs.csv"), ("set_json", "runs/@ID0/result.json", ("row", "N"), "abc"))),
    "seed is huge": Case(("sweep", "spec.toml", "--in-process"),
        (("remove", "runs.csv"), ("set_json", "runs/@ID0/result.json", ("row", "seed"), 1e30))),
    "a deep result": Case(("sweep", "spec.toml", "--in-process"),
        (("remove", "runs.csv"), ("write", "runs/@ID0/result.json", b"[" * 100_000))),
    "infinity in a table": Case(("status", IN_SWEEP), (("set_row", 0, "N", "inf"),)),
    "a list as config": Case(("logs", IN_SWEEP, "@ID10"),
        (("write", "runs/@ID10/config.json", b"[]"),)),
    "curves without ids": Case(("frontier", IN_SWEEP, "--bootstrap=0"),
        (("set_points", "curves.parquet", "run_id", "@DELETE"),)),
    "a level that is none": Case(("plan", IN_SWEEP, "--flops=1e9", "--level=nan")),
    "a line of another length": Case(("fit", "t.csv"), (), {"t.csv": "N,D,L\n1,2,3\n1,2,3,4\n"}),
    "a tag of two lines": Case(("status", IN_SWEEP, "--tag=a\nb")),
    "a deep spec": Case(("sweep", "spec.toml", "--dry-run"), (),
        {"spec.toml": SPEC.replace('"tiny"', "[" * 5000)}),
    "a scale that is a list": Case(("status", IN_SWEEP),
        (("write", "manifest.json", json.dumps({"spec": SPEC, "changes": {"scale": []}})),)),
    "a size by name": Case(("validate", IN_SWEEP, "--bootstrap=3", "--by=run_id")),
    "ids that are lists": Case(("fit", "t.jsonl"), (),
        {"t.jsonl": '{"run_id": [], "N": 1e3, "D": 1e5, "L": 4.5}\n'}),
    "a report of few sizes": Case(("report", IN_SWEEP)),
    "no intervals": Case(("frontier", IN_SWEEP, "--bootstrap=0")),
}  # fmt: skip
"""Cases that once went wrong."""


@pytest.mark.parametrize("name", KNOWN)
def test_known_cases_end_well(name: str, world: World) -> None:
    world.check(KNOWN[name])


@pytest.mark.parametrize("kind", KINDS)
def test_any_input_ends_well(kind: str, world: World) -> None:
    strategy, examples = KINDS[kind]
    share = float(os.environ.get("FUZZ_SECONDS", "0")) / len(KINDS)
    start, number = time.monotonic(), 0
    while True:
        begun = random.randrange(2**32) if share else 0

        @seed(begun)
        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=not share,
            print_blob=True,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
        )  # fmt: skip
        @given(case=strategy)
        def look(case: Case) -> None:
            nonlocal number
            number += 1
            check(world, case)

        try:
            look()
        except BaseException as error:
            error.add_note(f"{kind}: example {number}, of seed {begun}")
            raise
        if time.monotonic() - start >= share:
            break
    seconds = time.monotonic() - start
    print(f"{kind}: {number} examples in {seconds:.0f} s, {number / seconds:.1f} a second")
