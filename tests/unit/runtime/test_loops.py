"""The threads of the tenants: what their handlers, and another tenant's policy, cannot do to them. Which of
them a tenant has over its loads is in test_supervisor.py."""

import asyncio
import sys
from collections.abc import Iterator

import pytest

from voxtractl import VoxtraApp
from voxtractl.runtime.loops import Loop, Loops


async def test_a_loop_outlives_a_task_that_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop("tenant acme")

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
    loop.end()
    loop.join()
    assert loop.loop.is_closed()
    assert caplog.text.count("tenant acme: a task wanted to end the process") == 2


async def test_a_closed_loop_is_replaced() -> None:
    loops, app = Loops(), VoxtraApp()
    first = loops.of(app)
    assert loops.of(app) is first
    first.end()
    first.join()
    assert not loops.of(app).loop.is_closed()
    loops.end()


def test_a_handler_that_blocks_is_told_with_its_tenant(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtractl.runtime.loops.BLOCKED_AFTER", 0.0)
    loops, app = Loops(), VoxtraApp()
    app.tenant = "acme"
    loops.of(app)
    assert loops.watch() == [app]
    (line,) = caplog.records
    assert line.message.startswith("tenant acme: its handler blocks its event loop, at ")
    assert vars(line)["tenant"] == "acme"
    loops.end()


@pytest.fixture
def policy() -> Iterator[None]:
    class Broken(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            raise RuntimeError("no")

        def set_event_loop(self, loop: object) -> None:
            raise RuntimeError("no")

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Broken())
    yield
    asyncio.set_event_loop_policy(before)


def test_a_policy_that_a_tenant_sets_is_not_the_others(policy: None) -> None:
    async def kind() -> type:
        return type(asyncio.get_running_loop())

    loop = Loop("tenant beta")
    there = asyncio.run_coroutine_threadsafe(kind(), loop.loop)
    assert there.result(10) is asyncio.SelectorEventLoop
    loop.end()
    loop.join()
