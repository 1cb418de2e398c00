"""Commands, waits and work of a call's channel, before a node that gives the answers it is told."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriError, AriUnreachable, BadRequest, CallEnded, CallError, NotFound
from voxtractl.runtime import lifecycle
from voxtractl.runtime.channel import CALLED_OFF, Channel
from voxtractl.runtime.journal import Journal
from voxtractl.runtime.lifecycle import CallTable

HERE, NOT_HERE = Answer(200, {"id": "call"}), Answer(404, {"message": "Channel not found"})


class Node:
    """A hub whose Asterisk gives ``answers``, one after the other, then says that the channel is there."""

    def __init__(self, *answers: Answer | AriError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.told: list[lifecycle.Signal] = []
        self.journal = Journal()
        self.table = CallTable()
        self.ari = ARIClient("http://pbx", "", "")
        self.aux: Any = None
        self.on_ask: Callable[[], object] = lambda: None

    async def ask(self, request: Request) -> Answer:
        self.asked.append(f"{request.method} {request.path}")
        self.on_ask()
        answer = self.answers.pop(0) if self.answers else HERE
        if isinstance(answer, AriError):
            raise answer
        return answer

    def feed(self, call_id: str, signal: lifecycle.Signal, *, of: Channel) -> None:
        self.told.append(signal)


def channel_at(node: Node) -> Channel:
    return Channel(cast("Any", node), asyncio.get_running_loop(), "call", {"call_id": "call"}, visits=1)


async def test_a_command_that_asterisk_has_no_channel_for_ends_and_the_table_is_told() -> None:
    node = Node(NOT_HERE)
    with pytest.raises(CallEnded, match="answer"):
        await channel_at(node).command(requests.answer, "answer")
    assert node.told == [lifecycle.Doubted()]


async def test_who_goes_on_with_a_call_that_is_over_for_ever_is_cancelled() -> None:
    """It never lets go of the loop: nobody else would get a turn."""
    channel = channel_at(Node())
    channel.is_gone = True

    async def goes_on() -> None:
        for _ in range(2 * CALLED_OFF):  # it would be for ever
            with suppress(CallEnded):
                await channel.command(requests.answer, "answer")

    task = asyncio.create_task(goes_on())
    await asyncio.wait([task])
    with pytest.raises(asyncio.CancelledError, match="after the end of the call"):
        await task


async def test_who_tries_again_now_and_then_after_the_end_is_told_of_it_each_time() -> None:
    channel = channel_at(Node())
    channel.is_gone = True
    for _ in range(CALLED_OFF + 5):
        with pytest.raises(CallEnded):
            await channel.command(requests.answer, "answer")
        await asyncio.sleep(0)


async def test_a_404_that_is_an_answer_is_one() -> None:
    node = Node(NOT_HERE)
    answer = await channel_at(node).command(requests.answer, "get_variable", unless="Channel not found")
    assert answer.status == 404
    assert node.told == []


async def test_a_refusal_is_an_error_while_the_channel_is_there() -> None:
    with pytest.raises(AriError, match="in a bridge"):
        await channel_at(Node(Answer(409, {"message": "in a bridge"}))).command(requests.answer, "answer")


@pytest.mark.parametrize("status", [404, 409])
@pytest.mark.parametrize("late", [True, False])
async def test_a_command_for_a_channel_that_was_replaced_meanwhile_is_for_the_other(
    status: int, late: bool
) -> None:
    """The event of that may come after the refusal."""
    node = Node(Answer(status, {"message": "it has left"}))
    channel = channel_at(node)

    def replace() -> None:
        channel.id = "second"

    node.on_ask = (lambda: channel.loop.call_later(0.01, replace)) if late else replace
    assert (await channel.command(requests.answer, "answer")).status == 200
    commands = [asked for asked in node.asked if asked.startswith("POST")]
    assert commands == ["POST /channels/call/answer", "POST /channels/second/answer"]
    assert node.told == []


@pytest.mark.parametrize("status", [404, 400])  # a bridge that is to take it says 400
async def test_a_channel_that_has_just_got_the_place_of_another_is_there_though_it_is_not_found(
    status: int,
) -> None:
    """Asterisk tells that before it finds it again."""
    node = Node(Answer(status, {"message": "Channel not found"}))
    channel = channel_at(node)
    channel.replaced("second")
    assert (await channel.command(requests.answer, "answer")).status == 200
    assert [asked for asked in node.asked if "POST" in asked] == ["POST /channels/second/answer"] * 2
    assert node.told == []


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("what", ["channel", "bridge"])
async def test_what_serves_such_a_channel_is_asked_for_again(what: str, fresh: bool) -> None:
    error = NotFound if what == "channel" else BadRequest
    missing = iter([error("no such channel", method="POST", path="/")] * 2)

    class Made:
        async def open_channel(self, call_id: str, build: Callable[[str], Request]) -> Any:
            return {"id": await self.open_bridge(call_id, [build("aux").path])}

        async def open_bridge(self, call_id: str, channels: Sequence[str]) -> str:
            if (error := next(missing, None)) is not None:
                raise error
            return channels[0]

    node = Node()
    node.aux = Made()
    channel = channel_at(node)
    if fresh:
        channel.replaced("second")
    listens = partial(channel.open_channel, lambda of, aux: requests.snoop(of, aux, app="a", spy="in"))
    connects = partial(channel.open_bridge, calls=[channel])
    opening = (listens if what == "channel" else connects)(what)
    if fresh:
        assert "second" in await opening
    else:
        with pytest.raises(error):
            await opening


@pytest.mark.parametrize("at", ["before", "meanwhile"])
async def test_a_bridge_is_asked_for_again_when_the_other_call_has_just_got_the_place_of_another(
    at: str,
) -> None:
    asked: list[list[str]] = []
    one, other = channel_at(node := Node()), channel_at(node)
    one.id = "one"

    class Made:
        async def open_bridge(self, call_id: str, channels: Sequence[str]) -> str:
            asked.append(list(channels))
            if len(asked) == 1:
                if at == "meanwhile":
                    other.replaced("second")
                raise BadRequest("Channel not found", method="POST", path="/bridges")
            return "bridge"

    node.aux = Made()
    if at == "before":
        other.replaced("second")
    assert await one.open_bridge("bridge_with", [one, other]) == "bridge"
    assert asked == [["one", "second" if at == "before" else "call"], ["one", "second"]]


@pytest.mark.parametrize("late", [True, False])
async def test_a_refusal_is_the_end_when_the_caller_is_gone(late: bool) -> None:
    """Its event of the end may come a moment after the refusal, or never."""
    node = Node(Answer(409, {"message": "not in a Stasis application"}), NOT_HERE)
    channel = channel_at(node)
    if late:
        node.on_ask = lambda: channel.loop.call_soon(lambda: channel.end(but="up"))
    with pytest.raises(CallEnded):
        await channel.command(requests.answer, "answer")
    assert len(node.asked) == (1 if late else 2)


@pytest.mark.parametrize("refused", [False, True])
async def test_what_undoes_a_command_that_was_given_up_waits_for_its_answer(refused: bool) -> None:
    node = Node()
    channel = channel_at(node)
    answer: asyncio.Future[Answer] = channel.loop.create_future()

    async def hold() -> None:
        if (await answer).status >= 300:
            raise AriError("no", method="POST", path="/channels/call/moh")

    holding = asyncio.create_task(channel.in_turn(hold()))
    await asyncio.sleep(0.01)
    holding.cancel()
    await asyncio.wait([holding])
    assert holding.cancelled()
    undoing = asyncio.create_task(channel.in_turn(channel.command(requests.moh_stop, "unhold")))
    await asyncio.sleep(0.01)
    assert node.asked == []
    answer.set_result(Answer(409 if refused else 204))
    assert await undoing == HERE
    assert node.asked == ["DELETE /channels/call/moh"]


async def test_no_answer_is_no_end() -> None:
    cut = AriUnreachable("cut", method="POST", path="/channels/call/answer")
    with pytest.raises(AriUnreachable):
        await channel_at(Node(cut)).command(requests.answer, "answer")


async def test_nothing_is_asked_of_a_channel_that_is_gone() -> None:
    node = Node()
    channel = channel_at(node)
    channel.end(but="up")
    for act in (channel.command(requests.answer, "answer"), channel.through(asyncio.sleep(0), "say")):
        with pytest.raises(CallEnded):
            await act
    assert node.asked == []


async def test_what_takes_a_while_ends_with_the_call() -> None:
    channel = channel_at(Node())
    work: asyncio.Future[None] = channel.loop.create_future()

    async def wait() -> None:
        await work

    doing = asyncio.ensure_future(channel.through(wait(), "say"))
    await asyncio.sleep(0)
    channel.end(but="up")
    with pytest.raises(CallEnded, match="say"):
        await doing
    assert work.cancelled()


async def test_what_came_as_nobody_waited_any_more_is_handed_on() -> None:
    channel = channel_at(Node())
    left: list[str] = []

    async def call_somebody() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:  # it was answered just then
            return "answered"
        return "never"

    doing = asyncio.ensure_future(
        channel.through(call_somebody(), "consult", left=lambda done: left.append(done.result()))
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    doing.cancel()
    await asyncio.wait([doing])
    assert left == ["answered"]


async def test_who_is_connected_is_not_taken_away() -> None:
    one, two = channel_at(Node()), channel_at(Node())
    one.must_be_alone("transfer")
    one.other, two.other = two, one
    with pytest.raises(CallError, match="transfer"):
        two.must_be_alone("transfer")


async def test_work_that_fails_is_told_and_the_end_of_a_call_is_not(caplog: pytest.LogCaptureFixture) -> None:
    channel = channel_at(Node())

    async def fails(error: Exception) -> None:
        raise error

    await asyncio.wait([channel.background(fails(CallEnded("play", call="call")))])
    assert caplog.text == ""
    await asyncio.wait([channel.background(fails(ValueError("a fault of ours")))])
    assert "a fault of ours" in caplog.text


STEPS = st.lists(
    st.tuples(st.sampled_from(["expect", "resolve", "forget", "end"]), st.sampled_from(["up", "a", "b"])),
    max_size=30,
)


@given(STEPS)
def test_every_wait_ends_once_with_its_event_or_the_end_of_the_call(steps: list[tuple[str, str]]) -> None:
    asyncio.run(walk(steps))


async def walk(steps: list[tuple[str, str]]) -> None:
    channel = channel_at(Node())
    current: dict[str, asyncio.Future[object]] = {}
    should: dict[asyncio.Future[object], str] = {}
    gone = False
    for number, (step, key) in enumerate(steps):
        match step:
            case "expect" if gone:
                with pytest.raises(CallEnded):
                    channel.expect(key, "op")
            case "expect":
                current[key] = channel.expect(key, "op")
                should[current[key]] = "pending"
            case "resolve":
                channel.resolve(key, number)
                if key in current and should[current[key]] == "pending":
                    should[current[key]] = f"result {number}"
            case "forget":
                channel.forget(key)
                current.pop(key, None)
            case "end":
                channel.end(but="up")
                gone = True
                for other, future in current.items():
                    if other != "up" and should[future] == "pending":
                        should[future] = "ended"
    for future, state in should.items():
        assert outcome(future) == state


def outcome(future: "asyncio.Future[object]") -> str:
    if not future.done():
        return "pending"
    return "ended" if isinstance(future.exception(), CallEnded) else f"result {future.result()}"
