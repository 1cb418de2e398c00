"""What every store can do. A store is the folder on a node that holds the releases; it knows nothing of ARI.

    <store>/releases/<revision>/…   the files and manifest.json; complete before it has this name
    <store>/releases/drift-<time>/  a release somebody edited by hand, set aside when it was overwritten
    <store>/current                 → releases/<revision>; the flip is one rename of this link
    <store>/audit.jsonl             one line a push
    <store>/.lock                   held while a push works; frees itself when its holder dies
    <store>/.stage-*                leftovers of a push that died; the next push removes its own kind

Rules for every implementation, held by ``tests/contract``: a push is all or nothing, whatever dies in the
middle; files are 0640 with the group of Asterisk's configuration folder, folders never get wider than 2750;
what was staged is read back and recomputed before the flip; files and folders are synced before the flip.
"""

import posixpath
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from typing import Protocol, Self

from voxtractl.deploy.plan import Snapshot
from voxtractl.deploy.revision import Manifest, Record

__all__ = ["Place", "Store", "StoreFacts", "include_prefix", "parse_url"]


@dataclass(frozen=True, slots=True)
class Place:
    """A parsed store URL: ``local:/path``, ``sftp://user@host:port/path`` or ``memory:NAME``."""

    scheme: str
    path: str
    host: str = ""
    port: int = 22
    user: str | None = None


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What ``node check`` wants to know of the node's files. ``why`` fields are empty when all is well."""

    config_dir: str
    exists: bool  # the store folder is there
    writable: bool
    group: str  # group of Asterisk's configuration folder (name, or number when it has no name there)
    group_readable: bool  # new files in the store get that group, so that Asterisk can read them
    free_bytes: int | None
    clock: float | None  # the node's clock, seconds since the epoch, UTC
    why: str = ""  # what is wrong, in an operator's words


class Store(Protocol):
    """One node's files. ``async with`` connects and closes; errors are NodeError with the node's name."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    async def observe(self) -> Snapshot:
        """What the current release holds now: its manifest, every file recomputed, the drift."""
        ...

    def lock(self, holder: str) -> AbstractAsyncContextManager[Snapshot]:
        """Hold the node's lock and observe, in one round trip. Raises NodeLocked(holder of it)."""
        ...

    async def push(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Stage, check and flip; needs the lock. Then ``current`` is the new revision, or all is as before.

        Raises StoreError (disk full, permissions, what arrived is not what was sent, not readable by
        Asterisk's group) with the old revision still current.
        """
        ...

    async def flip(self, revision: str) -> None:
        """Make a kept release current again; needs the lock. Raises StoreError if it is not there."""
        ...

    async def record(
        self, record: Record, *, drop: Collection[str] = (), aside: Mapping[str, str] | None = None
    ) -> None:
        """End of a push: append the audit line, remove the releases in ``drop``, rename those in ``aside``
        (old name → ``drift-<time>``); needs the lock."""
        ...

    async def read(self, paths: Sequence[str], revision: str | None = None) -> Mapping[str, bytes]:
        """Contents of files of a release (the current one when None); missing files are left out."""
        ...

    async def revisions(self) -> tuple[str, ...]:
        """Names of the complete releases, sorted (oldest first); ``drift-*`` is not among them."""
        ...

    async def manifest(self, revision: str) -> Manifest:
        """Raises StoreError when the release or its manifest is missing or damaged."""
        ...

    async def history(self) -> tuple[Record, ...]:
        """The audit lines, oldest first; a torn last line is left out."""
        ...

    async def read_config(self, name: str) -> bytes | None:
        """One of Asterisk's own files in its configuration folder (``extensions.conf``), None when absent."""
        ...

    async def write_config(self, name: str, content: bytes) -> None:
        """Replace such a file atomically; owner, group and mode stay as they are."""
        ...

    async def prepare(self) -> None:
        """Create the store folder (2750, group of the configuration folder) if it is not there."""
        ...

    async def facts(self) -> StoreFacts: ...


def include_prefix(store_path: str, config_dir: str) -> str:
    """The store as Asterisk's includes name it: relative to its configuration folder (``voxtractl``).

    Raises ValueError, in an operator's words, when the store is not inside that folder: Asterisk
    resolves a relative include there, and inside a chroot or container an absolute one leads elsewhere.
    """
    store, config = (PurePosixPath(posixpath.normpath(path)) for path in (store_path, config_dir))
    if store == config or not store.is_relative_to(config):
        raise ValueError(
            f"the store {store} is not inside Asterisk's configuration folder {config};"
            f" put it at {config}/voxtractl, or set config_dir to the folder that holds extensions.conf"
        )
    return store.relative_to(config).as_posix()


def parse_url(url: str) -> Place:
    """Raises ValueError that says what is wrong with the URL."""
    scheme, separator, rest = url.partition(":")
    if separator and scheme == "local" and rest.startswith("/") and not rest.startswith("//"):
        return Place("local", rest.rstrip("/") or "/")
    if separator and scheme == "memory" and rest and "/" not in rest:
        return Place("memory", rest)
    if separator and scheme == "sftp" and rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        user, at, hostport = authority.rpartition("@")
        host, colon, port = hostport.rpartition(":") if not hostport.endswith("]") else (hostport, "", "")
        if not colon:
            host, port = hostport, "22"
        if host and slash and path and port.isdigit() and 0 < int(port) < 65536:
            return Place("sftp", "/" + path.rstrip("/"), host.strip("[]"), int(port), user if at else None)
    raise ValueError("a store is local:/path, sftp://user@host/path or memory:NAME")
