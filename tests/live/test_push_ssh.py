"""The whole flow over SSH: a real OpenSSH server in front of the real Asterisk's files.

A broken connection, a wrong key or an unknown host leaves the old dialplan answering; the next push heals.
"""

import re
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest

from tests.live.operator import Operator
from tests.tools.sshd import SFTP_ONLY, Sshd
from voxtractl.lab import Lab

ACME = "+265999000001"
BETA = "+265999000002"


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """voxtractl's own known_hosts lies in the test's folder; nothing is trusted yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "config" / "voxtractl" / "known_hosts"


@pytest.fixture(params=["a key that may exec", "a key for SFTP only"])
def operator(
    request: pytest.FixtureRequest,
    lab: Lab,
    sshd: Sshd,
    node_document: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> Operator:
    """An operator who reaches the prepared node over SSH only, and has not trusted it yet."""
    config = node_document()  # the folder is prepared by hand of the node's own operator
    key = sshd.key(SFTP_ONLY if "only" in request.param else "")
    text = config.read_text()
    text = text.replace(f"local:{lab.store_dir}", sshd.url(lab.store_dir))
    config.write_text(text.replace("store =", f'identity = "{key}"\nstore ='))
    return Operator(config, capsys, lab)


@pytest.fixture
def trusted(operator: Operator) -> Operator:
    said = operator.types("node", "trust", "lab")
    assert said.code == 4
    fingerprint = re.search(r"SHA256:[A-Za-z0-9+/]+", said.out + said.err)
    assert fingerprint is not None
    operator.must("node", "trust", "lab", "--fingerprint", fingerprint[0])
    operator.add("acme", "--did", ACME)
    return operator


def test_an_unknown_host_is_refused_with_the_command_that_trusts_it(operator: Operator) -> None:
    operator.add("acme", "--did", ACME)
    said = operator.types("dialplan", "push", "--yes", "-o", "json")
    assert said.code == 5
    error = said.document["error"]
    assert error["id"] == "node.host-key-unknown"
    assert "voxtractl node trust lab --fingerprint SHA256:" in error["hint"]
    assert ACME not in operator.dialplan("from-trunk")


def test_another_key_than_the_trusted_one_is_refused_whatever_is_typed(
    trusted: Operator, own_config: Path, sshd: Sshd
) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    own_config.write_text(f"[127.0.0.1]:{sshd.port} {other}\n")
    for words in (
        ("dialplan", "push", "--yes", "-o", "json"),
        ("node", "trust", "lab", "-o", "json"),
        ("node", "trust", "lab", "--fingerprint", sshd.host_key.get_fingerprint(), "-o", "json"),
    ):
        said = trusted.types(*words)
        assert said.code == 5
        assert said.document["error"]["id"] == "node.host-key-changed"
    assert other in own_config.read_text()
    assert ACME not in trusted.dialplan("from-trunk")


def test_a_key_the_node_does_not_know_is_a_failed_login(trusted: Operator, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(stranger)
    stranger.chmod(0o600)
    text = re.sub(r'identity = ".*"', f'identity = "{stranger}"', trusted.config.read_text())
    trusted.config.write_text(text)
    said = trusted.types("dialplan", "push", "--yes", "-o", "json")
    assert said.code == 5
    assert said.document["error"]["id"] == "node.auth"


def test_push_prove_roll_back_and_show_over_ssh(trusted: Operator) -> None:
    assert "proven: 1 DID live" in trusted.must("dialplan", "push", "--yes").out
    assert ACME in trusted.dialplan("from-trunk")
    trusted.add("beta", "--did", BETA)
    assert trusted.types("dialplan", "plan", "--exit-code").code == 6
    trusted.must("dialplan", "push", "--yes")
    assert BETA in trusted.dialplan("from-trunk")
    trusted.must("dialplan", "rollback", "--yes")
    assert BETA not in trusted.dialplan("from-trunk")
    assert (
        trusted.must("dialplan", "history", "-o", "json").document["nodes"]["lab"][0]["outcome"] == "rollback"
    )
    trusted.must("dialplan", "push", "--yes")
    assert trusted.types("dialplan", "status", "--exit-code").code == 0
    trusted.must("dialplan", "verify")
    trusted.must("node", "check", "lab")


def test_a_file_cut_on_the_node_is_drift_and_heals_over_ssh(trusted: Operator) -> None:
    trusted.must("dialplan", "push", "--yes")
    file = trusted.current / "extensions" / "acme.conf"
    file.write_bytes(file.read_bytes()[:60])
    assert trusted.types("dialplan", "reload").code == 8
    assert ACME in trusted.dialplan("from-trunk")
    assert trusted.types("dialplan", "push", "--yes").code == 4
    trusted.must("dialplan", "push", "--yes", "--overwrite-drift")
    assert trusted.live()


def test_a_node_that_is_gone_is_unreachable(trusted: Operator) -> None:
    text = re.sub(r"(sftp://[^:]*:)\d+", r"\g<1>1", trusted.config.read_text())
    trusted.config.write_text(text)
    said = trusted.types("dialplan", "push", "--yes", "-o", "json")
    assert said.code == 5
    assert said.document["error"]["id"] == "node.unreachable"
    assert said.document["error"]["retryable"] is True
