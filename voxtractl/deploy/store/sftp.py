"""The store of a node far away, over one SSH connection.

Two ways lead there. Where the key may run a shell, ``shell.py`` takes one round trip a step; where it may
do SFTP only (``restrict,command="internal-sftp"``), ``files.py`` writes file by file, many at once. Which one
it is shows when the connection opens, once. This file keeps what both share: names are checked, the lock is
held and shows signs of life, a cancelled push is taken back.
"""

import asyncio
import os
import platform
import posixpath
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from voxtractl.deploy.plan import Snapshot
from voxtractl.deploy.revision import Manifest, Record
from voxtractl.deploy.store import layout
from voxtractl.deploy.store.base import Place, StoreFacts
from voxtractl.deploy.store.files import Files
from voxtractl.deploy.store.shell import Shell
from voxtractl.deploy.store.shielded import ended, to_its_end
from voxtractl.deploy.store.ssh import connect
from voxtractl.errors import NodeError
from voxtractl.model.node import Node

if TYPE_CHECKING:
    import asyncssh

    from voxtractl.deploy.store.way import Way

__all__ = ["SftpStore"]


class SftpStore:
    """``Store`` over SSH."""

    def __init__(self, node: Node, place: Place, *, known_hosts: Path | None, timeout: float) -> None:
        self._node = node
        self._place = place
        self._config = node.config_dir or posixpath.dirname(place.path)
        self._known_hosts = known_hosts
        self._timeout = timeout
        self._connection: asyncssh.SSHClientConnection | None = None
        self._way: Way | None = None
        self._held = False

    async def __aenter__(self) -> Self:
        """Raises HostKeyUnknown, HostKeyChanged, NodeAuthFailed, NodeUnreachable."""
        connection = await connect(
            self._node, self._place, known_hosts=self._known_hosts, timeout=self._timeout
        )
        self._connection = connection
        known = (self._node.name, self._place, self._config, self._timeout)
        try:
            self._way = await Shell.start(connection, *known) or await Files.start(connection, *known)
        except BaseException:
            await self._disconnect()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await to_its_end(self._unlock())
        self._way = None
        await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            await to_its_end(_closed(connection, self._timeout))

    async def observe(self) -> Snapshot:
        return await self._go().observe()

    @asynccontextmanager
    async def lock(self, holder: str) -> AsyncIterator[Snapshot]:
        way = self._go()
        since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        text = layout.holder_text(holder, pid=os.getpid(), host=platform.node(), since=since)
        self._held = True  # even when cancelled on the way: unlocking what is not ours is harmless
        try:
            try:
                snapshot = await way.take_lock(text)
            except NodeError:
                self._held = False
                raise
            beat = asyncio.create_task(self._beat(way))
            try:
                yield snapshot
            finally:
                beat.cancel()
        finally:
            await to_its_end(self._unlock())

    async def push(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        way = self._locked("a push")
        layout.check_files(self._node.name, files)
        layout.check_release(self._node.name, manifest.revision)
        work = asyncio.ensure_future(way.push(manifest, files))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await ended(work)
            if work.exception() is None:
                await to_its_end(way.undo(manifest.revision))
            raise

    async def flip(self, revision: str) -> None:
        way = self._locked("a flip")
        layout.check_release(self._node.name, revision)
        await way.flip(revision)

    async def record(
        self, record: Record, *, drop: Collection[str] = (), aside: Mapping[str, str] | None = None
    ) -> None:
        way = self._locked("a record")
        layout.check_release_change(self._node.name, None, drop, aside or {})
        await way.record(record.to_line(), drop, aside or {})
        self._held = False

    async def read(self, paths: Sequence[str], revision: str | None = None) -> Mapping[str, bytes]:
        way = self._go()
        layout.check_files(self._node.name, [path for path in paths if path != layout.MANIFEST])
        if revision is not None:
            layout.check_release(self._node.name, revision)
        return await way.fetch(paths, revision)

    async def revisions(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in await self._go().revisions() if layout.is_revision(name)))

    async def manifest(self, revision: str) -> Manifest:
        way = self._go()
        layout.check_release(self._node.name, revision)
        found = await way.fetch([layout.MANIFEST], revision)
        return layout.manifest_or_error(self._node.name, revision, found.get(layout.MANIFEST))

    async def history(self) -> tuple[Record, ...]:
        return layout.history_of(await self._go().audit())

    async def read_config(self, name: str) -> bytes | None:
        layout.check_config_name(self._node.name, name)
        return await self._go().read_config(name)

    async def write_config(self, name: str, content: bytes) -> None:
        layout.check_config_name(self._node.name, name)
        await self._go().write_config(name, content)

    async def prepare(self) -> None:
        await self._go().prepare()

    async def facts(self) -> StoreFacts:
        return await self._go().facts()

    def _go(self) -> "Way":
        if self._way is None:
            raise layout.not_open(self._node.name)
        return self._way

    def _locked(self, what: str) -> "Way":
        way = self._go()
        if not self._held:
            raise layout.no_lock(self._node.name, what)
        return way

    async def _beat(self, way: "Way") -> None:
        while self._held:
            await asyncio.sleep(layout.BEAT)
            with suppress(NodeError):  # the next step meets the same trouble and reports it
                await way.beat()

    async def _unlock(self) -> None:
        if self._held:
            self._held = False
            with suppress(NodeError):  # the connection's end frees the lock, or the lease runs out
                await self._go().unlock()


async def _closed(connection: "asyncssh.SSHClientConnection", timeout: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await connection.wait_closed()
