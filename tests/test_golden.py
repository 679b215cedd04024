"""What must stay as it is: identities, columns, keys, commands and their options, the public names.

`golden.json` holds them. Something new may be added to it; nothing in it may change or go, or
results folders, specs and scripts of users would break.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from small import call

from scaling import table
from scaling.config import fields_of
from sweeps.spec import Spec, bundled

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
RESULTS = Path(__file__).parents[1] / "results"


def identities(name: str) -> dict[str, object]:
    ids = " ".join(sorted(run.run_id for run in Spec.from_toml(name).runs))
    return {"runs": ids.count(" ") + 1, "sha256": hashlib.sha256(ids.encode()).hexdigest()}


def options(command: str) -> set[str]:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert call(*command.split(), "--help") == 0
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", shown.getvalue()))


@pytest.mark.parametrize("name", sorted(GOLDEN["specs"]))
def test_the_runs_of_a_bundled_spec_keep_their_ids(name):
    assert identities(name) == GOLDEN["specs"][name]


def test_every_bundled_spec_is_held():
    assert set(bundled()) == set(GOLDEN["specs"])


def test_columns_keep_their_names_and_order():
    names = [column.name for column in table.COLUMNS]
    assert [name for name in names if name in GOLDEN["columns"]] == GOLDEN["columns"]


def test_keys_of_a_config_stay():
    assert set(GOLDEN["keys"]) <= set(fields_of())


@pytest.mark.parametrize("command", sorted(GOLDEN["options"]))
def test_a_command_keeps_its_options(command):
    assert set(GOLDEN["options"][command]) <= options(command)


@pytest.mark.parametrize("package", sorted(GOLDEN["public"]))
def test_public_names_stay(package):
    module = importlib.import_module(package)
    assert [name for name in GOLDEN["public"][package] if not hasattr(module, name)] == []


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in RESULTS.glob("*/runs.csv")))
def test_a_committed_table_is_written_again_cell_by_cell(folder, tmp_path):
    rows = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in table.read(RESULTS / folder).to_dict("records")
    ]
    table.write(tmp_path, rows, [])
    old, new = (pd.read_csv(f / "runs.csv", dtype=str) for f in (RESULTS / folder, tmp_path))
    pd.testing.assert_frame_equal(new[list(old)], old)  # columns that came later are added
