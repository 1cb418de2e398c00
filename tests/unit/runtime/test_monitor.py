"""The port of /metrics: nobody who asks there holds up calls, or the end."""

import asyncio
import socket
import threading
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry

from voxtractl.ari.client import ARIClient
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.monitor import Monitor
from voxtractl.runtime.supervisor import Supervisor


async def test_the_loop_of_the_calls_turns_while_metrics_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, turned = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def takes_long(registry: CollectorRegistry) -> bytes:
        loop.call_soon_threadsafe(asked.set)
        return b"turned\n" if turned.wait(10) else b"stood\n"

    monkeypatch.setattr(prometheus_client, "generate_latest", takes_long)
    monitor = Monitor()
    reader, writer = await asyncio.open_connection("127.0.0.1", await monitor.start(0))
    try:
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        await asked.wait()
        turned.set()
        assert (await reader.read()).endswith(b"turned\n")
    finally:
        writer.close()
        await monitor.close()


async def test_no_node_is_connected_before_it_serves(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "tenants.toml")
    supervisor.hubs["lab"] = Hub(ARIClient("http://127.0.0.1:9", "x", "x"))
    monitor = Monitor(supervisor)
    reader, writer = await asyncio.open_connection("127.0.0.1", await monitor.start(0))
    try:
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert 'voxtractl_node_connected{node="lab"} 0.0' in (await reader.read()).decode()
    finally:
        writer.close()
        await monitor.close()


async def test_who_does_not_read_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    written = asyncio.Event()
    loop = asyncio.get_running_loop()

    def more_than_sockets_take(registry: CollectorRegistry) -> bytes:
        loop.call_soon_threadsafe(written.set)
        return bytes(30_000_000)

    monkeypatch.setattr(prometheus_client, "generate_latest", more_than_sockets_take)
    monitor = Monitor()
    port = await monitor.start(0)
    with socket.create_connection(("127.0.0.1", port)) as sleeps:
        sleeps.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        await written.wait()
        async with asyncio.timeout(30):  # it was over 60 s: systemd kills then
            await monitor.close()
