"""The folder for Ray's files and sockets is private, and is removed when its process is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbed import ROOT

from sweeps.errors import StoreError
from sweeps.on_ray import session
from sweeps.on_ray.session import job_config, private_folder, script_folder

HOLD = """
import sys
from sweeps.on_ray.session import job_config, private_folder, script_folder
with private_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the system's folder for temporary files; a longer path than is allowed there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(session, "_LONGEST", 300)
    return tmp_path


@pytest.fixture
def parent(temporary: Path) -> Path:
    return temporary / f"scaling-{os.getuid()}"


def test_nobody_else_enters_the_folder(temporary: Path, parent: Path):
    before = os.umask(0)
    try:
        with private_folder() as folder:
            folder.chmod(0o777)  # as Ray does
            assert folder.parent == parent and parent.stat().st_mode & 0o777 == 0o700
        parent.chmod(0o777)
        with private_folder():
            assert parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert [*temporary.iterdir()] == [parent] and not [*parent.iterdir()]


@pytest.mark.parametrize("planted", ["link", "file"])
def test_what_others_put_in_its_place_is_refused(temporary: Path, parent: Path, planted: str):
    (elsewhere := temporary / "elsewhere").mkdir(mode=0o755)
    if planted == "link":
        parent.symlink_to(elsewhere)
    else:
        parent.write_text("")
    with pytest.raises(StoreError, match="is not a folder of this user"), private_folder():
        pass
    assert not [*elsewhere.iterdir()] and elsewhere.stat().st_mode & 0o777 == 0o755


def test_another_users_folder_is_refused(
    temporary: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
):
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    (theirs := temporary / f"scaling-{mine + 1}").mkdir(mode=0o755)
    with pytest.raises(StoreError, match=f"{theirs}, .* is not a folder of this user"):
        private_folder().__enter__()
    assert theirs.stat().st_mode & 0o777 == 0o755


@pytest.fixture
def holder(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process and the folder that it holds."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += f"import tempfile; tempfile.tempdir = {str(temporary)!r}\n"
    code += "from sweeps.on_ray import session; session._LONGEST = 300\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code + HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_what_killed_processes_left_is_removed_and_nothing_of_those_that_live(
    holder: tuple[subprocess.Popen[str], Path], temporary: Path
):
    process, theirs = holder
    (theirs / "session").mkdir()
    (outside := temporary / "outside").mkdir()
    (outside / "file").write_text("")
    (link := theirs.parent / "sweep-link").symlink_to(outside)
    with private_folder() as mine:
        assert theirs.is_dir() and mine != theirs
    process.kill()
    process.wait()
    with private_folder() as mine:
        assert not theirs.exists() and mine.is_dir()
    assert not mine.exists() and (outside / "file").exists() and link.is_symlink()


def test_sockets_below_it_have_short_paths(monkeypatch: pytest.MonkeyPatch):
    """However long the path that TMPDIR names, and whatever number a user has."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "long" * 20)
    assert session._parent() == Path("/tmp", f"scaling-{os.getuid()}")
    monkeypatch.setattr(os, "getuid", lambda: 2**32 - 2)
    with pytest.raises(StoreError, match="is not a folder of this user"):  # made by another one
        session._parent()
    made = Path("/tmp/scaling-4294967294")
    below = "/sweep-12345678/session_2026-12-31_23-59-59_123456_4194304/sockets/plasma_store"
    assert made.is_dir() and len(f"{made}{below}") <= 107
    shutil.rmtree(made)


def test_what_ray_adds_to_the_search_path_of_workers_is_left_out():
    import sweeps.on_ray.tune  # before Ray itself is imported  # noqa: F401

    config = job_config(["/first", "/second"])
    config._py_driver_sys_path.extend(["/scripts", os.getcwd()])  # as ray.init() does
    # Each is put before what is there.
    assert [*config._get_proto_job_config().py_driver_sys_path] == ["/second", "/first"]


def test_the_folder_of_a_script_is_found_on_other_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    for started in ("-c", str(tmp_path / "module.py")):  # nothing is found beside a module of -m
        monkeypatch.setattr(sys, "argv", [started])
        assert script_folder() == []
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/elsewhere"])
    assert script_folder() == [str(tmp_path)]
