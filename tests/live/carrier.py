"""A carrier of a few lines: one UDP socket that speaks enough SIP to call a node and to be called by it.

It keeps no state and answers every call it gets with 486: tests ask what a real carrier would see on the
wire, nothing more.
"""

import re
import secrets
import socket
from dataclasses import dataclass
from types import TracebackType

__all__ = ["Carrier", "Invite", "reply"]

PATIENCE = 10.0  # seconds until a missing answer fails the test


@dataclass(frozen=True)
class Invite:
    """A call the node placed over this carrier."""

    number: str
    caller: str


class Carrier:
    """``with Carrier("127.0.0.2", node_port) as carrier: carrier.call("+265999000001")``."""

    def __init__(self, address: str, node_port: int) -> None:
        self.address = address
        self.node = ("127.0.0.1", node_port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.socket.settimeout(PATIENCE)
        self.port: int = self.socket.getsockname()[1]

    def __enter__(self) -> "Carrier":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def begin(self, number: str, caller: str = "+265700000001") -> "Leg":
        """Place a call; ``finish`` waits for what becomes of it."""
        leg = Leg(self, number, caller)
        leg.invite()
        return leg

    def call(self, number: str) -> "Leg":
        """Place a call and wait for its final answer; an answered one is hung up at once."""
        leg = self.begin(number)
        if leg.finish() == 200:
            leg.bye()
        return leg

    def receive(self) -> Invite:
        """Wait for a call of the node, refuse it with 486 and return whom it was for and whom it was from."""
        while True:
            text = self.read()
            if not text.startswith("INVITE "):
                continue
            self.send(reply(text, "486 Busy Here"))
            number = re.match(r"INVITE sip:([^@\s]*)@", text)
            caller = re.search(r"^From:.*?sip:([^@>]*)@", text, re.MULTILINE)
            return Invite(number[1] if number else "", caller[1] if caller else "")

    def read(self) -> str:
        return self.socket.recv(65535).decode()

    def send(self, text: str) -> None:
        self.socket.sendto(text.encode(), self.node)


class Leg:
    """One call from the carrier to the node."""

    def __init__(self, carrier: Carrier, number: str, caller: str) -> None:
        self.carrier = carrier
        self.uri = f"sip:{number}@127.0.0.1:{carrier.node[1]}"
        self.caller = caller
        self.id = secrets.token_hex(8)
        self.tag = ""  # the node's
        self.status = 0

    def invite(self) -> None:
        here = f"{self.carrier.address}"
        body = (
            f"v=0\r\no=- 1 1 IN IP4 {here}\r\ns=-\r\nc=IN IP4 {here}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
        )
        self._request("INVITE", 1, f"z9hG4bK{self.id}", body)

    def finish(self) -> int:
        """Wait for the final status, and acknowledge it."""
        while self.status < 200:
            text = self.carrier.read()
            status = re.match(r"SIP/2\.0 (\d+)", text)
            if status and self.id in text and "CSeq: 1 INVITE" in text:
                self.status = int(status[1])
                tag = re.search(r"^To:.*;tag=(\S+)", text, re.MULTILINE)
                self.tag = tag[1] if tag else ""
        branch = f"z9hG4bK{self.id}" if self.status >= 300 else f"z9hG4bKack{self.id}"
        self._request("ACK", 1, branch)
        return self.status

    def bye(self) -> None:
        self._request("BYE", 2, f"z9hG4bKbye{self.id}")

    def _request(self, method: str, number: int, branch: str, body: str = "") -> None:
        place = f"{self.carrier.address}:{self.carrier.port}"
        to = f"<{self.uri}>" + (f";tag={self.tag}" if self.tag else "")
        content = "Content-Type: application/sdp\r\n" if body else ""
        self.carrier.send(
            f"{method} {self.uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {place};branch={branch};rport\r\nMax-Forwards: 70\r\n"
            f"From: <sip:{self.caller}@{place}>;tag=t{self.id}\r\nTo: {to}\r\n"
            f"Call-ID: {self.id}\r\nCSeq: {number} {method}\r\nContact: <sip:{place}>\r\n"
            f"{content}Content-Length: {len(body)}\r\n\r\n{body}"
        )


def reply(request: str, status: str) -> str:
    """An answer to a request: its own Via, From, To, Call-ID and CSeq."""
    kept = [
        line
        for line in request.split("\r\n\r\n", 1)[0].split("\r\n")[1:]
        if line.partition(":")[0] in ("Via", "From", "To", "Call-ID", "CSeq")
    ]
    tagged = [f"{line};tag=carrier" if line.startswith("To:") else line for line in kept]
    return "\r\n".join([f"SIP/2.0 {status}", *tagged, "Content-Length: 0", "", ""])
