"""Runs whole commands and tells what each cost: wall clock, and CPU as the kernel counted it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import Final

from tests.bench.figures import NotMeasured, Spread

__all__ = ["PYTHON", "Run", "alternate", "cpu", "environment", "run", "voxtractl", "wall"]

PYTHON: Final = sys.executable
LIMIT: Final = 120.0  # seconds for one command


@dataclass(frozen=True, slots=True)
class Run:
    wall: float  # seconds
    cpu: float  # seconds, user and system
    out: str
    code: int = 0


def voxtractl() -> list[str]:
    """The installed console script, as an operator runs it."""
    script = Path(PYTHON).with_name("voxtractl")
    return [str(script)] if script.exists() else [PYTHON, "-m", "voxtractl"]


def environment() -> dict[str, str]:
    """Ours without what would measure or configure the command."""
    hidden = ("COVERAGE_", "VOXTRACTL_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def run(words: Sequence[str], cwd: Path, *, code: int | None = 0, stdin: str = "") -> Run:
    """One command to its end. Raises NotMeasured when it ends with another ``code``; None takes any."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as given:
        given.write(stdin)
        given.seek(0)
        started = time.perf_counter()
        process = subprocess.Popen(
            words, cwd=cwd, env=environment(), stdin=given, stdout=out, stderr=subprocess.STDOUT
        )
        usage, status = _ended(process)
        wall = time.perf_counter() - started
        out.seek(0)
        text = out.read()
    if code is not None and status != code:
        raise NotMeasured(f"{' '.join(words)} ended with {status} instead of {code}: {text.strip()[-500:]}")
    return Run(wall, usage, text, status)


def _ended(process: "subprocess.Popen[bytes]") -> tuple[float, int]:
    """CPU seconds and exit code of a process that is waited for here; one that hangs is killed."""
    watch = Timer(LIMIT, process.kill)
    watch.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        watch.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, process.returncode


def alternate(works: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Each work once a round: what else the machine does hits all alike. The first round is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            done = work()
            if number:
                runs[name].append(done)
    return runs


def wall(runs: Sequence[Run]) -> Spread:
    return Spread.of(run.wall for run in runs)


def cpu(runs: Sequence[Run]) -> Spread:
    return Spread.of(run.cpu for run in runs)
