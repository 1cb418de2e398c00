"""Which store a URL opens, and what that may import."""

import subprocess
import sys

import pytest

from voxtractl.deploy.store import open_store
from voxtractl.errors import StoreError
from voxtractl.model.node import Node
from voxtractl.settings import SecretRef

USE_A_LOCAL_STORE = """
import asyncio, sys
from voxtractl.deploy.store import open_store
from voxtractl.model.node import Node
from voxtractl.settings import SecretRef

async def use():
    ref = SecretRef("env", ("X",), "x")
    node = Node(name="n", ari="x", ari_user="x", ari_password=ref, store="local:/nowhere")
    async with open_store(node) as store:
        await store.observe()
        await store.revisions()

asyncio.run(use())
print(sorted({"asyncssh", "aiohttp", "jinja2", "pydantic", "rich", "tomlkit"} & set(sys.modules)))
"""


def test_a_local_store_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", USE_A_LOCAL_STORE], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_url_that_is_none_names_the_node_and_the_key() -> None:
    ref = SecretRef("env", ("X",), "x")
    node = Node(name="pbx1", ari="x", ari_user="x", ari_password=ref, store="http://x", file="tenants.toml")
    with pytest.raises(
        StoreError, match="the store of pbx1 cannot be opened: a store is local:/path"
    ) as caught:
        open_store(node)
    assert caught.value.where == "tenants.toml"
    assert caught.value.hint == "correct nodes.pbx1.store, it says 'http://x'"
