"""The runs that a sweep's spec calls for, given the results so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from sweeps.adaptive.growth import Growth
from sweeps.adaptive.interval import Round, decide
from sweeps.adaptive.protocols import (
    CurveForecaster,
    IntervalDesigner,
    default_designer,
    default_forecaster,
)
from sweeps.result import Row
from sweeps.spec import Spec
from sweeps.store import Store


class RequestedRuns:
    """The runs of a spec, including those that its [until] adds as results come in."""

    def __init__(
        self,
        spec: Spec,
        store: Store,
        designer: IntervalDesigner | None = None,
        forecaster: CurveForecaster | None = None,
    ) -> None:
        """`designer` fits laws and designs runs for ``[until] interval``; None for the default.
        `forecaster` forecasts how runs end, for ``[until] forecast``; None for the default."""
        self._spec, self._store = spec, store
        self.given_forecaster = forecaster
        """The forecaster that workers use; None for the default."""
        self._given = designer
        self._decided: dict[str, Round] = {}
        """Rounds decided in this process, by the results they rest on. They are kept because a fit
        takes seconds."""

    @cached_property
    def _designer(self) -> IntervalDesigner | None:
        """The designer, loaded on first use; None if the spec has no `interval`."""
        if self._spec.searches is None or self._spec.searches.interval is None:
            return None
        return self._given or default_designer()

    def check(self) -> None:
        """Raise ConfigError if the interval of [until] is one that cannot be fitted, or its
        forecast one that cannot be made."""
        if self._spec.forecast:
            (self.given_forecaster or default_forecaster()).check_question(self._spec.forecast)
        if self._spec.searches and self._spec.searches.interval and self._designer:
            self._designer.interval_width(self._spec.searches.interval, [])

    def growth(self, rows: Mapping[str, Row], *, record: bool = False) -> Growth:
        """Return the runs to train and where each search stands, given the results `rows`.

        If a round of designed runs is due, it is decided. With `record`, which only the process
        that drives the sweep may pass, the decision is stored and final.
        """
        designer = self._designer
        width = designer.interval_width if designer else None
        rounds = self._store.rounds() if self._spec.by_design else []
        while (growth := self._spec.designed(rows, width, rounds)).due and designer:
            due = growth.due
            key = f"{due.results} {due.options} {len(rounds)}"
            if key not in self._decided:
                self._decided[key] = decide(due, designer.interval_width, designer.interval_runs)
            if record:
                self._store.decide(self._decided[key])
            rounds = [*rounds, self._decided[key]]
        return growth

    def record_due_round(self, rows: Mapping[str, Row]) -> None:
        """Decide and record the round that is due, if any. One is due if an earlier call was killed
        before deciding it, or if the spec now calls for more."""
        if self._is_due(rows, self._store.rounds() if self._spec.by_design else []):
            with self._store.drive():
                self.growth(rows, record=True)

    def _is_due(self, rows: Mapping[str, Row], rounds: Sequence[Round]) -> bool:
        return self._spec.by_design and self._spec.designed(rows, None, rounds).due is not None
