"""The loops of the runtime: what a handler's threads cannot do to them."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from voxtractl.runtime.event_loop import THREADS, new_event_loop, new_tenant_loop

ENDS = """
import asyncio, time
from voxtractl.runtime.event_loop import {maker}

async def handler():
    asyncio.ensure_future(asyncio.to_thread(time.sleep, 1000))
    await asyncio.sleep(0.1)

loop = {maker}()
loop.run_until_complete(handler())
loop.close()
"""

MAKERS = pytest.mark.parametrize("maker", [new_event_loop, new_tenant_loop], ids=lambda maker: maker.__name__)


@MAKERS
def test_a_thread_that_never_returns_does_not_hold_the_end_of_the_process(
    maker: Callable[[], object],
) -> None:
    code = ENDS.format(maker=maker.__name__)
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@MAKERS
def test_threads_of_a_loop_are_bounded_and_give_results_and_errors(
    maker: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    lock, full, running, most = threading.Lock(), threading.Event(), 0, 0

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if most == THREADS:
            full.set()
        assert full.wait(60)  # as many as may be run at once
        with lock:
            running -= 1
        return number

    async def many() -> None:
        some = [asyncio.to_thread(work, number) for number in range(2 * THREADS)]
        assert await asyncio.gather(*some) == list(range(2 * THREADS))
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        late = asyncio.ensure_future(asyncio.to_thread(full.wait, 60))
        late.cancel()

    loop = maker()
    loop.run_until_complete(many())
    loop.close()
    assert most == THREADS


@MAKERS
def test_what_waits_for_a_thread_is_done_by_those_there_are_when_the_system_gives_no_more(
    maker: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start
    done: list[str] = []

    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def some() -> None:
        monkeypatch.setattr(threading.Thread, "start", none)
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(done.append, "given up")
        monkeypatch.setattr(threading.Thread, "start", begin)
        wait = threading.Event()
        first = asyncio.ensure_future(asyncio.to_thread(wait.wait, 60))
        await asyncio.sleep(0)
        monkeypatch.setattr(threading.Thread, "start", none)
        second = asyncio.ensure_future(asyncio.to_thread(done.append, "waited"))
        await asyncio.sleep(0)
        wait.set()
        await asyncio.gather(first, second)
        monkeypatch.setattr(threading.Thread, "start", begin)

    loop = maker()
    loop.run_until_complete(some())
    loop.close()
    assert done == ["waited"]
