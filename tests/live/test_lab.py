"""The lab against the real Asterisk: its life, its borders, and what it offers to all other live tests."""

import json
import os
import re
import select
import shlex
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.conftest import release
from voxtractl.ari.release import MEDIA_WEBSOCKET
from voxtractl.cli.entry import run
from voxtractl.errors import LabError
from voxtractl.lab import Lab, find, names, purge, remove_root, up

LabFactory = Callable[[], Lab]

# What the runtime, outbound calls and the tests of all rooms count on.
NEEDED = frozenset(
    name
    for line in """
    app_audiosocket app_dial app_echo app_exec app_mixmonitor app_originate app_playback app_playtones
    app_queue app_read app_record app_senddtmf app_stack app_stasis app_system app_verbose
    bridge_builtin_features bridge_holding bridge_native_rtp bridge_simple bridge_softmix
    chan_audiosocket chan_bridge_media chan_pjsip chan_rtp
    codec_alaw codec_resample codec_ulaw format_pcm format_sln format_wav
    func_callerid func_channel func_db func_dialplan func_global func_groupcount func_logic
    func_pjsip_endpoint func_strings func_timeout func_uri pbx_config
    res_ari res_ari_applications res_ari_asterisk res_ari_bridges res_ari_channels res_ari_endpoints
    res_ari_events res_ari_playbacks res_ari_recordings res_ari_sounds res_audiosocket res_crypto
    res_http_websocket res_musiconhold res_pjsip res_pjsip_authenticator_digest res_pjsip_caller_id
    res_pjsip_dtmf_info res_pjsip_endpoint_identifier_ip res_pjsip_endpoint_identifier_user
    res_pjsip_header_funcs res_pjsip_outbound_authenticator_digest res_pjsip_outbound_registration
    res_pjsip_registrar res_pjsip_sdp_rtp res_pjsip_session res_rtp_asterisk res_sorcery_astdb
    res_sorcery_config res_sorcery_memory res_stasis res_stasis_playback res_stasis_recording
    res_stasis_snoop res_timing_timerfd""".splitlines()
    for name in line.split()
)


def ari(lab: Lab, path: str, *, method: str = "GET", user: str = "", password: str = "") -> tuple[int, str]:
    secret = f"{user or lab.ari_user}:{password or lab.ari_password.reveal()}"
    request = urllib.request.Request(
        f"{lab.ari_url}/ari/{path}",
        method=method,
        headers={"Authorization": "Basic " + b64encode(secret.encode()).decode()},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def mounts_below(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {folder}/" in line]


def processes_of(lab: Lab) -> list[int]:
    """Every process that was given the lab's configuration or has its folder open."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                opened = [str(link.readlink()) for link in (entry / "fd").iterdir()]
            except OSError:
                continue
            if f"{lab.inside_config_dir}/asterisk.conf" in words or any(
                path.startswith(f"{lab.instance}/") for path in opened
            ):
                found.append(int(entry.name))
    return found


def tree(folder: Path, without: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file, in ``folder`` but not in ``without``."""
    seen = {}
    for top, folders, files in os.walk(folder):
        if Path(top) == without.parent:
            folders[:] = [name for name in folders if name != without.name]
        for name in files:
            facts = os.lstat(os.path.join(top, name))
            seen[os.path.join(top, name)] = (facts.st_size, facts.st_mtime_ns)
    return seen


# --- its life ---------------------------------------------------------------------------------------------


def test_a_lab_goes_up_answers_goes_down_and_comes_back_with_its_files(own_lab: LabFactory) -> None:
    lab = own_lab()
    assert ari(lab, "asterisk/ping")[0] == 200
    assert json.loads(ari(lab, "asterisk/info?only=system")[1])["system"]["version"].startswith(lab.version)
    note = lab.store_dir / "note"
    note.write_text("kept")

    lab.down()
    assert not lab.alive
    assert lab.pid is None
    with pytest.raises(LabError, match="is not running"):
        lab.cli("core show uptime")

    again = up(lab.name)
    assert again == lab
    assert again.alive
    assert ari(again, "asterisk/ping")[0] == 200
    assert note.read_text() == "kept"


def test_up_when_it_is_up_is_harmless_and_says_so(lab: Lab) -> None:
    pid = lab.pid
    said: list[str] = []
    assert up(lab.name, report=said.append) == lab
    assert said[-1] == f"lab {lab.name} is already up"  # it may have waited for others who work on labs
    assert lab.pid == pid


def test_down_twice_is_harmless(own_lab: LabFactory) -> None:
    lab = own_lab()
    lab.down()
    lab.down()
    assert not lab.alive


def test_labs_made_at_once_have_ports_and_files_of_their_own(own_lab: LabFactory) -> None:
    with ThreadPoolExecutor(3) as pool:
        labs = [future.result() for future in [pool.submit(own_lab) for _ in range(3)]]
    assert len({lab.http_port for lab in labs} | {lab.sip_port for lab in labs}) == 6
    assert len({lab.config_dir for lab in labs}) == 3
    for each in labs:
        assert ari(each, "asterisk/ping")[0] == 200
        assert [
            ari(each, "asterisk/ping", password=other.ari_password.reveal())[0]
            for other in labs
            if other is not each
        ] == [401, 401]


def test_kill_9_is_noticed_and_start_brings_it_back_on_the_same_ports(own_lab: LabFactory) -> None:
    lab = own_lab()
    first = lab.pid
    lab.kill()
    found = find(lab.name)
    assert found == lab
    assert not found.alive
    assert mounts_below(lab.home) == []
    assert processes_of(lab) == []

    lab.start()
    assert lab.alive
    assert lab.pid != first
    assert ari(lab, "asterisk/ping")[0] == 200


def test_a_pid_that_belongs_to_somebody_else_now_is_neither_taken_for_the_lab_nor_killed(
    own_lab: LabFactory,
) -> None:
    lab = own_lab()
    lab.kill()
    record = json.loads((lab.folder / "process.json").read_text())
    # As after a reboot: the number is in use, by us, who started at another time.
    (lab.folder / "process.json").write_text(json.dumps(record | {"pid": os.getpid()}))
    assert not lab.alive
    lab.down()
    lab.start()
    assert lab.alive


def test_a_process_file_emptied_by_a_power_cut_is_a_lab_that_is_down(own_lab: LabFactory) -> None:
    lab = own_lab()
    lab.kill()
    (lab.folder / "process.json").write_text("")
    assert not lab.alive
    lab.start()
    assert lab.alive


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_taken_by_another_program_is_named_and_nothing_is_left_running(
    own_lab: LabFactory, kind: socket.SocketKind
) -> None:
    lab = own_lab()
    lab.down()
    port = lab.http_port if kind is socket.SOCK_STREAM else lab.sip_port
    with socket.socket(socket.AF_INET, kind) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind is socket.SOCK_STREAM)
        thief.bind(("127.0.0.1", port))
        if kind is socket.SOCK_STREAM:
            thief.listen()
        with pytest.raises(LabError, match=rf"port {port} .*in use") as caught:
            lab.start()
        assert caught.value.hint
        assert not lab.alive
        assert processes_of(lab) == []
    lab.start()
    assert lab.alive


def test_an_asterisk_that_cannot_start_is_an_error_that_names_its_log(own_lab: LabFactory) -> None:
    lab = own_lab()
    lab.down()
    (lab.config_dir / "modules.conf").write_text("[modules]\nautoload = no\nrequire = no_such_module.so\n")
    with pytest.raises(LabError, match="ended while it started") as caught:
        lab.start()
    assert str(lab.log_file) in str(caught.value.hint)
    assert not lab.alive


def test_purge_leaves_no_process_no_mount_and_no_file(own_lab: LabFactory) -> None:
    lab = own_lab()
    purge(lab.name)
    assert processes_of(lab) == []
    assert mounts_below(lab.home) == []
    assert not lab.instance.exists()
    assert not lab.folder.exists()
    assert find(lab.name) is None
    assert lab.name not in names()
    purge(lab.name)  # harmless


def test_what_asterisk_started_ends_with_it(own_lab: LabFactory) -> None:
    lab = own_lab()
    pipe = lab.instance / "spool" / "child"
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    (lab.config_dir / "extensions.conf").write_text(
        f"[lab]\nexten => s,1,System(sh -c 'echo started && exec sleep 600' > {lab.inside}/spool/child &)\n"
    )
    lab.cli("dialplan reload")
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        lab.cli("channel originate Local/s@lab application Wait 600")
        assert select.select([handle], [], [], 10)[0]
        assert os.read(handle, 100) == b"started\n"
        lab.down()
        assert os.read(handle, 100) == b""  # the end of the pipe: the last writer is gone
    finally:
        os.close(handle)


def test_the_root_is_not_deleted_while_a_lab_uses_it(lab: Lab) -> None:
    if lab.how == "root":
        with pytest.raises(LabError, match=lab.name):
            remove_root()
    assert lab.alive


# --- its borders ------------------------------------------------------------------------------------------


def identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def test_asterisk_writes_nowhere_but_in_its_instance(own_lab: LabFactory) -> None:
    lab = own_lab()
    before = tree(lab.home / "root", without=lab.home / "root" / "var" / "lab")
    lab.cli("channel originate Local/s@lab application Playback demo-congrats")
    writable = []
    for link in Path(f"/proc/{lab.pid}/fd").iterdir():
        about = link.parent.parent / "fdinfo" / link.name
        try:
            flags, target, status = about.read_text(), str(link.readlink()), link.stat()
        except FileNotFoundError:  # closed meanwhile
            continue
        mode = int(flags.split("flags:")[1].split()[0], 8) & os.O_ACCMODE
        kept = target.startswith("/") and not target.startswith("/dev/") and status.st_nlink  # not deleted
        if kept and mode != os.O_RDONLY:
            writable.append((target, identity(status)))
    assert writable
    # By what the files are, not what they are called: in a chroot the kernel knows them by other names.
    own = {identity(path.lstat()) for folder in (lab.instance, lab.folder) for path in folder.rglob("*")}
    assert [name for name, file in writable if file not in own] == []
    lab.down()
    assert tree(lab.home / "root", without=lab.home / "root" / "var" / "lab") == before


def test_asterisk_listens_on_loopback_only_and_on_nothing_we_do_not_know(lab: Lab) -> None:
    inodes = {
        match[1]
        for link in Path(f"/proc/{lab.pid}/fd").iterdir()
        if (match := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())))
    }
    listening = set()
    for table, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                listening.add((table, address, int(port, 16)))
    ours = {("tcp", "0100007F", lab.http_port), ("udp", "0100007F", lab.sip_port)}
    assert listening >= ours
    # What pjproject's resolver asks name servers with: one for IPv4, one for IPv6 (its log names resolver.c).
    resolver = sorted((table, set(address)) for table, address, _ in listening - ours)
    assert resolver in ([], [("udp", {"0"}), ("udp6", {"0"})])


def test_asterisk_does_not_inherit_our_environment(lab: Lab) -> None:
    names_given = {
        entry.partition("=")[0] for entry in Path(f"/proc/{lab.pid}/environ").read_text().split("\0") if entry
    }
    assert names_given - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "LANG", "HOME"}


def test_files_are_readable_by_asterisks_group_and_by_nobody_else(lab: Lab) -> None:
    gid = lab.config_dir.stat().st_gid
    for folder in (lab.config_dir, lab.store_dir):
        assert oct(folder.stat().st_mode & 0o7777) == "0o2750"
        assert folder.stat().st_gid == gid
    for file in lab.config_dir.glob("*.conf"):
        assert oct(file.stat().st_mode & 0o7777) == "0o640"
        assert file.stat().st_gid == gid
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{lab.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert str(gid) in status["Gid"].split()
    for secret in (lab.ari_password_file, lab.reader_password_file):
        assert oct(secret.stat().st_mode & 0o7777) == "0o600"


def test_the_password_is_in_no_repr_and_in_no_output(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["up"], ["status"], ["status", "-o", "json"], ["cli", "ari show users"]):
        assert run(["lab", *words, "--name", lab.name]) == 0
    shown = "".join(capfd.readouterr()) + repr(lab)
    assert lab.ari_url in shown
    for secret in (lab.ari_password, lab.reader_password):
        assert len(secret.reveal()) > 20
        assert secret.reveal() not in shown


# --- what it offers ---------------------------------------------------------------------------------------


def test_asterisk_has_nothing_to_complain_about_after_a_start(own_lab: LabFactory) -> None:
    lab = own_lab()
    complaints = [
        line for line in lab.log_file.read_text().splitlines() if re.search(r"\] (ERROR|WARNING)\[", line)
    ]
    assert complaints == []


def test_every_module_the_other_rooms_need_is_running(lab: Lab) -> None:
    running = {
        line.split(".so")[0]
        for line in lab.cli("module show").splitlines()
        if ".so" in line and " Running " in line
    }
    needed = NEEDED | {"chan_websocket"} if release(lab).has(MEDIA_WEBSOCKET) else NEEDED
    assert needed - running == set()


def test_the_reader_may_look_and_not_touch(lab: Lab) -> None:
    user, password = lab.reader_user, lab.reader_password.reveal()
    assert ari(lab, "asterisk/info", user=user, password=password)[0] == 200
    probe = "channels?endpoint=voxtractl/probe&context=lab&extension=s&label=none&formats=voxtractl-probe"
    assert ari(lab, probe, method="POST", user=user, password=password)[0] == 403
    assert ari(lab, probe, method="POST")[0] == 404


def test_more_than_a_hundred_sessions_at_once(lab: Lab) -> None:
    held = []
    try:
        for _ in range(150):
            connection = socket.create_connection(("127.0.0.1", lab.http_port), timeout=10)
            held.append(connection)
            connection.sendall(b"GET /ari/asterisk/ping HTTP/1.1\r\nHost: lab\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 401"
    finally:
        for connection in held:
            connection.close()


def test_the_spool_takes_recordings(lab: Lab) -> None:
    status, answer = ari(lab, "recordings/stored")
    assert status == 200, answer  # a 500 when the folder is not there


def test_restore_puts_a_changed_lab_back(own_lab: LabFactory) -> None:
    lab = own_lab()
    before = {path.name: path.read_bytes() for path in lab.config_dir.glob("*.conf")}
    (lab.config_dir / "extensions.conf").write_text("[junk]\nexten => s,1,NoOp()\n")
    (lab.config_dir / "queues.conf").write_text("[junkqueue]\n")
    (lab.config_dir / "more").mkdir()
    (lab.config_dir / "more" / "file").write_text("x")
    (lab.store_dir / "releases").mkdir()
    (lab.store_dir / "current").symlink_to("releases")
    lab.cli("module reload pbx_config.so")
    lab.cli("module reload app_queue.so")
    assert "'s' =>" in lab.cli("dialplan show junk")
    assert "junkqueue" in lab.cli("queue show")

    lab.restore()
    assert "no existence of 'junk'" in lab.cli("dialplan show junk")
    assert "junkqueue" not in lab.cli("queue show")
    assert {path.name: path.read_bytes() for path in lab.config_dir.glob("*.conf")} == before
    assert not (lab.config_dir / "more").exists()
    assert list(lab.store_dir.iterdir()) == []


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "$(touch /tmp/voxtractl-was-here) `id` ${IFS}",
        "x; touch /tmp/voxtractl-was-here",
        "'quoted' && false || true | cat > /dev/null",
        "--help -x -rx",
        "%s%n ~ * ? # ! é 名",
    ],
)
def test_a_console_command_reaches_asterisk_as_it_was_typed(lab: Lab, value: str) -> None:
    lab.cli(f'database put lab-quoting key "{value}"')
    try:
        assert lab.cli("database get lab-quoting key").strip() == f"Value: {value}"
    finally:
        lab.cli("database deltree lab-quoting")


@pytest.mark.parametrize(
    "command", ["", "  ", "core show uptime\ncore stop now", "core show\0uptime", "a" * 497]
)
def test_a_console_command_asterisk_would_not_get_whole_is_refused(lab: Lab, command: str) -> None:
    with pytest.raises(LabError) as caught:
        lab.cli(command)
    assert caught.value.hint
    assert lab.alive


def test_the_longest_console_command_arrives(lab: Lab) -> None:
    begin = "database put lab-length key "
    value = "x" * (496 - len(begin))
    lab.cli(begin + value)
    try:
        assert lab.cli("database get lab-length key").strip() == f"Value: {value}"
    finally:
        lab.cli("database deltree lab-length")


# --- its commands -----------------------------------------------------------------------------------------


def test_status_is_one_json_document_with_all_a_script_needs(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["lab", "status", "--name", lab.name, "-o", "json"]) == 0
    out = capfd.readouterr().out
    document = json.loads(out)
    assert out.count("\n") == 1
    assert document["up"] is True
    assert document["version"] == lab.version
    assert document["how"] == lab.how
    assert document["ari_url"] == lab.ari_url
    assert document["sip_port"] == lab.sip_port
    assert Path(document["config_dir"], "extensions.conf").is_file()
    assert Path(document["ari_password_file"]).read_text().strip() == lab.ari_password.reveal()


def test_the_cli_command_prints_asterisks_answer(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "cli", "--name", lab.name, "core", "show", "version"]) == 0
    assert capfd.readouterr().out.startswith(f"Asterisk {lab.version}")


def test_down_and_purge_from_the_command_line(own_lab: LabFactory, capfd: pytest.CaptureFixture[str]) -> None:
    lab = own_lab()
    capfd.readouterr()
    assert run(["lab", "down", "--name", lab.name]) == 0
    assert capfd.readouterr().out == f"lab {lab.name} is down\n"
    assert run(["lab", "cli", "--name", lab.name, "core show uptime"]) == 1
    assert f"hint:  voxtractl lab up --name {lab.name}" in capfd.readouterr().err
    assert run(["lab", "down", "--name", lab.name, "--purge"]) == 0
    assert capfd.readouterr().out == f"lab {lab.name} was down already, its files are deleted\n"
    assert run(["lab", "status", "--name", lab.name, "-o", "json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"ok": True, "name": lab.name, "exists": False, "up": False}


# --- the other way ----------------------------------------------------------------------------------------


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A folder with a short path: the control socket's has at most 107 bytes."""
    home = Path(tempfile.mkdtemp(prefix="voxlab-", dir="/tmp"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home)


def test_an_asterisk_on_path_is_used_with_all_folders_in_the_home(
    lab: Lab, short_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lab.how == "path":
        assert lab.instance == lab.home / lab.name  # this machine has one, and every test here used it
        return
    # The asterisk on PATH is the root's, seeing the host's home under the host's path.
    root = shlex.quote(str(lab.home / "root"))
    home = shlex.quote(str(short_home))
    inner = (
        f"mount --rbind /dev {root}/dev && mount --rbind /proc {root}/proc && "
        f"mount -t tmpfs none {root}/tmp && "
        f"mkdir -p {root}{home} && mount --bind {home} {root}{home} && "
        f'exec chroot {root} asterisk "$@"'
    )
    binary = short_home / "bin" / "asterisk"
    binary.parent.mkdir()
    binary.write_text(
        f'#!/bin/sh\nexec unshare --mount --propagation private sh -c {shlex.quote(inner)} sh "$@"\n'
    )
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
    said: list[str] = []
    try:
        other = up("lab", home=short_home / "home", report=said.append)
        assert said[0] == f"using {binary}, Asterisk {lab.version}"
        assert other.how == "path"
        assert other.instance == short_home / "home" / "lab"
        assert other.inside == str(other.instance)
        assert ari(other, "asterisk/ping")[0] == 200
        assert str(other.config_dir) in other.cli("core show settings")
        assert not (short_home / "home" / "root").exists()
        assert [line for line in other.log_file.read_text().splitlines() if "] ERROR[" in line] == []
        other.kill()
        other.start()
        assert other.alive
    finally:
        purge("lab", home=short_home / "home")
    assert names(short_home / "home") == []
    assert mounts_below(short_home) == []
