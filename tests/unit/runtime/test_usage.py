"""Turns of calls that go out: evenly spread, and free again when nobody takes them."""

from itertools import pairwise
from random import Random

import pytest

from voxtractl.runtime.usage import Usage


def test_turns_are_evenly_spread() -> None:
    usage = Usage()
    assert [usage.turn(100.0, 2) for _ in range(3)] == [100.0, 100.5, 101.0]
    assert usage.turn(100.7, 2) == 101.5
    assert usage.turn(200.0, 2) == 200.0


def test_a_turn_that_was_given_back_is_the_next_ones() -> None:
    usage = Usage()
    turns = [usage.turn(100.0, 2) for _ in range(1000)]
    last = usage.turn(100.0, 2)
    for turn in turns[1:]:
        usage.give_turn(turn)
    assert usage.turn(100.1, 2) == 100.5
    assert usage.earlier(last, 100.2) == 101.0
    assert usage.earlier(101.0, 100.2) == 101.0
    assert usage.turn(300.2, 2) == 300.5  # those that are over are nobody's
    assert usage.earlier(300.5, 1000.0) == 300.5


def test_of_whatever_is_given_back_no_two_turns_are_too_close() -> None:
    usage, random = Usage(), Random(7)
    taken: list[float] = []
    for number in range(500):
        now = number * 0.01
        taken.append(usage.turn(now, 20))
        waiting = [turn for turn in taken if turn > now]
        if waiting and random.random() < 0.5:
            given = random.choice(waiting)
            taken.remove(given)
            usage.give_turn(given)
        elif waiting:
            given = random.choice(waiting)
            taken.remove(given)
            taken.append(usage.earlier(given, now))
    assert min(b - a for a, b in pairwise(sorted(taken))) == pytest.approx(0.05)
