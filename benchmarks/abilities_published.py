"""Which form predicts the accuracy of larger runs best, on published tables of tasks.

    python benchmarks/abilities_published.py PUBLISHED [--check] [--tables NAMES]

PUBLISHED holds loss_to_loss2024/sweep_3sets.csv (Brandfonbrener et al. 2024, runs on three
training sets) and gadre2024/models104.csv (Gadre et al. 2024, mean errors over 17 and 46 tasks).
Each training set is a ladder of its own. For each ladder and task, every form is fitted to the
smaller runs and predicts the larger ones from N and D; the table shows the held-out error of each
form, in brackets that over the error of the best constant, and the verdict ("!": a degenerate fit).
The last line sums up.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.abilities.forms import FORMS
from analysis.abilities.tasks import Abilities, task_laws

TASKS = {
    "arc_easy_test_acc": ("arc_easy_test_ctx_ce_loss", 2376, 0.25),
    "hellaswag_test_len_norm": ("hellaswag_test_ctx_ce_loss", 10042, 0.25),
    "piqa_test_len_norm": ("piqa_test_ctx_ce_loss", 1838, 0.5),
    "sciq_test_acc": ("sciq_test_ctx_ce_loss", 1000, 0.25),
    "openbook_qa_test_len_norm": ("openbook_qa_test_ctx_ce_loss", 500, 0.25),
    "arc_challenge_test_len_norm": ("arc_challenge_test_ctx_ce_loss", 1172, 0.25),
    "boolq_test_acc": ("boolq_test_ctx_ce_loss", 3270, 0.5),
    "winogrande_test_acc": ("downstream_ce_loss/winogrande_test_ce_loss", 1267, 0.5),
    "mmlu_humanities_test_len_norm": (
        "downstream_ce_loss/mmlu_humanities_test_ce_loss", 4705, 0.25,
    ),
    "mmlu_stem_mc_5shot_test_len_norm": (
        "downstream_ce_loss/mmlu_stem_mc_5shot_test_ce_loss", 3018, 0.25,
    ),
}  # fmt: skip
"""{column of the accuracy: (column of the loss on the right answers, items, level of guessing)}."""
GADRE = {"err_avg17": 0.143, "err_avg46": None}
"""Level of guessing of the mean over tasks: 1 - eps of the paper; None for that of the worst
model."""


def loss_to_loss(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the scores of each training set of loss_to_loss2024."""
    table = pd.read_csv(folder / "loss_to_loss2024" / "sweep_3sets.csv")
    found = {}
    for data, runs in table.groupby("data"):
        parts = []
        for column, (loss, n, chance) in TASKS.items():
            value = runs[f"eval/downstream/{column}"]
            nll = runs[f"eval/{loss}" if "/" in loss else f"eval/downstream/{loss}"]
            parts.append(
                scores(
                    column.split("_test")[0], runs["id"], value, nll, runs["val_loss"], n, chance,
                    runs["params"], runs["tokens"],
                )
            )  # fmt: skip
        found[f"loss_to_loss2024 {data}"] = pd.concat(parts, ignore_index=True)
    return found


def gadre(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the scores of each training set of gadre2024; there is no loss on the tasks."""
    table = pd.read_csv(folder / "gadre2024" / "models104.csv")
    found = {}
    for data, runs in table.groupby("train_set"):
        parts = []
        for column, chance in GADRE.items():
            value = 1 - runs[column]
            parts.append(
                scores(
                    column, runs["name"], value, np.nan * value, runs["loss_c4_val"], 20_000,
                    float(value.min()) if chance is None else chance, runs["N"], runs["D"],
                )
            )  # fmt: skip
        found[f"gadre2024 {data}"] = pd.concat(parts, ignore_index=True)
    return found


def scores(
    task: str,
    run_id: pd.Series,
    value: pd.Series,
    nll: pd.Series,
    L: pd.Series,
    n: int,
    chance: float,
    N: pd.Series,
    D: pd.Series,
) -> pd.DataFrame:
    """Return the scores of one task as `analysis.abilities.scores.load_scores` does."""
    table = pd.DataFrame(
        {"run_id": run_id, "value": value, "nll": nll, "L": L, "N": N, "D": D, "C": 6.0 * N * D}
    ).dropna(subset=["value", "L", "N", "D"])
    stderr = np.sqrt(table["value"] * (1 - table["value"]) / n)
    return table.assign(
        task=task, shots=0, metric="accuracy", n=n, chance=chance, stderr=stderr
    ).reset_index(drop=True)


def report(name: str, found: Abilities) -> list[dict[str, object]]:
    """Print the table of one ladder; return a row for each task and form."""
    print(f"\n{name}")
    print(f"  {'task':<20}{'runs':>5}  " + "  ".join(f"{f[:22]:>22}" for f in FORMS) + "  verdict")
    rows = []
    for each in found:
        cells = []
        for form in FORMS:
            tried = None if each.trial is None else each.trial.tried.get(form)
            if tried is None or not np.isfinite(tried.error):
                cells.append("-")
                continue
            mark = "!" if tried.fitted.degenerate else ""
            cells.append(f"{tried.error:.4f} ({tried.error / tried.constant:.2f}){mark}")
            rows.append(
                {"ladder": name, "task": each.task, "form": form, "error": tried.error,
                 "ratio": tried.error / tried.constant, "given_loss": tried.given_loss,
                 "degenerate": bool(tried.fitted.degenerate), "code": each.code}
            )  # fmt: skip
        shown = "  ".join(f"{cell:>22}" for cell in cells)
        print(f"  {each.task:<20}{each.runs:>5}  {shown}  {each.code}", flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tables", default="", help="only ladders whose name contains this")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    ladders = loss_to_loss(args.published) | gadre(args.published)
    rows: list[dict[str, object]] = []
    codes: list[str] = []
    for name, table in ladders.items():
        if args.tables in name:
            found = task_laws(table)
            codes += [each.code for each in found]
            rows += report(name, found)
    table = pd.DataFrame(rows)
    if args.csv is not None:
        table.to_csv(args.csv, index=False)
    shared = table.groupby(["ladder", "task"])["form"].transform("size") == table.groupby("ladder")[
        "form"
    ].transform("nunique")
    summary = table[shared].groupby("form").agg(
        mean=("error", "mean"), median=("error", "median"), ratio=("ratio", "median"),
        given_loss=("given_loss", "mean"), degenerate=("degenerate", "sum"),
        cells=("error", "size"),
    )  # fmt: skip
    print(f"\n{summary.sort_values('mean').to_string(float_format=lambda x: f'{x:.4f}')}")
    by_form = summary["median"]
    sigmoids = by_form[[name for name in by_form.index if name.startswith("sigmoid")]]
    others = by_form.drop(index=sigmoids.index)
    counts = {code: codes.count(code) for code in dict.fromkeys(codes)}
    print(
        f"best={str(by_form.idxmin()).replace(' ', '_')} sigmoid={sigmoids.min():.4f} "
        f"others={others.min():.4f} tasks={len(codes)} "
        + " ".join(f"{code}={count}" for code, count in counts.items())
    )
    return int(args.check and not sigmoids.min() <= others.min())


if __name__ == "__main__":
    sys.exit(main())
