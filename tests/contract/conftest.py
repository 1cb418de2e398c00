"""Empty nodes for every way a store is reached."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools.stores import DiskGround, Ground, MemoryGround, node_over_ssh, node_with
from voxtractl.deploy.store.memory import forget

Place = Callable[..., DiskGround]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """``place(kind)``: a store on this disk, reached as local, shell or sftp. All kinds share the folder."""
    root = tmp_path / "asterisk" / "voxtractl"
    root.mkdir(parents=True)

    def make(kind: str, options: str | None = None) -> DiskGround:
        if kind == "local":
            return DiskGround(node_with(f"local:{root}"), root)
        from tests.tools.sshd import SFTP_ONLY, Sshd

        server: Sshd = request.getfixturevalue("sshd")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        own = tmp_path / "config" / "voxtractl" / "known_hosts"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(server.known_hosts.read_text())
        if options is None:
            options = SFTP_ONLY if kind == "sftp" else ""
        return DiskGround(node_over_ssh(server, root, options), root)

    return make


@pytest.fixture(params=["memory", "local", "shell", "sftp"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """An empty node of each kind."""
    if request.param == "memory":
        yield MemoryGround(tmp_path.name)
        forget(tmp_path.name)
    else:
        make: Place = request.getfixturevalue("place")
        yield make(request.param)
