"""Runs of trackers as tables: a row per run, and a row per evaluation.

A source is `wandb:PATH`, `wandb:ENTITY/PROJECT`, `mlflow:PATH`, `tensorboard:PATH`, or another kind
that :data:`scaling.trackers.TRACKERS` lists. Columns keep the tracker's names here;
:func:`analysis.load` names them as those of any other table.
"""
