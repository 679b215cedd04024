"""A folder in an object store, or in any file system that pyarrow.fs or fsspec reaches by URI.

    <uri>/results/<run_id>.json                    one object per run, written in one piece
          weights/<run_id>.safetensors, <run_id>.json    weights of runs that keep them
          runs.csv, curves.parquet, manifest.json, rounds/   as in a local results folder

A :class:`sweeps.store.Store` on a URI works in a local folder and keeps both in sync.

A URI may carry credentials: s3://KEY:SECRET@bucket/results?endpoint_override=host:9000. They are
passed only to the file system: messages, files and printed commands use :func:`shown` or
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

_PARALLEL_REQUESTS = 32
"""Number of parallel requests. An object store answers many requests as fast as one, but slowly."""

_MASK = "***"

_URI = re.compile(r"(?s)(?P<scheme>.*?)://(?P<authority>[^/?#]*)(?P<path>[^?]*)(?P<query>.*)")
"""Pattern that splits any text with '://' and keeps every character. urllib.parse.urlsplit rejects
some passwords, with messages that quote them."""

_URI_IN_TEXT = re.compile(r"[A-Za-z][\w+.:-]{0,60}://\S+")

_SECRET = re.compile(
    r"secret|passw|passphrase|token|credential|signature|(access|account|api|private|shared)[-_]?key"
    r"|connection[-_]?str|conn[-_]?str"
    r"|^(auth|authorization|key|pass|pwd|sas|sig)$",
    re.IGNORECASE,
)
"""Pattern for the names of secret values in a query."""

_NESTED = re.compile(r"[^/@]*:[^/@]*@")
"""Pattern for user:password@ in a value of a query."""

_USER_IS_A_KEY = ("s3", "s3a", "s3n")
"""Schemes whose user is half of the credentials. Elsewhere the user may be part of the address: the
container in abfs://container@account/, the account in sftp://user@host/."""

_SHORT_SECRET = 4
"""A secret with fewer characters may be part of any word, so it is masked only as a whole word."""


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
        """Split a URI; return None if its credentials contain '/', '?' or '#', which makes their
        end ambiguous."""
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
        """The password and the other secret values, as they are written in the URI."""
        pairs = [pair.partition("=")[::2] for pair in self.query.split("&")]
        nested = [_NESTED.search(unquote(value)) for _, value in pairs]
        passwords = [found[0].partition(":")[2][:-1] for found in nested if found]
        found = [self.password, *(value for name, value in pairs if _is_secret(name)), *passwords]
        return [secret for secret in found if secret]

    def with_values(self, public: Callable[[str, str], str | None]) -> _Parts:
        """Replace each value of the query by public(name, value), or drop it if that is None."""
        query = []
        for pair in self.query.split("&"):
            name, equals, value = pair.partition("=")
            if (new := public(name, value)) is not None:
                query.append(f"{name}{equals}{new}")
        return self._replace(query="&".join(query))


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(unquote(name)))


def _has_user(value: str) -> bool:
    """Return whether a value, such as an endpoint, contains user:password@."""
    return bool(_NESTED.search(unquote(value)))


def is_uri(text: str) -> bool:
    """Return whether a folder is given as a URI."""
    return "://" in text


def join(root: str, name: str) -> str:
    """Return `name` below a folder or a URI, as part of the path, before any query."""
    found = _URI.fullmatch(root)
    if found is None:
        return f"{root.rstrip('/')}/{name}"
    scheme, authority, path, query = found.group("scheme", "authority", "path", "query")
    return f"{scheme}://{authority}{path.rstrip('/')}/{name}{query}"


def shown(uri: str) -> str:
    """Return a URI for display, with *** for its password and the secret values of its query."""
    parts = _Parts.of(uri)
    if parts is None:
        return f"{uri.partition('://')[0]}://{_MASK}"
    parts = parts.with_values(lambda n, v: _MASK if v and (_is_secret(n) or _has_user(v)) else v)
    return str(parts._replace(password=_MASK if parts.password else ""))


def without_credentials(folder: str) -> str:
    """Return a URI without its credentials; a local folder or a URI without any is unchanged."""
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
    """Return a text with *** for the credentials of every URI."""
    return _URI_IN_TEXT.sub(lambda found: shown(found[0]), text)


class Remote:
    """The objects below a URI.

    Errors of the object store are raised as OSErrors that do not contain its credentials. Instances
    can be pickled.
    """

    def __init__(self, uri: str) -> None:
        """Raises OSError for a URI that cannot be split."""
        parts = _Parts.of(uri)
        if parts is None:
            raise OSError(
                "its credentials hold a character that ends them, such as '/'; write each "
                "character except letters and digits as % and its code ('/' as %2F), or set them "
                "in the environment"
            )
        self.uri = str(parts._replace(path=parts.path.rstrip("/")))
        self._secrets = _spellings(parts.secrets)
        self._opened: tuple[Any, str] | None = None
        self.odd: list[str] = []
        """Objects that are not touched, because their names are not plain words."""

    def __reduce__(self) -> Any:
        return Remote, (self.uri,)

    def __repr__(self) -> str:
        return f"Remote({shown(self.uri)!r})"

    @property
    def mirror(self) -> Path:
        """The local folder that mirrors the URI on this machine, whatever the credentials."""
        import hashlib

        from scaling.files import cache

        where = without_credentials(self.uri)
        digest = hashlib.sha256(where.encode()).hexdigest()[:12]
        parts = _Parts.of(where)
        assert parts is not None
        name = parts.path.rpartition("/")[2] or parts.host
        return cache() / "stores" / digest / ("results" if name in ("", ".", "..") else name)

    def results_here(self) -> dict[str, tuple[int, float]]:
        """Return {run_id: (bytes, time of the last change, 0 if unknown)} of the results."""
        found = self.objects("results")
        return {name.removesuffix(".json"): stamp for name, stamp in found.items()}

    def objects(self, folder: str, suffix: str = ".json") -> dict[str, tuple[int, float]]:
        """Return {name: (bytes, time of the last change)} of a folder's objects with a suffix.

        Others may write there too, so names that are not plain words go to `odd` instead. A folder
        that does not exist counts as empty.
        """
        from pyarrow.fs import FileSelector, FileType

        with self._calling() as (filesystem, root):
            selector = FileSelector(f"{root}/{folder}", allow_not_found=True)
            files = [f for f in filesystem.get_file_info(selector) if f.type == FileType.File]
        known = [f for f in files if f.base_name.endswith(suffix)]
        plain = [f for f in known if is_run_id(f.base_name.removesuffix(suffix))]
        names = {f.base_name for f in known} - {f.base_name for f in plain}
        self.odd += sorted({f"{folder}/{name}" for name in names} - set(self.odd))
        return {f.base_name: (f.size or 0, (f.mtime_ns or 0) / 1e9) for f in plain}

    def read(self, name: str) -> bytes | None:
        """Return an object; None if it does not exist."""
        with self._calling() as (filesystem, root):
            try:
                with filesystem.open_input_stream(f"{root}/{name}") as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

    def results(self, run_ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (run_id, object) of results, which are read in parallel."""
        run_ids = sorted(run_ids)
        with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
            found = pool.map(self.read, [f"results/{run_id}.json" for run_id in run_ids])
            yield from (
                (i, data) for i, data in zip(run_ids, found, strict=True) if data is not None
            )

    def write(self, name: str, data: bytes) -> None:
        """Write an object; it exists when this returns."""
        with self._calling() as (filesystem, root):
            path = f"{root}/{name}"
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)

    def delete(self, name: str) -> None:
        """Delete an object, if it exists."""
        with self._calling() as (filesystem, root), contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(f"{root}/{name}")

    @contextlib.contextmanager
    def _calling(self) -> Iterator[tuple[Any, str]]:
        """Yield the file system and the path in it.

        Exceptions become OSErrors of one line without credentials, because pyarrow and fsspec quote
        the URI in theirs.
        """
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
            if len(secret) < _SHORT_SECRET:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            text = re.sub(pattern, _MASK, text)
        return " ".join(masked(text).split())


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Return the spellings in which secrets may occur in a message, longest first.

    These are as written in the URI, decoded, and encoded again.
    """
    found = set()
    for secret in secrets:
        plain = {secret, unquote(secret), unquote_plus(secret)}
        found |= plain | {quote(text, safe=safe) for text in plain for safe in ("", "/")}
        found |= {repr(text)[1:-1] for text in plain}
    return sorted(found, key=lambda text: (-len(text), text))


def _filesystem(uri: str) -> tuple[Any, str]:
    """Return a pyarrow file system and the path in it: pyarrow's own (s3, gs, ...) or fsspec's."""
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
    if "#" in uri:  # the rest would be dropped silently, including the name of the sweep
        raise OSError("it has a '#'; write it as %23")
    return found
