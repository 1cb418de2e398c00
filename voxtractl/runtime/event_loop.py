"""The event loop that has the connections to Asterisk: uvloop's (docs/decisions/0009).

For ``VoxtraApp.run`` and the hubs of ``voxtractl run``. The loops of its tenants are asyncio's: libuv ends
the process for what a handler may do to a file descriptor.
"""

import asyncio

import uvloop

__all__ = ["new_event_loop"]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop; the caller closes it."""
    return uvloop.new_event_loop()
