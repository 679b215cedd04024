"""`scaling eval`: which runs and tasks it evaluates, what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small import call

from scaling import table as runs_table
from scaling import weights
from scaling.abilities import evaluate as evaluate_module
from scaling.abilities import in_context, table
from scaling.abilities.evaluate import evaluate
from scaling.config import RunConfig, from_dict
from scaling.data.corpus import prepare
from scaling.errors import ConfigError, TableError
from scaling.model import build
from sweeps import Sweep
from sweeps.spec import Spec
from sweeps.store import Store


def keep(results: Path, run: RunConfig) -> str:
    """Write random weights of a run into a results folder, as training does; return the run's
    id."""
    files = prepare(run.data)
    model = build(run.model, files.vocab_size)
    folder = results / "runs" / run.run_id
    folder.mkdir(parents=True)
    row = {"run_id": run.run_id, "N": model.count().N, "D": run.D, "C": 1.0, "L": 5.0, "S": 1}
    weights.save(
        folder, run=run, model=model, flat_p=model.init([run.seed])[0],
        tokenizer=files.tokenizer, row=row,
    )  # fmt: skip
    return run.run_id


def config(n_ctx: int = 128, **values) -> RunConfig:
    return from_dict(
        {
            "model": {"n_layer": 1, "d_model": 8, "n_head": 1, "n_ctx": n_ctx},
            "data": {"corpus": "corpus.txt", "tokenizer": "bpe-300"},
            "eval.test_tokens": n_ctx * 16,
            "batch_tokens": n_ctx * 4,
            "tokens": n_ctx * 8,
        }
        | values
    )


@pytest.fixture
def results(here) -> Path:
    """A results folder with two runs of one tokenizer that kept their weights."""
    folder = Path("results/small")
    for seed in (0, 1):
        keep(folder, config(seed=seed))
    return folder


def evaluated(capsys, *words) -> dict:
    capsys.readouterr()
    assert call("eval", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *words) -> str:
    """The one line of a refused command line."""
    capsys.readouterr()
    assert call("eval", *words) == 2
    (line,) = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("scaling: ") and not line.startswith("scaling: note")
    ]
    return line


# ------------------------------------------------------------------ what is evaluated


def test_runs_are_evaluated_on_tasks_and_the_table_has_its_columns(results, capsys):
    found = evaluated(capsys, results, "--tasks", "agree,swap,copy", "--shots", "0,1")
    assert found["evaluated"] == 2 * 4  # agree, swap, and copy twice
    stored = pd.read_parquet(results / "tasks.parquet")
    wanted = "run_id task version shots metric n value stderr nll bits_per_byte p_gold chance"
    assert list(stored)[:12] == wanted.split()
    assert len(stored) == len(found["rows"]) == 2 * 4 * 7
    assert set(stored.task) == {"agree", "swap", "copy"} and stored.run_id.nunique() == 2
    accuracy = stored[stored.metric.str.startswith("accuracy")]
    assert accuracy.value.between(0, 1).all() and (accuracy.stderr > 0).all()
    assert set(stored[stored.task == "copy"].shots) == {0, 1}
    assert not (results / f".{table.FILE}.{0}").exists()
    chance = stored[stored.main].set_index("task").chance
    assert chance["agree"].tolist() == [0.5, 0.5] and set(chance["copy"]) == {0.25}


def test_random_weights_are_at_chance(results, capsys):
    found = evaluated(capsys, results, "--tasks", "agree,last_word,reverse")
    for row in found["rows"]:
        if row["main"]:
            assert abs(row["value"] - row["chance"]) < 5 * row["stderr"] + 0.02, row


def test_what_is_there_is_not_evaluated_again(results, capsys, monkeypatch):
    first = evaluated(capsys, results, "--tasks", "agree")
    scored = []
    real = evaluate_module.score
    monkeypatch.setattr(evaluate_module, "score", lambda *a, **k: scored.append(1) or real(*a, **k))
    second = evaluated(capsys, results, "--tasks", "agree")
    assert second["evaluated"] == 0 and not scored and second["rows"] == first["rows"]
    more = evaluated(capsys, results, "--tasks", "agree,swap")
    assert more["evaluated"] == 2 and len(scored) == 2
    again = evaluated(capsys, results, "--tasks", "agree", "--again")
    assert again["evaluated"] == 2 and len(scored) == 4
    stored = pd.read_parquet(results / "tasks.parquet")
    assert not stored.duplicated(["run_id", "task", "version", "shots", "metric"]).any()
    assert len(stored) == 2 * 2 * 7


def test_one_run_is_chosen_by_its_id_or_given_by_its_folder(results, capsys):
    run_id = config(seed=1).run_id
    found = evaluated(capsys, results, "--tasks", "agree", "--run", run_id[:6])
    assert {row["run_id"] for row in found["rows"]} == {run_id}
    folder = results / "runs" / run_id
    alone = evaluated(capsys, folder, "--tasks", "agree")
    assert alone["rows"] == found["rows"] and (folder / "tasks.parquet").is_file()
    capsys.readouterr()
    assert call("eval", folder, "--tasks", "agree") == 0
    assert "agree: accuracy_sum 0." in capsys.readouterr().out


def test_items_are_the_same_for_runs_of_another_tokenizer_context_and_family(results, capsys):
    keep(results, config(256, data={"corpus": "corpus.txt", "tokenizer": "bytes"}))
    keep(results, config(64, model={"family": "lstm", "n_layer": 1, "d_model": 8, "n_ctx": 64}))
    found = evaluated(capsys, results, "--tasks", "agree,article,next_sentence_pair")
    versions = {(row["task"], row["version"]) for row in found["rows"]}
    assert len(versions) == 3 and len({row["run_id"] for row in found["rows"]}) == 4


def test_a_family_of_the_users_own_is_evaluated_once_its_code_is_allowed(
    results, own_family, capsys
):
    family = {"family": "my.py:Mean", "n_layer": 1, "d_model": 8, "n_ctx": 64}
    from scaling import size

    size.allow("my.py")
    run_id = keep(results, config(64, model=family))
    size._allowed.clear()
    assert "--allow-code" in refusal(capsys, results, "--tasks", "agree")
    found = evaluated(capsys, results, "--tasks", "agree", "--allow-code", "my.py")
    assert run_id in {row["run_id"] for row in found["rows"]}


def test_scores_of_the_command_are_those_of_python(results, capsys):
    found = evaluated(capsys, results, "--tasks", "swap")
    shutil.rmtree(results.parent / "other", ignore_errors=True)
    shutil.copytree(results / "runs", results.parent / "other" / "runs")
    again = evaluate(results.parent / "other", ["swap"]).table
    pd.testing.assert_frame_equal(
        pd.DataFrame(found["rows"]).fillna(np.nan), again, check_dtype=False
    )


def test_an_interrupted_evaluation_continues_where_it_stopped(results, capsys, monkeypatch):
    real, calls = evaluate_module.score, []

    def stops(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(evaluate_module, "score", stops)
    assert call("eval", results, "--tasks", "agree") == 130
    assert pd.read_parquet(results / "tasks.parquet").run_id.nunique() == 1
    assert evaluated(capsys, results, "--tasks", "agree")["evaluated"] == 1


SPEC = """
name = "named"
tasks = ["copy", "agree"]
[execution]
keep_weights = true
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
model = { n_layer = 1, d_model = 8, n_head = 1, n_ctx = 64 }
batch_tokens = 256
tokens = 512
eval = { test_tokens = 2048, points = 2 }
[axes]
seed = [0, 1]
"""


def test_a_spec_names_the_tasks_that_are_evaluated_after_it(here, capsys):
    Path("named.toml").write_text(SPEC)
    assert call("sweep", "named.toml", "--in-process") == 0
    assert "`scaling eval results/named` evaluates the tasks" in capsys.readouterr().err
    found = evaluated(capsys, "results/named")
    assert {row["task"] for row in found["rows"]} == {"copy", "agree"} and found["evaluated"] == 4
    assert len(found["runs"]) == 2


def test_results_on_a_uri_are_evaluated_and_the_table_goes_there(here, tmp_path, capsys):
    uri = f"local://{tmp_path}/bucket"
    Sweep(Spec.from_text(SPEC), uri).run(in_process=True, quiet=True)
    shutil.rmtree(Store(f"{uri}/named").folder)  # as on another machine
    found = evaluated(capsys, f"{uri}/named", "--tasks", "agree")
    assert found["evaluated"] == 2 and found["table"].startswith("local://")
    stored = pd.read_parquet(tmp_path / "bucket" / "named" / "tasks.parquet")
    assert stored.run_id.nunique() == 2
    shutil.rmtree(Store(f"{uri}/named").folder)
    assert evaluated(capsys, f"{uri}/named", "--tasks", "agree")["evaluated"] == 0


def test_a_spec_with_a_task_that_there_is_not_is_refused():
    for tasks, message in (("['agre']", "no task 'agre'"), ("'agree'", "must be a list of names")):
        with pytest.raises(ConfigError, match=message):
            Spec.from_text(SPEC.replace('["copy", "agree"]', tasks))


# ------------------------------------------------------------------ files, in context


ITEM = {"id": "1", "context": "The sky is", "choices": [" blue", " green"], "gold": 0}


def test_a_file_of_ones_own_is_evaluated(results, capsys):
    lines = [ITEM | {"id": str(k), "gold": k % 2} for k in range(6)]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("cloze.jsonl").write_text(json.dumps({"id": 1, "context": "a b", "answer": "c"}))
    words = (results, "--file", "mine.jsonl", "--file", "cloze.jsonl")
    found = evaluated(capsys, *words)
    main = {row["task"]: row for row in found["rows"] if row["main"]}
    assert main["mine"]["metric"] == "accuracy_sum" and main["mine"]["value"] == 0.5
    assert main["cloze"]["metric"] == "exact_match" and main["cloze"]["stderr"] is None
    assert evaluated(capsys, *words)["evaluated"] == 0
    lines[0]["choices"] = [" red", " green"]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert evaluated(capsys, *words)["evaluated"] == 2  # another version


def test_loss_by_position_is_that_of_held_out_windows(results, capsys):
    found = evaluated(capsys, results, "--tasks", "in_context")
    run_id = config().run_id
    rows = {row["metric"]: row for row in found["rows"] if row["run_id"] == run_id}
    loaded = weights.load(results / "runs" / run_id)
    files = prepare(loaded.run.data)
    windows, version = in_context.windows_of(files.test, 128, "a run")
    loss_t = loaded.model.losses(loaded.flat_1p, torch.from_numpy(windows)[None])[0].mean(0)
    late, early = float(loss_t[63:128].mean()), float(loss_t[7:16].mean())
    assert rows["gain"]["value"] == pytest.approx(late - early, abs=1e-5)
    assert rows["gain"]["main"] and rows["gain"]["version"] == version
    assert rows["loss_8_to_16"]["value"] == pytest.approx(early, abs=1e-5)


def test_loss_by_repetition(results, capsys):
    found = evaluated(capsys, results, "--tasks", "repeat", "--shots", "0,1")
    main = [row for row in found["rows"] if row["main"]]
    assert {(row["metric"], row["shots"]) for row in main} == {
        ("bits_per_byte", 0),
        ("bits_per_byte", 1),
    }


# ------------------------------------------------------------------ refusals


def test_runs_without_weights_are_refused_with_how_to_keep_them(here, capsys):
    rows = [{"run_id": "a", "status": "ok", "N": 1, "D": 1, "C": 6, "B": 1, "S": 1, "L": 1.0}]
    Path("results").mkdir()
    runs_table.write(Path("results"), rows, [])
    line = refusal(capsys, "results", "--tasks", "agree")
    assert "holds no weights" in line and "keep_weights=true" in line
    assert "nowhere" in refusal(capsys, "nowhere", "--tasks", "agree")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "agre"), "there is no task 'agre'. Did you mean 'agree'?"),
        (("--tasks", ","), "names no task"),
        (("--tasks", "copy", "--shots", "0,x"), "--shots '0,x' must be whole numbers"),
        (("--tasks", "copy", "--shots", "-1"), "must be whole numbers from 0 to 1024"),
        (("--tasks", "addition", "--shots", "16"), "16 shots has"),
        (("--tasks", "addition", "--shots", "200"), "too few to draw 200 examples"),
        (("--tasks", "agree", "--run", "zzz"), "'zzz' matches no run with weights"),
        (("--file", "none.jsonl"), "none.jsonl: No such file"),
    ],
)
def test_a_mistake_is_one_line_with_exit_code_2(results, capsys, words, message):
    assert message in refusal(capsys, results, *words)
    assert not (results / "tasks.parquet").exists()


def test_a_mistake_in_a_file_names_its_line(results, capsys):
    Path("mine.jsonl").write_text(f"{json.dumps(ITEM)}\n{json.dumps(ITEM | {'gold': 5})}")
    assert "mine.jsonl, line 2: 'gold' is 5" in refusal(capsys, results, "--file", "mine.jsonl")
    Path("other").mkdir()
    Path("mine.jsonl").write_text(json.dumps(ITEM))
    shutil.copy("mine.jsonl", "other/mine.jsonl")
    words = ("--file", "mine.jsonl", "--file", "other/mine.jsonl")
    assert "two files of --file are named 'mine'" in refusal(capsys, results, *words)


def test_a_context_that_is_too_short_is_refused_before_anything_is_evaluated(results, capsys):
    run_id = keep(results, config(16))
    line = refusal(capsys, results, "--tasks", "agree,next_sentence")
    assert "task 'next_sentence'" in line and f"16 of run {run_id}" in line
    assert "needs a context of 128" in refusal(capsys, results, "--tasks", "in_context")
    assert not (results / "tasks.parquet").exists()


def test_a_damaged_table_is_refused(results, capsys):
    for content in (b"", b"PAR1", b"{}"):
        (results / "tasks.parquet").write_bytes(content)
        assert "tasks.parquet cannot be read" in refusal(capsys, results, "--tasks", "agree")
    pd.DataFrame({"task": ["agree"]}).to_parquet(results / "tasks.parquet")
    assert "has no column 'run_id'" in refusal(capsys, results, "--tasks", "agree")


# ------------------------------------------------------------------ the table


def row(task: str = "agree", value: float = 0.5, shots: int = 0) -> dict:
    values = dict.fromkeys(table.COLUMNS, 0.0) | {"task": task, "version": "v", "shots": shots}
    values |= {"metric": "accuracy_sum", "n": 10, "value": value, "main": True}
    return {name: value for name, value in values.items() if name != "run_id"}


def test_rows_of_the_same_key_are_replaced_and_others_stay(tmp_path):
    table.update(tmp_path, "a", [row(), row("swap")])
    table.update(tmp_path, "b", [row()])
    table.update(tmp_path, "a", [row(value=0.75), row(shots=4)])
    found = table.read(tmp_path).set_index(["run_id", "task", "shots"]).value.to_dict()
    assert found == {
        ("a", "agree", 0): 0.75, ("a", "agree", 4): 0.5, ("a", "swap", 0): 0.5,
        ("b", "agree", 0): 0.5,
    }  # fmt: skip
    assert table.read(tmp_path).dtypes["shots"] == "int64"


def test_a_table_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    table.update(tmp_path, "a", [row()])
    before = (tmp_path / table.FILE).read_bytes()

    def fails(*args, **options):
        Path(args[1]).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fails)
    with pytest.raises(OSError, match="no space"):
        table.update(tmp_path, "b", [row()])
    assert (tmp_path / table.FILE).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".{table.FILE}.lock", table.FILE]


def test_a_missing_table_has_no_rows_and_a_folder_in_its_place_is_refused(tmp_path):
    assert table.read(tmp_path).empty and list(table.read(tmp_path)) == list(table.COLUMNS)
    (tmp_path / table.FILE).mkdir()
    with pytest.raises(TableError, match="cannot be read"):
        table.read(tmp_path)


def test_tasks_and_files_are_optional_but_names_are_checked(results):
    with pytest.raises(ConfigError, match="no task"):
        evaluate(results, ["nothing"])
    assert evaluate(results, []).table.empty
    assert replace(config(), seed=0).run_id in {r["run_id"] for r in evaluate(results, []).runs}
