"""Manifests, audit lines and revision names."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.deploy.revision import KEEP, Manifest, Record, manifest_of, prune, revision_id
from voxtractl.render.bundle import Fragment, TenantState, assemble

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BUNDLE = assemble(
    "pbx1",
    [Fragment("acme", "extensions", "x\n", "t"), Fragment("acme", "queues", "y\n", "t")],
    {
        "acme": TenantState(
            "v-1", ("+265999000001",), {"extensions": "a", "queues": "b"}, "acme-trunk", ("acme-q",)
        )
    },
    prefix="voxtractl",
    trunk_context="from-trunk",
)


def manifest() -> Manifest:
    return manifest_of(BUNDLE, revision="r1", who="me@here", when=WHEN, base="r0", tool="voxtractl 0")


def test_a_manifest_survives_the_disk() -> None:
    assert Manifest.from_json(manifest().to_json()) == manifest()


def test_the_time_in_a_manifest_is_utc() -> None:
    assert manifest().when == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"format": 2}', b'{"format": 1}', b"\xff"])
def test_a_damaged_manifest_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        Manifest.from_json(content)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_manifest_reader_fail_otherwise(content: bytes) -> None:
    with pytest.raises(ValueError):
        Manifest.from_json(content)


@given(st.integers(min_value=0, max_value=len(manifest().to_json()) - 2))
def test_a_cut_manifest_is_a_value_error(length: int) -> None:
    with pytest.raises(ValueError):
        Manifest.from_json(manifest().to_json()[:length])


def test_an_audit_line_is_one_line_and_survives_the_disk() -> None:
    record = Record(
        when="2026-01-02T03:04:05.000Z",
        who="eva\n@pbx",
        node="pbx1",
        outcome="pushed",
        revision="r2",
        base="r1",
        reason="ünïcode\u2028",
    )
    line = record.to_line()
    assert line.count("\n") == 1
    assert line.isascii()
    assert Record.from_line(line) == record
    with pytest.raises(ValueError):
        Record.from_line(line[: len(line) // 2])
    with pytest.raises(ValueError):
        Record.from_line('{"when": "now"}')


def test_revision_names_sort_by_time() -> None:
    assert revision_id("3f9c01d2a7b4ffff", WHEN) == "20260102T030405Z-3f9c01d2a7b4"


@given(st.lists(st.integers(0, 60).map(lambda n: f"r{n:02d}"), unique=True, max_size=20), st.data())
def test_pruning_keeps_the_newest_the_current_and_the_good_ones(
    names: list[str], data: st.DataObject
) -> None:
    current = data.draw(st.sampled_from(names)) if names else None
    good = data.draw(st.sets(st.sampled_from(names))) if names else set()
    gone = set(prune(names, current=current, good=good))
    assert gone.isdisjoint({current} | good | set(sorted(names)[-KEEP:]))
    assert len(set(names) - gone) <= KEEP + 1 + len(good)
