"""The reader on texts whose meaning Asterisk has told (tests/live compares it with Asterisk line by line)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.dialplan import syntax
from voxtractl.dialplan.syntax import Directive, Entry, Fault, Section, Step

STANZA = """\
[from-trunk]
exten => +265999000001,1(v-3f9c01d2a7b4),NoOp(Inbound for acme)
 same => n,Stasis(voxtra-acme,${EXTEN})
 same => n(done),Hangup()
exten => 265999000001,1,Goto(+265999000001,1)
"""


def steps_of(text: str) -> tuple[list[Step], list[Fault]]:
    faults: list[Fault] = []
    found = [step for section in syntax.read(text).sections for step in syntax.steps(section, faults)]
    return found, faults


def test_a_stanza_becomes_numbered_steps() -> None:
    assert steps_of(STANZA) == (
        [
            Step("+265999000001", 1, "v-3f9c01d2a7b4", "NoOp", "Inbound for acme", 2),
            Step("+265999000001", 2, "", "Stasis", "voxtra-acme,${EXTEN}", 3),
            Step("+265999000001", 3, "done", "Hangup", "", 4),
            Step("265999000001", 1, "", "Goto", "+265999000001,1", 5),
        ],
        [],
    )


def test_priorities_are_counted_as_asterisk_counts_them() -> None:
    text = "[a]\nexten => 1,5,A()\n same => n+2,B\n same => s,C()\n same => 9+1(x),D()\nexten => 1,hint,X/a\n"
    assert [(s.priority, s.label, s.app) for s in steps_of(text)[0]] == [
        (5, "", "A"),
        (8, "", "B"),
        (8, "", "C"),
        (10, "x", "D"),
        (0, "", ""),
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("exten => 1", "an extension without a priority"),
        ("same => n,A()", "same without an extension above it"),
        ("exten => 1,x,A()", "'x' is not a priority"),
        ("exten => 1,1", "a priority without an application"),
        ("exten => 1,1,A(b", "an application without its closing )"),
    ],
)
def test_a_line_that_makes_no_step_is_told(line: str, what: str) -> None:
    _, faults = steps_of(f"[a]\n{line}\n")
    assert [(f.line, f.what) for f in faults] == [(2, what)]


@pytest.mark.parametrize(
    ("header", "name", "options"),
    [
        ("[a]", "a", ()),
        ("[a](!)", "a", ("!",)),
        ("[a](+)", "a", ("+",)),
        ("[a](!,b, c)", "a", ("!", "b", "c")),
        ("  [a] ; why", "a", ()),
        ("[a]()", "a", ("",)),
    ],
)
def test_a_section_has_a_name_and_options(header: str, name: str, options: tuple[str, ...]) -> None:
    parsed = syntax.read(f"{header}\n")
    assert parsed == syntax.Text([Section(name, options, 1, [])], [], [])
    assert parsed.sections[0].template == ("!" in options)


def test_directives_are_found_wherever_they_stand() -> None:
    text = '#include "a.conf"\n[a]\n #exec id\n#tryinclude x/*.conf\n'
    assert syntax.read(text).directives == [
        Directive("include", "a.conf", 1),
        Directive("exec", "id", 3),
        Directive("tryinclude", "x/*.conf", 4),
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("[a\n", 1, "a section header that does not close"),
        ("[a]\nb\n", 2, "a line without ="),
        ("a = b\n", 1, "a line before the first section"),
        ("[a] b = c\n", 1, "text after a section header"),
        ("[a]\n\n;-- never\n", 3, "a block comment that never ends"),
        ("[a]\nb = c--;\n", 2, "a --; that closes nothing hides all that follows"),
    ],
)
def test_what_asterisk_would_skip_is_a_fault_with_its_line(text: str, line: int, what: str) -> None:
    assert [(f.line, f.what) for f in syntax.read(text).faults] == [(line, what)]


# What Asterisk 22.10 gave back for these lines through AST_CONFIG.
@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("pa;ss", "pa"),
        (r"pa\;ss", "pa;ss"),
        (r"a\\;b", r"a\;b"),
        (r"a\;--b", "a;--b"),
        ("a;---b", "a"),
        ("a;--b--;c", "ac"),
        ("a ; b ;-- c", "a"),
        ("x--;", "x--;"),
    ],
)
def test_comments_are_cut_as_asterisk_cuts_them(line: str, value: str) -> None:
    assert syntax.read(f"[a]\nk = {line}\n").sections[0].entries[0] == Entry("k", value, 2)


def test_a_block_comment_hides_lines_until_it_ends() -> None:
    text = "[a]\nb = 1 ;-- c\nd = 2 ; x\n;-- e --;\nf = 3 --; g = 4\n"
    assert [(e.key, e.value) for e in syntax.read(text).sections[0].entries] == [("b", "1"), ("g", "4")]


def test_a_dash_does_not_count_in_an_extension_but_in_a_class_of_a_pattern() -> None:
    assert syntax.exten_key("acme-support") == "acmesupport"
    assert syntax.exten_key("_[0-9]!") == "_[0-9]!"


WORD = st.text(st.sampled_from("ab+12;-\\=>[](){}$,. é"), min_size=1, max_size=12).filter(
    lambda text: text == text.strip() and not text.startswith(">")
)
KEY = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
SECTION = st.builds(
    lambda name, options, entries: Section(name, tuple(options), 0, [Entry(k, v, 0) for k, v in entries]),
    st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True),
    st.lists(st.sampled_from(["!", "+", "base"]), max_size=2),
    st.lists(st.tuples(KEY, WORD), max_size=4),
)


@given(st.lists(SECTION, max_size=4))
def test_what_is_written_is_read_back(sections: list[Section]) -> None:
    parsed = syntax.read(syntax.write(sections))
    assert parsed.faults == []
    read = [s._replace(line=0, entries=[e._replace(line=0) for e in s.entries]) for s in parsed.sections]
    assert read == sections


@given(st.text(st.sampled_from(list("[]()!+=>;-\\\n\r #aexten,same1n\0é"))) | st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    parsed = syntax.read(text)
    for section in parsed.sections:
        for step in syntax.steps(section, []):
            assert 1 <= step.line <= text.count("\n") + 1
