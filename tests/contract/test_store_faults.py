"""What goes wrong on the way to a node: in all of it the old release or the new one is current, whole.

Every fault is a real one: killed processes and connections, a full file system, tools on the node's PATH that
misbehave, users outside the group. Nothing here replaces a part of the store by a fake.
"""

# ruff: noqa: ASYNC110, ASYNC221, ASYNC230, ASYNC240, PT012
# These tests play the node and its operator, beside the store's own loop: they block, look at files and
# wait for what other processes do; and the lock whose end is tested stands inside ``raises``.

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.conftest import Place
from tests.tools.bundles import bundle_of, manifest_for, record_for
from tests.tools.sshd import SFTP_ONLY, Sshd, start_sshd
from tests.tools.stores import BY_SSH, ON_DISK, DiskGround, node_over_ssh, node_with, pushed, store_of
from voxtractl.deploy.plan import Drift
from voxtractl.deploy.store import folder, layout, open_store
from voxtractl.errors import NodeError, NodeLocked, NodeUnreachable, StoreError

ONE = bundle_of({"acme": "+265999000001"})
TWO = bundle_of({"acme": "+265999000001", "beta": "+265999000002"})
# Big enough that a stage of it takes a while, and nothing that packs.
BIG = replace(ONE, files={f"extensions/t{n}.conf": os.urandom(500_000) for n in range(40)})


@pytest.fixture(params=ON_DISK)
def on_disk(request: pytest.FixtureRequest, place: Place) -> DiskGround:
    return place(request.param)


@pytest.fixture
def tools(tmp_path: Path) -> "Tools":
    return Tools(tmp_path / "tools")


class Tools:
    """Programs that come first on the PATH of a session on the node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def put(self, name: str, before: str, after: str = "") -> None:
        """A tool that runs ``before``, then the real one with its arguments, then ``after``."""
        real = subprocess.run(["sh", "-c", f"command -v {name}"], capture_output=True, text=True, check=True)
        script = f'#!/bin/sh\n{before}\n{real.stdout.strip()} "$@"\ncode=$?\n{after}\nexit $code\n'
        (self.folder / name).write_text(script)
        (self.folder / name).chmod(0o755)

    @property
    def options(self) -> str:
        """The ``authorized_keys`` options of a key whose sessions see these tools."""
        return f'environment="PATH={self.folder}:/usr/sbin:/usr/bin:/sbin:/bin"'


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Give way to the loop until ``condition()`` holds; TimeoutError when it never does."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def assert_healed(ground: DiskGround, after: int = 9) -> None:
    """The next push works, and nothing of the dead one is left."""
    async with store_of(ground) as store:
        manifest = await pushed(store, TWO, after)
        snapshot = await store.observe()
    assert (snapshot.revision, snapshot.drift) == (manifest.revision, ())
    assert [path.name for path in ground.root.glob(".stage*")] == []
    assert {path.name for path in ground.root.iterdir()} <= {"releases", "current", "audit.jsonl", ".lock"}


# --- the connection dies --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BY_SSH)
async def test_a_connection_killed_in_the_middle_of_a_stage_changes_nothing(
    kind: str, place: Place, sshd: Sshd
) -> None:
    ground = place(kind)
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
    async with store_of(ground) as store:
        with pytest.raises(NodeUnreachable, match="the connection was lost"):
            async with store.lock("alice"):
                push = asyncio.ensure_future(store.push(manifest_for(BIG, 1), BIG.files))
                await until(lambda: list(ground.root.glob(".stage-*/extensions/*")))
                assert sshd.kill_sessions() > 0
                await push
    assert os.readlink(ground.root / "current") == f"releases/{first.revision}"
    if kind == "sftp":
        expire(ground)
    await assert_healed_once_free(ground)


async def assert_healed_once_free(ground: DiskGround) -> None:
    """As assert_healed, once the node has noticed that its client is gone."""
    async with asyncio.timeout(20):
        while True:
            try:
                await assert_healed(ground)
            except NodeLocked:
                await asyncio.sleep(0.01)
            else:
                return


def expire(ground: DiskGround) -> None:
    """Let the lease's last sign of life be as long ago as it takes to be dead."""
    lease = ground.root / layout.LEASE
    past = lease.stat().st_mtime - layout.LEASE_SECONDS
    os.utime(lease, (past, past))


async def test_a_connection_killed_after_the_last_byte_does_not_flip(
    place: Place, tools: Tools, sshd: Sshd, tmp_path: Path
) -> None:
    """The stage is complete and being synced when the client goes: nobody would reload, so nothing flips."""
    gate, reached = tmp_path / "gate", tmp_path / "reached"
    os.mkfifo(gate)
    ground = place("shell")
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
    tools.put("sync", f"touch {reached}; cat {gate} >/dev/null")
    async with store_of(place("shell", tools.options)) as store:
        with pytest.raises(NodeUnreachable):
            async with store.lock("alice"):
                push = asyncio.ensure_future(store.push(manifest_for(TWO, 1), TWO.files))
                await until(reached.exists)
                sshd.kill_sessions()
                await push
    gate.open("w").close()  # the node goes on, alone
    await assert_healed_once_free(ground)
    async with store_of(ground) as store:
        outcomes = [record.revision for record in await store.history()]
    assert outcomes[0] == first.revision
    assert len(outcomes) == 2


async def test_a_cancelled_push_is_taken_back_even_when_it_is_done(
    place: Place, tools: Tools, tmp_path: Path
) -> None:
    """Cancelled while the node syncs: the flip still happens there, and then goes back."""
    gate, reached = tmp_path / "gate", tmp_path / "reached"
    os.mkfifo(gate)
    ground = place("shell")
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
    tools.put("sync", f"[ -e {reached} ] || {{ touch {reached}; cat {gate} >/dev/null; }}")
    async with store_of(place("shell", tools.options)) as store, store.lock("alice"):
        push = asyncio.ensure_future(store.push(manifest_for(TWO, 1), TWO.files))
        await until(reached.exists)
        push.cancel()
        await asyncio.sleep(0)
        gate.open("w").close()
        with pytest.raises(asyncio.CancelledError):
            await push
        assert (await store.observe()).revision == first.revision
        assert await store.revisions() == (first.revision,)
        await store.flip(first.revision)  # the lock is still ours, the connection still good
    await assert_healed(ground)


# --- processes die --------------------------------------------------------------------------------------

PUSH = """
import asyncio, sys
from pathlib import Path
from tests.contract.test_store_faults import BIG
from tests.tools.bundles import manifest_for
from tests.tools.stores import node_with
from dataclasses import replace
from voxtractl.deploy.store import open_store

async def main(url, identity, known_hosts, what):
    node = replace(node_with(url), identity=identity or None)
    async with open_store(node, known_hosts=Path(known_hosts)) as store, store.lock("alice"):
        print("held", flush=True)
        if what == "push":
            await store.push(manifest_for(BIG, 1), BIG.files)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[[DiskGround, str], "subprocess.Popen[str]"]]:
    """``process(ground, "push" | "hold")``: another process that holds the lock, and maybe pushes BIG."""
    started: list[subprocess.Popen[str]] = []
    known_hosts = tmp_path / "config" / "voxtractl" / "known_hosts"

    def start(ground: DiskGround, what: str) -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-c",
            PUSH,
            ground.node.store,
            ground.node.identity or "",
            str(known_hosts),
            what,
        ]
        root = Path(__file__).parents[2]
        started.append(
            subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


async def test_a_pusher_killed_in_the_middle_of_a_stage_changes_nothing(
    on_disk: DiskGround, process: Callable[[DiskGround, str], "subprocess.Popen[str]"]
) -> None:
    async with store_of(on_disk) as store:
        first = await pushed(store, ONE)
    child = process(on_disk, "push")
    await until(lambda: list(on_disk.root.glob(".stage-*/extensions/*")))
    child.kill()
    child.wait()
    assert os.readlink(on_disk.root / "current") == f"releases/{first.revision}"
    if (on_disk.root / layout.LEASE).exists():
        expire(on_disk)
    await assert_healed_once_free(on_disk)


@pytest.mark.parametrize("taker", ON_DISK)
async def test_whoever_holds_the_lock_keeps_all_others_out(
    on_disk: DiskGround,
    taker: str,
    place: Place,
    process: Callable[[DiskGround, str], "subprocess.Popen[str]"],
) -> None:
    child = process(on_disk, "hold")
    async with store_of(place(taker)) as store:
        with pytest.raises(NodeLocked, match=rf"alice \(process {child.pid} on ") as caught:
            async with store.lock("bob"):
                pass
        assert "alice" in str(caught.value.details["holder"])
        child.communicate("")  # it ends as it should
        async with store.lock("bob"):
            pass


@pytest.mark.parametrize("kind", ["local", "shell"])
@pytest.mark.parametrize("taker", ["local", "shell"])
async def test_a_lock_is_free_as_soon_as_its_holder_is_dead(
    kind: str, taker: str, place: Place, process: Callable[[DiskGround, str], "subprocess.Popen[str]"]
) -> None:
    child = process(place(kind), "hold")
    child.kill()
    child.wait()
    async with store_of(place(taker)) as store, asyncio.timeout(20):
        while True:  # over SSH the node has to notice first
            try:
                async with store.lock("bob"):
                    return
            except NodeLocked:
                assert kind == "shell"
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("taker", ON_DISK)
async def test_a_dead_lease_is_taken_over_when_it_rested_long_enough(
    taker: str, place: Place, process: Callable[[DiskGround, str], "subprocess.Popen[str]"]
) -> None:
    holder = place("sftp")
    child = process(holder, "hold")
    child.kill()
    child.wait()
    async with store_of(place(taker)) as store:
        with pytest.raises(NodeLocked, match="alice"):
            async with store.lock("bob"):
                pass
        expire(holder)
        async with store.lock("bob"):
            pass
    assert [path.name for path in holder.root.glob(".lease*")] == []


async def test_who_lost_its_lease_does_not_flip(place: Place) -> None:
    ground = place("sftp")
    async with store_of(ground) as slow, store_of(ground) as quick:
        first = await pushed(slow, ONE)
        with pytest.raises(NodeLocked, match="bob"):
            async with slow.lock("alice"):
                expire(ground)
                async with quick.lock("bob"):
                    await slow.push(manifest_for(TWO, 1), TWO.files)
        assert (await quick.observe()).revision == first.revision


async def test_a_flock_whose_holder_rests_does_not_keep_sftp_out_for_ever(place: Place) -> None:
    """What a dead holder of a flock left in its file counts for an SFTP key until it rested long enough."""
    ground = place("sftp")
    (ground.root / layout.LOCK).write_text('{"holder":"carol","pid":1,"host":"ops1","since":"then"}')
    async with store_of(ground) as store:
        with pytest.raises(NodeLocked, match="carol"):
            async with store.lock("bob"):
                pass
        past = (ground.root / layout.LOCK).stat().st_mtime - layout.LEASE_SECONDS
        os.utime(ground.root / layout.LOCK, (past, past))
        async with store.lock("bob"):
            pass


CRASH_AT_EVERY_STEP = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.tools.bundles import bundle_of, manifest_for
from tests.tools.stores import node_with, pushed
from voxtractl.deploy.store import open_store
import voxtractl.deploy.store.local  # nothing is imported while we count

old, new = bundle_of({"acme": "+265999000001"}), bundle_of({"acme": "+265999000001", "beta": "+265999000002"})
node = node_with("local:" + sys.argv[1])

async def push(bundle, after):
    async with open_store(node) as store:
        return await pushed(store, bundle, after)

async def look():
    async with open_store(node) as store:
        return await store.observe()

base = asyncio.run(push(old, 0))
seen = set()
for step in range(1, 1000):
    pid = os.fork()
    if pid == 0:
        left = step
        def count(event, arguments):
            global left
            if event == "open" or event.startswith(("os.", "shutil.", "fcntl.")):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        asyncio.run(push(new, step))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    snapshot = asyncio.run(look())
    assert snapshot.drift == (), (step, snapshot.drift)
    assert snapshot.manifest is not None, step
    assert set(snapshot.manifest.tenants) in ({"acme"}, {"acme", "beta"}), step
    seen.add((len(snapshot.manifest.tenants), os.WIFSIGNALED(status)))
    if not os.WIFSIGNALED(status):
        break
    asyncio.run(push(old, 2000 + step))
    assert not list(Path(sys.argv[1]).glob(".stage*")), step
print(step, sorted(seen))
"""


def test_killed_at_any_step_the_local_store_shows_the_old_release_or_the_new_one(tmp_path: Path) -> None:
    root = tmp_path / "asterisk" / "voxtractl"
    root.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", CRASH_AT_EVERY_STEP, str(root)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    steps, seen = done.stdout.split(maxsplit=1)
    assert int(steps) > 50
    assert seen.strip() == "[(1, True), (2, False), (2, True)]"  # killed before the flip, never, after it


# --- the disk -------------------------------------------------------------------------------------------


@pytest.fixture
async def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Path, Sshd]]:
    """Asterisk's folder on a file system of 1 MB, and a server started after it was mounted."""
    if os.geteuid() != 0:
        pytest.fail("mounting a small file system needs root")
    config = tmp_path / "asterisk"
    config.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,mode=755", "tmpfs", str(config)], check=True)
    try:
        (config / "voxtractl").mkdir()
        (tmp_path / "sshd").mkdir()
        server = start_sshd(tmp_path / "sshd")
        monkeypatch.setenv("HOME", str(tmp_path))
        try:
            yield config / "voxtractl", server
        finally:
            server.stop()
    finally:
        subprocess.run(["umount", "-l", str(config)], check=True)


@pytest.mark.parametrize("kind", ON_DISK)
@pytest.mark.parametrize("foreseen", [True, False])
async def test_a_full_disk_leaves_the_old_release_and_no_litter(
    kind: str, foreseen: bool, small_disk: tuple[Path, Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Foreseen by the check for room, or not (somebody else filled the disk meanwhile)."""
    root, server = small_disk
    node = node_with(f"local:{root}")
    if kind != "local":
        node = node_over_ssh(server, root, SFTP_ONLY if kind == "sftp" else "")
    if not foreseen:
        monkeypatch.setattr(layout, "room_needed", lambda files: 0)
    async with open_store(node, known_hosts=server.known_hosts) as store:
        first = await pushed(store, ONE)
        async with store.lock("alice"):
            with pytest.raises(StoreError) as caught:
                await store.push(manifest_for(BIG, 1), BIG.files)
        if foreseen:
            assert "too full to stage a release" in caught.value.message
        elif kind != "sftp":  # where a full disk is no more than "Failure"
            assert "no space left on device" in caught.value.message.lower()
        assert "room on the node" in str(caught.value.hint) or kind == "sftp"
        snapshot = await store.observe()
        assert (snapshot.revision, snapshot.drift) == (first.revision, ())
        assert [path.name for path in root.glob(".stage*")] == []
        assert await store.revisions() == (first.revision,)
        second = await pushed(store, TWO, after=2)
        assert (await store.observe()).revision == second.revision


async def test_a_file_altered_between_stage_and_check_is_caught_on_the_node(
    place: Place, tools: Tools
) -> None:
    ground = place("shell")
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
    tools.put("sha256sum", "[ ! -e .sums ] || echo '; altered' >>extensions/beta.conf")
    async with store_of(place("shell", tools.options)) as store:
        async with store.lock("alice"):
            with pytest.raises(StoreError, match=r"not what was sent: extensions/beta\.conf: FAILED"):
                await store.push(manifest_for(TWO, 1), TWO.files)
        assert (await store.observe()).revision == first.revision
    await assert_healed(ground)


async def test_a_file_altered_between_stage_and_check_is_caught_by_reading_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this disk the stage is altered by whoever comes between its last write and its check."""
    ground = place("local")
    check = folder.Folder._check

    def altered(self: folder.Folder, stage: Path, *rest: object) -> None:
        (stage / "extensions/beta.conf").write_text("; altered\n")
        check(self, stage, *rest)  # type: ignore[arg-type]

    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        with monkeypatch.context() as patch:
            patch.setattr(folder.Folder, "_check", altered)
            async with store.lock("alice"):
                with pytest.raises(StoreError, match=r"not what was sent: extensions/beta\.conf \(changed\)"):
                    await store.push(manifest_for(TWO, 1), TWO.files)
        assert (await store.observe()).revision == first.revision
    await assert_healed(ground)


async def test_a_node_that_does_not_sync_does_not_flip(place: Place, tools: Tools) -> None:
    ground = place("shell")
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
    tools.put("sync", "echo 'sync: Input/output error' >&2; exit 1")
    async with store_of(place("shell", tools.options)) as store:
        async with store.lock("alice"):
            with pytest.raises(
                StoreError, match=r"cannot write a release to the disk on pbx1: .*Input/output error"
            ):
                await store.push(manifest_for(TWO, 1), TWO.files)
        assert (await store.observe()).revision == first.revision
    await assert_healed(ground)


async def test_something_else_in_the_links_place_is_not_destroyed(on_disk: DiskGround) -> None:
    (on_disk.root / "current").mkdir()
    (on_disk.root / "current" / "precious.conf").write_text("; keep me\n")
    async with store_of(on_disk) as store:
        assert (await store.observe()).drift == (Drift("current", "foreign"),)
        async with store.lock("alice"):
            with pytest.raises(StoreError):
                await store.push(manifest_for(ONE), ONE.files)
    assert (on_disk.root / "current" / "precious.conf").read_text() == "; keep me\n"
    assert [path.name for path in on_disk.root.glob(".stage*")] == []


async def test_links_inside_a_release_are_drift_and_never_followed(
    on_disk: DiskGround, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "beta.conf").write_text("canary")
    async with store_of(on_disk) as store:
        await pushed(store, TWO)
        release = on_disk.root / "current"
        (release / "extensions" / "acme.conf").unlink()
        (release / "extensions" / "acme.conf").symlink_to(secret)
        (release / "queues").rename(on_disk.root / "moved")
        (release / "queues").symlink_to(tmp_path / "folder")
        snapshot = await store.observe()
        assert snapshot.drift == (
            Drift("extensions/acme.conf", "unreadable"),
            Drift("queues", "foreign"),
            Drift("queues/acme.conf", "missing"),
            Drift("queues/beta.conf", "missing"),
        )
        assert await store.read(["extensions/acme.conf", "queues/beta.conf"]) == {}


@pytest.mark.parametrize(
    "name", [b"a\nb.conf", b"back\\slash.conf", b"\xff\xfe.conf", b"-rf", b"$(id).conf", b" "]
)
async def test_a_foreign_file_of_any_name_is_drift_that_can_be_printed(
    on_disk: DiskGround, name: bytes
) -> None:
    async with store_of(on_disk) as store:
        manifest = await pushed(store, ONE)
        path = os.path.join(os.fsencode(on_disk.root), b"current/extensions", name)
        with open(path, "wb") as file:
            file.write(b"; by hand\n")
        snapshot = await store.observe()
        assert snapshot.revision == manifest.revision
        assert [d.what for d in snapshot.drift] == ["foreign"]
        assert snapshot.drift[0].path.startswith("extensions/")
        assert snapshot.drift[0].path.isprintable()
        second = await pushed(store, TWO, after=1)
        async with store.lock("alice"):
            await store.record(record_for(second), drop=[manifest.revision])
        assert not (on_disk.root / "releases" / manifest.revision).exists()


# --- the order that survives a power loss ---------------------------------------------------------------


async def test_the_local_store_syncs_everything_before_the_flip(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = place("local")
    steps: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

    def fsync(fd: int) -> None:
        steps.append("sync " + os.readlink(f"/proc/self/fd/{fd}"))
        real["fsync"](fd)

    def moves(name: str) -> Callable[[Path, Path], None]:
        def move(old: Path, new: Path) -> None:
            steps.append(f"move {old} {new}")
            real[name](old, new)

        return move

    async with store_of(ground) as store, store.lock("alice"):
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", moves("rename"))
        monkeypatch.setattr(os, "replace", moves("replace"))
        await store.push(manifest_for(TWO), TWO.files)
    assert_safe_order(steps, ground.root, TWO.files)


async def test_the_shell_syncs_everything_before_the_flip(place: Place, tools: Tools, tmp_path: Path) -> None:
    log = tmp_path / "log"
    root = place("shell").root
    whole = f'find "$(readlink -f "$2")" -printf "sync %p\\n" >>{log}'  # -f: all there is on its disk by then
    one = f'for path; do echo "sync $(readlink -f "$path")" >>{log}; done'
    tools.put("sync", f'if [ "$1" = -f ]; then {whole}; else {one}; fi')
    tools.put("mv", f'shift $(($# - 2)); echo "move {root}/$1 {root}/$2" >>{log}; set -- -fT "$@"')
    async with store_of(place("shell", tools.options)) as store, store.lock("alice"):
        await store.push(manifest_for(TWO), TWO.files)
    assert_safe_order(log.read_text().splitlines(), root, TWO.files)


async def test_sftp_syncs_everything_before_the_flip(place: Place, tmp_path: Path) -> None:
    """As OpenSSH's own sftp-server logs it."""
    log = tmp_path / "log"
    server = "/usr/lib/openssh/sftp-server"
    ground = place("sftp", f'restrict,command="{server} -e -l DEBUG3 2>>{log}"')
    async with store_of(ground) as store, store.lock("alice"):
        await store.push(manifest_for(TWO), TWO.files)
    assert_safe_order(list(sftp_steps(log.read_text())), ground.root, TWO.files)


def sftp_steps(log: str) -> Iterator[str]:
    """``sync`` and ``move`` from the server's log."""
    for line in log.splitlines():
        if found := re.fullmatch(r'fsync "(.+)"', line):
            yield f"sync {found[1]}"
        elif found := re.search(r'posix-rename old "(.+)" new "(.+)"', line):
            yield f"move {found[1]} {found[2]}"


def assert_safe_order(steps: list[str], root: Path, files: Mapping[str, bytes]) -> None:
    """Files and folders of the stage, then the release's rename, then its folder, then the link, then its."""
    place = next(n for n, step in enumerate(steps) if step.startswith("move ") and "/releases/" in step)
    stage = steps[place].split()[1]
    flip = next(n for n, step in enumerate(steps) if step.startswith("move ") and step.endswith("/current"))
    before = {step.removeprefix("sync ") for step in steps[:place]}
    wanted = {stage, *(f"{stage}/{path}" for path in (*files, "manifest.json"))}
    wanted |= {str(Path(f"{stage}/{path}").parent) for path in files}
    assert wanted <= before
    assert f"sync {root}/releases" in steps[place:flip]
    assert f"sync {root}" in steps[flip:]


# --- users and groups -----------------------------------------------------------------------------------

PUSHER = 65534  # nobody: sftp-server wants an account; ASTERISK is the number of no group
ASTERISK = 64002

AS_SOMEBODY = """
import asyncio, concurrent.futures.thread, os, sys
from tests.tools.bundles import bundle_of
from tests.tools.stores import node_with, pushed
from voxtractl.deploy.store import local, open_store
from voxtractl.errors import StoreError

async def main(root):
    async with open_store(node_with("local:" + root)) as store:
        try:
            await pushed(store, bundle_of({"acme": "+265999000001"}))
        except StoreError as error:
            print(error.message + "; " + (await store.facts()).why)
        else:
            print("pushed")

uid, gid, *groups = map(int, sys.argv[2:])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store folder that other users can reach: pytest's own folders are closed to them."""
    if os.geteuid() != 0:
        pytest.fail("acting as other users needs root")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        monkeypatch.setenv("HOME", name)
        config = base / "asterisk"
        config.mkdir(mode=0o750)
        os.chown(config, 0, ASTERISK)
        config.chmod(0o751)
        yield config / "voxtractl"


async def push_as(kind: str, root: Path, sshd: Sshd, uid: int, gid: int, groups: list[int]) -> str:
    """What a push by this user ends with: ``pushed``, or the error's sentence and what `node check` says."""
    if kind == "local":
        command = [sys.executable, "-c", AS_SOMEBODY, str(root), *map(str, (uid, gid, *groups))]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or done.stderr
    who = f"setpriv --reuid={uid} --regid={gid} "
    who += f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    what = "/usr/lib/openssh/sftp-server" if kind == "sftp" else 'sh -c \\"$SSH_ORIGINAL_COMMAND\\"'
    node = node_over_ssh(sshd, root, f'restrict,command="{who} {what}"')
    async with open_store(node, known_hosts=sshd.known_hosts) as store:
        try:
            await pushed(store, ONE)
        except NodeError as error:
            return f"{error.message}; {(await store.facts()).why}"
        return "pushed"


def make_store(root: Path, owner: int, group: int, mode: int) -> None:
    root.mkdir()
    os.chown(root, owner, group)
    root.chmod(mode)


@pytest.mark.parametrize("kind", ON_DISK)
async def test_a_member_of_asterisks_group_pushes(kind: str, public: Path, sshd: Sshd) -> None:
    make_store(public, PUSHER, ASTERISK, 0o2750)
    assert await push_as(kind, public, sshd, PUSHER, PUSHER, [ASTERISK]) == "pushed"
    for path in [public / "releases", *(public / "current").resolve().rglob("*")]:
        assert path.stat().st_gid == ASTERISK
        assert path.stat().st_mode & 0o7777 in ({0o2750} if path.is_dir() else {0o640})


@pytest.mark.parametrize("kind", ON_DISK)
async def test_a_member_pushes_where_the_folder_lost_its_setgid(kind: str, public: Path, sshd: Sshd) -> None:
    make_store(public, PUSHER, ASTERISK, 0o750)
    assert await push_as(kind, public, sshd, PUSHER, PUSHER, [ASTERISK]) == "pushed"
    assert all(p.stat().st_gid == ASTERISK for p in (public / "current").resolve().rglob("*"))


@pytest.mark.parametrize("kind", ON_DISK)
async def test_somebody_outside_the_group_pushes_into_a_setgid_folder(
    kind: str, public: Path, sshd: Sshd
) -> None:
    make_store(public, PUSHER, ASTERISK, 0o2750)
    assert await push_as(kind, public, sshd, PUSHER, PUSHER, []) == "pushed"
    assert all(p.stat().st_gid == ASTERISK for p in (public / "current").resolve().rglob("*"))


@pytest.mark.parametrize("kind", ON_DISK)
async def test_files_asterisk_could_not_read_are_refused_before_the_flip(
    kind: str, public: Path, sshd: Sshd
) -> None:
    make_store(public, PUSHER, ASTERISK, 0o750)
    message = await push_as(kind, public, sshd, PUSHER, PUSHER, [])
    assert "Asterisk's group could not read" in message
    assert not (public / "current").exists()
    assert list(public.glob(".stage*")) == []


@pytest.mark.parametrize("kind", ON_DISK)
async def test_a_store_that_is_not_ours_to_write_is_refused_with_its_path(
    kind: str, public: Path, sshd: Sshd
) -> None:
    make_store(public, 0, ASTERISK, 0o2750)
    message = await push_as(kind, public, sshd, PUSHER, PUSHER, [ASTERISK])
    assert message.lower().startswith("cannot take the lock on pbx1")
    assert "permission denied" in message.lower()
    assert f"; you may not write to {public}; push as its owner" in message


@pytest.mark.parametrize("kind", ON_DISK)
async def test_releases_that_are_not_ours_to_write_are_told_by_their_path(
    kind: str, public: Path, sshd: Sshd
) -> None:
    make_store(public, PUSHER, ASTERISK, 0o2750)
    make_store(public / "releases", 0, ASTERISK, 0o2750)
    message = await push_as(kind, public, sshd, PUSHER, PUSHER, [ASTERISK])
    assert f"; you may not write to {public}/releases; push as its owner" in message


@pytest.mark.parametrize("kind", ON_DISK)
async def test_root_leaves_its_files_to_the_owner_of_the_store(kind: str, public: Path, sshd: Sshd) -> None:
    make_store(public, PUSHER, ASTERISK, 0o2750)
    assert await push_as(kind, public, sshd, 0, 0, [0]) == "pushed"
    if kind != "sftp":  # over SFTP nothing says who we are
        assert {path.lstat().st_uid for path in public.rglob("*") if not path.is_symlink()} == {PUSHER}
        # … and so the owner's push comes as far as to find this release current already.
        message = await push_as(kind, public, sshd, PUSHER, PUSHER, [ASTERISK])
        assert "is current on pbx1 already" in message


# --- no store there -------------------------------------------------------------------------------------


async def test_a_node_without_the_store_folder_says_how_to_make_it(on_disk: DiskGround) -> None:
    on_disk.root.rmdir()
    async with store_of(on_disk) as store:
        assert (await store.observe()).revision is None
        facts = await store.facts()
        assert (facts.exists, facts.writable) == (False, False)
        assert "voxtractl node init pbx1" in facts.why
        with pytest.raises(StoreError, match="does not exist on pbx1") as caught:
            async with store.lock("alice"):
                pass
        assert "voxtractl node init pbx1" in str(caught.value.hint)
        await store.prepare()
        assert on_disk.root.stat().st_mode & 0o7777 == 0o2750
        await pushed(store, ONE)
        assert (await store.facts()).why == ""


async def test_a_changed_config_keeps_owner_group_and_mode(on_disk: DiskGround) -> None:
    file = on_disk.root.parent / "extensions.conf"
    file.write_text("[general]\n")
    os.chown(file, 0, ASTERISK)
    file.chmod(0o604)
    async with store_of(on_disk) as store:
        await store.write_config("extensions.conf", b"[changed]\n")
        await store.write_config("new.conf", b"[new]\n")
    status = file.stat()
    assert (file.read_bytes(), status.st_gid, status.st_mode & 0o7777) == (b"[changed]\n", ASTERISK, 0o604)
    assert (on_disk.root.parent / "new.conf").stat().st_mode & 0o7777 == 0o640
    assert [path.name for path in on_disk.root.parent.glob(".*")] == []


async def test_a_config_that_is_a_link_stays_one(on_disk: DiskGround, tmp_path: Path) -> None:
    real = tmp_path / "kept-in-git.conf"
    real.write_text("[general]\n")
    (on_disk.root.parent / "extensions.conf").symlink_to(real)
    async with store_of(on_disk) as store:
        await store.write_config("extensions.conf", b"[changed]\n")
    assert (on_disk.root.parent / "extensions.conf").is_symlink()
    assert real.read_bytes() == b"[changed]\n"


# --- what a session of the node may be like -------------------------------------------------------------


async def test_a_push_takes_three_round_trips(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxtractl.deploy.store.shell import Shell

    trips: list[bytes] = []
    exchange = Shell._exchange

    async def counted(self: Shell, line: bytes, payload: bytes) -> object:
        trips.append(line.split()[1])
        return await exchange(self, line, payload)

    async with store_of(place("shell")) as store:
        monkeypatch.setattr(Shell, "_exchange", counted)
        async with store.lock("alice"):
            manifest = manifest_for(TWO)
            await store.push(manifest, TWO.files)
            await store.record(record_for(manifest), drop=["20200101T000000Z-000000000000"])
    assert trips == [b"lock", b"push", b"record"]


async def test_a_login_that_chatters_is_understood(place: Place) -> None:
    chatter = 'echo Welcome; echo --mark end 0; sh -c \\"$SSH_ORIGINAL_COMMAND\\"'
    async with store_of(place("shell", f'restrict,command="{chatter}"')) as store:
        await pushed(store, ONE)
        assert (await store.observe()).drift == ()


@pytest.mark.parametrize("command", ["/bin/false", "echo no shell here", "cat"])
async def test_a_key_that_leads_nowhere_says_so(place: Place, command: str) -> None:
    ground = place("shell", f'restrict,command="{command}"')
    with pytest.raises(NodeError) as caught:
        async with open_store(ground.node, timeout=3):
            pass
    assert isinstance(caught.value, StoreError | NodeUnreachable)
    assert "pbx1" in caught.value.message


async def test_a_node_without_flock_is_reached_by_sftp(place: Place, tools: Tools) -> None:
    for name in ("sh", "head", "tar", "stat", "sync", "find", "readlink", "sha256sum"):
        tools.put(name, "")
    options = f'environment="PATH={tools.folder}"'
    async with store_of(place("shell", options)) as store:
        await pushed(store, ONE)
        assert type(store._way).__name__ == "Files"  # type: ignore[attr-defined]
        assert (await store.observe()).drift == ()
