"""Sweeps in Slurm: the script, a stand-in for sbatch that executes it, and a real Slurm.

The tests with a real Slurm start private daemons on loopback. They need root, `slurmctld`,
`slurmd` and `munged` (Debian: slurm-wlm and munge), and are skipped elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from disturbed import LONG, Project, assert_same_results, starts, wait_for
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL, call

from scaling.errors import ConfigError
from sweeps import Sweep, leases
from sweeps.options import SweepOptions
from sweeps.slurm.script import share_of
from sweeps.slurm.settings import parse
from sweeps.slurm.submit import submit
from sweeps.spec import Spec
from sweeps.store import Store

SBATCH = """#!/bin/bash
# Executes a script as sbatch does, one process per task of its array, and prints a job id.
[ "$1" = --parsable ] || exit 1
option() { sed -n "s/^#SBATCH --$1=//p" "$2"; }
tasks=$(option array "$2") log=$(option output "$2") job=17
export SLURM_JOB_ID=$job SLURM_JOB_NODELIST=here SLURM_CPUS_ON_NODE=2 FAKE_SCRIPT=$2
export SLURM_CPUS_PER_TASK=$(option cpus-per-task "$2")
if [ -z "$tasks" ]; then
    setsid bash "$2" > "${log/\\%j/$job}" 2>&1 &
else
    for task in $(seq 0 "${tasks#0-}"); do
        export SLURM_ARRAY_JOB_ID=$job SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=$((job + task))
        file=${log/\\%A/$job}
        setsid bash "$2" > "${file/\\%a/$task}" 2>&1 &
    done
fi
echo "$job;cluster"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" >> "$(dirname "$0")/requeued"; else echo here; fi
"""


@pytest.fixture
def spec(here: Path) -> Spec:
    (here / "small.toml").write_text(SMALL)
    return Spec.from_toml("small.toml")


def printed(spec: Spec, *slurm: str, **options: object) -> str:
    lines: list[str] = []
    submit(Sweep(spec), slurm, SweepOptions.of(None, options), dry_run=True, say=lines.append)
    return "\n".join(lines)


def header(text: str) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, flags=re.MULTILINE)
    assert len({key for key, _ in found}) == len(found)
    return dict(found)


# -------------------------------------------------------------- the script


def test_a_dry_run_prints_a_script_and_writes_nothing(spec: Spec, capsys: pytest.CaptureFixture):
    words = ("--slurm", "partition=gpu", "--slurm", "nodes=2", "--slurm", "exclusive")
    assert call("sweep", "small.toml", *words, "--workers", "8", "--dry-run") == 0
    text = capsys.readouterr().out
    assert not Path("results").exists()
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    options = header(text)
    assert options["partition"] == "gpu" and options["nodes"] == "2" and "exclusive" in options
    assert "cpus-per-task" not in options  # all CPUs of the nodes
    assert "scaling.cli sweep small.toml --workers 8 --address auto\n" in text
    assert "array" not in options and "ray" in text


def test_the_script_of_an_array_needs_neither_ray_nor_a_server(spec: Spec):
    text = printed(spec, "array=16%4", "time=1:00:00", "account=me", threads=3, retry_failed=True)
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    options = header(text)
    assert options["array"] == "0-15%4" and options["cpus-per-task"] == "3"
    assert options["time"] == "1:00:00" and options["account"] == "me"
    assert options["output"].endswith("results/small/slurm/small-%A_%a.log")
    command = text.strip().splitlines()[-1]
    assert command.endswith("sweep small.toml --threads 3 --in-process --join")
    assert "ray" not in text.lower().replace("array", "")


@pytest.mark.parametrize(
    "slurm, options, cpus, gpus",
    [
        (["nodes=1"], {"workers": 4}, 4, 0),
        (["nodes=3"], {"workers": 8, "threads": 2}, 6, 0),
        (["nodes=2"], {"workers": 3, "devices": 4, "device": "cuda"}, 8, 8),
        (["nodes=4"], {"workers": 2, "devices": 16, "nodes": 2, "device": "cuda"}, 8, 8),
        (["array=5"], {"workers": 9, "devices": 2, "device": "cuda"}, 2, 2),
    ],
)
def test_the_resources_of_a_node_follow_from_the_options(
    spec: Spec, slurm: list[str], options: dict[str, object], cpus: int, gpus: int
):
    text = header(printed(spec, *slurm, **options))
    share = share_of(spec, SweepOptions.of(None, options), parse(slurm))
    assert (share.cpus, share.gpus) == (cpus, gpus)
    assert text["cpus-per-task"] == str(cpus)
    assert text.get("gpus-per-node", "0") == str(gpus)
    given_ones = header(printed(spec, *slurm, "cpus-per-task=7", "gres=gpu:a100:1", **options))
    assert given_ones["cpus-per-task"] == "7" and "gpus-per-node" not in given_ones


@given(
    st.dictionaries(
        st.from_regex("[a-z][a-z0-9]{1,8}(-[a-z]{1,5})?", fullmatch=True).filter(
            lambda key: key not in ("nodes", "array", "wrap", "wait", "chdir", "ntasks")
        ),
        st.none() | st.text("abc:,=%+-./#'\\ 123", min_size=1).map(str.strip).filter(bool),
        max_size=5,
    )
)
def test_options_of_sbatch_arrive_as_they_are_given(options: dict[str, str | None]):
    words = [key if value is None else f"{key}={value}" for key, value in options.items()]
    assert parse(words).options == options
    assert parse([f"--{word}" for word in words]).options == options


@pytest.mark.parametrize(
    "words, message",
    [
        (["nodes=two"], "nodes=two: must be a whole number"),
        (["array=0-3"], "array=0-3: must be the number of tasks"),
        (["array=4", "nodes=2"], "each task of an array has one node"),
        (["partition"], None),
        (["partition="], "a value is missing"),
        (["time=1:00", "t=2:00"], "time is given twice"),
        (["wrap=true"], "leave it out"),
        (["ntasks=4"], "--workers sets"),
        (["=gpu"], "must be KEY=VALUE"),
        (["comment=a\n#SBATCH --uid=0"], "characters that a script cannot hold"),
        (["p=gpu"], None),
    ],
)
def test_what_slurm_cannot_mean_is_refused(words: list[str], message: str | None):
    if message is None:
        assert "partition" in parse(words).options
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(words)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"in_process": True}, "--in-process"),
        ({"join": True}, "--join"),
        ({"address": "auto"}, "-"),
    ],
)
def test_options_that_the_script_sets_are_refused(
    spec: Spec, options: dict[str, object], name: str
):
    with pytest.raises(ConfigError, match=f"{name}.* is set by the script"):
        printed(spec, "nodes=2", **options)


def test_an_array_refuses_a_spec_that_grows(here: Path, capsys: pytest.CaptureFixture[str]):
    text = SMALL + '"optim.lr" = [1e-3, 2e-3, 4e-3]\n[until]\nlr = { within = 1.2 }\n'
    (here / "grows.toml").write_text(text)
    assert call("sweep", "grows.toml", "--slurm", "array=2", "--dry-run") == 2
    assert "leave out array=" in capsys.readouterr().err
    assert call("sweep", "grows.toml", "--slurm", "nodes=2", "--dry-run") == 0


def test_without_sbatch_the_script_is_written_and_named(
    spec: Spec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", "/nowhere")
    assert call("sweep", "small.toml", "--slurm", "array=2") == 2
    shown = capsys.readouterr()
    assert "`sbatch results/small/slurm/small.sh`" in shown.err
    script = Path("results/small/slurm/small.sh")
    assert script.read_text().strip() in shown.out
    assert os.access(script, os.X_OK)


def test_what_sbatch_refuses_is_told(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stand_in(tmp_path, "sbatch", "#!/bin/sh\necho 'sbatch: error: no partition x' >&2\nexit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    assert call("sweep", "small.toml", "--slurm", "partition=x") == 2
    assert "did not take the script" in (err := capsys.readouterr().err) and "no partition x" in err
    assert Store("results/small").slurm_job() == ""


# -------------------------------------------------------------- a stand-in for sbatch


def stand_in(folder: Path, name: str, text: str) -> Path:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def cluster(project: Project) -> Iterator[Project]:
    """A project whose sbatch executes the script on this machine."""
    stand_in(project.folder, "sbatch", SBATCH)
    stand_in(project.folder, "scontrol", SCONTROL)
    project.environment["PATH"] = f"{project.folder}/bin:{os.environ['PATH']}"
    yield project
    for task in tasks_of(project):
        os.killpg(task, signal.SIGKILL)


def tasks_of(project: Project) -> list[int]:
    """Process ids of the scripts that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"bash" and words[1:2] and str(project.folder).encode() in words[1]:
            found.append(int(path.name))
    return [pid for pid in found if os.getpgid(pid) == pid]


def ended(project: Project) -> bool:
    return not tasks_of(project)


def status_of(project: Project) -> str:
    """Return what `scaling status` prints and notes."""
    return subprocess.run(
        [sys.executable, "-m", "scaling.cli", "status", "results/long"],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


SUBMIT = ["sweep", "long.toml", "--checkpoint-seconds", "0.2", "--no-packs"]


def test_a_killed_task_of_an_array_loses_nothing(cluster: Project, undisturbed: Store):
    spec = cluster.spec("long", LONG)
    out = cluster.command([*SUBMIT, "--slurm", "array=2", "--slurm", "time=5"])
    assert "submitted Slurm job 17; script results/long/slurm/long.sh, log" in out
    store = cluster.store("long", "results")
    assert store.slurm_job() == "17"
    longest = max(spec.runs, key=lambda run: run.D).run_id
    wait_for(lambda: (store.run_folder(longest) / "checkpoint.pt").exists())
    assert {driver.job for driver in store.drivers()} <= {"17_0", "17_1"}
    os.kill(starts(store, longest)[0], signal.SIGKILL)
    wait_for(lambda: ended(cluster), 200)
    assert_same_results(store, undisturbed)
    attempts = {run_id: len(starts(store, run_id)) for run_id in store.run_ids()}
    assert attempts.pop(longest) == 2 and set(attempts.values()) == {1}
    assert "all finished: nothing to train" in cluster.command([*SUBMIT, "--slurm", "array=2"])


def test_a_task_whose_time_is_up_is_queued_again_and_resumes(cluster: Project, undisturbed: Store):
    spec = cluster.spec("long", LONG)
    cluster.command([*SUBMIT, "--slurm", "array=1"])
    store = cluster.store("long", "results")
    longest = max(spec.runs, key=lambda run: run.D).run_id
    wait_for(lambda: (store.run_folder(longest) / "checkpoint.pt").exists())
    (task,) = tasks_of(cluster)
    os.kill(task, signal.SIGUSR1)
    wait_for(lambda: ended(cluster), 60)
    assert (cluster.folder / "bin" / "requeued").read_text() == "17\n"
    assert store.attempts(longest)[-1]["event"] == "interrupted"
    again = subprocess.run(
        ["bash", str(store.folder / "slurm" / "long.sh")],
        env=cluster.environment,
        capture_output=True,
        timeout=200,
    )
    assert again.returncode == 0, again.stderr
    assert_same_results(store, undisturbed)
    assert len(starts(store, longest)) == 2


@pytest.mark.slow
def test_one_allocation_starts_ray_and_removes_it(cluster: Project, undisturbed: Store):
    cluster.spec("long", LONG)
    cluster.command([*SUBMIT, "--slurm", "nodes=1"])
    store = cluster.store("long", "results")
    wait_for(lambda: ended(cluster), 200)
    assert_same_results(store, undisturbed)
    assert not Path("/tmp/ray-17").exists()


def test_cancel_names_the_command_where_slurm_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from sweeps.control import cancel
    from sweeps.errors import StoreError

    store = Store(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SLURM_JOB_ID", "23")
    monkeypatch.setenv(leases.MARK, "1")
    (tmp_path / "runs").mkdir()
    with store.drive(), pytest.raises(StoreError, match="scancel --batch --signal=TERM 23"):
        cancel(tmp_path)


# -------------------------------------------------------------- a real Slurm


class Slurm:
    """Private daemons of Slurm with two nodes on this machine."""

    PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        ports = free_ports(3)
        (folder / "slurm.conf").write_text(
            f"""ClusterName=private
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=15
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=1000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
        )
        munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
        munge += [f"--{what}={folder}/munge" for what in ("socket",)]
        munge += [f"--{what}-file={folder}/munge.{what}" for what in ("pid", "log", "seed")]
        self._start(munge)
        wait_for(lambda: (folder / "munge").exists(), 10)
        self._start(["slurmctld", "-D", "-c"])
        for node in ("n1", "n2"):
            self._start(["slurmd", "-D", "-N", node])
        wait_for(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", 60)

    def _start(self, words: Sequence[str]) -> None:
        daemon = subprocess.Popen(
            words,
            env=os.environ | self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._daemons.append(daemon)

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env=os.environ | self.environment, capture_output=True, text=True, timeout=30
        )

    def ask(self, *words: str) -> str:
        return self._run(*words).stdout

    def running(self) -> bool:
        """Whether a job is queued or runs; a controller too busy to answer has not said no."""
        jobs = self._run("squeue", "-h")
        return jobs.returncode != 0 or bool(jobs.stdout.strip())

    def close(self) -> None:
        self.ask("scancel", "--user=root")
        wait_for(lambda: not self.running(), 60)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(20)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    missing = [name for name in Slurm.PROGRAMS if shutil.which(name) is None]
    if missing or sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip(f"needs root and Slurm's programs; missing: {', '.join(missing) or 'root'}")
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        slurm = Slurm(Path(folder))
        yield slurm
        slurm.close()


@pytest.fixture
def site(project: Project, slurm: Slurm) -> Iterator[Project]:
    """A project on a machine of a Slurm cluster."""
    project.environment |= slurm.environment
    yield project
    slurm.ask("scancel", "--user=root")
    wait_for(lambda: not slurm.running(), 60)


def test_an_array_in_slurm_survives_the_kill_of_a_task(
    site: Project, slurm: Slurm, undisturbed: Store
):
    spec = site.spec("long", LONG)
    out = site.command([*SUBMIT, "--slurm", "array=3", "--slurm", "time=10"])
    store = site.store("long", "results")
    job = store.slurm_job()
    assert f"submitted Slurm job {job};" in out
    longest = max(spec.runs, key=lambda run: run.D).run_id
    wait_for(lambda: (store.run_folder(longest) / "checkpoint.pt").exists())
    assert all(driver.job.startswith(f"{job}_") for driver in store.drivers())
    assert "running" in site.command(["status", "results/long"])
    os.kill(starts(store, longest)[0], signal.SIGKILL)
    wait_for(lambda: not slurm.running(), 200)
    assert_same_results(store, undisturbed)
    attempts = {run_id: len(starts(store, run_id)) for run_id in store.run_ids()}
    assert attempts.pop(longest) == 2 and set(attempts.values()) == {1}


def test_a_job_in_slurm_is_queued_again_when_its_time_is_up(
    site: Project, slurm: Slurm, undisturbed: Store
):
    spec = site.spec("long", LONG)
    site.command([*SUBMIT, "--slurm", "array=1"])
    store = site.store("long", "results")
    job = store.slurm_job()
    longest = max(spec.runs, key=lambda run: run.D).run_id
    wait_for(lambda: (store.run_folder(longest) / "checkpoint.pt").exists())
    slurm.ask("scancel", "--batch", "--signal=USR1", job)  # as Slurm does before the end
    wait_for(lambda: slurm.ask("squeue", "-h", "-o", "%T").strip() == "PENDING")
    assert store.attempts(longest)[-1]["event"] == "interrupted" and not store.drivers()
    time.sleep(3)  # slurmd refuses a job that begins in the second of its requeue
    slurm.ask("scontrol", "update", f"JobId={job}_0", "StartTime=now")  # else two minutes later
    wait_for(lambda: not slurm.running(), 200)
    log = (store.folder / "slurm" / f"long-{job}_0.log").read_text()
    assert "is queued again" in log
    assert len(store.rows()) == 4, log + (slurm.folder / "slurmctld.log").read_text()[-4000:]
    assert_same_results(store, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_allocation_on_two_nodes_is_cancelled_and_resumes(
    site: Project, slurm: Slurm, undisturbed: Store
):
    spec = site.spec("long", LONG)
    words = [*SUBMIT, "--slurm", "nodes=2", "--slurm", "time=10"]
    site.command(words)
    store = site.store("long", "results")
    job = store.slurm_job()
    longest = max(spec.runs, key=lambda run: run.D).run_id
    wait_for(lambda: (store.run_folder(longest) / "checkpoint.pt").exists(), 240)
    assert [driver.job for driver in store.drivers()] == [job]
    assert f"asking Slurm job {job} to stop" in site.command(["cancel", "results/long"])
    assert store.attempts(longest)[-1]["event"] == "interrupted"
    wait_for(lambda: not slurm.running(), 60)
    log = (store.folder / "slurm" / f"long-{job}.log").read_text()
    assert "finished runs and checkpoints are kept" in log
    assert not Path(f"/tmp/ray-{job}").exists()
    site.command(words)
    wait_for(lambda: not slurm.running(), 200)
    assert_same_results(store, undisturbed)


def test_a_job_that_waits_is_withdrawn(site: Project, slurm: Slurm):
    site.spec("long", LONG)
    site.command([*SUBMIT, "--slurm", "array=2", "--slurm", "hold"])
    wait_for(slurm.running, 20)
    assert "has not started the sweep yet" in status_of(site)
    assert "waited to start; it was cancelled" in site.command(["cancel", "results/long"])
    wait_for(lambda: not slurm.running(), 20)
