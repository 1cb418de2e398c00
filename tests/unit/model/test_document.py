"""What the document may say, and what every error says: place, path, what is wrong, what to do."""

# ruff: noqa: E501 - the tables show every error as the operator sees it, on one line

import subprocess
import sys
from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.errors import FleetError, Reason
from voxtractl.model import document
from voxtractl.model.document import Source, parse, place
from voxtractl.model.fleet import Fleet
from voxtractl.model.tenant import Fallback, Queue
from voxtractl.settings import SecretRef

EXAMPLE = Path("tenants.example.toml")
NODE = """\
[nodes.pbx1]
ari = "http://127.0.0.1:8088"
ari_user = "voxtractl"
ari_password_env = "PBX1"
store = "memory:pbx1"
"""
CANARY = "c4n4ry-S3cret"


def fleet_of(*texts: str) -> Fleet:
    names = ["tenants.toml", *(f"tenants.d/{i}.toml" for i in range(1, len(texts)))]
    return parse([Source(name, text) for name, text in zip(names, texts, strict=True)])


def errors_of(*texts: str) -> list[str]:
    with pytest.raises(FleetError) as caught:
        fleet_of(*texts)
    assert caught.value.exit_code == 3
    assert list(caught.value.reasons) == sorted(caught.value.reasons)
    return [str(reason) for reason in caught.value.reasons]


def tenant(body: str, slug: str = "acme") -> str:
    return f"[tenants.{slug}]\n{body}\n"


def test_the_example_is_a_valid_document_and_holds_no_password() -> None:
    fleet = parse([Source(str(EXAMPLE), EXAMPLE.read_text(encoding="utf-8"))])
    assert list(fleet.tenants) == ["acme", "beta"]
    acme = fleet.tenants["acme"]
    assert acme.app == "voxtra-acme"
    assert acme.dids == ("+265999000001", "+265999000002")
    assert acme.fallback == Fallback("queue", "support")
    assert acme.queues == (
        Queue(name="support", members=("PJSIP/agent1", "PJSIP/agent2"), strategy="rrmemory", timeout=20),
    )
    assert acme.trunk is not None
    assert acme.trunk.password == SecretRef(
        "file", ("secrets/acme.trunk",), "tenants.acme.trunk.password_file"
    )
    assert fleet.nodes["pbx1"].store == "local:/etc/asterisk/voxtractl"
    assert fleet.owners["+265999000003"] == "beta"


def test_an_empty_document_is_an_empty_fleet() -> None:
    fleet = fleet_of("")
    assert (fleet.tenants, fleet.nodes, fleet.defaults.trunk_context) == ({}, {}, "from-trunk")


def test_a_tenant_with_nothing_said_has_its_slug_as_name_and_the_usual_app() -> None:
    beta = fleet_of(tenant("", "beta")).tenants["beta"]
    assert (beta.name, beta.app, beta.dids, beta.file) == ("beta", "voxtra-beta", (), "tenants.toml")


def test_tenants_of_the_folder_follow_those_of_the_document() -> None:
    fleet = fleet_of(tenant("", "b"), tenant("", "a"), tenant("", "c"))
    assert [(t.slug, t.file) for t in fleet.tenants.values()] == [
        ("b", "tenants.toml"),
        ("a", "tenants.d/1.toml"),
        ("c", "tenants.d/2.toml"),
    ]


def test_shared_apps_put_every_tenant_into_one_app_unless_it_has_its_own() -> None:
    fleet = fleet_of('[defaults]\napps = "shared"\n' + tenant("", "a") + tenant('app = "own"', "b"))
    assert [t.app for t in fleet.tenants.values()] == ["voxtra", "own"]


def test_the_ari_address_loses_a_closing_slash_only() -> None:
    fleet = fleet_of(NODE.replace(":8088", ":8088/asterisk/"))
    assert fleet.nodes["pbx1"].ari == "http://127.0.0.1:8088/asterisk"


# (the line in error below `[tenants.acme]`, the error from its column on)
WRONG = [
    ('didz = ["+265999000001"]', "1: tenants.acme.didz: unknown key; did you mean dids?"),
    ("zzz = 1", "1: tenants.acme.zzz: unknown key; known keys: app, dids, extensions, fallback, handler, "
                "max_channels, max_media_legs, name, nodes, outbound, queues, templates, trunk"),
    ('dids = ["+1234567", "0999"]', '21: tenants.acme.dids[1]: "0999" is not a number in E.164 form; '
                                    "write + and country code, digits only, like +265999000001"),
    ("dids = [265999000001]", "9: tenants.acme.dids[0]: this is a number, not text; put it in quotes"),
    ('dids = "+265999000001"', '1: tenants.acme.dids: this is text, not a list; put it into brackets: ["…"]'),
    ('dids = ["+265999٠٠٠٠٠١"]', '9: tenants.acme.dids[0]: "+265999٠٠٠٠٠١" is not a number in E.164 form; '
                                 "write + and country code, digits only, like +265999000001"),
    ('dids = ["+1234567", "+1234567"]', '21: tenants.acme.dids[1]: "+1234567" stands twice in this list; '
                                        "remove one of the two"),
    ('extensions = ["_X."]', '15: tenants.acme.extensions[0]: "_X." is not an internal extension; '
                             "use up to 15 of 0-9 * #"),
    ('name = ""', "1: tenants.acme.name: this is empty, or begins or ends with a blank; "
                  "write the name without edge blanks"),
    ('name = "a\\nb"', "1: tenants.acme.name: it holds the control character U+000A; remove that character"),
    ('name = "a\\u2028b"', "1: tenants.acme.name: it holds the control character U+2028; remove that character"),
    ('name = "a\\u202Eb"', "1: tenants.acme.name: it holds the control character U+202E; remove that character"),
    ("max_channels = 0", "1: tenants.acme.max_channels: the number is not from 1 to 1000000; correct the number"),
    ("max_channels = true", "1: tenants.acme.max_channels: this is true or false, not a whole number; "
                            "write a number from 1 to 1000000"),
    ('handler = "handlers/acme.py"', "1: tenants.acme.handler: this is not a handler; "
                                     "write file and name of the app in it: handlers/acme.py:app"),
    ('app = "a b"', '1: tenants.acme.app: "a b" is not the name of a Stasis app; '
                    "use letters, digits, dot, hyphen and underscore"),
    ("fallback = {}", "1: tenants.acme.fallback: a fallback is exactly one of play, dial and queue; "
                      'write { play = "vm-goodbye" }'),
    ('fallback = { play = "a", queue = "b" }', "1: tenants.acme.fallback: a fallback is exactly one of play, "
                                               'dial and queue; write { play = "vm-goodbye" }'),
    ('fallback = { play = "${SHELL(id)}" }', "14: tenants.acme.fallback.play: this is not the name of a sound; "
        "write it as Asterisk knows it, without ending: vm-goodbye; letters, digits and _ / & . : - only"),
    ('fallback = { queue = "x" }', "14: tenants.acme.fallback.queue: acme has no queue x; "
                                   "add [tenants.acme.queues.x]"),
    ('nodes = ["pbx2"]', '10: tenants.acme.nodes[0]: there is no node pbx2; did you mean "pbx1"?'),
    ("nodes = []", "1: tenants.acme.nodes: the list is empty; name at least one, or remove the key's table"),
    ("trunk = 5", "1: tenants.acme.trunk: this is a number, not a table; "
                  "write [tenants.acme.trunk] and keys below it"),
    ('trunk = { username = "a" }', "1: tenants.acme.trunk: host is missing; add host = …"),
    ('trunk = { host = "sip.example", port = 65536 }', "33: tenants.acme.trunk.port: the number is not from 1 "
                                                       "to 65535; correct the number"),
    ('trunk = { host = "h", codecs = ["ulow"] }', '33: tenants.acme.trunk.codecs[0]: "ulow" is not a codec of '
                                                  'Asterisk; did you mean "ulaw"?'),
    ('trunk = { host = "h", register = true }', "23: tenants.acme.trunk.register: registering needs username "
                                                "and password; add both, or remove register"),
    ('queues = { Support = {} }', '12: tenants.acme.queues.Support: "Support" is not a queue\'s name; use small '
                                  "letters, digits, hyphen and underscore, at most 40"),
    ('queues = { a = { members = ["agent1"] } }', '29: tenants.acme.queues.a.members[0]: "agent1" is not a '
        "member of a queue; write an endpoint: PJSIP/agent1 or Local/1000@context"),
    ('queues = { a = { strategy = "ringal" } }', '18: tenants.acme.queues.a.strategy: "ringal" is not a queue '
                                                 'strategy of Asterisk; did you mean "ringall"?'),
    ('outbound = { allow = ["+"] }', "1: tenants.acme.outbound: caller_ids is missing; add caller_ids = …"),
    ('outbound = { caller_ids = ["1000"], allow = ["x"] }', '46: tenants.acme.outbound.allow[0]: "x" is not a '
        "prefix of numbers; write it like +265; + alone is every number"),
    ('outbound = { caller_ids = ["1000"], allow = ["+1"], deny = ["+1"] }', "61: tenants.acme.outbound.deny[0]: "
        '"+1" is allowed and denied; remove it from allow or from deny'),
    ('outbound = { caller_ids = ["1000"], calls_per_second = 0 }', "37: tenants.acme.outbound.calls_per_second: "
        "this is not a number above 0; write a number such as 2 or 0.5"),
    ('outbound = { caller_ids = ["1000"], calls_per_second = nan }', "37: "
        "tenants.acme.outbound.calls_per_second: this is not a number above 0; write a number such as 2 or 0.5"),
    ('templates = { sip = "x" }', "15: tenants.acme.templates.sip: unknown key; did you mean pjsip?"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "error"), WRONG)
def test_a_wrong_value_is_named_with_place_and_next_step(line: str, error: str) -> None:
    assert errors_of(NODE + tenant(line)) == [f"tenants.toml:7:{error}"]


WRONG_TOP = [
    ("[node.x]\n", "1:2: node: unknown key; did you mean nodes?"),
    ("tenants = 1\n", "1:1: tenants: this is a number, not a table; write [tenants.SLUG]"),
    ("[tenants]\nacme = 1\n", "2:1: tenants.acme: this is a number, not a table; "
                              "write [tenants.acme] and keys below it"),
    ("[tenants.Acme]\n", '1:10: tenants.Acme: "Acme" is not a slug; '
                         "use small letters, digits and hyphens, a letter first, at most 31"),
    ("[tenants.general]\n", "1:10: tenants.general: general is a reserved word; choose another slug"),
    ('[tenants."a b"]\n', '1:10: tenants."a b": "a b" is not a slug; '
                          "use small letters, digits and hyphens, a letter first, at most 31"),
    ("[nodes]\npbx1 = 1\n", "2:1: nodes.pbx1: this is a number, not a table; write [nodes.pbx1] and keys below it"),
    ('[nodes."a b"]\n', '1:8: nodes."a b": "a b" is not a node\'s name; use letters, digits, dot, hyphen and '
                        "underscore, at most 63, a letter or digit first"),
    ("[tenants.a]\nqueues = 1\n", "2:1: tenants.a.queues: this is a number, not a table; write [tenants.a.queues.NAME]"),
    ("[tenants.a]\nfallback = 1\n", "2:1: tenants.a.fallback: this is a number, not a table; "
                                    "write [tenants.a.fallback] and keys below it"),
    ("defaults = 1\n", "1:1: defaults: this is a number, not a table; write [defaults] and keys below it"),
    ("[defaults]\nworker = 2\n", "2:1: defaults.worker: unknown key; did you mean workers?"),
    ("[defaults]\nworkers = 65\n", "2:1: defaults.workers: the number is not from 1 to 64; correct the number"),
    ('[defaults]\napps = "tenant"\n', '2:1: defaults.apps: "tenant" is not a way to make Stasis apps; '
                                      'did you mean "per-tenant"?'),
    ('[defaults]\napp_name = "x-{{ tenant }}"\n', "2:1: defaults.app_name: only {{ slug }} is replaced here; "
                                                  'write "voxtra-{{ slug }}"'),
    ('[defaults]\napps = "shared"\napp_name = "x-{{ slug }}"\n', "3:1: defaults.app_name: with apps = "
        '"shared" no tenant has an app of its own; write "voxtra"'),
    ('[defaults]\nunmatched = "beta"\n', '2:1: defaults.unmatched: there is no such tenant; '
                                         'write "reject" or the slug of a tenant'),
    ('[defaults]\ntrunk_context = "voxtra-acme-outbound"\n', '2:1: defaults.trunk_context: '
        '"voxtra-acme-outbound" is not a context that may be shared by the carriers; use letters, digits, hyphen '
        "and underscore, and no name that voxtractl or Asterisk makes"),
    ('[defaults]\ntrunk_context = "did-001"\n', '2:1: defaults.trunk_context: "did-001" is not a context that '
        "may be shared by the carriers; use letters, digits, hyphen and underscore, and no name that voxtractl or "
        "Asterisk makes"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error"), WRONG_TOP)
def test_a_wrong_table_is_named_with_place_and_next_step(text: str, error: str) -> None:
    assert errors_of(text) == [f"tenants.toml:{error}"]


WRONG_NODE = [
    ("ari = ", 'ari = "http://127.0.0.1:8088/ari"', "2:1: nodes.pbx1.ari: this is not the address of an ARI"),
    ("ari = ", 'ari = "http://u:p@127.0.0.1:8088"', "2:1: nodes.pbx1.ari: this is not the address of an ARI"),
    ("ari = ", 'ari = "http://127.0.0.1:65536"', "2:1: nodes.pbx1.ari: this is not the address of an ARI"),
    ("ari_user = ", "", "1:8: nodes.pbx1: ari_user is missing; add ari_user = …"),
    ("ari_password", "", "1:8: nodes.pbx1: the password of ari_user is not named"),
    ("ari_password", 'ari_password_file = "a"\nari_password_env = "B"',
     "5:1: nodes.pbx1.ari_password_env: ari_password_file names the password already; keep one of"),
    ("store = ", 'store = "local:etc"', "5:1: nodes.pbx1.store: this is not a store"),
    ("store = ", 'store = "local:/etc/../root"', "5:1: nodes.pbx1.store: this is not a store"),
    ("store = ", 'store = "local:/"', "5:1: nodes.pbx1.store: this is not a store"),
    ("store = ", 'store = "local:/etc/a b"', "5:1: nodes.pbx1.store: this is not a store"),
    ("store = ", 'store = "sftp://u:pw@h/etc/x"', "5:1: nodes.pbx1.store: this is not a store"),
    ("store = ", 'store = "ftp://h/etc/x"', "5:1: nodes.pbx1.store: this is not a store"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "error"), WRONG_NODE)
def test_a_wrong_node_is_named_with_place_and_next_step(old: str, new: str, error: str) -> None:
    lines = [new if line.startswith(old) else line for line in NODE.splitlines()]
    (found,) = errors_of("\n".join(lines))
    assert found.startswith(f"tenants.toml:{error}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", "local:/etc/asterisk/voxtractl"),
        ("store", "sftp://deploy@pbx1.example.net:2222/etc/asterisk/voxtractl"),
        ("store", "sftp://[2001:db8::1]/srv/v"),
        ("store", "memory:a"),
        ("ari", "https://pbx.example.net"),
        ("ari", "http://[::1]:8088"),
        ("ari", "http://10.0.0.1:65535/pre/fix"),
        ("config_dir", "/etc/asterisk"),
        ("identity", "~/.ssh/id deploy"),
    ],
)
def test_a_right_node_is_taken(key: str, value: str) -> None:
    lines = [line for line in NODE.splitlines() if not line.startswith(f"{key} =")]
    node = fleet_of("\n".join([*lines, f'{key} = "{value}"'])).nodes["pbx1"]
    assert getattr(node, key) == value


def test_syntax_errors_and_broken_rules_of_all_files_are_told_together() -> None:
    assert errors_of(
        NODE + tenant('dids = ["1"]'),
        "[tenants.b\n",
        tenant("max_channels = 0", "c"),
        'x = "a\n',
    ) == [
        'tenants.d/1.toml:1:11: this is not TOML: expected "]" at the end of a table declaration; '
        "correct this line or the one before".replace('"]"', "']'"),
        "tenants.d/2.toml:2:1: tenants.c.max_channels: the number is not from 1 to 1000000; correct the number",
        "tenants.d/3.toml:1:7: this is not TOML: illegal character '\\n'; correct this line or the one before",
        'tenants.toml:7:9: tenants.acme.dids[0]: "1" is not a number in E.164 form; '
        "write + and country code, digits only, like +265999000001",
    ]


def test_when_a_file_cannot_be_read_nothing_is_called_missing() -> None:
    (error,) = errors_of("[nodes.pbx1\n", tenant('nodes = ["pbx1"]'))
    assert error.startswith("tenants.toml:1:12: this is not TOML")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\ufeff[tenants.a]", "1:1: the file begins with a byte order mark; save it as UTF-8 without BOM"),
        ("a = " + "[" * 5000, "1:1: this is not TOML: brackets nested too deep; remove the brackets"),
        ("a = " + "9" * 5000, "1:1: a number has too many digits; correct the number"),
    ],
)
def test_texts_that_break_other_readers_are_told_plainly(text: str, error: str) -> None:
    assert errors_of(text) == [f"tenants.toml:{error}"]


@pytest.mark.parametrize("table", ["defaults", "nodes"])
def test_the_folder_holds_tenants_only(table: str) -> None:
    (error,) = errors_of("", f"[{table}]\n")
    assert error == (
        f"tenants.d/1.toml:1:2: {table}: [{table}] may only stand in tenants.toml; move it there"
    )


def test_app_names_leave_room_for_the_worker() -> None:
    text = "[defaults]\nworkers = 10\n" + tenant(f'app = "{"a" * 71}"')
    assert errors_of(text) == [
        f"tenants.toml:4:1: tenants.acme.app: the Stasis app {'a' * 71}-10 has 74 characters; Asterisk takes 73; "
        "shorten app, or defaults.app_name"
    ]
    assert (
        fleet_of("[defaults]\nworkers = 9\n" + tenant(f'app = "{"a" * 71}"')).tenants["acme"].app == "a" * 71
    )


def test_a_fallback_number_needs_a_trunk_and_outbound() -> None:
    errors = errors_of(tenant('fallback = { dial = "+265999000009" }'))
    assert [error.split(": ", 2)[2] for error in errors] == [
        "a fallback number needs an own outbound; add [tenants.acme.outbound]",
        "a fallback number needs an own trunk; add [tenants.acme.trunk]",
    ]


def test_a_broken_trunk_is_not_called_missing_too() -> None:
    text = tenant('fallback = { dial = "1000" }\ntrunk = { host = "" }\noutbound = { caller_ids = ["1"] }')
    (error,) = errors_of(text)
    assert ": tenants.acme.trunk.host: " in error


def test_place_finds_a_tenant_in_any_file() -> None:
    sources = [
        Source("tenants.toml", NODE),
        Source("tenants.d/acme.toml", "# x\n" + tenant('dids = ["+1234567"]')),
    ]
    assert place(sources, ("tenants", "acme", "dids", 0)) == ("tenants.d/acme.toml", 3, 9)
    assert place(sources, ("tenants", "beta")) is None


# --- secrets ----------------------------------------------------------------------------------------------

LEAKS = [
    tenant(f'trunk = {{ host = "h", password = "{CANARY}" }}'),
    tenant(f'trunk = {{ host = "h", pasword = "{CANARY}" }}'),
    tenant(f'trunk = {{ host = "h", password_env = "{CANARY}" }}'),
    tenant(f'trunk = {{ host = "h", password_command = "echo {CANARY}" }}'),
    tenant(f'trunk = {{ host = "h", password_command = ["echo", "{CANARY}\\n"] }}'),
    tenant(f'trunk = {{ host = "h", password_file = "{CANARY}\\n" }}'),
    tenant(f'trunk = {{ host = "{CANARY}:@h" }}'),
    tenant(f'trunk = {{ host = "h", username = "acme;{CANARY}" }}'),
    tenant(f'secret = "{CANARY}"'),
    tenant(f'trunk = "{CANARY}"'),
    tenant(f'trunk.host = {CANARY}'),
    tenant(f'trunk.host = "{CANARY}'),
    NODE.replace("ari_password_env", "ari_password").replace("PBX1", CANARY),
    NODE.replace("PBX1", CANARY),
    NODE.replace("http://", f"http://u:{CANARY}@"),
    NODE.replace("memory:pbx1", f"sftp://u:{CANARY}@h/etc/x"),
    NODE.replace("memory:pbx1", f"sftp://h/etc/x?password={CANARY}"),
    NODE + f'identity = ["{CANARY}"]',
]  # fmt: skip


@pytest.mark.parametrize("text", LEAKS)
def test_no_error_repeats_a_secret(text: str) -> None:
    with pytest.raises(FleetError) as caught:
        fleet_of(text)
    error = caught.value
    assert CANARY not in "".join(
        (str(error), repr(error), repr(error.reasons), repr(error.details), str(error.hint))
    )


def test_a_password_in_the_document_is_answered_with_the_three_ways_out() -> None:
    (error,) = errors_of(tenant(f'trunk = {{ host = "h", password = "{CANARY}" }}'))
    assert error == (
        "tenants.toml:2:23: tenants.acme.trunk.password: a password must not stand in the document; "
        "move it away and name the place with password_file, password_env or password_command"
    )


# --- anything at all --------------------------------------------------------------------------------------


def reasons_of(text: str) -> list[Reason] | None:
    """What is wrong with the text; None when it is a fleet. Any other exception is a failure."""
    try:
        fleet_of(text)
    except FleetError as error:
        return list(error.reasons)
    return None


@given(st.text())
def test_any_text_is_a_fleet_or_has_reasons(text: str) -> None:
    assert reasons_of(text) != []


@given(st.data())
def test_a_damaged_document_is_a_fleet_or_has_reasons_inside_it(data: st.DataObject) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 20)))
        text = text[:start] + data.draw(st.text(alphabet="ab0.[]{}\"'#=,\n\\ é", max_size=6)) + text[end:]
    lines = text.count("\n") + 1
    assert all(1 <= reason.line <= lines and reason.col >= 1 for reason in reasons_of(text) or ())


VALUES = [
    '""',
    '"x"',
    "1",
    "-1",
    "2.5",
    "true",
    "[]",
    "[1]",
    '["x"]',
    "[[]]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
    "nan",
]
PATHS = [
    f"{table.replace('SLUG', 'acme').replace('NAME', 'x')}.{key}"
    for table, keys in document.known_keys().items()
    for key in keys
]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(VALUES)), unique_by=lambda pair: pair[0]))
def test_any_value_at_any_key_is_a_fleet_or_told_at_its_own_line(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f"{path} = {value}\n" for path, value in pairs)
    try:
        tomli.loads(text)
    except tomli.TOMLDecodeError:
        return  # a.b and a.b.c both given: another test
    for reason in reasons_of(text) or ():
        first = text.splitlines()[reason.line - 1].split(" = ")[0]
        assert reason.path.startswith(first) or first.startswith(reason.path)


HOSTILE = [
    "\n",
    "\r",
    "\0",
    ";",
    ";--",
    "${SHELL(id)}",
    "]",
    "[",
    "#exec x",
    "\u2028",
    "\u0085",
    ",",
    "(",
    "=>",
    " ",
    "\\",
]
# every key whose value reaches a rendered file, with a good value to damage
RENDERED = [
    ("fallback.play", "vm-goodbye"),
    ("app", "voxtra-acme"),
    ("queues.support.music", "default"),
    ("queues.support.members", "PJSIP/agent1"),
    ("trunk.host", "sip.example"),
    ("trunk.username", "acme"),
    ("trunk.transport", "udp"),
    ("trunk.codecs", "ulaw"),
    ("outbound.caller_ids", "+265888000001"),
    ("outbound.allow", "+265"),
    ("extensions", "1000"),
    ("dids", "+265999000001"),
]


@given(st.sampled_from(RENDERED), st.sampled_from(HOSTILE), st.data())
def test_what_reaches_asterisk_carries_nothing_that_is_code_there(
    target: tuple[str, str], evil: str, data: st.DataObject
) -> None:
    path, good = target
    at = data.draw(st.integers(0, len(good)))
    value = '"' + "".join(f"\\u{ord(c):04X}" for c in good[:at] + evil + good[at:]) + '"'
    if path.split(".")[-1] in {"members", "codecs", "caller_ids", "allow", "extensions", "dids"}:
        value = f"[{value}]"
    body = {"trunk.host": '"h"', "outbound.caller_ids": '["1"]', path: value}
    text = tenant("\n".join(f"{key} = {spelled}" for key, spelled in body.items()))
    if evil in ",=(" and path == "trunk.username":
        assert evil in (fleet_of(text).tenants["acme"].trunk or pytest.fail("no trunk")).username  # type: ignore[operator]
        return
    assert any(f": tenants.acme.{path}" in error for error in errors_of(text))


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=200))
def test_a_name_may_hold_any_printable_text(name: str) -> None:
    import tomlkit

    if name != name.strip() or any(0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 for c in name):
        return
    if "\ufeff" in name:
        return
    assert fleet_of(tenant(f"name = {tomlkit.item(name).as_string()}")).tenants["acme"].name == name


def test_reading_a_good_document_loads_nothing_that_only_errors_and_edits_need() -> None:
    code = (
        "import sys; from voxtractl.model.document import Source, parse\n"
        f"parse([Source('tenants.toml', open({str(EXAMPLE)!r}).read())])\n"
        "print([m for m in ('tomlkit', 'difflib', 'pydantic', 'jinja2', 'asyncio', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
