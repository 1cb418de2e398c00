"""A store in this process's memory: shipped, so that users test their pushes without a disk or a server.

The same contract as the real ones (``tests/contract/test_store.py`` runs over all). Stores with one name
share one node: ``memory:pbx1`` opened twice sees the same releases. Nothing survives the process.
"""

import os
import platform
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Self

from voxtractl.deploy.plan import FileState, Snapshot
from voxtractl.deploy.revision import FILE_MODE, Manifest, Record
from voxtractl.deploy.store import layout
from voxtractl.deploy.store.base import StoreFacts
from voxtractl.model.node import Node

__all__ = ["Memory", "MemoryStore", "forget", "memory"]


@dataclass
class Memory:
    """What lies on a node that exists only in memory. Tests may change it by hand, as an operator would."""

    releases: dict[str, dict[str, bytes]] = field(default_factory=dict)  # revision → path → content
    current: str | None = None  # target of the link: releases/<revision>
    audit: bytearray = field(default_factory=bytearray)
    config: dict[str, bytes] = field(default_factory=dict)  # Asterisk's own files
    unreadable: set[str] = field(default_factory=set)  # paths that Asterisk's group may not read
    free_bytes: int = 1 << 30
    prepared: bool = True  # False: the store folder does not exist yet
    holder: str | None = None  # the text of the lock's holder


_nodes: dict[str, Memory] = {}


def memory(name: str) -> Memory:
    """The node behind ``memory:NAME``; made when it is asked for the first time."""
    return _nodes.setdefault(name, Memory())


def forget(name: str) -> None:
    """Drop the node behind ``memory:NAME`` with all it holds."""
    _nodes.pop(name, None)


class MemoryStore:
    """``Store`` over a Memory."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node.name
        self._name = name
        self._open = False
        self._held = False

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._unlock()
        self._open = False

    async def observe(self) -> Snapshot:
        there = self._there()
        release = there.releases.get(layout.revision_of(there.current) or "")
        actual: dict[str, FileState] | None = None
        if release is not None:
            actual = {
                path: self._state(there, path, content)
                for path, content in sorted(release.items())
                if path != layout.MANIFEST
            }
        manifest = release.get(layout.MANIFEST) if release is not None else None
        return layout.snapshot_of(there.current, manifest, actual, _complete(there))

    @asynccontextmanager
    async def lock(self, holder: str) -> AsyncIterator[Snapshot]:
        there = self._there()
        self._need_folder(there)
        if there.holder is not None:
            raise layout.locked(self._node, there.holder)
        since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        there.holder = layout.holder_text(holder, pid=os.getpid(), host=platform.node(), since=since)
        self._held = True
        try:
            yield await self.observe()
        finally:
            self._unlock()

    async def push(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        there = self._locked("a push")
        layout.check_files(self._node, files)
        layout.check_release(self._node, manifest.revision)
        release = {**files, layout.MANIFEST: manifest.to_json()}
        if there.free_bytes < layout.room_needed(release):
            raise layout.disk_full(self._node, there.free_bytes)
        if there.current == f"{layout.RELEASES}/{manifest.revision}":
            raise layout.already_current(self._node, manifest.revision)
        staged = {path: self._state(there, path, content) for path, content in files.items()}
        layout.check_stage(self._node, manifest, staged)
        there.releases[manifest.revision] = release
        there.current = f"{layout.RELEASES}/{manifest.revision}"

    async def flip(self, revision: str) -> None:
        there = self._locked("a flip")
        layout.check_release(self._node, revision)
        if layout.MANIFEST not in there.releases.get(revision, {}):
            raise layout.no_release(self._node, revision)
        there.current = f"{layout.RELEASES}/{revision}"

    async def record(
        self, record: Record, *, drop: Collection[str] = (), aside: Mapping[str, str] | None = None
    ) -> None:
        there = self._locked("a record")
        layout.check_release_change(self._node, layout.revision_of(there.current), drop, aside or {})
        if there.audit and not there.audit.endswith(b"\n"):
            there.audit += b"\n"
        there.audit += record.to_line().encode()
        for name in drop:
            there.releases.pop(name, None)
        for old, new in (aside or {}).items():
            if old in there.releases:
                there.releases[new] = there.releases.pop(old)
        self._unlock()

    async def read(self, paths: Sequence[str], revision: str | None = None) -> Mapping[str, bytes]:
        there = self._there()
        if revision is None:
            revision = layout.revision_of(there.current)
            if revision is None:
                return {}
        layout.check_release(self._node, revision)
        release = there.releases.get(revision, {})
        return {path: release[path] for path in paths if path in release}

    async def revisions(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in _complete(self._there()) if layout.is_revision(name)))

    async def manifest(self, revision: str) -> Manifest:
        layout.check_release(self._node, revision)
        release = self._there().releases.get(revision, {})
        return layout.manifest_or_error(self._node, revision, release.get(layout.MANIFEST))

    async def history(self) -> tuple[Record, ...]:
        return layout.history_of(bytes(self._there().audit))

    async def read_config(self, name: str) -> bytes | None:
        layout.check_config_name(self._node, name)
        return self._there().config.get(name)

    async def write_config(self, name: str, content: bytes) -> None:
        layout.check_config_name(self._node, name)
        self._there().config[name] = content

    async def prepare(self) -> None:
        self._there().prepared = True

    async def facts(self) -> StoreFacts:
        there = self._there()
        return StoreFacts(
            config_dir=f"memory:{self._name}",
            exists=there.prepared,
            writable=True,
            group="asterisk",
            group_readable=not there.unreadable,
            free_bytes=there.free_bytes,
            clock=time.time(),
            why="" if there.prepared else "the store folder does not exist",
        )

    def _there(self) -> Memory:
        if not self._open:
            raise layout.not_open(self._node)
        return memory(self._name)

    def _locked(self, what: str) -> Memory:
        there = self._there()
        if not self._held:
            raise layout.no_lock(self._node, what)
        return there

    @staticmethod
    def _state(there: Memory, path: str, content: bytes) -> FileState:
        readable = path not in there.unreadable
        return FileState(sha256(content).hexdigest(), len(content), FILE_MODE, readable)

    def _need_folder(self, there: Memory) -> None:
        if not there.prepared:
            raise layout.no_folder(self._node, f"memory:{self._name}")

    def _unlock(self) -> None:
        if self._held:
            self._held = False
            memory(self._name).holder = None


def _complete(there: Memory) -> list[str]:
    return [name for name, files in there.releases.items() if layout.MANIFEST in files]
