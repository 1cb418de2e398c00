"""The contract of media legs on the real Asterisk, over AudioSocket and over its websocket of media."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import pytest

from tests.contract.legs import LegContract, Place
from tests.live.conftest import needs
from tests.tools.media import Calls
from tests.tools.sound import pitch
from voxtractl.ari.release import LEG_RATES, MEDIA_WEBSOCKET, Feature
from voxtractl.audio import mediasocket
from voxtractl.audio.leg import Leg
from voxtractl.audio.server import AudioServer
from voxtractl.errors import MediaFailed, RemoteProtocolError
from voxtractl.lab import Lab

WHOLE = Feature("digits over AudioSocket, and channels that end with its connection", {20: 14, 22: 4})


@dataclass
class AsteriskCall:
    """A leg bridged with a call on the lab."""

    leg: Leg
    hangup: str
    calls: Calls
    channel: str  # the external media channel
    lab: Lab

    async def press(self, digits: str) -> None:
        needs(self.lab, WHOLE)
        status, answer = await self.calls.ari("POST", f"channels/{self.channel}/dtmf", dtmf=digits)
        assert status == 204, answer

    async def hang_up(self) -> None:
        await self.calls.hang_up(self.channel)

    async def gone(self) -> None:
        await self.calls.event("StasisEnd", self.channel)


@asynccontextmanager
async def over_audiosocket(lab: Lab, rate: int, far: str = "echo") -> AsyncIterator[AsteriskCall]:
    if rate != 8000:
        needs(lab, LEG_RATES)
    async with AudioServer() as server, Calls(lab) as calls:
        leg_id = uuid4()
        leg = server.expect(leg_id, rate)
        channel = await calls.audiosocket(server.address, leg_id, rate)
        await leg.connected()
        await calls.bridge(channel, await calls.far(far))
        yield AsteriskCall(leg, "eof", calls, channel, lab)
        await leg.close()
        assert server.rejected == {}


@asynccontextmanager
async def over_websocket(lab: Lab, rate: int, far: str = "echo") -> AsyncIterator[AsteriskCall]:
    needs(lab, MEDIA_WEBSOCKET)
    async with Calls(lab) as calls:
        channel, connection = await calls.websocket(rate)
        async with await mediasocket.connect(lab.ari_url, connection, rate=rate) as leg:
            await calls.bridge(channel, await calls.far(far))
            yield AsteriskCall(leg, "hangup", calls, channel, lab)


class TestAudioSocket(LegContract):
    @pytest.fixture
    def place(self, lab: Lab) -> Place:
        return lambda rate: over_audiosocket(lab, rate)


class TestWebsocket(LegContract):
    @pytest.fixture
    def place(self, lab: Lab) -> Place:
        return lambda rate: over_websocket(lab, rate)


@pytest.mark.parametrize("over", [over_audiosocket, over_websocket])
async def test_a_leg_that_says_nothing_stays_up_and_hears(lab: Lab, over: object) -> None:
    way = over_audiosocket if over is over_audiosocket else over_websocket
    async with asyncio.timeout(20), way(lab, 8000, "milliwatt") as call:
        heard = [
            await call.leg.receive() for _ in range(200)
        ]  # four seconds; app_audiosocket gives up after two
        assert pitch(b"".join(heard[-50:]), 8000) == pytest.approx(1004, abs=2)
        assert call.leg.counters.sent == 0
        assert not call.leg.closed


async def test_asterisk_is_refused_when_the_uuid_is_not_expected(lab: Lab) -> None:
    needs(lab, WHOLE)
    async with asyncio.timeout(20), AudioServer() as server, Calls(lab) as calls:
        leg = server.expect(uuid4(), 8000, 0.5)
        channel = await calls.audiosocket(server.address, uuid4(), 8000)
        await calls.event("StasisEnd", channel)
        assert server.rejected == {"unknown": 1}
        with pytest.raises(MediaFailed, match=r"did not connect its sound within 0\.5 s"):
            await leg.connected()


async def test_a_channel_of_another_rate_ends_the_leg_with_the_reason(lab: Lab) -> None:
    needs(lab, LEG_RATES)
    async with asyncio.timeout(20), AudioServer() as server, Calls(lab) as calls:
        leg_id = uuid4()
        leg = server.expect(leg_id, 8000)
        channel = await calls.audiosocket(server.address, leg_id, 16000)
        await leg.connected()
        await calls.bridge(channel, await calls.far("milliwatt"))
        why = await leg.wait_closed()
        assert why == "error: sound of type 0x12 comes where 8000 Hz is 0x10"
        await calls.event("StasisEnd", channel)


async def test_garbage_beside_a_running_leg_disturbs_nothing(lab: Lab) -> None:
    async with asyncio.timeout(20), AudioServer() as server, Calls(lab) as calls:
        leg_id = uuid4()
        leg = server.expect(leg_id, 8000)
        channel = await calls.audiosocket(server.address, leg_id, 8000)
        await leg.connected()
        await calls.bridge(channel, await calls.far("milliwatt"))
        uuid_frame = b"\x01\x00\x10" + leg_id.bytes
        attacks = (b"GET / HTTP/1.1\r\n\r\n", uuid_frame, b"\x01\x00\x10" + uuid4().bytes, b"\x10\xff\xff")
        host, _, port = server.address.partition(":")
        for attack in attacks:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(attack)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
        heard = [await leg.receive() for _ in range(50)]
        # A Local channel's first frames are not always whole.
        assert pitch(b"".join(heard[10:]), 8000) == pytest.approx(1004, abs=2)
        assert server.rejected == {"garbage": 2, "twice": 1, "unknown": 1}
        assert not leg.closed


async def test_the_websocket_says_why_it_cannot_be_had(lab: Lab) -> None:
    needs(lab, MEDIA_WEBSOCKET)
    with pytest.raises(MediaFailed, match="knows no such connection"):
        await mediasocket.connect(lab.ari_url, "nobody", rate=8000)
    with pytest.raises(MediaFailed, match="no sound from Asterisk"):
        await mediasocket.connect("http://127.0.0.1:9", "nobody", rate=8000)
    async with Calls(lab) as calls:
        _, connection = await calls.websocket(8000)
        async with await mediasocket.connect(lab.ari_url, connection, rate=8000):
            with pytest.raises(MediaFailed, match="another connection"):
                await mediasocket.connect(lab.ari_url, connection, rate=8000)
        _, connection = await calls.websocket(16000)
        with pytest.raises(RemoteProtocolError, match="640 bytes of slin16, not PCM at 8000 Hz"):
            await mediasocket.connect(lab.ari_url, connection, rate=8000)
