"""The dialplan commands before and beside Asterisk: files that cannot be written, nodes that cannot be read.

What they do on a real Asterisk is in ``tests/live/test_push.py``.
"""

import asyncio
import json
import os
import signal
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from voxtractl.cli import dialplan
from voxtractl.cli.entry import run
from voxtractl.deploy.revision import Outcome, Record, manifest_of, revision_id
from voxtractl.deploy.store.memory import forget, memory
from voxtractl.errors import Interrupted
from voxtractl.provision import TenantProvisioner

# Port 9 answers nobody: neither as ARI nor as SSH.
NODE: Final = """\
[nodes.{name}]
ari = "http://127.0.0.1:9"
ari_user = "voxtractl"
ari_password_env = "PBX"
store = "{store}"

"""
DEAD: Final = "sftp://ann@127.0.0.1:9/etc/asterisk/voxtractl"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PBX", "secret")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield tmp_path
    for name in ("pbx1", "pbx2", "pbx3"):
        forget(name)


def nodes(**stores: str) -> None:
    text = "".join(NODE.format(name=name, store=store) for name, store in stores.items())
    Path("tenants.toml").write_text(text + '[tenants.acme]\ndids = ["+265999000001"]\n')


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run(["dialplan", *words, "-o", "json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["ok"] is (code == 0)
    return code, document


def lay_down(count: int) -> list[str]:
    """Releases of the document on pbx1, the last one current; their names."""

    async def push() -> list[str]:
        provisioner = TenantProvisioner()
        bundle = provisioner.bundle("pbx1")
        names: list[str] = []
        for second in range(count):
            when = datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC)
            name = revision_id(bundle.tree, when)
            manifest = manifest_of(bundle, revision=name, who="ann", when=when, base=None, tool="test")
            async with provisioner.store("pbx1") as store, store.lock("ann"):
                await store.push(manifest, bundle.files)
            names.append(name)
        return names

    return asyncio.run(push())


# --- render --out -----------------------------------------------------------------------------------------


def test_render_onto_a_file_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    nodes(pbx1="memory:pbx1")
    Path("out").write_text("a file\n")
    code, document = answer(capsys, "render", "--out", "out")
    assert code == 2
    assert "out/pbx1" in document["error"]["message"]
    assert document["error"]["hint"]
    assert Path("out").read_text() == "a file\n"


@pytest.mark.parametrize("place", ["/proc/nothing", "full"])
def test_render_where_nothing_can_be_written_names_the_place(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes(pbx1="memory:pbx1")
    Path("full/pbx1").mkdir(parents=True)
    Path("full/pbx1/extensions.conf").symlink_to("/dev/full")
    assert run(["dialplan", "render", "--out", place]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --out {place}: ")
    assert "\nhint:" in err


# --- nodes that cannot be read ----------------------------------------------------------------------------


def test_status_shows_the_others_beside_a_node_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes(pbx1=DEAD, pbx2="memory:pbx2")
    assert run(["dialplan", "status"]) == 7
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["NODE", "REVISION"],
        ["pbx1", "unknown"],
        ["pbx2", "none"],
    ]
    assert "1 of 2 nodes failed (pbx1)" in err
    code, document = answer(capsys, "status", "--exit-code")
    assert code == 7
    shown = {node["node"]: node["error"] for node in document["error"]["details"]["nodes"]}
    assert shown["pbx1"]["id"] == "node.unreachable"
    assert shown["pbx2"] is None


def test_status_of_nodes_that_all_cannot_be_read_ends_as_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    nodes(pbx1=DEAD, pbx2=DEAD)
    code, document = answer(capsys, "status")
    assert code == 5
    assert [node["node"] for node in document["error"]["details"]["nodes"]] == ["pbx1", "pbx2"]


def test_status_shows_the_others_beside_a_node_whose_password_cannot_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(pbx1="memory:pbx1", pbx2="memory:pbx2")
    document = Path("tenants.toml")
    document.write_text(document.read_text().replace('"PBX"', '"PBX1"', 1))
    code, answered = answer(capsys, "status")
    shown = {node["node"]: node["error"] for node in answered["error"]["details"]["nodes"]}
    assert (code, shown["pbx1"]["id"], shown["pbx2"]) == (7, "config.settings", None)
    assert "nodes.pbx1.ari_password_env" in shown["pbx1"]["message"]
    monkeypatch.delenv("PBX")
    assert answer(capsys, "status")[0] == 3


def test_history_shows_the_others_too(capsys: pytest.CaptureFixture[str]) -> None:
    nodes(pbx1=DEAD, pbx2="memory:pbx2")
    code, document = answer(capsys, "history")
    assert (code, document["error"]["id"]) == (7, "partial")
    assert list(document["error"]["details"]["nodes"]) == ["pbx1", "pbx2"]
    nodes(pbx1=DEAD)
    code, document = answer(capsys, "history")
    assert (code, document["error"]["id"]) == (5, "node.unreachable")


def test_a_plan_needs_every_node_and_names_all_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes(pbx1=DEAD, pbx2="memory:pbx2", pbx3=DEAD)
    assert run(["dialplan", "plan"]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "  pbx1: " in err
    assert "  pbx3: " in err
    assert "pbx2" not in err


# --- push -------------------------------------------------------------------------------------------------


def test_what_no_node_would_take_is_refused_before_anybody_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes(pbx1="memory:pbx1")
    assert run(["dialplan", "push"]) == 4
    assert "hint:  voxtractl node init pbx1" in capsys.readouterr().err
    lay_down(1)
    nodes(pbx1="memory:pbx1", pbx2="memory:pbx2")
    with Path("tenants.toml").open("a") as document:
        document.write("max_channels = 1\n")
    assert run(["dialplan", "push"]) == 2  # pbx1 would take it
    assert "there is no terminal to confirm on" in capsys.readouterr().err


@pytest.mark.parametrize("digest", ["", "null", "sha256:2a4b0cae1931680c", "plan.json"])
def test_what_is_no_digest_of_a_plan_is_typed_wrongly(
    digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes(pbx1="memory:pbx1")
    assert run(["dialplan", "push", "--plan", digest]) == 2
    assert "--plan" in capsys.readouterr().err


# --- rollback ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["20200101T000000Z-000000000000", "../x", "drift-20260102T030400Z"])
def test_rollback_to_a_revision_that_is_not_kept_names_those_that_are(
    named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes(pbx1="memory:pbx1")
    first, second, current = lay_down(3)
    code, document = answer(capsys, "rollback", named, "--yes")
    assert (code, document["error"]["id"]) == (2, "usage")
    assert document["error"]["hint"] == f"the other revisions that pbx1 keeps: {first}, {second}"
    assert document["error"]["details"]["kept"] == [first, second, current]


def test_rollback_to_what_is_current_says_what_else_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    nodes(pbx1="memory:pbx1")
    first, current = lay_down(2)
    code, document = answer(capsys, "rollback", current, "--yes")
    assert code == 4
    assert first in document["error"]["hint"]


# --- history ----------------------------------------------------------------------------------------------


def test_history_tells_who_and_why_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(pbx1="memory:pbx1")
    why = "20260102T030405Z-5d9f3e0b37e0 is not proven on pbx1, Asterisk does not run it: 1 DID is missing"
    endings: tuple[tuple[Outcome, str], ...] = (("pushed", ""), ("rolled-back", why))
    for outcome, reason in endings:
        line = Record(
            "2026-01-02T03:04:05.123Z", "ann@laptop", "pbx1", outcome, why.split()[0], None, reason=reason
        )
        memory("pbx1").audit += line.to_line().encode()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["dialplan", "history", "--no-color"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = " ".join(" ".join(lines).split())
    for words in ("WHEN NODE OUTCOME REVISION", "WHO REASON", "2026-01-02T03:04:05Z pbx1 rolled-back", why):
        assert words in shown
    assert shown.count("ann@laptop") == 2


# --- Ctrl-C -----------------------------------------------------------------------------------------------


def test_one_more_ctrl_c_takes_nothing_from_what_the_first_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(work: Coroutine[Any, Any, object]) -> None:
        work.close()
        raise KeyboardInterrupt

    def again(*said: Any, **more: Any) -> Interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        return Interrupted(*said, **more)

    nodes(pbx1="memory:pbx1")
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(dialplan, "wait", cut)
    monkeypatch.setattr(dialplan, "Interrupted", again)
    assert run(["dialplan", "reload"]) == 130
    assert "dialplan status shows what each node runs" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
