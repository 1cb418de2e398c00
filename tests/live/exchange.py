"""A telephone exchange of a few lines, at the other end of a trunk: it takes calls of the node, places calls
to it, and every call has sound. SIP over UDP and RTP with µ-law, all in the test's own event loop.

It keeps to what RFC 3261, 3551 and 4733 ask of an end that loses no packet: this is loopback.
"""

import asyncio
import re
import secrets
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, cast

from tests.live.carrier import reply
from voxtractl.audio.g711 import ulaw_to_pcm

__all__ = ["Dialog", "Exchange", "Fate", "exchange"]

FRAME: Final = 160  # samples of 20 ms
SILENCE: Final = b"\xff" * FRAME
DTMF: Final = "0123456789*#ABCD"  # by their numbers in RFC 4733
DTMF_TYPE: Final = 101  # of the payload
DTMF_FRAMES: Final = 4  # 80 ms


@dataclass(frozen=True)
class Fate:
    """What becomes of a call the node places. It rings for ``rings`` seconds; ``status`` 0 is never answered;
    an answered one hangs up ``talks`` seconds later, or not by itself. ``moved`` is the number that a
    redirection names."""

    status: int = 200
    rings: float = 0.05
    talks: float | None = None
    moved: str = ""


@dataclass(eq=False)
class Dialog:
    """One call. ``sent`` and ``got`` are what was said in it: methods and statuses, in order."""

    exchange: "Exchange"
    number: str
    caller: str
    id: str
    invite: str = ""  # the node's, when it calls
    told: str = ""  # our last word to it
    tag: str = ""  # the node's, when it is called
    target: str = ""  # where the node wants further requests
    status: int = 0
    up: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)  # for good or ill
    got: list[str] = field(default_factory=list)
    notified: list[str] = field(default_factory=list)  # statuses of what was referred
    voice: "Voice | None" = None
    requests: int = 1

    @property
    def asked(self) -> str:
        """The CSeq of the node's INVITE."""
        return _header(self.invite, "CSeq")

    @property
    def heard(self) -> bytes:
        """What the node said, as 16-bit PCM at 8 kHz."""
        return ulaw_to_pcm(bytes(self.voice.heard)) if self.voice else b""

    def press(self, digits: str) -> None:
        assert self.voice is not None
        self.voice.digits += digits

    def refer(self, number: str, *, to: "Dialog | None" = None, more: str | None = None) -> None:
        """Ask the node to connect the other side of the call with somebody else: with whoever has the number,
        or with the other side of a call ``to`` it that this end has placed (an attended transfer). ``number``
        may be a whole URI; ``more`` are the headers beside it, Referred-By when nothing is said."""
        self.requests += 1
        place = f"{self.exchange.address}:{self.exchange.port}"
        other = f"?Replaces={to.name.replace(';', '%3B').replace('=', '%3D')}" if to else ""
        uri = number if ":" in number else f"sip:{number}@127.0.0.1{other}"
        by = f"Referred-By: <sip:{self.number}@{place}>\r\n" if more is None else more
        self.exchange.request(self, "REFER", self.requests, more=f"Refer-To: <{uri}>\r\n{by}")

    def offer(self, way: str = "sendrecv", *, method: str = "INVITE") -> None:
        """A change of the sound in the middle of a call: ``sendonly`` puts the node on hold."""
        assert self.voice is not None
        self.requests += 1
        self.exchange.request(self, method, self.requests, self.exchange.sdp(self.voice, way))

    @property
    def name(self) -> str:
        """What a Replaces header calls it."""
        ours = "carrier" if self.invite else f"x{self.id}"
        return f"{self.id};to-tag={self.tag};from-tag={ours}"

    def hang_up(self) -> None:
        """BYE when it is up, else CANCEL."""
        if self.over.is_set():
            return
        if self.up:
            self.requests += 1
            self.exchange.request(self, "BYE", self.requests)
            self.end()
        else:
            self.exchange.request(self, "CANCEL", 1, again=True)

    def end(self) -> None:
        self.up = False
        self.over.set()
        self.answered.set()
        if self.voice is not None:
            self.voice.close()


class Voice(asyncio.DatagramProtocol):
    """The sound of one call: ``says`` again and again, and digits, 20 ms by 20 ms; what comes is kept."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.says = SILENCE  # µ-law
        self.digits = ""
        self._to: tuple[str, int] | None = None
        self._number = secrets.randbelow(1 << 15)
        self._source = secrets.randbits(32)
        self._pressed = 0  # frames of the first digit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    def talk(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._tick()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) > 12 and data[1] & 0x7F == 0:  # payload type 0: µ-law
            self.heard += data[12:]

    def _tick(self) -> None:
        self._timer = self._loop.call_later(0.02, self._tick)
        self._number += 1
        if not self.digits:
            at = self._number * FRAME % len(self.says)
            self._send(0, self._number * FRAME, self.says[at : at + FRAME])
            return
        self._pressed += 1
        last = self._pressed == DTMF_FRAMES
        event = struct.pack(">BBH", DTMF.index(self.digits[0]), last << 7 | 10, self._pressed * FRAME)
        began = (self._number - self._pressed + 1) * FRAME  # of the digit, in all of its packets
        self._send(DTMF_TYPE, began, event, mark=self._pressed == 1)
        if last:
            self.digits, self._pressed = self.digits[1:], 0

    def _send(self, kind: int, time: int, payload: bytes, *, mark: bool = False) -> None:
        head = struct.pack(
            ">BBHII", 0x80, mark << 7 | kind, self._number & 0xFFFF, time & 0xFFFFFFFF, self._source
        )
        self._transport.sendto(head + payload, self._to)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()


class Exchange(asyncio.DatagramProtocol):
    """``fate`` says what becomes of a call to a number. ``dialogs`` are all calls of its life."""

    def __init__(self, address: str, node_port: int, fate: Callable[[str], Fate]) -> None:
        self.address = address
        self.fate = fate
        self.dialogs: dict[str, Dialog] = {}
        self.most = 0  # of the node's calls at once
        self._node = ("127.0.0.1", node_port)
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    def dialled(self) -> list[str]:
        """The numbers the node called, in order."""
        return [dialog.number for dialog in self.dialogs.values() if dialog.invite]

    async def call(self, number: str, *, caller: str = "+265700000001", instead: str = "") -> Dialog:
        """Call a number of the node; it rings, or is answered. ``instead`` of a call that has this name it is
        connected with whoever that one talks to (Replaces)."""
        dialog = Dialog(self, number, caller, secrets.token_hex(8))
        dialog.target = f"sip:{number}@127.0.0.1:{self._node[1]}"
        self.dialogs[dialog.id] = dialog
        dialog.voice = await self._voice()
        more = f"Replaces: {instead}\r\n" if instead else ""
        self.request(dialog, "INVITE", 1, self.sdp(dialog.voice), more=more)
        return dialog

    async def close(self) -> None:
        for dialog in self.dialogs.values():
            dialog.end()
        for task in self._tasks:
            task.cancel()
        self._transport.close()

    # --- what comes ---------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: object) -> None:
        text = data.decode()
        dialog = self.dialogs.get(_header(text, "Call-ID"))
        if text.startswith("SIP/2.0 "):
            if dialog is not None:
                self._answer(dialog, text)
            return
        method = text.partition(" ")[0]
        if dialog is not None:
            dialog.got.append(method)
        if method == "INVITE" and dialog is None:
            self._later(self._take(text))
        elif method == "INVITE" and dialog is not None and _header(text, "CSeq") == dialog.asked:
            self._send(dialog.told)  # it did not hear us
        elif method == "CANCEL" and dialog is not None:
            self._send(reply(text, "200 OK"))
            self._tell(dialog, reply(dialog.invite, "487 Request Terminated"))
            dialog.end()
        elif method == "BYE" and dialog is not None:
            self._send(reply(text, "200 OK"))
            dialog.end()
        elif method == "NOTIFY" and dialog is not None:  # how what was referred goes
            self._send(reply(text, "200 OK"))
            dialog.notified.append(text.rpartition("SIP/2.0 ")[2].strip())
        elif method == "INVITE" and dialog is not None and dialog.voice is not None:  # a change of the sound
            self._send(self._accept(text, dialog.voice))
        elif method != "ACK":
            self._send(reply(text, "200 OK"))

    async def _take(self, text: str) -> None:
        """A call of the node, to its answer and its end."""
        called = re.match(r"INVITE sip:(?:([^@\s]*)@)?", text)
        number = (called[1] if called else None) or ""  # none: the endpoint itself was dialled
        found = re.search(r"sip:([^@>]*)@", _header(text, "From"))
        dialog = Dialog(self, number, found[1] if found else "", _header(text, "Call-ID"), invite=text)
        dialog.target = _uri(_header(text, "Contact"))
        dialog.tag = _tag(_header(text, "From"))
        self.dialogs[dialog.id] = dialog
        self.most = max(self.most, sum(not one.over.is_set() for one in self.dialogs.values() if one.invite))
        fate = self.fate(number)
        self._tell(dialog, reply(text, "180 Ringing"))
        await asyncio.sleep(fate.rings)
        if dialog.over.is_set() or not fate.status:
            return
        dialog.status = fate.status
        if fate.status != 200:
            no = reply(text, f"{fate.status} No")
            if fate.moved:
                no = no.replace(
                    "Content-Length", f"Contact: <sip:{fate.moved}@{self.address}>\r\nContent-Length"
                )
            self._tell(dialog, no)
            dialog.end()
            return
        dialog.voice = await self._voice()
        dialog.up = True
        dialog.answered.set()
        self._tell(dialog, self._accept(text, dialog.voice))
        dialog.voice.talk(*_media(text))
        if fate.talks is not None:
            await asyncio.sleep(fate.talks)
            dialog.hang_up()

    def _answer(self, dialog: Dialog, text: str) -> None:
        """The node's answer to a request of ours."""
        status = int(text.split()[1])
        dialog.got.append(str(status))
        number, method = _header(text, "CSeq").split()
        if not dialog.invite:
            dialog.tag = dialog.tag or _tag(_header(text, "To"))
        if method != "INVITE" or status < 200:
            return
        if int(number) > 1:
            self.request(dialog, "ACK", int(number), again=status != 200)
            return
        if dialog.answered.is_set():
            return
        dialog.status = status
        dialog.tag = _tag(_header(text, "To"))
        if status == 200:
            dialog.target = _uri(_header(text, "Contact"))
            dialog.up = True
            assert dialog.voice is not None
            dialog.voice.talk(*_media(text))
        self.request(dialog, "ACK", 1, again=status != 200)
        dialog.answered.set()
        if status != 200:
            dialog.end()

    # --- what goes ----------------------------------------------------------------------------------------

    def request(
        self, dialog: Dialog, method: str, number: int, body: str = "", *, more: str = "", again: bool = False
    ) -> None:
        """``again``: it belongs to the transaction of the INVITE of this number."""
        place = f"{self.address}:{self.port}"
        ours, theirs = f"<sip:{dialog.caller}@{place}>;tag=x{dialog.id}", f"<{dialog.target}>"
        if dialog.invite:  # the node called: the tag of every reply of ours
            ours = f"{_header(dialog.invite, 'To')};tag=carrier"
            theirs = _header(dialog.invite, "From")
        elif dialog.tag and method != "CANCEL":
            theirs += f";tag={dialog.tag}"
        branch = f"z9hG4bK{dialog.id}{number}{'' if again or method == 'INVITE' else method}"
        content = "Content-Type: application/sdp\r\n" if body else ""
        self._send(
            f"{method} {dialog.target} SIP/2.0\r\nVia: SIP/2.0/UDP {place};branch={branch};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: {ours}\r\nTo: {theirs}\r\nCall-ID: {dialog.id}\r\n"
            f"CSeq: {number} {method}\r\nContact: <sip:{place}>\r\n{more}"
            f"{content}Content-Length: {len(body)}\r\n\r\n{body}"
        )

    def _accept(self, invite: str, voice: Voice) -> str:
        head = reply(invite, "200 OK").removesuffix("Content-Length: 0\r\n\r\n")
        body = self.sdp(voice)
        return (
            f"{head}Contact: <sip:{self.address}:{self.port}>\r\nContent-Type: application/sdp\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )

    def sdp(self, voice: Voice, way: str = "sendrecv") -> str:
        return (
            f"v=0\r\no=- 1 1 IN IP4 {self.address}\r\ns=-\r\nc=IN IP4 {self.address}\r\nt=0 0\r\n"
            f"m=audio {voice.port} RTP/AVP 0 {DTMF_TYPE}\r\na=rtpmap:0 PCMU/8000\r\n"
            f"a=rtpmap:{DTMF_TYPE} telephone-event/8000\r\na=fmtp:{DTMF_TYPE} 0-16\r\na=ptime:20\r\n"
            f"a={way}\r\n"
        )

    async def _voice(self) -> Voice:
        loop = asyncio.get_running_loop()
        return (await loop.create_datagram_endpoint(Voice, local_addr=(self.address, 0)))[1]

    def _tell(self, dialog: Dialog, text: str) -> None:
        dialog.told = text
        self._send(text)

    def _send(self, text: str) -> None:
        self._transport.sendto(text.encode(), self._node)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _header(text: str, name: str) -> str:
    found = re.search(rf"^{name}: *(.*?)\r$", text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else ""


def _tag(value: str) -> str:
    found = re.search(r";tag=([^;\s]+)", value)
    return found[1] if found else ""


def _uri(contact: str) -> str:
    found = re.search(r"<([^>]*)>", contact)
    return found[1] if found else contact


def _media(text: str) -> tuple[str, int]:
    """Where the other side wants its sound."""
    host = re.search(r"^c=IN IP4 (\S+)", text, re.MULTILINE)
    port = re.search(r"^m=audio (\d+)", text, re.MULTILINE)
    assert host, text
    assert port, text
    return host[1], int(port[1])


@asynccontextmanager
async def exchange(
    address: str, node_port: int, fate: Callable[[str], Fate] = lambda number: Fate()
) -> AsyncIterator[Exchange]:
    loop = asyncio.get_running_loop()
    _, made = await loop.create_datagram_endpoint(
        lambda: Exchange(address, node_port, fate), local_addr=(address, 0)
    )
    try:
        yield made
    finally:
        await made.close()
