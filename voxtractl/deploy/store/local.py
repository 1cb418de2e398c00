"""The store on this machine's disk, as everybody uses a store; the disk itself is ``folder.py``.

Single calls block, and stand in async methods all the same: one operator, a local disk, microseconds. What
touches every file of a release (observe, push, record) runs in a thread, so that several nodes go at once. A
thread cannot be interrupted: a cancelled push tells it to stop, waits, and leaves all as before.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from voxtractl.deploy.plan import Snapshot
from voxtractl.deploy.revision import Manifest, Record
from voxtractl.deploy.store import layout
from voxtractl.deploy.store.base import StoreFacts
from voxtractl.deploy.store.folder import Folder
from voxtractl.deploy.store.shielded import ended, to_its_end
from voxtractl.model.node import Node

__all__ = ["LocalStore"]


class LocalStore:
    """``Store`` over a folder of this machine."""

    def __init__(self, node: Node, root: Path) -> None:
        self._node = node.name
        self._disk = Folder(node.name, root, Path(node.config_dir) if node.config_dir else root.parent)
        self._open = False
        self._lock: int | None = None

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._unlock()
        self._open = False

    async def observe(self) -> Snapshot:
        return await asyncio.to_thread(self._folder().observe)

    @asynccontextmanager
    async def lock(self, holder: str) -> AsyncIterator[Snapshot]:
        folder = self._folder()
        self._lock = folder.take_lock(holder)
        beat = asyncio.create_task(self._beat())
        try:
            yield await to_its_end(asyncio.to_thread(folder.observe))
        finally:
            beat.cancel()
            self._unlock()

    async def push(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        folder = self._locked("a push")
        layout.check_files(self._node, files)
        layout.check_release(self._node, manifest.revision)
        before = folder.link()
        stop = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(folder.push, manifest, files, stop.is_set))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await ended(work)
            if work.exception() is None:
                folder.point(before)
                folder.withdraw(manifest.revision)
            raise

    async def flip(self, revision: str) -> None:
        folder = self._locked("a flip")
        layout.check_release(self._node, revision)
        folder.flip(revision)

    async def record(
        self, record: Record, *, drop: Collection[str] = (), aside: Mapping[str, str] | None = None
    ) -> None:
        folder = self._locked("a record")
        layout.check_release_change(self._node, folder.current(), drop, aside or {})
        await to_its_end(asyncio.to_thread(folder.record, record, drop, aside or {}))
        self._unlock()

    async def read(self, paths: Sequence[str], revision: str | None = None) -> Mapping[str, bytes]:
        return self._folder().read(paths, revision)

    async def revisions(self) -> tuple[str, ...]:
        return self._folder().revisions()

    async def manifest(self, revision: str) -> Manifest:
        folder = self._folder()
        layout.check_release(self._node, revision)
        return layout.manifest_or_error(self._node, revision, folder.file(revision, layout.MANIFEST))

    async def history(self) -> tuple[Record, ...]:
        return layout.history_of(self._folder().audit())

    async def read_config(self, name: str) -> bytes | None:
        layout.check_config_name(self._node, name)
        return self._folder().read_config(name)

    async def write_config(self, name: str, content: bytes) -> None:
        layout.check_config_name(self._node, name)
        self._folder().write_config(name, content)

    async def prepare(self) -> None:
        self._folder().prepare()

    async def facts(self) -> StoreFacts:
        return self._folder().facts()

    def _folder(self) -> Folder:
        if not self._open:
            raise layout.not_open(self._node)
        return self._disk

    def _locked(self, what: str) -> Folder:
        folder = self._folder()
        if self._lock is None:
            raise layout.no_lock(self._node, what)
        return folder

    async def _beat(self) -> None:
        while self._lock is not None:
            self._disk.beat(self._lock)
            await asyncio.sleep(layout.BEAT)

    def _unlock(self) -> None:
        if self._lock is not None:
            lock, self._lock = self._lock, None
            self._disk.give_back(lock)
