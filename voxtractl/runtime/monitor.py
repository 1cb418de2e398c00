"""What a runtime shows of itself over HTTP on loopback: ``/healthz``, ``/readyz``, ``/metrics`` for
Prometheus.

Off unless a port is asked for. ``/healthz``: the process turns. ``/readyz``: it has started, every node is
connected and no drain has begun, else 503 with the reason. Labels are tenant, node and disposition: no number
and no caller.
"""

import asyncio
from collections.abc import Mapping
from socket import create_server
from typing import TYPE_CHECKING, Any, Final

from voxtractl.ari.forks import ours
from voxtractl.errors import UsageFault

if TYPE_CHECKING:
    from aiohttp.web import AppRunner, Request, Response

    from voxtractl.runtime.hub import Hub
    from voxtractl.runtime.supervisor import Supervisor

__all__ = ["Monitor"]

PATIENCE: Final = 1.0  # seconds that who reads slowly gets at the end
SECONDS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600)


class Monitor:
    """``count`` is a sink for the events of calls; ``start`` opens the port."""

    def __init__(self, supervisor: "Supervisor | None" = None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.supervisor = supervisor
        self.registry = CollectorRegistry()
        of = ("tenant", "node")
        self._started = Counter(
            "voxtractl_calls_started", "Calls begun", (*of, "direction"), registry=self.registry
        )
        self._adopted = Counter(
            "voxtractl_calls_adopted", "Calls taken over from another process", of, registry=self.registry
        )
        self._ended = Counter(
            "voxtractl_calls_ended", "Calls ended", (*of, "disposition", "ended_by"), registry=self.registry
        )
        self._seconds = Histogram(
            "voxtractl_call_seconds", "How long calls lasted", of, registry=self.registry, buckets=SECONDS
        )
        self._faults = Counter(
            "voxtractl_handler_failures", "Handlers that raised", of, registry=self.registry
        )
        self._playbacks = Counter(
            "voxtractl_playback_failures", "Sounds Asterisk could not play", of, registry=self.registry
        )
        self._live = Gauge("voxtractl_calls", "Calls that are up", ("node",), registry=self.registry)
        self._up = Gauge(
            "voxtractl_node_connected", "1 when events come in", ("node",), registry=self.registry
        )
        self._taken = Gauge(
            "voxtractl_apps_taken", "Stasis apps another process has", ("node",), registry=self.registry
        )
        self._tenants = Gauge("voxtractl_tenants", "Tenants", ("state",), registry=self.registry)
        self._runner: AppRunner | None = None

    def count(self, event: Mapping[str, Any]) -> None:
        """Count one event of a call."""
        of = (event["tenant"] or "", event["node"] or "")
        match event["event"]:
            case "call_started":
                self._started.labels(*of, event["direction"]).inc()
            case "call_adopted":
                self._adopted.labels(*of).inc()
            case "call_ended":
                self._ended.labels(*of, event["disposition"], event["ended_by"]).inc()
                self._seconds.labels(*of).observe(event["seconds"])
            case "handler_failed":
                self._faults.labels(*of).inc()
            case "playback_failed":
                self._playbacks.labels(*of).inc()

    async def start(self, port: int, *, host: str = "127.0.0.1") -> int:
        """Serve; returns the port (another one for 0). Raises UsageFault when it is taken."""
        from aiohttp import web

        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=PATIENCE)
        await self._runner.setup()
        try:
            listener = create_server((host, port))
            ours(listener)
            await web.SockSite(self._runner, listener).start()
        except OSError as exc:
            await self.close()
            raise UsageFault(
                f"port {port} for health and metrics cannot be opened: {exc.strerror}", hint="choose another"
            ) from exc
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _healthz(self, request: "Request") -> "Response":
        from aiohttp import web

        return web.Response(text="ok\n")

    async def _readyz(self, request: "Request") -> "Response":
        from aiohttp import web

        if self.supervisor is None or not self.supervisor.serves:
            return web.Response(status=503, text="it starts\n")
        hubs = self.supervisor.hubs
        away = [name for name, hub in hubs.items() if not hub.connected]
        draining = [name for name, hub in hubs.items() if hub.draining]
        if away or draining:
            reasons = [f"{name} is not connected{_why(hubs[name])}" for name in away] + [
                f"{name} is draining" for name in draining
            ]
            return web.Response(status=503, text="\n".join(reasons) + "\n")
        return web.Response(text="ready\n")

    async def _metrics(self, request: "Request") -> "Response":
        from aiohttp import web
        from prometheus_client import generate_latest

        if self.supervisor is not None:
            for name, hub in self.supervisor.hubs.items():
                self._live.labels(name).set(len(hub.table.live))
                self._up.labels(name).set(self.supervisor.serves and hub.connected)
                self._taken.labels(name).set(len(hub.taken))
            self._tenants.labels("served").set(len(self.supervisor.served))
            self._tenants.labels("without_handler").set(len(self.supervisor.without_handler))
        # In a thread: 10,000 tenants are 200,000 lines, which take 2 s.
        text = await asyncio.to_thread(generate_latest, self.registry)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})


def _why(hub: "Hub") -> str:
    return f" any more: {hub.failure}" if hub.failure is not None else ""
