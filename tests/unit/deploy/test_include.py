"""The include lines, byte for byte. What Asterisk makes of them is asked in tests/live/test_node.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.deploy.include import has_lines, with_lines, without_lines

OWN = b"[general]\nstatic = yes\n\n[office]\nexten => 100,1,NoOp()\n"

# Lines an operator's file may hold, ends of every kind, and bytes that are no UTF-8.
OPERATORS = [b"[general]", b"exten => 1,1,NoOp()", b"; a word", b"", b" ", b";--", b"#include other.conf"]
ODD = [b"caf\xe9 = \xff\x00", b"\r", b"voxtractl = 1", b"#include voxtractl/current/extensions.conf"]
LINES = st.sampled_from([*OPERATORS, *ODD])
TEXTS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n"]))).map(
    lambda lines: b"".join(line + end for line, end in lines)
)
LAST = st.sampled_from([b"", b"; no line end", b"last = \xff", b"a\r"])


def add(text: bytes) -> bytes:
    return with_lines(text, "extensions", "voxtractl")


def state(text: bytes) -> str:
    return has_lines(text, "extensions", "voxtractl")


@given(TEXTS, LAST)
def test_what_is_added_is_found_and_comes_out_byte_for_byte(text: bytes, last: bytes) -> None:
    text += last
    added = add(text)
    assert state(added) == "present"
    assert add(added) == added
    assert added.startswith(text)
    assert without_lines(added) == text


@given(TEXTS, LAST, st.data())
def test_a_block_with_a_line_gone_is_seen_and_healed(text: bytes, last: bytes, data: st.DataObject) -> None:
    lines = add(text + last).split(b"\n")
    block = [
        i for i, line in enumerate(lines) if b"voxtractl-loaded" in line or b">>> " in line or b"<<< " in line
    ]
    lines.pop(data.draw(st.sampled_from(block)))
    half = b"\n".join(lines)
    assert state(half) == "altered"
    assert state(add(half)) == "present"
    assert state(without_lines(half)) == "absent"


def test_the_block_is_the_end_of_the_file() -> None:
    added = add(OWN)
    assert added.startswith(OWN)
    lines = added.removeprefix(OWN).splitlines()
    assert lines[0].startswith(b";")
    assert lines[1:3] == [b"#include voxtractl/current/extensions.conf", b"[voxtractl-loaded](voxtractl-end)"]
    assert lines[3].startswith(b";")
    assert len(lines) == 4


def test_the_line_ends_of_the_file_are_kept() -> None:
    assert add(b"[a]\r\nb = c\r\n").count(b"\r\n") == add(b"[a]\r\nb = c\r\n").count(b"\n") == 6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"#include voxtractl/current/", b";#include voxtractl/current/"),
        (b"[voxtractl-loaded](voxtractl-end)", b"[voxtractl-loaded]"),
        (b"voxtractl/current/extensions.conf", b"elsewhere/current/extensions.conf"),
        (b"voxtractl/current/extensions.conf", b"voxtractl/current/queues.conf"),
        (b"[voxtractl-loaded]", b"[mine]\n[voxtractl-loaded]"),
    ],
    ids=["commented out", "without its demand", "another store", "another kind", "a line in between"],
)
def test_a_hand_edit_is_seen_and_healed_without_losing_foreign_lines(old: bytes, new: bytes) -> None:
    edited = add(OWN).replace(old, new)
    assert state(edited) == "altered"
    healed = add(edited)
    assert state(healed) == "present"
    assert without_lines(healed) == OWN + (b"[mine]\n" if b"[mine]" in new else b"")


def test_a_line_below_that_would_fall_into_our_section_is_seen_and_moved_above() -> None:
    edited = add(OWN) + b"exten => 200,1,NoOp()\n"
    assert state(edited) == "altered"
    assert add(edited) == add(OWN + b"exten => 200,1,NoOp()\n")


def test_a_section_of_the_operator_below_is_left_there() -> None:
    edited = add(OWN) + b"\n; more\n[mine]\nexten => 200,1,NoOp()\n"
    assert state(edited) == "present"
    assert add(edited) == edited
    assert without_lines(edited) == OWN + b"\n; more\n[mine]\nexten => 200,1,NoOp()\n"


def test_two_blocks_become_one() -> None:
    twice = add(OWN) + add(b"")
    assert state(twice) == "altered"
    assert add(twice) == add(OWN)


def test_lines_that_only_look_alike_are_left_alone() -> None:
    text = b"; voxtractl was here\n#include voxtractl/current/extensions.conf\n[voxtractl-mine]\n"
    assert state(text) == "absent"
    assert without_lines(text) == text
