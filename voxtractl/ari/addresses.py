"""Connections to Asterisk: of a name with several addresses those that do not answer hold up nobody.

A node's name may have an IPv6 address that a firewall drops. asyncio tries one address after the other, each
for as long as the kernel does, which is longer than we wait for an answer; uvloop has no other way. curl and
every browser try the next after a quarter of a second (RFC 8305), so the same name works there.
"""

import asyncio
import errno
import os
from contextlib import suppress
from ipaddress import ip_address
from socket import SOCK_STREAM, socket
from typing import Any, Final

__all__ = ["NOT_THERE", "connected", "why"]

NOT_THERE: Final = "is Asterisk running, http.conf enabled, and its sessionlimit not used up?"
NEXT: Final = 0.25  # seconds until the next address is tried too (RFC 8305, section 5)


async def connected(host: str, port: int) -> socket | None:
    """A socket that is connected to the first address that takes it. Raises OSError when none does.

    None where ``host`` is an address itself: there is no choice.
    """
    with suppress(ValueError):
        ip_address(host.partition("%")[0])
        return None
    from aiohappyeyeballs import start_connection

    return await start_connection(
        await _addresses(host, port), happy_eyeballs_delay=NEXT, interleave=1, loop=asyncio.get_running_loop()
    )


async def _addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)


def why(exc: OSError) -> tuple[str, str]:
    """What is told of a connection that failed, and the next step. The errors of ssl are not imported: few
    need them."""
    if distrust := getattr(exc, "verify_message", ""):
        return (
            f"its certificate is not trusted: {distrust}",
            "let the system trust it, or name its file in SSL_CERT_FILE; it must name the host of the URL",
        )
    foreign = getattr(exc, "library", None)  # of OpenSSL, whose numbers are its own
    number = 0 if foreign else exc.errno or 0
    # Each event loop has words of its own; what is below 0 is of getaddrinfo.
    reason = (os.strerror(number) if number > 0 else exc.strerror or str(exc)).lower()
    if exc.errno in {errno.EMFILE, errno.ENFILE}:
        return reason, "raise this process's limit: LimitNOFILE= of systemd, ulimit -n"
    if number < 0:
        return reason, "is the host of its URL right, and does DNS answer?"
    if foreign:
        return reason, "is it https that is spoken at this port?"
    return reason, NOT_THERE
