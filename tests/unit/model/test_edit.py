"""Edits change the lines they must and no other byte, whatever the file looks like."""

# ruff: noqa: E501 - the table shows whole lines as they stand in the file

import difflib
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.errors import DocumentError
from voxtractl.model.edit import add_tenant, has_statements, remove_tenant, set_values

HOSTILE = """\
# top, not a tenant
  [defaults]\t# odd blanks
workers=2

#   [tenants.acme]   <- a comment, not a header
[ tenants . 'acme' ]   # Acme, contract 1
  name   =   "Acme # [x]"   # keep me
dids = [ # many
  "+265999000001", # first
  # "+265999000009",
  '+265999000002',
]
note = \"\"\"
[tenants.beta]
name = "not here"
\"\"\"
fallback = { play = "a" } # inline

# about the trunk
[tenants.acme.trunk]
host="h"
# still the trunk

# Beta, contract 2
[tenants.beta]
trunk.host = "y"
trunk.port = 5060
[tenants.acme.queues.support]
members = []

[tenants]
gamma = { name = "G", trunk = { host = "g" } }
delta.name = "D"
"""


def lines_changed(before: str, after: str) -> tuple[list[str], list[str]]:
    diff = list(difflib.ndiff(before.splitlines(keepends=True), after.splitlines(keepends=True)))
    return [d[2:] for d in diff if d.startswith("- ")], [d[2:] for d in diff if d.startswith("+ ")]


def both_ends(text: str) -> list[str]:
    return [text, text.replace("\n", "\r\n")]


SETS: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("acme", {"name": 'N"; é'}, ['  name   =   "Acme # [x]"   # keep me\n'], ['  name   =   "N\\"; é"   # keep me\n']),
    ("acme", {"max_channels": 5}, [], ["max_channels = 5\n"]),
    ("acme", {"trunk.port": 1}, [], ["port = 1\n"]),
    ("acme", {"name": None}, ['  name   =   "Acme # [x]"   # keep me\n'], []),
    ("acme", {"fallback.play": "b"}, ['fallback = { play = "a" } # inline\n'], ['fallback = { play = "b" } # inline\n']),
    ("acme", {"queues.sales.members": ["PJSIP/a"]}, [], ["\n", "[tenants.acme.queues.sales]\n", 'members = ["PJSIP/a"]\n']),
    ("acme", {"outbound.caller_ids": ["1"]}, [], ["\n", "[tenants.acme.outbound]\n", 'caller_ids = ["1"]\n']),
    (
        "acme",
        {"trunk": None},
        ["# about the trunk\n", "[tenants.acme.trunk]\n", 'host="h"\n', "# still the trunk\n", "\n"],
        [],
    ),
    ("beta", {"trunk.username": "u"}, [], ['trunk.username = "u"\n']),
    ("beta", {"trunk.port": None}, ["trunk.port = 5060\n"], []),
    ("beta", {"name": "B"}, [], ['name = "B"\n']),
    (
        "gamma",
        {"trunk.port": 9},
        ['gamma = { name = "G", trunk = { host = "g" } }\n'],
        ['gamma = { name = "G", trunk = { host = "g", port = 9 } }\n'],
    ),
    (
        "gamma",
        {"trunk.host": None, "name": "H"},
        ['gamma = { name = "G", trunk = { host = "g" } }\n'],
        ['gamma = { name = "H", trunk = {} }\n'],
    ),
    ("delta", {"name": "E"}, ['delta.name = "D"\n'], ['delta.name = "E"\n']),
    ("delta", {"app": "x"}, [], ['delta.app = "x"\n']),
]  # fmt: skip


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize(("slug", "values", "gone", "new"), SETS)
def test_setting_touches_only_its_own_lines(
    slug: str, values: dict[str, Any], gone: list[str], new: list[str], crlf: bool
) -> None:
    before = both_ends(HOSTILE)[crlf]
    after = set_values(before, slug, values)
    end = "\r\n" if crlf else "\n"
    really_gone, really_new = lines_changed(before, after)
    assert sorted(really_gone) == sorted(line.replace("\n", end) for line in gone)
    assert sorted(really_new) == sorted(line.replace("\n", end) for line in new)
    found = tomli.loads(after)["tenants"][slug]
    for dotted, value in values.items():
        *tables, key = dotted.split(".")
        table = found
        for name in tables:
            table = table.get(name, {})
        assert table.get(key) == value


def test_setting_a_list_replaces_it_whole() -> None:
    after = set_values(HOSTILE, "acme", {"dids": ["+265999000001"]})
    assert 'dids = ["+265999000001"]\nnote = """\n' in after


def test_setting_what_is_so_already_changes_nothing() -> None:
    assert set_values(HOSTILE, "beta", {"trunk.host": "y"}) == HOSTILE
    assert set_values(HOSTILE, "beta", {"trunk.codecs": None, "outbound": None}) == HOSTILE


def test_a_key_after_the_last_line_without_end_gets_its_own_line() -> None:
    assert set_values('[tenants.a]\nname = "x"', "a", {"app": "y"}) == '[tenants.a]\nname = "x"\napp = "y"\n'


def test_a_new_key_stands_above_the_comment_of_the_next_tenant() -> None:
    before = '[tenants.a]\nname = "x"\n\n# Beta\n[tenants.b]\n'
    assert set_values(before, "a", {"app": "y"}) == (
        '[tenants.a]\nname = "x"\napp = "y"\n\n# Beta\n[tenants.b]\n'
    )


def test_a_key_of_a_tenant_without_own_header_gets_one() -> None:
    after = set_values("[tenants.a.trunk]\nhost = 'h'\n", "a", {"name": "x"})
    assert after == "[tenants.a.trunk]\nhost = 'h'\n\n[tenants.a]\nname = \"x\"\n"


@pytest.mark.parametrize("crlf", [False, True])
def test_removing_a_tenant_cuts_its_sections_wherever_they_are(crlf: bool) -> None:
    before = both_ends(HOSTILE)[crlf]
    after = remove_tenant(before, "acme")
    gone, new = lines_changed(before, after)
    assert new == []
    kept = "".join(line for line in before.splitlines(keepends=True) if line not in gone)
    assert "contract 2" in kept
    assert "# top, not a tenant" in kept
    assert "acme" not in tomli.loads(after)["tenants"]
    assert tomli.loads(after)["tenants"]["beta"] == tomli.loads(before)["tenants"]["beta"]


@pytest.mark.parametrize("slug", ["gamma", "delta"])
def test_removing_a_tenant_of_one_line_cuts_that_line(slug: str) -> None:
    gone, new = lines_changed(HOSTILE, remove_tenant(HOSTILE, slug))
    assert new == []
    assert [line.split()[0].split(".")[0] for line in gone] == [slug]


def test_removing_the_tenant_between_two_leaves_one_gap() -> None:
    before = "[tenants.a]\n\n# B\n[tenants.b]\n\n[tenants.c]\n"
    assert remove_tenant(before, "b") == "[tenants.a]\n\n[tenants.c]\n"
    assert remove_tenant(before, "c") == "[tenants.a]\n\n# B\n[tenants.b]\n"
    assert remove_tenant("[tenants.a]\n", "a") == ""


def test_a_comment_above_the_next_header_stays_when_the_last_key_is_cut() -> None:
    before = "[tenants.a]\nx = 1\n# about b\n[tenants.b]\n"
    assert remove_tenant(before, "a") == "# about b\n[tenants.b]\n"


VALUES = {
    "name": 'Acme; "x" \\ é',
    "dids": ["+265999000001"],
    "fallback": {"play": "vm-goodbye"},
    "trunk": {"host": "h", "register": False},
    "queues": {"support": {"members": ["PJSIP/a"]}, "sales": {}},
}


@pytest.mark.parametrize(
    ("before", "joint"), [("", ""), ("x = 1", "\n\n"), ("x = 1\n", "\n"), ("x = 1\n\n", ""), ("# c\n", "\n")]
)
def test_a_new_tenant_stands_at_the_end_and_the_rest_is_untouched(before: str, joint: str) -> None:
    after = add_tenant(before, "acme", VALUES)
    assert after == before + joint + (
        "[tenants.acme]\n"
        'name = "Acme; \\"x\\" \\\\ é"\n'
        'dids = ["+265999000001"]\n'
        'fallback = { play = "vm-goodbye" }\n'
        "\n"
        "[tenants.acme.trunk]\n"
        'host = "h"\n'
        "register = false\n"
        "\n"
        "[tenants.acme.queues.support]\n"
        'members = ["PJSIP/a"]\n'
        "\n"
        "[tenants.acme.queues.sales]\n"
    )


def test_a_new_tenant_in_a_file_with_crlf_has_crlf() -> None:
    after = add_tenant(HOSTILE.replace("\n", "\r\n"), "zeta", VALUES)
    assert after.count("\n") == after.count("\r\n")
    assert tomli.loads(after)["tenants"]["zeta"] == VALUES


def test_a_tenant_without_values_is_its_header() -> None:
    assert add_tenant("", "acme", {}) == "[tenants.acme]\n"


@pytest.mark.parametrize(
    ("text", "slug"), [("tenants = { a = {} }\n", "b"), ("tenants.a = 1\n[nodes]\n", "a"), (HOSTILE, "acme")]
)
def test_what_cannot_be_added_safely_is_refused(text: str, slug: str) -> None:
    with pytest.raises(DocumentError, match="without touching other lines") as caught:
        add_tenant(text, slug, {"name": "x"}, file="tenants.toml")
    assert caught.value.where == "tenants.toml"
    assert "nothing was written" in (caught.value.hint or "")


def test_whether_a_text_says_anything() -> None:
    assert not has_statements("# only\n\n   # comments")
    assert has_statements("# a\n[tenants.a]")


PIECES = st.sampled_from(
    [
        "[tenants.acme]\n",
        "[tenants.acme.trunk]\n",
        "[tenants.acme.queues.q]\n",
        "[tenants.beta]\n",
        "[tenants.beta.trunk]\n",
        "[tenants]\n",
        "[nodes.n]\n",
        "name = 'x' # c\n",
        "  host = 'h'\n",
        "trunk.port = 1\n",
        "trunk = { host = 'h' }\n",
        "acme = { name = 'x' }\n",
        "acme.name = 'y'\n",
        "members = [ # c\n 'a',\n]\n",
        "# comment\n",
        "\n",
        "note = '''\n[tenants.acme]\n'''\n",
    ]
)
KEYS = st.sampled_from(
    ["name", "app", "trunk.host", "trunk.port", "queues.q.members", "trunk", "queues.r.timeout"]
)
NEW: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.text(max_size=8), st.integers(0, 9), st.lists(st.text(max_size=3))
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    text = ""
    for piece in draw(st.lists(PIECES, max_size=14)):
        try:
            tomli.loads(text + piece)
        except tomli.TOMLDecodeError:
            continue
        text += piece
    return draw(st.sampled_from([text, text.rstrip("\n"), text.replace("\n", "\r\n")]))


def without(value: dict[str, Any], slug: str) -> dict[str, Any]:
    tenants = {k: v for k, v in value.get("tenants", {}).items() if k != slug}
    rest = {k: v for k, v in value.items() if k != "tenants"}
    return rest | ({"tenants": tenants} if tenants else {})


def is_subsequence(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(line in rest for line in few)


@given(texts(), KEYS, NEW)
def test_an_edit_is_exact_or_refused(text: str, key: str, value: Any) -> None:
    before = tomli.loads(text)
    if not isinstance(before.get("tenants", {}).get("acme"), dict) or (key == "trunk" and value is not None):
        return
    try:
        after = set_values(text, "acme", {key: value})
    except DocumentError:
        return
    found = tomli.loads(after)
    assert without(found, "acme") == without(before, "acme")
    table: Any = found.get("tenants", {}).get("acme", {})
    for part in key.split("."):
        table = table.get(part) if isinstance(table, dict) else None
    assert table == value
    foreign = [line for line in text.splitlines() if "beta" in line or "nodes" in line]
    assert is_subsequence(foreign, after.splitlines())
    if text.endswith("\n") and "\r\n" in text:
        assert after.count("\n") == after.count("\r\n") or isinstance(value, str)


@given(texts())
def test_a_removal_only_removes_lines(text: str) -> None:
    before = tomli.loads(text)
    if "acme" not in before.get("tenants", {}):
        return
    after = remove_tenant(text, "acme")
    assert "acme" not in tomli.loads(after).get("tenants", {})
    assert without(tomli.loads(after), "acme") == without(before, "acme")
    assert is_subsequence(after.splitlines(), text.splitlines())
