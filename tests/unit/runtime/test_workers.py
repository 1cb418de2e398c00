"""Who lives and who is whose heir, and what is done about it before a node that is a few lines. The real one:
tests/live/test_run.py."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari.requests import NOT_SET, Answer, Request
from voxtractl.runtime import places as places_module
from voxtractl.runtime import workers as workers_module
from voxtractl.runtime.places import AGAIN, MOVED, Place, Places
from voxtractl.runtime.workers import (
    DEAD_AFTER,
    GONE_AFTER,
    INHERIT_EVERY,
    Sign,
    Worker,
    Workers,
    alive,
    heirs,
    is_due,
)

NOW = 1000.0
WORDS = st.sampled_from(["", "7 starting", "7 up", "7 draining"])
SIGNS = st.dictionaries(
    st.integers(1, 64), st.builds(Sign, WORDS, st.floats(NOW - 2 * DEAD_AFTER, NOW)), min_size=1
)


@given(SIGNS)
def test_each_dead_worker_has_one_heir_that_lives_and_takes_calls_if_any_does(
    signs: Mapping[int, Sign],
) -> None:
    living, found = alive(signs, NOW), heirs(signs, NOW)
    assert found.keys() == (signs.keys() - living if living else set())
    takes_calls = {number for number in living if signs[number].up}
    for dead, heir in found.items():
        able = takes_calls or living
        assert heir in able
        assert (heir - dead) % 64 == min((number - dead) % 64 for number in able)  # the next in the ring


def test_one_that_was_just_looked_for_lives() -> None:
    signs = {2: Sign("", NOW), 3: Sign("9 up", NOW - DEAD_AFTER)}
    assert alive(signs, NOW) == {2}
    assert heirs({3: Sign("9 up", NOW - DEAD_AFTER)}, NOW) == {}  # nobody is left


@pytest.mark.parametrize(
    ("sign", "looked", "due"),
    [
        (Sign("9 up", NOW - DEAD_AFTER), NOW - 1, True),  # it stands still: new calls may come to it
        (Sign("9 up", NOW - GONE_AFTER), NOW - 1, False),
        (Sign("", NOW - DEAD_AFTER), NOW - 1, False),  # it was never there
        (Sign("", NOW - DEAD_AFTER), None, True),
        (Sign("", NOW - DEAD_AFTER), NOW - INHERIT_EVERY, True),
    ],
)
def test_one_that_is_long_gone_is_looked_for_less_often(sign: Sign, looked: float | None, due: bool) -> None:
    assert is_due(sign, looked, NOW) is due


class Node:
    """What workers see of one: the variables, the calls in apps and bridges, what was moved."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.calls: dict[str, Place] = {}
        self.bridges: dict[str, str] = {}  # id → name
        self.own: dict[str, str] = {}  # channels that calls have of their own → app
        self.locked = False  # nobody gets an answer about those
        self.moved: list[tuple[str, str, list[str]]] = []
        self.looks = self.asked_in_vain = 0
        self.on_sound_over: Callable[[str], Awaitable[object]] | None = None  # it ends when this is over
        self.answers_at_once = False  # as before 20.20 and 22.10; the variable is set after the sound
        self.setting: list[tuple[str, str]] = []
        self.quiet: set[str] = set()

    async def sound_ends(self, id: str) -> None:
        if self.on_sound_over is not None:
            await self.on_sound_over(id)
        self.quiet.add(id)


class View:
    """A node as one of its workers sees it. Stands for its Hub, its ARIClient and its Places."""

    def __init__(self, node: Node) -> None:
        self.node, self.ari, self.places, self.draining = node, self, self, False
        self.sessions: dict[str, object] = {}
        self.call_of = self.sessions.get
        self.journal = SimpleNamespace(node="lab")
        real = Places(self, ask=self.ask, insist=self.ask)  # type: ignore[arg-type]
        self.ask_each, self.bridges = real.ask_each, real.bridges

    async def request(self, request: Request) -> Any:
        return (await self.ask(request)).body

    async def ask(self, request: Request) -> Answer:
        node, query = self.node, dict(request.query)
        match request.method, request.path.split("/")[1:]:
            case "GET", ["channels"]:
                node.looks += 1
                own = [{"id": id, "dialplan": {"app_data": f"{app},x"}} for id, app in node.own.items()]
                return Answer(200, [*own, *(place.channel for place in node.calls.values())])
            case "DELETE", ["channels", id]:
                assert request.slow  # over the websocket all that follow would wait with it
                if node.locked:
                    node.asked_in_vain += 1
                    await asyncio.Event().wait()
                del node.own[id]
            case "GET", ["bridges"]:
                rows = [{"id": id, "name": name, "channels": []} for id, name in node.bridges.items()]
                return Answer(200, rows)
            case "DELETE", ["bridges", id]:
                del node.bridges[id]
            case "GET", ["asterisk", "variable"]:
                value = node.values.get(query["variable"])
                return Answer(404) if value is None else Answer(200, {"value": value})
            case "POST", ["asterisk", "variable"]:
                node.values[query["variable"]] = query["value"]
            case "POST", ["channels", id, "variable"]:
                assert request.body is not None
                node.setting.append((id, request.body["value"]))
                if not node.answers_at_once:
                    await node.sound_ends(id)
            case "GET", ["channels", id, "variable"]:
                assert request.slow
                if id not in node.quiet:
                    await node.sound_ends(id)
                    return Answer(404, {"message": NOT_SET})
                return Answer(200, {"value": dict(node.setting)[id]})
        return Answer(204)

    async def ask_all(self, wanted: Sequence[Request], *, patience: float | None = None) -> list[Answer]:
        answers = []
        for request in wanted:
            try:
                async with asyncio.timeout(patience):
                    answers.append(await self.ask(request))
            except TimeoutError:
                answers.append(Answer(0))
        return answers

    async def of(self, channels: Iterable[Mapping[str, Any]]) -> list[Place]:
        return [self.node.calls[channel["id"]] for channel in channels]

    async def move(self, place: Place, to: str, args: list[str]) -> bool:
        call_id = place.channel["id"]
        self.node.moved.append((call_id, to, args))
        self.node.calls[call_id] = Place(place.channel, to, args)
        return True


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(workers_module, "monotonic", clock)
    monkeypatch.setattr(places_module, "monotonic", clock)
    return clock


class One(Workers):
    """A worker of several; it begins what it has to do at once."""

    def __init__(self, node: Node, number: int, count: int) -> None:
        self.view, self.tasks = View(node), set[asyncio.Task[None]]()
        apps = {f"voxtra-acme-{number}": "voxtra-acme"}
        go = lambda work: self.tasks.add(asyncio.create_task(work))
        super().__init__(Worker(number, count), self.view, apps, go)  # type: ignore[arg-type]

    async def beats(self) -> None:
        await self.beat()
        while self.tasks:
            await self.tasks.pop()


HERS = Place({"id": "hers"}, "voxtra-acme-1", ["+265999000001"])


async def test_the_calls_of_a_dead_worker_go_to_its_heir_once(clock: Clock) -> None:
    node = Node()
    one, two, three = (One(node, number, 3) for number in (1, 2, 3))
    node.calls = {
        "hers": HERS,
        "ours": Place({"id": "ours"}, "voxtra-acme-2", []),
        "other": Place({"id": "other"}, "somebody-elses", []),
    }
    await one.beats()
    for _ in range(9):
        clock.now += 1
        await two.beats()
        await three.beats()
    assert node.moved == [("hers", "voxtra-acme-2", [MOVED, "+265999000001"])]
    assert two.elsewhere("voxtra-acme-2") == ["voxtra-acme-3"]


async def test_the_heir_removes_the_bridges_of_the_dead_before_it_moves_their_calls(clock: Clock) -> None:
    node = Node()
    node.bridges = {"vx-aux-1": "voxtra-acme-1", "vx-aux-2": "voxtra-acme-2", "meeting": "voxtra-acme-1"}
    two = One(node, 2, 2)
    for _ in range(6):
        await two.beats()
        clock.now += 1
    assert set(node.bridges) == {"vx-aux-2", "meeting"}


async def test_what_asterisk_does_not_answer_for_holds_up_no_call_and_is_seldom_asked(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_module, "PATIENCE", 0.01)
    node = Node()
    node.calls, node.own, node.locked = {"hers": HERS}, {"vx-aux-3": "voxtra-acme-1"}, True
    two = One(node, 2, 2)
    node.values["VOXTRA_WORKER_ALIVE_1"] = "9 up"
    while clock.now < NOW + DEAD_AFTER + 1 + 3 * AGAIN:
        await two.beats()
        clock.now += 1
    assert [call_id for call_id, *_ in node.moved] == ["hers"]
    assert node.asked_in_vain == 3  # at once, after AGAIN, and after twice as long
    node.locked = False
    while node.own:
        await two.beats()
        clock.now += 1
    assert clock.now < NOW + GONE_AFTER + 2 * INHERIT_EVERY + 4 * AGAIN


@pytest.mark.parametrize("answers_at_once", [False, True])
async def test_a_call_whose_worker_is_back_when_its_sound_ends_stays_where_it_is(
    clock: Clock, answers_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    node.answers_at_once = answers_at_once
    monkeypatch.setattr(workers_module, "LOOK_EVERY", 0)
    node.calls = {"hers": HERS}
    one, two = One(node, 1, 2), One(node, 2, 2)
    await one.beats()
    await two.beats()
    clock.now += DEAD_AFTER
    again = One(node, 1, 2)
    node.on_sound_over = lambda call_id: again.begin()
    await two.beats()
    assert node.looks == 1
    assert node.moved == []


async def test_one_that_drains_leaves_the_calls_of_the_dead_to_one_that_takes_calls(clock: Clock) -> None:
    node = Node()
    node.calls = {"hers": HERS}
    two, three = One(node, 2, 3), One(node, 3, 3)
    two.view.draining = True
    for _ in range(9):
        clock.now += 1
        await two.beats()
        await three.beats()
    assert node.moved == [("hers", "voxtra-acme-3", [MOVED, "+265999000001"])]
    assert three.elsewhere("voxtra-acme-3") == []


async def test_when_all_drain_one_of_them_sees_to_the_calls_of_the_dead(clock: Clock) -> None:
    node = Node()
    node.calls = {"hers": HERS}
    two = One(node, 2, 2)
    two.view.draining = True
    for _ in range(6):
        await two.beats()
        clock.now += 1
    assert node.moved == [("hers", "voxtra-acme-2", [MOVED, "+265999000001"])]


async def test_one_that_stood_still_is_not_in_time_until_its_signs_came_for_a_while(clock: Clock) -> None:
    one, told = One(Node(), 1, 2), []
    for pause in (1, 1, 1, 1, 1, 1, 8, 1, 1, 1, 1, 1, 1):
        await one.beats()
        told.append(one.in_time())
        clock.now += pause
        if pause == 8:
            assert not one.in_time()  # before the next sign
    assert told == [False] * 5 + [True] * 2 + [False] * 5 + [True]


async def test_a_worker_that_was_never_there_is_not_looked_for_all_the_time(clock: Clock) -> None:
    """Each look asks for the place of every call of the node."""
    node = Node()
    one = One(node, 1, 2)
    for _ in range(25):
        await one.beats()
        clock.now += 1
    assert node.looks == 2
