"""Signals of `voxtractl run`, before a supervisor of a few lines. The rest: tests/live/test_run.py."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from voxtractl.cli import entry, run
from voxtractl.errors import UsageFault
from voxtractl.runtime.event_loop import new_event_loop
from voxtractl.runtime.monitor import Monitor


class Supervisor:
    """Starts when ``may_start`` is set; what was asked of it stands in ``asked``."""

    def __init__(self) -> None:
        self.may_start = asyncio.Event()
        self.asked: list[str] = []
        self.without_handler: dict[str, Any] = {}
        self.hubs: dict[str, Any] = {}
        self.serves = False

    async def start(self) -> None:
        self.asked.append("start")
        await self.may_start.wait()
        self.asked.append("started")
        self.serves = True

    async def reload(self) -> None:
        self.asked.append("reload")

    async def reclaim(self, *, force: bool) -> None:
        self.asked.append("reclaim")

    async def readmit(self) -> None:
        self.asked.append("readmit")

    async def failed(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, seconds: float) -> int:
        return 0

    async def close(self) -> None:
        self.asked.append("close")

    def sentence(self) -> str:
        return "serving"


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """It ignores them from its end on, as the last thing of a process."""
    before = {number: signal.getsignal(number) for number in entry.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def until(true: Callable[[], object]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never was")


def serving(supervisor: Supervisor, port: int | None = None) -> "asyncio.Task[None]":
    monitor = Monitor(supervisor)  # type: ignore[arg-type]
    return asyncio.ensure_future(run._serve(supervisor, monitor, port, 1.0, None))  # type: ignore[arg-type]


async def test_a_sighup_while_it_starts_is_done_when_it_has_started() -> None:
    supervisor = Supervisor()
    serves = serving(supervisor)
    await until(lambda: supervisor.asked)
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)
    assert supervisor.asked == ["start"]
    supervisor.may_start.set()
    await until(lambda: "readmit" in supervisor.asked)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serves, 5)
    assert supervisor.asked == ["start", "started", "reload", "reclaim", "readmit", "close"]


async def test_reloads_that_wait_are_over_before_it_closes() -> None:
    supervisor, reloading = Supervisor(), asyncio.Lock()

    async def reload() -> None:
        supervisor.asked.append("reload")
        try:
            async with reloading:
                await asyncio.Event().wait()
        finally:
            supervisor.asked.append("over")

    supervisor.reload = reload  # type: ignore[method-assign]
    supervisor.may_start.set()
    serves = serving(supervisor)
    await until(lambda: supervisor.serves)
    for number in (1, 2):
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda number=number: supervisor.asked.count("reload") == number)  # type: ignore[misc]
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serves, 5)
    assert supervisor.asked[-3:] == ["over", "over", "close"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_it_starts_stops_it_at_once(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor()
    serves = serving(supervisor)
    await until(lambda: supervisor.asked)
    os.kill(os.getpid(), number)
    await asyncio.wait_for(serves, 5)
    assert supervisor.asked == ["start", "close"]
    assert "stopped by a signal before it served" in capsys.readouterr().err


def test_no_signal_ends_it_at_its_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a live test met the moment between the loop's handler and none at all: SIGHUP was its end."""
    supervisor, sets, found = Supervisor(), signal.signal, set[object]()

    def noting(number: signal.Signals, handler: Any) -> Any:
        found.add(signal.getsignal(number))
        return sets(number, handler)

    async def served() -> None:
        serves = serving(supervisor)
        await until(lambda: supervisor.asked)
        monkeypatch.setattr(signal, "signal", noting)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serves, 5)

    entry.wait(served(), new_event_loop)
    assert found
    assert signal.SIG_DFL not in found
    assert {signal.getsignal(number) for number in entry.SIGNALS} == {signal.SIG_IGN}


def ready(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_nothing_is_taken_when_somebody_else_has_the_port() -> None:
    supervisor = Supervisor()
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        pytest.raises(UsageFault, match="cannot be opened"),
    ):
        await asyncio.wait_for(serving(supervisor, taken.getsockname()[1]), 5)
    assert supervisor.asked == ["close"]


async def test_it_is_ready_when_it_serves(capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = Supervisor()
    serves = serving(supervisor, 0)
    await until(lambda: supervisor.asked)
    port = int(capsys.readouterr().err.split(":")[3].partition("/")[0])
    assert await asyncio.to_thread(ready, port) == 503
    supervisor.may_start.set()
    await until(lambda: supervisor.serves)
    assert await asyncio.to_thread(ready, port) == 200
    os.kill(os.getpid(), signal.SIGTERM)
    await serves


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--monitor", "65536"], "--monitor"),
        (["--monitor", "-1"], "--monitor"),
        (["--drain", "nan"], "--drain nan"),
        (["--drain", "inf"], "--drain inf"),
        (["--drain", "-1"], "--drain -1"),
        (["--drain", "1e300"], "--drain 1e+300"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.run(["run", *words]) == 2
    assert says in capsys.readouterr().err


def no_node(tmp_path: Path) -> list[str]:
    config = tmp_path / "tenants.toml"
    config.write_text('[tenants.acme]\ndids = ["+265999000001"]\nhandler = "a.py:app"\n')
    return ["--config", str(config)]


LOUD = """
import atexit, os, subprocess, sys, threading, time
from voxtractl import VoxtraApp
app = VoxtraApp()

def again():
    while True:
        os.write(1, b"of a thread\\n")
        time.sleep(0.001)

print("of the file")
subprocess.run(["echo", "of a child"])
atexit.register(print, "at exit")
atexit.register(os.write, 1, b"at exit, past Python\\n")
threading.Thread(target=again, daemon=True).start()
print("all said", flush=True)
"""


NODE = """
[nodes.lab]
ari = "http://127.0.0.1:1"
ari_user = "u"
ari_password_env = "HOME"
store = "memory:lab"
"""  # nobody is there


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        (["-o", "json"], 0, '{"ok": true, "calls": 0}\n'),
        (["--events", "-"], 0, ""),
        (["-o", "json", "nobody"], 2, '{"ok": false, "error": {"id": "usage", '),
    ],
)
def test_standard_output_is_for_events_and_the_document_alone(
    words: list[str], code: int, shown: str, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text(LOUD)
    config, log = no_node(tmp_path), tmp_path / "log"
    with (tmp_path / "tenants.toml").open("a") as file:
        file.write(NODE)
    with (
        log.open("wb") as err,
        subprocess.Popen(
            [sys.executable, "-m", "voxtractl", *config, "run", *words], stdout=subprocess.PIPE, stderr=err
        ) as process,
    ):
        while "all said" not in log.read_text() and process.poll() is None:  # it gives up the node in the end
            time.sleep(0.02)
        process.terminate()
        out, _ = process.communicate(timeout=20)
    said = log.read_text()
    assert process.returncode == code, said
    assert out.decode().startswith(shown)
    assert out.count(b"\n") == bool(shown)
    if code == 0:
        for line in ("of the file", "of a child", "of a thread", "at exit", "at exit, past Python"):
            assert f"{line}\n" in said


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere/events", "make its folder first"),
        ("", "name a file in it"),
        ("pipe", "nobody reads this pipe"),
    ],
)
def test_a_file_of_events_that_cannot_be_opened_is_told_with_a_way_on(
    place: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert entry.run([*no_node(tmp_path), "run", "--events", str(tmp_path / place)]) == 2
    assert says in capsys.readouterr().err


def test_a_file_of_events_without_a_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.run([*no_node(tmp_path), "run", "--events", ""]) == 2
    assert "--events names no file" in capsys.readouterr().err


def test_a_folder_that_was_deleted_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert entry.run(["run"]) == 2
    assert "tenants.toml is seen from the folder this runs in" in capsys.readouterr().err


def test_events_go_on_in_the_folder_where_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        lines = run._lines("events", stack)
        assert lines.place == str(tmp_path / "events")


HANGS_UP = """
import os, runpy, signal, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "voxtractl.runtime":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, Finder)
runpy.run_module("voxtractl", run_name="__main__")
"""


def test_a_sighup_while_it_is_loaded_does_no_harm(tmp_path: Path) -> None:
    words = [*no_node(tmp_path), "run"]
    done = subprocess.run(
        [sys.executable, "-c", HANGS_UP, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "error" in done.stderr


def test_a_sighup_before_anything_is_read_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGHUP)
    found: list[object] = []
    monkeypatch.setattr(run, "_lines", lambda *_: found.append(signal.getsignal(signal.SIGHUP)))
    assert entry.run([*no_node(tmp_path), "run", "--events", "-"]) != 0
    assert found == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGHUP) is before
