"""`voxtractl originate`, as an operator types it: a process of its own, a real trunk, a real exchange."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import LabFactory, NodeDocument
from tests.live.exchange import Exchange, exchange
from tests.live.pbx import ACME, TENANTS, Pbx, nothing, serving, until
from tests.live.trunk import OURS, fate, line, number
from voxtractl.runtime.session import CallSession

__all__ = ["line"]  # the fixture

SECOND = "+265888000002"


class Command:
    """A running ``voxtractl originate``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ends(self) -> tuple[int, dict[str, Any], str]:
        """Exit code, the one document of stdout, and what stderr has."""
        out, err = await asyncio.wait_for(self.process.communicate(), 60)
        assert self.process.returncode is not None
        return self.process.returncode, json.loads(out), err.decode()


@asynccontextmanager
async def originate(config: Path, *words: str) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voxtractl", "--config", str(config), "-o", "json", "originate", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run(config: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    async with originate(config, *words) as command:
        return await command.ends()


def apps(pbx: Pbx) -> list[str]:
    return [row["name"] for row in json.loads(pbx.ari("GET", "applications")[1])]


async def test_who_answers_hears_the_sounds_and_is_hung_up(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    code, told, err = await run(pbx.config, "acme", number(200), "--play", "beep", "--play", "digits/1")
    assert (code, err) == (0, "")
    (dialog,) = there.dialogs.values()
    assert (dialog.number, dialog.caller) == (number(200), OURS)
    assert len(dialog.heard) > 8000
    assert (
        told.items()
        >= {
            "ok": True,
            "tenant": "acme",
            "number": number(200),
            "caller_id": OURS,
            "disposition": "answered",
            "ended_by": "handler",
            "cause": 16,
        }.items()
    )
    assert told["talk_seconds"] > 0.5
    await pbx.empty()


async def test_calls_one_after_the_other_leave_no_apps_behind(line: tuple[Pbx, Exchange]) -> None:
    """Asterisk forgets an app when the next one comes or goes (cleanup in res_stasis.c)."""
    pbx, _ = line
    for _call in range(3):
        assert (await run(pbx.config, "acme", number(200), "--play", "beep"))[0] == 0
    assert len([name for name in apps(pbx) if name.startswith("voxtractl-originate")]) <= 1


async def test_who_answers_talks_to_the_tenants_handler(line: tuple[Pbx, Exchange]) -> None:
    """As if they had called the tenant's number."""
    pbx, there = line

    async def handler(call: CallSession) -> tuple[str, ...]:
        await call.answer()
        pressed = await call.listen_dtmf(timeout=10)
        intent, limit = [await call.get_variable(name) for name in ("INTENT", "TIMEOUT(absolute)")]
        return call.called_number, call.caller_number, pressed, intent, limit

    async with (
        serving(pbx, handler) as (_, seen),
        originate(pbx.config, "acme", number(200), "--variable", "INTENT=a=b") as command,
    ):
        await until(lambda: there.dialogs and next(iter(there.dialogs.values())).up)
        (dialog,) = there.dialogs.values()
        await seen.call
        dialog.press("5")
        assert await asyncio.wait_for(seen.result, 15) == (ACME, number(200), "5", "a=b", "0")
        code, told, err = await command.ends()
        assert (code, err, told["disposition"]) == (0, "", "answered")
    assert (dialog.number, dialog.caller) == (number(200), OURS)


async def test_an_internal_number_and_a_limit_of_one_call(line: tuple[Pbx, Exchange]) -> None:
    """The call is one of the tenant's, though it goes out and comes back in."""
    pbx, there = line
    text = pbx.config.read_text()
    mine = f'dids = ["{ACME}"]'
    pbx.config.write_text(text.replace(mine, f'{mine}\nextensions = ["1000"]\nmax_channels = 1'))
    await asyncio.to_thread(pbx.voxtractl, "dialplan", "push", "--yes")

    async def handler(call: CallSession) -> str:
        await call.answer()
        await call.play_file("beep")
        code, told, _ = await run(pbx.config, "acme", number(200))
        assert (code, told["error"]["details"]["disposition"]) == (20, "busy")
        return call.called_number

    async with serving(pbx, handler) as (_, seen):
        assert (await run(pbx.config, "acme", number(200), "--to", "1000"))[0] == 0
        assert await asyncio.wait_for(seen.result, 15) == "1000"
    assert len(there.dialogs) == 1


async def test_with_no_runtime_and_no_fallback_nobody_has_them(line: tuple[Pbx, Exchange]) -> None:
    pbx, _ = line
    code, told, err = await run(pbx.config, "acme", number(200))
    assert (code, told["disposition"]) == (0, "answered")
    assert err.startswith("warning: nobody took the call: is acme served")


async def test_another_place_of_the_dialplan(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    async with originate(pbx.config, "acme", number(200), "--to", "s@far-echo") as command:
        await until(lambda: there.dialogs and next(iter(there.dialogs.values())).up)
        (dialog,) = there.dialogs.values()
        await until(lambda: len(dialog.heard) > 4000)
        dialog.hang_up()
        code, told, _ = await command.ends()
    assert (code, told["disposition"], told["ended_by"]) == (0, "answered", "caller")


@pytest.mark.parametrize(
    ("status", "code", "disposition"),
    [
        (486, 20, "busy"),
        (480, 21, "no_answer"),
        (603, 22, "rejected"),
        (503, 23, "congestion"),
        (404, 24, "failed"),
    ],
)
async def test_the_exit_code_says_why_nobody_answered(
    line: tuple[Pbx, Exchange], status: int, code: int, disposition: str
) -> None:
    pbx, there = line
    found, told, _ = await run(pbx.config, "acme", number(status))
    assert (found, told["error"]["id"]) == (code, "call.originate")
    assert told["error"]["details"]["disposition"] == disposition
    assert there.dialled() == [number(status)]


async def test_a_call_that_rings_too_long_is_cancelled(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    code, told, _ = await run(pbx.config, "acme", number(0), "--ring", "1")
    assert (code, told["error"]["details"]["disposition"]) == (21, "no_answer")
    (dialog,) = there.dialogs.values()
    await asyncio.wait_for(dialog.over.wait(), 10)
    assert "CANCEL" in dialog.got


@pytest.mark.parametrize("last", [0, 99999])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupted_call_is_ended(
    line: tuple[Pbx, Exchange], last: int, sent: signal.Signals
) -> None:
    """While it rings, and while they talk."""
    pbx, there = line
    async with (
        serving(pbx, nothing),
        originate(pbx.config, "acme", number(0) if last else number(200)) as command,
    ):
        await until(lambda: there.dialogs and pbx.channels())
        (dialog,) = there.dialogs.values()
        if not last:
            await until(lambda: dialog.up)
            await asyncio.sleep(0.2)
        for _ in range(2):  # a second one does not leave it up
            command.process.send_signal(sent)
        code, told, _ = await command.ends()
        assert (code, told["error"]["id"]) == (130, "interrupted")
        await asyncio.wait_for(dialog.over.wait(), 10)
        await pbx.empty()


async def test_a_killed_command_leaves_no_call_up_for_good(line: tuple[Pbx, Exchange]) -> None:
    """Asterisk ends it: after an hour, or as the operator says."""
    pbx, there = line
    words = ("--variable", "TIMEOUT(absolute)=3", "--play", "demo-congrats")
    async with originate(pbx.config, "acme", number(200), *words) as command:
        await until(lambda: there.dialogs and len(next(iter(there.dialogs.values())).heard) > 2000)
        command.process.kill()
    (dialog,) = there.dialogs.values()
    assert pbx.channels()
    await asyncio.wait_for(dialog.over.wait(), 10)
    await pbx.empty()


async def test_what_it_may_not_call_is_not_called(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    for words, code, why in (
        (("acme", "+441632960000"), 22, "acme may not call +441632960000"),
        (("acme", number(200), "--caller-id", SECOND), 2, "not a number of acme"),
        (("acme", "5&Local/777"), 2, "extension"),
        (("beta", number(200)), 2, "[tenants.beta.outbound]"),
        (("acme", number(200), "--to", SECOND), 2, "not a number of acme"),
        (("acme", number(200), "--play", "beep", "--to", ACME), 2, "--play and --to"),
        (("acme", number(200), "--variable", "INTENT"), 2, "--variable INTENT"),
        (("nobody", number(200)), 2, 'there is no tenant "nobody"'),
    ):
        found, told, _ = await run(pbx.config, *words)
        assert (found, why in told["error"]["message"]) == (code, True), told
    assert not there.dialogs


async def test_a_sound_that_is_not_there_ends_the_call(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    code, told, _ = await run(pbx.config, "acme", number(200), "--play", "no-such-sound")
    assert (code, told["error"]["id"]) == (1, "call.media")
    (dialog,) = there.dialogs.values()
    await asyncio.wait_for(dialog.over.wait(), 10)
    await pbx.empty()


async def test_a_place_that_is_not_there_ends_the_call(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    code, told, _ = await run(pbx.config, "acme", number(200), "--to", "s@nowhere")
    assert (code, "no nowhere,s,1" in told["error"]["message"]) == (1, True), told
    (dialog,) = there.dialogs.values()
    await asyncio.wait_for(dialog.over.wait(), 10)
    await pbx.empty()


async def test_the_next_node_makes_the_call_when_one_is_away(line: tuple[Pbx, Exchange]) -> None:
    pbx, _ = line
    text = pbx.config.read_text()
    begin = text.index("[nodes.")
    away = '[nodes.away]\nari = "http://127.0.0.1:9"\nari_user = "voxtractl"\nari_password_env = "HOME"\n'
    pbx.config.write_text(f'{text[:begin]}{away}store = "local:/nowhere"\n\n{text[begin:]}')
    code, told, err = await run(pbx.config, "acme", number(200), "--play", "beep")
    assert (code, told["disposition"]) == (0, "answered")
    assert err.startswith("warning: away: ")
    code, told, _ = await run(pbx.config, "acme", number(200), "--play", "beep", "--node", "away")
    assert (code, told["error"]["id"]) == (5, "ari.unreachable")


async def test_a_tenant_that_was_not_pushed_is_named(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    text = pbx.config.read_text().replace("[tenants.acme", "[tenants.other").replace(ACME, "+265999000009")
    pbx.config.write_text(text.replace(OURS, "+265888000009"))
    code, told, _ = await run(pbx.config, "other", number(200))
    assert (code, told["error"]["details"]["disposition"]) == (24, "failed")
    assert "is other pushed to" in told["error"]["hint"]
    assert not there.dialogs


async def test_an_asterisk_that_is_gone_during_the_call_is_told(
    own_lab: LabFactory, node_document: NodeDocument
) -> None:
    lab = await asyncio.to_thread(own_lab)
    async with exchange("127.0.0.9", lab.sip_port, fate) as there:
        tenants = TENANTS.replace('host = "127.0.0.9"', f'host = "127.0.0.9"\nport = {there.port}')
        config = await asyncio.to_thread(lambda: node_document(tenants, lab=lab))
        await asyncio.to_thread(Pbx(lab, config).voxtractl, "dialplan", "push", "--yes")
        words = ("acme", number(200), "--play", "demo-congrats", "--timeout", "1")
        async with originate(config, *words) as command:
            await until(lambda: there.dialogs and len(next(iter(there.dialogs.values())).heard) > 2000)
            await asyncio.to_thread(lab.kill)
            code, told, _ = await command.ends()
    assert (code, told["error"]["id"], told["error"]["where"]) == (5, "ari.unreachable", "lab")
    assert "what became of it is not known" in told["error"]["message"]
