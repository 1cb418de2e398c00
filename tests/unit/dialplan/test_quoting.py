"""The escaper by its own promises. That Asterisk gives the values back is proven in tests/live."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.dialplan import quoting, syntax
from voxtractl.errors import UnsafeValue

CANARY = "canary-7f3a\n"


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\x85b", "a\u2028b", "a\u2029b", "a\x7fb", "\ud800"]
)
@pytest.mark.parametrize("rule", sorted(quoting.FILTERS))
def test_no_position_takes_a_line_break_or_a_control_character(rule: str, text: str) -> None:
    with pytest.raises(UnsafeValue):
        quoting.FILTERS[rule](text, "trunk.password")


@pytest.mark.parametrize("rule", sorted(quoting.FILTERS))
def test_a_refusal_names_the_key_and_never_the_value(rule: str) -> None:
    with pytest.raises(UnsafeValue) as caught:
        quoting.FILTERS[rule](CANARY, "trunk.password")
    told = f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.details}"
    assert "trunk.password" in told
    assert CANARY.strip() not in told


@pytest.mark.parametrize("rule", sorted(quoting.FILTERS))
@pytest.mark.parametrize("given_value", [None, True, 1.5, ["a"], b"a"])
def test_what_is_not_a_text_is_refused(rule: str, given_value: object) -> None:
    with pytest.raises(UnsafeValue, match="not a text"):
        quoting.FILTERS[rule](given_value)


def test_a_number_is_a_text() -> None:
    assert quoting.value(5060) == "5060"


@pytest.mark.parametrize("rule", ["value", "arg", "assign", "sip_user", "comment", "member"])
def test_ten_kilobytes_are_refused_before_asterisk_skips_the_line(rule: str) -> None:
    with pytest.raises(UnsafeValue, match="longer than"):
        quoting.FILTERS[rule]("x y" * 4000)
    with pytest.raises(UnsafeValue, match="longer than"):
        quoting.arg('"' * 1000)


@pytest.mark.parametrize("text", ["", " a", "a ", "\ta", "a\t"])
def test_a_value_that_asterisk_would_strip_is_refused(text: str) -> None:
    with pytest.raises(UnsafeValue, match="edge"):
        quoting.value(text)


@given(st.text())
def test_a_value_is_refused_or_read_back_exactly(text: str) -> None:
    try:
        written = quoting.value(text)
    except UnsafeValue:
        return
    parsed = syntax.read(f"[a]\nkey = {written}\nnext = 1\n")
    assert parsed.faults == []
    assert [(e.key, e.value) for e in parsed.sections[0].entries] == [("key", text), ("next", "1")]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)) | st.text())
def test_an_argument_is_refused_or_holds_nothing_that_asterisk_acts_on(text: str) -> None:
    try:
        written = quoting.arg(text)
    except UnsafeValue:
        return
    encoded = re.fullmatch(r"\$\{URIDECODE\(([A-Za-z0-9%_.~-]*)\)\}", written)
    if encoded:
        assert re.sub(r"\\(.)", r"\1", unquote(encoded[1])) == text
    else:
        assert written == text
        assert not set(text) & set("$,;\\\"()[]{}'%\t")


@given(st.text(min_size=1))
def test_an_assigned_value_is_refused_or_percent_encoded(text: str) -> None:
    try:
        written = quoting.assign(text)
    except UnsafeValue:
        return
    encoded = re.fullmatch(r"\$\{URIDECODE\(([A-Za-z0-9%_.~-]*)\)\}", written)
    assert encoded
    assert unquote(encoded[1]) == text


@pytest.mark.parametrize(
    "text", ["h", "i", "s", "t", "T", "a", "e", "o", "fax", "failed", "_X.", "", "a b", "a,b"]
)
def test_an_extension_is_never_a_handler_nor_a_pattern(text: str) -> None:
    with pytest.raises(UnsafeValue, match="cannot be an extension"):
        quoting.exten(text)


@pytest.mark.parametrize("text", ["+265999000001", "1000", "*97", "#1", "support", "acme-support", "a_b.c"])
def test_a_plain_extension_stays_as_it_is(text: str) -> None:
    assert quoting.exten(text) == text


@pytest.mark.parametrize(
    ("text", "pattern"), [("+265", "_+265!"), ("00", "_00!"), ("+", "_+!"), ("", "_[+0-9]!")]
)
def test_a_prefix_becomes_the_pattern_of_all_numbers_below_it(text: str, pattern: str) -> None:
    assert quoting.prefix(text) == pattern


@pytest.mark.parametrize("text", ["X", "+26N", "2.", "2!", "[1-9]", "+٣", "1 2"])
def test_a_prefix_holds_digits_only(text: str) -> None:
    with pytest.raises(UnsafeValue, match="prefix"):
        quoting.prefix(text)


@pytest.mark.parametrize("text", ["a b", "a]", "[a", "a;b", "a/b", "-a", "", "a" * 80])
def test_a_name_fits_into_brackets(text: str) -> None:
    with pytest.raises(UnsafeValue, match="name"):
        quoting.name(text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("sip.carrier.example", "sip.carrier.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
    ],
)
def test_a_host_is_written_as_a_uri_has_it(text: str, written: str) -> None:
    assert quoting.host(text) == written


@pytest.mark.parametrize("text", ["a b", "a;transport=tls", "a@b", "a:5060", "", "é", "fe80::1%eth0"])
def test_a_host_is_nothing_else(text: str) -> None:
    with pytest.raises(UnsafeValue, match="host"):
        quoting.host(text)


def test_a_sip_user_cannot_leave_its_place() -> None:
    assert quoting.sip_user("ac me@x;y/z") == "ac%20me%40x%3By%2Fz"
    with pytest.raises(UnsafeValue, match="empty"):
        quoting.sip_user("")


def test_a_member_is_one_interface() -> None:
    assert quoting.member("PJSIP/agent1") == "PJSIP/agent1"
    with pytest.raises(UnsafeValue, match="comma"):
        quoting.member("PJSIP/a,1")


@pytest.mark.parametrize("text", ["a ;-- b", "a --; b", "a\tb", "a\nb"])
def test_a_comment_neither_opens_nor_closes_a_block(text: str) -> None:
    with pytest.raises(UnsafeValue):
        quoting.comment(text)
    assert quoting.comment("Acme Ltd; Malawi") == "Acme Ltd; Malawi"
