"""`scaling schema`: JSON Schemas of what commands print with --json.

The fixture of conftest.py compares the JSON of commands in all tests with the schemas, so that
commands that train, generate or read checkpoints are covered where they are tested.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_schemas import checked, closed, faults
from small import call

from scaling import schemas
from scaling.cli import COMMANDS
from scaling.errors import ConfigError

jsonschema = pytest.importorskip("jsonschema")
RESULTS = Path(__file__).parents[1] / "results"
FEW = ("--bootstrap", "20")


def printing_json() -> set[str]:
    return {
        name
        for name, command in COMMANDS.items()
        if "json" in inspect.signature(command).parameters
    }


def test_every_command_with_json_has_a_schema():
    assert printing_json() <= set(schemas.COMMANDS)
    assert set(schemas.COMMANDS) <= printing_json() | {"inspect"}


@pytest.mark.parametrize("name", schemas.COMMANDS)
def test_a_schema_is_valid_whole_and_printed(name, capsys):
    assert call("schema", name) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == schemas.schema(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    references = {part.split('"')[0] for part in json.dumps(schema).split("#/$defs/")[1:]}
    assert references == set(schema.get("$defs", {}))


def test_schemas_are_listed_and_a_wrong_name_is_answered(capsys):
    assert call("schema") == 0
    assert capsys.readouterr().out.split() == list(schemas.COMMANDS)
    assert call("schema", "plans") == 2
    assert "no schema is called 'plans'. Did you mean 'plan'?" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        schemas.schema("")


def test_schemas_need_no_package():
    code = "import sys, scaling.schemas; print({'numpy', 'pandas', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ)  # fmt: skip
    assert done.stdout == "set()\n"


def headline(command: str, *words: str) -> list[str]:
    return [command, str(RESULTS / "headline"), *words]


OUTPUTS = {
    "fit": headline("fit", *FEW),
    "fits": headline("fit", *FEW, "--law", "kaplan_ND", "--row-noise", "auto", "--law", "floor_C"),
    "without intervals": headline("fit", "--bootstrap", "0", "--intervals", "delta"),
    "combined fit": headline("fit", "--law", "auto", *FEW),
    "laws": ["laws"],
    "validate": headline("validate", *FEW),
    "regret": headline("validate", "--regret", "--against", "kaplan_ND"),
    "frontier": headline("frontier", *FEW),
    "isoflop": ["frontier", str(RESULTS / "isoflop"), "--method", "isoflop", *FEW],
    "kaplan": ["frontier", str(RESULTS / "batch"), "--method", "kaplan", *FEW],
    "plan": headline("plan", "--flops", "1e15", "--law", "chinchilla"),
    "plan of a budget": headline("plan", "--gpus", "8", "--hours", "1", "--law", "kaplan_ND"),
    "plan of a loss": headline("plan", "--loss", "3", "--law", "chinchilla", "--law", "kaplan_ND"),
    "prediction": headline("plan", "--params", "1e6", "--tokens", "1e8", "--law", "chinchilla"),
    "records": headline("plan", "--score"),
    "design": headline("design", "--budget", "1e14", "--most-runs", "6", "--law", "chinchilla",
                       "--bootstrap", "20"),
    "compare": ["compare", str(RESULTS / "size"), str(RESULTS / "lstm")],
}  # fmt: skip


@pytest.mark.parametrize("case", OUTPUTS)
def test_an_output_follows_its_schema(case, capsys):
    words = OUTPUTS[case]
    with checked() as seen:
        assert call(*words, "--json") == 0
    assert seen == [words[0]]
    value = json.loads(capsys.readouterr().out)
    jsonschema.validate(value, schemas.schema(words[0]))


def test_a_field_that_is_missing_added_or_of_another_kind_is_found(capsys):
    assert call(*OUTPUTS["plan"], "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert faults("plan", value) == []
    for change in (
        lambda v: v.pop("L"),
        lambda v: v["L"].update(value="3.1"),
        lambda v: v["recipe"].pop("lr"),
        lambda v: v.update(new=1),
        lambda v: v["laws"]["chinchilla"]["C"].update(new=1),
    ):
        changed = copy.deepcopy(value)
        change(changed)
        assert faults("plan", changed)


def objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for each in schema for found in objects(each)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if schema.get("type") == "object" else []
    return own + [found for each in schema.values() for found in objects(each)]


@settings(deadline=None)
@given(st.sampled_from(sorted(schemas.COMMANDS)))
def test_schemas_are_open_for_consumers_and_closed_in_tests(name):
    schema = schemas.schema(name)
    assert all(each.get("additionalProperties") is not False for each in objects(schema))
    assert all("additionalProperties" in each for each in objects(closed(schema)))
