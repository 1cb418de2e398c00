"""Opens the store of a node by its URL, and imports only that one: a local push never pays for SSH."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from voxtractl.deploy.store.base import parse_url
from voxtractl.errors import StoreError
from voxtractl.model.node import Node

if TYPE_CHECKING:
    from voxtractl.deploy.store.base import Store

__all__ = ["TIMEOUT", "open_store"]

TIMEOUT: Final = 30.0  # seconds for connecting, and for one answer of a node


def open_store(node: Node, *, known_hosts: Path | None = None, timeout: float = TIMEOUT) -> "Store":
    """The store of ``node``, not yet connected: use it in ``async with``.

    ``known_hosts`` replaces voxtractl's own file of trusted SSH host keys; ``~/.ssh/known_hosts`` is read
    beside it. Raises StoreError when the URL is none.
    """
    try:
        place = parse_url(node.store)
    except ValueError as exc:
        raise StoreError(
            f"the store of {node.name} cannot be opened: {exc}",
            node=node.name,
            where=node.file or None,
            hint=f"correct nodes.{node.name}.store, it says {node.store!r}",
        ) from exc
    if place.scheme == "memory":
        from voxtractl.deploy.store.memory import MemoryStore

        return MemoryStore(node, place.path)
    if place.scheme == "local":
        from voxtractl.deploy.store.local import LocalStore

        return LocalStore(node, Path(place.path))
    from voxtractl.deploy.store.sftp import SftpStore

    return SftpStore(node, place, known_hosts=known_hosts, timeout=timeout)
