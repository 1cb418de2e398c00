"""The connection to a name with several addresses: the ones that do not answer hold up nobody.

A node's name may have an IPv6 address that a firewall drops. asyncio tries one address after the other, each
for as long as the kernel does, which is longer than we wait for an answer; uvloop has no other way. curl and
every browser try the next after a quarter of a second (RFC 8305), so the same name works there.
"""

import asyncio
from contextlib import suppress
from ipaddress import ip_address
from socket import SOCK_STREAM, socket
from typing import Any, Final

__all__ = ["connected"]

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
