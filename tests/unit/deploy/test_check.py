"""What ``check`` makes of what a node answers. A node that is really at fault: tests/live/test_node.py.

The answers are those of a real Asterisk 22.10 (taken from the lab), with the one thing changed that a test is
about: an old version cannot be had from the lab.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.tools.bundles import bundle_of, manifest_for
from voxtractl.ari.client import ARIClient
from voxtractl.deploy.check import CALLS, NEEDED, Finding, check, exit_code
from voxtractl.deploy.include import with_lines
from voxtractl.deploy.store import open_store
from voxtractl.deploy.store.base import StoreFacts
from voxtractl.deploy.store.memory import Memory, MemoryStore, forget, memory
from voxtractl.errors import NodeUnreachable, SettingsError
from voxtractl.model.node import Node
from voxtractl.settings import SecretRef

NODE = Node(
    name="pbx1",
    ari="http://127.0.0.1:1",
    ari_user="voxtractl",
    ari_password=SecretRef("env", ("NOT_READ_HERE",), "a test"),
    store="memory:check",
)


@pytest.fixture
def there() -> Iterator[Memory]:
    """A node in memory that was prepared, with a good http.conf and ari.conf."""
    forget("check")
    node = memory("check")
    for kind in ("extensions", "pjsip", "queues"):
        node.config[f"{kind}.conf"] = with_lines(b"[general]\n", kind, "voxtractl")
    node.config["http.conf"] = b"[general]\nenabled = yes\nbindaddr = 127.0.0.1\nsessionlimit = 1000\n"
    node.config["ari.conf"] = b"[general]\nenabled = yes\n[voxtractl]\ntype = user\npassword = x\n"
    yield node
    forget("check")


Answers = Callable[[web.Request], web.StreamResponse]


@asynccontextmanager
async def asterisk(answers: Answers) -> AsyncIterator[str]:
    """Something at an address that answers."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return answers(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(app)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


def answers(request: web.Request, *, version: str = "22.10.1", without: str = "") -> web.StreamResponse:
    """A prepared Asterisk; ``version`` and the absent module are what tests change."""
    if request.path == "/ari/asterisk/info":
        return web.json_response({"system": {"version": version, "entity_id": "02:42"}})
    if request.path == "/ari/asterisk/modules":
        names = [name for name in (*NEEDED, *CALLS) if name != without]
        return web.json_response([{"name": name, "use_count": 0, "status": "Running"} for name in names])
    if request.path == "/ari/channels":
        message = "Provided format (voxtractl-probe) was not found"
        return web.json_response({"message": message}, status=400)
    if request.path.startswith("/ari/deviceStates/"):
        return web.json_response({"name": request.path.rpartition("/")[2], "state": "INVALID"})
    return web.json_response({"message": "Resource not found"}, status=404)


async def ask(answer: Answers = answers, node: Node = NODE) -> dict[str, Finding]:
    """The findings by name, for a node whose ARI answers so."""
    async with asterisk(answer) as url:
        node = replace(node, ari=url)
        found = await check(node, partial(open_store, node), partial(ARIClient, url, "voxtractl", "secret"))
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize(
    ("version", "level", "says"),
    [
        ("22.10.1+dfsg+~cs6.17.60671434-1", "ok", "22.10.1"),
        ("20.20.0", "ok", "20.20.0"),
        (
            "22.3.0",
            "ok",
            "requests over the event websocket (22.4), over 127 Stasis apps on a websocket (22.5)",
        ),
        ("20.13.0", "ok", "requests over the event websocket (20.14)"),
        ("20.18.0", "ok", "20.18.0"),
        ("20.11.1", "fail", "cannot be proven"),
        ("certified-20.7-cert3", "fail", "cannot be proven"),
        ("22.1.0", "fail", "cannot be proven"),
        ("23.1.0", "warn", "tested with 20 and 22"),
        ("18.26.0", "fail", "too old"),
        ("GIT-master-f0c1c1a", "warn", "not a release"),
    ],
)
@pytest.mark.usefixtures("there")
async def test_the_version_is_judged(version: str, level: str, says: str) -> None:
    found = (await ask(partial(answers, version=version)))["version"]
    assert found.level == level
    assert says in found.text


@pytest.mark.parametrize(
    ("module", "level"), [("app_queue.so", "fail"), ("pbx_config.so", "fail"), ("chan_pjsip.so", "warn")]
)
@pytest.mark.usefixtures("there")
async def test_a_missing_module_is_named_with_its_use(module: str, level: str) -> None:
    found = (await ask(partial(answers, without=module)))["modules"]
    assert found.level == level
    assert found.text.startswith(f"{module} is not loaded; it ")
    assert module in found.hint


@pytest.mark.parametrize(
    ("conf", "level", "says"),
    [
        (b"[general]\nenabled = yes\n", "warn", "100"),
        (b"[general]\nsessionlimit=150 ; enough\n", "warn", "150"),
        (b"[general]\nsessionlimit => 200\n", "ok", "200"),
        (b"[general]\n;sessionlimit = 500\n", "warn", "100"),
        (b"[general]\nsessionlimit = 10\nsessionlimit = 900\n", "ok", "900"),
        (b"[general]\n#include http_additional.conf\n", "ok", "included file"),
        (b"[general]\nservername = caf\xe9\nsessionlimit = many\n", "warn", "100"),
    ],
)
async def test_the_sessionlimit_is_read_as_asterisk_reads_it(
    there: Memory, conf: bytes, level: str, says: str
) -> None:
    there.config["http.conf"] = conf
    found = (await ask())["sessionlimit"]
    assert found.level == level
    assert says in found.text


async def test_of_a_file_that_is_not_there_nothing_is_claimed(there: Memory) -> None:
    del there.config["http.conf"], there.config["extensions.conf"], there.config["pjsip.conf"]
    found = await ask()
    assert "sessionlimit" not in found
    assert (found["http.conf"].level, "config_dir" in found["http.conf"].hint) == ("warn", True)
    assert found["lines-extensions"].hint.startswith("set nodes.pbx1.config_dir")
    assert found["lines-pjsip"].hint == "voxtractl node init pbx1"


async def test_a_configuration_folder_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    found = await ask(node=replace(NODE, store=f"local:{tmp_path}/none/voxtractl"))
    assert found["store"].text == f"Asterisk's configuration folder {tmp_path}/none does not exist"
    assert found["store"].hint.startswith("set nodes.pbx1.config_dir")
    assert not {"lines-extensions", "http.conf", "sessionlimit"} & set(found)


@pytest.mark.parametrize(
    ("address", "warned"),
    [("0.0.0.0", True), ("::", True), ("[::]", True), ("127.0.0.1", False), ("10.0.0.7", False)],
)
async def test_http_open_to_all_networks_is_told(there: Memory, address: str, warned: bool) -> None:
    there.config["http.conf"] = f"[general]\nbindaddr = {address}\n".encode()
    assert ("bindaddr" in await ask()) is warned


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://127.0.0.1:8088", False),
        ("http://localhost:8088", False),
        ("http://[::1]:8088", False),
        ("https://pbx1.example.net:8089", False),
        ("http://pbx1.example.net:8088", True),
        ("http://10.0.0.7:8088", True),
    ],
)
@pytest.mark.usefixtures("there")
async def test_a_password_in_clear_over_a_network_is_told(url: str, warned: bool) -> None:
    def no_password() -> ARIClient:
        raise SettingsError("no password")

    node = replace(NODE, ari=url)
    found = {finding.name for finding in await check(node, partial(open_store, node), no_password)}
    assert ("transport" in found) is warned


async def test_crypt_is_told_of_our_user_only(there: Memory) -> None:
    there.config["ari.conf"] = b"[other]\npassword_format = crypt\n[voxtractl]\npassword_format = plain\n"
    assert "password-format" not in await ask()
    there.config["ari.conf"] = b"[voxtractl]\npassword_format = crypt\n"
    assert (await ask())["password-format"].level == "warn"


@pytest.mark.usefixtures("there")
async def test_something_else_at_the_address_is_not_taken_for_ari() -> None:
    found = await ask(lambda request: web.Response(status=404, text="<html>nginx</html>"))
    assert found["ari"].level == "fail"
    assert "not as ARI" in found["ari"].text


async def test_an_include_of_a_release_that_is_gone_is_the_worst(there: Memory) -> None:
    found = (await ask())["release"]
    assert found.level == "fail"
    assert "no dialplan at all" in found.text
    assert found.hint == "voxtractl node init pbx1"
    there.current = "releases/20260101T000000Z-0123456789ab"
    assert "--overwrite-drift" in (await ask())["release"].hint


async def test_an_unread_release_is_told_by_kind(there: Memory) -> None:
    await release(NODE)
    found = await ask()
    assert found["release"].level == "ok"
    assert found["live-extensions"].level == "ok"
    assert found["live-pjsip"].level == "fail"
    assert "reload --all" in found["live-pjsip"].hint
    there.config["pjsip.conf"] = b"[general]\n"
    assert (await ask())["live-pjsip"].hint == "voxtractl node init pbx1"


class Elsewhere(MemoryStore):
    """A node whose clock and disk are not as ours."""

    clock: float | None = None
    free: int | None = None

    async def facts(self) -> StoreFacts:
        facts = await super().facts()
        assert facts.clock is not None
        off = self.clock or 0.0
        return replace(facts, clock=facts.clock + off, free_bytes=self.free)


@pytest.mark.parametrize(("off", "says"), [(60.0, "60 s ahead"), (-7200.0, "7200 s behind")])
@pytest.mark.usefixtures("there")
async def test_a_clock_that_is_off_is_told(off: float, says: str) -> None:
    store = Elsewhere(NODE, "check")
    store.clock, store.free = off, 1024
    found = {f.name: f for f in await check(NODE, lambda: store, partial(ARIClient, NODE.ari, "x", "x"))}
    assert says in found["clock"].text
    assert found["space"].level == "warn"


@pytest.mark.usefixtures("there")
async def test_a_node_whose_files_cannot_be_reached_is_asked_for_the_rest() -> None:
    def closed() -> MemoryStore:
        raise NodeUnreachable("no answer", node="pbx1")

    async with asterisk(answers) as url:
        found = await check(replace(NODE, ari=url), closed, partial(ARIClient, url, "voxtractl", "secret"))
    names = {finding.name: finding.level for finding in found}
    assert names["node"] == "fail"
    assert names["modules"] == "ok"


@pytest.mark.parametrize(
    ("levels", "code"),
    [
        ({"ari": "ok", "modules": "warn"}, 0),
        ({"ari": "ok", "modules": "fail"}, 1),
        ({"ari": "fail", "modules": "fail"}, 5),
        ({"node": "fail"}, 5),
        ({}, 0),
    ],
)
def test_the_exit_code_tells_a_closed_door_from_another_fault(levels: dict[str, Any], code: int) -> None:
    assert exit_code([Finding(name, level, "") for name, level in levels.items()]) == code


async def release(node: Node) -> None:
    """Push something, as an operator did."""
    bundle = bundle_of({"acme": "+265999000001"})
    async with open_store(node) as store, store.lock("a test"):
        await store.push(manifest_for(bundle), bundle.files)
