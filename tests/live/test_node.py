"""``voxtractl node`` against a real Asterisk: its own files change by two lines or not at all."""

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import LabFactory, NodeDocument, needs_an_account_of_its_own
from tests.live.operator import Operator, Said
from tests.tools.sshd import Sshd
from voxtractl import naming
from voxtractl.deploy import prepare
from voxtractl.deploy.steps import Options
from voxtractl.deploy.store.local import LocalStore
from voxtractl.errors import RollbackFailed, StalePlan, StoreError, UnsafePlan
from voxtractl.lab import Lab
from voxtractl.provision import TenantProvisioner

ACME = """
[tenants.acme]
dids = ["+265999000001"]
[tenants.acme.queues.support]
members = ["PJSIP/agent1"]
"""


@pytest.fixture
def config(node_document: NodeDocument) -> Path:
    """The document of the shared lab, which is not prepared."""
    return node_document(init=False)


@pytest.fixture
def operator(config: Path, capsys: pytest.CaptureFixture[str], lab: Lab) -> Iterator[Operator]:
    operator = Operator(config, capsys, lab)
    yield operator
    assert lab.ari_password.reveal() not in operator.heard, "a secret was shown"
    assert lab.reader_password.reveal() not in operator.heard, "a secret was shown"


def own_files(lab: Lab) -> dict[str, tuple[bytes, int, int, int]]:
    """All of Asterisk's own files: bytes, owner, group, mode."""
    found = {}
    for path in sorted(lab.config_dir.iterdir()):
        if path.is_file():
            status = path.stat()
            found[path.name] = (path.read_bytes(), status.st_uid, status.st_gid, status.st_mode)
    return found


def live(lab: Lab) -> bool:
    """Whether Asterisk's console shows the context that only a whole load makes."""
    return "voxtractl-loaded" in lab.cli(f"dialplan show {naming.LOADED_CONTEXT}").split("There is no")[0]


def dangling(lab: Lab) -> list[str]:
    """Files that include a release which is not there: Asterisk would start without a dialplan."""
    return [
        kind
        for kind in naming.KINDS
        if b"#include voxtractl" in (lab.config_dir / f"{kind}.conf").read_bytes()
        and not (lab.store_dir / "current" / f"{kind}.conf").is_file()
    ]


def level(said: Said, name: str) -> str:
    """The level of one finding of ``node check -o json``."""
    (node,) = said.document["nodes"]
    return str({finding["name"]: finding["level"] for finding in node["findings"]}.get(name, "none"))


# --- init and remove --------------------------------------------------------------------------------------


def test_init_makes_asterisk_read_the_store_and_a_second_one_has_nothing_to_do(
    operator: Operator, lab: Lab
) -> None:
    assert not live(lab)
    first = operator.must("node", "init", "--yes")
    assert "+[voxtractl-loaded](voxtractl-end)" in first.err
    assert live(lab)
    assert "voxtractl-loaded" in lab.cli("queue show")
    assert "voxtractl-loaded" in lab.cli("pjsip show aors")
    files = own_files(lab)
    second = operator.must("node", "init", "-o", "json")  # nothing to confirm
    assert second.document["nodes"][0]["status"] == "unchanged"
    assert own_files(lab) == files


def test_init_of_a_named_node_shows_the_difference_and_asks_first(operator: Operator, lab: Lab) -> None:
    before = own_files(lab)
    assert operator.types("node", "init", "lab").code == 2  # no terminal to ask on
    shown = operator.must("node", "init", "lab", "--dry-run", "-o", "json").document
    assert "+#include voxtractl/current/queues.conf" in shown["nodes"]["lab"]["difference"]
    assert operator.types("node", "init", "pbx9", "--yes").code == 2
    assert own_files(lab) == before
    assert not (lab.store_dir / "current").exists()


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"[mine]\nexten => 1,1,NoOp()",
        b"[mine]\r\nexten => 1,1,NoOp()\r\n",
        b"[mine]\r\nexten => 1,1,NoOp()",
        b"[mine]\n; caf\xe9\nexten => 1,1,NoOp()\n\n\n",
        b"[mine]\n;-- a note --;\nexten => 1,1,NoOp()\n",
    ],
    ids=["as it was", "no line end", "CRLF", "CRLF, no line end", "Latin-1", "block comment"],
)
def test_remove_gives_every_file_back_byte_for_byte(operator: Operator, lab: Lab, tail: bytes) -> None:
    path = lab.config_dir / "extensions.conf"
    path.write_bytes(path.read_bytes() + tail)
    before = own_files(lab)
    operator.must("node", "init", "--yes")
    assert live(lab)
    assert not tail or "mine" in lab.cli("dialplan show mine").split("There is no")[0]
    operator.must("node", "init", "--remove", "--yes")
    assert own_files(lab) == before
    assert not live(lab)
    assert "voxtractl-loaded" not in lab.cli("queue show")
    assert "nothing to do" in operator.must("node", "init", "--remove").out


def test_remove_asks_when_tenants_are_live_and_leaves_the_store(
    node_document: NodeDocument, capsys: pytest.CaptureFixture[str], lab: Lab
) -> None:
    operator = Operator(node_document(ACME), capsys, lab)
    operator.must("dialplan", "push", "--yes")
    assert operator.types("node", "init", "--remove").code == 2
    assert operator.live()
    operator.must("node", "init", "--remove", "--yes")
    assert not operator.live()
    operator.must("node", "init", "--yes")
    assert operator.live()


async def test_remove_refuses_when_more_tenants_are_live_than_the_operator_saw(
    node_document: NodeDocument, lab: Lab
) -> None:
    provisioner = TenantProvisioner(node_document(ACME))
    (result,) = await provisioner.push()
    assert result.status == "pushed"
    before = own_files(lab)
    async with provisioner.open("lab") as (store, ari):
        with pytest.raises(UnsafePlan, match="serves 1 tenant"):
            await prepare.remove(store, ari, "lab", "voxtractl", options(), quiet, tenants=0)
    assert own_files(lab) == before


def test_init_heals_lines_that_were_edited_by_hand(operator: Operator, lab: Lab) -> None:
    operator.must("node", "init", "--yes")
    good = own_files(lab)
    path = lab.config_dir / "extensions.conf"
    path.write_bytes(path.read_bytes().replace(b"[voxtractl-loaded](voxtractl-end)\n", b""))
    lab.cli("dialplan reload")
    assert not live(lab)
    operator.must("node", "init", "--yes")
    assert own_files(lab) == good
    assert live(lab)


def test_init_reloads_when_only_the_reload_was_forgotten(operator: Operator, lab: Lab) -> None:
    operator.must("node", "init", "--yes")
    good = own_files(lab)
    path = lab.config_dir / "extensions.conf"
    path.write_bytes(b"[general]\n")
    lab.cli("dialplan reload")
    path.write_bytes(good["extensions.conf"][0])
    assert not live(lab)
    assert operator.must("node", "init", "-o", "json").document["nodes"][0]["status"] == "prepared"
    assert live(lab)


def test_files_that_asterisk_starts_without_are_made(
    own_lab: LabFactory, node_document: NodeDocument, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = own_lab()
    lab.down()
    (lab.config_dir / "queues.conf").unlink()
    lab.start()
    operator = Operator(node_document(lab=lab, init=False), capsys, lab)
    operator.must("node", "init", "--yes")
    assert live(lab)
    assert "voxtractl-loaded" in lab.cli("queue show")
    mode = (lab.config_dir / "queues.conf").stat()
    assert (mode.st_mode & 0o777, mode.st_gid) == (0o640, lab.config_dir.stat().st_gid)
    operator.must("node", "init", "--remove", "--yes")
    assert (lab.config_dir / "queues.conf").read_bytes() == b""


def test_a_prepared_node_starts_with_its_tenants(
    own_lab: LabFactory, node_document: NodeDocument, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = own_lab()
    operator = Operator(node_document(ACME, lab=lab), capsys, lab)
    operator.must("dialplan", "push", "--yes")
    lab.kill()
    lab.start()
    assert operator.live()


@pytest.mark.parametrize(("answer", "changed"), [("n", False), ("", False), ("y", True)])
def test_a_person_at_a_terminal_is_asked(config: Path, lab: Lab, answer: str, changed: bool) -> None:
    before = own_files(lab)
    words = [sys.executable, "-m", "voxtractl", "--config", str(config), "node", "init"]
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True)
        os.close(theirs)
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, f"{answer}\n".encode())
        out = process.communicate(timeout=30)[0]
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert b"voxtractl/current/extensions.conf" in seen
    assert ("prepared" in out) is changed
    assert (own_files(lab) != before) is changed
    assert live(lab) is changed


def test_a_node_over_ssh_is_prepared_checked_and_given_back(
    operator: Operator, lab: Lab, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    text = operator.config.read_text().replace(f"local:{lab.store_dir}", sshd.url(lab.store_dir))
    operator.config.write_text(text.replace("[nodes.lab]\n", f'[nodes.lab]\nidentity = "{sshd.key()}"\n'))
    before = own_files(lab)
    refused = operator.types("node", "init", "--yes", "-o", "json")
    assert (refused.code, refused.document["error"]["id"]) == (5, "node.host-key-unknown")
    fingerprint = refused.document["error"]["details"]["fingerprint"]
    operator.must("node", "trust", "lab", "--fingerprint", fingerprint)
    operator.must("node", "init", "--yes")
    assert live(lab)
    operator.must("node", "check")
    operator.must("node", "init", "--remove", "--yes")
    assert own_files(lab) == before


def test_one_node_that_fails_is_told_beside_the_one_that_is_prepared(operator: Operator, lab: Lab) -> None:
    text = operator.config.read_text()
    second = text.replace("[nodes.lab]", "[nodes.gone]").replace(lab.ari_url, "http://127.0.0.1:1")
    operator.config.write_text(text + second)
    said = operator.types("node", "init", "--yes", "-o", "json")
    assert said.code == 7
    states = {node["node"]: node["status"] for node in said.document["error"]["details"]["nodes"]}
    assert states == {"lab": "prepared", "gone": "failed"}
    assert live(lab)


# --- init that fails: everything as before ----------------------------------------------------------------


def test_an_extensions_conf_that_asterisk_refuses_goes_back_as_it_was(operator: Operator, lab: Lab) -> None:
    path = lab.config_dir / "extensions.conf"
    path.write_bytes(path.read_bytes() + b"[unfinished\n")
    before = own_files(lab)
    said = operator.types("node", "init", "--yes", "-o", "json")
    assert said.code == 8
    assert said.document["error"]["id"] == "node.reload"
    assert own_files(lab) == before
    assert "lab" in lab.cli("dialplan show lab").split("There is no")[0]
    assert dangling(lab) == []


def test_lines_that_asterisk_does_not_see_are_taken_back(operator: Operator, lab: Lab) -> None:
    path = lab.config_dir / "extensions.conf"
    path.write_bytes(path.read_bytes() + b";-- a comment that never ends\n")
    before = own_files(lab)
    said = operator.types("node", "init", "--yes", "-o", "json")
    assert said.code == 8
    assert said.document["error"]["id"] == "node.verify"
    assert own_files(lab) == before
    assert dangling(lab) == []


@pytest.mark.parametrize("fault", ["reader", "wrong password", "no answer"])
def test_nothing_is_touched_when_asterisk_cannot_be_asked(
    operator: Operator, lab: Lab, fault: str, tmp_path: Path
) -> None:
    plant(operator.config, lab, fault, tmp_path)
    before = own_files(lab)
    assert operator.types("node", "init", "--yes").code == 5
    assert own_files(lab) == before
    assert list(lab.store_dir.iterdir()) == []


def test_nothing_is_touched_when_a_module_is_not_loaded(
    own_lab: LabFactory, node_document: NodeDocument
) -> None:
    lab = own_lab()
    lab.cli("module unload app_queue.so")
    before = own_files(lab)
    with pytest.raises(AssertionError, match=r"has not loaded app_queue\.so"):
        node_document(lab=lab)
    assert own_files(lab) == before


def test_nothing_is_touched_while_somebody_else_works_on_the_node(operator: Operator, lab: Lab) -> None:
    import fcntl

    before = own_files(lab)
    with (lab.store_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert operator.types("node", "init", "--yes").code == 4
    assert own_files(lab) == before


@pytest.mark.parametrize("step", ["write pjsip.conf", "reload pjsip", "verify"])
async def test_an_interrupted_init_leaves_everything_as_it_was(config: Path, lab: Lab, step: str) -> None:
    before = own_files(lab)

    def interrupt(node: str, now: str) -> None:
        task = asyncio.current_task()
        if now == step and task is not None:
            task.cancel()

    provisioner = TenantProvisioner(config)

    async def init() -> None:
        async with provisioner.open("lab") as (store, ari):
            bundle = provisioner.empty_bundle("lab")
            await prepare.init(store, ari, bundle, "voxtractl", options(), interrupt)

    task = asyncio.create_task(init())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert own_files(lab) == before
    assert dangling(lab) == []
    assert not live(lab)


class Broken(LocalStore):
    """A node whose disk refuses one of the files."""

    async def write_config(self, name: str, content: bytes) -> None:
        if name == "pjsip.conf":
            raise StoreError("cannot change pjsip.conf: read-only file system", node="lab")
        await super().write_config(name, content)


async def test_a_file_that_cannot_be_written_takes_the_others_back(config: Path, lab: Lab) -> None:
    before = own_files(lab)
    provisioner = TenantProvisioner(config)
    store = Broken(provisioner.fleet.nodes["lab"], lab.store_dir)
    async with store, provisioner.ari("lab") as ari:
        with pytest.raises(StoreError, match="as they were"):
            await prepare.init(store, ari, provisioner.empty_bundle("lab"), "voxtractl", options(), quiet)
    assert own_files(lab) == before
    assert not live(lab)


async def test_when_asterisk_dies_in_the_middle_its_files_go_back_and_a_person_is_called(
    own_lab: LabFactory, node_document: NodeDocument
) -> None:
    lab = own_lab()
    provisioner = TenantProvisioner(node_document(lab=lab, init=False))
    before = own_files(lab)

    def die(node: str, step: str) -> None:
        if step == "reload pjsip":
            lab.kill()

    async with provisioner.open("lab") as (store, ari):
        with pytest.raises(RollbackFailed, match="are as they were, but it is not proven"):
            await prepare.init(store, ari, provisioner.empty_bundle("lab"), "voxtractl", options(), die)
    assert own_files(lab) == before
    assert dangling(lab) == []


async def test_a_file_that_changed_after_it_was_shown_is_not_written(config: Path, lab: Lab) -> None:
    provisioner = TenantProvisioner(config)
    async with provisioner.open("lab") as (store, ari):
        shown = await prepare.look(store, "lab", "voxtractl")
        path = lab.config_dir / "extensions.conf"
        path.write_bytes(path.read_bytes() + b"[new]\n")
        before = own_files(lab)
        bundle = provisioner.empty_bundle("lab")
        with pytest.raises(StalePlan):
            await prepare.init(store, ari, bundle, "voxtractl", options(), quiet, reviewed=shown)
    assert own_files(lab) == before


# --- check ------------------------------------------------------------------------------------------------


def test_check_finds_nothing_wrong_with_a_prepared_node(operator: Operator) -> None:
    operator.must("node", "init", "--yes")
    said = operator.must("node", "check", "-o", "json")
    assert {finding["level"] for finding in said.document["nodes"][0]["findings"]} == {"ok"}


def test_check_says_what_to_do_on_a_node_that_was_never_prepared(operator: Operator) -> None:
    said = operator.types("node", "check")
    assert said.code == 1
    assert said.out.count("voxtractl node init lab") >= 3


@pytest.mark.parametrize(
    ("fault", "name", "found", "code"),
    [
        ("reader", "ari-write", "fail", 5),
        ("wrong password", "ari-user", "fail", 5),
        ("no such user", "ari-user", "fail", 5),
        ("no password", "ari-user", "fail", 5),
        ("no answer", "ari", "fail", 5),
        ("not ARI", "ari", "fail", 5),
        ("no such folder", "store", "fail", 1),
        ("outside", "store", "fail", 1),
        ("no line", "lines-pjsip", "fail", 1),
        ("half a block", "lines-queues", "fail", 1),
        ("not read", "live-extensions", "fail", 1),
        ("no release", "release", "fail", 1),
        ("hand edit", "release", "warn", 0),
        ("group", "store", "fail", 1),
        ("unreadable", "release", "fail", 1),
        ("sessionlimit", "sessionlimit", "warn", 0),
        ("bindaddr", "bindaddr", "warn", 0),
        ("crypt", "password-format", "warn", 0),
        ("world readable", "modes", "warn", 0),
    ],
)
def test_check_finds_a_planted_fault_and_goes_on(
    operator: Operator, lab: Lab, tmp_path: Path, fault: str, name: str, found: str, code: int
) -> None:
    if fault in ("outside", "group"):
        needs_an_account_of_its_own(lab)
    operator.must("node", "init", "--yes")
    plant(operator.config, lab, fault, tmp_path)
    said = operator.types("node", "check", "-o", "json")
    assert level(said, name) == found
    assert said.code == code
    assert said.document["ok"] is (code == 0)
    (node,) = said.document["nodes"]
    bad = [finding for finding in node["findings"] if finding["level"] != "ok"]
    assert all(finding["hint"] for finding in bad), bad
    if fault != "outside":
        assert level(said, "sessionlimit") != "none"  # the last one that is read


def test_check_finds_a_module_that_is_gone(
    own_lab: LabFactory, node_document: NodeDocument, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = own_lab()
    operator = Operator(node_document(lab=lab), capsys, lab)
    lab.cli("module unload app_queue.so")
    lab.cli("module unload app_stasis.so")
    said = operator.types("node", "check", "-o", "json")
    assert said.code == 1
    (node,) = said.document["nodes"]
    told = {f["text"].split()[0]: f["level"] for f in node["findings"] if f["name"] == "modules"}
    assert told == {"app_queue.so": "fail", "app_stasis.so": "warn"}


def plant(config: Path, lab: Lab, fault: str, folder: Path) -> None:
    """Make something wrong with the node or with what the document says of it."""
    etc = lab.config_dir

    def document(old: str, new: str) -> None:
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new))

    def own(name: str, old: bytes, new: bytes) -> None:
        content = (etc / name).read_bytes()
        assert old in content
        (etc / name).write_bytes(content.replace(old, new))

    match fault:
        case "reader":
            document(f'ari_user = "{lab.ari_user}"', f'ari_user = "{lab.reader_user}"')
            document(str(lab.ari_password_file), str(lab.reader_password_file))
        case "wrong password":
            (folder / "wrong").write_text("not-the-password")
            document(str(lab.ari_password_file), str(folder / "wrong"))
        case "no such user":
            document(f'ari_user = "{lab.ari_user}"', 'ari_user = "nobody"')
        case "no password":
            document(str(lab.ari_password_file), str(folder / "absent"))
        case "no answer":
            document(lab.ari_url, "http://127.0.0.1:1")
        case "not ARI":
            document(lab.ari_url, f"{lab.ari_url}/nothing")
        case "no such folder":
            document(str(lab.store_dir), str(etc / "elsewhere"))
        case "outside":
            document("[nodes.lab]\n", f'[nodes.lab]\nconfig_dir = "{folder}"\n')
        case "no line":
            own("pjsip.conf", b"\n#include", b"\n")
            own("pjsip.conf", b"[voxtractl-loaded]", b"[something]")
            text = (etc / "pjsip.conf").read_bytes()
            lines = [
                line for line in text.splitlines(keepends=True) if b">>> " not in line and b"<<< " not in line
            ]
            (etc / "pjsip.conf").write_bytes(b"".join(lines))
        case "half a block":
            own("queues.conf", b"[voxtractl-loaded](voxtractl-end)\n", b"")
        case "not read":
            text = (etc / "extensions.conf").read_bytes()
            (etc / "extensions.conf").write_bytes(b"[general]\n")
            lab.cli("dialplan reload")
            (etc / "extensions.conf").write_bytes(text)
        case "no release":
            (lab.store_dir / "current").unlink()
        case "hand edit":
            with (lab.store_dir / "current" / "queues.conf").open("a") as file:
                file.write("; by hand\n")
        case "group":
            os.chown(lab.store_dir, -1, 0)
            lab.store_dir.chmod(0o750)
        case "unreadable":
            (lab.store_dir / "current" / "queues.conf").chmod(0o600)
        case "sessionlimit":
            own("http.conf", b"sessionlimit = 1000", b"sessionlimit = 100")
        case "bindaddr":
            own("http.conf", b"bindaddr = 127.0.0.1", b"bindaddr = 0.0.0.0")
        case "crypt":
            own("ari.conf", b"read_only = no", b"read_only = no\npassword_format = crypt")
        case "world readable":
            (etc / "ari.conf").chmod(0o644)
        case _:
            raise AssertionError(fault)


def options() -> Options:
    return Options(who="a test", tool="a test")


def quiet(node: str, step: str) -> None:
    """Reports to nobody."""
