"""What a connection to a node must be able to do, whichever way it goes: a shell there, or SFTP only.

Names are checked and states kept by ``sftp.py``; a way only carries. Failures are NodeError, with the old
release still current.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from voxtractl.deploy.plan import Snapshot
from voxtractl.deploy.revision import Manifest
from voxtractl.deploy.store.base import StoreFacts

__all__ = ["Way"]


class Way(Protocol):
    async def observe(self) -> Snapshot: ...

    async def take_lock(self, text: str) -> Snapshot:
        """Lock and observe. Raises NodeLocked; StoreError when there is no store folder."""
        ...

    async def unlock(self) -> None: ...

    async def beat(self) -> None:
        """Show that the lock's holder lives. Raises NodeLocked when somebody took it over."""
        ...

    async def push(self, manifest: Manifest, files: Mapping[str, bytes]) -> None: ...

    async def undo(self, revision: str) -> None:
        """Take back a push of this connection that succeeded although it was cancelled."""
        ...

    async def flip(self, revision: str) -> None: ...

    async def record(self, line: str, drop: Collection[str], aside: Mapping[str, str]) -> None:
        """Append the line, tidy, and give the lock back."""
        ...

    async def fetch(self, paths: Sequence[str], revision: str | None) -> Mapping[str, bytes]: ...

    async def revisions(self) -> Sequence[str]: ...

    async def audit(self) -> bytes: ...

    async def read_config(self, name: str) -> bytes | None: ...

    async def write_config(self, name: str, content: bytes) -> None: ...

    async def prepare(self) -> None: ...

    async def facts(self) -> StoreFacts: ...
