"""The end of a recording that Asterisk does not hear of, or does not tell, or that is given up. With the real
one: tests/live/test_calls_faults.py, test_calls_orders.py."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import MediaFailed
from voxtractl.runtime import recordings
from voxtractl.runtime.channel import Channel
from voxtractl.runtime.journal import Journal
from voxtractl.runtime.recordings import Recordings


class Node:
    """A hub, and what listens in on its call; ``stop`` answers what ends a recording."""

    def __init__(self, stop: Callable[[str], Answer]) -> None:
        self.aux = self
        self.journal = Journal()
        self.removed: list[str] = []
        self._stop = stop

    async def ask(self, request: Request) -> Answer:
        if request.path.startswith("/recordings/live/"):
            return self._stop(request.path.split("/")[3])
        return Answer(201, {})

    async def listener(self, spy: str, op: str) -> str:
        return "listener"

    async def remove(self, aux: str) -> None:
        self.removed.append(aux)

    def drop(self, aux: str) -> None:
        self.removed.append(aux)


def recordings_at(node: Node) -> Recordings:
    channel = Channel(cast("Any", node), asyncio.get_running_loop(), "call", {"call_id": "call"}, visits=1)
    return Recordings(channel, cast("Any", node), "acme")


@pytest.mark.parametrize("lost", ["the stop", "the event"])
async def test_a_stop_that_is_lost_is_sent_again(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "STOP_AGAIN", 0.01)
    asked: list[str] = []

    def stop(name: str) -> Answer:
        asked.append(name)
        if len(asked) == 1:
            return Answer(204)
        if lost == "the event":
            return Answer(404, {"message": "Recording not found"})
        calls.finished({"name": name, "duration": 3}, failed=False)
        return Answer(204)

    node = Node(stop)
    calls = recordings_at(node)
    name = await calls.start("", "wav", direction="both", max_seconds=0, beep=False, sink=None)
    assert (await calls.stop(name)).name == name
    assert asked == [name] * 2
    assert node.removed == ["listener"]


class Slow(Node):
    """Answers for a recording when ``answer`` is there."""

    def __init__(self, stop: Callable[[str], Answer]) -> None:
        super().__init__(stop)
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.deleted: list[str] = []

    async def ask(self, request: Request) -> Answer:
        if request.path.endswith("/record"):
            return await self.answer
        if request.path.startswith("/recordings/stored/"):
            self.deleted.append(request.path.split("/")[3])
            return Answer(204)
        if request.method == "GET":
            return Answer(200 if self.answer.done() else 404, {"target_uri": "channel:listener"})
        return await super().ask(request)


@pytest.mark.parametrize("again", [False, True])
async def test_a_recording_that_is_given_up_is_ended_when_asterisk_has_answered_for_it(
    again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "STOP_AGAIN", 0.01)
    ended: list[str] = []

    def stop(name: str) -> Answer:
        ended.append(name)
        return Answer(404)

    node = Slow(stop)
    calls = recordings_at(node)
    starting = asyncio.create_task(
        calls.start("one", "wav", direction="both", max_seconds=0, beep=False, sink=None)
    )
    await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.sleep(0.01)
    if again:
        starting.cancel()
        await asyncio.wait([starting])
    assert not node.removed
    node.answer.set_result(Answer(201, {}))
    await asyncio.wait([starting])
    await asyncio.sleep(0.1)
    assert starting.cancelled()
    assert ended == ["one"]
    assert set(node.removed) == {"listener"}
    assert not node.deleted


@pytest.mark.parametrize("begins", [True, False])
async def test_who_stops_a_recording_that_is_on_its_way_waits_until_it_has_begun(begins: bool) -> None:
    def stop(name: str) -> Answer:
        calls.finished({"name": name, "duration": 1}, failed=False)
        return Answer(204)

    node = Slow(stop)
    calls = recordings_at(node)
    starting = asyncio.create_task(
        calls.start("one", "wav", direction="both", max_seconds=0, beep=False, sink=None)
    )
    await asyncio.sleep(0.01)
    stopping = asyncio.create_task(calls.stop(None))
    await asyncio.sleep(0.01)
    if begins:
        node.answer.set_result(Answer(201, {}))
        assert await starting == (await stopping).name == "one"
    else:
        starting.cancel()
        node.answer.set_result(Answer(201, {}))
        with pytest.raises(MediaFailed, match="nothing is being recorded"):
            await stopping
    assert calls.last is None
    assert set(node.removed) == {"listener"}


async def test_a_recording_that_asterisk_makes_after_it_was_ended_is_deleted() -> None:
    """It refuses to end one that has no file yet, and then makes the file."""

    def stop(name: str) -> Answer:
        calls.finished({"name": name, "duration": 0}, failed=False)
        return Answer(500, {"message": "Recording operation failed"})

    node = Slow(stop)
    calls = recordings_at(node)
    starting = asyncio.create_task(
        calls.start("one", "wav", direction="both", max_seconds=0, beep=False, sink=None)
    )
    await asyncio.sleep(0.01)
    starting.cancel()
    node.answer.set_result(Answer(201, {}))
    await asyncio.wait([starting])
    assert node.deleted == ["one"]
    assert set(node.removed) == {"listener"}
