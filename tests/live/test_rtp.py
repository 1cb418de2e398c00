"""No RTP port left, on the real Asterisk with SIP calls on its wire: what then still works, what is told, and
that nothing is left of it."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.live.carrier import Carrier, reply
from tests.live.conftest import LabFactory, needs, needs_media
from tests.live.pbx import Pbx, serving, until
from voxtractl.ari.release import Feature
from voxtractl.errors import OriginateFailed
from voxtractl.runtime.session import CallSession

DIALS = Feature("Dial events only of what was dialled", {20: 15, 22: 5})
PORTS = 2  # calls with a port of their own

TRUNK = """
[{name}]
type = endpoint
context = plain
disallow = all
allow = ulaw
aors = {name}
[{name}]
type = aor
contact = sip:{address}:{port}
[{name}]
type = identify
endpoint = {name}
match = {address}
"""
PLAIN = "[plain]\nexten => _+X.,1,Stasis(voxtra-acme,${EXTEN})\n"


class Rings:
    """A carrier on which every call rings until it is cancelled."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.numbers: list[str] = []
        self.answers: list[int] = []  # to what the carrier asked itself
        self._invites: dict[str, str] = {}  # Call-ID → the request
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):  # closed, in whatever it was doing
            while True:
                with suppress(TimeoutError):
                    self._answer(self.carrier.read())

    def _answer(self, text: str) -> None:
        call = re.search(r"^Call-ID: (\S+)", text, re.MULTILINE)
        assert call is not None
        if text.startswith("INVITE "):
            if call[1] not in self._invites:
                self.numbers.append(text.partition("sip:")[2].partition("@")[0])
            self._invites[call[1]] = text
            self.carrier.send(reply(text, "180 Ringing"))
        elif text.startswith("CANCEL "):
            self.carrier.send(reply(text, "200 OK"))
            self.carrier.send(reply(self._invites[call[1]], "487 Request Terminated"))
        elif text.startswith("SIP/2.0 ") and "INVITE" in text:
            self.answers.append(int(text.split()[1]))


@contextmanager
def ringing(address: str, node_port: int) -> Iterator[Rings]:
    with Carrier(address, node_port) as carrier:
        yield Rings(carrier)


@pytest.fixture
async def narrow(own_lab: LabFactory, tmp_path: Path) -> AsyncIterator[tuple[Pbx, Rings, Rings]]:
    """An Asterisk with two RTP ports, and two trunks on which calls ring."""
    lab = await asyncio.to_thread(own_lab)
    pbx = Pbx(lab, tmp_path)
    with ringing("127.0.0.7", lab.sip_port) as one, ringing("127.0.0.8", lab.sip_port) as two:
        first = lab.ports.rtp_first
        last = first + 2 * PORTS - 1
        (lab.config_dir / "rtp.conf").write_text(f"[general]\nrtpstart = {first}\nrtpend = {last}\n")
        pjsip = lab.config_dir / "pjsip.conf"
        trunks = "".join(
            TRUNK.format(name=name, address=rings.carrier.address, port=rings.carrier.port)
            for name, rings in (("one", one), ("two", two))
        )
        pjsip.write_text(pjsip.read_text() + trunks)
        pbx.write_far_contexts(PLAIN)
        lab.down()
        await asyncio.to_thread(lab.start)
        yield pbx, one, two


@pytest.mark.parametrize("media", ["audiosocket", "websocket"])
async def test_without_an_rtp_port_calls_that_are_up_go_on_and_new_ones_are_told_why(
    narrow: tuple[Pbx, Rings, Rings], media: str
) -> None:
    pbx, one, two = narrow
    needs_media(pbx.lab, media)
    needs(pbx.lab, DIALS)
    pid = pbx.lab.pid

    async def handler(call: CallSession) -> bool:
        """Sound both ways: neither kind of media leg needs an RTP port."""
        await call.answer()
        leg = await call.audio_stream(8000)
        await leg.send(bytes(320))
        return bool(await leg.receive())

    async with serving(pbx, handler, media=media) as (app, seen):
        ring: list[CallSession] = []
        for number in range(PORTS):
            ring.append(await app.originate(f"PJSIP/+26570000000{number}@one", wait=False))
        await until(lambda: len(one.numbers) == PORTS)

        pbx.call(far="far-tone", trunk="plain")
        assert await asyncio.wait_for(seen.result, 15)

        for _ in range(3):
            with pytest.raises(OriginateFailed) as caught:
                await app.originate("PJSIP/+265700000009@one")
            assert caught.value.disposition == "failed"
            assert "no RTP port left" in str(caught.value.hint)
        begun = seen.names().count("call_started")
        with pytest.raises(OriginateFailed, match="could not dial over one 3 times in a row") as caught:
            await app.originate("PJSIP/+265700000009@one")
        assert seen.names().count("call_started") == begun  # nobody was asked
        with pytest.raises(OriginateFailed, match="was not answered: failed"):  # another trunk is tried
            await app.originate("PJSIP/+265700000009@two")
        assert len(one.numbers) == PORTS
        assert two.numbers == []

        two.carrier.begin("+265999000001")  # one that comes in gets no port either
        await until(lambda: [status for status in two.answers if status >= 300])
        await until(lambda: len(seen.ends()) == seen.names().count("call_started") - PORTS)

        for call in ring:
            await call.hangup()
        await until(lambda: not pbx.channels())
        again = await until_rung(app, "PJSIP/+265700000001@one", one)
        assert len(one.numbers) == PORTS + 1
        await again.hangup()
        assert pbx.lab.pid == pid


async def until_rung(app: Any, endpoint: str, carrier: Rings) -> CallSession:
    """A call that the carrier has got, as soon as the breaker lets one try it and a port is free again: a
    channel is gone before its SIP dialogue, which has the port, is."""
    before = len(carrier.numbers)
    async with asyncio.timeout(30):
        while True:
            with suppress(OriginateFailed):
                call: CallSession = await app.originate(endpoint, wait=False)
                while call.ended is None:
                    if len(carrier.numbers) > before:
                        return call
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)


async def test_a_local_channel_to_nowhere_is_told_as_such(narrow: tuple[Pbx, Rings, Rings]) -> None:
    pbx, _, _ = narrow

    async def nobody(call: CallSession) -> None:
        raise AssertionError(call)

    async with serving(pbx, nobody) as (app, _seen):
        for _ in range(4):  # and no breaker: it costs Asterisk nothing
            with pytest.raises(OriginateFailed) as caught:
                await app.originate("Local/nobody@plain")
            assert "such an extension" in str(caught.value.hint)
