"""Extension patterns as the real Asterisk matches and orders them, beside our own reading of them.

The oracle runs the dialplan: a channel goes to each number as a subroutine, and the extension it lands in is
the one a call would get. The label oracle (ari/requests.py) cannot be asked for the order: Asterisk goes on
to the next extension that matches when the first has no such label (main/pbx.c, pbx_find_extension).
"""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.live.test_render_live import Bench, next_start
from voxtractl.dialplan.pattern import Pattern, best
from voxtractl.lab import Lab

APP = "test-pattern"


class Case(NamedTuple):
    """One context: its extensions, and the numbers that are called in it."""

    patterns: Sequence[str]
    numbers: Sequence[str]


def ours(cases: Sequence[Case]) -> list[str]:
    """For each number of each case the text of the extension that takes it; ``-`` when none does."""
    found = []
    for case in cases:
        patterns = [Pattern.of(text) for text in case.patterns]
        found += [pattern.text if (pattern := best(patterns, number)) else "-" for number in case.numbers]
    return found


async def theirs(lab: Lab, cases: Sequence[Case]) -> list[str]:
    """The same, as Asterisk has it."""
    bench = Bench(lab)
    lines = []
    asks = ["[test-ask]", "exten => s,1,Set(FOUND=)"]
    for context, case in enumerate(cases):
        lines.append(f"[test-case-{context}]")
        lines += [f"exten => {text},1,Return({index})" for index, text in enumerate(case.patterns)]
        for number in case.numbers:
            place = f"test-case-{context},{number},1"
            asks.append(
                f" same => n,ExecIf(${{DIALPLAN_EXISTS({place})}}?Gosub({place}):Set(GOSUB_RETVAL=-))"
            )
            asks.append(" same => n,Set(FOUND=${FOUND} ${GOSUB_RETVAL})")
    park = ["[test-park]", "exten => s,1,Answer()", " same => n,Wait(60)"]
    asks.append(f" same => n,Stasis({APP},${{FOUND}})")
    (lab.config_dir / "extensions.conf").write_text("\n".join([*park, *lines, *asks, ""]))
    assert bench.ari("PUT", "asterisk/modules/pbx_config.so")[0] == 204
    query = {"endpoint": "Local/s@test-park", "context": "test-ask", "extension": "s", "priority": "1"}
    async with bench.worker(APP) as socket:
        assert bench.ari("POST", "channels", **query)[0] == 200
        start = await next_start(socket)
    channel, args = start["channel"], start["args"]
    assert isinstance(channel, dict)
    assert isinstance(args, list)
    assert bench.ari("DELETE", f"channels/{channel['id']}")[0] == 204
    indices = iter(args[0].split())
    return [
        index if (index := next(indices)) == "-" else case.patterns[int(index)]
        for case in cases
        for _ in case.numbers
    ]


def told(cases: Sequence[Case], found: Sequence[str]) -> list[str]:
    """Each answer with its question, so that a difference explains itself."""
    questions = [(number, case.patterns) for case in cases for number in case.numbers]
    return [
        f"{number} of {patterns}: {text}" for (number, patterns), text in zip(questions, found, strict=True)
    ]


KNOWN = [
    Case(["_X.", "_+X.", "_[+0-9]."], ["12", "+12", "+1", "1", "+"]),
    Case(["_X!", "_X.", "_XX", "_X", "12"], ["1", "12", "13", "123", "1-2"]),
    Case(["_+265X.", "_+26.", "_+265[1-9]X", "+265-12"], ["+26512", "+2651", "+26", "+26502", "+265123"]),
    Case(["_nxx-zxxx", "_N.", "_n!"], ["2010000", "2011000", "201-1000", "2", "1"]),
    Case(["_[0-9]5", "_X5", "_x5", "_[5]5"], ["15", "55", "-5-5"]),
    Case(["_[a-c]1", "_[A-C]1", "_A1", "a1"], ["a1", "b1", "A1", "B1", "d1"]),
    Case(["_[23]", "_[13]", "_[12]", "_[1-3]"], ["1", "2", "3"]),
    Case(["_[a-]1", "_[-+]1", "_[.!X]1"], ["a1", "+1", ".1", "!1", "X1", "x1", "51"]),
    Case(["_.", "_!"], ["1", "12", "a", "+"]),
    Case(["_*X", "_#X!", "*1", "_]1"], ["*1", "*2", "#", "#1", "]1"]),
]


@pytest.fixture(autouse=True)
def _leave_the_lab_as_it_was(lab: Lab) -> object:
    yield
    lab.restore()


async def test_patterns_that_people_write(lab: Lab) -> None:
    assert told(KNOWN, ours(KNOWN)) == told(KNOWN, await theirs(lab, KNOWN))


# Few characters and alike places, so that many patterns match one number and their order counts.
SET = st.builds(
    lambda parts, dash: f"[{''.join(parts)}{dash}]",
    st.lists(st.sampled_from([*"123+aA", "0-9", "1-3", "2-9", "a-c", "5-5"]), min_size=1, max_size=4),
    st.sampled_from(["", "", "-"]),  # a dash before the end is itself
)
PLACE = st.sampled_from([*"12+*#aAxXnNzZ", "-1", "X", "N"]) | SET
PATTERN = st.builds(
    lambda first, rest, end: f"_{first}{''.join(rest)}{end}",
    PLACE,
    st.lists(PLACE, max_size=2),
    st.sampled_from(["", "", ".", "!"]),
) | st.sampled_from(["_.", "_!", "_-."])
LITERAL = st.text(st.sampled_from("12+a-"), max_size=2).map(lambda text: f"{text}1")
NUMBER = st.text(st.sampled_from("112233+aA-"), min_size=1, max_size=3) | st.text(
    st.sampled_from("0123456789+*#abcABCxX-"), min_size=1, max_size=5
)

CASES = st.lists(
    st.builds(
        Case,
        st.lists(PATTERN | LITERAL, min_size=1, max_size=8),
        st.lists(NUMBER, min_size=4, max_size=8),
    ),
    min_size=30,
    max_size=40,
)


# Not shrunk: a difference explains itself, and shrinking so many cases takes two minutes.
@settings(
    max_examples=50,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(cases=CASES)
async def test_any_number_gets_the_extension_that_asterisk_gives_it(lab: Lab, cases: list[Case]) -> None:
    assert told(cases, ours(cases)) == told(cases, await theirs(lab, cases))
