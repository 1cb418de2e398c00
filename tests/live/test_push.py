"""Pushes on a real Asterisk: what happens, and what happens when anything breaks on the way.

In every fault the old dialplan answers or the new one does, never a mix; the exit code is the designed one;
and the next push heals.
"""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.conftest import needs_an_account_of_its_own
from tests.live.operator import Operator
from voxtractl import ARIClient, TenantProvisioner
from voxtractl.errors import PlanRefused, UsageFault
from voxtractl.lab import Lab
from voxtractl.model.tenant import Tenant
from voxtractl.provision import Allowed

ACME = "+265999000001"
BETA = "+265999000002"
GAMMA = "+265999000003"
CANARY = "canary-4711-secret"


@pytest.fixture
def operator(lab: Lab, node_document: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> Operator:
    """An operator with an empty document and a prepared node."""
    return Operator(node_document(), capsys, lab)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def two(operator: Operator) -> Operator:
    """acme and beta are pushed and live."""
    operator.add("acme", "--did", ACME)
    operator.add("beta", "--did", BETA)
    operator.must("dialplan", "push", "--yes")
    return operator


# --- the main job ---------------------------------------------------------------------------------------


def test_one_command_takes_a_tenant_from_nothing_to_proven_live(operator: Operator) -> None:
    said = operator.must("tenant", "add", "acme", "--did", ACME, "--push", "--yes")
    assert "proven: 1 DID live" in said.out
    shown = operator.dialplan("from-trunk")
    assert ACME in shown
    assert "Stasis(voxtra-acme,${EXTEN})" in shown


def test_a_trunk_and_a_queue_are_proven_too_and_their_secret_is_never_shown(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_TRUNK", CANARY)
    operator.add(
        "acme",
        *("--did", ACME, "--trunk-host", "127.0.0.1", "--trunk-username", "acme"),
        *("--trunk-password-env", "ACME_TRUNK", "--queue", "support=PJSIP/agent1"),
    )
    for words in (
        ("dialplan", "render"),
        ("dialplan", "render", "-o", "json"),
        ("dialplan", "plan"),
        ("dialplan", "plan", "-o", "json"),
        ("dialplan", "push", "--yes", "-v"),
        ("dialplan", "status", "-o", "json"),
        ("dialplan", "history"),
        ("tenant", "show", "acme"),
        ("tenant", "list", "-o", "json"),
        ("node", "check", "lab"),
        ("config", "check"),
    ):
        operator.types(*words)
    assert "acme-trunk" in operator.lab.cli("pjsip show endpoint acme-trunk")
    assert "acme-support" in operator.lab.cli("queue show acme-support")
    assert CANARY in (operator.current / "pjsip" / "acme.conf").read_text()  # it did reach the node
    assert CANARY not in operator.heard
    assert CANARY not in (operator.lab.store_dir / "audit.jsonl").read_text()
    password = operator.lab.ari_password.reveal()
    assert password not in operator.heard


def test_a_push_of_the_same_document_changes_nothing_and_proves_it(two: Operator) -> None:
    before = two.current
    said = two.must("dialplan", "push", "--yes")
    assert "unchanged" in said.out
    assert two.current == before


def test_a_removed_tenant_is_gone_and_its_neighbour_is_not(two: Operator) -> None:
    two.must("tenant", "remove", "beta", "--push", "--yes")
    assert BETA not in two.dialplan("from-trunk")
    assert ACME in two.dialplan("from-trunk")
    assert "no existence" in two.dialplan("voxtra-beta-fallback")


def test_rollback_brings_the_revision_before_and_proves_it(two: Operator) -> None:
    good = two.current
    two.add("gamma", "--did", GAMMA)
    two.must("dialplan", "push", "--yes")
    assert GAMMA in two.dialplan("from-trunk")
    said = two.must("dialplan", "rollback", "--yes")
    assert f"rolled back {good.name}" in said.out
    assert GAMMA not in two.dialplan("from-trunk")
    assert two.current == good
    assert two.must("dialplan", "history").out.count("pushed") >= 2


def test_status_tells_pending_drift_and_what_is_live(two: Operator) -> None:
    assert two.must("dialplan", "status", "-o", "json").document["nodes"][0]["settled"] is True
    two.add("gamma", "--did", GAMMA)
    assert two.types("dialplan", "status", "--exit-code").code == 6
    assert two.types("dialplan", "plan", "--exit-code").code == 6
    two.must("dialplan", "push", "--yes")
    assert two.types("dialplan", "status", "--exit-code").code == 0
    (two.current / "extensions" / "acme.conf").write_text("; nothing\n")
    status = two.types("dialplan", "status", "-o", "json").document["nodes"][0]
    assert status["drift"] == [{"path": "extensions/acme.conf", "what": "changed"}]
    assert status["proof"]["complete"] is True  # Asterisk has not read it yet


def test_every_push_leaves_an_audit_line_on_the_node_and_here(two: Operator, tmp_path: Path) -> None:
    here = (tmp_path / "state" / "voxtractl" / "audit.jsonl").read_text().splitlines()
    there = (two.lab.store_dir / "audit.jsonl").read_text().splitlines()
    assert here[-1] == there[-1]
    assert (tmp_path / "state" / "voxtractl" / "audit.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("answer", "pushed"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_the_plan_is_shown_and_asked_for(two: Operator, answer: str, pushed: bool) -> None:
    two.add("gamma", "--did", GAMMA)
    here, there = pty.openpty()
    try:
        pusher = subprocess.Popen(
            [sys.executable, "-m", "voxtractl", "--config", str(two.config), "dialplan", "push"],
            stdin=there,
            stdout=there,
            stderr=there,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(there)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(here, 4096):
                seen += data
                if seen.endswith(b"[y/N] "):
                    os.write(here, answer.encode() + b"\n")
        assert pusher.wait() == 0
    finally:
        os.close(here)
    text = seen.decode()
    assert "\x1b[32m+exten => +265999000003,1" in text  # green: added
    assert "lab\x1b[0m: changes 1 of 3 tenants, 1 DID; 0 deletions" in text
    assert ("proven" in text) == pushed
    assert (GAMMA in two.dialplan("from-trunk")) == pushed


def test_without_a_terminal_nobody_is_asked(two: Operator) -> None:
    two.add("gamma", "--did", GAMMA)
    said = two.types("dialplan", "push")
    assert said.code == 2
    assert "add --yes" in said.err
    assert two.types("dialplan", "rollback").code == 2
    assert GAMMA not in two.dialplan("from-trunk")


def test_render_writes_what_push_pushes(two: Operator, tmp_path: Path) -> None:
    two.must("dialplan", "render", "--out", str(tmp_path / "out"))
    for file in (tmp_path / "out" / "lab").rglob("*.conf"):
        assert file.read_bytes() == (two.current / file.relative_to(tmp_path / "out" / "lab")).read_bytes()
        assert file.stat().st_mode & 0o777 == 0o640
    said = two.must("dialplan", "render", "acme")
    assert ACME in said.out
    assert BETA not in said.out
    said = two.types("dialplan", "render", "acne")
    assert said.code == 2
    assert "did you mean acme?" in said.err
    assert "are sound" in two.must("dialplan", "lint").out


def test_a_difference_of_many_lines_is_cut_and_says_so(two: Operator) -> None:
    for number in range(70):
        two.add(f"t{number:02d}", "--did", f"+2658880000{number:02d}")
    shown = two.must("dialplan", "plan").out
    assert "--full shows all of them" in shown
    full = two.must("dialplan", "plan", "--full").out
    assert len(full.splitlines()) > len(shown.splitlines())
    assert "--full" not in full
    two.must("dialplan", "push", "--yes")  # over 64 tenants: files by hash now, every file another
    assert two.types("dialplan", "status", "--exit-code").code == 0


# --- a broken file on the node: Asterisk keeps what it had ----------------------------------------------


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def unreadable(file: Path) -> None:
    os.chown(file, 0, 0)
    file.chmod(0)


def garbled(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"[from-trunk]", b"[from-trunk", 1))


def in_a_comment(file: Path) -> None:
    file.write_bytes(b";--\n" + file.read_bytes())


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def of_another_revision(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"-extensions-beta-", b"-extensions-beta-0", 1))


BREAKAGES: dict[str, Callable[[Path], None]] = {
    "broken": garbled,
    "truncated": cut,
    "empty": emptied,
    "unreadable": unreadable,
    "missing": Path.unlink,
    "commented out": in_a_comment,
    "a folder": a_folder,
    "of another revision": of_another_revision,
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_fragment_leaves_the_whole_old_dialplan_answering(two: Operator, breakage: str) -> None:
    if breakage == "unreadable":
        needs_an_account_of_its_own(two.lab)
    before = two.dialplan("from-trunk")
    BREAKAGES[breakage](two.current / "extensions" / "beta.conf")
    said = two.types("dialplan", "reload")
    assert said.code == 8
    assert "kept what it had" in said.err
    assert two.dialplan("from-trunk") == before
    assert two.live()
    two.must("dialplan", "push", "--yes", "--overwrite-drift")
    assert two.live()
    assert two.types("dialplan", "status", "--exit-code").code == 0


@pytest.mark.parametrize("kind", ["pjsip", "queues"])
def test_a_broken_pjsip_or_queue_file_keeps_the_old_objects_and_is_told(
    operator: Operator, kind: str
) -> None:
    for slug, did in (("acme", ACME), ("beta", BETA)):
        operator.add(slug, "--did", did, "--trunk-host", "127.0.0.1", "--queue", "support=PJSIP/agent1")
    operator.must("dialplan", "push", "--yes")
    cut(operator.current / kind / "acme.conf")
    # Asterisk answers 204 to this reload, keeps its old objects, and so still shows the revision.
    operator.must("dialplan", "reload", "--all")
    assert "beta-trunk" in operator.lab.cli("pjsip show endpoint beta-trunk")
    assert "beta-support" in operator.lab.cli("queue show beta-support")
    assert operator.types("dialplan", "status", "--exit-code").code == 6  # the edit is drift
    operator.must("dialplan", "push", "--yes", "--overwrite-drift")
    assert operator.types("dialplan", "status", "--exit-code").code == 0


def test_a_hand_edit_is_refused_shown_and_kept_when_overwritten(two: Operator) -> None:
    edited = two.current / "extensions" / "acme.conf"
    edited.write_text(edited.read_text() + "; my own line\n")
    two.add("gamma", "--did", GAMMA)
    said = two.types("dialplan", "push", "--yes")
    assert said.code == 4
    assert "extensions/acme.conf (changed)" in said.err
    assert "--overwrite-drift" in said.err
    two.must("dialplan", "push", "--yes", "--overwrite-drift")
    kept = list((two.lab.store_dir / "releases").glob("drift-*"))
    assert len(kept) == 1
    assert "my own line" in (kept[0] / "extensions" / "acme.conf").read_text()


# --- a push that Asterisk does not take ---------------------------------------------------------------


def test_a_push_asterisk_refuses_is_rolled_back_and_proven(two: Operator) -> None:
    before = two.current
    shown = two.dialplan("from-trunk")
    own = two.lab.config_dir / "extensions.conf"
    healthy = own.read_bytes()
    own.write_bytes(healthy + b"\n[operators-own-mistake\n")
    two.add("gamma", "--did", GAMMA)
    said = two.types("dialplan", "push", "--yes", "-o", "json")
    # The old revision cannot be loaded through a broken top file either, but it never left the memory.
    assert said.code in {8, 9}
    assert two.current == before
    assert two.dialplan("from-trunk") == shown
    own.write_bytes(healthy)
    two.must("dialplan", "push", "--yes")
    assert GAMMA in two.dialplan("from-trunk")


def test_a_push_that_does_not_prove_is_rolled_back_with_exit_8(two: Operator) -> None:
    before = two.current
    queues = two.lab.config_dir / "queues.conf"
    healthy = queues.read_bytes()
    # The operator's own template cuts voxtractl's mark off: app_queue says 204 and shows the old one.
    queues.write_bytes(healthy.replace(b"[voxtractl-loaded](voxtractl-end)", b"[voxtractl-loaded](nothing)"))
    two.must("tenant", "set", "acme", 'queues.support.members=["PJSIP/agent1"]')
    said = two.types("dialplan", "push", "--yes", "-o", "json")
    assert said.code == 8
    error = said.document["error"]
    assert error["id"] == "node.verify"
    assert error["details"]["restored"] == before.name
    assert "queues" in error["details"]["missing"]["kinds"]
    assert two.current == before
    queues.write_bytes(healthy)
    two.must("dialplan", "push", "--yes")
    assert "acme-support" in two.lab.cli("queue show acme-support")


def test_two_reloads_at_once_wait_for_each_other(two: Operator) -> None:
    two.add("gamma", "--did", GAMMA)
    stop = threading.Event()

    def reload_on_and_on() -> None:
        for _ in range(500):
            if stop.is_set():
                return
            two.lab.cli("module reload res_pjsip.so")

    neighbour = threading.Thread(target=reload_on_and_on)
    neighbour.start()
    try:
        two.must("dialplan", "push", "--yes")
        two.must("dialplan", "reload", "--all")
    finally:
        stop.set()
        neighbour.join()
    assert GAMMA in two.dialplan("from-trunk")


# --- doors that do not open -----------------------------------------------------------------------------


def test_a_wrong_ari_password_ends_before_anything_is_touched(two: Operator, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("not-the-password")
    text = two.config.read_text()
    two.config.write_text(text.replace(str(two.lab.ari_password_file), "wrong"))
    two.add("gamma", "--did", GAMMA)
    before = sorted(two.lab.store_dir.rglob("*"))
    said = two.types("dialplan", "push", "--yes", "-o", "json")
    assert said.code == 5
    assert said.document["error"]["id"] == "node.auth"
    assert "not-the-password" not in said.out + said.err
    assert sorted(two.lab.store_dir.rglob("*")) == before
    two.config.write_text(two.config.read_text().replace('"wrong"', f'"{two.lab.ari_password_file}"'))
    two.must("dialplan", "push", "--yes")


def test_a_user_who_may_only_read_ends_before_anything_is_touched(two: Operator) -> None:
    text = two.config.read_text()
    reader = text.replace(f'"{two.lab.ari_user}"', f'"{two.lab.reader_user}"').replace(
        str(two.lab.ari_password_file), str(two.lab.reader_password_file)
    )
    two.config.write_text(reader)
    two.add("gamma", "--did", GAMMA)
    before = two.current
    said = two.types("dialplan", "push", "--yes")
    assert said.code == 5
    assert "read_only = no" in said.err
    assert two.current == before


def test_a_damaged_manifest_on_the_node_is_drift_and_heals(two: Operator) -> None:
    (two.current / "manifest.json").write_bytes(b"{")
    assert two.types("dialplan", "push", "--yes").code == 4
    assert two.types("dialplan", "verify").code == 5
    two.must("dialplan", "push", "--yes", "--overwrite-drift")
    assert two.types("dialplan", "status", "--exit-code").code == 0


# --- two operators, old plans ---------------------------------------------------------------------------


def test_a_reviewed_plan_is_pushed_exactly_or_not_at_all(two: Operator) -> None:
    two.add("gamma", "--did", GAMMA)
    reviewed = two.must("dialplan", "plan", "-o", "json").document["plan"]
    two.must("tenant", "set", "gamma", "dids=+265999000009")
    said = two.types("dialplan", "push", "--yes", "--plan", reviewed, "-o", "json")
    assert said.code == 4
    assert said.document["error"]["id"] == "plan.stale"
    reviewed = two.must("dialplan", "plan", "-o", "json").document["plan"]
    two.must("dialplan", "push", "--plan", reviewed)  # no question: it was reviewed
    assert "+265999000009" in two.dialplan("from-trunk")
    assert two.types("dialplan", "push", "--plan", reviewed).code == 4  # once


def test_a_second_pusher_is_refused_with_the_holders_name(two: Operator) -> None:
    two.add("gamma", "--did", GAMMA)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(two.config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline().strip() == "held"
        said = two.types("dialplan", "push", "--yes", "-o", "json")
        assert said.code == 4
        assert said.document["error"]["id"] == "plan.locked"
        assert "the-other-one" in said.out
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    two.must("dialplan", "push", "--yes")  # its holder is dead: the lock is free


HOLD = """
import asyncio, sys
from voxtractl.provision import TenantProvisioner

async def hold():
    async with TenantProvisioner(sys.argv[1]).store("lab") as store, store.lock("the-other-one"):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(hold())
"""


def test_a_pusher_that_is_killed_leaves_the_old_or_the_new_never_a_mix(two: Operator) -> None:
    """kill -9 at many moments of a push; after each, all of one revision answers, and a push heals.

    The moments are parts of the time that a push takes here which nobody disturbs: the shortest seen so far.
    """
    shown: set[bool] = set()
    whole = 0.0
    for part in (1.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0):
        two.types("tenant", "remove", "gamma", "--yes")
        two.must("dialplan", "push", "--yes", "--overwrite-drift", "--allow-deletes", "3")
        two.add("gamma", "--did", GAMMA, "--queue", "support=PJSIP/agent1")
        words = ["--config", str(two.config), "dialplan", "push", "--yes"]
        started = time.monotonic()
        pusher = subprocess.Popen(
            [sys.executable, "-m", "voxtractl", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            pusher.wait(part * whole if whole else 60)
        pusher.kill()
        pusher.wait()
        took = time.monotonic() - started
        if pusher.returncode == 0:
            whole = min(whole or took, took)
        text = two.dialplan("from-trunk")
        assert ACME in text
        assert BETA in text
        shown.add(GAMMA in text)
        assert (GAMMA in text) == ("gamma-support))" in two.dialplan("voxtra-gamma-queues"))
    two.must("dialplan", "push", "--yes")
    assert two.live()
    assert shown == {True, False}


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGINT, 3), (signal.SIGTERM, 1)])
def test_an_interrupted_push_is_undone_before_the_command_ends(
    two: Operator, number: signal.Signals, times: int
) -> None:
    """At many moments, and by a finger that does not wait: what the files are and what Asterisk runs agree,
    without another command."""
    codes: set[int] = set()
    for step in ("observe", "guard", "push", "reload", "verify", "record"):
        two.types("tenant", "remove", "gamma", "--yes")
        two.must("dialplan", "push", "--yes", "--allow-deletes", "3")
        two.add("gamma", "--did", GAMMA)
        words = ["--config", str(two.config), "dialplan", "push", "--yes", "-v"]
        pusher = subprocess.Popen(
            [sys.executable, "-m", "voxtractl", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # As at a keyboard: what runs in the background of a script begins with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert pusher.stderr is not None
        for line in pusher.stderr:
            if f": {step}" in line:
                for _ in range(times):
                    pusher.send_signal(number)
                    time.sleep(0.02)
                break
        else:
            pytest.fail(f"-v does not name the step {step}")
        rest = pusher.stderr.read()
        pusher.stderr.close()
        codes.add(pusher.wait())
        if pusher.returncode == 130:
            assert "dialplan status shows what each node runs" in rest
        assert two.live(), step
        assert (GAMMA in two.dialplan("from-trunk")) == (two.current / "extensions" / "gamma.conf").exists()
    assert 130 in codes
    assert codes <= {0, 130}
    two.must("dialplan", "push", "--yes")
    assert GAMMA in two.dialplan("from-trunk")


# --- an Asterisk that goes away -------------------------------------------------------------------------


@pytest.fixture
def alone(
    own_lab: Callable[[], Lab], node_document: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> Operator:
    """An operator whose lab may be killed; acme is live."""
    lab = own_lab()
    typist = Operator(node_document(lab=lab), capsys, lab)
    typist.add("acme", "--did", ACME)
    typist.must("dialplan", "push", "--yes")
    return typist


def test_asterisk_down_is_unreachable_and_nothing_is_touched(alone: Operator) -> None:
    before = alone.current
    alone.add("gamma", "--did", GAMMA)
    alone.lab.down()
    said = alone.types("dialplan", "push", "--yes", "-o", "json")
    assert said.code == 5
    assert said.document["error"]["id"] == "node.unreachable"
    assert said.document["error"]["retryable"] is True
    assert alone.current == before
    said = alone.types("dialplan", "status", "--exit-code")
    assert said.code == 5
    assert "unknown" in said.out
    assert alone.types("dialplan", "status", "-o", "json").document["error"]["id"] == "node.unreachable"
    alone.lab.start()
    alone.must("dialplan", "push", "--yes")
    assert GAMMA in alone.dialplan("from-trunk")


def test_asterisk_that_dies_in_the_middle_is_exit_9_and_comes_back_with_the_old(alone: Operator) -> None:
    before = alone.current
    alone.add("gamma", "--did", GAMMA)
    words = ["--config", str(alone.config), "dialplan", "push", "--yes", "-v", "-o", "json"]
    pusher = subprocess.Popen(
        [sys.executable, "-m", "voxtractl", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert pusher.stderr is not None
    for line in pusher.stderr:
        if ": push" in line:
            alone.lab.kill()
            break
    out, _ = pusher.communicate()
    error = json.loads(out)["error"]
    assert pusher.returncode == 9
    assert error["id"] == "node.rollback"
    assert "voxtractl dialplan verify --node lab" in error["hint"]
    assert alone.current == before
    alone.lab.start()
    assert alone.live()
    assert GAMMA not in alone.dialplan("from-trunk")
    assert alone.must("dialplan", "history", "-o", "json").document["nodes"]["lab"][0]["outcome"] == (
        "rollback-failed"
    )
    alone.must("dialplan", "push", "--yes")
    assert GAMMA in alone.dialplan("from-trunk")


def test_what_was_pushed_is_there_after_a_restart_of_asterisk(alone: Operator) -> None:
    alone.lab.kill()
    alone.lab.start()
    assert alone.live()


def test_a_full_disk_leaves_the_old_revision_and_heals_when_there_is_room(
    own_lab: Callable[[], Lab], node_document: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lab = own_lab()
    lab.down()  # so that Asterisk starts with the small disk in sight
    store = lab.store_dir
    options = f"size=300k,mode=2750,gid={store.stat().st_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(store)], check=True)
    try:
        lab.start()
        typist = Operator(node_document(lab=lab), capsys, lab)
        typist.add("acme", "--did", ACME)
        typist.must("dialplan", "push", "--yes")
        before, shown = typist.current, typist.dialplan("from-trunk")
        ballast = store / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        typist.add("gamma", "--did", GAMMA)
        said = typist.types("dialplan", "push", "--yes", "-o", "json")
        assert said.code == 5
        assert said.document["error"]["id"] == "node.store"
        assert typist.current == before
        assert typist.dialplan("from-trunk") == shown
        ballast.unlink()
        typist.must("dialplan", "push", "--yes")
        assert GAMMA in typist.dialplan("from-trunk")
    finally:
        lab.down()
        subprocess.run(["umount", str(store)], check=True)


# --- several nodes --------------------------------------------------------------------------------------


def with_second_node(operator: Operator, store: str) -> None:
    lab = operator.lab
    operator.config.write_text(
        operator.config.read_text()
        + f"""
[nodes.second]
ari = "{lab.ari_url}"
ari_user = "{lab.ari_user}"
ari_password_file = "{lab.ari_password_file}"
store = "{store}"
"""
    )


def test_a_failed_canary_stops_the_rollout_and_a_failed_follower_is_partial(
    two: Operator, tmp_path: Path
) -> None:
    with_second_node(two, f"local:{tmp_path}/nowhere/voxtractl")
    two.add("gamma", "--did", GAMMA)
    said = two.types("dialplan", "push", "--yes", "-o", "json")
    assert said.code == 7
    nodes = {node["node"]: node["status"] for node in said.document["error"]["details"]["nodes"]}
    assert nodes == {"lab": "pushed", "second": "failed"}
    assert GAMMA in two.dialplan("from-trunk")
    text = two.config.read_text()
    first, second = text.index("[nodes.lab]"), text.index("[nodes.second]")
    rest = text.index("[tenants", first)
    two.config.write_text(text[second:] + text[first:second][: rest - first] + text[rest:second])
    said = two.types("dialplan", "push", "--yes")
    assert said.code != 0
    assert "second" in said.err


def test_only_the_named_node_is_worked_on(two: Operator, tmp_path: Path) -> None:
    with_second_node(two, f"local:{tmp_path}/nowhere/voxtractl")
    two.add("gamma", "--did", GAMMA)
    two.must("dialplan", "push", "--yes", "-n", "lab")
    said = two.types("dialplan", "status")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == ["NODE", "lab", "second"]
    said = two.types("dialplan", "plan", "-n", "third")
    assert said.code == 2
    assert "lab, second" in said.err


# --- library users --------------------------------------------------------------------------------------


async def test_a_program_provisions_pushes_reloads_and_takes_away(
    lab: Lab, node_document: Callable[..., Path]
) -> None:
    provisioner = TenantProvisioner(node_document())
    files = provisioner.provision(Tenant(slug="acme", name="Acme", app="voxtra-acme", dids=(ACME,)))
    assert ACME in files["extensions/acme.conf"]
    (result,) = await provisioner.write_files()
    assert result.status == "pushed"
    async with ARIClient(lab.ari_url, lab.ari_user, lab.ari_password) as ari:
        assert await provisioner.reload_asterisk(ari)
    assert ACME in lab.cli("dialplan show from-trunk")
    provisioner.deprovision("acme")
    (result,) = await provisioner.push(Allowed(deletes=1))
    assert result.status == "pushed"
    assert ACME not in lab.cli("dialplan show from-trunk")


async def test_a_tenant_without_numbers_is_proven_by_its_fallback(node_document: Callable[..., Path]) -> None:
    provisioner = TenantProvisioner(node_document())
    provisioner.provision(Tenant(slug="acme", name="Acme", app="voxtra-acme"))
    (result,) = await provisioner.push()
    assert result.proof is not None
    assert result.proof.asked == 4  # three kinds and the tenant


async def test_reload_asterisk_knows_only_its_own_nodes(
    node_document: Callable[..., Path],
) -> None:
    provisioner = TenantProvisioner(node_document(init=False))
    async with ARIClient("http://127.0.0.1:9", "a", "b") as ari:
        with pytest.raises(UsageFault, match="no node"):
            await provisioner.reload_asterisk(ari)
    with pytest.raises(PlanRefused, match="nothing was ever pushed"):
        await provisioner.reload_asterisk()
    with pytest.raises(UsageFault, match="no tenant"):
        provisioner.deprovision("acme")
