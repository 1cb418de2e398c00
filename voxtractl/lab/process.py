"""One Asterisk process: started apart from us, found again, ended; nothing here knows what it runs.

A process is its pid, its start time and the machine's boot: a pid alone may belong to somebody else after a
crash or a reboot. Signals go through a pidfd, which cannot hit a later process with the same number.
"""

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from voxtractl.errors import LabError

__all__ = ["Process", "spawn", "tail"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

# The shell tells its pid before it becomes the program; setsid has already cut it off from us, so neither
# our end nor a Ctrl-C in our terminal reaches it, and no zombie of it stays with us. 16384 descriptors are
# three legs for each of 5000 calls; the usual 1024 end a load test. More than allowed is not an error.
_LAUNCH: Final = 'echo $$; exec >>"$1" 2>&1; shift; ulimit -n 16384 || true; exec "$@"'


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    started: str  # clock ticks after boot, as the kernel counts them
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process that has this pid now; None when there is none or it is only waiting to be reaped."""
        stat = _stat(pid)
        if stat is None or stat[0] == "Z":
            return None
        return cls(pid, stat[19], _BOOT_ID.read_text(encoding="ascii").strip())

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that is gone is left alone."""
        with self._handle() as handle:
            if handle is not None:
                try:
                    signal.pidfd_send_signal(handle, number)
                except ProcessLookupError:
                    return

    def wait_gone(self, seconds: float) -> bool:
        """Wait until the process has ended; False when it still runs after ``seconds``."""
        with self._handle() as handle:
            return handle is None or bool(select.select([handle], [], [], seconds)[0])

    def end_children(self, seconds: float) -> None:
        """Kill what the process started and left behind; they share the session it leads.

        Waited for as well: a child may hold copies of the sockets its parent had.
        """
        children = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                child = Process.of(int(entry.name))
                stat = _stat(int(entry.name))
                # The kernel gives no new process the pid while a session of that number has members.
                if child is not None and stat is not None and stat[3] == str(self.pid) and child != self:
                    child.send(signal.SIGKILL)
                    children.append(child)
        for child in children:
            child.wait_gone(seconds)

    @contextmanager
    def _handle(self) -> Iterator[int | None]:
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Asked after opening: now the pid cannot change its owner any more.
            yield handle if self.alive else None
        finally:
            os.close(handle)


def spawn(command: Sequence[str], *, output: Path, environment: Mapping[str, str]) -> Process:
    """Start ``command`` in a session of its own with its output appended to ``output``."""
    try:
        output.open("ab").close()  # the shell's own failure to open it would be told too late
    except OSError as exc:
        raise LabError(f"cannot write {output}: {exc.strerror}", where=str(output)) from exc
    try:
        done = subprocess.run(
            ["setsid", "--fork", "sh", "-c", _LAUNCH, "sh", str(output), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as exc:
        raise LabError(
            f"cannot start {command[0]}: {exc}", hint="the lab needs setsid and sh (util-linux)"
        ) from exc
    process = Process.of(int(done.stdout))
    if process is None:
        raise LabError(
            f"{command[0]} ended at once: {tail(output)}", where=str(output), hint="see what it wrote there"
        )
    return process


def tail(path: Path, lines: int = 5) -> str:
    """The last lines of a log, for an error's sentence."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "it wrote nothing"
    return (
        " / ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "it wrote nothing"
    )


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, the state first (proc_pid_stat(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
