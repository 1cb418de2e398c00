"""The files of a node: what holds what, and what changes when one fragment does."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from voxtractl import naming
from voxtractl.dialplan import syntax
from voxtractl.render.bundle import Bundle, Fragment, TenantState, assemble, index_file


def bundle_of(count: int, **texts: str) -> Bundle:
    """A bundle of tenants t0, t1 …; ``texts`` replaces the fragment of one."""
    slugs = [f"t{number}" for number in range(count)]
    fragments = [Fragment(naming.SHARED, "extensions", "[from-trunk]\n", "shared.j2")]
    fragments += [
        Fragment(slug, kind, texts.get(slug, f"[{slug}-{kind}]\n"), "x.j2")
        for slug in slugs
        for kind in naming.KINDS
    ]
    states = {slug: TenantState(label=f"v-{slug}", dids=(), digests={}) for slug in slugs}
    return assemble("pbx1", fragments, states, prefix="voxtractl", trunk_context="from-trunk")


def sections(content: bytes) -> list[syntax.Section]:
    return syntax.read(content.decode()).sections


def test_up_to_64_tenants_have_a_file_each_and_more_share_64() -> None:
    assert len([p for p in bundle_of(64).files if p.startswith("pjsip/")]) == 64
    assert len([p for p in bundle_of(1000).files if p.startswith("pjsip/")]) <= 64


def test_every_file_ends_with_a_template_that_the_end_file_demands() -> None:
    bundle = bundle_of(3)
    for kind in naming.KINDS:
        held = [path for path in bundle.files if path.startswith(f"{kind}/")]
        ends = [sections(bundle.files[path])[-1] for path in held]
        assert all(end.template and not end.entries for end in ends)
        end, *_ = sections(bundle.files[f"{kind}-end.conf"])
        assert end.name == naming.END_CONTEXT
        assert list(end.options) == ["!", *(e.name for e in ends)]
        assert bundle.marks[kind] in bundle.files[f"{kind}-end.conf"].decode()


def test_the_index_includes_every_file_and_the_end_file_last() -> None:
    bundle = bundle_of(3)
    for kind in naming.KINDS:
        included = [d.value for d in syntax.read(bundle.files[index_file(kind)].decode()).directives]
        held = [path for path in bundle.files if path.startswith(f"{kind}/")]
        assert included == [f"voxtractl/current/{path}" for path in [*held, f"{kind}-end.conf"]]


def test_places_tell_which_file_holds_a_tenant() -> None:
    bundle = bundle_of(200)
    for (slug, kind), path in bundle.places.items():
        if slug != naming.SHARED:
            assert f"[{slug}-{kind}]" in bundle.files[path].decode()


def test_one_changed_fragment_changes_one_file_and_the_end_of_its_kind() -> None:
    before, after = bundle_of(200), bundle_of(200, t7="[t7-changed]\n")
    changed = {path for path in before.files if before.files[path] != after.files[path]}
    held = {after.places["t7", kind] for kind in naming.KINDS}
    assert changed == held | {f"{kind}-end.conf" for kind in naming.KINDS}
    assert before.tree != after.tree
    assert all(before.marks[kind] != after.marks[kind] for kind in naming.KINDS)


@given(st.permutations(range(12)))
def test_the_order_of_fragments_does_not_count(order: list[int]) -> None:
    fragments = [Fragment(f"t{n}", "queues", f"[q{n}]\n", "x.j2") for n in range(12)]
    states = {f"t{n}": TenantState(label="v-a", dids=(), digests={}) for n in range(12)}
    made = [
        assemble(
            "n",
            [fragments[n] for n in numbers],
            {f"t{n}": states[f"t{n}"] for n in numbers},
            prefix="p",
            trunk_context="c",
        )
        for numbers in (range(12), order)
    ]
    assert made[0] == made[1]
    assert [list(bundle.files) for bundle in made] == [sorted(made[0].files)] * 2


def test_a_bundle_without_tenants_still_proves_itself() -> None:
    bundle = assemble("n", [], {}, prefix="p", trunk_context="c")
    for kind in naming.KINDS:
        assert re.fullmatch(r"h-[0-9a-f]{12}", bundle.marks[kind])
        assert bundle.marks[kind] in bundle.files[f"{kind}-end.conf"].decode()
    assert replace(bundle) == bundle
