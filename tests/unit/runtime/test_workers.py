"""Who lives and who is whose heir, and what is done about it before a node that is a few lines. The real one:
tests/live/test_run.py."""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari.requests import Answer, Request
from voxtractl.runtime import workers as workers_module
from voxtractl.runtime.places import MOVED, Place
from voxtractl.runtime.workers import (
    DEAD_AFTER,
    GONE_AFTER,
    INHERIT_EVERY,
    Sign,
    Worker,
    Workers,
    alive,
    heir_of,
    inherited,
    is_due,
)

NOW = 1000.0
ages = st.floats(0, 2 * DEAD_AFTER)


@given(st.dictionaries(st.integers(1, 64), ages, min_size=1))
def test_each_dead_worker_has_one_heir_that_lives(signs: Mapping[int, float]) -> None:
    """All see the same signs; one that gives none to others sees none of its own that is missing."""
    seen = {number: Sign("1 up", NOW - age) for number, age in signs.items()}
    living = {number for number, sign in seen.items() if NOW - sign.since < DEAD_AFTER}
    told = [
        dead
        for own in living
        for dead in inherited(own, {n: sign for n, sign in seen.items() if n != own}, NOW)
    ]
    assert sorted(told) == (sorted(seen.keys() - living) if living else [])


@given(st.integers(1, 64), st.sets(st.integers(1, 64), min_size=1))
def test_the_heir_is_the_next_number_that_lives(dead: int, living: set[int]) -> None:
    heir = heir_of(dead, living)
    assert heir in living
    steps = [(number - dead) % 64 for number in living]  # 64 numbers in a ring
    assert (heir - dead) % 64 == min(steps)


def test_one_that_was_just_looked_for_lives() -> None:
    signs = {2: Sign("", NOW), 3: Sign("9 up", NOW - DEAD_AFTER)}
    assert alive(1, signs, NOW) == {1, 2}


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
    """What a worker sees of one: the variables, the calls in apps, what was moved. Stands for hub and ARI."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.calls: dict[str, Place] = {}
        self.moved: list[tuple[str, str, list[str]]] = []
        self.looks = 0
        self.draining = False
        self.ari = self
        self.journal = SimpleNamespace(node="lab")

    async def request(self, request: Request) -> Any:
        if request.path == "/channels":
            self.looks += 1
            return [place.channel for place in self.calls.values()]
        query = dict(request.query)
        self.values[query["variable"]] = query["value"]
        return None

    async def ask_all(self, wanted: Sequence[Request]) -> list[Answer]:
        names = [dict(request.query)["variable"] for request in wanted]
        return [Answer(200, {"value": self.values[n]}) if n in self.values else Answer(404) for n in names]

    async def places(self, channels: Sequence[Mapping[str, Any]]) -> list[Place]:
        return [self.calls[channel["id"]] for channel in channels]

    async def move(self, place: Place, to: str, args: list[str]) -> bool:
        self.moved.append((place.channel["id"], to, args))
        return True


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(workers_module, "monotonic", clock)
    return clock


def worker(node: Node, number: int, count: int) -> Workers:
    apps = {f"voxtra-acme-{number}": "voxtra-acme"}
    return Workers(Worker(number, count), node, apps, asyncio.ensure_future)  # type: ignore[arg-type]


async def test_the_calls_of_a_dead_worker_go_to_its_heir_once(clock: Clock) -> None:
    node = Node()
    one, two, three = (worker(node, number, 3) for number in (1, 2, 3))
    node.calls = {
        "hers": Place({"id": "hers"}, "voxtra-acme-1", ["+265999000001"]),
        "ours": Place({"id": "ours"}, "voxtra-acme-2", []),
        "other": Place({"id": "other"}, "somebody-elses", []),
    }
    await one.beat()
    for _ in range(6):
        clock.now += 1
        await two.beat()
        await three.beat()
    await asyncio.sleep(0)
    assert node.moved == [("hers", "voxtra-acme-2", [MOVED, "+265999000001"])]
    assert two.elsewhere("voxtra-acme-2") == ["voxtra-acme-3"]


async def test_one_that_drains_lives_and_gets_no_calls_of_others(clock: Clock) -> None:
    node = Node()
    one, two = worker(node, 1, 2), worker(node, 2, 2)
    node.draining = True
    for _ in range(9):
        clock.now += 1
        await one.beat()
        await two.beat()
    assert node.looks == 0
    assert two.elsewhere("voxtra-acme-2") == []


async def test_a_worker_that_was_never_there_is_not_looked_for_all_the_time(clock: Clock) -> None:
    """Each look asks for the place of every call of the node."""
    node = Node()
    one = worker(node, 1, 2)
    for _ in range(25):
        await one.beat()
        clock.now += 1
    assert node.looks == 2
