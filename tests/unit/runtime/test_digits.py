import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.errors import UsageFault
from voxtractl.runtime.digits import AHEAD_MAX, Collected, Collector, TypeAhead

DIGITS = st.text("0123456789*#ABCD", max_size=100)


def collect(collector: Collector, digits: str) -> Collected | None:
    result = None
    for digit in digits:
        result = collector.feed(digit)
    return result


@pytest.mark.parametrize(
    ("max_digits", "terminators", "pressed", "digits", "ended_by"),
    [
        (1, "#", "5", "5", "max"),
        (1, "#", "#", "", "terminator"),
        (4, "#", "12#", "12", "terminator"),
        (4, "#", "1234", "1234", "max"),
        (4, "*#", "1*", "1", "terminator"),
        (2, "", "##", "##", "max"),
    ],
)
def test_how_collecting_ends(
    max_digits: int, terminators: str, pressed: str, digits: str, ended_by: str
) -> None:
    result = collect(Collector(max_digits, terminators), pressed)
    assert result == digits
    assert isinstance(result, Collected)
    assert result.ended_by == ended_by


def test_giving_up_keeps_the_digits_and_the_first_end_counts() -> None:
    collector = Collector(4)
    assert collector.feed("1") is None
    assert len(collector) == 1
    result = collector.give_up("timeout")
    assert (result, result.ended_by) == ("1", "timeout")
    assert collector.give_up("hangup") is result
    assert collector.feed("2") is result
    assert len(collector) == 1


def test_digits_that_nobody_got_come_first_again_with_their_terminator() -> None:
    ahead, collector = TypeAhead(), Collector(4)
    collect(collector, "12#")
    ahead.feed("3")
    ahead.give_back(collector.fed)
    assert [ahead.take() for _ in range(len(ahead))] == ["1", "2", "#", "3"]


def test_what_was_collected_is_a_str_that_can_be_copied() -> None:
    result = Collected("12", "max")
    assert result == "12"
    assert {"12": 1}[result] == 1
    for copied in (copy.copy(result), copy.deepcopy(result)):
        assert (copied, copied.ended_by) == ("12", "max")
    assert repr(result) == "Collected('12', ended_by='max')"


@pytest.mark.parametrize(("max_digits", "terminators"), [(0, "#"), (-1, "#"), (1, "x"), (1, " "), (1, "#é")])
def test_a_question_that_cannot_be_asked_is_refused(max_digits: int, terminators: str) -> None:
    with pytest.raises(UsageFault):
        Collector(max_digits, terminators)


@given(pressed=DIGITS, max_digits=st.integers(1, 20), terminators=st.text("#*0", max_size=3))
def test_the_digits_are_those_before_the_end(pressed: str, max_digits: int, terminators: str) -> None:
    collector = Collector(max_digits, terminators)
    ends = [n for n, digit in enumerate(pressed) if digit in terminators]
    first_end = ends[0] if ends else len(pressed)
    collect(collector, pressed)
    result = collector.done or collector.give_up("timeout")
    assert result == pressed[: min(first_end, max_digits)]
    if first_end >= max_digits:
        assert result.ended_by == "max"
    else:
        assert result.ended_by == ("terminator" if ends else "timeout")


@given(pressed=DIGITS)
def test_type_ahead_keeps_the_first_digits_in_their_order(pressed: str) -> None:
    ahead = TypeAhead()
    for digit in pressed:
        ahead.feed(digit)
    assert "".join(ahead.take() for _ in range(len(ahead))) == pressed[:AHEAD_MAX]
    assert not ahead


def test_type_ahead_can_be_forgotten() -> None:
    ahead = TypeAhead()
    ahead.feed("1")
    ahead.clear()
    assert len(ahead) == 0
    with pytest.raises(IndexError):
        ahead.take()


def test_a_stuck_key_does_not_fill_the_memory() -> None:
    ahead = TypeAhead()
    for digit in "1" + "#" * 1000:
        ahead.feed(digit)
    assert len(ahead) == AHEAD_MAX
    assert ahead.take() == "1"
