"""Extension patterns. What Asterisk itself says of them is asked in tests/live/test_pattern_live.py."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.dialplan.pattern import Pattern, best
from voxtractl.errors import UsageFault

POSITION = st.sampled_from(
    ["X", "x", "Z", "z", "N", "n", "0", "5", "9", "+", "*", "a", "A", "-"]
) | st.builds("[{}]".format, st.sampled_from(["1-3", "13", "2-9a", "-+", "a-z", "+*#", "0"]))
PATTERNS = st.builds(
    lambda places, end: f"_{''.join(places)}{end}",
    st.lists(POSITION, min_size=1, max_size=6),
    st.sampled_from(["", "", ".", "!"]),
).filter(lambda text: text.replace("-", "") != "_")
NUMBERS = st.text(st.sampled_from("0123459+*#aAbz-"), max_size=8)


@pytest.mark.parametrize(
    ("pattern", "takes", "not_those"),
    [
        ("1000", ["1000", "10-00"], ["100", "10000", "_1000", ""]),
        ("10-00", ["1000"], ["10000"]),
        ("_X.", ["12", "1a", "1+"], ["1", "+12", ""]),
        ("_+X.", ["+12"], ["+1", "12"]),
        ("_[+0-9].", ["+1", "12"], ["1", "a1"]),
        ("_+265X!", ["+2651", "+26512345"], ["+265", "2651"]),
        ("_!", ["", "1", "anything"], []),
        ("_.", ["1", "12"], [""]),
        ("_NXX-XXXX", ["2345678", "234-5678"], ["1345678", "234567"]),
        ("_nzx", ["210"], ["110", "200", "21x"]),
        ("_ab", ["ab"], ["AB", "aB"]),
        ("_[a-c1]5", ["a5", "b5", "15"], ["d5", "A5", "-5"]),
        ("_[a-]5", ["a5"], ["b5", "5"]),
        ("_[.!X]", [".", "!", "X"], ["1", "x"]),
    ],
)
def test_what_a_pattern_takes(pattern: str, takes: list[str], not_those: list[str]) -> None:
    read = Pattern.of(pattern)
    assert [number for number in takes if not read.matches(number)] == []
    assert [number for number in not_those if read.matches(number)] == []


@pytest.mark.parametrize(
    "first_to_last",
    [
        ["12345", "_12345", "_1234X", "_1234.", "_123X.", "_12X.", "_X.", "_.", "_!"],
        ["_1", "_[12]", "_[13]", "_[23]", "_[1-3]", "_N", "_Z", "_X", "_[0-9a]"],
        ["_XX", "_X.", "_X!", "_X"],
        ["_+265X.", "_+26X.", "_[+0-9]."],
    ],
)
def test_the_order_patterns_are_asked_in(first_to_last: list[str]) -> None:
    keys = [Pattern.of(text).key for text in first_to_last]
    assert [second for first, second in pairwise(keys) if first >= second] == []


@pytest.mark.parametrize(
    ("one", "same"), [("_X", "_[0-9]"), ("_x", "_X"), ("_5", "_[5]"), ("_1-2", "_12"), ("1-2", "12")]
)
def test_patterns_that_are_one_extension_to_asterisk_are_equal(one: str, same: str) -> None:
    assert Pattern.of(one) == Pattern.of(same)
    assert hash(Pattern.of(one)) == hash(Pattern.of(same))


def test_a_literal_is_not_the_pattern_of_its_characters() -> None:
    assert Pattern.of("12") != Pattern.of("_12")
    assert Pattern.of("12").is_literal
    assert not Pattern.of("_12").is_literal


def test_the_best_pattern() -> None:
    patterns = [Pattern.of(text) for text in ("_X.", "_+265X.", "_+26X.", "+265999")]
    for number, text in (("+265999", "+265999"), ("+265998", "_+265X."), ("+26", None), ("12", "_X.")):
        found = best(patterns, number)
        assert (found and found.text) == text
    assert best([], "12") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("_", "nothing follows"),
        ("_--", "nothing follows"),
        ("--", "dashes count nowhere"),
        ("_X.5", "end a pattern"),
        ("_X!.", "end a pattern"),
        ("_[12", "not closed"),
        ("_[[1]", "holds no ["),
        ("[12]", "needs an underscore"),
        ("_1\\2", "meaning of its own"),
        ("_1[]2", "is empty"),
        ("_[3-1]", "3-1 is backwards"),
        ("_X X", "without blanks"),
        ("_X\n", "without blanks"),
        ("_é", "ASCII"),
        ("_[1,2]", "','"),
        ("_1/2", "'/'"),
        ("_1;2", "';'"),
        ("_${EXTEN}", "'$'"),
    ],
)
def test_what_is_no_pattern_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(UsageFault) as caught:
        Pattern.of(text)
    assert repr(text) in caught.value.message
    assert why in caught.value.message


@given(text=st.text(max_size=12) | PATTERNS)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        pattern = Pattern.of(text)
    except UsageFault:
        return
    assert pattern.text == text


@given(texts=st.lists(PATTERNS | st.just("12"), max_size=8), number=NUMBERS)
def test_the_best_matches_and_no_match_comes_before_it(texts: list[str], number: str) -> None:
    patterns = [Pattern.of(text) for text in texts]
    found = best(patterns, number)
    matching = [pattern for pattern in patterns if pattern.matches(number)]
    assert (found is None) == (not matching)
    assert all(found is not None and found.key <= pattern.key for pattern in matching)


@given(text=PATTERNS, number=NUMBERS, where=st.integers(0, 8))
def test_dashes_count_nowhere(text: str, number: str, where: int) -> None:
    pattern = Pattern.of(text)
    dashed = f"{number[:where]}-{number[where:]}"
    assert pattern.matches(dashed) == pattern.matches(number)
    assert Pattern.of(f"{text[:1]}-{text[1:]}") == pattern
