"""Names on Asterisk: made in one place, different for different tenants, within Asterisk's lengths."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl import naming

slugs = st.from_regex(naming.SLUG, fullmatch=True)
CONTEXTS = (
    naming.dispatch_context,
    naming.fallback_context,
    naming.inbound_context,
    naming.outbound_context,
    naming.queues_context,
    naming.transfer_context,
)


@given(slugs, slugs)
def test_two_tenants_never_share_a_context(one: str, other: str) -> None:
    names = {(slug, make.__name__): make(slug) for slug, make in product({one, other}, CONTEXTS)}
    assert len(set(names.values())) == len(names)


@given(slugs)
def test_a_context_is_shorter_than_asterisk_cuts(slug: str) -> None:
    assert max(len(make(slug)) for make in CONTEXTS) <= naming.CONTEXT_MAX


@pytest.mark.parametrize("slug", ["a", "acme", "a-", "a1-b2", "a" * 31])
def test_slugs(slug: str) -> None:
    assert naming.SLUG.fullmatch(slug)


@pytest.mark.parametrize("slug", ["", "1a", "-a", "A", "a_b", "a.b", "a b", "é", "a" * 32, "a\n"])
def test_no_slugs(slug: str) -> None:
    assert not naming.SLUG.fullmatch(slug)


@pytest.mark.parametrize("did", ["+2659990", "+265999000001", "+999999999999999"])
def test_dids(did: str) -> None:
    assert naming.DID.fullmatch(did)


@pytest.mark.parametrize(
    "did",
    ["265999000001", "+0123456", "+123456", "+1234567890123456", "+265٠٠٠٠٠٠", "+26 5999", "+2659990\n"],
)
def test_no_dids(did: str) -> None:
    assert not naming.DID.fullmatch(did)


def test_the_documented_names() -> None:
    assert naming.queue_name("acme", "support") == "acme-support"
    assert naming.trunk_endpoint("acme") == "acme-trunk"
    assert naming.outbound_context("acme") == "voxtra-acme-outbound"


def test_a_single_worker_has_the_plain_app() -> None:
    assert naming.worker_app("voxtra-acme", 1, 1) == "voxtra-acme"
    assert [naming.worker_app("x", n, 2) for n in (1, 2)] == ["x-1", "x-2"]


def test_up_to_64_tenants_have_a_file_each_and_more_share_64() -> None:
    assert naming.fragment_file("pjsip", "acme", 64) == "pjsip/acme.conf"
    many = {naming.fragment_file("pjsip", f"t{i}", 10_000) for i in range(10_000)}
    assert len(many) == naming.SHARDS
    assert naming.fragment_file("extensions", naming.SHARED, 10_000) == "extensions/shared.conf"


@given(st.binary())
def test_a_label_is_never_read_as_a_priority(fragment: bytes) -> None:
    """Asterisk reads a label that begins with a digit as a number."""
    assert naming.label(fragment)[0].isalpha()
    assert naming.label(fragment) == naming.label(fragment)


def test_end_templates_differ_by_file_and_by_content() -> None:
    pairs = product(("extensions/a.conf", "extensions/b.conf"), ("0" * 64, "1" * 64))
    assert len({naming.end_template(path, digest) for path, digest in pairs}) == 4
