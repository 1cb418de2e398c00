"""Processes: real ones, `sleep` in the place of Asterisk."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from voxtractl.errors import LabError
from voxtractl.lab.process import Process, spawn, tail

ENVIRONMENT = {"PATH": os.defpath}


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    said = tmp_path / "said"
    os.mkfifo(said)
    command = ["sh", "-c", f"echo $$ > {said}; exec sleep 60"]
    process = spawn(command, output=tmp_path / "out", environment=ENVIRONMENT)
    assert int(said.read_text()) == process.pid  # waits until the program itself runs
    yield process
    process.send(signal.SIGKILL)
    process.wait_gone(10)


def test_a_spawned_program_is_alive_under_its_own_pid_and_leads_its_own_session(sleeper: Process) -> None:
    assert sleeper.alive
    assert os.getsid(sleeper.pid) == sleeper.pid
    assert os.getsid(0) != sleeper.pid


def test_it_is_gone_after_a_signal(sleeper: Process) -> None:
    assert not sleeper.wait_gone(0)
    sleeper.send(signal.SIGTERM)
    assert sleeper.wait_gone(10)
    assert not sleeper.alive
    sleeper.send(signal.SIGTERM)  # harmless


@pytest.mark.parametrize("started", ["1", None])
@pytest.mark.parametrize("boot", ["another", None])
def test_another_start_time_or_boot_is_another_process_and_gets_no_signal(
    sleeper: Process, started: str | None, boot: str | None
) -> None:
    other = Process(sleeper.pid, started or sleeper.started, boot or sleeper.boot)
    if other == sleeper:
        assert other.alive
        return
    assert not other.alive
    assert other.wait_gone(0)
    other.send(signal.SIGKILL)
    assert not sleeper.wait_gone(0)


def test_a_zombie_is_not_alive() -> None:
    pid = os.posix_spawnp("true", ["true"], ENVIRONMENT)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert Process.of(pid) is None
    os.waitpid(pid, 0)
    assert Process.of(pid) is None


def test_children_left_behind_end_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        parent = spawn(
            ["sh", "-c", f"sleep 60 > {pipe} & exec sleep 60"],
            output=tmp_path / "out",
            environment=ENVIRONMENT,
        )
        parent.send(signal.SIGKILL)
        assert parent.wait_gone(10)
        parent.end_children(10)
        assert os.read(handle, 1) == b""
    finally:
        os.close(handle)


def test_a_program_that_ends_at_once_leaves_its_last_words(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with contextlib.suppress(LabError):  # raised when it is gone before we look, which is a race
        assert spawn(["/no/such/program"], output=output, environment=ENVIRONMENT).wait_gone(10)
    assert "/no/such/program" in tail(output)


def test_an_output_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot write"):
        spawn(["sleep", "60"], output=tmp_path / "missing" / "out", environment=ENVIRONMENT)


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == "it wrote nothing"
    log.write_text("")
    assert tail(log) == "it wrote nothing"
    log.write_text("".join(f"line {n}\n" for n in range(9)))
    assert tail(log, 2) == "line 7 / line 8"
