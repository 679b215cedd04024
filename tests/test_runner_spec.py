"""Specs whose runs a command trains: keys, derived keys, sizes, identity, trust and the plan."""

import builtins
import math
import pickle
import shlex
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scaling import size
from scaling.cli.app import main
from scaling.command_run import CommandRun
from scaling.errors import ConfigError
from sweeps import Sweep
from sweeps.adaptive.families import family
from sweeps.adaptive.halving import rungs
from sweeps.folder_status import status
from sweeps.runner.derive import with_keys
from sweeps.runner.expressions import NotArithmetic, evaluate, names_in
from sweeps.runner.identity import Recorded
from sweeps.runner.runner import filled, placeholders
from sweeps.spec import Spec
from sweeps.sweep_plan import SweepPlan

PYTHON = shlex.quote(sys.executable)

SPEC = """
name = "mine"
[runner]
command = "python train.py --depth {depth} --lr {lr} --iters {steps} --out {folder}"
[runner.derived]
N = "12 * depth * (64 * depth)**2"
steps = "tokens / batch_tokens"
[base]
batch_tokens = 512
[axes]
depth = [1, 2]
lr = [1e-3, 1e-2]
tokens_per_parameter = [5, 20]
"""


def read(text: str, **changes) -> Spec:
    return Spec.from_text(text, changes=changes)


def spec_of(runner: str = "", keys: str = "", command: str = "train {x} {tokens}") -> Spec:
    return read(f'name = "s"\n[runner]\ncommand = "{command}"\n{runner}\n{keys}')


def error_of(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        spec_of(*args, **kwargs)
    return str(caught.value)


def run_of(*args, **kwargs) -> CommandRun:
    (run,) = spec_of(*args, **kwargs).runs
    assert isinstance(run, CommandRun)
    return run


AXES = "[base]\nx = 1\ntokens = 1000\n[axes]\nseed = [0]"


# ------------------------------------------------------------------ expressions

NUMBERS = st.one_of(
    st.integers(-50, 50), st.floats(-50, 50, allow_nan=False).map(lambda x: round(x, 3))
)


@st.composite
def arithmetic(draw, depth=4):
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(st.sampled_from(["a", "b", "c"]), NUMBERS.map(repr)))
    inner = arithmetic(depth - 1)
    kind = draw(st.sampled_from(["two", "sign", "parentheses", "one", "several"]))
    match kind:
        case "two":
            sign = draw(st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]))
            return f"({draw(inner)}) {sign} ({draw(inner)})"
        case "sign":
            return f"-({draw(inner)})"
        case "parentheses":
            return f"({draw(inner)})"
        case "one":
            name = draw(st.sampled_from(["round", "ceil", "floor", "sqrt", "log2", "abs", "int"]))
            return f"{name}({draw(inner)})"
    return f"{draw(st.sampled_from(['min', 'max']))}({draw(inner)}, {draw(inner)})"


@given(text=arithmetic(), a=NUMBERS, b=NUMBERS, c=NUMBERS)
@example(text="7 // -2 + 7 % -2 - -3**2", a=0, b=0, c=0)
@example(text="round(2.5) + round(3.5)", a=0, b=0, c=0)
def test_an_expression_has_the_value_that_it_has_in_python(text, a, b, c):
    keys = {"a": a, "b": b, "c": c}
    try:
        expected = eval(text, {**vars(builtins), **vars(math)}, keys)
    except (ArithmeticError, ValueError, TypeError):
        expected = None
    except MemoryError:
        return
    real = isinstance(expected, int | float) and math.isfinite(expected)
    try:
        found = evaluate(text, keys.__getitem__)
    except NotArithmetic:
        huge = isinstance(expected, int) and expected.bit_length() > 5000
        assert not real or huge
        return
    assert real and found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__import__('os').system('x')", "not arithmetic"),
        ("(1).__class__", "not the name of a key"),
        ("a if b else c", "not arithmetic"),
        ("[1, 2]", "not arithmetic"),
        ("'a' * 3", "not arithmetic"),
        ("f(1)", "no function 'f'"),
        ("sqr(1)", "Did you mean 'sqrt'?"),
        ("2 ^ 3", "written **"),
        ("1 +", "not an expression"),
        ("", "not an expression"),
        ("9 ** 9 ** 9", "thousands of digits"),
        ("(-8) ** 0.5", "not a real number"),
        ("1 / 0", "divides by zero"),
        ("10.0 ** 400", "too large"),
        ("round(1, ndigits=1)", "not arithmetic"),
        ("max()", "argument"),
        ("1j", "not arithmetic"),
        ("round(5, -99999999)", "digits"),
        ("(" * 5000, "characters"),
        ("-" * 1500 + "1", "nested too deeply"),
        ("x := 3", "not an expression"),
    ],
)
def test_what_is_not_arithmetic_is_refused(text, words):
    with pytest.raises(NotArithmetic, match=words.replace("*", r"\*")):
        evaluate(text, {"a": 1, "b": 2, "c": 3}.__getitem__)
        raise NotArithmetic("nested too deeply")  # versions of Python differ in what is too deep


def test_keys_may_have_dots_in_expressions():
    assert names_in("optim.lr * model.n_layer + x") == {"optim.lr", "model.n_layer", "x"}
    assert evaluate("optim.lr * 2", {"optim.lr": 0.5}.__getitem__) == 1.0


# ------------------------------------------------------------------ placeholders


def test_placeholders_are_keys_with_an_optional_format():
    values = {"lr": 1e-5, "o.lr": 0.1, "on": True, "n": 3, "text": "a b"}
    assert filled("{lr} {o.lr:.2e} {on} {n:03d} {text} {{x}}", values) == (
        "1e-05 1.00e-01 true 003 a b {x}"
    )
    assert placeholders("{a}{b.c:.2f}{{d}}") == ["a", "b.c"]
    for bad in ("{", "}", "{}", "{a!r}"):
        with pytest.raises(ValueError):
            placeholders(bad)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train {xx}", ["'xx'", "Did you mean 'x'?", "Keys are seed, tokens, x", "folder"]),
        ("train {foldr}", ["Did you mean 'folder'?"]),
        ("train {x", ["expected '}'", "{{ and }}"]),
        ("train {}", ["{name}"]),
        ("train {x:z}", ["format"]),
        ("train {folder:d}", ["format code 'd'"]),
        ("train {x:9999999999}", ["too wide"]),
        ("sh -c 'echo ${HOME}'", ["no key 'HOME'", "{{ and }}"]),
        ("train {x} > log", ["word of a shell", "'sh', '-c'"]),
        ("A=1 train {x}", ["env = { A = ... }"]),
        ("train 'x", ["close the quotes"]),
        ("", ["empty"]),
    ],
)
def test_a_command_that_cannot_be_filled_is_refused(command, words):
    message = error_of(keys=AXES, command=command)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_command_is_split_as_a_shell_does_and_values_stay_one_word():
    run = run_of(keys='[base]\nx = "a b"\ntokens = 1\n[axes]\nseed = [0]', command="t 'q r' {x}")
    assert run.command == ("t", "q r", "{x}")
    assert [filled(word, run.values) for word in run.command] == ["t", "q r", "a b"]
    listed = read(
        'name = "s"\n[runner]\ncommand = ["t", "q r", "{x}"]\n[base]\nx = "a b"\ntokens = 1\n'
        "[axes]\nseed = [0]"
    )
    assert listed.runs == (run,)


# ------------------------------------------------------------------ keys


def test_keys_are_typed_by_their_values_and_ranges_by_their_ends():
    spec = spec_of(
        keys='[base]\nx = "text"\non = true\ntokens = 1e6\no.b = 0.5\n[axes]\n'
        "width = { from = 64, to = 1024, num = 5 }\nlr = { from = 1e-3, to = 1e-1, num = 3 }"
    )
    assert len(spec.runs) == 15
    values = [run.values for run in spec.runs]
    assert {v["width"] for v in values} == {64, 128, 256, 512, 1024}
    assert all(type(v["width"]) is int and type(v["lr"]) is float for v in values)
    assert {v["lr"] for v in values} == {0.001, 0.01, 0.1}
    assert values[0]["tokens"] == 1_000_000 and type(values[0]["tokens"]) is int
    assert values[0]["o.b"] == 0.5 and values[0]["on"] is True
    assert "width" in spec.notes[0] and "'x'" not in spec.notes[0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("L = 1", ["'L'", "measured"]),
        ("status = 'ok'", ["'status'", "measured"]),
        ("D = 1", ["'tokens'"]),
        ("S = 1", ["'steps'"]),
        ("B = 1", ["'batch_tokens'"]),
        ("folder = 'x'", ["placeholder"]),
        ("n_layer = 'deep'", ["whole numbers"]),
        ("n_layer = 1.5", ["whole numbers"]),
        ("y = nan", ["finite"]),
        ("y = inf", ["finite"]),
        ("y = 99999999999999999999", ["2^63"]),
        ("y = [1, 2]", ["[axes]"]),
        ("y = 2020-01-01", ["must be a number, text"]),
        ("tokens_per_parameter = 20", ["both set D"]),
        ("tag = 3", ["must be text"]),
    ],
)
def test_a_key_that_would_clash_with_the_table_is_refused(keys, words):
    message = error_of(keys=AXES.replace("x = 1", f"x = 1\n{keys}"))
    assert all(word in message for word in words), message


def test_the_values_of_a_key_are_of_one_type():
    message = error_of(keys="[base]\ntokens = 1\n[axes]\nx = [1, 'a']")
    assert "text" in message and "a number" in message
    assert len(spec_of(keys="[base]\ntokens = 1\n[axes]\nx = [1, 0.5]").runs) == 2


def test_lists_of_tables_tie_keys_of_any_name():
    spec = spec_of(
        keys="[base]\ntokens_per_parameter = 2\n[axes]\n"
        "models = [{ x = 1, N = 100 }, { x = 2, N = 300 }]\nzip = [{ a = 1, b = 1 }]",
        command="train {x} {tokens} {a} {b}",
    )
    assert [(r.values["x"], r.N, r.D) for r in spec.runs] == [(1, 100, 200), (2, 300, 600)]
    assert not spec.notes


def test_sets_scales_changes_filters_and_tags_work_on_keys():
    text = (
        'name = "s"\n[runner]\ncommand = "t {x} {y}"\n[base]\ntokens = 10\ny = 1\n'
        '[[sets]]\nname = "a"\naxes.x = [1, 2]\n[[sets]]\nname = "b"\nbase.y = 5\naxes.x = [3]\n'
        "[scale.big]\nbase.tokens = 100\nrunner.resources.cpus = 2\n"
    )
    spec = read(text)
    assert [(r.tag, r.values["x"], r.values["y"]) for r in spec.runs] == [
        ("a", 1, 1), ("a", 2, 1), ("b", 3, 5),
    ]  # fmt: skip
    assert "tag" not in spec.runs[0].values
    assert [r.values["x"] for r in spec.select(["x<=2"]).runs] == [1, 2]
    assert [r.values["x"] for r in spec.select([], "b").runs] == [3]
    assert [r.values["x"] for r in spec.select(["y=5", "D=10"]).runs] == [3]
    with pytest.raises(ConfigError, match=r"no key 'z'.*Keys are"):
        spec.select(["z=1"])
    with pytest.raises(ConfigError, match="N of these runs is not known"):
        spec.select(["N>1"])
    with pytest.raises(ConfigError, match="is a number"):
        spec.select(["x=abc"])
    assert {run.values["y"] for run in read(text, y=7).runs} == {7}
    big = read(text, scale="big")
    assert big.name == "s-big" and big.runner and big.runner.cpus == 2 and big.runs[0].D == 100
    hours = read(text, **{"runner.timeout_hours": 2}).runner
    assert hours is not None and hours.timeout_seconds == 7200


# ------------------------------------------------------------------ derived keys, N and D


def test_budgets_become_tokens_in_whole_steps_when_N_is_known():
    spec = read(SPEC)
    assert len(spec.runs) == 8
    for run, ratio in zip(spec.runs, [5, 20] * 4, strict=True):
        assert isinstance(run, CommandRun) and run.N is not None
        depth = run.values["depth"]
        assert isinstance(depth, int) and 12 * depth * (64 * depth) ** 2 == run.N
        assert run.D % 512 == 0 and run.S == run.D // 512 == run.values["steps"]
        assert abs(run.D / run.N - ratio) < 0.01 * ratio
        assert size.flops_of(run) == 6 * run.N * run.D
    assert "tokens_per_parameter" not in spec.runs[0].values
    isoflop = SPEC.partition("[axes]")[0] + (
        "lr = 0.1\n[isoflop]\nC = [1e12, 1e13]\nmodels = [{ depth = 1 }, { depth = 2 }]\n"
    )
    runs = read(isoflop).runs
    assert all(size.flops_of(r) == pytest.approx(C, rel=0.01) for r, C in zip(
        runs, [1e12, 1e12, 1e13, 1e13], strict=True))  # fmt: skip
    assert set(read(isoflop).budgets.values()) == {1e12, 1e13}


def test_a_budget_may_be_a_placeholder_of_the_command():
    run = run_of(
        keys="[base]\ntokens_per_parameter = 20\n[axes]\nN = [100]",
        command="train {tokens_per_parameter} {N}",
    )
    assert (run.D, run.values["tokens_per_parameter"]) == (2000, 20)


def test_tokens_may_be_derived():
    run = run_of(
        "[runner.derived]\ntokens = 'steps * batch * 1024'\nb = 'batch * 1024'\n"
        "[runner.roles]\nbatch_tokens = 'b'",
        "[base]\nbatch = 4\nx = 1\n[axes]\nsteps = [100]",
    )
    assert (run.D, run.batch_tokens, run.S) == (409600, 4096, 100)


@pytest.mark.parametrize(
    ("runner", "keys", "words"),
    [
        ("", "[base]\nx = 1\n[axes]\nseed = [0]", ["D is not known", "[runner.derived]"]),
        ("", "[base]\nx = 1\n[axes]\nflops = [1e9]", ["flops", "N", "`count`"]),
        ("[runner.derived]\na = 'b'\nb = 'a'", AXES, ["depends on itself", "a -> b -> a"]),
        ("[runner.derived]\na = 'xx'", AXES, ["no key 'xx'", "Did you mean 'x'?"]),
        ("[runner.derived]\na = 'x +'", AXES, ["a='x +'", "not an expression"]),
        ("[runner.derived]\na = '1 / (x - 1)'", AXES, ["divides by zero", "x=1"]),
        ("[runner.derived]\nsteps = 'tokens / 7'", AXES, ["142.857", "round(tokens / 7)"]),
        ("[runner.derived]\nN = 'x / 2'", AXES, ["0.5", "whole"]),
        ("[runner.derived]\nN = '-x'", AXES, ["positive whole number"]),
        ("[runner.derived]\nx = '1'", AXES, ["'x'", "keep one of them"]),
        ("[runner.derived]\nL = '1'", AXES, ["'L'", "measured"]),
        ("[runner.derived]\ntokens = '7'", AXES, ["'tokens'", "keep one"]),
        ("[runner.derived]\nflops = '7'", AXES, ["derive 'tokens'"]),
        ("[runner.derived]\nN = '1e30'", AXES, ["2^63"]),
        ("[runner.derived]\na = 'seed * x * 1e999'", AXES, ["its value is"]),
        ("[runner.roles]\nlr = 'rate'", AXES, ["no key 'rate'"]),
        ("[runner.roles]\nrate = 'x'", AXES, ["unknown key 'rate'"]),
        ("", AXES.replace("[0]", "[0]\nbatch_tokens = [0]"), ["positive whole number"]),
    ],
)  # fmt: skip
def test_what_cannot_be_derived_names_the_value_and_the_cure(runner, keys, words):
    message = error_of(runner, keys)
    assert all(word in message for word in words), message


def test_N_is_given_once_and_for_all_runs():
    twice = error_of("[runner.derived]\nN = '100 * x'\n", AXES.replace("x = 1", "x = 1\nN = 5"))
    assert "'N' is given here and in [runner.derived]" in twice
    some = (
        "[base]\ntokens = 5\n[[sets]]\nname = 'a'\naxes.x = [1]\nbase.N = 3\n"
        "[[sets]]\nname = 'b'\naxes.x = [2]"
    )
    assert "some runs and not for others" in error_of(keys=some)


def test_without_N_progress_counts_tokens_and_never_shows_nan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = spec_of(keys="[base]\ntokens = 1000\n[axes]\nx = [1, 2]", command=f"{PYTHON} {{x}}")
    assert spec.runs[0].N is None and math.isnan(size.flops_of(spec.runs[0]))
    plan = Sweep(spec).plan(workers=1)
    assert "nan" not in str(plan) and "2k tokens" in str(plan) and "FLOPs" not in plan.amount
    with pytest.raises(ConfigError, match="budget-flops"):
        Sweep(spec).run(budget_flops=1e9, in_process=True)


# ------------------------------------------------------------------ count


def counting(tmp_path, script: str) -> str:
    (tmp_path / "count.py").write_text(script)
    return f"""
name = "counted"
[runner]
command = "{PYTHON} train.py {{depth}} {{tokens}}"
count = "{PYTHON} count.py --depth {{depth}}"
code = ["count.py"]
[base]
tokens_per_parameter = 20
[axes]
depth = [1, 2]
seed = [0, 1]
"""


COUNT = """
import pathlib, sys
log = pathlib.Path("calls.txt")
log.write_text((log.read_text() if log.exists() else "") + "x")
print("model with 3 heads\\nparameters:", f"{1_000 * int(sys.argv[2]):,}")
"""


def test_N_is_counted_once_per_command_and_recalled_from_the_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counted.toml").write_text(counting(tmp_path, COUNT))
    sweep = Sweep.from_toml("counted.toml")
    assert [run.N for run in sweep.spec.runs] == [1000, 1000, 2000, 2000]
    assert [run.values["N"] for run in sweep.spec.runs][:1] == [1000]
    calls = tmp_path / "calls.txt"
    assert calls.read_text() == "xx"
    record(sweep)
    again = Sweep.from_toml("counted.toml")
    assert again.spec.runs == sweep.spec.runs and calls.read_text() == "xx"
    state = status("results/counted")
    assert state.missing == 4 and state.unit == "FLOPs" and calls.read_text() == "xx"
    (tmp_path / "count.py").write_text(COUNT + "\n# changed")
    assert Sweep.from_toml("counted.toml").spec.runs[0] != sweep.spec.runs[0]
    assert calls.read_text() == "xxxx"
    (tmp_path / "count.py").unlink()
    state = status("results/counted")
    assert state.missing == 4 and not state.notes


def record(sweep: Sweep, *finished: str) -> None:
    """Write the manifest of a sweep as a call that trains does, without training."""
    spec = sweep.spec
    sweep.store.write_manifest(
        {"name": spec.name, "spec": spec.text, "changes": spec.changes,
         "runner": spec.recorded.record()}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("print('none')", ["printed no number", "none"]),
        ("import sys; sys.exit('no module')", ["exit code 1", "no module"]),
        ("print(-1); print('N = 0')", ["not a size"]),
        ("print('1.5M')", ["printed no number"]),
        ("print(1.5)", ["not a size"]),
    ],
)
def test_a_count_that_fails_is_one_clear_error(tmp_path, monkeypatch, script, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counted.toml").write_text(counting(tmp_path, script))
    with pytest.raises(ConfigError) as caught:
        Spec.from_toml("counted.toml")
    assert all(word in str(caught.value) for word in [*words, "count"]), caught.value
    assert "\n" not in str(caught.value)


def test_a_count_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweeps.runner.count._SECONDS", 0.5)
    (tmp_path / "counted.toml").write_text(counting(tmp_path, "import time; time.sleep(60)"))
    with pytest.raises(ConfigError, match="did not end within"):
        Spec.from_toml("counted.toml")


def test_a_count_is_not_executed_for_text_of_unknown_origin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = counting(tmp_path, COUNT)
    with pytest.raises(ConfigError, match="only `scaling sweep` executes it"):
        Spec.from_text(text)
    assert not (tmp_path / "calls.txt").exists()


# ------------------------------------------------------------------ identity


def test_the_identity_is_the_command_its_keys_and_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("1")
    text = SPEC.replace("[runner.derived]", 'code = ["a.py"]\n[runner.derived]')
    (tmp_path / "mine.toml").write_text(text)
    ids = set(Spec.from_toml("mine.toml").by_id)
    assert ids == set(Spec.from_toml("mine.toml").by_id) and len(ids) == 8
    # How a run is executed and how keys are derived does not identify it.
    other = text.replace("[runner.derived]", "timeout_hours = 1\n[runner.derived]\nz = '1'")
    (tmp_path / "mine.toml").write_text(other)
    assert set(Spec.from_toml("mine.toml").by_id) == ids
    for old, new in (("--out", "--output"), ("lr = [1e-3, 1e-2]", "lr = [2e-3, 3e-2]")):
        (tmp_path / "mine.toml").write_text(text.replace(old, new))
        assert not set(Spec.from_toml("mine.toml").by_id) & ids
    (tmp_path / "mine.toml").write_text(text)
    (tmp_path / "a.py").write_text("2")
    assert not set(Spec.from_toml("mine.toml").by_id) & ids
    (tmp_path / "a.py").unlink()
    with pytest.raises(ConfigError, match=r"code: 'a\.py' cannot be read"):
        Spec.from_toml("mine.toml")


def test_a_number_identifies_a_run_however_it_is_written():
    one, same = (run_of(keys=AXES.replace("x = 1", f"x = {x}")) for x in ("1", "1.0"))
    assert one.run_id == same.run_id and one == same and hash(one) == hash(same)
    assert one.run_id != run_of(keys=AXES.replace("x = 1", "x = true")).run_id
    assert pickle.loads(pickle.dumps(one)) == one


def test_equal_tokens_are_the_same_run_however_they_are_given():
    by_ratio = run_of(keys="[base]\nx = 1\nN = 100\n[axes]\ntokens_per_parameter = [20]")
    by_tokens = run_of(keys="[base]\nx = 1\nN = 100\n[axes]\ntokens = [2000]")
    assert by_ratio.run_id == by_tokens.run_id


def test_changed_code_is_said_and_same_code_keeps_the_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("1")
    command = f'command = "{PYTHON} a.py {{x}} {{tokens}}"\ncode = ["a.py"]'
    (tmp_path / "s.toml").write_text(
        f'name = "s"\n[runner]\n{command}\n[base]\ntokens = 5\n[axes]\nx = [1, 2]'
    )
    sweep = Sweep.from_toml("s.toml")
    record(sweep)
    rows = {run_id: {"status": "ok"} for run_id in sweep.spec.by_id} | {"other": {"status": "ok"}}
    (tmp_path / "a.py").write_text("2")
    changed = Sweep.from_toml("s.toml")
    (line,) = changed._remarks(rows)
    assert "a.py has changed" in line and "2 finished runs" in line and "--same-code" in line
    assert "\n" not in line and not set(changed.spec.by_id) & set(sweep.spec.by_id)
    kept = Sweep.from_toml("s.toml", same_code=True)
    assert kept.spec.by_id == sweep.spec.by_id and kept._remarks(rows) == ()
    from sweeps import SweepOptions

    assert kept.resume_command(SweepOptions()).endswith("--same-code")


def test_a_damaged_record_of_a_command_is_ignored():
    damaged = {"runner": {"code": {"a": "short", "b": 3}, "counts": {"x": "y", "z": -1, "w": True}}}
    assert Recorded.of(damaged) == Recorded() == Recorded.of({"runner": 5}) == Recorded.of({})


# ------------------------------------------------------------------ trust


def test_a_command_of_a_spec_elsewhere_is_shown_and_needs_the_users_word(
    tmp_path, monkeypatch, capsys
):
    there = tmp_path / "theirs"
    there.mkdir()
    text = counting(there, COUNT.replace("calls.txt", str(tmp_path / "calls.txt")))
    (there / "counted.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "theirs/counted.toml", "--dry-run"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "--allow-code theirs/counted.toml" in said
    assert "train.py" in said and "count.py" in said
    assert not (tmp_path / "calls.txt").exists()
    allowed = Sweep.from_toml("theirs/counted.toml", allow_code=["theirs/counted.toml"])
    assert (tmp_path / "calls.txt").read_text() == "xx"
    from sweeps import SweepOptions

    assert "--allow-code theirs/counted.toml" in allowed.resume_command(SweepOptions())
    (tmp_path / "link.toml").symlink_to(there / "counted.toml")
    with pytest.raises(ConfigError, match="outside the current folder"):
        Spec.from_toml("link.toml")


# ------------------------------------------------------------------ the plan and its checks


def test_the_dry_run_shows_sizes_budgets_and_remarks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = SPEC.replace("python", PYTHON).replace("[axes]", "label = 1\n[axes]")
    (tmp_path / "mine.toml").write_text(text)
    main(["sweep", "mine.toml", "--dry-run"])
    said = capsys.readouterr().out
    assert "8 runs: 8 to train" in said and "depth=1" in said and "49.2k" in said
    assert "does not use the key 'label'" in said and "in unknown time" in said


@pytest.mark.parametrize(
    ("runner", "literal"),
    [
        ('command = "python $HOME/train.py {tokens}"', "$HOME/train.py"),
        ('command = "python ~/train.py {tokens}"', "~/train.py"),
        (
            'command = "python train.py {tokens}"\nenv = { DATA = "${{SCRATCH}}/data" }',
            "${{SCRATCH}}/data",
        ),
        ("""command = ["sh", "-c", "python $HOME/train.py {tokens}"]""", ""),
        ("""command = ["sh", "-c", "python $1 {tokens}", "sh", "$x"]""", ""),
        ('command = "python train.py --price 5$ {tokens}"', ""),
    ],
)
def test_a_variable_that_nothing_replaces_is_remarked_on(runner: str, literal: str):
    spec = read(f"name = 'x'\n[runner]\n{runner}\n[axes]\ntokens = [1000]\n")
    assert (f"no shell reads {literal!r}" in " ".join(spec.notes)) == bool(literal)


def test_each_run_of_a_command_is_a_job_with_its_runner():
    spec = read(SPEC)
    plan = Sweep(spec).plan(workers=2)
    assert len(plan.jobs) == 8 and all(len(job.runs) == 1 for job in plan.jobs)
    assert all(job.runner is spec.runner for job in plan.jobs)
    assert isinstance(plan, SweepPlan) and plan.costs.samples == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"command": "no-such-program {x} {tokens}"}, ["'no-such-program'", "PATH"]),
        ({"command": "./none.sh {x} {tokens}"}, ["'./none.sh'", "not found"]),
        ({"runner": "workdir = 'nowhere'"}, ["nowhere", "not a folder"]),
        ({"runner": "[runner.resources]\ngpus = 64"}, ["gpus=64", "--address"]),
        ({"runner": "[runner.resources]\ncpus = 5000"}, ["cpus=5000", "cores"]),
        ({"runner": "[runner.resources]\nnodes = 2"}, ["nodes=2", "--address"]),
    ],
)
def test_what_the_machine_lacks_is_found_before_anything_starts(
    tmp_path, monkeypatch, change, words
):
    monkeypatch.chdir(tmp_path)
    spec = spec_of(keys=AXES, **change)
    with pytest.raises(ConfigError) as caught:
        Sweep(spec).plan(workers=1, measure=True)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("option", ["compile", "shard", "recompute"])
def test_options_of_our_own_trainer_are_refused(option):
    with pytest.raises(ConfigError, match=f"--{option} is for our own trainer"):
        Sweep(read(SPEC)).plan(**{option: True})


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        ("comand = 'x'", "Did you mean 'command'?"),
        ("timeout_hours = -1", "timeout_hours=-1"),
        ("timeout_hours = true", "timeout_hours=True"),
        ("grace_seconds = -2", "grace_seconds=-2"),
        ("code = 'a.py'", "list of texts"),
        ("code = ['a\\u0000']".replace("'", '"'), "NUL"),
        ('workdir = "a\\u0000"', "NUL"),
        ("workdir = '~nobody-of-this-name/a'", "cannot be used"),
        ("env = { A = [1] }", "must be text"),
        ("env = { A = '{nope}' }", "no key 'nope'"),
        ("[runner.resources]\ngpus = 1.5", "fraction of one GPU"),
        ("[runner.resources]\nnodes = 0", "nodes=0"),
        ("[runner.results]\ntracker = 'wandbb'", "Did you mean 'wandb'?"),
        ("[runner.results]\nlog = { L = 'loss [0-9]+' }", "needs a group"),
        ("[runner.results]\nlog = { L = 'loss (' }", "regular expression"),
        ("[runner.results]\nfile = 3", "must be text"),
        ("[runner.failures]\nexit_codes = { 75 = 'gone' }", "'gone' is none of"),
        ("[runner.failures]\nexit_codes = { abc = 'failed' }", "not an exit code"),
        ("[runner.failures]\ndiverged = ['(']", "regular expression"),
    ],
)
def test_a_mistake_in_the_table_of_the_runner_is_named(runner, words):
    assert words in error_of(runner, AXES)


def test_the_table_of_the_runner_is_read():
    runner = spec_of(
        "timeout_hours = 0.5\nenv = { A = 1, B = '{x}' }\n"
        "[runner.resources]\ngpus = 0.5\ncpus = 2\n"
        "[runner.results]\nfile = 'r.json'\nlog = { L = 'loss ([0-9.]+)', '*' = '(?P<S>.)' }\n"
        "columns = { L = 'val' }\n[runner.failures]\ndiverged = 'nan'\n"
        "exit_codes = { 75 = 'preempted' }",
        AXES,
    ).runner
    assert runner is not None and runner.timeout_seconds == 1800
    assert (runner.gpus, runner.cpus, runner.nodes) == (0.5, 2.0, 1)
    assert runner.env == {"A": "1", "B": "{x}"}
    assert runner.results.columns == {"L": "val"} and runner.results.file == "r.json"
    assert runner.failures.diverged == ("nan",)
    assert runner.failures.exit_codes == {"75": "preempted"}


@pytest.mark.parametrize("section", ["tasks = ['agree']", "[execution]\nkeep_weights = true"])
def test_sections_of_our_own_trainer_are_refused(section):
    text = f"{section}\n{SPEC}" if section[0] != "[" else f"{SPEC}\n{section}"
    with pytest.raises(ConfigError, match=r"does not go with \[runner\]"):
        read(text)


@pytest.mark.parametrize(
    "change", ["execution.keep_weights", "runner.timeout_hours.x", "runner.nothing"]
)
def test_a_change_that_does_not_fit_the_runner_is_refused(change):
    with pytest.raises(ConfigError, match=change.rpartition(".")[2]):
        read(SPEC.replace("[runner]", "[runner]\ntimeout_hours = 1"), **{change: True})


# ------------------------------------------------------------------ searches


def test_the_learning_rate_of_a_command_is_searched_by_its_role():
    text = SPEC.replace("lr = [1e-3, 1e-2]", "rate = [1e-2]").replace("{lr}", "{rate}")
    text = text.replace("[runner.derived]", "[runner.derived]\nleast = 'rate / 10'")
    spec = read(f"{text}[runner.roles]\nlr = 'rate'\n[until]\nlr = {{ within = 1.5 }}")
    growth = spec.designed({})
    first = [run for run in growth.runs.values() if isinstance(run, CommandRun)]
    assert {run.values["rate"] for run in first} == {0.0025, 0.01, 0.04}
    assert all(run.values["least"] == pytest.approx(run.values["rate"] / 10) for run in first)
    assert len({family(run) for run in first}) == 2  # of the smaller size, at two horizons
    rows = {}
    for _ in range(40):
        new = [r for run_id, r in spec.designed(rows).runs.items() if run_id not in rows]
        if not new:
            break
        for run in new:
            L = 3 + math.log(run.values["rate"] / 0.02) ** 2
            rows[run.run_id] = {"status": "ok", "L": L, "D": run.D, "S": run.S}
    notes = spec.designed(rows).notes
    assert len(notes) == 4 and all("best lr 0.0" in note and "N=" in note for note in notes)


def test_seeds_are_added_by_the_key_of_the_seed():
    spec = read(
        SPEC.replace("[base]", "[base]\nseed = 3")
        + "[until]\ninterval = { add = 'seeds', width = 0.1, seeds = 2 }"
    )
    rows = {run_id: {"status": "ok", "L": 3.0} for run_id in spec.by_id}
    runs = spec.designed(rows, lambda options, rows: 1.0).runs
    assert len(runs) == 16 and {run.seed for run in runs.values()} == {3, 4}


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ("isoflop = {}", "only the command knows how its models are built"),
        ("interval = { width = 0.1 }", "add = 'seeds'"),
        ("interval = { width = 0.1, add = 'seeds' }", "the key 'seed'"),
        ("forecast = { N = 1e6, D = 1e6 }", "schedules"),
    ],
)
def test_searches_that_need_our_own_models_are_refused_with_a_reason(until, words):
    with pytest.raises(ConfigError) as caught:
        read(f"{SPEC}[until]\n{until}")
    assert words in str(caught.value)


def test_a_search_needs_the_key_of_the_learning_rate():
    text = SPEC.replace("lr = [1e-3, 1e-2]", "rate = [1e-2]").replace("{lr}", "{rate}")
    with pytest.raises(ConfigError, match=r"key 'lr'.*\[runner.roles\] lr"):
        read(f"{text}[until]\nlr = {{}}")
    with pytest.raises(ConfigError, match="batch_tokens"):
        read(
            'name = "s"\n[runner]\ncommand = "t {lr}"\n[base]\ntokens = 10\n[axes]\nlr = [1.0]\n'
            "[until]\nlr = { halving = 2 }"
        )
    run = read(SPEC).runs[0]
    assert isinstance(run, CommandRun) and rungs(run) == (run.S // 4, run.S // 2)


def test_a_change_of_a_key_derives_the_others_again():
    run = run_of(
        "[runner.derived]\ny = '2 * x'\nz = 'y + 1'\nN = '100'", AXES, command="t {x} {y} {z}"
    )
    new = with_keys(run, {"x": 5})
    assert (new.values["y"], new.values["z"], new.N, new.D) == (10, 11, 100, 1000)
    assert new.run_id != run.run_id
