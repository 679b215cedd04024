"""A folder of an object store, or of whatever else pyarrow.fs or fsspec reaches by a URI.

    <uri>/results/<run_id>.json                    one object a run, written in one piece
          runs.csv, curves.parquet, manifest.json, rounds/   as in a local results folder

A :class:`sweeps.store.Store` on a URI works in a local folder and keeps it level with this one.

A URI may carry credentials: s3://KEY:SECRET@bucket/results?endpoint_override=host:9000. They go to the
file system and nowhere else: messages, files and printed commands have :func:`shown` or
:func:`without_credentials`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, unquote_plus

from sweeps.result import is_run_id

_AT_ONCE = 32
"""Requests under way: an object store answers each slowly and many as fast as one."""

_MASK = "***"

_URI = re.compile(r"(?s)(?P<scheme>.*?)://(?P<authority>[^/?#]*)(?P<path>[^?]*)(?P<query>.*)")
"""Splits any text with '://' in it, and leaves every character as it is. urllib.parse.urlsplit
refuses some passwords, in messages that quote them."""

_URI_IN_TEXT = re.compile(r"[A-Za-z][\w+.:-]{0,60}://\S+")

_SECRET = re.compile(
    r"secret|passw|passphrase|token|credential|signature|(access|account|api|private|shared)[-_]?key"
    r"|connection[-_]?str|conn[-_]?str"
    r"|^(auth|authorization|key|pass|pwd|sas|sig)$",
    re.IGNORECASE,
)
"""Names of values of a query that are for nobody to see."""

_NESTED = re.compile(r"[^/@]*:[^/@]*@")
"""user:password@ in a value of a query."""

_USER_IS_A_KEY = ("s3", "s3a", "s3n")
"""Schemes whose user is half of the credentials. Elsewhere it may be part of the address: the
container of abfs://container@account/, the account of sftp://user@host/."""

_FEWEST = 4
"""A shorter secret is masked where it stands alone: it may be part of any word."""


class _Parts(NamedTuple):
    """A URI is f"{scheme}://{user}:{password}@{host}{path}?{query}"."""

    scheme: str
    user: str
    password: str
    host: str
    path: str
    query: str

    @classmethod
    def of(cls, uri: str) -> _Parts | None:
        """None where the credentials hold '/', '?' or '#', so that nobody can say where they end."""
        found = _URI.fullmatch(uri)
        assert found is not None, "no URI"
        scheme, authority, path, query = found.group("scheme", "authority", "path", "query")
        if "@" not in authority and ":" in authority and "@" in path + query:
            port = authority.rpartition(":")[2]
            if not port.isdecimal() or scheme in _USER_IS_A_KEY:
                return None
        userinfo, _, host = authority.rpartition("@")
        user, _, password = userinfo.partition(":")
        return cls(scheme, user, password, host, path, query[1:])

    def __str__(self) -> str:
        secret = f":{self.password}" if self.password else ""
        at = "@" if self.user or self.password else ""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.user}{secret}{at}{self.host}{self.path}{query}"

    @property
    def secrets(self) -> list[str]:
        """The password and what else is for nobody to see, as they are written."""
        pairs = [pair.partition("=")[::2] for pair in self.query.split("&")]
        nested = [_NESTED.search(unquote(value)) for _, value in pairs]
        passwords = [found[0].partition(":")[2][:-1] for found in nested if found]
        found = [self.password, *(value for name, value in pairs if _is_secret(name)), *passwords]
        return [secret for secret in found if secret]

    def with_values(self, public: Callable[[str, str], str | None]) -> _Parts:
        """With public(name, value) for each value of the query; without those for which it is None."""
        query = []
        for pair in self.query.split("&"):
            name, equals, value = pair.partition("=")
            if (new := public(name, value)) is not None:
                query.append(f"{name}{equals}{new}")
        return self._replace(query="&".join(query))


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(unquote(name)))


def _has_user(value: str) -> bool:
    """Whether a value, such as that of an endpoint, holds user:password@."""
    return bool(_NESTED.search(unquote(value)))


def is_uri(text: str) -> bool:
    return "://" in text


def join(root: str, name: str) -> str:
    """`name` below a folder, local or a URI's: it becomes a part of the path, before any query."""
    found = _URI.fullmatch(root)
    if found is None:
        return f"{root.rstrip('/')}/{name}"
    scheme, authority, path, query = found.group("scheme", "authority", "path", "query")
    return f"{scheme}://{authority}{path.rstrip('/')}/{name}{query}"


def shown(uri: str) -> str:
    """A URI for people: a password, and values of a query that are credentials, are ***."""
    parts = _Parts.of(uri)
    if parts is None:
        return f"{uri.partition('://')[0]}://{_MASK}"
    parts = parts.with_values(lambda n, v: _MASK if v and (_is_secret(n) or _has_user(v)) else v)
    return str(parts._replace(password=_MASK if parts.password else ""))


def without_credentials(folder: str) -> str:
    """Where a URI leads, whoever goes there. A local folder, and a URI that holds no credentials, are
    left as they are."""
    if not is_uri(folder):
        return folder
    parts = _Parts.of(folder)
    if parts is None:
        return shown(folder)
    user = "" if parts.scheme.rpartition("::")[2] in _USER_IS_A_KEY else parts.user

    def open_value(name: str, value: str) -> str | None:
        if _is_secret(name):
            return None
        return quote(_NESTED.sub("", unquote(value)), safe=":/") if _has_user(value) else value

    return str(parts.with_values(open_value)._replace(user=user, password=""))


def masked(text: str) -> str:
    """A text in which the credentials of every URI are ***."""
    return _URI_IN_TEXT.sub(lambda found: shown(found[0]), text)


class Remote:
    """Objects below a URI. Errors of the store are OSErrors, which do not name its credentials;
    travels between processes."""

    def __init__(self, uri: str) -> None:
        """OSError where the URI cannot be split."""
        parts = _Parts.of(uri)
        if parts is None:
            raise OSError(
                "its credentials hold a character that ends them, such as '/'; write each character but "
                "letters and digits as % and its code ('/' as %2F), or give them in the environment"
            )
        self.uri = str(parts._replace(path=parts.path.rstrip("/")))
        self._secrets = _spellings(parts.secrets)
        self._opened: tuple[Any, str] | None = None
        self.odd: list[str] = []
        """Objects that are left alone: their names are no plain words."""

    def __reduce__(self) -> Any:
        return Remote, (self.uri,)

    def __repr__(self) -> str:
        return f"Remote({shown(self.uri)!r})"

    @property
    def mirror(self) -> Path:
        """The local folder that stands for this one on this machine, whatever the credentials."""
        import hashlib

        from scaling.files import cache

        where = without_credentials(self.uri)
        digest = hashlib.sha256(where.encode()).hexdigest()[:12]
        parts = _Parts.of(where)
        assert parts is not None
        name = parts.path.rpartition("/")[2] or parts.host
        return cache() / "stores" / digest / ("results" if name in ("", ".", "..") else name)

    def results_here(self) -> dict[str, tuple[int, float]]:
        """{run_id: (bytes, time of the last change, 0 where it is not known)} of the results here."""
        found = self.objects("results")
        return {name.removesuffix(".json"): stamp for name, stamp in found.items()}

    def objects(self, folder: str) -> dict[str, tuple[int, float]]:
        """{name: (bytes, time of the last change)} of the .json objects of a folder; none where it is
        not there.

        Others write there too: a name that is no plain word is kept in `odd`, and not returned.
        """
        from pyarrow.fs import FileSelector, FileType

        with self._calling() as (filesystem, root):
            selector = FileSelector(f"{root}/{folder}", allow_not_found=True)
            files = [f for f in filesystem.get_file_info(selector) if f.type == FileType.File]
        json = [f for f in files if f.base_name.endswith(".json")]
        plain = [f for f in json if is_run_id(f.base_name.removesuffix(".json"))]
        names = {f.base_name for f in json} - {f.base_name for f in plain}
        self.odd += sorted({f"{folder}/{name}" for name in names} - set(self.odd))
        return {f.base_name: (f.size or 0, (f.mtime_ns or 0) / 1e9) for f in plain}

    def read(self, name: str) -> bytes | None:
        """An object; None where there is none."""
        with self._calling() as (filesystem, root):
            try:
                with filesystem.open_input_stream(f"{root}/{name}") as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

    def results(self, run_ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(run_id, object) of results, many at a time."""
        run_ids = sorted(run_ids)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(self.read, [f"results/{run_id}.json" for run_id in run_ids])
            yield from (
                (i, data) for i, data in zip(run_ids, found, strict=True) if data is not None
            )

    def write(self, name: str, data: bytes) -> None:
        """Write an object, which is there when this returns."""
        with self._calling() as (filesystem, root):
            path = f"{root}/{name}"
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)

    def delete(self, name: str) -> None:
        with self._calling() as (filesystem, root), contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(f"{root}/{name}")

    @contextlib.contextmanager
    def _calling(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it. What it raises becomes an OSError of one line, without
        credentials: pyarrow and fsspec quote the URI."""
        try:
            if self._opened is None:
                self._opened = _filesystem(self.uri)
            yield self._opened
        except OSError as error:
            text = self._hide(error.strerror or str(error))
            raise OSError(*([] if error.errno is None else [error.errno]), text) from None
        except Exception as error:  # of any package that fsspec may call
            raise OSError(self._hide(f"{type(error).__name__}: {error}")) from None

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            pattern = re.escape(secret)
            if len(secret) < _FEWEST:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            text = re.sub(pattern, _MASK, text)
        return " ".join(masked(text).split())


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Secrets as they may occur in a message: as written in the URI, decoded, and encoded again; the
    longest first."""
    found = set()
    for secret in secrets:
        plain = {secret, unquote(secret), unquote_plus(secret)}
        found |= plain | {quote(text, safe=safe) for text in plain for safe in ("", "/")}
        found |= {repr(text)[1:-1] for text in plain}
    return sorted(found, key=lambda text: (-len(text), text))


def _filesystem(uri: str) -> tuple[Any, str]:
    """A pyarrow file system and the path in it: pyarrow's own (s3, gs, hdfs, ...), or fsspec's."""
    import pyarrow
    from pyarrow import fs

    try:
        found = fs.FileSystem.from_uri(uri)
    except pyarrow.ArrowInvalid as refused:
        try:
            from fsspec.core import url_to_fs

            filesystem, path = url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise OSError(f"{refused} ({error})") from None
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path
    if "#" in uri:  # what comes after it would be dropped in silence, the name of a sweep as well
        raise OSError("it has a '#'; write it as %23")
    return found
