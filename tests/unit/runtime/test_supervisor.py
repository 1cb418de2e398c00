"""What the supervisor does without an Asterisk; the rest is in tests/live/test_run.py."""

import asyncio
import sys
from pathlib import Path

import pytest

from voxtractl.runtime.supervisor import Supervisor, _Loop


async def test_what_fails_unforeseen_is_told_and_done_again(caplog: pytest.LogCaptureFixture) -> None:
    done: asyncio.Queue[None] = asyncio.Queue()
    faults = [KeyError("first"), OSError("second")]

    async def look() -> None:
        if faults:
            raise faults.pop(0)
        done.put_nowait(None)

    task = asyncio.create_task(Supervisor._every(0.001, look))
    await asyncio.wait_for(done.get(), 10)
    await asyncio.wait_for(done.get(), 10)
    task.cancel()
    assert caplog.text.count("look failed, and is tried again") == 2
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_loop_outlives_a_task_that_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    loop = _Loop("tenant acme")

    async def leaves() -> None:
        sys.exit(1)

    async def stays() -> str:
        return "here"

    def interrupts() -> None:
        raise KeyboardInterrupt

    loop.loop.call_soon_threadsafe(lambda: loop.loop.create_task(leaves()))
    loop.loop.call_soon_threadsafe(interrupts)
    loop.loop.call_soon_threadsafe(loop.loop.stop)
    there = asyncio.run_coroutine_threadsafe(stays(), loop.loop)
    assert await asyncio.wait_for(asyncio.wrap_future(there), 10) == "here"
    loop.stop()
    assert loop.loop.is_closed()
    assert caplog.text.count("tenant acme: a task wanted to end the process") == 2


async def test_a_closed_loop_is_replaced() -> None:
    supervisor = Supervisor(Path("tenants.toml"))
    first = supervisor._loop_of("acme")
    assert supervisor._loop_of("acme") is first
    supervisor._loops["acme"].stop()
    assert not supervisor._loop_of("acme").is_closed()
    await supervisor.close()
