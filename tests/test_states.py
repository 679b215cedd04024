"""Words of trackers for how a run ended: only finished runs count, the others are stated."""

from __future__ import annotations

import shlex
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import load
from analysis.tables.rows import RowsLeftOut, used_rows
from analysis.tables.states import with_statuses
from scaling.errors import TableError
from scaling.mapping import parse


def grid(n: int = 12) -> pd.DataFrame:
    N = np.repeat([1e7, 3e7, 1e8], n // 3)
    D = np.tile(np.geomspace(1e9, 1e10, n // 3), 3)
    return pd.DataFrame({"N": N, "D": D, "L": 1.8 + 400 * N**-0.34 + 1500 * D**-0.36})


def states(*words: object, name: str = "state") -> pd.DataFrame:
    """A table whose last rows have these words, and whose other rows finished."""
    return grid().assign(**{name: ["finished"] * (12 - len(words)) + list(words)})


def statuses(*words: str) -> list[str]:
    return list(with_statuses(pd.DataFrame({"state": words}), "t")[0]["status"])


@pytest.mark.parametrize(
    ("finished", "others"),
    [
        (("finished",), ("crashed", "failed", "killed", "running", "preempted")),  # W&B
        (("COMPLETE", "TrialState.COMPLETE"), ("PRUNED", "FAIL", "RUNNING", "WAITING")),  # Optuna
        (("FINISHED",), ("FAILED", "KILLED", "RUNNING", "SCHEDULED")),  # MLflow
        (("TERMINATED",), ("ERROR", "PENDING", "RUNNING", "PAUSED")),  # Ray Tune
        (("COMPLETED",), ("CANCELLED by 1000", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")),  # SLURM
        (("Succeeded",), ("OOMKilled", "Evicted", "Pending", "Error")),  # Kubernetes
        (("JOB_STATE_SUCCEEDED",), ("JOB_STATE_CANCELLED", "JOB_STATE_RUNNING")),  # Vertex
        (("STATE_COMPLETED",), ("STATE_ERROR", "STATE_CANCELED")),  # Determined
        (("completed", "published"), ("in_progress", "queued", "aborted", "stopped")),  # ClearML
        (("done", "Success", "ok"), ("ERRORED", "diverged", "nan", "canceled", "Time out")),
    ],
)
def test_the_words_of_every_tracker_are_known(finished, others):
    found = statuses(*finished, *others)
    assert found[: len(finished)] == ["ok"] * len(finished)
    assert "ok" not in found[len(finished) :]


@given(st.sampled_from(["finished", "Crashed", "RUNNING", "done", "pruned"]), st.data())
def test_case_and_spaces_do_not_matter(word, data):
    style = data.draw(st.sampled_from([str.lower, str.upper, str.title, " {} ".format]))
    assert statuses(style(word), "finished")[0] == statuses(word, "finished")[0]


def test_terminated_means_finished_unless_another_word_does():
    assert statuses("TERMINATED", "ERROR") == ["ok", "failed"]
    assert statuses("terminated", "completed") == ["failed", "ok"]


@pytest.mark.parametrize(
    "name", ["state", "status", "State", "run_state", "trial_state", "runStatus", "info.status"]
)
def test_only_finished_runs_count_and_the_others_are_stated_in_one_line(name):
    table = states("crashed", "CRASHED", "running", "PRUNED", name=name)
    with pytest.warns(RowsLeftOut, match="8 finished runs; left out: 2 crashed, 1 pruned, 1 runn"):
        got = load(table)
    assert len(used_rows(got)) == 8 and list(got.index[:8]) == list(range(8))
    assert len(got) == 11  # what crashed keeps its row; what has not ended is removed
    assert got.attrs["unfinished"] == {"crashed": 2, "pruned": 1}
    assert got.attrs["left_out"] == {"running": 1}


@pytest.mark.parametrize(
    ("column", "count"),
    [
        ({"finished": [True] * 9 + [False] * 3}, "9 .* 3 not finished"),
        ({"is_completed": ["yes"] * 9 + ["no"] * 3}, "9 .* 3 not completed"),
        ({"crashed": [0] * 9 + [1] * 3}, "9 .* 3 crashed"),
        ({"finished": [True] * 11 + [False], "diverged": [True] + [False] * 11}, "10 .* 1 not"),
    ],
)
def test_columns_that_answer_yes_or_no(column, count):
    with pytest.warns(RowsLeftOut, match=f"{count}"):
        load(grid().assign(**column))


def test_columns_of_other_yes_or_no_are_left_alone():
    table = grid().assign(finished=12, done=np.arange(12), new=True, active=False)
    assert "status" not in load(table)


def test_unknown_words_are_named_and_never_fitted():
    with pytest.warns(RowsLeftOut, match=r"11 finished runs; left out: 1 verschollen \(unknown"):
        got = load(states("verschollen"))
    assert len(used_rows(got)) == 11
    with pytest.raises(TableError, match=r"12 'hurra', and no word that means finished.*--map"):
        load(grid().assign(status="hurra"))


@pytest.mark.parametrize("name", ["status", "Status", "STATUS"])
def test_a_column_of_unknown_words_is_refused_with_commands_that_work(name):
    table = grid().assign(**{name: ["toll gelaufen"] * 11 + ["kaputt"]})
    with pytest.raises(TableError, match="11 'toll_gelaufen', 1 'kaputt'") as error:
        load(table)
    words = shlex.split(str(error.value).split("counts: ")[1].removesuffix(", for example."))
    where = words[words.index("--where") + 1]
    found = load(table, map=parse([words[words.index("--map") + 1].rstrip(";")]), where=where)
    assert len(found) == 11


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Status", ["fertig", "abgebrochen", "läuft"]),
        ("Zustand", ["Abgeschlossen", "Abgestürzt", "Fehlgeschlagen"]),
        ("statut", ["Terminé", "Échoué", "en cours"]),
        ("Estado", ["Completado", "Fallido", "Cancelada"]),
        ("status", ["concluído", "falhou", "em andamento"]),
        ("stato", ["completato", "fallito", "divergente"]),
        ("статус", ["Завершён", "Ошибка", "выполняется"]),
        ("状态", ["已完成", "失败", "运行中"]),
        ("state", ["완료", "실패", "실행 중"]),
    ],
)
def test_states_are_known_in_other_languages(name, words):
    table = grid().assign(**{name: [words[0]] * 10 + words[1:]})
    with pytest.warns(RowsLeftOut, match=r"10 finished runs; left out: 1 \w+, 1 \w+"):
        found = load(table)
    assert len(used_rows(found)) == 10


@pytest.mark.parametrize(
    "word", ["diverged", "NaN", "OOM", "failed at step 3", "inf", "#DIV/0!", "abgebrochen"]
)
@pytest.mark.parametrize("decimal", [".", ","])
def test_words_of_failure_in_place_of_a_loss_are_missing_losses(word, decimal, tmp_path):
    losses = [f"{loss:.4f}".replace(".", decimal) for loss in grid()["L"]]
    table = grid().astype("int64", errors="ignore").assign(L=[word, *losses[1:]])
    table.to_csv(tmp_path / "t.csv", sep=";", index=False)
    with pytest.warns(RowsLeftOut, match="11 rows; left out: 1 without a loss"):
        found = load(tmp_path / "t.csv")
    assert np.allclose(found["L"], grid()["L"][1:], atol=1e-4)
    with pytest.raises(TableError, match="column 'L' must be positive and finite: 1 of 12"):
        load(tmp_path / "t.csv", strict=True)


def test_other_text_in_place_of_a_loss_is_refused():
    losses = [str(loss) for loss in grid()["L"]]
    with pytest.raises(TableError, match=r"column 'L' must be numbers: 1 of 12.*'see note'"):
        load(grid().assign(L=["see note", *losses[1:]]))


def test_rows_without_a_state_do_not_count_beside_rows_with_one():
    with pytest.warns(RowsLeftOut, match="10 finished runs; left out: 2 without a state"):
        load(states(None, ""))
    with pytest.raises(TableError, match="10 'without a state', 2 'crashed', and no word"):
        load(grid().assign(state=[None] * 10 + ["crashed"] * 2))


def test_a_column_of_states_under_another_name_is_only_a_column():
    got = load(states("crashed"), map={"state": "note"})
    assert len(got) == 12 and "status" not in got
    with pytest.warns(UserWarning, match="no states of runs: every row counts"):
        assert len(load(grid().assign(state=["Ohio", "Utah"] * 6))) == 12


def test_a_table_of_runs_that_have_not_ended_is_refused_with_their_number():
    with pytest.raises(TableError, match=r"no run has finished \(12 running\)"):
        load(grid().assign(state="running"))


def test_our_own_statuses_are_kept_in_silence():
    got = load(grid().assign(status=["ok"] * 9 + ["diverged", "stopped", "failed"]))
    assert list(got["status"][9:]) == ["diverged", "stopped", "failed"]
    assert got.attrs["unfinished"] == {"diverged": 1, "stopped": 1, "failed": 1}


@pytest.mark.parametrize(("name", "values", "reason"), [
    ("sys/failed", ["False", "True", "False"], "failed"),
    ("run.active", [False, True, False], "active"),
    ("converged", ["True", "False", "True"], "not converged"),
    ("exit_code", [0, 137, 0], "exit code 137"),
    ("returncode", ["0", "1", "0"], "exit code 1"),
    ("phase", ["Succeeded", "Failed", "Succeeded"], "failed"),
])  # fmt: skip
def test_other_columns_that_tell_how_runs_ended(name, values, reason):
    table = pd.DataFrame({"N": 1e7, "D": 1e9, "L": [3.0, 9.0, 3.1], name: values})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load(table)
    counted = found.attrs.get("unfinished", {}) | found.attrs.get("left_out", {})
    assert counted == {reason: 1}
    assert used_rows(found)["L"].tolist() == [3.0, 3.1]


def test_a_phase_that_is_no_state_is_only_a_column():
    table = pd.DataFrame({"N": 1e7, "D": 1e9, "L": [3.0, 3.2], "phase": ["decay", "stable"]})
    assert len(used_rows(load(table))) == 2
