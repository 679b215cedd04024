"""Checks made before anything trains: the requested workers, the runs and their texts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import progress
from scaling.columns import is_command
from scaling.command_run import CommandRun, Run
from scaling.config import DataConfig, RunConfig
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.extras import require
from sweeps.errors import StoreError
from sweeps.options import SweepOptions
from sweeps.result import Row
from sweeps.runner.checks import check_commands
from sweeps.runner.checks import check_options as check_command_options
from sweeps.runner.runner import Runner
from sweeps.spec import Spec
from sweeps.store import Store

if TYPE_CHECKING:
    from scaling.data.corpus import TokenFiles


_TEXT_FIELDS = [f.name for f in fields(DataConfig) if f.name not in ("unique_tokens", "data_seed")]
"""Fields that determine the token files. Runs may train on subsets of these."""

_TextKey = tuple[Any, ...]
"""Values of the text fields."""


@dataclass
class _Text:
    """The token files that several runs share."""

    data: DataConfig
    files: TokenFiles
    others: dict[str, Path] = field(default_factory=dict)
    """Test splits of the corpora in eval.others, in the same tokens, by corpus."""
    labels: dict[str, str] = field(default_factory=dict)
    """Hashes of files of labels."""


def prepare(
    name: str,
    store: Store,
    runs: Iterable[Run],
    rows: Mapping[str, Row],
    execution: Execution,
    recorded: Mapping[str, str] | None = None,
    runner: Runner | None = None,
) -> dict[str, str]:
    """Create the token files of `runs` and check what would otherwise fail only during training.

    Returns the hashes of the texts by name (:func:`scaling.data.corpus.hashes`), including those
    `recorded` earlier in the same call. Raises ConfigError for a run that cannot be trained as
    configured and for a text that has changed since it was recorded, and StoreError if results on
    different texts would mix. `name` is the sweep's name for messages. Runs of a command, which
    `runner` executes, have no texts: their program must be there.
    """
    if runner is not None:
        check_commands(name, (run for run in runs if isinstance(run, CommandRun)), runner)
        return {}
    # Importing torch takes seconds. auto and cpu exist everywhere, and one device needs no launch.
    if execution.device not in ("auto", "cpu"):
        from scaling.devices.device import device_of

        device_of(execution.device)
    from scaling.data import corpus

    if execution.keep_weights:
        require("safetensors")
    progress.step("checking the runs")
    texts: dict[_TextKey, _Text] = {}
    checked: set[tuple[Any, ...]] = set()
    for run in (run for run in runs if isinstance(run, RunConfig)):
        try:
            if execution.micro_tokens is not None and execution.micro_tokens < run.model.n_ctx:
                raise ConfigError(
                    f"micro_tokens={execution.micro_tokens} is less than one context of "
                    f"model.n_ctx={run.model.n_ctx}; use a multiple of that."
                )
            if execution.devices > 1 or run.precision == "tf32":
                from scaling.devices import launch

                launch.check(run, execution)
            _check_run(run, texts, checked)
        except ConfigError as error:
            tag = f" {run.tag!r}" if run.tag else ""
            raise ConfigError(f"{name}, run {run.run_id}{tag}: {error}") from None
    known = dict(recorded or {})
    for key, text in texts.items():
        found = corpus.hashes(text.data, text.files, text.others, text.labels)
        corpus.check_unchanged(found, known)
        if not found.keys() <= known.keys():
            _check_rows(store, rows, key, text, found)
        known |= found
    return known


def _check_run(run: RunConfig, texts: dict[_TextKey, _Text], checked: set[tuple[Any, ...]]) -> None:
    """Raise ConfigError for a learning rate, text, subset or test set that training would reject.

    `texts` and `checked` cache what earlier runs share with this one.
    """
    from scaling.data import corpus
    from scaling.data.labels import LabelledExcerpts, labels_hash
    from scaling.data.windows import TrainTokens, held_out_windows
    from scaling.training.schedule import optimizer_settings, peaks

    try:
        peaks(run)
        optimizer_settings(run)
    except OverflowError:
        raise ConfigError(
            f"optim.lr={run.optim.lr!r} overflows at this run's N, D and B; use smaller powers."
        ) from None
    key = tuple(getattr(run.data, name) for name in _TEXT_FIELDS)
    if key not in texts:
        texts[key] = _Text(run.data, corpus.prepare(run.data))
    files, others = texts[key].files, texts[key].others
    n_ctx, test_tokens = run.model.n_ctx, run.eval.test_tokens
    if run.classify.labels:
        if (task := (run.data, run.model, run.classify, test_tokens)) not in checked:
            LabelledExcerpts(files, run)
            checked.add(task)
        if run.classify.is_file:
            texts[key].labels[run.classify.labels] = labels_hash(run.classify)
        return
    if (subset := (run.data, n_ctx)) not in checked:
        TrainTokens(files, run.data, n_ctx)
    if (test := (key, n_ctx, test_tokens)) not in checked:
        held_out_windows(files.test, test_tokens, n_ctx)
    for name in run.eval.other_corpora:
        if name != run.data.corpus and name not in others:
            others[name] = files.test_of(name)
    checked |= {subset, test}


def _check_rows(
    store: Store, rows: Mapping[str, Row], key: _TextKey, text: _Text, found: Mapping[str, str]
) -> None:
    """Raise StoreError if finished runs were trained or tested on another text."""
    from scaling.data import corpus

    recorded = store.manifest().get("corpus_hashes")
    recorded = recorded if isinstance(recorded, dict) else {}
    where = store.shown(store.folder)
    cure = "Losses would not compare; use another folder with --results, or restore the text."
    for row in rows.values():
        if tuple(row.get(name) for name in _TEXT_FIELDS) != key:
            continue
        before = row.get("corpus_hash")  # the table keeps only the first digits
        if before and not text.files.hash.startswith(before):
            raise StoreError(
                f"{where}: run {row['run_id']} was trained on another text: corpus "
                f"{row['corpus']!r} ({row['tokenizer']}) had hash {before} and has "
                f"{text.files.hash[: len(before)]} now. {cure}"
            )
        labels = str(row.get("labels") or "")
        before, now = recorded.get(f"labels of {labels}"), text.labels.get(labels)
        if now is not None and isinstance(before, str) and before != now:
            raise StoreError(
                f"{where}: run {row['run_id']} was trained on another file of labels: {labels} had "
                f"hash {before[:16]} and has {now[:16]} now. {cure}"
            )
        for other in map(str.strip, str(row.get("others") or "").split(",")):
            if other not in text.others:
                continue
            name = corpus.text_name(text.data, test_of=other)
            before, now = recorded.get(name), found[name]
            if isinstance(before, str) and before != now:
                raise StoreError(
                    f"{where}: run {row['run_id']} was tested on another text: corpus {other!r} "
                    f"of eval.others had hash {before[:16]} and has {now[:16]} now. {cure}"
                )


def check_kind(store: Store, rows: Mapping[str, Row], runner: Runner | None) -> None:
    """Raise StoreError if the results of a folder are of another kind than the runs of a spec."""
    first = next(iter(rows.values()), None)
    if first is None or is_command(first) == (runner is not None):
        return
    there, here = "a command", "the built-in trainer"
    if runner is not None:
        there, here = here, there
    raise StoreError(
        f"{store.shown(store.folder)} holds runs of {there}, and this spec trains by {here}. "
        "Their columns differ, so each kind needs a folder of its own: choose another folder with "
        "--results, or another name for the spec."
    )


def check_options(options: SweepOptions, runner: Runner | None = None) -> int:
    """Return the number of workers that will run; with `runner`, each of them runs a command.

    Raises ConfigError for incompatible options, and if this machine has too few cores.
    """
    if runner is not None:
        check_command_options(options, runner)
    execution, address = options.execution, options.address
    if type(options.workers) is not int or options.workers < 1:
        raise ConfigError(f"workers={options.workers!r} must be a whole number of at least 1.")
    if address is not None and options.in_process:
        raise ConfigError(
            f"address={address!r} names a cluster, which in_process would not use; choose one."
        )
    if options.retries < 0:
        raise ConfigError(f"retries={options.retries} must not be negative.")
    if execution.nodes > 1 and options.in_process:
        raise ConfigError(
            f"nodes={execution.nodes}, but in_process trains on this machine only. Give the "
            "address of a Ray cluster instead; or train one run, without Ray, with `torchrun "
            f"--nnodes {execution.nodes} ... -m scaling.cli train` on every node "
            "(docs/cluster.md)."
        )
    if execution.nodes > 1 and execution.compile:
        raise ConfigError(
            "compile is decided by measurements, which are not made with "
            f"nodes={execution.nodes}; leave it out."
        )
    workers = 1 if options.in_process else options.workers
    ray = sys.modules.get("ray")
    if address or (ray is not None and ray.is_initialized() and not options.in_process):
        return workers  # the cluster knows its resources
    if execution.nodes > 1:
        raise ConfigError(
            f"nodes={execution.nodes}, but without an address the sweep has this machine only. "
            "Start Ray on the nodes and give --address host:port, or auto (docs/cluster.md)."
        )
    cores = _available_cores()
    if runner is not None and runner.cpus is not None:
        if workers * runner.cpus > cores:
            raise ConfigError(
                f"workers={workers} of [runner] resources.cpus={runner.cpus:g} take "
                f"{workers * runner.cpus:g} cores, but this process may use {cores}; ask for fewer."
            )
        return workers
    if (needed := workers * execution.threads * execution.devices) > cores:
        devices = f" on devices={execution.devices}" if execution.devices > 1 else ""
        raise ConfigError(
            f"workers={workers} of threads={execution.threads}{devices} take {needed} cores, "
            f"but this process may use {cores}; ask for fewer workers, or for fewer threads each."
        )
    return workers


def check_joined(options: SweepOptions, spec: Spec, store: Store) -> None:
    """Raise ConfigError for a sweep that several drivers cannot share as `options` say."""
    if not options.join:
        return
    if spec.searches is not None:
        raise ConfigError(
            f"{spec.name} has [until]: its results decide which runs follow, so one process has "
            "to decide. Leave out --join (with --slurm, leave out array=) and give that process "
            "more workers."
        )
    if store.remote is not None:
        raise ConfigError(
            f"{store.shown(store.folder)} is a URI, where processes cannot see which runs others "
            "train. Share a folder (--join, or array= of --slurm) on a file system with locks."
        )
    for name, given in (("--retry-failed", options.retry_failed), ("--reuse", options.reuse)):
        if given:
            raise ConfigError(
                f"{name} cannot be used with --join: each process would do it again. Give it "
                "to one process without --join, and start the others when that has ended."
            )


def _available_cores() -> int:
    """Return the number of cores that this process may use, or all cores if the system cannot
    tell."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
