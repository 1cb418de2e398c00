"""Acme's trunk, and the exchange it leads to."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.live.conftest import NodeDocument
from tests.live.exchange import Exchange, Fate, exchange
from tests.live.pbx import ACME, TENANTS, Pbx
from voxtractl import naming
from voxtractl.lab import Lab

__all__ = ["OURS", "TRUNK", "fate", "line", "number"]

TRUNK = naming.trunk_endpoint("acme")
OURS = "+265888000001"


def fate(number: str) -> Fate:
    """By the number: +265 7 STATUS …; 000 only rings, 302 is forwarded to acme itself, and who ends in 99999
    hangs up soon, in 99998 at once. Without a number it answers."""
    talks = {"99999": 0.3, "99998": 0.001}.get(number[-5:])
    return Fate(int(number[5:8] or 200), talks=talks, moved=ACME if number[5:8] == "302" else "")


def number(status: int, last: int = 0) -> str:
    return f"+2657{status:03d}{last:05d}"


@pytest.fixture
async def line(lab: Lab, node_document: NodeDocument) -> AsyncIterator[tuple[Pbx, Exchange]]:
    """The lab with acme's trunk leading to an exchange."""
    async with exchange("127.0.0.9", lab.sip_port, fate) as there:
        tenants = TENANTS.replace('host = "127.0.0.9"', f'host = "127.0.0.9"\nport = {there.port}')
        pbx = Pbx(lab, await asyncio.to_thread(node_document, tenants))
        pbx.write_far_contexts()
        await asyncio.to_thread(pbx.voxtractl, "dialplan", "push", "--yes")
        yield pbx, there
        for dialog in there.dialogs.values():
            if dialog.up:  # who has sent a REFER is left a minute for its BYE, with its port for sound
                dialog.hang_up()
        for row in pbx.channels():
            pbx.ari("DELETE", f"channels/{row['id']}")
        await pbx.empty()
