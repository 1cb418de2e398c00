"""Rendering by its promises: same input same bytes, labels that follow the text, own templates in bounds."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtractl import naming
from voxtractl.dialplan import lint, syntax
from voxtractl.errors import LintFailed, RenderError, TemplateError, UnsafeValue
from voxtractl.model.fleet import Defaults, Fleet
from voxtractl.model.node import Node
from voxtractl.model.tenant import Fallback, Outbound, Queue, Tenant, Trunk
from voxtractl.render import engine, templates
from voxtractl.render.bundle import Bundle
from voxtractl.render.templates import Template, TemplateSet
from voxtractl.settings import Secret, SecretRef

GOLDEN = Path(__file__).parent / "golden"
SET = templates.find()
REF = SecretRef("env", ("ACME",), "tenants.acme.trunk.password_env")
NODE = Node(
    name="pbx1", ari="http://x", ari_user="u", ari_password=REF, store="local:/etc/asterisk/voxtractl"
)
PASSWORD = "canary;pass"
SECRETS = {"acme": Secret(PASSWORD)}
ONE, TWO, OTHER = "+265999000001", "+265999000002", "+265999000003"
ACME = Tenant(
    slug="acme",
    name="Acme Ltd",
    app="voxtra-acme",
    dids=(ONE, TWO),
    extensions=("1000",),
    max_channels=20,
    fallback=Fallback("play", "vm-goodbye"),
    trunk=Trunk(host="sip.carrier.example", username="acme", password=REF),
    queues=(Queue(name="support", members=("PJSIP/agent1",)),),
    outbound=Outbound(caller_ids=("+265888000001",), allow=("+265",), deny=("+2659",)),
)
BETA = Tenant(slug="beta", name="Beta", app="voxtra-beta", dids=(OTHER,))


def fleet_of(*tenants: Tenant, defaults: Defaults | None = None) -> Fleet:
    return Fleet({tenant.slug: tenant for tenant in tenants}, {}, defaults or Defaults())


def render(
    fleet: Fleet,
    secrets: Mapping[str, Secret] = SECRETS,
    overrides: engine.Overrides | None = None,
    found: TemplateSet = SET,
) -> Bundle:
    return engine.render(fleet, NODE, found, secrets, overrides=overrides)


def text_of(bundle: Bundle, kind: str = "extensions", slug: str = "acme") -> str:
    return bundle.files[bundle.places[slug, kind]].decode()


def packaged(name: str, text: str) -> TemplateSet:
    """The packaged set with one template's text replaced."""
    return TemplateSet.of({**dict(SET.templates), name: Template.of(f"/t/{name}", text)})


def own(kind: str, text: str, tenant: Tenant = ACME) -> tuple[Fleet, engine.Overrides]:
    """A fleet whose acme has its own template for one kind."""
    with_own = dataclasses.replace(tenant, templates={kind: "own.j2"})
    return fleet_of(with_own, BETA), {(tenant.slug, kind): Template.of("own.j2", text)}


# --- what comes out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("plain", Defaults()),
        ("workers", Defaults(workers=3, unmatched="beta")),
        ("shared-apps", Defaults(apps="shared")),
    ],
)
def test_the_files_are_those_that_were_reviewed(name: str, defaults: Defaults) -> None:
    """The files lie under golden/; after a wanted change write them with VOXTRACTL_GOLDEN=write."""
    bundle = render(fleet_of(ACME, BETA, defaults=defaults))
    held = {path: content.decode() for path, content in bundle.files.items() if "/" in path}
    shown = "\n".join(f"##### {path}\n{content}" for path, content in held.items())
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("VOXTRACTL_GOLDEN") == "write":
        golden.write_text(shown)
    assert shown == golden.read_text()


@pytest.mark.parametrize("apps", ["per-tenant", "shared"])
@pytest.mark.parametrize("unmatched", ["reject", "acme"])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    "fallback", [None, Fallback("play", "a b"), Fallback("dial", "+265777"), Fallback("queue", "support")]
)
def test_everything_the_packaged_templates_make_proves(
    fallback: Fallback | None, workers: int, unmatched: str, apps: str
) -> None:
    defaults = Defaults(workers=workers, unmatched=unmatched, apps=apps)
    fleet = fleet_of(dataclasses.replace(ACME, fallback=fallback), BETA, defaults=defaults)
    bundle = render(fleet)
    assert lint.lint_bundle(bundle.files, fleet, "pbx1") == ()


def test_only_the_files_that_were_asked_for_are_proven() -> None:
    fleet = fleet_of(ACME, BETA)
    files = {**render(fleet).files, "extensions/beta.conf": b"words\n"}
    assert lint.lint_bundle(files, fleet, "pbx1", only=["extensions/acme.conf"]) == ()
    found = lint.lint_bundle(files, fleet, "pbx1", only=["extensions/beta.conf"])
    assert {reason.file for reason in found} == {"extensions/beta.conf"}


def test_a_tenant_is_remembered_by_its_label_numbers_and_names() -> None:
    state = render(fleet_of(ACME, BETA)).tenants
    assert state["acme"].dids == (ONE, TWO)
    assert state["acme"].endpoint == "acme-trunk"
    assert state["acme"].queues == ("acme-support",)
    assert sorted(state["acme"].digests) == ["extensions", "pjsip", "queues"]
    assert sorted(state["beta"].digests) == ["extensions"]
    assert state["beta"].endpoint is None


def test_the_label_stands_on_every_did_and_follows_the_text() -> None:
    before, after = (
        render(fleet_of(ACME, BETA)),
        render(fleet_of(dataclasses.replace(ACME, dids=(ONE,)), BETA)),
    )
    steps = [s for c in syntax.read(text_of(before)).sections for s in syntax.steps(c)]
    labelled = {step.exten: step.label for step in steps if step.label.startswith("v-")}
    assert labelled == dict.fromkeys((ONE, TWO, "s"), before.tenants["acme"].label)
    assert before.tenants["acme"].label != after.tenants["acme"].label
    assert before.tenants["beta"] == after.tenants["beta"]


def test_what_only_the_runtime_needs_reaches_no_file() -> None:
    run = dataclasses.replace(ACME, handler="handlers/acme.py:app", max_media_legs=3)
    assert render(fleet_of(run)) == render(fleet_of(ACME))


def test_a_name_for_people_reaches_no_file() -> None:
    before = render(fleet_of(ACME))
    after = render(fleet_of(dataclasses.replace(ACME, name="Other\n[x]\n${SHELL(id)};--")))
    assert before.files == after.files


@settings(max_examples=25)
@given(st.permutations([ACME, BETA, *(dataclasses.replace(BETA, slug=f"t{n}", dids=()) for n in range(4))]))
def test_the_same_fleet_in_any_order_gives_the_same_bytes(tenants: list[Tenant]) -> None:
    one, two = render(fleet_of(*tenants)), render(fleet_of(*reversed(tenants)))
    assert one == two
    assert list(one.files.items()) == list(two.files.items())


def test_a_node_has_only_its_own_tenants() -> None:
    fleet = fleet_of(ACME, dataclasses.replace(BETA, nodes=("pbx2",)))
    assert list(render(fleet).tenants) == ["acme"]


def test_a_node_without_tenants_refuses_every_number() -> None:
    bundle = render(fleet_of())
    assert "exten => _[+0-9]!,1(v-" in text_of(bundle, slug=naming.SHARED)
    assert "Hangup(1)" in text_of(bundle, slug=naming.SHARED)


def test_many_dids_are_spread_over_buckets_by_their_last_digits() -> None:
    many = tuple(f"+2651{number:08d}" for number in range(naming.BUCKETS_ABOVE + 1))
    fleet = fleet_of(ACME, dataclasses.replace(BETA, dids=many))
    bundle = render(fleet)
    assert lint.lint_bundle(bundle.files, fleet, "pbx1") == ()
    shared = {section.name for section in syntax.read(text_of(bundle, slug=naming.SHARED)).sections}
    assert {f"did-{number:03d}" for number in range(1000)} < shared
    acme = {section.name for section in syntax.read(text_of(bundle)).sections}
    assert {"did-001", "did-002"} < acme
    assert "from-trunk" not in acme


def test_the_catch_all_tenant_must_be_on_the_node() -> None:
    with pytest.raises(RenderError, match=r"unmatched.*beta.*pbx1") as caught:
        render(fleet_of(ACME, defaults=Defaults(unmatched="beta")))
    assert caught.value.hint


def test_more_prefixes_are_a_table_and_deny_wins_a_tie() -> None:
    outbound = Outbound(caller_ids=("+265888000001",), allow=("+1", "", "+265"), deny=("+1",))
    text = text_of(render(fleet_of(dataclasses.replace(ACME, outbound=outbound))))
    found = {s.exten: s.app for c in syntax.read(text).sections for s in syntax.steps(c) if s.priority == 1}
    assert (found["_+1!"], found["_[+0-9]!"], found["_+265!"]) == ("Hangup", "Gosub", "Gosub")


@pytest.mark.parametrize(
    ("store", "config_dir", "prefix"),
    [
        ("local:/etc/asterisk/voxtractl", None, "voxtractl"),
        ("local:/etc/asterisk/voxtractl/", None, "voxtractl"),
        ("local:/srv/vox/store", "/srv/vox/etc", "../store"),
        ("sftp://deploy@pbx1.example.net/etc/asterisk/voxtractl", None, "voxtractl"),
        ("sftp://pbx1.example.net:22/etc/asterisk/x/voxtractl", "/etc/asterisk", "x/voxtractl"),
        ("memory:pbx1", None, "voxtractl"),
    ],
)
def test_includes_are_relative_to_asterisks_own_folder(
    store: str, config_dir: str | None, prefix: str
) -> None:
    node = dataclasses.replace(NODE, store=store, config_dir=config_dir)
    assert engine.store_prefix(node) == prefix
    bundle = engine.render(fleet_of(BETA), node, SET, {})
    assert f"#tryinclude {prefix}/current/extensions/beta.conf" in bundle.files["extensions.conf"].decode()


# --- values that cannot be ---------------------------------------------------------------------------------


def with_trunk(**changes: object) -> Tenant:
    values: dict[str, object] = {
        "host": "sip.carrier.example",
        "username": "acme",
        "password": REF,
        **changes,
    }
    return dataclasses.replace(ACME, trunk=Trunk(**values))  # type: ignore[arg-type]


def with_queue(**changes: object) -> Tenant:
    queue = Queue(**{"name": "support", **changes})  # type: ignore[arg-type]
    return dataclasses.replace(ACME, queues=(queue,), fallback=None)


HOSTILE = ("a\n[x]", "a\0b", "a\u2028b", " edge", "x y" * 4000)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "place",
    [
        lambda text: with_trunk(username=text),
        lambda text: with_trunk(host=text),
        lambda text: with_trunk(codecs=(text,)),
        lambda text: with_trunk(transport=text),
        lambda text: with_queue(name=text),
        lambda text: with_queue(members=(text,)),
        lambda text: with_queue(music=text),
        lambda text: with_queue(strategy=text),
        lambda text: dataclasses.replace(ACME, slug=text),
        lambda text: dataclasses.replace(ACME, app=text),
        lambda text: dataclasses.replace(ACME, dids=(text,)),
        lambda text: dataclasses.replace(ACME, extensions=(text,)),
        lambda text: dataclasses.replace(ACME, fallback=Fallback("dial", text)),
        lambda text: dataclasses.replace(ACME, fallback=Fallback("queue", text)),
        lambda text: dataclasses.replace(ACME, outbound=Outbound(caller_ids=(text,), allow=("+1",))),
        lambda text: dataclasses.replace(ACME, outbound=Outbound(caller_ids=("+1", text))),
        lambda text: dataclasses.replace(ACME, outbound=Outbound(caller_ids=(), allow=(text,))),
    ],
)
def test_a_value_no_file_can_carry_is_refused(place: object, text: str) -> None:
    assert callable(place)
    tenant = place(text)
    with pytest.raises(UnsafeValue) as caught:
        render(fleet_of(tenant), {tenant.slug: Secret(PASSWORD)})
    assert caught.value.hint
    assert PASSWORD not in f"{caught.value!r}{caught.value.details}"


@settings(max_examples=60)
@given(st.text(st.sampled_from(list('ab;-[]()#=>,${}\\" \n\r\0\u2028+é'))) | st.text())
def test_any_free_text_is_refused_or_changes_nothing_but_its_own_value(text: str) -> None:
    """What an honest value gives is the measure: the same sections, keys, extensions and applications."""

    def tenant(value: str) -> Tenant:
        return dataclasses.replace(
            ACME,
            name=value,
            fallback=Fallback("play", value),
            trunk=Trunk(host="sip.carrier.example", username=value, password=REF),
            queues=(Queue(name="support", music=value, members=(value,)),),
            outbound=None,
        )

    def shape(value: str) -> tuple[list[object], list[str]]:
        bundle = render(fleet_of(tenant(value), BETA), {"acme": Secret(value)})
        made: list[object] = []
        values: list[str] = []
        for path, content in bundle.files.items():
            if "/" not in path:
                continue
            parsed = syntax.read(content.decode())
            assert parsed.faults == []
            assert parsed.directives == []
            for section in parsed.sections:
                if not section.template:
                    made.append((path, section.name, section.options, [e.key for e in section.entries]))
                    made += [(s.exten, s.priority, s.app) for s in syntax.steps(section)]
                    values += [e.value for e in section.entries if not path.startswith("extensions")]
        return made, values

    expected, honest = shape("honest")
    try:
        found, values = shape(text)
    except UnsafeValue:
        return
    assert found == expected
    for before, after in zip(honest, values, strict=True):
        assert after == before if before != "honest" else text in (after, unquote(after))


def test_tenants_at_one_carrier_are_told_apart_by_did_and_a_lone_one_by_its_trunk() -> None:
    other = dataclasses.replace(with_trunk(host="SIP.carrier.example"), slug="beta", dids=(OTHER,))
    secrets = {**SECRETS, "beta": Secret("b")}
    both = text_of(render(fleet_of(ACME, other), secrets), "pjsip")
    lone = text_of(render(fleet_of(ACME, dataclasses.replace(other, nodes=("pbx2",))), secrets), "pjsip")
    assert "context = from-trunk\n" in both
    assert "context = voxtra-acme-inbound\n" in lone


def test_a_trunk_that_may_transfer_reaches_the_tenants_own_numbers_written_out() -> None:
    bundle = render(fleet_of(with_trunk(allow_transfer=True), BETA))
    (context,) = [
        section
        for section in syntax.read(text_of(bundle)).sections
        if section.name == naming.transfer_context("acme")
    ]
    assert {step.exten for step in syntax.steps(context)} == {ONE, ONE[1:], TWO, TWO[1:], "1000"}
    assert "set_var = TRANSFER_CONTEXT=voxtra-acme-transfer\n" in text_of(bundle, "pjsip")
    assert naming.transfer_context("acme") not in text_of(render(fleet_of(ACME)))


def test_a_password_that_was_not_given_is_told() -> None:
    with pytest.raises(RenderError, match="password was not given") as caught:
        render(fleet_of(ACME), {})
    assert "tenants.acme.trunk.password_env" in (caught.value.hint or "")


def test_dialling_needs_a_trunk() -> None:
    with pytest.raises(RenderError, match="no trunk to dial over"):
        render(fleet_of(dataclasses.replace(BETA, fallback=Fallback("dial", "+265777"))))
    lonely = dataclasses.replace(BETA, outbound=Outbound(caller_ids=("+265888000001",), allow=("+265",)))
    assert "voxtra-beta-outbound" not in text_of(render(fleet_of(lonely)), slug="beta")


# --- templates that are wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a\n{{ nothing }}\n", 2, "'nothing' is undefined"),
        ("a\n\n{% if %}\n", 3, "Expected an expression"),
        ("{{ slug.nothing }}\n", 1, "has no attribute 'nothing'"),
        ("\n{{ 1 / 0 }}\n", 2, "division by zero"),
        ("{{ slug + 1 }}\n", 1, "can only concatenate str"),
        ("{{ dids }}{{ slug | nothing }}", 1, "No filter named 'nothing'"),
        ("{% include 'x' %}", 1, "no loader"),
        ("{{ slug.__class__.__mro__ }}", 1, "unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(slug) }}", 1, "unsafe"),
        ("\n{{ none + 1 }}", 2, "unsupported operand"),
        ("{% for i in range(10000000) %}{% endfor %}", 1, "Range too big"),
    ],
)
def test_a_broken_template_is_told_with_its_line(text: str, line: int, what: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(fleet_of(ACME), found=packaged("pjsip/tenant.conf.j2", text))
    assert caught.value.template == "/t/pjsip/tenant.conf.j2"
    assert caught.value.line == line
    assert what in str(caught.value)
    assert caught.value.hint


def test_a_missing_value_names_the_tenant_and_those_there_are() -> None:
    with pytest.raises(TemplateError) as caught:
        render(fleet_of(BETA), found=packaged("extensions/tenant.conf.j2", "{{ sulg }}"))
    assert caught.value.details["tenant"] == "beta"
    assert "slug" in (caught.value.hint or "")


def test_a_template_may_not_run_away() -> None:
    text = "{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}"
    with pytest.raises(TemplateError, match="more than"):
        render(fleet_of(BETA), found=packaged("extensions/tenant.conf.j2", text))


def test_no_error_of_a_template_shows_a_secret() -> None:
    for text in (
        "{{ codecs[password] }}",
        "{{ nothing[password] }}",
        "{{ password.x }}",
        "{{ password + 1 }}",
    ):
        with pytest.raises(TemplateError) as caught:
            render(fleet_of(ACME), found=packaged("pjsip/tenant.conf.j2", text))
        told = f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.details}"
        assert PASSWORD not in told
        assert caught.value.__suppress_context__


# --- a tenant's own template ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("apps", ["per-tenant", "shared"])
def test_a_copy_of_the_packaged_template_is_a_good_own_template(apps: str, workers: int) -> None:
    defaults = Defaults(workers=workers, apps=apps, unmatched="acme")
    kinds = {kind: f"{kind}.j2" for kind in naming.KINDS}
    copies = {("acme", kind): SET[f"{kind}/tenant.conf.j2"] for kind in kinds}
    for tenant in (ACME, with_trunk(allow_transfer=True)):
        plain = render(fleet_of(tenant, BETA, defaults=defaults))
        with_copy = fleet_of(dataclasses.replace(tenant, templates=kinds), BETA, defaults=defaults)
        assert render(with_copy, overrides=copies).files == plain.files


def test_an_own_template_replaces_the_packaged_one_for_its_tenant_alone() -> None:
    text = SET["extensions/tenant.conf.j2"].text + "[{{ inbound_context }}]\nexten => 77,1,Hangup(16)\n"
    fleet, overrides = own("extensions", text)
    bundle = render(fleet, overrides=overrides)
    assert "exten => 77,1,Hangup(16)" in text_of(bundle)
    assert "exten => 77" not in text_of(bundle, slug="beta")
    assert bundle.tenants["beta"] == render(fleet_of(ACME, BETA)).tenants["beta"]
    assert lint.lint_bundle(bundle.files, fleet, "pbx1") == ()


@pytest.mark.parametrize(
    "line",
    [
        "[voxtra-beta-inbound]\nexten => 1,1,Hangup()",
        f"[from-trunk]\nexten => {OTHER},1(v-x),Stasis(voxtra-acme)",
        "[globals]\nX=1",
        "[general]\nautofallthrough=no",
        "#include /etc/asterisk/manager.conf",
        "#exec id",
        "#tryinclude x",
        "[voxtra-acme-inbound]\ninclude => voxtra-beta-outbound",
        "[voxtra-acme-inbound]\nexten => 9,1,System(id)",
        "[voxtra-acme-inbound]\nexten => 9,1,NoOp(${SHELL(id)})",
        "[voxtra-acme-inbound](+)\nexten => 9,1,NoOp()",
        "[voxtra-acme-inbound]\nexten => 9,1,NoOp(\0)",
        ";-- the rest",
        "--;",
    ],
)
def test_an_own_template_that_leaves_its_bounds_is_refused(line: str) -> None:
    fleet, overrides = own("extensions", SET["extensions/tenant.conf.j2"].text + f"{line}\n")
    with pytest.raises(LintFailed) as caught:
        render(fleet, overrides=overrides)
    assert caught.value.reasons
    assert {reason.file for reason in caught.value.reasons} == {"own.j2"}
    assert "acme" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{% set x = 1 %}", "assign"),
        ("{% macro m() %}{% endmacro %}", "macro"),
        ("{{ range(10) }}", "call"),
        ("{{ slug.upper() }}", "call"),
        ("{{ 'x' * 1000 }}", "mul"),
        ("{{ slug ~ slug }}", "concat"),
        ("{{ 2 ** 99 }}", "pow"),
        ("{{ '%99999d' % 1 }}", "mod"),
        ("{{ slug | center(99999) }}", "filter center"),
        ("{{ slug | replace('a', 'aa') }}", "filter replace"),
        ("{% include 'x' %}", "include"),
        ("{% import 'x' as x %}", "import"),
        ("{% extends 'x' %}", "extends"),
        ("{% block x %}{% endblock %}", "block"),
        ("{% filter upper %}{% endfilter %}", "filterblock"),
        ("{% for a in slug recursive %}{% endfor %}", "loops"),
        (
            "{% for a in slug %}{% for b in slug %}{% for c in slug %}{% endfor %}{% endfor %}{% endfor %}",
            "loops",
        ),
        ("{# " + "x" * 70_000 + " #}", "characters"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion"),
    ],
)
def test_an_own_template_may_use_nothing_that_grows_or_runs_on(text: str, what: str) -> None:
    fleet, overrides = own("extensions", text)
    with pytest.raises(TemplateError) as caught:
        render(fleet, overrides=overrides)
    assert what in str(caught.value)
    assert caught.value.template == "own.j2"
    assert caught.value.tenant == "acme"


def test_the_output_of_an_own_template_is_bounded() -> None:
    text = "{% for a in routes %}{% for b in a[1] %}" + "x" * 60_000 + "{% endfor %}{% endfor %}"
    many = dataclasses.replace(ACME, dids=tuple(f"+26599900{n:04d}" for n in range(50)))
    fleet, overrides = own("extensions", text, many)
    with pytest.raises(TemplateError, match="more than 262144 bytes"):
        render(fleet, overrides=overrides)


def test_an_own_template_that_was_not_given_is_told() -> None:
    fleet, _ = own("extensions", "")
    with pytest.raises(TemplateError, match="not given") as caught:
        render(fleet)
    assert caught.value.template == "own.j2"


def test_an_own_template_for_pjsip_shows_its_secret_to_nobody() -> None:
    for text in (
        "[acme-trunk]\ntype = {{ password }}\n",
        "[{{ password }}]\ntype = aor\n",
        "{{ password }}\n",
    ):
        fleet, overrides = own("pjsip", text)
        with pytest.raises(LintFailed) as caught:
            render(fleet, overrides=overrides)
        told = f"{caught.value} {caught.value.hint} {caught.value.details}"
        assert PASSWORD not in told
        assert PASSWORD.partition(";")[0] not in told
