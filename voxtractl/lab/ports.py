"""Ports on loopback that nobody uses at the moment; opens sockets to ask, keeps none.

Between asking and Asterisk's own bind another program may take a port. That is not prevented here: whoever
starts Asterisk looks whether it could bind and asks for other ports.
"""

import secrets
import socket
import time
from dataclasses import dataclass
from typing import Final

from voxtractl.errors import LabError

__all__ = ["Ports", "choose_ports", "is_free"]

# Below 32768, where Linux begins to hand out ports to outgoing connections by itself.
_FIRST, _LAST = 20_000, 32_000
_RTP_FIRST: Final = 10_000
_RTP_BLOCK: Final = 1_000  # two ports a leg; Asterisk itself skips those in use
_TRIES: Final = 200


@dataclass(frozen=True, slots=True)
class Ports:
    http: int  # TCP: ARI and its websockets
    sip: int  # UDP
    rtp_first: int
    rtp_last: int

    def free_within(self, seconds: float) -> bool:
        """Whether Asterisk could bind them, now or soon.

        The sockets of a process killed while it boots close up to 3 ms after its end (measured: 2 of 80).
        """
        deadline = time.monotonic() + seconds
        while not (is_free(self.http, socket.SOCK_STREAM) and is_free(self.sip, socket.SOCK_DGRAM)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def choose_ports() -> Ports:
    """Free ports, at random so that two labs started at once rarely meet."""
    block = _RTP_FIRST + _RTP_BLOCK * secrets.randbelow(10)
    return Ports(
        http=_choose(socket.SOCK_STREAM),
        sip=_choose(socket.SOCK_DGRAM),
        rtp_first=block,
        rtp_last=block + _RTP_BLOCK - 1,
    )


def is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            # As Asterisk does: a port whose old connections are in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _choose(kind: socket.SocketKind) -> int:
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if is_free(port, kind):
            return port
    raise LabError(
        f"no free port on 127.0.0.1 between {_FIRST} and {_LAST} in {_TRIES} tries",
        hint="see what uses them all: ss -ltun",
    )
