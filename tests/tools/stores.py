"""Nodes with an empty store, one kind for each way to reach it, and hands that reach past the store."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.tools.bundles import manifest_for, record_for
from voxtractl.deploy.revision import Manifest
from voxtractl.deploy.store import open_store
from voxtractl.deploy.store.base import Store
from voxtractl.deploy.store.memory import memory
from voxtractl.model.node import Node
from voxtractl.render.bundle import Bundle
from voxtractl.settings import SecretRef

if TYPE_CHECKING:
    from tests.tools.sshd import Sshd

__all__ = [
    "BY_SSH",
    "ON_DISK",
    "DiskGround",
    "Ground",
    "MemoryGround",
    "node_over_ssh",
    "node_with",
    "pushed",
    "store_of",
]

ON_DISK = ("local", "shell", "sftp")  # the kinds of store whose files lie on a disk
BY_SSH = ("shell", "sftp")  # with a key that may run a shell, with a key that may do SFTP only


class Ground(Protocol):
    """A node with an empty store, and hands that reach past the store."""

    node: Node

    def edit(self, path: str, content: bytes | None) -> None:
        """Change or remove a file of the current release, as somebody on the node would."""
        ...

    def hide(self, path: str) -> None:
        """Make a file of the current release unreadable for Asterisk's group."""
        ...

    def point(self, target: str | None) -> None:
        """Make ``current`` lead to ``target`` by hand."""
        ...

    def audit(self, content: bytes) -> None: ...

    def config(self, name: str, content: bytes) -> None: ...


class MemoryGround:
    def __init__(self, name: str) -> None:
        self.node = node_with(f"memory:{name}")
        self.name = name

    def edit(self, path: str, content: bytes | None) -> None:
        there = memory(self.name)
        release = there.releases[str(there.current).removeprefix("releases/")]
        if content is None:
            del release[path]
        else:
            release[path] = content

    def hide(self, path: str) -> None:
        memory(self.name).unreadable.add(path)

    def point(self, target: str | None) -> None:
        memory(self.name).current = target

    def audit(self, content: bytes) -> None:
        memory(self.name).audit += content

    def config(self, name: str, content: bytes) -> None:
        memory(self.name).config[name] = content


class DiskGround:
    def __init__(self, node: Node, root: Path) -> None:
        self.node = node
        self.root = root

    def edit(self, path: str, content: bytes | None) -> None:
        file = self.root / "current" / path
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)

    def hide(self, path: str) -> None:
        (self.root / "current" / path).chmod(0o600)

    def point(self, target: str | None) -> None:
        (self.root / "current").unlink(missing_ok=True)
        if target is not None:
            (self.root / "current").symlink_to(target)

    def audit(self, content: bytes) -> None:
        with (self.root / "audit.jsonl").open("ab") as file:
            file.write(content)

    def config(self, name: str, content: bytes) -> None:
        (self.root.parent / name).write_bytes(content)


def node_with(store: str) -> Node:
    secret = SecretRef("env", ("UNUSED",), "nodes.pbx1.ari_password_env")
    return Node(
        name="pbx1", ari="http://127.0.0.1:8088", ari_user="voxtractl", ari_password=secret, store=store
    )


def node_over_ssh(server: "Sshd", root: Path, options: str = "") -> Node:
    """A node whose store is reached with a new key that has these ``authorized_keys`` options."""
    return replace(node_with(server.url(root)), identity=str(server.key(options)))


def store_of(ground: Ground) -> Store:
    return open_store(ground.node)


async def pushed(store: Store, bundle: Bundle, after: int = 0) -> Manifest:
    async with store.lock("alice") as snapshot:
        manifest = manifest_for(bundle, after, snapshot.revision)
        await store.push(manifest, bundle.files)
        await store.record(record_for(manifest))
    return manifest
