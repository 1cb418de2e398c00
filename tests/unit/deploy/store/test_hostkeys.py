"""Host keys: unknown and changed are told apart by a real server, and nothing ever goes unchecked."""

import asyncio
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from tests.tools.sshd import Sshd
from tests.tools.stores import node_over_ssh, node_with
from voxtractl.deploy.store import open_store
from voxtractl.deploy.store.hostkeys import fetch_host_key, known_hosts_file, trust, trusted
from voxtractl.errors import HostKeyChanged, HostKeyUnknown, NodeAuthFailed, NodeUnreachable, StoreError
from voxtractl.model.node import Node


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own SSH files are read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture
def node(sshd: Sshd, tmp_path: Path) -> Node:
    (tmp_path / "asterisk" / "voxtractl").mkdir(parents=True)
    return node_over_ssh(sshd, tmp_path / "asterisk" / "voxtractl")


def another_key() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


async def opens(node: Node) -> None:
    async with open_store(node, timeout=5) as store:
        await store.observe()


async def test_an_unknown_key_is_refused_with_its_fingerprint_and_the_command(node: Node, sshd: Sshd) -> None:
    with pytest.raises(HostKeyUnknown, match="was never trusted here") as caught:
        await opens(node)
    fingerprint = sshd.host_key.get_fingerprint()
    assert caught.value.details["fingerprint"] == fingerprint
    assert f"voxtractl node trust pbx1 --fingerprint {fingerprint}" in str(caught.value.hint)
    assert (caught.value.exit_code, caught.value.retryable) == (5, False)


async def test_a_changed_key_is_refused_and_nothing_offers_a_way_round(node: Node, sshd: Sshd) -> None:
    known_hosts_file().parent.mkdir(parents=True)
    known_hosts_file().write_text(f"[127.0.0.1]:{sshd.port} {another_key()}\n")
    with pytest.raises(HostKeyChanged, match=r"changed: trusted is SHA256:.*, shown is SHA256:") as caught:
        await opens(node)
    assert caught.value.details["fingerprint"] == sshd.host_key.get_fingerprint()
    assert "by hand" in str(caught.value.hint)


async def test_a_changed_key_of_another_kind_is_changed_too(node: Node, sshd: Sshd) -> None:
    ecdsa = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode().strip()
    known_hosts_file().parent.mkdir(parents=True)
    known_hosts_file().write_text(f"[127.0.0.1]:{sshd.port} {ecdsa}\n")
    with pytest.raises(HostKeyChanged):
        await opens(node)


async def test_a_revoked_key_is_refused(node: Node, sshd: Sshd) -> None:
    line = sshd.known_hosts.read_text()
    known_hosts_file().parent.mkdir(parents=True)
    known_hosts_file().write_text(f"{line}@revoked {line}")
    with pytest.raises(HostKeyChanged):
        await opens(node)


async def test_what_was_fetched_and_trusted_opens(node: Node, sshd: Sshd) -> None:
    line, fingerprint = await fetch_host_key(node)
    assert fingerprint == sshd.host_key.get_fingerprint()
    assert line.split()[:2] == sshd.host_key.export_public_key().decode().split()[:2]
    assert trust(known_hosts_file(), "127.0.0.1", sshd.port, line)
    await opens(node)
    assert not trust(known_hosts_file(), "127.0.0.1", sshd.port, line)  # once is enough
    assert len(known_hosts_file().read_text().splitlines()) == 1


async def test_the_operators_own_known_hosts_is_read_and_never_written(
    node: Node, sshd: Sshd, home: Path
) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "known_hosts").write_text("not an entry at all\n" + sshd.known_hosts.read_text())
    before = (home / ".ssh" / "known_hosts").read_bytes()
    await opens(node)
    assert not trust(known_hosts_file(), "127.0.0.1", sshd.port, (await fetch_host_key(node))[0])
    assert (home / ".ssh" / "known_hosts").read_bytes() == before
    assert not known_hosts_file().exists()


def test_trusting_another_key_of_a_trusted_host_is_refused(home: Path) -> None:
    file = home / "known_hosts"
    trust(file, "pbx1.example.net", 22, another_key())
    before = file.read_bytes()
    with pytest.raises(HostKeyChanged, match="the SSH key of pbx1 "):
        trust(file, "pbx1.example.net", 22, another_key(), node="pbx1")
    assert file.read_bytes() == before
    trust(file, "pbx2.example.net", 2222, another_key())
    assert [line.split()[0] for line in file.read_text().splitlines()] == [
        "pbx1.example.net",
        "[pbx2.example.net]:2222",
    ]


def test_trusting_keeps_what_was_in_the_file_and_leaves_no_draft(home: Path) -> None:
    file = home / "known_hosts"
    file.write_text("# mine\nother.example.net ssh-ed25519 AAAA")  # no line break at its end, no valid key
    trust(file, "pbx1.example.net", 22, another_key())
    lines = file.read_text().splitlines()
    assert lines[:2] == ["# mine", "other.example.net ssh-ed25519 AAAA"]
    assert len(lines) == 3
    assert not list(home.glob(".known_hosts-*"))
    assert asyncssh.match_known_hosts(trusted(file), "pbx1.example.net", "", 22)[0]


@pytest.mark.parametrize("store", ["local:/etc/asterisk/voxtractl", "memory:pbx1"])
async def test_a_node_without_ssh_has_no_host_key(store: str) -> None:
    with pytest.raises(StoreError, match="not reached over SSH"):
        await fetch_host_key(node_with(store))


# --- logging in -----------------------------------------------------------------------------------------


@pytest.fixture
def known(node: Node, sshd: Sshd) -> Node:
    """The node, with its host key trusted."""
    known_hosts_file().parent.mkdir(parents=True)
    known_hosts_file().write_text(sshd.known_hosts.read_text())
    return node


async def test_a_key_the_server_does_not_know_is_a_failed_login(known: Node, tmp_path: Path) -> None:
    key = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
    with pytest.raises(NodeAuthFailed, match="accepts none of our keys") as caught:
        await opens(replace(known, identity=str(key)))
    assert "authorized_keys" in str(caught.value.hint)


async def test_a_key_file_that_cannot_be_used_is_a_failed_login(known: Node, tmp_path: Path) -> None:
    with pytest.raises(NodeAuthFailed, match="no such file"):
        await opens(replace(known, identity=str(tmp_path / "nowhere")))
    secret = "correct horse battery staple"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", secret, "-f", str(tmp_path / "locked")]
    await asyncio.to_thread(subprocess.run, make, check=True)
    with pytest.raises(NodeAuthFailed, match="the key has a passphrase; add it to your ssh-agent"):
        await opens(replace(known, identity=str(tmp_path / "locked")))
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(NodeAuthFailed, match="cannot be used"):
        await opens(replace(known, identity=str(tmp_path / "text")))


async def test_a_relative_key_file_is_seen_from_the_document(known: Node, tmp_path: Path) -> None:
    document = tmp_path / "conf" / "tenants.toml"
    document.parent.mkdir()
    os.link(str(known.identity), document.parent / "deploy_key")
    await opens(replace(known, identity="deploy_key", file=str(document)))


async def test_a_user_the_server_does_not_let_in_is_a_failed_login(known: Node) -> None:
    with pytest.raises(NodeAuthFailed, match="nobody-at-all cannot log in to"):
        await opens(replace(known, store=re.sub(r"//[^@]+@", "//nobody-at-all@", known.store)))


async def test_a_closed_port_is_unreachable_and_may_be_tried_again(known: Node) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        port = closed.getsockname()[1]
        node = replace(known, store=f"sftp://root@127.0.0.1:{port}/etc/asterisk/voxtractl")
        with pytest.raises(NodeUnreachable, match=f"127.0.0.1:{port}: .*refused") as caught:
            await opens(node)
    assert caught.value.retryable
    with pytest.raises(NodeUnreachable):
        await fetch_host_key(node)


@pytest.fixture
def mute() -> Iterator[int]:
    """A port where somebody accepts and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


async def test_a_server_that_never_answers_is_unreachable_after_the_timeout(known: Node, mute: int) -> None:
    node = replace(known, store=f"sftp://root@127.0.0.1:{mute}/etc/asterisk/voxtractl")
    with pytest.raises(NodeUnreachable, match=r"no answer within 0 s"):
        async with open_store(node, timeout=0.2):
            pass
    with pytest.raises(NodeUnreachable, match=r"no answer within 0 s"):
        await fetch_host_key(node, timeout=0.2)


async def test_a_name_that_does_not_resolve_is_unreachable(known: Node) -> None:
    with pytest.raises(NodeUnreachable, match=r"nowhere\.invalid:22"):
        await opens(replace(known, store="sftp://root@nowhere.invalid/etc/asterisk/voxtractl"))


# --- the code base --------------------------------------------------------------------------------------


def test_no_connection_in_the_code_base_goes_unchecked() -> None:
    """``known_hosts=None`` switches the check off in asyncssh; so does an option that reaches it by name."""
    package = Path(__file__).parents[4] / "voxtractl"
    sources = {path: path.read_text() for path in package.rglob("*.py")}
    assert len(sources) > 20
    off = re.compile(r"known_hosts[\"']?\s*[=:]\s*(None|\(\s*\[\s*\])\s*[,)\]}]")
    for path, text in sources.items():
        for number, line in enumerate(text.splitlines(), 1):
            is_default = "Path | None" in line  # a parameter: None means the default file
            assert is_default or off.search(line) is None, f"{path}:{number}: {line.strip()}"
    connects = [path.name for path, text in sources.items() if "asyncssh.connect(" in text]
    assert connects == ["ssh.py"]
    assert "known_hosts=trusted(" in next(text for path, text in sources.items() if path.name == "ssh.py")


async def test_the_own_file_of_trusted_keys_is_private(sshd: Sshd) -> None:
    trust(known_hosts_file(), "127.0.0.1", sshd.port, another_key())
    assert stat.S_IMODE(known_hosts_file().parent.stat().st_mode) & 0o022 == 0
    assert os.access(known_hosts_file(), os.R_OK)
