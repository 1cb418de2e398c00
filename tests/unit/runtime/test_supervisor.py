"""What the supervisor does without an Asterisk; the rest is in tests/live/test_run.py."""

import asyncio

import pytest

from voxtractl.runtime.supervisor import Supervisor


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
