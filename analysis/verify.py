"""Refit published tables and compare with the published numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis import laws
from analysis.critical_batch import batch_at_overhead
from analysis.fitting.fit import fit
from analysis.fitting.problem import huber
from analysis.fitting.result import FitResult
from analysis.frontiers.isoflop import isoflop
from analysis.published import besiroglu2024, gadre2024, muennighoff2023
from scaling import progress
from scaling.errors import TableError
from scaling.jsonable import finite


@dataclass(frozen=True)
class Verification:
    """Published numbers compared with ours."""

    rows: pd.DataFrame
    """One row per number: table, quantity, published, ours, tolerance, objective_published,
    objective_ours, verdict, and reference ('paper', or 'this project' for a number that this
    project computed before)."""

    @property
    def ok(self) -> bool:
        """Whether every number is reproduced, or shown not to minimise the objective of its own
        paper."""
        return not (self.rows["verdict"] == "differs").any()

    def summary(self) -> pd.DataFrame:
        return self.rows

    def record(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, ready for JSON."""
        return {"ok": self.ok, "rows": finite(self.rows.to_dict("records"))}

    def __str__(self) -> str:
        rows = self.rows.copy()
        for name in ("published", "ours"):
            rows[name] = rows[name].map("{:.6g}".format)
        for name in ("objective_published", "objective_ours"):
            rows[name] = rows[name].map(lambda v: "" if pd.isna(v) else f"{v:.10g}")
        return rows.drop(columns="tolerance").to_string(index=False)


def verify(data: str | Path) -> Verification:
    """Refit every published table in the folder `data` and compare.

    Raises TableError if the folder holds none of the known tables.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise TableError(f"{folder}: no such folder of published tables.")
    rows = []
    for file, check in _CHECKS.items():
        if (folder / file).is_file():
            table = file.split("/")[0]
            progress.step(f"refitting {table}")
            runs = pd.read_csv(folder / file)
            runs.attrs["folder"] = (folder / file).parent
            rows += [{"table": table, **row} for row in check(runs)]
    if not rows:
        raise TableError(f"{folder} holds none of the known tables: {', '.join(_CHECKS)}.")
    return Verification(pd.DataFrame(rows))


def _row(
    quantity: str,
    published: float,
    ours: float,
    tolerance: float,
    objectives: tuple[float, float] = (np.nan, np.nan),
    stated: float | None = None,
    reference: str = "paper",
) -> dict[str, Any]:
    """Compare one published number with ours.

    objectives  The objective at the published point and at our minimum.
    stated      The objective that the paper states for its point.
    reference   Who computed the published number: 'paper' or 'this project'.

    A lower objective at our minimum excuses a difference only if both use the same objective: ours
    at the published point must be within 0.1 % of `stated` or, if the paper states none, within 5 %
    of our minimum. Otherwise the table, rows or objective are not the paper's.
    """
    at_published, at_ours = objectives
    if stated is None:
        same = at_published <= 1.05 * at_ours
    else:
        same = abs(at_published / stated - 1) <= 1e-3
    if abs(ours - published) <= tolerance:
        verdict = "reproduced"
    elif at_ours < at_published * (1 - 1e-9) and same:
        verdict = "not the minimum of its objective"
    else:
        verdict = "differs"
    return {
        "quantity": quantity,
        "published": published,
        "ours": float(ours),
        "tolerance": tolerance,
        "objective_published": at_published,
        "objective_ours": at_ours,
        "verdict": verdict,
        "reference": reference,
    }


def objective_at(result: FitResult, params: Mapping[str, float]) -> float:
    """Return the objective of a fit at other parameters of its law, summed over rows."""
    theta = result.problem.theta({**result.params, **params})
    r = result.problem.residuals(theta)[0]
    rho = np.abs(r) if result.objective_kind == "lad" else huber(r, result.minimum.delta)
    return float(rho @ result.problem.weights)


def chinchilla_runs(table: pd.DataFrame, drop: int = 5) -> pd.DataFrame:
    """Return N, D, C and L of the reconstructed runs, except the `drop` highest losses."""
    runs = table.rename(columns={"Model Size": "N", "Training FLOP": "C", "loss": "L"})
    runs = runs.assign(D=runs["C"] / (6 * runs["N"]))[["N", "D", "C", "L"]]
    return runs.sort_values("L").iloc[: len(runs) - drop].reset_index(drop=True)


def _besiroglu(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    runs = chinchilla_runs(table)
    exact = fit(laws.chinchilla, runs, objective="huber", delta=1e-3, bootstrap=4000)
    for name, tolerance in (("A", 0.1), ("B", 0.5), ("alpha", 2e-4), ("beta", 2e-4)):
        value = besiroglu2024.params[name]
        at = objective_at(exact, besiroglu2024.params), exact.objective
        yield _row(f"{name} (Huber 1e-3, as stated)", value, exact.params[name], tolerance, at)
    stderr = {"A": 124.52, "E": 0.02566, "alpha": 0.0154, "beta": 0.0206}
    for name, value in stderr.items():
        yield _row(f"stderr of {name}", value, exact.stderr[name], 0.08 * value)
    lad = fit(laws.chinchilla, runs, objective="lad", bootstrap=0)
    at = objective_at(lad, besiroglu2024.params), lad.objective
    for name, tolerance in (("E", 1e-4), ("A", 0.1), ("B", 0.5), ("alpha", 5e-5), ("beta", 5e-5)):
        value = besiroglu2024.params[name]
        yield _row(f"{name} (least absolute deviations)", value, lad.params[name], tolerance, at)


def _muennighoff(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    words = {"params": "N", "tokens": "D", "unique_tokens": "D_unique", "loss": "L"}
    runs = table.rename(columns=words)
    base = {p: v for p, v in muennighoff2023.params.items() if p not in ("R_N", "R_D")}
    ours = fit(
        laws.muennighoff, runs, objective="huber", delta=1e-3, fixed=base, bootstrap=0, cluster=None
    )
    stated = 0.0158259
    at = objective_at(ours, muennighoff2023.params), ours.objective
    yield _row("objective at the published point", stated, at[0], 1e-7)
    for name in ("R_D", "R_N"):
        value, found = muennighoff2023.params[name], ours.params[name]
        yield _row(f"{name} (R_{name[2]}*)", value, found, 0.05 * value, at, stated=stated)


def _olmo(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    train, held = table[table["mode"] == "train"], table[table["name"] == "13B-5T"]
    published = {
        "mmlu_avg_test_5shot": 0.7502,
        "hellaswag_val_5shot": 0.6532,
        "arc_challenge_test_5shot": 0.7833,
        "arc_easy_test_5shot": 0.5931,
        "piqa_val_5shot": 0.8748,
        "csqa_val_5shot": 0.6617,
        "socialiqa_val_5shot": 0.9916,
        "openbookqa_test_5shot": 1.2750,
        "c4": 2.3444,
    }
    for task, value in published.items():
        runs = train.assign(L=train[task])
        ours = fit(laws.chinchilla, runs, objective="huber", delta=1e-3, bootstrap=0)
        predicted = ours.predict(N=held["N"].to_numpy(), D=held["D"].to_numpy())
        yield _row(f"13B-5T {task}, predicted", value, predicted[0], 5e-4)


def _gadre(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    table = table.assign(L=table["loss_c4_val"], error=table["err_avg17"])
    small = ("d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8")
    for name, key in (("c4", "c4_original"), ("redpajama", "rpj"), ("refinedweb", "rw_original")):
        models = table[table["train_set"] == key]
        ladder = models["model"].isin(small) & (models["tok_mult"] == 20)
        over = (models["model"] == small[0]) & (models["tok_mult"] == 320)
        runs = models[ladder | over]
        ours = fit(laws.gadre, runs, objective="ls", on="raw", bootstrap=0)
        for p, value in getattr(gadre2024, name).params.items():
            yield _row(f"{name} {p}", value, ours.params[p], 0.004 * value)
        if key != "rpj":
            continue
        middle = models[(models["model"] == "open_lm_1b") & (models["tok_mult"] == 20)]
        known = pd.concat([runs, middle])
        error = fit(laws.downstream_error, known, objective="ls", on="raw", bootstrap=0)
        for what, model, mult, loss_error, task_error in (
            ("1.4B at M = 640", "open_lm_1b", 640, 0.7103, 3.6365),
            ("6.9B at M = 20", "open_lm_7b", 20, 0.7320, 0.0464),
        ):
            row = models[(models["model"] == model) & (models["tok_mult"] == mult)].iloc[0]
            L = float(ours.predict(N=row["N"], D=row["D"]))
            yield _row(f"{what}: loss error [%]", loss_error, 100 * abs(L / row["L"] - 1), 5e-3)
            e = float(error.predict(L=L))
            off = 100 * abs(e / row["error"] - 1)
            yield _row(f"{what}: task error's error [%]", task_error, off, 5e-3)


def _zhang(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    published = {85: 745.32, 151: 955.16, 302: 1393.73, 604: 1888.52, 1200: 2533.41}
    found = []
    for params, rows in table.groupby("params_M"):
        runs = rows.rename(columns={"batch_size_seqs": "B", "steps_to_goal": "S"})
        ours = fit(laws.mccandlish, runs, objective="ls", bootstrap=0)
        cbs = batch_at_overhead(ours, base=256, overhead=0.2)
        found.append((float(params), cbs))  # pyright: ignore[reportArgumentType]
        yield _row(f"critical batch size at {params}M [sequences]", published[params], cbs, 0.01)  # pyright: ignore
    x, y = np.log(np.array(found)).T
    slope, intercept = np.polyfit(x, y, 1)
    yield _row("CBS = c N^p (millions): c", 93.1968, float(np.exp(intercept)), 1e-3)
    yield _row("CBS = c N^p (millions): p", 0.46828, float(slope), 1e-5)


def _alabdulmohsin(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    table = table.drop_duplicates().rename(columns={"Seen Examples": "x", "Loss": "L"})
    table = table[table["Domain"] == "NMT"]
    forms = {
        "power law": (laws.power("x"), 0.2217),
        "with floor": (laws.floor("x"), 0.0482),
        "broken": (laws.broken("x"), 0.0105),
    }
    for name, (form, value) in forms.items():
        errors = []
        for _, runs in table.groupby(["Task", "Model"]):
            known, held = runs[runs["Training"] == 1], runs[runs["Training"] == 0]
            ours = fit(form, known, objective="ls", bootstrap=0)
            off = np.log(ours.predict(x=held["x"].to_numpy()) / held["L"].to_numpy())
            errors.append(float(np.sqrt(np.mean(off**2))))
        quantity = f"translation, {name}: held-out log error"
        yield _row(quantity, value, float(np.mean(errors)), 2e-4, reference="this project")


def _porian(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    fits = pd.read_csv(table.attrs["folder"] / "published_fits.csv")
    keys = ["file", "dataset", "hparams", "warmup", "decay", "param_count", "val"]
    runs = table.rename(columns={"flops": "C", "n": "N", "t": "D", "loss": "L"})
    runs["run_id"] = runs["N"]
    kinds: dict[Literal["akima", "isoflop"], float] = {"akima": 0.01, "isoflop": 0.035}
    for key, published in fits.set_index(keys)["a_bs_median_weighted"].items():
        rows = runs[(runs[keys] == list(key)).all(axis=1)]  # pyright: ignore
        name = "/".join(key[1:]).removesuffix("/val").removesuffix("/train")  # pyright: ignore
        for kind, tolerance in kinds.items():
            found = isoflop(rows, kind=kind, law=laws.chinchilla, bootstrap=20).exponents.set_index(
                "exponent"
            )
            ours = float(found.loc["N_opt", "value"])  # pyright: ignore
            yield _row(f"a, N_opt ~ C^a: {name} ({kind})", published, ours, tolerance)


def _nanochat(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    published = {
        "kaplan_no_emb_with_lm_head": (0.54, 0.49),
        "all_params": (0.37, 0.50),
        "transformer_only": (0.70, 0.41),
    }
    for convention, exponents in published.items():
        rows = table[table["convention"] == convention]
        for name, column, value in zip("ND", ("eff_params", "tokens"), exponents, strict=True):
            runs = rows.rename(columns={"flops_exact": "C", column: name})
            slope, _ = np.polyfit(np.log(runs["C"]), np.log(runs[name]), 1)
            yield _row(f"{name}_opt ~ C^p, counting {convention}: p", value, float(slope), 0.015)


_CHECKS: dict[str, Callable[[pd.DataFrame], Iterator[dict[str, Any]]]] = {
    "besiroglu2024_epoch/svg_extracted_data.csv": _besiroglu,
    "muennighoff2023/c4_runs_fit182.csv": _muennighoff,
    "olmo_ladder2024/ladder_points.csv": _olmo,
    "gadre2024/models104.csv": _gadre,
    "cbs_zhang2024/steps_to_target.csv": _zhang,
    "revisiting2022/benchmark.lang.csv": _alabdulmohsin,
    "porian2024/isoflop_points.csv": _porian,
    "nanochat_pearce_kaplan_tables/nanochat_isoflop_optima.csv": _nanochat,
}
"""The check of each known table, by its path within the folder."""
