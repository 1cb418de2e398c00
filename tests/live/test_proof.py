"""The proof itself, against a real Asterisk: what it says is so now, not once."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Answer, Request
from voxtractl.deploy.include import with_lines
from voxtractl.errors import AriAuthFailed, AriError, AriUnreachable, NotFound
from voxtractl.lab import Lab
from voxtractl.render.bundle import Bundle, Fragment, assemble

TEXTS = {
    "extensions": "[voxtra-{0}-fallback]\nexten => s,1(v-{0}),NoOp()\n",
    "pjsip": "[{0}-trunk]\ntype=endpoint\naors={0}-trunk\n\n[{0}-trunk]\ntype=aor\n",
    "queues": "[{0}-support]\nmember => Local/1@{0}\n",
}


def bundle_of(slug: str) -> Bundle:
    fragments = [Fragment(slug, kind, text.format(slug), "t") for kind, text in TEXTS.items()]
    return assemble("lab", fragments, {}, prefix="voxtractl", trunk_context="from-trunk")


@pytest.fixture
def node(lab: Lab) -> Iterator[Lab]:
    """The lab with voxtractl's lines in, and files put below the store by hand."""
    for kind in naming.KINDS:
        own = lab.config_dir / f"{kind}.conf"
        own.write_bytes(with_lines(own.read_bytes(), kind, "voxtractl"))
    try:
        yield lab
    finally:
        lab.restore()


def put(lab: Lab, bundle: Bundle) -> None:
    group = lab.store_dir.stat().st_gid
    for path, content in bundle.files.items():
        file = lab.store_dir / "current" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for entry in (lab.store_dir / "current").rglob("*"):
        os.chown(entry, -1, group)
        entry.chmod(0o750 if entry.is_dir() else 0o640)


async def live(lab: Lab, *bundles: Bundle) -> list[dict[str, bool]]:
    """Reload all kinds (a refusal is fine), then which marks are shown."""
    async with ARIClient(lab.ari_url, lab.ari_user, lab.ari_password) as ari:
        for kind in naming.KINDS:
            answer = await ari.ask(requests.reload_module(requests.MODULES[kind]))
            assert answer.status in {204, 409}
        return [
            {kind: await shown(ari, kind, bundle.marks[kind]) for kind in naming.KINDS} for bundle in bundles
        ]


async def shown(ari: ARIClient, kind: str, mark: str) -> bool:
    answer = await ari.ask(requests.mark(kind, mark))
    is_live = requests.mark_answer(kind, mark, answer)
    assert is_live is not None
    return is_live


YES = dict.fromkeys(naming.KINDS, True)
NO = dict.fromkeys(naming.KINDS, False)


async def test_a_mark_that_was_live_once_is_not_live_when_another_took_its_place(node: Lab) -> None:
    """app_queue remembers the state of members it dropped; a mark must not be believed from memory."""
    acme, beta = bundle_of("acme"), bundle_of("beta")
    put(node, acme)
    assert await live(node, acme, beta) == [YES, NO]
    put(node, beta)
    assert await live(node, acme, beta) == [NO, YES]
    put(node, acme)
    assert await live(node, acme, beta) == [YES, NO]


@pytest.mark.parametrize("kind", naming.KINDS)
async def test_a_file_cut_short_keeps_the_old_mark_of_its_kind(node: Lab, kind: str) -> None:
    acme, beta = bundle_of("acme"), bundle_of("beta")
    put(node, acme)
    assert await live(node, acme) == [YES]
    put(node, beta)
    file = node.store_dir / "current" / kind / "beta.conf"
    file.write_bytes(file.read_bytes()[:-20])
    others = {**YES, kind: False}
    assert await live(node, beta, acme) == [others, {k: not v for k, v in others.items()}]


async def test_no_mark_is_live_once_the_lines_are_out(node: Lab) -> None:
    acme = bundle_of("acme")
    put(node, acme)
    assert await live(node, acme) == [YES]
    node.restore()
    assert await live(node, acme) == [NO]


async def test_the_oracle_makes_no_channel(node: Lab) -> None:
    acme = bundle_of("acme")
    put(node, acme)
    await live(node, acme)
    before = node.cli("core show channels count")
    async with ARIClient(node.ari_url, node.ari_user, node.ari_password) as ari:
        asked = [requests.mark("extensions", acme.marks["extensions"])] * 500
        answers = await ari.ask_all(asked)
    assert {a.status for a in answers} == {400}
    assert node.cli("core show channels count") == before
    assert "calls processed" in before


async def test_answers_come_in_the_order_of_the_questions(node: Lab) -> None:
    names = [f"nobody-{n}" for n in range(100)]
    async with ARIClient(node.ari_url, node.ari_user, node.ari_password) as ari:
        answers = await ari.ask_all([requests.device_state(name) for name in names])
    assert [a.body["name"] for a in answers] == names


async def test_each_refusal_is_the_error_of_its_kind(node: Lab) -> None:
    async with ARIClient(node.ari_url, node.ari_user, node.ari_password) as ari:
        with pytest.raises(NotFound):
            await ari.request(requests.module("nothing.so"))
        with pytest.raises(AriError, match="409"):
            await ari.reload("app_dial.so")
        with pytest.raises(NotFound):
            await ari.reload("nothing.so")
    async with ARIClient(node.ari_url, node.ari_user, "wrong") as ari:
        with pytest.raises(AriAuthFailed) as refused:
            await ari.request(requests.info())
        assert "wrong name or password" in str(refused.value)
    async with ARIClient(node.ari_url, node.reader_user, node.reader_password) as ari:
        with pytest.raises(AriError, match="may not POST"):
            await ari.ask(requests.probe_label("a", "b", "c"))


async def test_a_port_without_asterisk_is_unreachable_and_retryable(tmp_path: Path) -> None:
    async with ARIClient("http://127.0.0.1:9", "a", "b") as ari:
        with pytest.raises(AriUnreachable) as gone:
            await ari.request(requests.info())
    assert gone.value.retryable
    assert gone.value.where == "http://127.0.0.1:9"


@asynccontextmanager
async def server(greeting: bytes) -> AsyncIterator[str]:
    """A TCP server that says ``greeting`` and then waits for its one client to go; gives its URL."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        await gone.wait()


async def test_a_server_that_says_nothing_is_given_up_after_the_timeout() -> None:
    async with server(b"") as url, ARIClient(url, "a", "b", timeout=0.2) as ari:
        with pytest.raises(AriUnreachable, match="no answer within"):
            await ari.request(requests.info())


async def test_a_server_that_is_no_http_server_is_told_as_such() -> None:
    async with server(b"SSH-2.0-OpenSSH_9.2\r\n") as url, ARIClient(url, "a", "b") as ari:
        with pytest.raises(AriError, match="no valid HTTP answer") as told:
            await ari.request(requests.info())
    assert told.value.exit_code == 5


async def test_use_after_close_has_its_own_sentence() -> None:
    ari = ARIClient("http://127.0.0.1:9", "a", "b")
    with pytest.raises(RuntimeError, match="not open"):
        await ari.ask(Request("GET", "/"))
    await ari.close()
    await ari.close()


def test_an_answer_that_is_neither_yes_nor_no_is_neither() -> None:
    strange = Answer(500, {"message": "Allocation failed"})
    assert requests.label_answer(strange) is None
    assert requests.endpoint_answer(strange) is None
    for kind in naming.KINDS:
        assert requests.mark_answer(kind, "h-1", strange) is None
    with pytest.raises(ValueError, match="no kind"):
        requests.mark("voicemail", "h-1")
