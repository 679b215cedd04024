"""Guess which columns of a table are N, D, C, L and the others, from their names and values.

The one guesser of all commands. It completes what the user gave, never changes it, and raises
TableError if two columns are equally good. scaling/column_words.py knows the names.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.importing.batches import (
    counts_of_sequences,
    in_tokens,
    is_of_a_batch,
    tokens_per_step,
)
from analysis.tables.conversions import conversions, convert_losses, numbers_in
from analysis.tables.derive import SHAPE, derivable
from analysis.tables.homonyms import check_symbols
from analysis.tables.names import evaluated, in_order, rename, standard_errors
from analysis.tables.rows import used_rows
from analysis.tables.run_names import column_of_runs
from analysis.tables.several import FILE
from scaling.column_words import Meaning, meaning
from scaling.columns import COLUMNS
from scaling.errors import TableError
from scaling.mapping import alternatives, in_expression, option
from scaling.units import count

_SYMBOLS = {column.name for column in COLUMNS} - {"lr", "bits_per_byte"}
"""Columns that are used under their names; `lr` is a rule here, but a number elsewhere, and
bits_per_byte may be the only loss."""
_OPTIONAL = (
    "N", "D", "L", "C", "B", "S", "lr_peak", "n_layer", "d_model", "d_ff", "n_head", "n_kv_head",
    "vocab_size", "n_ctx", "seed", "L_stderr", "D_unique",
)  # fmt: skip
"""Columns that are added to a guess if they are clear, though nothing needs them."""
_MEANINGS = {"N": "the parameters", "D": "the training tokens", "C": "the training FLOPs",
             "L": "the loss", "B": "the tokens per step", "S": "the steps",
             "lr_peak": "the peak learning rate"}  # fmt: skip
_LARGEST_BATCH = 1e8
"""Tokens per step that no run reaches."""


class ColumnsGuessed(UserWarning):
    """States what the columns of a table were taken for."""


@dataclass(frozen=True)
class Candidate:
    """A column, or an expression of it, that may be a symbol."""

    expression: str
    values: np.ndarray
    rank: tuple[int, ...]
    plain: bool
    """Whether the column is taken as it is."""
    note: str = ""


@dataclass
class Guess:
    """What was guessed about a table."""

    names: dict[str, str] = field(default_factory=dict)
    """{column or expression: symbol} of what is added."""
    notes: list[str] = field(default_factory=list)
    """What the names do not show, such as the unit of a batch."""
    given: dict[str, str] = field(default_factory=dict)
    """{column or expression: symbol} of what the user gave."""
    origins: dict[str, str] = field(default_factory=dict)
    """{symbol: column} of the columns that are taken as they are."""


def complete(
    table: pd.DataFrame, names: Mapping[str, str], need: Iterable[str], where: str
) -> Guess:
    """Return a guess of the columns of `need` that neither the table nor `names` gives.

    The guess is empty if none is lacking, or if there is no column for it. Raises TableError, with
    the alternatives as options of the command line, if two columns are equally good.
    """
    kept = [str(c) for c in table.columns if c != FILE and c not in names]
    given = {column: column for column in kept if column in _SYMBOLS}
    given |= {symbol: column for column, symbol in names.items()}
    need = list(need)
    own = {symbol for symbol, column in given.items() if symbol == column and column not in names}
    check_symbols(table, own & set(need), where)
    if set(need) <= derivable(given):
        return Guess()
    return _Search(table, kept, given, where).complete(need)


def name_columns(
    table: pd.DataFrame, names: Mapping[str, str], need: Iterable[str], where: str, *, ours: bool
) -> tuple[pd.DataFrame, Guess]:
    """Return the table with its columns named as `names` says and, unless it is `ours`, guessed.

    A perplexity that is mapped to L becomes its logarithm, and bits per token become nats.
    """
    clear = table.columns.is_unique  # rename() complains of a table that is not
    names = in_order(table, names)
    names, note = convert_losses(table, names) if clear else (dict(names), "")
    found = complete(table, names, need, where) if clear and not ours else Guess()
    found.given = names
    both = {**names, **found.names}
    found.origins = {symbol: name for name, symbol in both.items() if name in table.columns}
    if note:
        found.notes.append(note)
    made = {
        symbol: table[column] if column in table.columns else evaluated(table, column, where)
        for column, symbol in found.names.items()
    }
    made |= standard_errors(table, made)
    return rename(table, names, where).assign(**made), found


def announce(table: pd.DataFrame, found: Guess, derived: Mapping[str, str], where: str) -> None:
    """Warn once of what was guessed, converted or counted from a shape, with its ranges."""
    notes = list(dict.fromkeys(found.notes))
    if SHAPE[0] in derived.get("N", ""):
        notes.append(f"N = {derived['N']}")
    if not (found.names or notes):
        return
    text = ""
    if found.names:
        which = "the other columns" if found.given else "the columns"
        symbols = ("N", "D", "L", *found.names.values())
        seen = ranges(used_rows(table), symbols)
        text = f"{which} are taken as by {option({**found.given, **found.names})}: {seen}"
    more = "; ".join(notes)
    message = f"{where}: {'; '.join(filter(None, (text, more)))}."
    warnings.warn(message, ColumnsGuessed, stacklevel=3)


class _Search:
    """The search for the columns of one table."""

    def __init__(
        self, table: pd.DataFrame, columns: Iterable[str], given: dict[str, str], where: str
    ):
        self.table, self.where = table, where
        self.found = dict(given)
        self.guess = Guess()
        self.unclear: list[str] = []
        self.candidates: dict[str, list[Candidate]] = {}
        self.doubtful: dict[str, list[str]] = {}
        self.unread: dict[str, list[str]] = {}
        self.empty: dict[str, list[str]] = {}
        for column in sorted(columns):  # the order of columns never matters
            what = meaning(column) if column not in _SYMBOLS else None
            if what is not None:
                self._add(column, what)

    def complete(self, need: list[str]) -> Guess:
        for symbol in dict.fromkeys(("N", "D", "L", *need)):
            if symbol in need:
                self._require(symbol)
        if self.unclear:
            raise TableError(f"{self.where}: {' '.join(self.unclear)}")
        if self.guess.names:
            for symbol in _OPTIONAL:
                self._add_if_clear(symbol)
            self._name_runs(required="run_id" in need)
        elif "run_id" in need:
            self._name_runs(required=True)
        return self.guess

    # -------------------------------------------------------------- candidates

    def _add(self, column: str, what: Meaning) -> None:
        """Add a column to the candidates of its symbol, converted as its name and values say."""
        values = numbers_in(self.table[column])
        positive = values[np.isfinite(values) & (values > 0)]
        if not len(positive):
            if self.table[column].astype(str).str.contains(r"\d", regex=True).any():
                self.unread.setdefault(what.symbol, []).append(column)
            else:
                self.empty.setdefault(what.symbol, []).append(column)
            return
        here = [
            Candidate(text, self._evaluated(text), what.rank, text == column, note)
            for text, note in conversions(what, column, float(np.median(positive)))
        ]
        if len(here) > 1:  # the same column in several units: the user has to say which
            self.doubtful.setdefault(what.symbol, []).extend(each.expression for each in here)
        self.candidates.setdefault(what.symbol, []).extend(here)

    def _best(self, symbol: str) -> list[Candidate]:
        """Return the best candidates that differ; one if the choice is clear."""
        best: list[Candidate] = []
        everything = self.candidates.get(symbol, [])
        highest = max((each.rank for each in everything), default=())
        alike = [each for each in everything if each.rank == highest]
        for each in sorted(alike, key=lambda c: (not c.plain, len(c.expression), c.expression)):
            if not any(_same(each, other) for other in best):
                best.append(each)
        return best

    def _with_sensible_ratio(self, best: list[Candidate]) -> list[Candidate]:
        """Return the units of one column of tokens that make sense beside N."""
        N = self._values("N")
        if N is None or len(best) < 2 or not {c.expression for c in best} <= {*self._doubts("D")}:
            return best
        ratios = [float(np.nanmedian(each.values / N)) for each in best]
        return [c for c, ratio in zip(best, ratios, strict=True) if 0.1 < ratio < 1e5] or best

    def _doubts(self, symbol: str) -> list[str]:
        return self.doubtful.get(symbol, [])

    # -------------------------------------------------------------- choices

    def _require(self, symbol: str) -> None:
        """Find a symbol, or the others that it follows from; note it if the choice is unclear."""
        if symbol in self.found or symbol == "run_id":
            return
        best = self._best(symbol)
        if symbol == "D":
            best = self._with_sensible_ratio(best)
        if symbol == "C" and {"N", "D"} <= derivable(self.found):
            self._add_if_clear("C")  # C = 6 N D otherwise
        elif len(best) == 1:
            self._take(symbol, best[0])
        elif not best and len(self.unread.get(symbol, [])) == 1:
            # Its text is no number, which the reader of numbers explains better.
            self._take(symbol, Candidate(self.unread[symbol][0], np.array([]), (), True))
        elif best:
            self.unclear.append(self._question(symbol, best))
        elif symbol == "L" and len(self.empty.get("L", [])) == 1:
            # No row has a loss, which the loader says better than that there is no column.
            self._take(symbol, Candidate(self.empty["L"][0], np.array([]), (), True))
        elif symbol == "B" or (symbol == "D" and symbol not in derivable(self.found)):
            self._find_batch(required=symbol)
        elif symbol == "N" and symbol not in derivable(self.found):
            for part in SHAPE:
                if part not in self.found and len(self._best(part)) == 1:
                    self._take(part, self._best(part)[0])
            for part in ("d_ff", "n_head", "n_kv_head"):
                self._add_if_clear(part)
        if symbol in ("N", "D") and not best and symbol not in derivable(self.found):
            self._find_by_compute(symbol)
        if symbol == "D" and not (best or self.unclear) and "D" not in derivable(self.found):
            self._ask_for_lengths()

    def _find_by_compute(self, symbol: str) -> None:
        """Take C = 6 N D, from which N or D follows if the other one is known."""
        other = "D" if symbol == "N" else "N"
        if len(self._best(other)) == 1 or other in derivable(self.found):
            best = self._best("C")
            if len(best) == 1 and "C" not in self.found:
                self._take("C", best[0])
                self._require(other)

    def _take(self, symbol: str, candidate: Candidate) -> None:
        self.found[symbol] = candidate.expression
        self.guess.names[candidate.expression] = symbol
        if candidate.note:
            self.guess.notes.append(candidate.note)

    def _add_if_clear(self, symbol: str) -> None:
        """Add a symbol that nothing needs, if one column is it and its values make sense."""
        if symbol in self.found:
            return
        if symbol == "B" and not self.candidates.get("B"):
            self._find_batch(required=None)
            return
        best = self._best(symbol)
        if len(best) != 1 or best[0].rank[-1] < 0 or symbol in self.doubtful:
            return
        if best[0].expression in self.guess.names:
            return
        if symbol == "L_stderr" and self.found.get("L") not in self.table.columns:
            return  # in the unit of a loss that is converted
        if symbol in ("B", "S", "C") and not self._consistent(symbol, best[0].values):
            return
        self._take(symbol, best[0])

    def _consistent(self, symbol: str, values: np.ndarray) -> bool:
        """Return whether C is about 6 N D and S B about D, as far as they are known."""
        known = {name: self._values(name) for name in ("N", "D", "C", "S", "B")} | {symbol: values}
        ratios = {
            "C": (known["C"], known["N"], known["D"], 6.0, 10.0),
            "S": (known["D"], known["S"], known["B"], 1.0, 1.5),
            "B": (known["D"], known["S"], known["B"], 1.0, 1.5),
        }
        total, first, second, factor, tolerance = ratios[symbol]
        if total is None or first is None or second is None:
            return symbol != "C"
        with np.errstate(all="ignore"):
            ratio = total / (factor * first * second)
        ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
        return len(ratio) > 0 and 1 / tolerance < float(np.median(ratio)) < tolerance

    def _evaluated(self, text: str) -> np.ndarray:
        if text in self.table.columns:
            return numbers_in(self.table[text])
        return numbers_in(evaluated(self.table, text, self.where))

    def _values(self, symbol: str) -> np.ndarray | None:
        return self._evaluated(self.found[symbol]) if symbol in self.found else None

    def _factor(self, text: str) -> str:
        """Return a column or an expression as a factor of an expression."""
        return in_expression(text) if text in self.table.columns else f"({text})"

    def _question(self, symbol: str, best: list[Candidate]) -> str:
        what = [f"{each.expression!r} ({_range(symbol, each.values)})" for each in best]
        ways = alternatives([each.expression for each in best], symbol)
        return (
            f"{symbol}, {_MEANINGS.get(symbol, 'a column that is needed')}, may be "
            f"{' or '.join(what)}. Say which: {ways}."
        )

    # -------------------------------------------------------------- batches and runs

    def _find_batch(self, required: str | None) -> None:
        """Find B, in tokens, from a batch size that may be in sequences; and S, if D needs it."""
        steps = self._best("S")
        if required == "D" and "S" not in self.found:
            if len(steps) > 1 and (self.candidates.get("B") or self.candidates.get("sequences")):
                self.unclear.append(self._question("S", steps))
            if len(steps) != 1:
                self._find_ratio()
                return
        ways = self._batches()
        if len(ways) > 1 and required:
            self.unclear.append(self._question("B", ways))
        if len(ways) != 1:
            if required == "D":
                self._find_ratio()
            return
        if required is None and not self._consistent("B", ways[0].values):
            return
        if required == "D" and "S" not in self.found:
            self._take("S", steps[0])
        if "B" not in self.found:
            self._take("B", ways[0])

    def _batches(self) -> list[Candidate]:
        """Return the columns and products that may be B, the tokens per step."""
        if "B" in self.found:
            return [Candidate(self.found["B"], np.array([]), (), True)]
        if self.candidates.get("B"):
            return self._best("B")
        if split := self._split_batches():
            return split
        sizes = self._best("sequences")
        if len(sizes) != 1 or self.doubtful.get("sequences"):
            return sizes
        size = sizes[0]
        if "n_ctx" not in self.found and len(self._best("n_ctx")) == 1:
            context = self._best("n_ctx")[0].expression
        else:
            context = self.found.get("n_ctx", "")
        tokens = Candidate(
            size.expression, size.values, (), True, f"{size.expression!r} is taken in tokens"
        )
        if not context:
            return [tokens] if np.nanmedian(size.values) >= 2**14 else []
        product = f"{self._factor(size.expression)}*{self._factor(context)}"
        sequences = Candidate(
            product, self._evaluated(product), (), False,
            f"{size.expression!r} is taken in sequences of {context!r} tokens",
        )  # fmt: skip
        D, S = self._values("D"), self._values("S")
        if D is not None and S is not None:
            fits = [each for each in (sequences, tokens) if self._consistent("B", each.values)]
            return fits if len(fits) == 1 else [sequences]
        if np.nanmedian(sequences.values) > _LARGEST_BATCH:
            return [tokens]
        return [sequences, tokens] if np.nanmedian(size.values) >= 2**14 else [sequences]

    def _ask_for_lengths(self) -> None:
        """Note a column that counts sequences, as nothing counts tokens."""
        names = [str(c) for c in self.table.columns if c != FILE]
        if counts := counts_of_sequences(names):
            seen = _range("D", numbers_in(self.table[counts[0]]))
            self.unclear.append(
                f"{counts[0]!r} counts sequences ({seen}), {in_tokens(counts[0], names)}"
            )

    def _split_batches(self) -> list[Candidate]:
        """Return the ways to read B from a batch that is split over devices and micro-batches."""
        names = [str(c) for c in self.table.columns if is_of_a_batch(str(c))]
        ways = [
            Candidate(each.expression, self._evaluated(each.expression), (), False, each.note)
            for each in tokens_per_step({name: numbers_in(self.table[name]) for name in names})
        ]
        D, S, steps = self._values("D"), self._values("S"), self._best("S")
        S = steps[0].values if S is None and len(steps) == 1 else S
        if D is None or S is None:
            return ways
        near = [each for each in ways if 0.67 < float(np.nanmedian(D / (S * each.values))) < 1.5]
        return near or ways

    def _find_ratio(self) -> None:
        """Take D from a column of tokens per parameter, if there is one and N is known."""
        ratios = self._best("D/N")
        if len(ratios) == 1 and "N" in self.found:
            text = f"{self._factor(ratios[0].expression)}*{self._factor(self.found['N'])}"
            self._take("D", Candidate(text, self._evaluated(text), (), False))

    def _name_runs(self, required: bool) -> None:
        """Take a column as run_id whose values tell runs apart."""
        if "run_id" in self.found:
            return
        names = [str(c) for c in self.table.columns if c != FILE and c not in self.guess.names]
        histories = not required and "State" in self.table.columns
        column = column_of_runs(self.table, names, self._values("N"), histories=histories)
        if column is not None:
            self.found["run_id"] = column
            self.guess.names[column] = "run_id"


# ------------------------------------------------------------------ values and their text


def _same(first: Candidate, second: Candidate) -> bool:
    """Return whether two columns hold the same values, up to the rounding of one in millions."""
    tolerance = 1e-9 if first.plain and second.plain else 5e-3
    return np.allclose(first.values, second.values, rtol=tolerance, atol=0, equal_nan=True)


def ranges(table: pd.DataFrame, symbols: Iterable[str]) -> str:
    """Return the ranges of columns in the units of the field: "N 21M to 740M parameters, ..."."""
    found = [
        f"{symbol} {_range(symbol, numbers_in(table[symbol]))}{_UNITS[symbol]}"
        for symbol in dict.fromkeys(symbols)
        if symbol in _UNITS and symbol in table.columns
    ]
    return ", ".join(found)


_UNITS = {"N": " parameters", "D": " tokens", "C": " FLOPs", "B": " tokens per step", "S": " steps",
          "L": " nats per token", "lr_peak": ""}  # fmt: skip


def _range(symbol: str, values: np.ndarray) -> str:
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return "no number"
    write = count if symbol in ("N", "D", "B", "S") else "{:.3g}".format
    low, high = write(float(values.min())), write(float(values.max()))
    return low if low == high else f"{low} to {high}"
