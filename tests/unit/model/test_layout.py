"""The scanner against tomli: what tomli knows, the scanner finds at the right text."""

from collections.abc import Iterator
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.model.keys import Key, spell
from voxtractl.model.layout import line_col, scan

# name → how it may be written
NAMES = {
    "a": ["a", '"a"', "'a'", '"\\u0061"'],
    "b-1": ["b-1", '"b-1"'],
    "c_2": ["c_2"],
    "3": ["3"],
    "tenants": ["tenants", "'tenants'"],
    "x y": ['"x y"', "'x y'"],
    "]": ['"]"', "']'"],
    "#": ['"#"', "'#'"],
    "k=v": ['"k=v"', "'k=v'"],
    'q"': ['"q\\""', "'q\"'"],
    "é": ['"é"', '"\\u00e9"'],
    "": ['""', "''"],
    "p.q": ['"p.q"', "'p.q'"],
}
SCALARS = [
    "1",
    "-1_000",
    "0xff",
    "2.5e3",
    "+inf",
    "true",
    "1979-05-27",
    "1979-05-27 07:32:00",
    "1979-05-27T07:32:00.5+01:00",
    '""',
    '"x"',
    '"[ ] { } , # = \\" \\\\"',
    "''",
    "'] # , \\'",
    '"""a"""',
    '"""\nline ] # one\n"" two "\\"""" """',
    '"""x"""""',
    "'''\n ' '' ] #\n'''",
    "'''x'''''",
]
BLANKS = ["", " ", "\t ", "  "]
GAPS = ["", " ", "\n", " # c ] } , \n", "\n\t# '\"\n "]


@st.composite
def key_text(draw: st.DrawFn) -> str:
    """A dotted key."""
    forms = [form for written in NAMES.values() for form in written]
    parts: list[str] = draw(st.lists(st.sampled_from(forms), min_size=1, max_size=3))
    return draw(st.sampled_from([".", " . ", "\t."])).join(parts)


def values(depth: int) -> st.SearchStrategy[str]:
    scalar = st.sampled_from(SCALARS)
    if depth == 0:
        return scalar
    gap = st.sampled_from(GAPS)
    inner = values(depth - 1)

    @st.composite
    def array(draw: st.DrawFn) -> str:
        members = [draw(gap) + draw(inner) + draw(gap) for _ in range(draw(st.integers(0, 3)))]
        comma = draw(st.sampled_from(["", ","])) if members else ""
        return "[" + ",".join(members) + comma + draw(gap) + "]"

    @st.composite
    def inline(draw: st.DrawFn) -> str:
        blank = st.sampled_from(BLANKS)
        members = [
            f"{draw(gap)}{draw(key_text())}{draw(blank)}={draw(blank)}{draw(inner)}{draw(gap)}"
            for _ in range(draw(st.integers(0, 3)))
        ]
        return "{" + ",".join(members) + "}"

    return st.one_of(scalar, array(), inline())


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A document that TOML accepts: statements that do not fit are left out again."""
    blank = st.sampled_from(BLANKS)
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = ""
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["=", "=", "=", "[", "[["]))
        key = draw(key_text())
        if kind == "=":
            line = f"{draw(blank)}{key}{draw(blank)}={draw(blank)}{draw(values(2))}{draw(blank)}"
        elif kind == "[":
            line = f"{draw(blank)}[{draw(blank)}{key}{draw(blank)}]{draw(blank)}"
        else:
            line = f"{draw(blank)}[[{draw(blank)}{key}{draw(blank)}]]"
        line += (
            draw(st.sampled_from(["", "# c [a] = 1"])) + end + draw(st.sampled_from(["", end, f" # c{end}"]))
        )
        try:
            tomli.loads(text + line)
        except tomli.TOMLDecodeError:
            continue
        text += line
    return draw(st.sampled_from([text, text.rstrip("\r\n")]))


def flat(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    if key:
        yield key, value
    members: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, member in members:
        yield from flat(member, (*key, name))


@given(documents())
def test_every_key_stands_where_the_scanner_says(text: str) -> None:
    layout = scan(text)
    known = dict(flat(tomli.loads(text)))
    assert set(layout.places) == set(known)
    for key, offset in layout.places.items():
        name = next(part for part in reversed(key) if isinstance(part, str))
        if key not in layout.values or isinstance(key[-1], str):
            assert any(text.startswith(form, offset) for form in NAMES[name])
    for key, (start, end) in layout.values.items():
        assert tomli.loads(f"v = {text[start:end]}")["v"] == known[key]


@given(documents())
def test_every_value_that_is_not_a_section_has_its_span(text: str) -> None:
    layout = scan(text)
    for key, value in flat(tomli.loads(text)):
        if not isinstance(value, (dict, list)):
            assert key in layout.values


@given(documents())
def test_statements_are_whole_lines_in_order_and_say_everything(text: str) -> None:
    statements = scan(text).statements
    pos = 0
    for statement in statements:
        between = text[pos : statement.start]
        assert all(not line.strip() or line.strip().startswith("#") for line in between.splitlines())
        assert statement.start == 0 or text[statement.start - 1] == "\n"
        assert statement.end == len(text) or text[statement.end - 1] == "\n"
        pos = statement.end
    only = "".join(text[s.start : s.end] for s in statements)
    assert tomli.loads(only) == tomli.loads(text)


def test_a_table_is_found_at_its_own_header_not_at_a_longer_one() -> None:
    text = "[tenants.acme.trunk]\nhost = 1\n[tenants.acme]\nname = 2\n"
    assert line_col(text, scan(text).places["tenants", "acme"]) == (3, 10)


def test_line_and_column_count_from_one_in_characters() -> None:
    text = 'a = "é"\r\nb = [\r\n  "é", "x",\r\n]'
    assert line_col(text, scan(text).places["b", 1]) == (3, 8)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (("tenants", "acme", "dids", 0), "tenants.acme.dids[0]"),
        (("nodes", "pbx1.example", "ari"), 'nodes."pbx1.example".ari'),
        (("a\nb", 'c"'), '"a\\u000Ab"."c\\""'),
    ],
)
def test_a_key_is_spelled_on_one_line(key: Key, text: str) -> None:
    assert spell(key) == text
