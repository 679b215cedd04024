"""Columns that tell how runs ended, in the words of any tracker.

W&B, MLflow, Optuna, Ray Tune, ClearML, SLURM and others each have their own words. They become the
column `status`, whose words are those of :data:`scaling.columns.STATUSES`; only 'ok' rows count.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
import warnings
from collections.abc import Iterable, Mapping

import pandas as pd

from scaling.columns import STATUSES
from scaling.errors import TableError
from scaling.mapping import in_expression, option

RUNNING = "running"
"""Status of runs that have not ended; their rows are removed."""
NO_STATE = "without a state"

_WORDS = {
    "ok": "ok finished finish completed complete converged done success succeeded successful "
    "passed closed published",
    "diverged": "diverged divergent nan inf exploded",
    "stopped": "stopped pruned earlystopped halted",
    "failed": "failed fail failure crashed crash killed error errored exception preempted canceled "
    "cancelled aborted abort interrupted timeout timedout oom oomkilled outofmemory nodefail "
    "bootfail unreadable deadline evicted lost dead unknown invalid crashloopbackoff",
    RUNNING: "running pending queued preempting scheduled waiting inprogress starting started "
    "created paused suspended requeued initializing initialising preparing provisioning submitted "
    "notstarted stopping cancelling canceling completing finalizing active new resuming "
    "restarting configuring unfinished",
}
"""English words for each status."""
_FOREIGN_WORDS = {
    "ok": "fertig abgeschlossen beendet erfolgreich erledigt termine terminee fini finie acheve "
    "achevee reussi reussie succes terminado terminada completado completada finalizado finalizada "
    "acabado exito exitoso hecho completato completata finito finita terminato terminata concluso "
    "riuscito concluido concluida completo sucesso klaar voltooid afgerond geslaagd slutford "
    "avslutad zakonczono zakonczony ukonczono gotowe завершено завершен завершена готово выполнено "
    "успешно 完成 已完成 成功 完了 終了 완료 완료됨 성공",
    "diverged": "divergiert diverge explodiert explose divergente divergido diverso divergiu "
    "发散 発散 발산",
    "stopped": "gestoppt angehalten arrete arretee detenido detenida fermato fermata gestopt "
    "остановлено 停止 已停止 중지됨",
    "failed": "abgebrochen fehlgeschlagen fehler gescheitert abgesturzt abgestuerzt abbruch "
    "echoue echouee echec annule annulee interrompu interrompue avorte plante erreur "
    "fallido fallida fallo fallado cancelado cancelada interrumpido interrumpida "
    "abortado fallito fallita annullato interrotto errore falhou falha interrompido "
    "erro mislukt afgebroken geannuleerd fout avbruten misslyckades przerwano blad "
    "ошибка прервано сбой отменено неудача 失败 失敗 已失败 错误 中断 取消 已取消 终止 已终止 "
    "エラー キャンセル 실패 오류 취소 취소됨 중단",
    RUNNING: "laeuft lauft laufend wartend wartet geplant encours enattente encurso enejecucion "
    "ejecutando pendiente incorso inesecuzione inattesa emandamento executando pendente bezig "
    "lopend wachtend выполняется ожидание 运行中 进行中 等待中 排队中 実行中 待機中 실행중 대기중",
}
"""Words of other languages, without accents."""
_STATUS_OF = {
    word: status
    for words in (_WORDS, _FOREIGN_WORDS)
    for status, listed in words.items()
    for word in listed.split()
}
"""Status of each word, without underscores."""
_COLUMNS = (
    "status", "state", "statut", "etat", "estado", "stato", "zustand", "outcome", "result",
    "ergebnis", "resultat", "resultado", "phase", "статус", "состояние", "状态", "状態", "상태",
)  # fmt: skip
"""Last words of the names of columns that may tell how runs ended, without accents."""
_RESULTS = ("outcome", "result", "ergebnis", "resultat", "resultado", "phase")
"""Those among them that often tell something else."""
_CALCULATIONS = ("#div/0!", "#num!", "#value!", "#ref!", "#n/a", "inf", "+inf", "-inf", "infinity")
"""What spreadsheets and programs write for a loss that could not be computed."""
_UNLESS_OTHERS = ("terminated", "inactive", "ended", "exited", "stop")
"""Words that mean 'finished' to some trackers, unless the column has another word for it."""
_QUESTIONS = (
    "finished", "complete", "completed", "converged", "done", "success", "succeeded",
    "successful", "ok", "crashed", "failed", "diverged", "killed", "preempted", "pruned", "aborted",
    "cancelled",
    "canceled", "running", "active", "fertig", "abgeschlossen", "abgebrochen", "fehlgeschlagen",
)  # fmt: skip
"""Names of columns that answer with yes or no."""
_YES = {
    "true": True, "yes": True, "1": True, "ja": True, "oui": True, "si": True,
    "false": False, "no": False, "0": False, "nein": False, "non": False,
}  # fmt: skip
"""Their answers."""
_EXIT_CODES = ("exitcode", "exitstatus", "returncode")
"""Names of columns of a process's exit code, without underscores."""
_SHOWN = 6
"""Number of words that a message lists."""


def with_statuses(table: pd.DataFrame, where: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return the table with the column `status`, and the word of each row that does not count.

    The status of runs that have not ended is RUNNING; the word of rows that count is ''. A table
    without a column of states is returned as it is. Raises TableError if the column has no word for
    a finished run but words that nobody knows.
    """
    if not len(table):
        return table, pd.Series("", table.index, dtype=object)
    name = _column(table)
    if name is None:  # a column `status` is empty then
        return _from_answers(table.drop(columns="status", errors="ignore"))
    words = _words(table[name]).where(table[name].notna(), "")
    statuses = words.map(_meanings(words))
    _check_words(table[name], words, statuses, where)
    reasons = words.replace("", NO_STATE)
    reasons = reasons.where(statuses.isin((*STATUSES, RUNNING)), reasons + " (unknown)")
    return table.assign(status=statuses), reasons.mask(statuses.eq("ok"), "")


def _column(table: pd.DataFrame) -> str | None:
    """Return the column that tells how runs ended, if there is one.

    A column whose last word is status, state or the like is one if it has a word for it; `status`
    always is.
    """
    ranked = sorted(
        (name for name in table.columns if _last_word(name) in _COLUMNS),
        key=lambda name: (str(name) != "status", str(name).lower() not in ("status", "state")),
    )
    for name in ranked:
        words = set(_words(table[name].dropna()))
        if words & {*_STATUS_OF, *_UNLESS_OTHERS}:
            return name
    for name in ranked:
        if str(name).lower() == "status" and len(table[name].dropna()):
            return name
    for name in ranked:
        words = [word for word in table[name].dropna().unique() if isinstance(word, str)]
        if _last_word(name) not in _RESULTS and words:
            shown = in_expression(str(name))
            selected = shlex.quote(f"{shown} == {json.dumps(words[0], ensure_ascii=False)}")
            warnings.warn(
                f"column {name!r} holds {_listed(map(repr, words))}, which are no states of runs: "
                f"every row counts. To select rows, say for example --where {selected}.",
                stacklevel=4,
            )
    return None


def _last_word(name: object) -> str:
    parts = re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+", _without_accents(str(name)))
    return parts[-1].lower() if parts else ""


def _words(column: pd.Series) -> pd.Series:
    """Return the state of each row; a table of learning curves repeats a few a million times."""
    texts = column.map(str)
    return texts.map({text: _word(text) for text in texts.unique()})


def _word(value: object) -> str:
    """Return a state in lower case, without the prefixes and suffixes that trackers add.

    'TrialState.COMPLETE', 'JOB_STATE_SUCCEEDED' and 'CANCELLED by 1000' become 'complete',
    'succeeded' and 'cancelled'.
    """
    text = _without_accents(str(value).strip().lower())
    text = re.sub(r"(?:[^\w.]|_)+", "_", text).strip("_")
    text = re.sub(r"^(?:[a-z]+_)?(?:state|status)_", "", text.rpartition(".")[2])
    whole, first = text.replace("_", ""), text.partition("_")[0]
    if whole not in _STATUS_OF and _STATUS_OF.get(first, "ok") != "ok":
        return first
    return whole if whole in _STATUS_OF else text


def _without_accents(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.replace("ł", "l").replace("ß", "ss"))
    kept = "".join(part for part in parts if not unicodedata.combining(part))
    return unicodedata.normalize("NFC", kept)


def without_failures(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose losses are missing where words such as 'diverged' or 'OOM' stand in
    place of a number."""
    if "L" not in table.columns or pd.api.types.is_numeric_dtype(table["L"]):
        return table
    failed = table["L"].map(lambda value: isinstance(value, str) and _is_failure(value))
    return table.assign(L=table["L"].mask(failed.astype(bool))) if failed.any() else table


def _is_failure(text: str) -> bool:
    plain = text.strip().lower()
    return plain in _CALCULATIONS or _STATUS_OF.get(_word(plain), "ok") != "ok"


def _meanings(words: pd.Series) -> Mapping[str, str | None]:
    """Return {word: status}, with unknown words as they are; '' (no state) is 'failed'."""
    found: dict[str, str] = {word: _STATUS_OF.get(word, word) for word in map(str, words.unique())}
    found[""] = "failed"
    if "ok" not in found.values():
        found |= {word: "ok" for word in found if word in _UNLESS_OTHERS}
    return found | {word: "failed" for word in found if found[word] in _UNLESS_OTHERS}


def _check_words(written: pd.Series, words: pd.Series, statuses: pd.Series, where: str) -> None:
    """Raise TableError if no word means 'finished' but some are unknown or missing."""
    clear = statuses.isin((*STATUSES, RUNNING)) & words.ne("")
    if clear.all() or statuses.eq("ok").any():
        return
    counts = words.replace("", NO_STATE).value_counts()
    found = _listed(f"{n} {word!r}" for word, n in counts.items())
    name, first = written.name, written.dropna().unique()[:1]
    selected = shlex.quote(f"note == {json.dumps(str(first[0]), ensure_ascii=False)}")
    raise TableError(
        f"{where}: {name} is {found}, and no word that means finished (such as finished, "
        f"completed or ok). If another word does, or if the column tells something else, rename "
        f"it, and every row counts: {option({str(name): 'note'})}; select rows with --where "
        f"{selected}, for example."
    )


def _listed(words: Iterable[str]) -> str:
    found = list(words)
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _from_answers(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Return `with_statuses` of a table with columns such as finished=True, sys/failed=False or
    exit_code=0."""
    reasons = pd.Series("", table.index)
    statuses = pd.Series("ok", table.index)
    for name in table.columns:
        status, found = _answers(table[name])
        first = found.ne("") & reasons.eq("")
        reasons, statuses = reasons.mask(first, found), statuses.mask(first, status)
    if reasons.eq("").all():
        return table, reasons
    return table.assign(status=statuses), reasons


def _answers(column: pd.Series) -> tuple[str, pd.Series]:
    """Return the status of the runs that did not finish according to a column, and its reason in
    their rows; the reason is '' in the others."""
    none = pd.Series("", column.index)
    word = re.sub(r"^(?:is|has|was)_", "", _word(re.split("[./]", str(column.name))[-1]))
    if word.replace("_", "") in _EXIT_CODES:
        codes = pd.to_numeric(column, errors="coerce")
        out = codes.notna() & codes.ne(0)
        return "failed", none.mask(out, "exit code " + codes.map("{:.0f}".format))
    answers = column.map(lambda value: _YES.get(str(value).strip().lower()))
    if word not in _QUESTIONS or answers.isna().any():
        return "ok", none
    out, reason = answers.astype(bool), word
    if _STATUS_OF[word] == "ok":
        out, reason = ~out, f"not {word}"
    return {"ok": "failed"}.get(_STATUS_OF[word], _STATUS_OF[word]), none.mask(out, reason)
