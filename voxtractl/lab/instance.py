"""One lab: a real Asterisk with files, ports and a process of its own. Making and finding one: `doors`.

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

import dataclasses
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from voxtractl.errors import LabError
from voxtractl.lab import config
from voxtractl.lab.disk import claim, locked, read_json, remove_tree, size, write
from voxtractl.lab.ports import Ports
from voxtractl.lab.process import Process, spawn, tail
from voxtractl.lab.ways import Way, silent
from voxtractl.settings import Secret

__all__ = ["RECORD", "Lab", "PortsTaken", "environment", "fill", "kill", "start", "stop"]

RECORD: Final = "lab.json"  # a folder with this file is a lab

_READY_SECONDS: Final = 60.0  # it takes half a second; a busy machine gets time
_STOP_SECONDS: Final = 10.0
_PORTS_SECONDS: Final = 1.0  # for the kernel to close what a killed Asterisk had open
_CLI_SECONDS: Final = 60.0
_CLI_BYTES: Final = 496  # of one console command; Asterisk drops a longer one without a word (measured)

# What Asterisk is given: nothing of our own environment, which may hold secrets its ENV() could read.
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The modules whose files restore() puts back.
_RELOADS: Final = ("pbx_config.so", "res_pjsip.so", "app_queue.so", "res_ari.so", "res_musiconhold.so")


class PortsTaken(LabError):
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
    def reader_password_file(self) -> Path:
        return self.folder / "reader-password"

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
        return _running(self.folder)

    @property
    def pid(self) -> int | None:
        process = self.process
        return process.pid if process else None

    @property
    def alive(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """Start again with the same files and ports, and wait until ARI answers. Harmless when it runs."""
        with locked(self.home, silent):
            start(self)

    def down(self) -> None:
        """End Asterisk and what it started; its files stay. Harmless when it does not run."""
        with locked(self.home, silent):
            stop(self.folder)

    def kill(self) -> None:
        """End it without warning, as a crash does; its files stay as they are."""
        kill(self.folder)

    def cli(self, command: str) -> str:
        """What Asterisk's own console answers to ``command``. Raises LabError when it is not running."""
        # A line break would be a second command, and an empty one would open the interactive console.
        if not command.strip() or not command.isprintable():
            raise LabError(
                f"{command!r} is not a console command: it is empty or holds a control character",
                hint="give one command on one line, such as: core show channels",
            )
        if len(command.encode()) > _CLI_BYTES:
            raise LabError(
                f"a console command has at most {_CLI_BYTES} bytes, and this one {len(command.encode())}",
                hint="Asterisk would drop it without a word; use ARI for long values",
            )
        if not self.alive:
            raise self._not_running()
        try:
            done = subprocess.run(
                [*self.program, "-C", f"{self.inside_config_dir}/asterisk.conf", "-rx", command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_CLI_SECONDS,
                env=environment(self.inside),
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
        self._await(timeout, size(self.log_file))

    def restore(self) -> None:
        """Put the configuration back to what it was at first, empty the store, drop all calls, reload.

        For tests that share a lab. What a running Asterisk keeps beside its files stays: its database,
        global variables and dynamic objects.
        """
        self.cli("channel request hangup all")
        files = self._write_config()
        for entry in self.config_dir.iterdir():
            if entry.name not in files and entry != self.store_dir:
                remove_tree(entry, self.instance)
        for entry in self.store_dir.iterdir():
            remove_tree(entry, self.instance)
        for module in _RELOADS:
            self.cli(f"module reload {module}")

    # --- inside -------------------------------------------------------------------------------------------

    def _await(self, timeout: float, log_from: int) -> None:
        """Wait for a process whose own log starts at byte ``log_from``."""
        deadline = time.monotonic() + timeout
        process = self.process
        if process is None:
            raise self._not_running()
        while (status := self._ari_status()) != 200:
            if status == 401:
                raise PortsTaken(
                    f"{self.ari_url} refuses the lab's own password",
                    where=f"lab {self.name}",
                    hint=f"is ari.conf as it was? or make the lab anew: {self._purge_hint()}",
                )
            self._assert_bound(log_from)
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
        self._assert_bound(log_from)

    def _assert_bound(self, log_from: int) -> None:
        """Asterisk goes on without a port it cannot have; only its log tells."""
        if not self.log_file.exists():
            return
        with self.log_file.open(encoding="utf-8", errors="replace") as log:
            log.seek(log_from)
            if "Address already in use" in log.read():
                raise PortsTaken(
                    f"TCP port {self.http_port} or UDP port {self.sip_port} was taken while Asterisk started",
                    where=f"lab {self.name}",
                    hint="try again",
                )

    def _ari_status(self) -> int:
        """The status of a request only our own Asterisk answers with 200; 0 when there is no answer."""
        import base64
        import http.client

        secret = f"{self.ari_user}:{self.ari_password.reveal()}"
        # http.client looks at no proxy variables: this is loopback.
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.http, timeout=1)
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

    def _write_config(self) -> frozenset[str]:
        """The configuration folder: its owner is ours, its group is Asterisk's, others see nothing."""
        files = config.render(
            config.ConfigFacts(
                inside=self.inside,
                ports=self.ports,
                ari_password=self.ari_password.reveal(),
                reader_password=self.reader_password.reveal(),
            )
        )
        gid = self.owner[1]
        for folder in (self.config_dir, self.store_dir):
            folder.mkdir(mode=0o750, exist_ok=True)
            os.chown(folder, -1, gid)
            folder.chmod(0o2750)
        for name, text in files.items():
            write(self.config_dir / name, text, mode=0o640, gid=gid)
        return frozenset(files)

    def _not_running(self) -> LabError:
        return LabError(
            f"the lab {self.name} is not running",
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


def fill(lab: Lab) -> None:
    """Write everything a new lab has on disk. The caller holds the home's lock."""
    # A leftover of a lab whose record is gone would be mixed into the new one.
    remove_tree(lab.instance, lab.instance)
    remove_tree(lab.folder, lab.folder)
    claim(lab.folder)
    if lab.instance != lab.folder:
        claim(lab.instance)
    lab._write_config()
    for name in config.FOLDERS:
        folder = lab.instance / name
        folder.mkdir(mode=0o750)
        os.chown(folder, *lab.owner)
        folder.chmod(0o750)
    # A second of silence in Asterisk's own 8 kHz format: music on hold without a file is a warning.
    hold = lab.instance / "moh" / "silence.sln"
    hold.write_bytes(bytes(16_000))
    hold.chmod(0o644)
    write(lab.ari_password_file, lab.ari_password.reveal() + "\n")
    write(lab.reader_password_file, lab.reader_password.reveal() + "\n")
    # Last: the record is what makes it a lab.
    secret = ("ari_password", "reader_password")
    record = {f.name: getattr(lab, f.name) for f in dataclasses.fields(lab) if f.name not in secret}
    record["ports"] = dataclasses.asdict(lab.ports)
    write(lab.folder / RECORD, json.dumps(record, indent=1, default=os.fspath))


def _running(folder: Path) -> Process | None:
    record = read_json(folder / "process.json")
    process = Process(**record) if record else None
    return process if process and process.alive else None


def start(lab: Lab) -> None:
    """Start a lab and wait until it is ready; harmless when it runs. The caller holds the home's lock."""
    if lab.alive:
        lab.wait_ready()
        return
    if not lab.ports.free_within(_PORTS_SECONDS):
        raise PortsTaken(
            f"TCP port {lab.ports.http} or UDP port {lab.ports.sip} of 127.0.0.1 is in use",
            where=f"lab {lab.name}",
            hint=f"end that program, or make the lab anew: {lab._purge_hint()}",
        )
    log_from = size(lab.log_file)
    # Left by a crash; Asterisk would take it for a running one.
    (lab.instance / "run" / "asterisk.ctl").unlink(missing_ok=True)
    process = spawn(
        [*lab.daemon, "-f", "-C", f"{lab.inside_config_dir}/asterisk.conf"],
        output=lab.output_file,
        environment=environment(lab.inside),
    )
    write(lab.folder / "process.json", json.dumps(dataclasses.asdict(process)))
    try:
        lab._await(_READY_SECONDS, log_from)
    except BaseException:
        # Asked politely, Asterisk would finish its start first.
        kill(lab.folder)
        raise


def stop(folder: Path) -> None:
    """End the Asterisk of a lab's folder and what it started. The caller holds the home's lock."""
    process = _running(folder)
    if process is not None:
        process.send(signal.SIGTERM)
        if not process.wait_gone(_STOP_SECONDS):
            _kill(process)
        process.end_children(_STOP_SECONDS)
    (folder / "process.json").unlink(missing_ok=True)


def kill(folder: Path) -> None:
    """End the Asterisk of a lab's folder, and what it started, without asking."""
    process = _running(folder)
    if process is not None:
        _kill(process)
        process.end_children(_STOP_SECONDS)


def _kill(process: Process) -> None:
    process.send(signal.SIGKILL)
    if not process.wait_gone(_STOP_SECONDS):
        raise LabError(
            f"pid {process.pid} did not end within {_STOP_SECONDS:.0f} s after SIGKILL",
            hint="the kernel holds it, most likely in a disk operation",
        )


def environment(inside: str) -> dict[str, str]:
    return {"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": inside}
