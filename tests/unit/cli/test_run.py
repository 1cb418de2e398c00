"""Signals of `voxtractl run`, before a supervisor of a few lines. The rest: tests/live/test_run.py."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from voxtractl.cli import run


class Supervisor:
    """Starts when ``may_start`` is set; what was asked of it stands in ``asked``."""

    def __init__(self) -> None:
        self.may_start = asyncio.Event()
        self.asked: list[str] = []
        self.faults: dict[str, Any] = {}

    async def start(self) -> None:
        self.asked.append("start")
        await self.may_start.wait()
        self.asked.append("started")

    async def reload(self) -> None:
        self.asked.append("reload")

    async def reclaim(self, *, force: bool) -> None:
        self.asked.append("reclaim")

    async def failed(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, seconds: float) -> int:
        return 0

    async def close(self) -> None:
        self.asked.append("close")

    def sentence(self) -> str:
        return "serving"


async def until(true: Callable[[], object]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never was")


def serving(supervisor: Supervisor) -> Awaitable[None]:
    return asyncio.ensure_future(run._serve(supervisor, None, None, 1.0, None))  # type: ignore[arg-type]


async def test_a_sighup_while_it_starts_is_done_when_it_has_started() -> None:
    supervisor = Supervisor()
    serves = serving(supervisor)
    await until(lambda: supervisor.asked)
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)
    assert supervisor.asked == ["start"]
    supervisor.may_start.set()
    await until(lambda: "reclaim" in supervisor.asked)
    os.kill(os.getpid(), signal.SIGTERM)
    await serves
    assert supervisor.asked == ["start", "started", "reload", "reclaim", "close"]


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
