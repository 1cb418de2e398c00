"""What a call costs: our runtime beside voxtra, asyncari and ari-client, each in a process of its own.

This process calls numbers of Asterisk through Local channels, and the client answers and hangs up. The CPU of
a process is read from its own clock (clock_getcpuclockid(3)): every thread of it, in nanoseconds, and the
client does nothing for it.
"""

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Self
from urllib.parse import urlsplit
from uuid import uuid4

from tests.bench import runs
from tests.bench.figures import Figure, NotMeasured, Spread, ratio
from tests.bench.ground import Ground
from tests.bench.peer import PEER, Peer
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Request
from voxtractl.lab import Lab

__all__ = ["measure"]

OURS: Final = "voxtractl"
VOXTRA: Final = "voxtra 0.3.1"
PEERS: Final[Mapping[str, tuple[str, str]]] = {  # name → (requirement, its program)
    VOXTRA: (PEER, "calls_peer_voxtra.py"),
    "asyncari 0.20.6": ("asyncari==0.20.6", "calls_peer_asyncari.py"),
    "ari-client 0.9.0": ("ari-client==0.9.0", "calls_peer_ari_client.py"),
}

ROUNDS: Final = 3  # of all clients in turn, so that what else the machine does hits all alike
CALLS: Final = 150  # of a round, of which the CPU is measured
DELAYED: Final = 300  # of which the delay is measured
RATE: Final = 50  # of them a second: every client keeps up
IDLE: Final = 1.5  # seconds
FULL: Final = 2.0  # seconds at the limit, a round
AT_ONCE: Final = 24  # calls on their way at the limit
FAST: Final = 100  # calls a second where the delay is measured
MANY: Final = 500  # calls up at once where the memory is measured
WARM: Final = 40  # calls before anything counts: imports, caches, connections
SETTLE: Final = 30.0  # seconds until the last call must be over
ENDINGS: Final = 8.0  # seconds over which the 1,000 calls begin

# What the caller's half does once it is connected, and where calls are handed back to.
FARS: Final[Mapping[str, tuple[str, ...]]] = {
    "wait": ("Answer", "Wait,600"),
    "soon": ("Answer", "Wait,0.2", "Hangup"),
    "busy": ("Busy,5",),
    "congestion": ("Congestion,5",),
    "rings": ("Ringing", "Wait,60"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """A way for calls to end. ``number`` chooses the handler (calls_side.py)."""

    count: int
    number: str
    far: str = "wait"
    rings: int = 30  # seconds the caller waits for an answer
    each: int = 1  # calls each of them is: its handler may call out
    deleted: bool = False  # the call's channel, by us over ARI
    stays: bool = False  # until the runtime stops


WAYS: Final[Mapping[str, Way]] = {
    "the handler hangs up": Way(100, "600"),
    "it returns": Way(100, "601"),
    "it raises": Way(100, "603"),
    "it refuses": Way(100, "604"),
    "it gives the call back to the dialplan": Way(100, "605"),
    "the caller hangs up": Way(100, "602", "soon"),
    "both at once": Way(100, "608", "soon"),
    "the caller gives up while it rings": Way(50, "606", rings=1),
    "calls out: answered, busy, congestion, unknown, no answer": Way(50, "607", each=2),
    "somebody deletes the channel": Way(50, "602", deleted=True),
    "the dialplan's time limit": Way(50, "609"),
    "the runtime stops": Way(50, "602", stays=True),
}


def measure(ground: Ground) -> list[Figure]:
    programs = {OURS: [runs.PYTHON, "-m", "tests.bench.calls_side"]}
    figures: list[Figure] = []
    for name, (requirement, program) in PEERS.items():
        try:
            peer = Peer(ground, requirement)
        except NotMeasured as error:
            figures.append(Figure(what=name, value="not measured", how=str(error)))
            continue
        programs[name] = [str(peer.python), "-P", str(Path(__file__).with_name(program))]
    return [*figures, *asyncio.run(_measure(ground.lab, programs))]


async def _measure(lab: Lab, programs: Mapping[str, list[str]]) -> list[Figure]:
    async with Caller.of(lab) as caller:
        figures = await _beside_peers(caller, programs)
        ours = programs[OURS]
        for part in (_delay, _memory, _endings):
            figures += await part(caller, ours)
    return figures


# --- what is measured -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a client: CPU seconds a call, and at the limit calls a second and the CPU of both sides."""

    call: float
    asterisk: float  # CPU seconds a call
    full: float
    full_cpu: float  # of a core
    full_asterisk: float


async def _beside_peers(caller: "Caller", programs: Mapping[str, list[str]]) -> list[Figure]:
    found: dict[str, list[Cost]] = {}
    figures: list[Figure] = []
    for _ in range(ROUNDS):
        for name, words in programs.items():
            try:
                cost = await _cost(caller, words)
            except NotMeasured as error:
                figures.append(Figure(what=name, value="not measured", how=str(error)))
            else:
                found.setdefault(name, []).append(cost)
    calls = {name: Spread.of(cost.call * 1000 for cost in costs) for name, costs in found.items()}
    how = (
        f"{ROUNDS} times {CALLS} calls at {RATE}/s: StasisStart, answer, hang up; CPU clock of the client's"
        f" process, less its idle CPU of {IDLE} s, after {WARM} calls"
    )
    for name, spread in calls.items():
        asterisk = median(cost.asterisk for cost in found[name]) * 1000
        figures.append(
            Figure(
                what=f"{name}, CPU a call",
                value=spread.median,
                unit="ms",
                target=1.0 if name == OURS else None,
                spread=f"{spread.text('ms')}; Asterisk's {asterisk:.2g} ms",
                how=how,
            )
        )
    full = {
        name: Spread.of(cost.full_cpu / cost.full * 1000 for cost in costs) for name, costs in found.items()
    }
    how_full = f"{AT_ONCE} calls on their way for {FULL:.0f} s, another as soon as one is done"
    for name, spread in calls.items():
        if OURS in calls and name != OURS:
            value, minima = ratio(calls[OURS], spread)
            at_limit, _ = ratio(full[OURS], full[name])
            figures.append(
                Figure(
                    what=f"{OURS} / {name}, CPU a call",
                    value=value,
                    unit="x",
                    target=0.25 if name == VOXTRA else None,
                    spread=f"{minima}; at the limit {at_limit:.2g}",
                    how=how,
                )
            )
    for name, costs in found.items():
        best = max(costs, key=lambda cost: cost.full)
        figures.append(
            Figure(
                what=f"{name}, at the limit",
                value=best.full,
                unit="calls/s",
                spread=f"CPU of the client {best.full_cpu * 100:.0f} %, of Asterisk"
                f" {best.full_asterisk * 100:.0f} % of a core; the better of {len(costs)} rounds",
                how=how_full,
            )
        )
    return figures


async def _cost(caller: "Caller", words: list[str]) -> Cost:
    async with caller.client(words) as client:
        await caller.calls(client, WARM, RATE)
        begin, when = client.cpu(), time.monotonic()
        await asyncio.sleep(IDLE)
        idle = (client.cpu() - begin) / (time.monotonic() - when)
        begin, when, asterisk = client.cpu(), time.monotonic(), caller.cpu()
        await caller.calls(client, CALLS, RATE)
        used = client.cpu() - begin - idle * (time.monotonic() - when)
        asterisk = caller.cpu() - asterisk
        begin, when, full_asterisk, done = client.cpu(), time.monotonic(), caller.cpu(), client.done
        await caller.at_once(client, AT_ONCE, FULL)
        wall, done = time.monotonic() - when, client.done - done
        return Cost(
            used / CALLS,
            asterisk / CALLS,
            done / wall,
            (client.cpu() - begin) / wall,
            (caller.cpu() - full_asterisk) / wall,
        )


async def _delay(caller: "Caller", words: list[str]) -> list[Figure]:
    """How long a call waits for us: seen by a proxy between us and Asterisk."""
    place = urlsplit(caller.lab.ari_url)
    proxy = [runs.PYTHON, "-m", "tests.bench.calls_wire", str(place.hostname), str(place.port)]
    async with _program(proxy) as watch:
        port = int(await _line(watch))
        async with caller.client(words, url=f"http://127.0.0.1:{port}") as client:
            await caller.calls(client, WARM, RATE)
            await caller.calls(client, DELAYED, FAST)
        watch.send_signal(signal.SIGTERM)
        found = json.loads(await _line(watch))
    figures = []
    for key, what, target in (("first", "first command", 5.0), ("answer", "answer", 5.0)):
        delays = sorted(found[key])
        if len(delays) < DELAYED:
            raise NotMeasured(f"{len(delays)} of {DELAYED + WARM} calls were seen by the proxy")
        p50, p99 = (delays[len(delays) * part // 100] * 1000 for part in (50, 99))
        how = (
            f"{DELAYED} calls at {FAST}/s through a proxy in a process of its own, which hands StasisStart"
            " on and waits for the first bytes that name its channel"
        )
        spread = f"p50 {p50:.2g} ms, longest {delays[-1] * 1000:.2g} ms, {len(delays)} calls"
        figures.append(
            Figure(
                what=f"StasisStart to the {what}, p99",
                value=p99,
                unit="ms",
                target=target,
                spread=spread,
                how=how,
            )
        )
    return figures


async def _memory(caller: "Caller", words: list[str]) -> list[Figure]:
    async with caller.client(words) as client:
        await caller.calls(client, WARM, RATE, number="500")
        await caller.hang_up()
        before = client.rss()
        await caller.calls(client, MANY, FAST, number="500", stay=True)
        await asyncio.sleep(0.5)  # until what their answers brought is read
        used = client.rss() - before
        await caller.hang_up()
    how = f"RSS of our process with {MANY} calls that were answered and wait in listen_dtmf, less that with 0"
    return [Figure(what="memory of an idle call", value=used / MANY / 1000, unit="kB", target=30.0, how=how)]


async def _endings(caller: "Caller", words: list[str]) -> list[Figure]:
    """1,000 calls, ended in every way there is; the events of all are counted by the runtime's own sink."""
    expected = sum(way.count * way.each for way in WAYS.values())
    async with caller.client(words, count=True) as client:
        async with asyncio.TaskGroup() as group:
            for way in WAYS.values():
                group.create_task(caller.way(client, way))
        stay = sum(way.count for way in WAYS.values() if way.stays)
        await caller.left(2 * stay)
        found = json.loads(await client.stop())
    await caller.left(0)
    how = (
        f"{'; '.join(f'{way.count * way.each} {name}' for name, way in WAYS.items())}; counted by a sink of"
        " on_event; afterwards Asterisk has no channel left"
    )
    by = ", ".join(f"{count} {what}" for what, count in sorted(found["by"].items()))
    missing = max(abs(expected - found[key]) for key in ("started", "ended", "ended_once"))
    return [
        Figure(what="call_ended", value=f"{found['ended']} of {expected} calls", spread=by, how=how),
        Figure(
            what="calls without exactly one call_ended",
            value=float(missing + found["strange"]),
            unit="calls",
            target=0.0,
            how=how,
        ),
    ]


# --- the two sides ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _program(words: list[str], stdin: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that is ended with the block; its last words are the reason when the block fails."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as given:
        given.write(stdin)
        given.seek(0)
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=Path(__file__).parents[2],
            env=runs.environment(),
            stdin=given,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
        )
        try:
            yield process
        except (NotMeasured, TimeoutError) as error:
            said.seek(0)
            last = " ".join(said.read().strip().splitlines()[-3:])
            raise NotMeasured(
                f"{str(error) or 'not done in time'}; {words[-1]} said: {last[-300:]}"
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(10.0):
        return (await process.stdout.readline()).decode()


class Client:
    """A program that takes calls and tells each one it has done with a byte."""

    def __init__(self, app: str, process: asyncio.subprocess.Process) -> None:
        self.app = app
        self.done = 0
        self._process = process
        self._said = bytearray()
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65536):
            async with self._news:
                self._said += data
                self.done += data.count(b".") if b"{" not in self._said else 0
                self._news.notify_all()

    def cpu(self) -> float:
        return _cpu(self._process.pid)

    def rss(self) -> int:
        """Bytes."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def reach(self, count: int) -> None:
        """Wait until it has done with so many calls since it began."""
        try:
            async with asyncio.timeout(SETTLE), self._news:
                await self._news.wait_for(lambda: self.done >= count)
        except TimeoutError as exc:
            raise NotMeasured(f"{self.done} of {count} calls done after {SETTLE:.0f} s") from exc

    async def closed(self) -> None:
        """Wait until nothing more can be heard from it: its process is gone."""
        await self._reading

    async def stop(self) -> str:
        """Ask it to stop; the last line it says."""
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SETTLE):
            await self._reading
        return self._said.decode().splitlines()[-1]


def _cpu(pid: int) -> float:
    """CPU seconds of a process and all its threads: CPUCLOCK_SCHED of Linux' posix-timers.h."""
    return time.clock_gettime((~pid << 3) | 2)


class Caller:
    """The callers: Local channels whose one half calls, and whose other half is the client's call."""

    def __init__(self, lab: Lab, ari: ARIClient) -> None:
        self.lab = lab
        self._ari = ari

    @classmethod
    @asynccontextmanager
    async def of(cls, lab: Lab) -> AsyncIterator[Self]:
        for extension, steps in FARS.items():
            _dialplan(lab, "bench-far", extension, *steps)
        async with ARIClient(lab.ari_url, lab.ari_user, lab.ari_password) as ari:
            yield cls(lab, ari)

    def cpu(self) -> float:
        """CPU seconds of Asterisk."""
        return _cpu(self.lab.pid or 0)

    @asynccontextmanager
    async def client(
        self, words: list[str], *, url: str | None = None, **more: object
    ) -> AsyncIterator[Client]:
        """A client for a Stasis app of its own, connected; no call is left when the block ends."""
        app = f"bench-{uuid4().hex[:8]}"
        _dialplan(self.lab, app, "_X!", f"Stasis({app},${{EXTEN}})")
        _dialplan(self.lab, app, "609", "Set(TIMEOUT(absolute)=1)", f"Stasis({app},602)")
        account = {
            "url": url or self.lab.ari_url,
            "user": self.lab.ari_user,
            "password": self.lab.ari_password.reveal(),
            "app": app,
            **more,
        }
        async with _program(words, json.dumps(account)) as process:
            client = Client(app, process)
            async with asyncio.timeout(15.0):
                while (await self._ari.ask(requests.application(app))).status != 200:
                    if not client.running:
                        raise NotMeasured("the client ended at once")
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)  # what it does after it has connected
            yield client
            await self.left(0)
        await client.closed()

    async def call(self, client: Client, number: str, far: str = "wait", *, rings: int = 30) -> str:
        """Call; the id of the client's channel."""
        call_id = uuid4().hex
        query = (
            ("endpoint", f"Local/{number}@{client.app}/n"),
            ("otherChannelId", call_id),
            ("context", "bench-far"),
            ("extension", far),
            ("priority", "1"),
            ("callerId", "+265700000001"),
            ("timeout", str(rings)),
        )
        answer = await self._ari.ask(Request("POST", f"/channels/{uuid4().hex}", query))
        if answer.status != 200:
            raise NotMeasured(f"Asterisk refused a call: {answer.status} {answer.message}")
        return call_id

    async def calls(
        self, client: Client, count: int, rate: float, *, number: str = "600", stay: bool = False
    ) -> None:
        """So many calls at this rate; returns when the client has done with all, and they are gone unless
        they ``stay``."""
        goal = client.done + count
        async with asyncio.TaskGroup() as group:
            async for _ in _beats(count, rate):
                group.create_task(self.call(client, number))
        await client.reach(goal)
        if number == "600" and not stay:
            await self.left(0)

    async def at_once(self, client: Client, most: int, seconds: float) -> None:
        """Keep ``most`` calls on their way."""
        until = time.monotonic() + seconds
        goal = client.done

        async def one_after_another() -> None:
            nonlocal goal
            while time.monotonic() < until:
                await self.call(client, "600")
                goal += 1
                await client.reach(goal - most + 1)

        async with asyncio.TaskGroup() as group:
            for _ in range(most):
                group.create_task(one_after_another())
        await client.reach(goal)

    async def way(self, client: Client, way: Way) -> None:
        async with asyncio.TaskGroup() as group:
            async for _ in _beats(way.count, way.count / ENDINGS):
                group.create_task(self._one(client, way))

    async def _one(self, client: Client, way: Way) -> None:
        call_id = await self.call(client, way.number, way.far, rings=way.rings)
        if way.deleted:
            await asyncio.sleep(0.3)
            await self._ari.ask(requests.hangup(call_id))

    async def left(self, count: int) -> None:
        """Wait until so many channels are left in Asterisk."""
        until = time.monotonic() + SETTLE
        while (rest := len(await self._ari.request(requests.channels()))) != count:
            if time.monotonic() > until:
                raise NotMeasured(f"{rest} channels are left instead of {count}")
            await asyncio.sleep(0.1)

    async def hang_up(self) -> None:
        """End all calls."""
        rows = await self._ari.request(requests.channels())
        await self._ari.ask_all([requests.hangup(row["id"]) for row in rows])
        await self.left(0)


async def _beats(count: int, rate: float) -> AsyncIterator[None]:
    """``count`` moments, ``rate`` a second; a late one does not delay the next."""
    begin = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
        yield


def _dialplan(lab: Lab, context: str, extension: str, *steps: str) -> None:
    for number, step in enumerate(steps, 1):
        lab.cli(f"dialplan add extension {extension},{number},{step} into {context} replace")
