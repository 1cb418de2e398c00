"""``voxtractl node`` where no Asterisk is needed: the list, SSH keys, and names typed wrongly.

``init`` and ``check`` are tried on a real Asterisk in tests/live/test_node.py.
"""

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from voxtractl.cli import context
from voxtractl.cli.entry import run
from voxtractl.settings import Settings

if TYPE_CHECKING:
    from tests.tools.sshd import Sshd

DOCUMENT = """
[nodes.pbx1]
ari = "http://127.0.0.1:8088"
ari_user = "voxtractl"
ari_password_file = "secrets/pbx1.ari"
store = "local:/etc/asterisk/voxtractl"

[nodes.pbx2]
ari = "https://pbx2.example.net:8089"
ari_user = "voxtractl"
ari_password_env = "PBX2_ARI"
store = "{store}"

[tenants.acme]
dids = ["+265999000001"]
nodes = ["pbx1"]

[tenants.beta]
dids = ["+265999000002"]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The document, and a home of its own, so that no key of this machine is read or written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PBX2_ARI", "canary-6f1d0b")
    context.configure(Settings())
    path = tmp_path / "tenants.toml"
    path.write_text(DOCUMENT.format(store="sftp://deploy@127.0.0.1:1/etc/asterisk/voxtractl"))
    return path


@pytest.fixture
def node(config: Path, sshd: "Sshd") -> Path:
    """The document with pbx2 on a real SSH server; the file that is to trust it."""
    config.write_text(DOCUMENT.format(store=sshd.url(Path("/etc/asterisk/voxtractl"))))
    return config.parent / "config" / "voxtractl" / "known_hosts"


def ask(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Exit code and JSON document of one command."""
    capsys.readouterr()
    code = run(["--config", str(config), "-o", "json", "node", *words])
    out, err = capsys.readouterr()
    assert "canary-6f1d0b" not in out + err
    return code, json.loads(out)


def real_fingerprint(sshd: "Sshd") -> str:
    """What ssh-keygen says on the node itself."""
    sshd.host_key.write_public_key(sshd.folder / "host_key.pub")
    words = ["ssh-keygen", "-lf", str(sshd.folder / "host_key.pub")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return said.split()[1]


def test_the_list_shows_every_node_and_no_secret(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ask(config, capsys, "list")
    assert code == 0
    assert [(node["name"], node["tenants"]) for node in said["nodes"]] == [("pbx1", 2), ("pbx2", 1)]
    assert said["nodes"][0] == {
        "name": "pbx1",
        "ari": "http://127.0.0.1:8088",
        "store": "local:/etc/asterisk/voxtractl",
        "tenants": 2,
    }
    run(["--config", str(config), "node", "list"])
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["pbx1", "2"]


@pytest.mark.parametrize("words", [("check", "pbx9"), ("init", "pbx9", "--yes"), ("trust", "pbx9")])
def test_an_unknown_node_is_named(config: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, said = ask(config, capsys, *words)
    assert code == 2
    assert "pbx9" in said["error"]["message"]
    assert "did you mean pbx" in said["error"]["hint"]


def test_a_local_node_has_no_key_to_trust(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ask(config, capsys, "trust", "pbx1")
    assert code == 2
    assert "not reached over SSH" in said["error"]["message"]


def test_check_lists_every_closed_door_of_every_node(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PBX2_ARI")
    code, said = ask(config, capsys, "check", "pbx2")
    assert code == 5
    (node,) = said["nodes"]
    failed = {finding["name"] for finding in node["findings"] if finding["level"] == "fail"}
    assert failed == {"ari-user", "node"}  # no password to ask with, no SSH server


def test_without_a_fingerprint_the_key_is_shown_and_nothing_written(
    config: Path, node: Path, sshd: "Sshd", capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ask(config, capsys, "trust", "pbx2")
    assert code == 4
    fingerprint = real_fingerprint(sshd)
    assert said["error"]["details"]["fingerprint"] == fingerprint
    assert f"voxtractl node trust pbx2 --fingerprint {fingerprint}" in said["error"]["hint"]
    assert "ssh_host_ed25519_key.pub" in said["error"]["hint"]
    assert not node.exists()


def test_the_right_fingerprint_is_written_once(
    config: Path, node: Path, sshd: "Sshd", capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("trust", "pbx2", "--fingerprint", real_fingerprint(sshd))
    assert ask(config, capsys, *words)[1]["added"] is True
    assert node.read_text() == sshd.known_hosts.read_text()
    assert ask(config, capsys, *words)[1]["added"] is False
    assert ask(config, capsys, "trust", "pbx2")[1]["added"] is False
    assert node.read_text() == sshd.known_hosts.read_text()


def test_a_wrong_fingerprint_writes_nothing(
    config: Path, node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ask(config, capsys, "trust", "pbx2", "--fingerprint", "SHA256:AAAA")
    assert code == 5
    assert said["error"]["id"] == "node.host-key-unknown"
    assert not node.exists()


@pytest.mark.parametrize("words", [(), ("--fingerprint", "right"), ("--fingerprint", "SHA256:AAAA")])
def test_a_changed_key_is_refused_whatever_is_typed(
    config: Path, node: Path, sshd: "Sshd", capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    old = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    node.parent.mkdir(parents=True)
    node.write_text(f"[127.0.0.1]:{sshd.port} {old}\n")
    right = real_fingerprint(sshd)
    code, said = ask(config, capsys, "trust", "pbx2", *(right if word == "right" else word for word in words))
    assert code == 5
    assert said["error"]["id"] == "node.host-key-changed"
    assert node.read_text() == f"[127.0.0.1]:{sshd.port} {old}\n"
