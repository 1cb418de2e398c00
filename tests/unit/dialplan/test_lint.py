"""What the proof refuses: each case is one broken line in a text that is otherwise right."""

import pytest

from voxtractl.dialplan import lint
from voxtractl.dialplan.lint import Bounds

ONE, TWO = "+265999000001", "+265999000002"
ACME = Bounds(
    slug="acme",
    trunk_context="from-trunk",
    dids={ONE: "from-trunk"},
    app="voxtra-acme",
    apps=("voxtra-acme",),
    stasis_argument="",
    queues=("acme-support",),
    trunk=True,
    fallback=True,
)
BETA = Bounds(
    slug="beta",
    trunk_context="from-trunk",
    dids={TWO: "from-trunk"},
    app="voxtra-beta",
    apps=("voxtra-beta",),
    stasis_argument="",
    queues=(),
    trunk=False,
    fallback=True,
)
STANZA = f"""\
[from-trunk]
exten => {ONE},1(v-aaa),NoOp(Inbound)
 same => n,Stasis(voxtra-acme,${{EXTEN}})
 same => n,Hangup()
exten => {ONE[1:]},1,Goto({ONE},1)
"""
FALLBACK = """\
[voxtra-acme-fallback]
exten => s,1(v-aaa),Hangup(34)
"""
GOOD = STANZA + FALLBACK


def told(text: str, *owners: Bounds, kind: str = "extensions") -> list[str]:
    return [f"{r.line}: {r.path}: {r.what}" for r in lint.lint_file(kind, text, owners, file="f.conf")]


def refused(text: str, kind: str = "extensions", bounds: Bounds = ACME) -> list[str]:
    return [r.what for r in lint.restrict(kind, text, bounds, file="own.j2")]


def with_line(line: str, context: str = "voxtra-acme-inbound") -> str:
    return f"{GOOD}[{context}]\n{line}\n"


def test_a_right_fragment_has_no_reasons() -> None:
    assert told(GOOD, ACME) == []
    assert refused(GOOD) == []


def test_own_contexts_may_include_each_other() -> None:
    text = with_line("include => voxtra-acme-fallback")
    assert told(text, ACME) == []
    assert refused(text) == []


def test_the_end_template_of_a_file_is_known() -> None:
    assert told(f"{GOOD}[voxtractl-end-extensions-acme-3f9c01d2](!)\n", ACME) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (GOOD + "[voxtra-beta-inbound]\nexten => 1,1,Hangup()\n", "1 has no owner here"),
        (GOOD + "[general]\n", "nobody here owns this context"),
        (GOOD + "[globals]\nX=1\n", "X => in a generated context"),
        (GOOD + f"[from-trunk]\nexten => {TWO},1,Hangup()\n", f"{TWO} has no owner here"),
        (GOOD + f"[from-trunk]\nexten => {TWO[1:]},1,Hangup()\n", f"{TWO[1:]} has no owner here"),
        (GOOD + "[from-trunk]\nexten => _X.,1,Hangup()\n", "_X. has no owner here"),
        (GOOD + f"[did-001]\nexten => {ONE},1(v-aaa),Hangup()\n", f"{ONE} has no owner here"),
        (with_line("include => voxtra-beta-outbound"), "include => in a generated context"),
        (with_line("switch => Realtime"), "switch => in a generated context"),
        (with_line("exten => 1,2,Hangup()"), "1 goes from priority 0 to 2"),
        (with_line("exten => 1,1,Answer()\n same => n+1,Hangup()"), "1 goes from priority 1 to 3"),
        (with_line("exten => 1,1,Answer()\nexten => 1,1,Hangup()"), "1 has priority 1 twice"),
        (with_line("exten => a-b,1,Answer()\nexten => ab,1,Hangup()"), "ab has priority 1 twice"),
        (with_line("exten => ${X},1,Hangup()"), "an extension Asterisk will not match"),
        (with_line("exten => " + "1" * 80 + ",1,Hangup()"), "an extension Asterisk will not match"),
        (with_line("exten => 1,1,"), "1 runs no application"),
        (with_line("exten => 1,x,Hangup()"), "'x' is not a priority"),
        (with_line("exten => 1,1,NoOp(${X)"), "brackets that do not match"),
        (with_line("exten => 1,1,NoOp(a)b()"), "brackets that do not match"),
        (with_line("exten => 1,1,NoOp(" + "x" * 8000 + ")"), "a line over 8000 bytes"),
        (with_line("exten => 1,1,NoOp(a\0b)"), "a control character or a line break of Unicode"),
        (with_line("exten => 1,1,NoOp(a\u2028b)"), "a control character or a line break of Unicode"),
        (with_line("exten => 1,1,NoOp()\r"), "a control character or a line break of Unicode"),
        (with_line("#include secrets.conf"), "#include reads another file"),
        (with_line("#exec id"), "#exec reads another file"),
        (with_line("[broken"), "a section header that does not close"),
        (with_line("words"), "a line without ="),
        (with_line(";-- to the end"), "a block comment that never ends"),
        (GOOD.replace("1(v-aaa),NoOp", "1,NoOp"), f"{ONE} has no label on its priority 1"),
        (GOOD.replace("1(v-aaa),Hangup", "1,Hangup"), "s has no label on its priority 1"),
        (GOOD.replace("1(v-aaa),Hangup", "1(v-bbb),Hangup"), "it has different labels"),
        (FALLBACK, f"{ONE} is missing"),
        (STANZA, "s is missing"),
    ],
)
def test_one_fault_has_one_reason(text: str, what: str) -> None:
    assert [line.split(": ", 2)[2] for line in told(text, ACME)] == [what]


def test_a_reason_names_file_and_line() -> None:
    (reason,) = lint.lint_file("extensions", with_line("exten => 1,2,Hangup()"), [ACME], file="a.conf")
    assert (reason.file, reason.line, reason.path) == ("a.conf", 9, "voxtra-acme-inbound")
    assert reason.todo


def test_a_hint_of_the_operators_template_is_no_fault() -> None:
    assert told(with_line("exten => 1,hint,PJSIP/agent1"), ACME) == []


def test_two_tenants_of_one_file_do_not_take_each_others_place() -> None:
    beta = GOOD.replace("acme", "beta").replace(ONE, TWO).replace(ONE[1:], TWO[1:]).replace("v-aaa", "v-bbb")
    assert told(GOOD + beta, ACME, BETA) == []
    assert f"1: from-trunk: {TWO} is missing" in told(GOOD, ACME, BETA)
    assert told(GOOD + beta, ACME)


def test_the_shared_file_holds_patterns_that_leave_handlers_alone() -> None:
    assert told("[from-trunk]\nexten => _[+0-9]!,1,Hangup(1)\nexten => i,1,Hangup(1)\n") == []
    for exten in ("_.", "_!", "_h", "_[a-z]!", "_[^0-9]!", "_[0-9a-t]!"):
        text = f"[from-trunk]\nexten => {exten},1,Hangup(1)\n"
        assert told(text) == [f"2: from-trunk: {exten} may take h, i, s and t too"]
    assert told(f"[from-trunk]\nexten => {ONE},1,Hangup()\n") == [f"2: from-trunk: {ONE} in the shared file"]
    assert told("[voxtra-acme-inbound]\nexten => 1,1,Hangup()\n") == [
        "2: voxtra-acme-inbound: 1 has no owner here"
    ]


def test_objects_and_queues_have_owners_too() -> None:
    assert told("[acme-trunk]\ntype = aor\n", ACME, kind="pjsip") == []
    assert told("[beta-trunk]\ntype = aor\n", ACME, kind="pjsip") == ["1: : a name nobody here owns"]
    assert told("[acme-support]\n", ACME, kind="queues") == []
    assert told("[acme-sales]\n", ACME, kind="queues") == ["1: : a name nobody here owns"]


# --- a tenant's own template ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        "Answer()",
        "Playback(vm-goodbye)",
        "Playback(${URIDECODE(a%20b)})",
        "Goto(s,1)",
        "Goto(voxtra-acme-fallback,s,1)",
        f"Goto(from-trunk,{ONE},1)",
        'GotoIf($["${X}" = "1"]?a:voxtra-acme-queues,support,1)',
        "GotoIfTime(9:00-17:00,mon-fri,*,*?voxtra-acme-queues,support,1)",
        "Gosub(voxtra-acme-inbound,1,1(a,b))",
        "Goto(voxtra-shared-fallback,s,1)",
        "Gosub(voxtra-shared-dispatch,1000,1(acme,voxtra-acme,20))",
        "Gosub(voxtra-shared-dispatch,${FILTER(0-9+*#,${EXTEN})},1(acme,voxtra-acme,))",
        "Gosub(voxtra-shared-inbound,s,1(acme,${FILTER(0-9,${EXTEN})}))",
        "Gosub(voxtra-shared-queues,s,1(acme,voxtra-acme,acme-support))",
        "Gosub(voxtra-shared-outbound,s,1(acme,${FILTER(0-9+,${EXTEN})},${LEN(${EXTEN})},20,+265888000001))",
        "Queue(acme-support)",
        "Queue(acme-support,tT,,,60)",
        "Stasis(voxtra-acme,${EXTEN},more)",
        "Dial(PJSIP/${FILTER(0-9+,${EXTEN})}@acme-trunk,60)",
        "Dial(PJSIP/+265999000009@acme-trunk,60,tT)",
        "Set(VOXTRA_X=${FILTER(0-9,${EXTEN})})",
        "Set(CALLERID(num)=+265999000001)",
        "Set(CHANNEL(language)=en)",
        "Set(GROUP(voxtra)=acme)",
        "Hangup(${HANGUPCAUSE})",
    ],
)
def test_an_own_template_may_do_what_is_its_own(call: str) -> None:
    assert refused(with_line(f"exten => 1,1,{call}")) == []


@pytest.mark.parametrize(
    "call",
    [
        "System(id)",
        "TrySystem(id)",
        "AGI(x)",
        "Exec(System(id))",
        "ExecIf($[1]?System(id))",
        "MixMonitor(a.wav,,id)",
        "Record(a.wav)",
        "ChanSpy()",
        "Originate(Local/1@x,exten,a,1,1)",
        "NoOp(${SHELL(id)})",
        "NoOp(${CURL(http://x)})",
        "NoOp(${ENV(PATH)})",
        "NoOp(${FILE(/etc/passwd)})",
        "NoOp(${AST_CONFIG(ari.conf,a,password)})",
        "NoOp(${DB(a/b)})",
        "NoOp(${EVAL(${X})})",
        "NoOp(${${X}})",
        "NoOp(${${X}(id)})",
        "NoOp(${ SHELL(id)})",
        "Goto(voxtra-beta-outbound,1,1)",
        "Goto(${X},1,1)",
        f"Goto(from-trunk,{TWO},1)",
        "Goto(from-trunk,${EXTEN},1)",
        "Gosub(voxtra-beta-inbound,1,1)",
        "GotoIf($[1]?voxtra-beta-inbound,1,1)",
        "GotoIf($[1]?a:voxtra-beta-inbound,1,1)",
        "GotoIf(1?a)",
        "Queue(beta-support)",
        "Queue(${X})",
        "Queue(acme-support,,,,,agi.sh)",
        "Queue(acme-support,F(x^1^1))",
        "Stasis(voxtra-beta)",
        "Stasis(${X})",
        "Dial(PJSIP/1@beta-trunk,60)",
        "Dial(PJSIP/${EXTEN}@acme-trunk,60)",
        "Dial(Local/1@voxtra-beta-outbound)",
        "Dial(PJSIP/1@acme-trunk&Local/1@x,60)",
        "Dial(PJSIP/1@acme-trunk,60,U(x))",
        "Dial(PJSIP/1@acme-trunk,60,F(x^1^1))",
        "Dial(PJSIP/1@acme-trunk,60,t,http://x)",
        "Set(SHELL(x)=1)",
        "Set(GLOBAL(X)=1)",
        "Set(GROUP(voxtra)=beta)",
        "Set(CHANNEL(hangup_handler_push)=voxtra-beta-inbound,1,1)",
        "Set(__TRANSFER_CONTEXT=voxtra-beta-outbound)",
        "Gosub(voxtra-shared-dispatch,1000,1(beta,voxtra-acme,))",
        "Gosub(voxtra-shared-dispatch,1000,1(acme,voxtra-beta,))",
        "Gosub(voxtra-shared-dispatch,${EXTEN},1(acme,voxtra-acme,))",
        "Gosub(voxtra-shared-dispatch,1000,1(${EXTEN},voxtra-acme,))",
        "Gosub(voxtra-shared-inbound,s,1(beta,1))",
        "Gosub(voxtra-shared-inbound,s,1(acme,${EXTEN}))",
        "Gosub(voxtra-shared-queues,s,1(acme,voxtra-beta,acme-support))",
        "Gosub(voxtra-shared-queues,s,1(acme,voxtra-acme,beta-support))",
        "Gosub(voxtra-shared-queues,s,1(acme,voxtra-acme,))",
        "Gosub(voxtra-shared-queues,s,1(beta,voxtra-acme,acme-support))",
        "Gosub(voxtra-shared-queues,s,4(acme,voxtra-acme,acme-support))",
        "Gosub(voxtra-shared-outbound,s,1(beta,1,1,,))",
        "Gosub(voxtra-shared-outbound,s,4(acme,1,1,,))",
        "Gosub(voxtra-shared-outbound,s,1(acme,1,${LEN(${EXTEN})},,${EXTEN}))",
        "Goto(voxtra-shared-outbound,s,4)",
        "UserEvent(Other,Status: x)",
        "GotoIf($[1]?voxtra-shared-dispatch,1,1)",
        "Playback(http://x/y)",
        "Playback(${URIDECODE(http%3A%2F%2Fx)})",
        "Background(a,n,en,voxtra-beta-inbound)",
    ],
)
def test_an_own_template_may_not_reach_out(call: str) -> None:
    assert refused(with_line(f"exten => 1,1,{call}"))


@pytest.mark.parametrize(
    "name", ["voxtra-acme-inbound](!", "voxtra-acme-inbound](+", "voxtra-acme-inbound](x"]
)
def test_an_own_template_may_not_inherit_or_define_templates(name: str) -> None:
    assert "options on a section" in refused(f"{GOOD}[{name})\nexten => 1,1,Hangup()\n")


@pytest.mark.parametrize(
    ("line", "good"),
    [
        (f"exten => {ONE},1,Goto(from-trunk,{ONE},1)", True),
        ("exten => _[+0-9]!,1,Goto(voxtra-acme-inbound,1,1)", False),
        ("exten = _X.,1,Hangup()", False),
        ("include => voxtra-acme-inbound", False),
    ],
)
def test_what_an_own_template_lets_the_trunk_transfer_to_is_written_out(line: str, good: bool) -> None:
    assert (refused(with_line(line, "voxtra-acme-transfer")) == []) == good


def test_an_own_template_has_no_hints() -> None:
    assert refused(with_line("exten => 1,hint,PJSIP/x")) == ["a hint"]


def test_an_own_template_jumps_within_the_trunk_context_to_own_numbers_only() -> None:
    assert refused(GOOD.replace(f"Goto({ONE},1)", f"Goto({TWO},1)")) == [f"a jump to {TWO} in from-trunk"]


def test_with_shared_apps_the_tenant_stays_the_first_argument() -> None:
    shared = Bounds(
        slug="acme",
        trunk_context="from-trunk",
        dids={},
        app="voxtra",
        apps=("voxtra",),
        stasis_argument="acme,",
        queues=(),
        trunk=False,
        fallback=True,
    )
    good = FALLBACK + "[voxtra-acme-inbound]\nexten => 1,1,Stasis(voxtra,acme,1)\n"
    assert refused(good, bounds=shared) == []
    assert refused(good.replace(",acme,1", ",beta,1"), bounds=shared)
    assert refused(good.replace(",acme,1", ""), bounds=shared)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("[acme-trunk]\ntype = endpoint\ncontext = voxtra-acme-inbound\nallow_transfer = no\n", True),
        ("[acme-trunk]\ntype = endpoint\nset_var = TRANSFER_CONTEXT=voxtra-acme-transfer\n", True),
        ("[acme-trunk]\ntype = endpoint\nset_var = TRANSFER_CONTEXT=voxtra-beta-outbound\n", False),
        ("[acme-trunk]\ntype = endpoint\nallow = ulaw\n", False),  # Asterisk lets it transfer then
        ("[acme-trunk]\ntype = endpoint\nallow_transfer = yes\n", False),
        ("[acme-trunk]\ntype = endpoint\ncontext = voxtra-beta-inbound\n", False),
        ("[acme-trunk]\ntype = endpoint\nset_var = CHANNEL(x)=y\n", False),
        ("[acme-trunk]\ntype = endpoint\naors = beta-trunk\n", False),
        ("[acme-trunk]\ntype = transport\n", False),
        ("[acme-trunk]\ncontact = sip:x\n", False),
        ("[acme-trunk](beta-trunk)\ntype = aor\n", False),
        ("[acme-trunk]\ntype = identify\nendpoint = beta-trunk\n", False),
        ("[acme-trunk]\ntype = auth\npassword = secret-canary\nrefresh_token = x\n", False),
    ],
)
def test_own_objects_of_pjsip_lead_nowhere_else(text: str, good: bool) -> None:
    reasons = lint.restrict("pjsip", text, ACME, file="own.j2")
    assert (reasons == ()) == good
    assert "secret-canary" not in "".join(map(str, reasons))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("[acme-support]\nstrategy = rrmemory\nmember => PJSIP/agent1\n", True),
        ("[acme-support]\nmember => Local/1@voxtra-beta-outbound\n", False),
        ("[acme-support]\ncontext = voxtra-beta-inbound\n", False),
        ("[acme-support]\nsetinterfacevar = yes\n", False),
        ("[general]\nstrategy = ringall\n", False),
    ],
)
def test_own_queues_hold_own_settings(text: str, good: bool) -> None:
    assert (refused(text, "queues") == []) == good
