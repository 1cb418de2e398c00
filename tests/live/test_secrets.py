"""No secret in any output: canaries are planted wherever a secret can be, and every stream of every command
is searched, on a real node, with -v and with -o json, when it works and when it fails."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.live.operator import Operator
from voxtractl.cli.entry import COMMANDS, build
from voxtractl.lab import Lab

FILE, ENV, COMMAND, PLAIN = ("canary-of-file", "canary-of-env", "canary-of-command", "canary-in-the-document")

# What to type for each command. A command without a row here fails the test.
WORDS: Final[dict[str, tuple[str, ...]]] = {
    "config check": (),
    "tenant add": (
        "delta",
        "--did",
        "+265999000009",
        "--trunk-host",
        "127.0.0.1",
        "--trunk-password-env",
        "T",
    ),
    "tenant list": (),
    "tenant show": ("acme",),
    "tenant set": ("acme", "max_channels=3"),
    "tenant remove": ("delta", "--yes"),
    "node list": (),
    "node init": ("--yes",),
    "node check": (),
    "node trust": ("lab",),
    "dialplan render": (),
    "dialplan lint": (),
    "dialplan plan": ("--full",),
    "dialplan push": ("--yes", "--allow-deletes", "9"),
    "dialplan reload": ("--all",),
    "dialplan verify": (),
    "dialplan status": (),
    "dialplan rollback": ("--yes",),
    "dialplan history": (),
    "originate": ("acme", "+265999123456", "--ring", "1"),  # nobody is at the other end of its trunk
    "run": (),  # nobody has a handler here; what it says while it serves is searched in test_run.py
}
# They know nothing of the document; their own tests look for their own secrets.
ELSEWHERE: Final = {"init", "demo", "lab up", "lab down", "lab status", "lab cli"}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    below = getattr(command, "commands", None)
    if path and not below:
        yield " ".join(path)
        return
    for name in below or COMMANDS:
        child = below[name] if below else command.get_command(None, name)
        yield from leaves(child, (*path, name))


def test_every_command_is_searched() -> None:
    assert set(leaves(build())) == set(WORDS) | ELSEWHERE


@pytest.fixture
def operator(
    lab: Lab,
    node_document: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Operator:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("T", ENV)
    (tmp_path / "trunk").write_text(FILE)
    trunks = {
        "acme": 'password_file = "trunk"',
        "beta": 'password_env = "T"',
        "gamma": f'password_command = ["printf", "{COMMAND[:8]}%s", "{COMMAND[8:]}"]',
    }
    tenants = "".join(
        f'[tenants.{slug}]\ndids = ["+26599900000{number}"]\n'
        f'[tenants.{slug}.trunk]\nhost = "127.0.0.{number}"\nusername = "{slug}"\n{password}\n'
        for number, (slug, password) in enumerate(trunks.items(), 1)
    )
    tenants += '[tenants.acme.outbound]\ncaller_ids = ["+265888000001"]\nallow = ["+265"]\n'
    return Operator(node_document(tenants), capsys, lab)


def search(operator: Operator) -> None:
    for canary in (FILE, ENV, COMMAND, PLAIN, operator.lab.ari_password.reveal()):
        assert canary not in operator.heard


def test_no_stream_of_any_command_shows_a_secret(operator: Operator) -> None:
    operator.must("dialplan", "push", "--yes")
    held = (operator.current / "pjsip" / "gamma.conf").read_text()
    assert COMMAND in held  # the secrets did reach the node
    for form in ((), ("-v",), ("-o", "json")):
        for command, words in WORDS.items():
            said = operator.types(*command.split(), *words, *form)
            if form == ("-o", "json"):
                json.loads(said.out)
    search(operator)
    for log in (operator.lab.store_dir / "audit.jsonl", *operator.config.parent.glob("state/**/*.jsonl")):
        text = log.read_text()
        assert all(canary not in text for canary in (FILE, ENV, COMMAND))


def test_no_failure_shows_a_secret(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.must("dialplan", "push", "--yes")
    healthy = operator.config.read_text()
    (operator.current / "pjsip" / "acme.conf").write_text(
        "[acme-trunk]\ntype=auth\npassword=canary-of-file\n"
    )
    for broken in (
        healthy,  # drift that holds a secret
        healthy.replace('password_file = "trunk"', f'password = "{PLAIN}"'),
        healthy.replace("ari_password_file", f'ari_password = "{PLAIN}"\nari_password_file'),
        healthy.replace('["printf"', f'["sh", "-c", "echo {PLAIN}; exit 3"]\nx = ["printf"'),
        healthy.replace('["printf", ', f'["sh", "-c", "echo {PLAIN} >&2; exit 3", '),
        healthy.replace(operator.lab.ari_url, f"http://voxtractl:{PLAIN}@127.0.0.1:9"),
        healthy.replace(operator.lab.ari_url, "http://127.0.0.1:9"),
        healthy + f'\n[tenants.delta]\ndids = ["{PLAIN}',
    ):
        operator.config.write_text(broken)
        for form in ((), ("-o", "json")):
            for words in (("config", "check"), ("dialplan", "plan"), ("dialplan", "push", "--yes")):
                operator.types(*words, *form)
    monkeypatch.delenv("T")
    operator.config.write_text(healthy)
    assert operator.types("dialplan", "plan").code == 3
    search(operator)
