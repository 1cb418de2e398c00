"""What the templates make, loaded and run by the real Asterisk: its log, its objects, real calls over SIP.

The oracle is always Asterisk: the label it knows, the value it gives back, the answer a carrier sees.
"""

import json
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.live.carrier import Carrier, Invite
from voxtractl import naming
from voxtractl.dialplan import lint, quoting, syntax
from voxtractl.errors import UnsafeValue
from voxtractl.lab import Lab
from voxtractl.model.fleet import Defaults, Fleet
from voxtractl.model.node import Node
from voxtractl.model.tenant import Fallback, Outbound, Queue, Tenant, Trunk
from voxtractl.render import engine, templates
from voxtractl.render.bundle import Bundle
from voxtractl.settings import Secret, SecretRef

OPERATOR = "127.0.0.3"  # address of the carrier whose calls arrive in the trunk context
OWN = "127.0.0.2"  # address of acme's own carrier
MODULES = {"extensions": "pbx_config.so", "pjsip": "res_pjsip.so", "queues": "app_queue.so"}

ONE, TWO, OTHER = "+265999000001", "+265999000002", "+265999000003"
REF = SecretRef("env", ("ACME",), "tenants.acme.trunk.password_env")
NODE = Node(
    name="pbx1", ari="http://x", ari_user="u", ari_password=REF, store="local:/etc/asterisk/voxtractl"
)
ACME = Tenant(
    slug="acme",
    name="Acme Ltd",
    app="voxtra-acme",
    dids=(ONE, TWO),
    extensions=("1000",),
    trunk=Trunk(host=OWN, username="acme", password=REF),
    queues=(Queue(name="support", members=("PJSIP/agent1",)),),
    outbound=Outbound(caller_ids=("+265888000001", "+265888000002"), allow=("+265",), deny=("+2659",)),
)
BETA = Tenant(slug="beta", name="Beta", app="voxtra-beta", dids=(OTHER,))
SECRETS = {"acme": Secret("pa;ss")}

# Contexts and an endpoint of the operator's own, beside what voxtractl makes.
OWN_DIALPLAN = """
[test-park]
exten => s,1,Answer()
 same => n,Wait(60)
"""
OWN_PJSIP = f"""
[test-carrier]
type = endpoint
context = from-trunk
disallow = all
allow = ulaw
[test-carrier]
type = identify
endpoint = test-carrier
match = {OPERATOR}
"""


@dataclass(frozen=True)
class Bench:
    """The lab's Asterisk as these tests use it."""

    lab: Lab

    def ari(self, method: str, path: str, body: object = None, **query: str) -> tuple[int, str]:
        query_text = f"?{urlencode(query)}" if query else ""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.lab.ari_url}/ari/{path}{query_text}", data, method=method)
        request.add_header("Content-Type", "application/json")
        word = f"{self.lab.ari_user}:{self.lab.ari_password.reveal()}"
        request.add_header("Authorization", f"Basic {b64encode(word.encode()).decode()}")
        try:
            with urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def carries(self, context: str, exten: str, label: str) -> bool:
        """True when this label is live there: the label oracle."""
        status, _ = self.ari(
            "POST",
            "channels",
            endpoint="voxtractl/probe",
            context=context,
            extension=exten,
            label=label,
            formats="voxtractl-probe",
        )
        assert status in (400, 404)
        return status == 400

    def load(self, fleet: Fleet, secrets: Mapping[str, Secret] = SECRETS) -> Bundle:
        """Render, write, reload; Asterisk's log must hold no complaint, and our own proof no reason."""
        bundle = engine.render(fleet, NODE, templates.find(), secrets)
        assert lint.lint_bundle(bundle.files, fleet, NODE.name) == ()
        complaints = self.write(bundle.files)
        assert complaints == [], complaints
        assert self.carries(naming.LOADED_CONTEXT, "rev", bundle.marks["extensions"])
        return bundle

    def write(self, files: Mapping[str, bytes]) -> list[str]:
        """Put files into the release folder and reload; returns what Asterisk complains about."""
        group = self.lab.config_dir.stat().st_gid
        release = self.lab.store_dir / "current"
        for path, content in files.items():
            file = release / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for made in (release, *release.rglob("*")):
            made.chmod(0o750 if made.is_dir() else 0o640)
            _give(made, group)
        for kind, own in (("extensions", OWN_DIALPLAN), ("pjsip", OWN_PJSIP), ("queues", "")):
            top = self.lab.config_dir / f"{kind}.conf"
            text = top.read_text()
            if "voxtractl/current" not in text:
                include = f"#include voxtractl/current/{kind}.conf\n[voxtractl-loaded](voxtractl-end)\n"
                top.write_text(f"{text}\n{own}\n{include}")
        seen = self.lab.log_file.stat().st_size
        for module in MODULES.values():
            assert self.ari("PUT", f"asterisk/modules/{module}")[0] == 204
        return [line for line in self.log_since(seen) if "WARNING" in line or "ERROR" in line]

    def log_since(self, seen: int) -> list[str]:
        """The log's lines after byte ``seen``; one more reload marks its end, for the logger runs behind."""
        self.ari("PUT", "asterisk/modules/res_musiconhold.so")
        deadline = time.monotonic() + 10
        while True:
            with self.lab.log_file.open("rb") as file:
                file.seek(seen)
                text = file.read().decode(errors="replace")
            before, mark, _ = text.partition("Reloading module 'res_musiconhold.so'")
            if mark:
                return before.splitlines()
            assert time.monotonic() < deadline, text

    def dialplan(self) -> dict[str, set[str]]:
        """Context → extensions, of everything pbx_config loaded."""
        found: dict[str, set[str]] = {}
        context: set[str] = set()
        for line in self.lab.cli("dialplan show").splitlines():
            if head := re.match(r"\[ Context '(.*)' created by '(.*)' \]", line):
                context = found.setdefault(head[1], set()) if head[2] == "pbx_config" else set()
            elif exten := re.match(r"  '(.*)' =>", line):
                context.add(exten[1])
        return found

    def dial(self, number: str, **query: str) -> None:
        """Run a fresh channel through acme's outbound context."""
        status, text = self.ari(
            "POST",
            "channels",
            endpoint="Local/s@test-park",
            context=naming.outbound_context("acme"),
            extension=number,
            priority="1",
            **query,
        )
        assert status == 200, text

    @asynccontextmanager
    async def worker(self, app: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A connected Stasis app."""
        key = f"{self.lab.ari_user}:{self.lab.ari_password.reveal()}"
        url = f"{self.lab.ari_url}/ari/events?app={app}&api_key={quote(key)}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            yield socket


def _give(path: object, group: int) -> None:
    import os

    os.chown(str(path), -1, group)


async def next_start(socket: aiohttp.ClientWebSocketResponse) -> dict[str, object]:
    """The next StasisStart."""
    while True:
        event = await socket.receive_json(timeout=10)
        if event["type"] == "StasisStart":
            return dict(event)


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    try:
        yield Bench(lab)
    finally:
        lab.restore()


@pytest.fixture
def operator(lab: Lab) -> Iterator[Carrier]:
    with Carrier(OPERATOR, lab.sip_port) as carrier:
        yield carrier


@pytest.fixture
def own(lab: Lab) -> Iterator[Carrier]:
    with Carrier(OWN, lab.sip_port) as carrier:
        yield carrier


def fleet_of(*tenants: Tenant, **defaults: object) -> Fleet:
    return Fleet({t.slug: t for t in tenants}, {}, Defaults(**defaults))  # type: ignore[arg-type]


def over(carrier: Carrier, tenant: Tenant = ACME) -> Tenant:
    """The tenant with this carrier as its trunk."""
    return replace(tenant, trunk=Trunk(host=OWN, port=carrier.port, username="acme", password=REF))


# --- loading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apps", ["per-tenant", "shared"])
@pytest.mark.parametrize("unmatched", ["reject", "acme"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_layout_loads_without_a_complaint_and_proves_every_did(
    bench: Bench, workers: int, unmatched: str, apps: str
) -> None:
    fleet = fleet_of(ACME, BETA, workers=workers, unmatched=unmatched, apps=apps)
    bundle = bench.load(fleet)
    for slug, state in bundle.tenants.items():
        for did in state.dids:
            assert bench.carries("from-trunk", did, state.label)
            assert not bench.carries("from-trunk", did, "v-000000000000")
        own_fallback = lint.owns_fallback(fleet.tenants[slug])
        assert bench.carries(naming.fallback_context(slug), "s", state.label) == own_fallback
    loaded = {context: extens for context, extens in bench.dialplan().items() if context != "test-park"}
    read: dict[str, set[str]] = {naming.LOADED_CONTEXT: {"rev"}}
    for path, content in bundle.files.items():
        if path.startswith("extensions/"):
            for section in syntax.read(content.decode()).sections:
                if not section.template:
                    read.setdefault(section.name, set()).update(s.exten for s in syntax.steps(section))
    assert {c: e for c, e in loaded.items() if e} == read


def test_a_trunk_and_a_queue_are_known_to_asterisk_by_their_values(bench: Bench) -> None:
    bench.load(fleet_of(ACME, BETA))
    endpoint = attributes(bench, "endpoint")
    assert endpoint["context"] == "voxtra-acme-inbound"
    assert endpoint["allow"] == "(ulaw|alaw)"
    assert endpoint["accountcode"] == "acme"
    assert attributes(bench, "auth")["password"] == "pa;ss"
    shown = bench.lab.cli("queue show acme-support")
    assert "'ringall' strategy" in shown
    assert "PJSIP/agent1" in shown


def test_a_trunk_that_registers_and_has_every_option_loads(bench: Bench, own: Carrier) -> None:
    trunk = Trunk(host=OWN, port=own.port, username="ac me", password=REF, register=True, codecs=("alaw",))
    bench.load(fleet_of(replace(ACME, trunk=trunk)))
    while not (text := own.read()).startswith("REGISTER "):
        pass
    assert f"sip:ac%20me@{OWN}" in text


def attributes(bench: Bench, kind: str, name: str = "acme-trunk") -> dict[str, str]:
    status, text = bench.ari("GET", f"asterisk/config/dynamic/res_pjsip/{kind}/{quote(name)}")
    assert status == 200, text
    return {row["attribute"]: row["value"] for row in json.loads(text)}


# --- inbound calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_without_a_runtime_the_carrier_is_told_to_try_elsewhere(
    bench: Bench, operator: Carrier, workers: int
) -> None:
    bench.load(fleet_of(ACME, BETA, workers=workers))
    assert operator.call(ONE).status == 503
    assert operator.call(TWO.removeprefix("+")).status == 503


def test_a_fallback_sound_and_a_fallback_queue_answer(bench: Bench, operator: Carrier) -> None:
    bench.load(fleet_of(replace(ACME, fallback=Fallback("play", "vm-goodbye"))))
    assert operator.call(ONE).status == 200
    bench.load(fleet_of(replace(ACME, fallback=Fallback("queue", "support"))))
    assert operator.call(ONE).status == 200


def test_a_fallback_number_is_dialled_over_the_own_trunk_with_an_own_caller_id(
    bench: Bench, operator: Carrier, own: Carrier
) -> None:
    bench.load(fleet_of(replace(over(own), fallback=Fallback("dial", "+265777"))))
    leg = operator.begin(ONE)
    assert own.receive() == Invite("+265777", "+265888000001")
    assert leg.finish() == 486


def test_a_number_nobody_owns_is_refused_and_nothing_else_matches(bench: Bench, operator: Carrier) -> None:
    bench.load(fleet_of(ACME, BETA))
    assert operator.call("+1234").status == 404
    assert operator.call("5").status == 404
    for name in ("h", "i", "s", "t", "alice"):
        assert operator.call(name).status == 404
        assert f"no existence of {name}@from-trunk" in bench.lab.cli(f"dialplan show {name}@from-trunk")


def test_the_own_trunk_reaches_own_numbers_and_no_others(bench: Bench, own: Carrier) -> None:
    bench.load(fleet_of(over(own), BETA))
    assert own.call(ONE).status == 503
    assert own.call(ONE.removeprefix("+")).status == 503
    assert own.call("1000").status == 503
    assert own.call(OTHER).status == 404
    assert own.call(OTHER.removeprefix("+")).status == 404
    assert own.call("+").status == 404
    assert own.call("support").status == 404
    assert own.call("+265700").status == 404


def test_two_tenants_at_one_carrier_both_get_their_calls(bench: Bench, own: Carrier) -> None:
    both = fleet_of(over(own), over(own, replace(BETA, extensions=("1000",))))
    bench.load(both, {"acme": Secret("a"), "beta": Secret("b")})
    assert own.call(ONE).status == 503
    assert own.call(OTHER).status == 503
    assert own.call("+265700").status == 404


async def test_the_app_gets_the_number_as_its_argument(bench: Bench, operator: Carrier) -> None:
    bench.load(fleet_of(ACME, BETA))
    async with bench.worker("voxtra-acme") as socket:
        leg = operator.begin(TWO.removeprefix("+"))
        start = await next_start(socket)
        assert start["args"] == [TWO]
        assert exten_of(start) == TWO
        end(bench, start)
        assert leg.finish() >= 400


async def test_a_shared_app_gets_the_tenant_before_the_number(bench: Bench, operator: Carrier) -> None:
    bench.load(fleet_of(replace(ACME, app="voxtra"), replace(BETA, app="voxtra"), apps="shared"))
    async with bench.worker("voxtra") as socket:
        leg = operator.begin(OTHER)
        start = await next_start(socket)
        assert start["args"] == ["beta", OTHER]
        end(bench, start)
        leg.finish()


async def test_a_call_finds_the_one_worker_that_runs(bench: Bench, operator: Carrier) -> None:
    bench.load(fleet_of(ACME, BETA, workers=3))
    async with bench.worker("voxtra-acme-2") as socket:
        for _ in range(6):  # the first try is drawn by lot; six calls leave little to luck
            leg = operator.begin(ONE)
            start = await next_start(socket)
            assert start["args"] == [ONE]
            assert exten_of(start) == ONE
            end(bench, start)
            leg.finish()


async def test_the_catch_all_tenant_gets_what_nobody_owns(bench: Bench, operator: Carrier) -> None:
    bench.load(fleet_of(ACME, BETA, unmatched="beta"))
    async with bench.worker("voxtra-beta") as socket:
        leg = operator.begin("+4912345")
        start = await next_start(socket)
        assert start["args"] == ["+4912345"]
        end(bench, start)
        leg.finish()


async def test_calls_in_and_out_count_together_while_they_are_in_stasis(
    bench: Bench, operator: Carrier, own: Carrier
) -> None:
    bench.load(fleet_of(replace(over(own), max_channels=1), BETA))
    async with bench.worker("voxtra-acme") as socket:
        leg = operator.begin(ONE)
        start = await next_start(socket)
        assert operator.call(TWO).status == 486
        bench.dial("+265700000009")  # over the limit: it must not reach the carrier
        assert operator.call(TWO).status == 486
        end(bench, start)
        leg.finish()
        bench.dial("+265700000010")
        assert own.receive().number == "+265700000010"


def exten_of(start: Mapping[str, object]) -> object:
    channel = start["channel"]
    assert isinstance(channel, dict)
    return channel["dialplan"]["exten"]


def end(bench: Bench, start: Mapping[str, object]) -> None:
    channel = start["channel"]
    assert isinstance(channel, dict)
    assert bench.ari("DELETE", f"channels/{channel['id']}")[0] == 204


# --- many DIDs --------------------------------------------------------------------------------------------


async def test_buckets_route_every_form_of_a_number(bench: Bench, operator: Carrier) -> None:
    many = tuple(f"+2651{n:08d}" for n in range(naming.BUCKETS_ABOVE))
    crowd = Tenant(slug="crowd", name="Crowd", app="voxtra-crowd", dids=many)
    bundle = bench.load(fleet_of(crowd, ACME, BETA, unmatched="beta"))
    label = bundle.tenants["crowd"].label
    for did in (many[0], many[999], many[-1]):
        assert bench.carries(f"did-{did[-3:]}", did, label)
    assert operator.call(ONE).status == 503
    assert operator.call(many[7]).status == 503
    async with bench.worker("voxtra-acme") as socket:
        for form in (ONE, ONE.removeprefix("+")):
            leg = operator.begin(form)
            start = await next_start(socket)
            assert start["args"] == [ONE]
            end(bench, start)
            leg.finish()
    async with bench.worker("voxtra-beta") as socket:
        for number in ("+4912345", "4912345", "12", "+1"):
            leg = operator.begin(number)
            start = await next_start(socket)
            arguments = start["args"]
            assert isinstance(arguments, list)
            assert arguments[0].removeprefix("+") == number.removeprefix("+")
            end(bench, start)
            leg.finish()


# --- outbound calls ---------------------------------------------------------------------------------------


def test_the_longest_prefix_wins_and_anything_but_digits_is_refused(bench: Bench, own: Carrier) -> None:
    outbound = Outbound(
        caller_ids=("+265888000001",), allow=("+265", "+26599", "+1"), deny=("+2659", "+1900", "+1")
    )
    bench.load(fleet_of(over(own, replace(ACME, outbound=outbound))))
    refused = ["+265900000001", "+2659", "+19001", "+1555", "+491", "265700", "+265&Local/s@test-park"]
    refused += ["+265700@x", "+265 700", "+265-9", "+265a", "+265${EXTEN}", "+265)", '+265"', "s", "i"]
    for number in refused:
        bench.dial(number)
        bench.dial("+265700000001")
        assert own.receive().number == "+265700000001", number
    for number in ("+265", "+26570", "+265990"):
        bench.dial(number)
        assert own.receive().number == number


def test_a_caller_id_of_the_list_is_kept_and_any_other_replaced(bench: Bench, own: Carrier) -> None:
    bench.load(fleet_of(over(own)))
    for given_id, shown in (
        ("+265888000002", "+265888000002"),
        ("+265888000001", "+265888000001"),
        ("+265999999999", "+265888000001"),
        ("", "+265888000001"),
        ('x" = "x" | "', "+265888000001"),
    ):
        bench.dial("+265700000001", callerId=given_id)
        assert own.receive() == Invite("+265700000001", shown)


# --- hostile values ---------------------------------------------------------------------------------------

VALUES = r"""pa;ss
;
;;
a;--b
;--
--;
a--;b
\
\;
a\
a\\;b
${SHELL(id)}
$[1+1]
]
[x]
[x](+)
#exec id
#include x
=
=>
>x
=>x
a => b
(
)
()
"
'
a,b
é
日本
%41
a&b
a|b
exten => 1,1,NoOp()
^
a b
+
!"""
NASTY = (*VALUES.split("\n"), "a\tb", "x" * 500)
ALPHABET = st.text(
    st.sampled_from(list("ab;-\\[]()#=>,${}\"' \t%é!\n\r\0\u2028+&|")), min_size=1, max_size=12
)


def carried(rule: str, text: str) -> bool:
    """True when the escaper takes the value."""
    try:
        quoting.FILTERS[rule](text, "key")
    except UnsafeValue:
        return False
    return True


def hostile_fleet(values: list[str]) -> tuple[Fleet, dict[str, Secret]]:
    """A tenant for each value, which stands in every place where free text reaches a file."""
    tenants = []
    secrets = {}
    for number, text in enumerate(values):
        slug = f"h{number}"
        secrets[slug] = Secret(text)
        tenants.append(
            Tenant(
                slug=slug,
                name=text,
                app=f"voxtra-{slug}",
                dids=(f"+2659{number:07d}",),
                fallback=Fallback("play", text),
                trunk=Trunk(host=f"127.1.{number // 250}.{number % 250 + 1}", username=text, password=REF),
                queues=(Queue(name="q", members=(f"Local/{number}@test-park",), music=text),),
            )
        )
    return fleet_of(*tenants), secrets


def assert_exact(bench: Bench, values: list[str]) -> None:
    fleet, secrets = hostile_fleet(values)
    bundle = bench.load(fleet, secrets)
    for number, text in enumerate(values):
        state = bundle.tenants[f"h{number}"]
        assert bench.carries("from-trunk", state.dids[0], state.label), text
        auth = attributes(bench, "auth", f"h{number}-trunk")
        assert (auth["username"], auth["password"]) == (text, text)
    contexts = set(bench.dialplan())
    own = {name for slug in fleet.tenants for name in (f"voxtra-{slug}-{x}" for x in SUFFIXES)}
    shared = {f"voxtra-shared-{x}" for x in ("inbound", "dispatch", "outbound", "queues", "fallback")}
    assert contexts == own | shared | {"from-trunk", "test-park", "lab", naming.LOADED_CONTEXT}
    # Every tenant is there once and whole: nothing was swallowed, nothing added.
    queues = set(re.findall(r"^(\S+) has \d+ calls", bench.lab.cli("queue show"), re.MULTILINE))
    foreign = {name for name in queues if not name.startswith("voxtractl-")}
    assert foreign == {f"h{number}-q" for number in range(len(values))}


SUFFIXES = ("fallback", "inbound", "queues")


def test_nasty_values_come_back_exactly_and_make_nothing_else(bench: Bench) -> None:
    assert_exact(bench, [text for text in NASTY if carried("value", text)])
    assert [text for text in NASTY if not carried("value", text)] == []


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(ALPHABET | st.text(min_size=1, max_size=20), min_size=40, max_size=60))
def test_any_text_is_refused_or_comes_back_exactly(bench: Bench, values: list[str]) -> None:
    kept = [text for text in values if carried("value", text) and carried("arg", text)]
    bench.lab.restore()  # fewer tenants than in the last example: nothing may be left of it
    assert_exact(bench, kept)


async def test_nasty_arguments_reach_an_application_exactly(bench: Bench) -> None:
    lines = ["[test-args]"]
    for number, text in enumerate(NASTY):
        lines.append(f"exten => {number},1,Set(X={quoting.assign(text)})")
        lines.append(f" same => n,Stasis(test-app,{quoting.arg(text)},tail)")
    top = bench.lab.config_dir / "extensions.conf"
    top.write_text(top.read_text() + OWN_DIALPLAN + "\n".join(lines) + "\n")
    assert bench.ari("PUT", "asterisk/modules/pbx_config.so")[0] == 204
    async with bench.worker("test-app") as socket:
        for number, text in enumerate(NASTY):
            query = {"endpoint": "Local/s@test-park", "context": "test-args", "extension": str(number)}
            assert bench.ari("POST", "channels", **query, priority="1")[0] == 200
            start = await next_start(socket)
            assert start["args"] == [text, "tail"]
            channel = start["channel"]
            assert isinstance(channel, dict)
            _, answer = bench.ari("GET", f"channels/{channel['id']}/variable", variable="X")
            assert json.loads(answer)["value"] == text
            end(bench, start)


# --- our reader beside Asterisk's -------------------------------------------------------------------------

LINE = st.text(st.sampled_from(list('ab;;--\\ \t=>[]"')), max_size=16)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINE, min_size=30, max_size=30))
def test_our_reader_cuts_and_comments_as_asterisk_does(bench: Bench, lines: list[str]) -> None:
    top = bench.lab.config_dir / "extensions.conf"
    if "test-park" not in top.read_text():
        top.write_text(top.read_text() + OWN_DIALPLAN)
        assert bench.ari("PUT", "asterisk/modules/pbx_config.so")[0] == 204
    text = "[all]\n" + "".join(f"k{number} = x{line}\n" for number, line in enumerate(lines))
    file = bench.lab.config_dir / f"{sha256(text.encode()).hexdigest()}.conf"  # Asterisk caches by name
    file.write_text(text)
    file.chmod(0o644)
    _, answer = bench.ari(
        "POST", "channels", endpoint="Local/s@test-park", context="test-park", extension="s", priority="1"
    )
    channel = json.loads(answer)["id"]
    ours = {entry.key: entry.value for section in syntax.read(text).sections for entry in section.entries}
    theirs: dict[str, str] = {}
    for number in range(len(lines)):
        name = f"AST_CONFIG({file.name},all,k{number})"
        status, answer = bench.ari("GET", f"channels/{channel}/variable", variable=name)
        if status == 200 and (value := json.loads(answer)["value"]):
            theirs[f"k{number}"] = value
    bench.ari("DELETE", f"channels/{channel}")
    assert theirs == ours, text
