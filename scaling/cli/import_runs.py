"""The command that imports the runs of other tools."""

from __future__ import annotations

from pathlib import Path

from scaling.cli.arguments import column_map
from scaling.cli.options import Decimal, Map, Rows, Where
from scaling.cli.output import note, show
from scaling.errors import ConfigError


def import_runs(
    source: str,
    *,
    out: Path | None = None,
    loss: str | None = None,
    rows: Rows = "last",
    map: Map = (),
    where: Where = None,
    decimal: Decimal = None,
) -> None:
    """Import runs of a tracker, or the logs of a trainer, as a table.

    The table has a row per run, with its status; the evaluations of the runs are in
    TABLE.curves.parquet beside it, and how they were read is in TABLE.import.json. Other commands
    find the curves by themselves. They take the source itself too, as in `scaling fit wandb:runs`.

    Example: scaling import wandb:wandb --out runs.csv
    Example: scaling import mlflow:sqlite:///mlflow.db --out runs.parquet --rows best

    Args:
        source: wandb:FOLDER of offline runs, wandb:ENTITY/PROJECT on its server, mlflow:mlruns,
            mlflow:sqlite:///FILE, tensorboard:FOLDER; hf:, lightning:, torchtitan:, nanochat:,
            olmo: or lm_eval: with the folder of a trainer's logs; or a table.
        out: Output file: .csv, .tsv, .parquet or .jsonl.
        loss: Metric that is the loss, or all: one row per run and test set. Default: the metric
            that is called so, if there is only one.
    """
    from analysis.tables.imported import check_out
    from analysis.tables.imported import import_runs as read

    if out is None:
        raise ConfigError("where should the table be written? Say --out runs.csv, for example.")
    check_out(out)
    found = read(source, map=column_map(map), loss=loss, rows=rows, where=where, decimal=decimal)
    record = found.record
    for reason, number in record["left_out"].items():
        note(f"{source}: left out: {number} {reason}.")
    paths = found.write(out)
    statuses = ", ".join(f"{n} {word}" for word, n in record["statuses"].items())
    kind = "losses of" if "test_set" in found.runs.columns else ""
    number = found.runs["run_id"].nunique() if "run_id" in found.runs.columns else len(found.runs)
    what = f"{len(found.runs)} {kind} {number} runs" if kind else f"{number} runs"
    show(f"{paths[0]}: {what} ({statuses}); {record['evaluation'] or 'one row per run'}")
    if len(paths) > 2:
        show(f"{paths[2]}: {len(found.curves)} evaluations")
    show(f"{paths[1]}: how they were read")
