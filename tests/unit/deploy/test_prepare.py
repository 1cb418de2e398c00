"""Preparing a node, as far as it needs no Asterisk: the prefix and the difference. The rest: tests/live."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from voxtractl.deploy import prepare
from voxtractl.deploy.store import open_store
from voxtractl.deploy.store.memory import Memory, forget, memory
from voxtractl.errors import StoreError
from voxtractl.model.node import Node
from voxtractl.settings import SecretRef

NODE = Node(
    name="pbx1",
    ari="http://127.0.0.1:1",
    ari_user="voxtractl",
    ari_password=SecretRef("env", ("NOT_READ_HERE",), "a test"),
    store="memory:prepare",
)


@pytest.fixture
def there() -> Iterator[Memory]:
    forget("prepare")
    yield memory("prepare")
    forget("prepare")


@pytest.mark.parametrize(
    ("store", "config_dir", "prefix"),
    [
        ("local:/etc/asterisk/voxtractl", None, "voxtractl"),
        ("local:/etc/asterisk/voxtractl/", None, "voxtractl"),
        ("local:/srv/root/etc/asterisk/tenants/one", "/srv/root/etc/asterisk", "tenants/one"),
        ("sftp://deploy@pbx1.example.net/etc/asterisk/voxtractl", None, "voxtractl"),
        ("memory:anything", None, "voxtractl"),
    ],
)
def test_the_prefix_is_the_store_seen_from_asterisks_folder(
    store: str, config_dir: str | None, prefix: str
) -> None:
    assert prepare.prefix_of(replace(NODE, store=store, config_dir=config_dir)) == prefix


def test_a_store_outside_of_asterisks_folder_is_refused() -> None:
    node = replace(NODE, store="local:/srv/voxtractl", config_dir="/etc/asterisk")
    with pytest.raises(StoreError, match="not inside Asterisk's configuration folder") as caught:
        prepare.prefix_of(node)
    assert caught.value.hint is not None
    assert "/etc/asterisk/voxtractl" in caught.value.hint


async def test_what_would_change_is_told_and_nothing_is_written(there: Memory) -> None:
    there.config |= {"extensions.conf": b"[general]\n", "queues.conf": b""}
    async with open_store(NODE) as store:
        edits = {edit.kind: edit for edit in await prepare.look(store, "pbx1", "voxtractl")}
    assert {kind: edit.state for kind, edit in edits.items()} == dict.fromkeys(edits, "absent")
    assert all(edit.changes for edit in edits.values())
    assert edits["pjsip"].old is None
    assert there.config == {"extensions.conf": b"[general]\n", "queues.conf": b""}


async def test_taking_out_what_is_not_there_changes_nothing(there: Memory) -> None:
    there.config["extensions.conf"] = b"[general]\n"
    async with open_store(NODE) as store:
        assert not any(e.changes for e in await prepare.look(store, "pbx1", "voxtractl", "out"))


@pytest.mark.usefixtures("there")
async def test_without_an_extensions_conf_the_folder_is_wrong() -> None:
    async with open_store(NODE) as store:
        with pytest.raises(StoreError, match=r"no extensions\.conf"):
            await prepare.look(store, "pbx1", "voxtractl")
