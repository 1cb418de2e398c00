"""What a hook may be, and what it may do, without harm to the call it is run for."""

import asyncio
import sys
import threading
from functools import partial

import pytest

from voxtractl.runtime import hooks

heard: list[object] = []


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    heard.clear()


def plain(what: object = "plain") -> None:
    heard.append((what, threading.current_thread() is threading.main_thread()))


async def in_the_loop(what: object = "async") -> None:
    heard.append((what, threading.current_thread() is threading.main_thread()))


class Hook:
    async def __call__(self) -> None:
        await in_the_loop("object")


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (plain, ("plain", False)),
        (partial(plain, "5"), ("5", False)),
        (in_the_loop, ("async", True)),
        (partial(in_the_loop, "5"), ("5", True)),
        (Hook(), ("object", True)),
        (lambda: in_the_loop("returned"), ("returned", True)),
    ],
)
async def test_async_ones_run_in_the_loop_and_plain_ones_in_a_thread(hook: hooks.Hook, told: object) -> None:
    await hooks.run(hook, "call")
    assert heard == [told]


def leaves() -> None:
    sys.exit(1)


async def leaves_in_the_loop() -> None:
    sys.exit(1)


def raises() -> None:
    raise ValueError("a user's fault")


@pytest.mark.parametrize("hook", [leaves, leaves_in_the_loop, lambda: leaves_in_the_loop(), raises])
async def test_one_that_fails_or_wants_to_end_the_process_is_told_to_the_log(
    hook: hooks.Hook, caplog: pytest.LogCaptureFixture
) -> None:
    await hooks.run(hook, "call")
    assert "a hook of call call failed" in caplog.text


async def test_what_an_async_one_raises_is_for_who_runs_it() -> None:
    async def fails() -> None:
        raise ValueError("a user's fault")

    with pytest.raises(ValueError, match="a user's fault"):
        await hooks.run(fails, "call")


async def test_many_slow_ones_wait_for_none_of_each_other() -> None:
    """More than asyncio's own pool has threads on a small machine: each holds until all have begun."""
    count = 24
    together = threading.Barrier(count, timeout=30)
    await asyncio.gather(*(hooks.run(lambda: together.wait() and None, "call") for _ in range(count)))
    assert not together.broken
