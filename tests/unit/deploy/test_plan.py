"""Plans: what changes, what is refused, what the digest stands for."""

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.deploy.plan import Drift, FileState, Plan, Snapshot, diff, drift_of, plans_digest
from voxtractl.deploy.revision import Manifest, manifest_of
from voxtractl.errors import DriftFound, UnsafePlan
from voxtractl.render.bundle import Bundle, Fragment, TenantState, assemble

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def bundle_of(tenants: Mapping[str, tuple[str, ...]], node: str = "pbx1", kind: str = "extensions") -> Bundle:
    """A bundle whose tenants have these DIDs; the text is no dialplan, plans do not look inside."""
    texts = {slug: "".join(f"exten => {did},1,NoOp()\n" for did in dids) for slug, dids in tenants.items()}
    states = {
        slug: TenantState(f"v-{sha256(text.encode()).hexdigest()[:12]}", tenants[slug], {kind: text})
        for slug, text in texts.items()
    }
    fragments = [Fragment(slug, kind, text, "t") for slug, text in texts.items()]
    return assemble(node, fragments, states, prefix="voxtractl", trunk_context="from-trunk")


def manifest(bundle: Bundle, revision: str = "r1") -> Manifest:
    return manifest_of(bundle, revision=revision, who="me@here", when=WHEN, base=None, tool="t")


def snapshot(bundle: Bundle, drift: tuple[Drift, ...] = ()) -> Snapshot:
    return Snapshot(revision="r1", manifest=manifest(bundle), drift=drift)


def planned(before: Mapping[str, tuple[str, ...]], after: Mapping[str, tuple[str, ...]]) -> Plan:
    return diff(snapshot(bundle_of(before)), bundle_of(after))


def test_the_same_tenants_are_an_empty_plan() -> None:
    plan = planned({"acme": ("+265999000001",)}, {"acme": ("+265999000001",)})
    assert plan.empty
    assert plan.changes == ()
    assert plan.kinds == ()


def test_a_new_tenant_touches_its_own_file_and_the_index() -> None:
    plan = planned({"acme": ("+265999000001",)}, {"acme": ("+265999000001",), "beta": ("+265999000002",)})
    assert [(c.slug, c.action, c.dids_added) for c in plan.changes] == [("beta", "add", ("+265999000002",))]
    assert [(c.path, c.action) for c in plan.files] == [
        ("extensions-end.conf", "change"),
        ("extensions.conf", "change"),
        ("extensions/beta.conf", "add"),
    ]
    assert plan.kinds == ("extensions",)


def test_the_line_for_the_reviewer_counts_tenants_dids_and_deletions() -> None:
    before = {f"t{i:03d}": (f"+2659990{i:05d}",) for i in range(214)}
    after = {**before, "t007": ("+265999000007", "+265999100007", "+265999200007")}
    assert planned(before, after).blast_radius() == "changes 1 of 214 tenants, 3 DIDs; 0 deletions"


def test_one_third_of_the_tenants_may_not_go_unasked() -> None:
    before = dict.fromkeys(("acme", "beta", "gamma"), ())
    plan = planned(before, {"acme": (), "beta": ()})
    with pytest.raises(UnsafePlan, match="deletes 1 of 3 tenants on pbx1 \\(gamma\\)") as refused:
        plan.raise_if_unsafe()
    assert refused.value.hint is not None
    assert "--allow-deletes 1" in refused.value.hint
    plan.raise_if_unsafe(allow_deletes=1)


@pytest.mark.parametrize(("deleted", "refused"), [(20, False), (21, True)])
def test_more_than_twenty_tenants_may_not_go_unasked(deleted: int, refused: bool) -> None:
    before = {f"t{i:03d}": () for i in range(200)}
    plan = planned(before, dict(list(before.items())[deleted:]))
    if refused:
        with pytest.raises(UnsafePlan):
            plan.raise_if_unsafe(allow_deletes=20)
    else:
        plan.raise_if_unsafe()


def test_a_did_that_changes_owner_is_refused_by_name() -> None:
    plan = planned({"acme": ("+265999000001",), "beta": ()}, {"acme": (), "beta": ("+265999000001",)})
    with pytest.raises(UnsafePlan, match=r"\+265999000001 from acme to beta"):
        plan.raise_if_unsafe()
    plan.raise_if_unsafe(allow_move=True)


def test_a_did_of_a_deleted_tenant_given_to_another_is_a_move_too() -> None:
    before = {"acme": ("+265999000001",), "beta": (), "c": (), "d": ()}
    plan = planned(before, {"beta": ("+265999000001",), "c": (), "d": ()})
    assert [(m.did, m.old, m.new) for m in plan.moves] == [("+265999000001", "acme", "beta")]


def test_a_hand_edit_is_refused_and_makes_the_plan_not_empty() -> None:
    bundle = bundle_of({"acme": ()})
    plan = diff(snapshot(bundle, (Drift("extensions/acme.conf", "changed"),)), bundle)
    assert not plan.empty
    assert plan.kinds == ("extensions",)
    with pytest.raises(DriftFound, match=r"extensions/acme\.conf \(changed\)"):
        plan.raise_if_unsafe()
    plan.raise_if_unsafe(overwrite_drift=True)


def test_the_digest_names_node_base_and_content() -> None:
    bundle = bundle_of({"acme": ()})
    there = snapshot(bundle_of({}))
    digest = diff(there, bundle).digest
    assert digest.startswith("sha256:")
    assert diff(there, bundle).digest == digest
    assert diff(there._replace(revision="r2"), bundle).digest != digest
    assert diff(there, bundle_of({"beta": ()})).digest != digest
    assert diff(there, bundle_of({"acme": ()}, node="pbx2")).digest != digest


def test_one_digest_for_several_nodes_does_not_depend_on_their_order() -> None:
    plans = [diff(Snapshot(), bundle_of({"acme": ()}, node=node)) for node in ("a", "b")]
    assert plans_digest(plans) == plans_digest(plans[::-1])
    assert plans_digest(plans[:1]) == plans[0].digest


def test_drift_is_told_file_by_file() -> None:
    described = manifest(bundle_of({"acme": (), "beta": ()}))
    actual = {path: FileState(r.sha256, r.size, r.mode) for path, r in described.files.items()}
    assert drift_of(described, actual) == ()
    actual["extensions/acme.conf"] = FileState("0" * 64, 3, 0o640)
    actual["extensions/new.conf"] = FileState("0" * 64, 3, 0o640)
    actual["extensions.conf"] = actual["extensions.conf"]._replace(readable=False)
    del actual["extensions/beta.conf"]
    assert drift_of(described, actual) == (
        Drift("extensions.conf", "unreadable"),
        Drift("extensions/acme.conf", "changed"),
        Drift("extensions/beta.conf", "missing"),
        Drift("extensions/new.conf", "foreign"),
    )


SLUGS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True),
    st.lists(st.from_regex(r"\+[1-9][0-9]{6,8}", fullmatch=True), max_size=3, unique=True).map(tuple),
    max_size=6,
)


@given(before=SLUGS, after=SLUGS)
def test_a_plan_tells_every_difference_and_nothing_else(
    before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]
) -> None:
    plan = planned(before, after)
    changed = {slug for slug in before.keys() | after.keys() if before.get(slug) != after.get(slug)}
    assert {c.slug for c in plan.changes} == changed
    old, new = bundle_of(before).files, bundle_of(after).files
    assert {c.path for c in plan.files} == {p for p in old.keys() | new.keys() if old.get(p) != new.get(p)}
    assert set(plan.deletes) == before.keys() - after.keys()
