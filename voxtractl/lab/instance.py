"""One lab: a real Asterisk with files, ports and a process of its own; made, started, ended and found here.

    HOME/lock                       held while a lab is made, started, ended or the root is built
    HOME/NAME/lab.json              what the lab is; written once
    HOME/NAME/process.json          the process that was started last
    HOME/NAME/ari-password          0600; tenants.toml's ari_password_file may point here
    HOME/NAME/reader-password       0600; of the ARI user that may only read
    HOME/NAME/output.log            what Asterisk said before its own log
    HOME/root/                      Debian sid with Asterisk, when there is none on PATH
    HOME/root/var/lab/NAME/etc …    the instance, as "path" has it in HOME/NAME/etc …

Asterisk sees the instance under another path when it lives in the root: ``inside`` is that path, all others
are the host's.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import secrets
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from voxtractl.errors import LabError
from voxtractl.lab import config, root
from voxtractl.lab.ports import Ports, choose_ports
from voxtractl.lab.process import Process, spawn, tail
from voxtractl.lab.ways import MachineFacts, Report, Way, choose, machine, silent
from voxtractl.settings import Secret

__all__ = ["Lab", "default_home", "find", "names", "purge", "remove_root", "up"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_RESERVED: Final = frozenset({"root", "lock"})
_READY_SECONDS: Final = 60.0  # it takes half a second; a busy machine gets time
_STOP_SECONDS: Final = 10.0
_CLI_SECONDS: Final = 60.0
_STARTS: Final = 5  # tries when somebody takes the ports first
_SOCKET_LIMIT: Final = 107  # bytes of a Unix socket's path (unix(7): 108 with the ending NUL)

# What Asterisk is given: nothing of our own environment, which may hold secrets its ENV() could read.
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The modules whose files restore() puts back.
_RELOADS: Final = ("pbx_config.so", "res_pjsip.so", "app_queue.so", "res_ari.so", "res_musiconhold.so")


class _PortsTaken(LabError):
    """Asterisk runs, and somebody else has one of its ports."""


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that was made; it may run or not."""

    name: str
    home: Path
    how: Way
    version: str  # as Asterisk writes it: 22.10.1
    ports: Ports
    instance: Path  # the host's view
    inside: str  # Asterisk's view of the same folder
    program: tuple[str, ...]  # asterisk, as a client of the running one
    daemon: tuple[str, ...]  # asterisk, as the server
    owner: tuple[int, int]  # uid and gid it runs as
    ari_user: str = config.ARI_USER
    reader_user: str = config.ARI_READER
    ari_password: Secret = field(repr=False, default=Secret(""))
    reader_password: Secret = field(repr=False, default=Secret(""))

    # --- where things are ---------------------------------------------------------------------------------

    @property
    def ari_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def http_port(self) -> int:
        return self.ports.http

    @property
    def sip_port(self) -> int:
        return self.ports.sip

    @property
    def folder(self) -> Path:
        """What the lab keeps outside of Asterisk's reach."""
        return self.home / self.name

    @property
    def ari_password_file(self) -> Path:
        return self.folder / "ari-password"

    @property
    def config_dir(self) -> Path:
        return self.instance / "etc"

    @property
    def inside_config_dir(self) -> str:
        """The configuration folder as Asterisk sees it."""
        return f"{self.inside}/etc"

    @property
    def store_dir(self) -> Path:
        """Where voxtractl's store on this node lies."""
        return self.config_dir / "voxtractl"

    @property
    def log_file(self) -> Path:
        return self.instance / "log" / "full"

    @property
    def output_file(self) -> Path:
        return self.folder / "output.log"

    # --- the process --------------------------------------------------------------------------------------

    @property
    def process(self) -> Process | None:
        """The running Asterisk; None when it ended, was killed, or the machine was booted since."""
        record = _read_json(self.folder / "process.json")
        process = Process(**record) if record else None
        return process if process and process.alive else None

    @property
    def pid(self) -> int | None:
        process = self.process
        return process.pid if process else None

    @property
    def alive(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """Start again with the same files and ports, and wait until ARI answers. Harmless when it runs."""
        with _locked(self.home, silent):
            self._start()

    def down(self) -> None:
        """End Asterisk and what it started; its files stay. Harmless when it does not run."""
        with _locked(self.home, silent):
            self._stop()

    def kill(self) -> None:
        """End it without warning, as a crash does; its files stay as they are."""
        process = self.process
        if process is not None:
            process.send(signal.SIGKILL)
            if not process.wait_gone(_STOP_SECONDS):
                raise LabError(f"pid {process.pid} did not end after SIGKILL", where=f"lab {self.name}")
            process.end_children()

    def cli(self, command: str) -> str:
        """What Asterisk's own console answers to ``command``. Raises LabError when it is not running."""
        # A line break would be a second command, and an empty one would open the interactive console.
        if not command.strip() or not command.isprintable():
            raise LabError(
                f"{command!r} is not a console command: it is empty or holds a control character",
                hint="give one command on one line, such as: core show channels",
            )
        if not self.alive:
            raise self._not_running()
        try:
            done = subprocess.run(
                [*self.program, "-C", f"{self.inside_config_dir}/asterisk.conf", "-rx", command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_CLI_SECONDS,
                env=_environment(self.inside),
                cwd="/",
                text=True,
                errors="replace",
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise LabError(
                f"Asterisk did not answer {command!r} within {_CLI_SECONDS:.0f} s",
                where=f"lab {self.name}",
                hint=f"see {self.log_file}",
            ) from exc
        except OSError as exc:
            raise LabError(f"cannot run {self.program[0]}: {exc.strerror}", where=f"lab {self.name}") from exc
        if done.returncode != 0:
            raise LabError(
                f"the console refused {command!r}: {(done.stderr or done.stdout).strip()}",
                where=f"lab {self.name}",
                hint=f"see {self.log_file}",
            )
        return done.stdout

    def wait_ready(self, timeout: float = _READY_SECONDS) -> None:
        """Wait until Asterisk is fully booted and ARI takes our password. Raises LabError."""
        deadline = time.monotonic() + timeout
        process = self.process
        if process is None:
            raise self._not_running()
        while (status := self._ari_status()) != 200:
            if status == 401:
                raise _PortsTaken(
                    f"something else answers on {self.ari_url}",
                    where=f"lab {self.name}",
                    hint=f"end it, or make the lab anew: {self._purge_hint()}",
                )
            # The wait is cut short by the end of the process.
            if process.wait_gone(0.01):
                raise LabError(
                    f"Asterisk ended while it started: {tail(self.output_file)}",
                    where=str(self.output_file),
                    hint=f"see {self.log_file} as well",
                )
            if time.monotonic() > deadline:
                raise self._never_ready(timeout)
        self.cli("core waitfullybooted")

    def restore(self) -> None:
        """Put the configuration back to what it was at first, empty the store, drop all calls, reload.

        For tests that share a lab. What a running Asterisk keeps beside its files stays: its database,
        global variables and dynamic objects.
        """
        self.cli("channel request hangup all")
        pristine = config.render(self._config_facts())
        for entry in self.config_dir.iterdir():
            if entry.name not in pristine:
                root.remove_tree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self._write_config(pristine)
        for module in _RELOADS:
            self.cli(f"module reload {module}")

    # --- inside -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.alive:
            self.wait_ready()
            return
        if not self.ports.free:
            raise _PortsTaken(
                f"TCP port {self.ports.http} or UDP port {self.ports.sip} of 127.0.0.1 is in use",
                where=f"lab {self.name}",
                hint=f"end that program, or make the lab anew: {self._purge_hint()}",
            )
        offset = self.log_file.stat().st_size if self.log_file.exists() else 0
        # Left by a crash; Asterisk would take it for a running one.
        (self.instance / "run" / "asterisk.ctl").unlink(missing_ok=True)
        process = spawn(
            [*self.daemon, "-f", "-C", f"{self.inside_config_dir}/asterisk.conf"],
            output=self.output_file,
            environment=_environment(self.inside),
        )
        _write(self.folder / "process.json", json.dumps(dataclasses.asdict(process)))
        try:
            self.wait_ready()
            self._assert_bound(offset)
        except BaseException:
            self._stop()
            raise

    def _assert_bound(self, offset: int) -> None:
        """Asterisk goes on without a port it cannot have; only its log tells."""
        with self.log_file.open(encoding="utf-8", errors="replace") as log:
            log.seek(offset)
            if "Address already in use" in log.read():
                raise _PortsTaken(
                    f"port {self.ports.http} or {self.ports.sip} was taken while Asterisk started",
                    where=f"lab {self.name}",
                    hint="try again",
                )

    def _stop(self) -> None:
        process = self.process
        if process is not None:
            process.send(signal.SIGTERM)
            if not process.wait_gone(_STOP_SECONDS):
                process.send(signal.SIGKILL)
                if not process.wait_gone(_STOP_SECONDS):
                    raise LabError(f"pid {process.pid} did not end after SIGKILL", where=f"lab {self.name}")
            process.end_children()
        (self.folder / "process.json").unlink(missing_ok=True)

    def _ari_status(self) -> int:
        """The status of a request only our own Asterisk answers with 200; 0 when there is no answer."""
        import base64
        import http.client

        secret = f"{self.ari_user}:{self.ari_password.reveal()}"
        # http.client looks at no proxy variables: this is loopback.
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.http, timeout=5)
        try:
            connection.request(
                "GET",
                "/ari/asterisk/info",
                headers={"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()},
            )
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _config_facts(self) -> config.ConfigFacts:
        return config.ConfigFacts(
            inside=self.inside,
            ports=self.ports,
            ari_password=self.ari_password.reveal(),
            reader_password=self.reader_password.reveal(),
        )

    def _write_config(self, files: dict[str, str]) -> None:
        """The configuration folder: its owner is ours, its group is Asterisk's, others see nothing."""
        gid = self.owner[1]
        for folder in (self.config_dir, self.store_dir):
            folder.mkdir(mode=0o750, exist_ok=True)
            os.chown(folder, -1, gid)
            folder.chmod(0o2750)
        for name, text in files.items():
            _write(self.config_dir / name, text, mode=0o640, gid=gid)

    def _write_instance(self) -> None:
        self.instance.mkdir(mode=0o711, exist_ok=True)
        self.instance.chmod(0o711)
        self._write_config(config.render(self._config_facts()))
        for name in config.FOLDERS:
            folder = self.instance / name
            folder.mkdir(mode=0o750, exist_ok=True)
            os.chown(folder, *self.owner)
            folder.chmod(0o750)
        # A second of silence in Asterisk's own 8 kHz format: music on hold without a file is a warning.
        hold = self.instance / "moh" / "silence.sln"
        hold.write_bytes(bytes(16_000))
        hold.chmod(0o644)

    def _not_running(self) -> LabError:
        return LabError(
            f"the lab {self.name} is not running",
            where=str(self.home),
            hint=f"voxtractl lab up --name {self.name}",
        )

    def _never_ready(self, timeout: float) -> LabError:
        return LabError(
            f"Asterisk runs, but {self.ari_url} gave no answer within {timeout:.0f} s",
            where=f"lab {self.name}",
            hint=f"see {self.log_file}",
        )

    def _purge_hint(self) -> str:
        return f"voxtractl lab down --purge --name {self.name}, then voxtractl lab up --name {self.name}"


# --- the doors --------------------------------------------------------------------------------------------


def default_home() -> Path:
    """VOXTRACTL_LAB_HOME, else voxtractl/lab in the user's cache."""
    given = os.environ.get("VOXTRACTL_LAB_HOME")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "voxtractl" / "lab"


def up(name: str = "lab", home: Path | None = None, report: Report = silent) -> Lab:
    """A running lab: the one of this name, started if need be, else a new one. Raises LabError."""
    home = _home(home)
    home.mkdir(mode=0o711, parents=True, exist_ok=True)
    with _locked(home, report):
        lab = find(name, home)
        if lab is not None and lab.alive:
            lab.wait_ready()
            report(f"lab {name} is already up")
            return lab
        if lab is not None:
            lab._start()
            report(f"lab {name} is up again, with the files it had")
            return lab
        return _make(name, home, machine(), report)


def find(name: str = "lab", home: Path | None = None) -> Lab | None:
    """The lab of this name, running or not; None when there is none, or its files are gone."""
    _check_name(name)
    home = _home(home)
    record = _read_json(home / name / "lab.json")
    if record is None or not (Path(record["instance"]) / "etc").is_dir():
        return None
    record["ports"] = Ports(**record["ports"])
    for key in ("home", "instance"):
        record[key] = Path(record[key])
    for key in ("program", "daemon", "owner"):
        record[key] = tuple(record[key])
    return Lab(
        **record,
        ari_password=Secret((home / name / "ari-password").read_text(encoding="ascii").strip()),
        reader_password=Secret((home / name / "reader-password").read_text(encoding="ascii").strip()),
    )


def names(home: Path | None = None) -> list[str]:
    """The labs of a home, running or not."""
    return sorted(path.parent.name for path in _home(home).glob("*/lab.json"))


def purge(name: str = "lab", home: Path | None = None) -> None:
    """End a lab and delete all it has. Harmless when there is none."""
    _check_name(name)
    home = _home(home)
    if not home.is_dir():
        return
    with _locked(home, silent):
        lab = find(name, home)
        if lab is not None:
            lab._stop()
        for folder in (home / "root" / root.LABS / name, home / name):
            root.remove_tree(folder)


def remove_root(home: Path | None = None) -> None:
    """Delete the Debian the labs of this home run in; only when no lab is left. Harmless without one."""
    home = _home(home)
    if not home.is_dir():
        return
    with _locked(home, silent):
        left = [name for name in names(home) if (lab := find(name, home)) is not None and lab.how == "root"]
        if left:
            raise LabError(
                f"the root is used by {', '.join(left)}",
                where=str(home),
                hint="voxtractl lab down --purge --all",
            )
        root.remove_tree(home / "root")


def _make(name: str, home: Path, facts: MachineFacts, report: Report) -> Lab:
    way = choose(facts)
    if way == "path":
        draft = _on_path(name, home, facts)
        report(f"using {facts.asterisk}, Asterisk {draft.version}")
    else:
        root.build(home / "root", report)
        draft = _in_root(name, home)
        report(f"using Asterisk {draft.version} in {home / 'root'}")
    for attempt in range(1, _STARTS + 1):
        lab = dataclasses.replace(draft, ports=choose_ports())
        # A leftover of a lab whose record is gone would be mixed into the new one.
        root.remove_tree(lab.instance)
        root.remove_tree(lab.folder)
        lab.folder.mkdir(mode=0o711)
        lab._write_instance()
        _write(lab.ari_password_file, lab.ari_password.reveal() + "\n")
        _write(lab.folder / "reader-password", lab.reader_password.reveal() + "\n")
        _write(lab.folder / "lab.json", json.dumps(_record(lab), indent=1))
        try:
            lab._start()
        except _PortsTaken as taken:
            if attempt == _STARTS:
                raise
            report(f"{taken}; trying others")
            continue
        report(f"lab {name} is up: ARI {lab.ari_url}, SIP 127.0.0.1:{lab.sip_port}")
        return lab
    raise AssertionError("unreachable: the last attempt returns or raises")


def _on_path(name: str, home: Path, facts: MachineFacts) -> Lab:
    asterisk = facts.asterisk
    assert asterisk is not None  # noqa: S101  for mypy: choose() saw it
    instance = home / name
    inside = str(instance)
    if not inside.isprintable() or set(inside) & set(";\\[]"):
        raise LabError(
            f"{inside} cannot be written into Asterisk's configuration",
            hint="set VOXTRACTL_LAB_HOME to a folder with plain letters in its path",
        )
    if len(os.fsencode(f"{inside}/run/asterisk.ctl")) > _SOCKET_LIMIT:
        raise LabError(
            f"{inside} is too long for Asterisk's control socket",
            hint=f"set VOXTRACTL_LAB_HOME to a shorter one (the socket's path has {_SOCKET_LIMIT} bytes)",
        )
    owner = os.geteuid(), os.getegid()
    daemon: tuple[str, ...] = (asterisk,)
    if facts.uid == 0 and facts.account is not None:
        owner = facts.account
        daemon = (asterisk, "-U", "asterisk", "-G", "asterisk")
        closed = _closed_to(owner, home)
        if closed is not None:
            raise LabError(
                f"the user asterisk may not enter {closed}, where the lab would be",
                hint="set VOXTRACTL_LAB_HOME to a folder it may enter, such as /var/tmp/voxtractl-lab",
            )
    return _draft(name, home, "path", instance, inside, (asterisk,), daemon, owner)


def _in_root(name: str, home: Path) -> Lab:
    tree = home / "root"
    return _draft(
        name,
        home,
        "root",
        tree / root.LABS / name,
        f"/{root.LABS}/{name}",
        ("chroot", str(tree), "asterisk"),
        (*root.enter(tree), "asterisk", "-U", "asterisk", "-G", "asterisk"),
        root.account(tree),
    )


def _draft(
    name: str,
    home: Path,
    how: Way,
    instance: Path,
    inside: str,
    program: tuple[str, ...],
    daemon: tuple[str, ...],
    owner: tuple[int, int],
) -> Lab:
    """A lab without ports yet; its passwords are made here."""
    return Lab(
        name=name,
        home=home,
        how=how,
        version=_version(program),
        ports=Ports(0, 0, 0, 0),
        instance=instance,
        inside=inside,
        program=program,
        daemon=daemon,
        owner=owner,
        ari_password=Secret(secrets.token_urlsafe(24)),
        reader_password=Secret(secrets.token_urlsafe(24)),
    )


def _version(program: tuple[str, ...]) -> str:
    """The number in ``Asterisk 22.10.1~dfsg+…``."""
    try:
        done = subprocess.run(
            [*program, "-V"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment("/"),
            cwd="/",
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as exc:
        raise LabError(f"cannot run {program[0]}: {exc.strerror}", hint="check the binary") from exc
    match = re.search(r"Asterisk\s+(?:GIT-|certified[/-])?(\d[\w.]*(?:-\w+)?)", done.stdout)
    if match is None:
        raise LabError(
            f"{' '.join(program)} -V did not tell its version: {(done.stdout + done.stderr).strip()[:200]!r}",
            hint="is it Asterisk? set PATH so that another is found, or none",
        )
    return match[1]


def _closed_to(owner: tuple[int, int], folder: Path) -> Path | None:
    """The first folder on the way to ``folder`` that this user may not enter."""
    uid, gid = owner
    for step in [*reversed(folder.resolve().parents), folder.resolve()]:
        facts = step.stat()
        bit = stat.S_IXUSR if facts.st_uid == uid else stat.S_IXGRP if facts.st_gid == gid else stat.S_IXOTH
        if not facts.st_mode & bit:
            return step
    return None


def _record(lab: Lab) -> dict[str, Any]:
    record = {
        f.name: getattr(lab, f.name)
        for f in dataclasses.fields(lab)
        if f.name not in ("ari_password", "reader_password")
    }
    return record | {
        "ports": dataclasses.asdict(lab.ports),
        "home": str(lab.home),
        "instance": str(lab.instance),
    }


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise LabError(
            f"{name!r} cannot be a lab's name",
            hint="use up to 31 of a-z, 0-9 and -, not root and not lock, such as: lab",
        )


def _home(home: Path | None) -> Path:
    return (home or default_home()).absolute()


def _environment(inside: str) -> dict[str, str]:
    return {"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": inside}


@contextlib.contextmanager
def _locked(home: Path, report: Report) -> Iterator[None]:
    """Hold the home's lock; the kernel frees it when we end, however we do."""
    try:
        handle = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise LabError(
            f"cannot write in {home}: {exc.strerror}", hint="set VOXTRACTL_LAB_HOME to a folder of your own"
        ) from exc
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another voxtractl that works on the labs in {home}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise LabError(
            f"cannot read {path}: {exc.strerror}", hint="is it another user's lab? set VOXTRACTL_LAB_HOME"
        ) from exc
    record: dict[str, Any] = json.loads(text)
    return record


def _write(path: Path, text: str, *, mode: int = 0o600, gid: int = -1) -> None:
    """Replace a file at once; it never is wider than ``mode`` and never half written."""
    partial = path.with_name(f".{path.name}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chown(partial, -1, gid)
    partial.chmod(mode)
    partial.replace(path)
