"""The server against peers that are no Asterisk: what they get is nothing, and it is counted."""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from uuid import UUID, uuid4

import pytest

from tests.unit.files import no_more_files
from voxtractl.audio import server as server_module
from voxtractl.audio.leg import PacedLeg
from voxtractl.audio.server import AudioServer, AudioSocketLeg
from voxtractl.errors import CallEnded, LocalProtocolError, MediaFailed
from voxtractl.runtime.event_loop import new_event_loop, new_tenant_loop

GUARD_THREAD = "voxtractl-sound"
LEG_ID = UUID("5c1f0d2e-7a34-4b8e-9f60-3d2a1b0c4e5f")


@pytest.fixture(autouse=True, params=["epoll", "asyncio"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who reads the legs' sockets: one epoll of all, or asyncio where there is none."""
    monkeypatch.setattr(server_module, "EPOLL", request.param == "epoll")
    return str(request.param)


def uuid_frame(leg_id: UUID) -> bytes:
    return b"\x01\x00\x10" + leg_id.bytes


class Peer:
    """A connection to the server, as Asterisk makes one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self, *, silence: bool = False) -> tuple[int, bytes]:
        """The next frame; silence is passed over unless it is wanted."""
        while True:
            kind, length = struct.unpack(">BH", await self.reader.readexactly(3))
            payload = await self.reader.readexactly(length)
            if silence or kind == 0x00 or any(payload):
                return kind, payload

    async def is_dropped(self) -> None:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await self.reader.readexactly(1)


def reset(connection: socket.socket) -> None:
    """Make of the next close what the kernel makes of one with sound unread."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def peer_of(server: AudioServer, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    _, _, port = server.address.rpartition(":")
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield Peer(reader, writer)
        finally:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "garbage"),
        (b"\x10\x01\x40" + bytes(320), "garbage"),
        (b"\x01\xff\xff", "garbage"),
        (b"\x01\x00\x10" + bytes(16), "unknown"),
        (b"\x01", "silent"),
        (b"\x01\x00\x10" + bytes(15), "silent"),
        (b"", "silent"),
    ],
)
async def test_who_names_no_expected_uuid_is_dropped(
    says: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "silent":
        monkeypatch.setattr(server_module, "UUID_SECONDS", 0.2)
    async with AudioServer() as server:
        server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(says)
            await peer.is_dropped()
        assert server.rejected == {reason: 1}


async def test_a_uuid_is_good_for_one_connection() -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        with pytest.raises(LocalProtocolError, match="in use"):
            server.expect(LEG_ID, 8000)
        async with peer_of(server) as first, peer_of(server) as second:
            first.write(uuid_frame(LEG_ID))
            await leg.connected()
            second.write(uuid_frame(LEG_ID))
            await second.is_dropped()
            first.write(b"\x10\x00\x02ab")
            assert await leg.receive() == b"ab"
            assert server.rejected == {"twice": 1}
            with pytest.raises(LocalProtocolError, match="in use"):
                server.expect(LEG_ID, 8000)


async def test_a_uuid_is_free_again_when_its_leg_is_over() -> None:
    async with AudioServer() as server:
        await server.expect(LEG_ID, 8000).close()
        again = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await again.connected()


def middle(pcm: bytes) -> int:
    """The sample in the middle."""
    at = len(pcm) // 4 * 2
    return int.from_bytes(pcm[at : at + 2], "little", signed=True)


async def test_a_leg_may_have_another_rate_than_its_wire() -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 16000, wire_rate=8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await leg.connected()
            await leg.send(b"\x00\x10" * 3200)  # 0.2 s
            loud = 0
            while loud < 8:  # the first and the last are rounded off
                kind, payload = await peer.frame()
                assert (kind, len(payload)) == (0x10, 320)
                loud += abs(middle(payload) - 4096) < 100
            for _ in range(10):
                peer.write(b"\x10\x01\x40" + b"\x00\x10" * 160)
            heard = b""
            while len(heard) < 4 * 640:
                heard += await leg.receive()
            assert abs(middle(heard[-640:]) - 4096) < 100


async def test_only_known_peers_may_connect() -> None:
    async with AudioServer("0.0.0.0", advertise="127.0.0.1", peers=["127.0.0.2", "10.0.0.0/8"]) as server:
        async with peer_of(server) as peer:
            await peer.is_dropped()
        assert server.rejected == {"peer": 1}


async def test_peers_that_are_known_do_connect() -> None:
    async with AudioServer(peers=["127.0.0.0/8"]) as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await leg.connected()


async def test_an_ipv4_peer_on_an_ipv6_socket_is_the_same_peer() -> None:
    server = AudioServer(peers=["127.0.0.1", "fe80::/10"])
    assert server._known("::ffff:127.0.0.1")
    assert server._known("fe80::1%eth0")
    assert not server._known("::ffff:127.0.0.2")


async def test_a_crowd_without_names_is_held_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "NAMELESS_MAX", 2)
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as first, peer_of(server), peer_of(server) as third:
            await third.is_dropped()
            assert server.rejected == {"crowd": 1}
            first.write(uuid_frame(LEG_ID))
            await leg.connected()  # who has a name counts no more
            async with peer_of(server) as fourth:
                fourth.write(b"x")
                await fourth.is_dropped()
            assert server.rejected == {"crowd": 1, "garbage": 1}


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"\x12\x00\x02ab", "error: sound of type 0x12 comes where 8000 Hz is 0x10"),
        (b"\x10\xff\xff", "error: an AudioSocket frame of type 0x10 has 65535 bytes, not 0 to 16000"),
        (b"\x42", "error: 0x42 is no type of an AudioSocket frame"),
        (b"\xff\x00\x01\x04", "error: Asterisk reports an error of its own: 0x04"),
        (b"\x00\x00\x00", "hangup"),
    ],
)
async def test_a_leg_ends_by_what_its_peer_says(says: bytes, why: str) -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID) + says)
            assert await leg.wait_closed() == why
            await peer.is_dropped()
            await leg.connected()  # it was


@pytest.mark.parametrize("hard", [False, True])
async def test_the_end_of_the_connection_is_the_end_of_the_leg(hard: bool) -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID) + b"\x10\x00")  # and half a header
            await leg.connected()
            if hard:
                reset(peer.writer.get_extra_info("socket"))
                peer.writer.transport.abort()
            else:
                peer.writer.close()
            assert await leg.wait_closed() == "eof"


async def test_only_whole_frames_are_written_and_the_rest_is_dropped_when_nobody_reads() -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 192000, backlog=1000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await leg.connected()
            peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
            frame = bytes(range(256)) * 30
            for _ in range(4000):  # 30 MB: more than the kernel takes
                await leg.send(frame)
            leg.tick(4000)
            assert leg.counters.dropped > 0
            assert leg.counters.sent + leg.counters.dropped == 4000
            peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(leg.counters.sent):
                assert await peer.frame() == (0x18, frame)


@pytest.mark.parametrize("seed", range(20))
async def test_however_it_is_cut_all_sound_and_all_keys_are_heard(seed: int) -> None:
    dice = random.Random(seed)
    said, sounds, keys = b"", [], []
    for number in range(60):
        if dice.random() < 0.2:
            keys.append(dice.choice("0123456789*#ABCD"))
            said += b"\x03\x00\x01" + keys[-1].encode()
        else:
            size = dice.choice([320, 320, 320, 320, 2, 640, 16000])
            sounds.append(number.to_bytes(2, "big") * (size // 2))
            said += struct.pack(">BH", 0x10, size) + sounds[-1]
    pressed: list[str] = []
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        leg.on_digit(pressed.append)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await leg.connected()
            while said:
                cut = dice.choice([1, 3, 4, 200, 323, 323, 323, 646, 20000])
                peer.write(said[:cut])
                said = said[cut:]
                await asyncio.sleep(0)
            assert [await leg.receive() for _ in sounds] == sounds
            peer.writer.close()
            await leg.wait_closed()
            assert pressed == keys
            assert leg.counters.received == len(sounds)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("at_once", [False, True])
async def test_sound_that_looks_like_a_frame_within_a_frame_is_sound(count: int, at_once: bool) -> None:
    inner = b"\x10\x01\x40" + bytes(320)
    head = struct.pack(">BH", 0x10, count * len(inner))
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID) + (head if at_once else b""))
            await leg.connected()
            if not at_once:
                peer.write(head)
            for _ in range(count):
                await asyncio.sleep(0.01)  # until it was read
                peer.write(inner)
            peer.write(inner)
            assert [await leg.receive(), await leg.receive()] == [inner * count, bytes(320)]


async def test_a_connection_that_breaks_while_we_write_is_the_end_of_its_leg_alone() -> None:
    async with AudioServer() as server:
        leg, other = server.expect(LEG_ID, 8000), server.expect(uuid4(), 8000)
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as broken:
            broken.sendall(uuid_frame(LEG_ID))
            await leg.connected()
            reset(broken)
        await leg.send(bytes(320))
        leg.tick(1)  # before the loop could see the end
        assert leg.why == "eof"
        assert leg.counters.dropped == 1
        async with peer_of(server) as peer:
            peer.write(uuid_frame(other.leg_id))
            await other.send(b"ab" * 160)
            assert await peer.frame() == (0x10, b"ab" * 160)


async def test_a_leg_that_is_over_writes_into_no_other_file() -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await leg.connected()
        await leg.wait_closed()
        await leg.close()
        pairs = [socket.socketpair() for _ in range(8)]  # one of them has the number that was the leg's
        for _ in range(server_module.QUIET + 1):
            leg.tick(1)
        for one, two in pairs:
            for end in (one, two):
                end.setblocking(False)
                with pytest.raises(BlockingIOError):
                    end.recv(1)
        for one, two in pairs:
            one.close()
            two.close()


async def test_what_goes_wrong_with_one_leg_leaves_the_others_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AudioServer() as server:
        bad, good = server.expect(LEG_ID, 8000), server.expect(uuid4(), 8000)
        async with peer_of(server) as first, peer_of(server) as second:
            first.write(uuid_frame(LEG_ID))
            second.write(uuid_frame(good.leg_id))
            await bad.connected()
            await good.connected()

            def heard(leg: AudioSocketLeg, pcm: bytes) -> None:
                if leg is bad:
                    raise MemoryError("no room for this sound")
                PacedLeg._heard(leg, pcm)

            monkeypatch.setattr(AudioSocketLeg, "_heard", heard)
            first.write(b"\x10\x01\x40" + bytes(320))
            second.write(b"\x10\x01\x40" + bytes(320))
            assert await good.receive() == bytes(320)
            assert await bad.wait_closed() == "error: no room for this sound"


async def test_a_leg_with_nothing_to_say_sends_silence_from_the_first_moment() -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            for _ in range(3):
                assert await peer.frame(silence=True) == (0x10, bytes(320))
            await leg.send(b"ab" * 160)
            await leg.drained()
            assert await peer.frame() == (0x10, b"ab" * 160)
            assert await peer.frame(silence=True) == (0x10, bytes(320))
            assert leg.counters.sent == 1  # silence is no frame of ours


async def test_silence_is_sent_for_legs_whose_event_loop_stands_still() -> None:
    """Asterisk may wait for it with a lock that all calls need."""
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        with closing(socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])))) as peer:
            peer.settimeout(10)
            peer.sendall(uuid_frame(LEG_ID))
            await leg.connected()
            for _ in range(4):  # what the loop has sent is soon read: it stands still
                told = b""
                while len(told) < 323:
                    told += peer.recv(323 - len(told))
                assert told == b"\x10\x01\x40" + bytes(320)
        assert GUARD_THREAD in {thread.name for thread in threading.enumerate()}
    for _ in range(200):
        if GUARD_THREAD not in {thread.name for thread in threading.enumerate()}:
            break
        await asyncio.sleep(0.05)
    assert GUARD_THREAD not in {thread.name for thread in threading.enumerate()}


async def test_a_leg_whose_peer_reads_nothing_gets_no_half_frame_of_the_guard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "STILL", -1.0)
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await leg.connected()
            for _ in range(20000):
                server.stand_in()
            for _ in range(50):
                assert await peer.frame(silence=True) == (0x10, bytes(320))


async def test_sound_sent_before_asterisk_connects_waits_for_it() -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        await leg.send(b"ab" * 160)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            assert await peer.frame() == (0x10, b"ab" * 160)
            await leg.drained()


async def test_close_says_goodbye_and_waits_for_asterisk_to_end_it() -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await leg.connected()
            closing = asyncio.create_task(leg.close())
            assert await peer.frame() == (0x00, b"")
            assert not closing.done()
            peer.write(b"\x10\x00\x02ab")  # what was on its way
            peer.writer.close()
            await closing
            assert leg.why == "ours"
            with pytest.raises(CallEnded):
                await leg.receive()


async def test_close_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "GOODBYE_SECONDS", 0.05)
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000)
        async with peer_of(server) as peer:
            peer.write(uuid_frame(LEG_ID))
            await leg.connected()
            await leg.close()


async def test_close_of_the_server_ends_all_and_listens_no_more() -> None:
    server = AudioServer()
    await server.start()
    await server.start()
    waiting = server.expect(uuid4(), 8000)
    running = server.expect(LEG_ID, 8000)
    async with peer_of(server) as peer, peer_of(server) as nameless:
        peer.write(uuid_frame(LEG_ID))
        await running.connected()
        closing = asyncio.create_task(server.close())
        await nameless.is_dropped()
        assert await peer.frame() == (0x00, b"")
        peer.writer.close()
        await closing
    await server.close()
    assert waiting.why == running.why == "ours"
    with pytest.raises(MediaFailed, match="ours"):
        await waiting.connected()
    with pytest.raises(ConnectionRefusedError):
        async with peer_of(server):
            pass
    with pytest.raises(RuntimeError, match="not started"):
        server.expect(LEG_ID, 8000)


async def test_asterisk_that_does_not_come_is_named() -> None:
    async with AudioServer() as server:
        leg = server.expect(LEG_ID, 8000, 0.01)
        with pytest.raises(MediaFailed, match=r"did not connect its sound within 0\.01 s") as caught:
            await leg.connected()
        assert server.address in str(caught.value.hint)
        async with peer_of(server) as late:
            late.write(uuid_frame(LEG_ID))
            await late.is_dropped()
        assert server.rejected == {"unknown": 1}


def test_without_a_free_file_it_tries_to_accept_once_at_a_time_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.01)
    faults: list[dict[str, object]] = []

    async def without() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with AudioServer() as server:
            leg = server.expect(LEG_ID, 16000)
            with closing(socket.socket()) as asterisk:
                with no_more_files():
                    asterisk.connect(("127.0.0.1", int(server.address.partition(":")[2])))
                    async with asyncio.timeout(10):
                        while not faults:  # noqa: ASYNC110
                            await asyncio.sleep(0)
                    assert len(faults) <= 2  # newer Pythons try once more than what may wait
                asterisk.send(uuid_frame(LEG_ID))
                await leg.connected()

    with asyncio.Runner(loop_factory=new_tenant_loop) as runner:
        runner.run(without())


async def test_an_address_that_cannot_be_had_is_named() -> None:
    async with AudioServer() as server:
        port = int(server.address.partition(":")[2])
        with pytest.raises(LocalProtocolError, match=f"cannot listen for sound at 127.0.0.1:{port}: "):
            await AudioServer(ports=(port,)).start()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, new_event_loop])
def test_the_first_free_port_is_taken(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def take() -> None:
        async with AudioServer() as one, AudioServer() as two:
            taken = [int(server.address.partition(":")[2]) for server in (one, two)]
            with closing(socket.socket()) as free:
                free.bind(("127.0.0.1", 0))
                last = free.getsockname()[1]
            async with AudioServer(ports=(*taken, last)) as third:
                assert third.address == f"127.0.0.1:{last}"
            span = f"{min(taken)}-{max(taken)}"
            with pytest.raises(LocalProtocolError, match=f"cannot listen for sound at 127.0.0.1:{span}: "):
                await AudioServer(ports=taken).start()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(take())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, new_event_loop])
def test_who_gives_up_as_it_begins_to_listen_leaves_no_port_taken(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def give_up() -> None:
        async with AudioServer() as other:
            port = int(other.address.partition(":")[2])
        for turns in range(6):  # of the loop, until the end of patience
            server = AudioServer(ports=(port,))
            begins = asyncio.create_task(server.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            begins.cancel()
            await asyncio.wait([begins])
            await server.close()
        async with AudioServer(ports=(port,)):
            pass

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(give_up())


async def test_an_address_that_asterisk_would_cut_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="Asterisk keeps 49"):
        await AudioServer(advertise="a-very-long-name.of-a-machine.in-a-datacentre.example").start()


async def test_ipv6_is_written_as_asterisk_reads_it() -> None:
    async with AudioServer(advertise="2001:db8::1") as server:
        assert server.address.startswith("[2001:db8::1]:")


async def test_a_rate_without_a_type_is_refused() -> None:
    async with AudioServer() as server:
        with pytest.raises(LocalProtocolError, match="11025"):
            server.expect(LEG_ID, 11025)
