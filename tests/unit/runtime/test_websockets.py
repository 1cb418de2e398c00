"""Apps of many websockets are brought together on one, before an Asterisk that is a few lines: it parts with
them when the test says so. The real one: tests/live/test_calls_apps.py."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from tests.unit.runtime.test_nodes import Asterisk, Stream, Taker, away, in_stasis, until
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AppReplaced, AriUnreachable
from voxtractl.runtime import websockets
from voxtractl.runtime.hub import Hub

START = {
    "type": "StasisStart",
    "application": "beta",
    "args": ["+265999000001"],
    "channel": {
        "id": "call",
        "state": "Up",
        "caller": {"number": "1"},
        "dialplan": in_stasis("call")["dialplan"],
    },
}
END = {
    "type": "ChannelDestroyed",
    "application": "beta",
    "cause": 16,
    "cause_txt": "",
    "channel": {"id": "call"},
}


class Node:
    """An Asterisk, the hub that serves ``first`` and ``beta`` there, each on a websocket of its own, and what
    it tells. Two are enough: the next is one too many."""

    def __init__(self) -> None:
        self.asterisk, self.told = Asterisk(), list[Mapping[str, Any]]()
        self.hub = Hub(self.asterisk)  # type: ignore[arg-type]
        self.hub.journal.sinks.append(self.told.append)

    @property
    def streams(self) -> list[Stream]:
        return self.asterisk.streams

    async def serve(self, *apps: str) -> None:
        for app in apps:
            self.hub.serve(app, Taker("nothing"))  # type: ignore[arg-type]
            await self.hub.register()

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.told]

    def parts(self, stream: Stream) -> None:
        """Asterisk has given its apps to another websocket."""
        for app in stream.apps:
            stream.apps = tuple(one for one in stream.apps if one != app)
            stream.more["on_taken"](app)
        if not stream.parting:
            stream.failure = AppReplaced("gone")
            self.cuts(stream)

    def cuts(self, stream: Stream) -> None:
        stream.is_open = False
        stream.more["on_down"]("cut")


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(websockets, "STREAMS_MAX", 2)
    monkeypatch.setattr(websockets, "MOVE_SECONDS", 60.0)
    monkeypatch.setattr(websockets, "PART_SECONDS", 0.05)
    node = Node()
    await node.hub.start()
    await node.serve("first", "beta")
    yield node
    await node.hub.stop()


async def test_what_the_new_one_tells_waits_for_what_the_old_ones_tell_last(node: Node) -> None:
    serving = asyncio.create_task(node.serve("gamma"))
    await until(lambda: len(node.streams) == 4)
    first, beta, gamma, new = node.streams
    assert sorted(new.apps) == ["beta", "gamma"]
    assert (first.parting, beta.parting) == (False, True)
    new.more["on_event"](END)
    node.parts(gamma)
    beta.more["on_event"](START)
    assert not serving.done()
    node.parts(beta)
    await serving
    assert node.names == ["call_started", "call_ended"]
    assert node.asterisk.apps == ["beta", "first", "gamma"]
    assert not node.hub.waiting
    assert not node.hub.taken
    node.parts(new)  # and now it is another process
    assert node.hub.taken == {"beta", "gamma"}


async def test_what_an_old_one_tells_after_its_apps_have_gone_is_heard(node: Node) -> None:
    """A thread of Asterisk had the old one in its hand before they went."""
    serving = asyncio.create_task(node.serve("gamma"))
    await until(lambda: len(node.streams) == 4)
    _, beta, gamma, _ = node.streams
    node.parts(gamma)
    node.parts(beta)
    await until(lambda: node.hub._web._move is None)
    assert beta.is_open
    beta.more["on_event"](START)
    await serving
    assert node.names == ["call_started"]
    assert not beta.is_open


@pytest.mark.parametrize("silent", [False, True])
async def test_after_a_cut_in_a_move_asterisk_is_asked_what_was_missed(
    node: Node, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    if silent:  # not even that is told
        monkeypatch.setattr(websockets, "MOVE_SECONDS", 0.05)
    node.streams[1].more["on_event"](START)
    serving = asyncio.create_task(node.serve("gamma"))
    await until(lambda: len(node.streams) == 4)
    _, beta, gamma, _ = node.streams
    node.parts(gamma)
    if not silent:
        node.cuts(beta)
    await asyncio.wait_for(serving, 20)
    await until(lambda: "call_ended" in node.names)  # it is not in Asterisk any more
    assert node.asterisk.apps == ["beta", "first", "gamma"]
    assert not beta.is_open


async def test_apps_that_were_lost_in_a_move_are_registered_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.streams[1].more["on_event"](START)
    start = Stream.start

    async def fails(stream: Stream) -> None:
        if len(stream.apps) > 1:
            monkeypatch.setattr(Stream, "start", start)
            node.cuts(node.streams[1])
            raise away()
        await start(stream)

    monkeypatch.setattr(Stream, "start", fails)
    with pytest.raises(AriUnreachable):
        await node.serve("gamma")
    assert node.hub.waiting == {"beta"}
    assert not node.hub.connected
    monkeypatch.setattr(websockets, "STREAMS_MAX", 8)
    await node.hub.register()
    assert node.asterisk.apps == ["beta", "first", "gamma"]
    assert node.hub._web.hear
    await until(lambda: "call_ended" in node.names)


async def test_a_move_that_cannot_begin_leaves_all_as_it_was(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Stream.start

    async def fails(stream: Stream) -> None:
        if len(stream.apps) > 1:
            raise away()
        await start(stream)

    monkeypatch.setattr(Stream, "start", fails)
    await node.serve("gamma")
    assert node.asterisk.apps == ["beta", "first", "gamma"]
    assert node.hub.connected
    assert not any(stream.parting for stream in node.streams)


async def test_full_websockets_are_left_alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets, "APPS_MAX", 1)
    await node.serve("gamma", "delta")
    assert len(node.streams) == 4
    assert all(stream.is_open for stream in node.streams)


@pytest.mark.parametrize("begun", [2, 4])
async def test_what_was_stopped_while_it_began_is_closed(node: Node, begun: int) -> None:
    serving = asyncio.create_task(node.serve("gamma"))
    await asyncio.sleep(0)
    await until(lambda: len(node.streams) == begun)
    await node.hub.stop()
    await asyncio.wait_for(serving, 20)
    assert node.asterisk.apps == []


@pytest.mark.parametrize("calls", [True, False])
async def test_a_websocket_with_a_deaf_app_is_made_again(node: Node, calls: bool) -> None:
    """Asterisk has taken the app down with the websocket before: it knows it only while there are calls."""
    _, beta = node.streams
    node.asterisk.deaf = {"beta": 204 if calls else 404}
    await beta.more["on_up"]()
    await until(lambda: beta.made_again)
    assert beta.made_again == ["Asterisk tells nothing of 1 apps (beta)"]
    node.asterisk.deaf = {}
    await beta.more["on_up"]()
    await until(lambda: not node.hub._web._words)
    assert len(beta.made_again) == 1


async def test_a_check_that_is_not_answered_is_made_when_it_can_be(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests go over the first websocket, which may be lost while another one is checked."""
    monkeypatch.setattr(websockets, "AGAIN", 0.01)
    _, beta = node.streams
    node.asterisk.deaf = {"beta": 404}
    ask_all, tries = node.asterisk.ask_all, iter(range(6))

    async def lost_for_a_while(wanted: Sequence[Request], **more: Any) -> list[Answer]:
        if next(tries, None) is not None:
            raise away()
        return await ask_all(wanted, **more)

    monkeypatch.setattr(node.asterisk, "ask_all", lost_for_a_while)
    back = asyncio.ensure_future(beta.more["on_up"]())
    await until(lambda: beta.made_again)
    await back


async def test_a_websocket_that_stays_deaf_is_left_alone_in_the_end(node: Node) -> None:
    _, beta = node.streams
    node.asterisk.deaf = {"beta": 404}
    for _ in range(2 * websockets.RENEWALS):
        await beta.more["on_up"]()
        await until(lambda: not node.hub._web._checks)
    assert len(beta.made_again) == websockets.RENEWALS
