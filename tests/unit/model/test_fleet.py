"""Rules that tenants and nodes break together; each names both places."""

import pytest

from voxtractl import naming
from voxtractl.errors import FleetError
from voxtractl.model.document import Source, parse
from voxtractl.model.fleet import Fleet, check

TWO_NODES = """\
[nodes.pbx1]
ari = "http://127.0.0.1:8088"
ari_user = "a"
ari_password_env = "A"
store = "memory:a"
[nodes.pbx2]
ari = "http://127.0.0.1:8089"
ari_user = "a"
ari_password_env = "A"
store = "memory:b"
"""


def fleet_of(first: str, second: str = "") -> Fleet:
    return parse([Source("tenants.toml", first), Source("tenants.d/b.toml", second)])


def errors_of(first: str, second: str = "") -> list[str]:
    with pytest.raises(FleetError) as caught:
        fleet_of(first, second)
    return [str(reason) for reason in caught.value.reasons]


def test_a_tenant_that_stands_in_two_files_is_told_with_both_places() -> None:
    assert errors_of("\n[tenants.acme]\n", "[tenants.acme]\n") == [
        "tenants.d/b.toml:1:10: tenants.acme: this tenant stands here and there (tenants.toml:2); "
        "keep one of the two"
    ]


def test_a_did_has_one_owner() -> None:
    first = '[tenants.acme]\ndids = [\n  "+265999000001",\n  "+265999000002",\n]\n'
    second = '[tenants.beta]\ndids = ["+265999000003", "+265999000002"]\n'
    assert errors_of(first, second) == [
        "tenants.d/b.toml:2:26: tenants.beta.dids[1]: DID +265999000002 already belongs to acme "
        "(tenants.toml:4); give it to one of them"
    ]


def test_a_did_has_one_owner_on_different_nodes_too() -> None:
    text = "".join(
        f'[tenants.{slug}]\ndids = ["+265999000001"]\nnodes = ["{node}"]\n'
        for slug, node in (("a", "pbx1"), ("b", "pbx2"))
    )
    (error,) = errors_of(TWO_NODES + text)
    assert "tenants.b.dids[0]: DID +265999000001 already belongs to a (tenants.toml:12)" in error


def test_the_number_of_another_tenant_is_no_caller_id() -> None:
    text = (
        '[tenants.acme]\ndids = ["+265999000001"]\n'
        '[tenants.beta.outbound]\ncaller_ids = ["1000", "+265999000001"]\n'
    )
    assert errors_of(text) == [
        "tenants.toml:4:23: tenants.beta.outbound.caller_ids[1]: caller ID +265999000001 belongs to acme "
        "(tenants.toml:2); call under a number of this tenant"
    ]


def test_a_caller_id_is_shown_by_one_tenant() -> None:
    text = "".join(f'[tenants.{slug}.outbound]\ncaller_ids = ["+265888000001"]\n' for slug in "ab")
    assert errors_of(text) == [
        "tenants.toml:4:15: tenants.b.outbound.caller_ids[0]: caller ID +265888000001 belongs to a "
        "(tenants.toml:2); call under a number of this tenant"
    ]


def test_a_tenant_may_call_under_its_own_did_and_two_under_the_same_extension() -> None:
    text = '[tenants.a]\ndids = ["+265888000001"]\n' + "".join(
        f"[tenants.{slug}.outbound]\ncaller_ids = {ids}\n"
        for slug, ids in (("a", '["1000", "+265888000001"]'), ("b", '["1000"]'))
    )
    assert set(fleet_of(text).tenants) == {"a", "b"}


def test_queues_that_are_one_on_asterisk_are_refused() -> None:
    text = "[tenants.a-b.queues.c]\n[tenants.a.queues.b-c]\n"
    assert errors_of(text) == [
        "tenants.toml:2:19: tenants.a.queues.b-c: Asterisk would know it as a-b-c, and so the queue c of a-b "
        "(tenants.toml:1); rename one of the queues"
    ]


@pytest.mark.parametrize(
    ("slug", "queue"), [("voxtractl", "loaded"), ("voxtractl", "end"), ("voxtractl-end", "x")]
)
def test_a_queue_may_not_take_a_name_that_proves_a_load(slug: str, queue: str) -> None:
    (error,) = errors_of(f"[tenants.{slug}.queues.{queue}]\n")
    assert f"voxtractl needs the name {naming.queue_name(slug, queue)} itself; rename the queue" in error


def test_an_app_has_one_tenant_on_a_node() -> None:
    assert errors_of('[tenants.a]\napp = "voxtra-b"\n', "[tenants.b]\n") == [
        "tenants.d/b.toml:1:10: tenants.b.app: the Stasis app voxtra-b belongs to a (tenants.toml:2); "
        'give it another app, or set defaults.apps = "shared"'
    ]


def test_an_app_may_serve_another_tenant_on_another_node() -> None:
    text = "".join(
        f'[tenants.{slug}]\napp = "x"\nnodes = ["{node}"]\n' for slug, node in (("a", "pbx1"), ("b", "pbx2"))
    )
    assert len(fleet_of(TWO_NODES + text).tenants) == 2
    (error,) = errors_of(TWO_NODES + text + '[tenants.c]\napp = "X"\n')
    assert "tenants.c.app: the Stasis app X belongs to a" in error


def test_an_app_name_without_the_slug_is_one_error_however_many_tenants_there_are() -> None:
    text = '[defaults]\napp_name = "voxtra"\n' + "".join(f"[tenants.t{i}]\n" for i in range(5))
    assert errors_of(text) == [
        "tenants.toml:2:1: defaults.app_name: it gives 5 tenants the same Stasis app; "
        'write "voxtra-{{ slug }}", or set apps = "shared"'
    ]
    assert fleet_of('[defaults]\napp_name = "voxtra"\n[tenants.a]\n').tenants["a"].app == "voxtra"


def test_node_names_differ_in_more_than_case() -> None:
    (error,) = errors_of(TWO_NODES.replace("pbx2", "PBX1"))
    assert error == (
        "tenants.toml:6:8: nodes.PBX1: it differs from node pbx1 in case only (tenants.toml:1); rename one"
    )


@pytest.mark.parametrize(
    "member",
    [
        "Local/1000@voxtra-beta-outbound",
        "Local/1000@voxtra-beta-outbound/n",
        "Local/s@voxtra-beta-inbound",
        "PJSIP/265999@beta-trunk",
        "PJSIP/beta-trunk/sip:1@example.net",
    ],
)
def test_a_queue_may_not_ring_through_another_tenant(member: str) -> None:
    text = f'[tenants.acme.queues.a]\nmembers = ["PJSIP/x", "{member}"]\n[tenants.beta]\n'
    (error,) = errors_of(text)
    assert error == (
        f"tenants.toml:2:23: tenants.acme.queues.a.members[1]: {member} goes through what belongs to beta "
        "(tenants.toml:3); use an own endpoint or context"
    )


@pytest.mark.parametrize(
    "member", ["Local/1000@voxtra-a-b-outbound", "PJSIP/1@a-b-trunk", "Local/1@phones", "PJSIP/beta-desk"]
)
def test_a_queue_may_ring_through_its_own_tenant_and_through_nobodys(member: str) -> None:
    text = f'[tenants.a-b.queues.q]\nmembers = ["{member}"]\n[tenants.a]\n[tenants.b]\n[tenants.beta]\n'
    assert fleet_of(text).tenants["a-b"].queues[0].members == (member,)


def test_the_catch_all_must_be_on_every_node() -> None:
    text = TWO_NODES + '[tenants.acme]\nnodes = ["pbx1"]\n[defaults]\nunmatched = "acme"\n'
    assert errors_of(text) == [
        "tenants.toml:14:1: defaults.unmatched: acme is to catch every number, but is not on node pbx2 "
        "(tenants.toml:12); remove nodes from acme, or choose another tenant"
    ]
    assert fleet_of(text.replace('["pbx1"]', '["pbx1", "pbx2"]')).defaults.unmatched == "acme"


def test_a_mistyped_catch_all_is_told_what_was_meant() -> None:
    (error,) = errors_of('[defaults]\nunmatched = "acmee"\n[tenants.acme]\n')
    assert error.endswith('there is no such tenant; did you mean "acme"?')


def test_the_tenants_of_a_node_are_sorted_and_those_without_nodes_are_everywhere() -> None:
    text = TWO_NODES + '[tenants.c]\n[tenants.b]\nnodes = ["pbx2"]\n[tenants.a]\nnodes = ["pbx1"]\n'
    fleet = fleet_of(text)
    assert [t.slug for t in fleet.on("pbx1")] == ["a", "c"]
    assert [t.slug for t in fleet.on("pbx2")] == ["b", "c"]
    assert check(fleet) == []
