"""The diff a person reads: exact, short, and without secrets."""

import difflib

from hypothesis import given
from hypothesis import strategies as st

from voxtractl.deploy.difference import masked, unified

LINES = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=40)


@given(before=LINES, after=LINES)
def test_it_tells_the_same_as_a_plain_unified_diff(before: list[str], after: list[str]) -> None:
    old, new = "\n".join(before).encode(), "\n".join(after).encode()
    shown = list(unified("f", old, new))
    plain = list(difflib.unified_diff(before, after, lineterm=""))
    removed = [line for line in shown[2:] if line.startswith("-")]
    added = [line for line in shown[2:] if line.startswith("+")]
    assert len(removed) - len(added) == len(before) - len(after)
    assert bool(shown) == bool(plain)


@given(before=LINES, after=LINES)
def test_its_line_numbers_are_those_of_the_whole_file(before: list[str], after: list[str]) -> None:
    old, new = "\n".join(before).encode(), "\n".join(after).encode()
    number = 0
    for line in list(unified("f", old, new))[2:]:
        if line.startswith("@@"):
            number = int(line.split()[1].lstrip("-").partition(",")[0]) - 1
        elif line[0] in "- ":
            assert before[number] == line[1:]
            number += 1


def test_a_changed_password_shows_as_changed_but_not_what_it_is() -> None:
    shown = "\n".join(
        unified("pjsip/acme.conf", b"[a]\npassword=canary-one\n", b"[a]\npassword=canary-two\n")
    )
    assert "-password=****" in shown
    assert "+password=****" in shown
    assert "canary" not in shown


def test_secrets_are_masked_however_the_option_is_written() -> None:
    assert "canary" not in masked("password = canary\n password=>canary\nmd5_cred=canary\n")


def test_a_new_file_comes_from_nowhere() -> None:
    assert next(unified("f", b"", b"a\n")) == "--- /dev/null"
