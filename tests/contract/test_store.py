"""What every store promises, run over all: in memory, on this disk, over SSH with and without a shell.

What lies on a disk is changed from outside, through the file system, never through the store under test.
"""

import asyncio
import os
from dataclasses import replace

import pytest

from tests.tools.bundles import bundle_of, manifest_for, record_for
from tests.tools.stores import Ground, pushed, store_of
from voxtractl.deploy.plan import Drift, diff
from voxtractl.deploy.revision import FileRecord
from voxtractl.errors import NodeLocked, StoreError

ONE = bundle_of({"acme": "+265999000001"})
TWO = bundle_of({"acme": "+265999000001", "beta": "+265999000002"})


# --- a push ---------------------------------------------------------------------------------------------


async def test_a_fresh_store_has_nothing(ground: Ground) -> None:
    async with store_of(ground) as store:
        snapshot = await store.observe()
        assert (snapshot.revision, snapshot.manifest, snapshot.files, snapshot.drift) == (None, None, {}, ())
        assert await store.revisions() == ()
        assert await store.history() == ()


async def test_what_was_pushed_is_what_is_observed(ground: Ground) -> None:
    async with store_of(ground) as store:
        manifest = await pushed(store, TWO)
        snapshot = await store.observe()
        assert snapshot.revision == manifest.revision
        assert snapshot.manifest == manifest
        assert snapshot.drift == ()
        assert {path: (f.sha256, f.size, f.mode) for path, f in snapshot.files.items()} == {
            path: (r.sha256, r.size, r.mode) for path, r in manifest.files.items()
        }
        assert all(f.readable for f in snapshot.files.values())
        assert diff(snapshot, TWO).empty


async def test_another_connection_sees_the_push(ground: Ground) -> None:
    async with store_of(ground) as store:
        manifest = await pushed(store, ONE)
    async with store_of(ground) as other:
        assert (await other.observe()).revision == manifest.revision
        assert await other.manifest(manifest.revision) == manifest
        assert await other.read([*ONE.files]) == ONE.files


async def test_the_lock_hands_out_what_it_observed(ground: Ground) -> None:
    async with store_of(ground) as store:
        manifest = await pushed(store, ONE)
        async with store.lock("alice") as snapshot:
            assert snapshot == await store.observe()
            assert snapshot.revision == manifest.revision


async def test_releases_stay_until_they_are_dropped(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        second = await pushed(store, TWO, after=1)
        third = await pushed(store, ONE, after=2)
        assert await store.revisions() == (first.revision, second.revision, third.revision)
        assert (await store.observe()).revisions == await store.revisions()
        assert await store.read(["extensions.conf"], first.revision) == {
            "extensions.conf": ONE.files["extensions.conf"]
        }
        async with store.lock("alice"):
            await store.record(record_for(third), drop=[first.revision])
        assert await store.revisions() == (second.revision, third.revision)


async def test_a_flip_brings_an_old_release_back(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        await pushed(store, TWO, after=1)
        async with store.lock("alice"):
            await store.flip(first.revision)
        snapshot = await store.observe()
        assert (snapshot.revision, snapshot.drift) == (first.revision, ())


async def test_the_same_tree_pushed_twice_within_a_second_after_another(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        await pushed(store, TWO)
        again = await pushed(store, ONE)
        assert again.revision == first.revision
        assert (await store.observe()).manifest == again


async def test_the_current_release_is_never_written_over(ground: Ground) -> None:
    async with store_of(ground) as store:
        manifest = await pushed(store, ONE)
        async with store.lock("alice"):
            with pytest.raises(StoreError, match="current on pbx1 already"):
                await store.push(manifest, ONE.files)
        assert (await store.observe()).drift == ()


async def test_a_release_that_was_edited_is_kept_aside(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        ground.edit("extensions/acme.conf", b"; by hand\n")
        async with store.lock("alice") as snapshot:
            manifest = manifest_for(ONE, 1, snapshot.revision)
            await store.push(manifest, ONE.files)
            await store.record(record_for(manifest), aside={first.revision: "drift-20261123T060001Z"})
        assert await store.revisions() == (manifest.revision,)
        kept = await store.read(["extensions/acme.conf"], "drift-20261123T060001Z")
        assert kept == {"extensions/acme.conf": b"; by hand\n"}


# --- history --------------------------------------------------------------------------------------------


async def test_history_keeps_every_record_in_order(ground: Ground) -> None:
    async with store_of(ground) as store:
        manifests = [await pushed(store, ONE), await pushed(store, TWO, after=1)]
        assert await store.history() == tuple(record_for(m) for m in manifests)


async def test_a_torn_last_line_costs_only_itself(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        ground.audit(b'{"when":"2026-11-23T06:0')
        assert await store.history() == (record_for(first),)
        second = await pushed(store, TWO, after=1)
        assert await store.history() == (record_for(first), record_for(second))


# --- the lock -------------------------------------------------------------------------------------------


async def test_the_second_pusher_is_told_who_holds_the_lock(ground: Ground) -> None:
    async with store_of(ground) as store, store_of(ground) as other:
        async with store.lock("alice"):
            with pytest.raises(NodeLocked, match=rf"alice \(process {os.getpid()} on ") as caught:
                async with other.lock("bob"):
                    pass
        assert caught.value.retryable
        async with other.lock("bob") as snapshot:
            assert snapshot.revision is None


async def test_the_record_ends_the_lock(ground: Ground) -> None:
    async with store_of(ground) as store, store_of(ground) as other, store.lock("alice"):
        await store.record(record_for(manifest_for(ONE)))
        async with other.lock("bob"):
            pass
        with pytest.raises(StoreError, match="needs the node's lock"):
            await store.flip("20261123T060000Z-000000000000")


async def test_closing_the_store_gives_the_lock_back(ground: Ground) -> None:
    async with store_of(ground) as other:
        async with store_of(ground) as store:
            await store.lock("alice").__aenter__()
        async with other.lock("bob"):
            pass


async def test_nothing_is_written_without_the_lock(ground: Ground) -> None:
    manifest = manifest_for(ONE)
    async with store_of(ground) as store:
        with pytest.raises(StoreError, match="a push on pbx1 needs the node's lock"):
            await store.push(manifest, ONE.files)
        with pytest.raises(StoreError, match="a flip on pbx1 needs the node's lock"):
            await store.flip(manifest.revision)
        with pytest.raises(StoreError, match="a record on pbx1 needs the node's lock"):
            await store.record(record_for(manifest))
        assert (await store.observe()).revision is None


async def test_a_closed_store_says_so(ground: Ground) -> None:
    store = store_of(ground)
    with pytest.raises(StoreError, match="the store of pbx1 is not open"):
        await store.observe()
    async with store:
        pass
    with pytest.raises(StoreError, match="the store of pbx1 is not open"):
        await store.revisions()


# --- a push that is refused -----------------------------------------------------------------------------


async def test_a_lying_manifest_is_caught_before_the_flip(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        honest = manifest_for(TWO, 1)
        lie = honest.files["extensions/beta.conf"]._replace(sha256="0" * 64)
        lying = replace(honest, files={**honest.files, "extensions/beta.conf": lie})
        async with store.lock("alice"):
            with pytest.raises(StoreError, match=r"not what was sent: extensions/beta\.conf"):
                await store.push(lying, TWO.files)
        snapshot = await store.observe()
        assert (snapshot.revision, snapshot.drift) == (first.revision, ())
        assert await store.revisions() == (first.revision,)


@pytest.mark.parametrize("change", ["missing", "foreign"])
async def test_a_file_too_many_or_too_few_is_caught_before_the_flip(ground: Ground, change: str) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        manifest = manifest_for(TWO, 1)
        files = dict(TWO.files)
        if change == "missing":
            del files["queues/beta.conf"]
        else:
            files["queues/zeta.conf"] = b"[zeta]\n"
        async with store.lock("alice"):
            with pytest.raises(StoreError, match="not what was sent"):
                await store.push(manifest, files)
        assert (await store.observe()).revision == first.revision


@pytest.mark.parametrize(
    "path",
    [
        "../extensions.conf",
        "/etc/passwd",
        "a/../../b.conf",
        "a//b",
        ".hidden",
        "a/.b",
        "a\nb",
        "",
        "a b",
        "-rf",
        "manifest.json",
        "a/",
        "extensions/é.conf",
    ],
)
async def test_a_path_that_leads_elsewhere_never_reaches_the_node(ground: Ground, path: str) -> None:
    manifest = manifest_for(ONE)
    record = FileRecord("0" * 64, 1)
    async with store_of(ground) as store:
        async with store.lock("alice"):
            with pytest.raises(StoreError, match="not a file name a release may hold"):
                await store.push(replace(manifest, files={path: record}), {path: b"x"})
        assert (await store.observe()).revision is None


@pytest.mark.parametrize("name", ["../..", "", ".", "..", "a/b", "a b", ".stage-x", "$(id)", "x\ny"])
async def test_a_revision_that_is_no_name_is_refused(ground: Ground, name: str) -> None:
    async with store_of(ground) as store:
        with pytest.raises(StoreError, match="is not the name of a revision"):
            await store.manifest(name)
        async with store.lock("alice"):
            with pytest.raises(StoreError, match="is not the name of a revision"):
                await store.flip(name)
            with pytest.raises(StoreError, match="is not the name of a revision"):
                await store.push(replace(manifest_for(ONE), revision=name), ONE.files)
            with pytest.raises(StoreError, match="is not the name of a revision"):
                await store.record(record_for(manifest_for(ONE)), drop=[name])


async def test_flipping_to_what_is_not_there_leaves_the_current_one(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        async with store.lock("alice"):
            with pytest.raises(StoreError, match="has no release 20261123T060009Z-000000000000"):
                await store.flip("20261123T060009Z-000000000000")
        assert (await store.observe()).revision == first.revision


async def test_the_current_release_is_neither_dropped_nor_renamed(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        async with store.lock("alice"):
            with pytest.raises(StoreError, match="stays where it is"):
                await store.record(record_for(first), drop=[first.revision])
            with pytest.raises(StoreError, match="stays where it is"):
                await store.record(record_for(first), aside={first.revision: "drift-x"})
        assert (await store.observe()).revision == first.revision


async def test_a_cancelled_push_leaves_the_old_release_current(ground: Ground) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        async with store.lock("alice"):
            push = asyncio.ensure_future(store.push(manifest_for(TWO, 1), TWO.files))
            await asyncio.sleep(0)  # it has begun
            push.cancel()
            ended = (await asyncio.gather(push, return_exceptions=True))[0]
        snapshot = await store.observe()
        if isinstance(ended, asyncio.CancelledError):
            assert (snapshot.revision, await store.revisions()) == (first.revision, (first.revision,))
        else:  # in memory a push has no instant at which it could be cancelled
            assert snapshot.manifest == manifest_for(TWO, 1)


# --- drift ----------------------------------------------------------------------------------------------


async def test_an_edited_a_removed_and_a_foreign_file_are_drift(ground: Ground) -> None:
    async with store_of(ground) as store:
        manifest = await pushed(store, TWO)
        ground.edit("extensions/acme.conf", b"; by hand\n")
        ground.edit("queues/beta.conf", None)
        ground.edit("extensions/zeta.conf", b"; by hand\n")
        snapshot = await store.observe()
        assert snapshot.revision == manifest.revision
        assert snapshot.drift == (
            Drift("extensions/acme.conf", "changed"),
            Drift("extensions/zeta.conf", "foreign"),
            Drift("queues/beta.conf", "missing"),
        )


async def test_a_file_asterisks_group_cannot_read_is_drift(ground: Ground) -> None:
    async with store_of(ground) as store:
        await pushed(store, ONE)
        ground.hide("extensions/acme.conf")
        assert (await store.observe()).drift == (Drift("extensions/acme.conf", "unreadable"),)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"format": 99}', b"[]", b"\xff\xfe"])
async def test_a_damaged_manifest_is_drift_and_the_next_push_heals(
    ground: Ground, content: bytes | None
) -> None:
    async with store_of(ground) as store:
        first = await pushed(store, ONE)
        ground.edit("manifest.json", content)
        snapshot = await store.observe()
        assert (snapshot.revision, snapshot.manifest) == (first.revision, None)
        assert snapshot.drift == (Drift("manifest.json", "manifest"),)
        with pytest.raises(StoreError):
            await store.manifest(first.revision)
        await pushed(store, ONE, after=1)
        assert (await store.observe()).drift == ()


async def test_a_link_to_a_release_that_is_gone_is_drift_and_the_next_push_heals(ground: Ground) -> None:
    async with store_of(ground) as store:
        await pushed(store, ONE)
        ground.point("releases/20200101T000000Z-000000000000")
        snapshot = await store.observe()
        assert (snapshot.revision, snapshot.manifest) == (None, None)
        assert snapshot.drift == (Drift("current", "missing"),)
        second = await pushed(store, ONE, after=1)
        assert (await store.observe()).revision == second.revision


@pytest.mark.parametrize(
    "target", ["/etc", "elsewhere", "releases/../..", "releases", ".", "releases/drift-x"]
)
async def test_a_link_that_leads_elsewhere_is_drift_and_is_not_followed(ground: Ground, target: str) -> None:
    async with store_of(ground) as store:
        await pushed(store, ONE)
        ground.point(target)
        snapshot = await store.observe()
        assert (snapshot.revision, snapshot.files) == (None, {})
        assert snapshot.drift == (Drift("current", "foreign"),)
        assert await store.read(["extensions.conf"]) == {}


# --- Asterisk's own files and the rest ------------------------------------------------------------------


async def test_asterisks_own_files_are_read_and_replaced(ground: Ground) -> None:
    async with store_of(ground) as store:
        assert await store.read_config("extensions.conf") is None
        await store.write_config("extensions.conf", b"[general]\n")
        assert await store.read_config("extensions.conf") == b"[general]\n"
        await store.write_config("extensions.conf", b"[general]\nstatic=yes")
        assert await store.read_config("extensions.conf") == b"[general]\nstatic=yes"
        for name in ("../passwd", "/etc/passwd", "a/b", ".hidden", ""):
            with pytest.raises(StoreError, match="configuration folder"):
                await store.read_config(name)
            with pytest.raises(StoreError, match="configuration folder"):
                await store.write_config(name, b"")


async def test_preparing_twice_is_harmless_and_facts_are_told(ground: Ground) -> None:
    async with store_of(ground) as store:
        await store.prepare()
        await store.prepare()
        facts = await store.facts()
        assert (facts.exists, facts.writable, facts.group_readable, facts.why) == (True, True, True, "")
        assert facts.free_bytes is not None
        assert facts.free_bytes > 0
        assert facts.clock is not None
        assert facts.clock > 1_700_000_000


async def test_files_that_are_not_there_are_left_out(ground: Ground) -> None:
    async with store_of(ground) as store:
        manifest = await pushed(store, ONE)
        paths = ["extensions.conf", "extensions/nobody.conf", "nowhere/at-all.conf"]
        assert await store.read(paths) == {"extensions.conf": ONE.files["extensions.conf"]}
        assert await store.read(["manifest.json"]) == {"manifest.json": manifest.to_json()}
        assert await store.read(["extensions.conf"], "20200101T000000Z-000000000000") == {}


async def test_any_bytes_come_back_as_they_went(ground: Ground) -> None:
    contents = {
        "extensions/bytes.conf": bytes(range(256)) * 41,
        "extensions/no-end.conf": b"no line break",
        "queues/empty.conf": b"",
        "queues/breaks.conf": b"\n\n\r\n--\n",
    }
    odd = replace(ONE, files=contents)
    async with store_of(ground) as store:
        await pushed(store, odd)
        assert await store.read([*contents]) == contents
        assert (await store.observe()).drift == ()
