"""The listening server of a loop and the breaker before Asterisk's media channels."""

import asyncio
from uuid import uuid4

import pytest

from voxtractl.errors import LocalProtocolError
from voxtractl.runtime import media
from voxtractl.runtime.media import Breaker


async def test_the_first_legs_of_a_loop_may_come_at_once() -> None:
    """They share one server, and each gets it listening; the second must not get it half begun."""
    servers = await asyncio.gather(*(media._server("127.0.0.1") for _ in range(5)))
    assert {id(server) for server in servers} == {id(await media._server("127.0.0.1"))}
    leg = servers[0].expect(uuid4(), 8000)
    await leg.close()
    await servers[0].close()


async def test_a_server_that_cannot_begin_is_not_kept() -> None:
    with pytest.raises(LocalProtocolError):
        await media._server("192.0.2.1")  # an address of nobody (RFC 5737)
    server = await media._server("127.0.0.1")
    await server.close()


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_try_decide() -> None:
    breaker = Breaker(failures=3, rest=5.0)
    for good in (False, False, True, False, False):
        breaker.tell(0.0, good=good)
        assert breaker.check(0.0) == 0.0
    breaker.tell(1.0, good=False)
    assert breaker.check(2.0) == 4.0
    assert breaker.check(6.0) == 0.0
    breaker.tell(6.0, good=False)
    assert breaker.check(7.0) == 4.0
    breaker.tell(11.0, good=True)
    assert breaker.check(11.0) == 0.0
