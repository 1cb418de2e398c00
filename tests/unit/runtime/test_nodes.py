"""Nodes that are away, refuse or take their time, while others serve: hubs and the supervisor before an
Asterisk that is a few lines. The real one: tests/live/test_run.py."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AppReplaced, AriAuthFailed, AriError, AriUnreachable
from voxtractl.runtime import supervisor as supervisor_module
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.places import MOVED
from voxtractl.runtime.session import NODE, CallSession
from voxtractl.runtime.supervisor import Supervisor
from voxtractl.runtime.workers import Worker
from voxtractl.settings import Secret

HANDLER = """
from voxtractl import VoxtraApp
app = VoxtraApp()

@app.default()
async def waits(call):
    await call.wait_ended()
"""


def away() -> AriUnreachable:
    return AriUnreachable("it does not answer", method="GET", path="/events")


def refused() -> AriAuthFailed:
    return AriAuthFailed("refused", method="GET", path="/events", status=401)


class Stream:
    """A websocket of `Asterisk`; connected as long as that is there."""

    def __init__(self, asterisk: "Asterisk", apps: Sequence[str], more: Any) -> None:
        self.asterisk, self.apps, self.more = asterisk, tuple(apps), more
        self.failure: AriError | AppReplaced | None = None
        self.is_open = False
        self.parting = False
        self.patience = 0.0
        self.made_again: list[str] = []

    @property
    def connected(self) -> bool:
        return self.is_open and self.asterisk.error is None

    async def start(self) -> None:
        await asyncio.sleep(0)
        if self.asterisk.error is not None or self.asterisk.no_websocket:
            raise self.asterisk.error or away()
        self.is_open = True
        self.asterisk.streams.append(self)

    async def close(self) -> None:
        self.is_open = False

    def fail(self, failure: AriError) -> None:
        self.failure = failure

    def again(self, reason: str) -> None:
        self.made_again.append(reason)


class Asterisk:
    """What a hub sees of one: its ARIClient."""

    def __init__(self, url: str = "http://pbx", *_: Any, **__: Any) -> None:
        self.url = url
        self.error: AriError | None = None  # away, or refusing
        self.no_websocket = False
        self.deaf: dict[str, int] = {}  # apps that are registered and get nothing → what is answered
        self.streams: list[Stream] = []
        self.asked: list[Request] = []
        self.passwords: list[Secret] = []
        self.channels: list[dict[str, Any]] = []
        self.fallback = "voxtra-acme-fallback"  # the only one its dialplan has

    @property
    def apps(self) -> list[str]:
        return sorted(app for stream in self.streams if stream.is_open for app in stream.apps)

    def comes(self, call_id: str, app: str = "voxtra-acme", args: Sequence[str] = ("+265999000001",)) -> None:
        """A call comes into an app."""
        channel = {"id": call_id, "state": "Ring", "caller": {"number": "1"}, "dialplan": {"exten": "s"}}
        event = {"type": "StasisStart", "application": app, "args": list(args), "channel": channel}
        next(stream for stream in self.streams if app in stream.apps).more["on_event"](event)

    def tells_itself(self, app: str, name: str) -> Answer:
        """An event that comes back to who has the app, when there is somebody."""
        if app in self.deaf:
            return Answer(self.deaf[app])
        event = {"type": "ChannelUserevent", "eventname": name, "application": app}
        for stream in self.streams:
            if stream.is_open and app in stream.apps:
                stream.more["on_event"](event)
        return Answer(204)

    def sent_on(self, call_id: str) -> list[str]:
        """The contexts it was told to go on with for this call."""
        path = f"/channels/{call_id}/continue"
        return [dict(request.query)["context"] for request in self.asked if request.path == path]

    def refuses(self) -> None:
        """From now on it does not let us in."""
        self.error = refused()
        for stream in self.streams:
            stream.failure = self.error
            stream.more["on_down"]("refused")

    def stream(self, apps: Sequence[str], **more: Any) -> Stream:
        return Stream(self, apps, more)

    def attach(self, stream: object) -> None:
        pass

    def post(self, request: Request, told: Callable[[Answer], object]) -> bool:
        return False

    def renew(self, password: Secret) -> None:
        self.passwords.append(password)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ask(self, request: Request, *, timeout: float | None = None) -> Answer:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.asked.append(request)
        if request.path == "/channels" and request.method == "GET":
            return Answer(200, self.channels)
        if request.path == "/asterisk/info":
            return Answer(200, {"system": {"version": "22.10.1"}})
        if request.path.startswith("/events/user/"):
            return self.tells_itself(dict(request.query)["application"], request.path.rpartition("/")[2])
        if request.path.endswith("/variable"):
            name = dict(request.query)["variable"]
            return Answer(200, {"value": "1" if name == f"DIALPLAN_EXISTS({self.fallback},s,1)" else ""})
        return Answer(200, [])

    async def request(self, request: Request, *, timeout: float | None = None) -> Any:
        return (await self.ask(request)).body

    async def ask_all(self, wanted: Sequence[Request], *, patience: float | None = None) -> list[Answer]:
        return [await self.ask(request) for request in wanted]


class Fleet:
    """A document of nodes and tenants, and the supervisor that serves it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "tenants.toml"
        (folder / "app.py").write_text(HANDLER)
        self.asterisks: dict[str, Asterisk] = {}

    def write(self, defaults: str = "", **tenants: str) -> None:
        """A tenant of each name, with these lines."""
        nodes = "".join(
            f'[nodes.{name}]\nari = "http://{name}"\nari_user = "u"\nari_password_env = "HOME"\n'
            f'store = "memory:{name}"\n'
            for name in ("one", "two")
        )
        numbers = iter(range(10))
        told = "".join(
            f'[tenants.{slug}]\ndids = ["+26599900000{next(numbers)}"]\n{lines}\n'
            for slug, lines in tenants.items()
        )
        whole = self.config.with_suffix(".new")
        whole.write_text(f"{defaults}\n{nodes}{told}")
        whole.replace(self.config)  # nobody reads half of it

    def ari(self, url: str, *_: Any, **__: Any) -> Asterisk:
        """Stands for ARIClient."""
        return self.asterisks.setdefault(url.removeprefix("http://"), Asterisk(url))


SERVED = 'handler = "app.py:app"'
ON = SERVED + '\nnodes = ["{}"]'


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    found = Fleet(tmp_path)
    monkeypatch.setattr(supervisor_module, "ARIClient", found.ari)
    monkeypatch.setattr(supervisor_module, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(supervisor_module, "WRITING", 0.01)
    monkeypatch.setattr(supervisor_module, "PATIENCE", 0.5)
    return found


async def until(true: Callable[[], object]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never was")


async def test_a_new_tenant_is_served_where_it_can_be_and_where_it_cannot_when_the_node_is_back(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    await runs.start()
    one, two = fleet.asterisks["one"], fleet.asterisks["two"]
    try:
        one.error = away()
        fleet.write(acme=SERVED, beta=SERVED, gamma=ON.format("two"))
        await until(lambda: two.apps == ["voxtra-acme", "voxtra-beta", "voxtra-gamma"])
        await until(lambda: "one: its new apps are registered when it is back" in caplog.text)
        await asyncio.sleep(0.1)
        assert caplog.text.count("when it is back") == 1
        assert not runs.hubs["one"].connected
        one.error = None
        await until(lambda: one.apps == ["voxtra-acme", "voxtra-beta"])
        assert runs.hubs["one"].connected
    finally:
        await runs.close()


async def test_whoever_calls_outside_a_call_does_so_where_the_node_is_there(fleet: Fleet) -> None:
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    await runs.start()
    app = runs.served["acme"].app

    def place() -> str | None:
        return app._hub_here().journal.node

    one, two = fleet.asterisks["one"], fleet.asterisks["two"]
    try:
        assert place() == "one"
        one.error = away()
        assert place() == "two"
        for_call = copy_context()
        for_call.run(NODE.set, "one")
        assert for_call.run(place) == "one"  # its call is there
        two.error = away()
        assert place() == "one"  # whose error is told
    finally:
        one.error = two.error = None
        await runs.close()


async def test_a_node_that_refuses_new_apps_is_not_asked_again_and_again(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.write(acme=ON.format("one"))
    runs = Supervisor(fleet.config)
    await runs.start()
    try:
        fleet.asterisks["two"].error = refused()
        fleet.write(acme=ON.format("one"), beta=ON.format("two"))
        await until(lambda: "two: its new apps are not served: refused" in caplog.text)
        await asyncio.sleep(0.1)
        assert caplog.text.count("not served: refused") == 1
    finally:
        await runs.close()


async def test_two_who_register_at_once_take_an_app_once() -> None:
    hub = Hub(Asterisk())  # type: ignore[arg-type]
    hub.serve("voxtra-acme", object())  # type: ignore[arg-type]
    await asyncio.gather(hub.register(), hub.register())
    assert hub.ari.apps == ["voxtra-acme"]  # type: ignore[attr-defined]
    await hub.stop()


@pytest.mark.parametrize(("error", "patience"), [(away(), 0.1), (refused(), 60.0)])
async def test_no_app_is_taken_before_every_node_has_answered(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, error: AriError, patience: float
) -> None:
    """One that is away may be on its way; one that refuses us is not asked again."""
    monkeypatch.setattr(supervisor_module, "REACH", patience)
    monkeypatch.setattr(supervisor_module, "REACH_AGAIN", 0.01)
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    one, two = fleet.ari("http://one"), fleet.ari("http://two")
    two.error = error
    with pytest.raises(type(error)):
        await asyncio.wait_for(runs.start(), 10)
    await runs.close()
    assert (one.streams, two.streams) == ([], [])


async def test_a_node_that_comes_up_with_us_is_waited_for(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "REACH_AGAIN", 0.01)
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    two = fleet.ari("http://two")
    two.error = away()
    starts = asyncio.create_task(runs.start())
    await asyncio.sleep(0.1)
    two.error = None
    await starts
    assert two.apps == ["voxtra-acme"]
    await runs.close()


async def test_a_start_that_fails_late_leaves_time_to_drain_what_has_begun(fleet: Fleet) -> None:
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    one, two = fleet.ari("http://one"), fleet.ari("http://two")
    two.no_websocket = True
    with pytest.raises(AriUnreachable):
        await runs.start()
    assert one.apps == ["voxtra-acme"]
    await runs.drain(0.0)
    assert runs.hubs["one"].draining
    await runs.close()
    assert one.apps == []


async def test_a_node_that_refuses_us_later_ends_its_calls_and_nothing_else(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.write(acme=SERVED)
    told: list[Mapping[str, Any]] = []
    runs = Supervisor(fleet.config, sinks=[told.append])
    await runs.start()
    try:
        one, two = fleet.asterisks["one"], fleet.asterisks["two"]
        for asterisk in (one, two):
            asterisk.comes(asterisk.url)
        await until(lambda: len(told) == 2)
        one.refuses()
        ends = [(event["event"], event["node"], event["ended_by"]) for event in told[2:]]
        assert ends == [("call_ended", "one", "lost")]
        assert "http://one is given up" in caplog.text
        assert not runs.hubs["one"].connected
        assert runs.hubs["two"].connected
        ending = asyncio.create_task(runs.failed())
        await asyncio.sleep(0.1)
        assert not ending.done()
        two.refuses()
        assert isinstance(await asyncio.wait_for(ending, 5), AriAuthFailed)
    finally:
        await runs.close()


async def test_a_node_that_refused_us_is_tried_again_with_the_password_of_now(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", "old-password")
    fleet.write(acme=SERVED)
    told: list[Mapping[str, Any]] = []
    runs = Supervisor(fleet.config, sinks=[told.append])
    stars = runs.secrets()
    await runs.start()
    try:
        one, two = fleet.asterisks["one"], fleet.asterisks["two"]
        one.comes("call")
        await until(lambda: told)
        one.refuses()
        monkeypatch.setenv("HOME", "new-password")
        await runs.readmit()
        assert "one is not served again: refused" in caplog.text
        one.error = None
        one.channels = [in_stasis("call")]
        await runs.readmit()
        assert runs.hubs["one"].connected
        assert one.apps == ["voxtra-acme"]
        assert one.passwords == [Secret("new-password")] * 2
        assert two.passwords == []
        assert Secret("new-password") in stars
        await until(lambda: len(told) == 3)
        assert [event["event"] for event in told] == ["call_started", "call_ended", "call_adopted"]
        two.refuses()  # the other is no reason to end
        ending = asyncio.create_task(runs.failed())
        await asyncio.sleep(0.1)
        assert not ending.done()
        ending.cancel()
    finally:
        await runs.close()


async def test_a_node_that_goes_away_while_it_is_tried_again_is_tried_the_next_time(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    await runs.start()
    try:
        one = fleet.asterisks["one"]
        one.refuses()
        one.error, one.no_websocket = None, True
        await runs.readmit()
        assert not runs.hubs["one"].connected
        one.no_websocket = False
        await runs.readmit()
        assert runs.hubs["one"].connected
    finally:
        await runs.close()


@pytest.mark.parametrize(
    ("defaults", "apps"),
    [
        ("workers = 2", ["voxtra-acme", "voxtra-acme-1", "voxtra-acme-2"]),
        ('apps = "shared"\napp_name = "voxtra"', ["voxtra", "voxtra-acme"]),
    ],
)
async def test_a_tenant_whose_apps_get_other_names_is_served_under_the_new_and_the_old(
    fleet: Fleet, defaults: str, apps: list[str]
) -> None:
    """The dialplan has the old names until it is pushed."""
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    await runs.start()
    try:
        first = runs.served["acme"].app
        fleet.write(f"[defaults]\n{defaults}", acme=SERVED)
        await until(lambda: fleet.asterisks["one"].apps == apps)
        second = runs.served["acme"].app
        assert second is not first
        assert {hub.taker(*at) for hub, *at in runs.served["acme"].names} == {second}
        fleet.write(acme=SERVED + "\nmax_channels = 9")
        await until(lambda: runs.served["acme"].app is not second)
        assert {hub.taker(*at) for hub, *at in runs.served["acme"].names} == {runs.served["acme"].app}
        assert fleet.asterisks["one"].apps == apps
    finally:
        await runs.close()


async def test_a_worker_keeps_its_name_when_the_document_has_another_number_of_workers(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.write("[defaults]\nworkers = 2", acme=SERVED)
    runs = Supervisor(fleet.config, worker=Worker(2, 2))
    await runs.start()
    try:
        fleet.write("[defaults]\nworkers = 3", acme=SERVED + "\nmax_channels = 9")
        await until(lambda: runs.served["acme"].tenant.max_channels == 9)
        fleet.write("[defaults]\nworkers = 3", acme=SERVED + "\nmax_channels = 8")
        await until(lambda: runs.served["acme"].tenant.max_channels == 8)
        assert fleet.asterisks["one"].apps == ["voxtra-acme-2"]
        assert caplog.text.count("the document has workers = 3 now: this process goes on as 2 of 2") == 1
    finally:
        await runs.close()


async def test_calls_of_a_tenant_that_is_served_no_more_take_its_fallback(fleet: Fleet) -> None:
    fleet.write(acme=SERVED, beta=SERVED)
    runs = Supervisor(fleet.config)
    await runs.start()
    try:
        fleet.write(acme="", beta=SERVED)
        await until(lambda: "acme" not in runs.served)
        one = fleet.asterisks["one"]
        one.comes("late")
        await until(lambda: one.sent_on("late"))
        assert one.sent_on("late") == ["voxtra-acme-fallback"]
    finally:
        await runs.close()


class Taker:
    """An app that fails at a step of taking a call, or at none."""

    tenant = "acme"
    blocked = False
    session_type = CallSession

    def __init__(self, fails: str) -> None:
        self.fails = fails

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self.fails == "loop":
            raise OSError("too many open files")
        return asyncio.get_running_loop()

    def take(self, call: CallSession) -> None:
        if self.fails == "take":
            raise RuntimeError("it cannot be taken")

    adopt = take

    def ended(self, call: CallSession) -> None:
        pass


@pytest.mark.parametrize("fails", ["loop", "take"])
@pytest.mark.parametrize("args", [["+265999000001"], [], [MOVED, "+265999000001"]])
async def test_a_call_that_cannot_be_taken_goes_to_its_fallback_and_ends_once(
    fails: str, args: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    asterisk = Asterisk()
    told: list[Mapping[str, Any]] = []
    hub = Hub(asterisk)  # type: ignore[arg-type]
    hub.journal.sinks.append(told.append)
    hub.serve("voxtra-acme", Taker(fails))  # type: ignore[arg-type]
    await hub.start()
    asterisk.comes("unlucky", args=args)
    await until(lambda: asterisk.sent_on("unlucky"))
    assert asterisk.sent_on("unlucky") == ["voxtra-acme-fallback"]
    assert "call unlucky could not be taken and goes to its fallback" in caplog.text
    begin = "call_adopted" if args[:1] == [MOVED] else "call_started"
    assert [event["event"] for event in told] == ([] if fails == "loop" else [begin, "call_ended"])
    assert not hub.sessions
    await hub.stop()


async def test_a_call_that_is_found_and_cannot_be_taken_keeps_no_other_from_being_found() -> None:
    asterisk = Asterisk()
    asterisk.channels = [in_stasis("first"), in_stasis("second")]
    hub = Hub(asterisk)  # type: ignore[arg-type]
    hub.serve("voxtra-acme", Taker("loop"))  # type: ignore[arg-type]
    await hub.start()
    await until(lambda: asterisk.sent_on("first") and asterisk.sent_on("second"))
    await hub.stop()


async def test_a_channel_that_a_call_has_of_its_own_is_not_asked_where_it_is() -> None:
    asterisk = Asterisk()
    asterisk.channels = [in_stasis("call"), in_stasis("vx-aux-1")]
    hub = Hub(asterisk)  # type: ignore[arg-type]
    places = await hub.places.of(asterisk.channels)
    assert [(place.channel["id"], place.app) for place in places] == [
        ("call", "voxtra-acme"),
        ("vx-aux-1", "voxtra-acme"),
    ]
    assert [request.path for request in asterisk.asked] == ["/channels/call/variable"]


def in_stasis(call_id: str) -> dict[str, Any]:
    """A channel that waits in an app, as Asterisk lists it."""
    dialplan = {
        "context": "from-trunk",
        "exten": "+265999000001",
        "priority": 2,
        "app_name": "Stasis",
        "app_data": "voxtra-acme,+265999000001",
    }
    return {"id": call_id, "state": "Ring", "dialplan": dialplan}


async def test_a_call_that_came_with_the_end_of_the_apps_takes_its_fallback() -> None:
    asterisk = Asterisk()
    hub = Hub(asterisk)  # type: ignore[arg-type]
    hub.serve("voxtra-acme", Taker("nothing"))  # type: ignore[arg-type]
    await hub.start()
    asterisk.comes("known")
    asterisk.channels = [in_stasis("known"), in_stasis("unheard")]
    await hub.stop()
    assert (asterisk.sent_on("known"), asterisk.sent_on("unheard")) == ([], ["voxtra-acme-fallback"])


async def test_an_asterisk_that_is_away_holds_up_no_end() -> None:
    asterisk = Asterisk()
    hub = Hub(asterisk)  # type: ignore[arg-type]
    hub.serve("voxtra-acme", Taker("nothing"))  # type: ignore[arg-type]
    await hub.start()
    asterisk.error = away()
    asked = len(asterisk.asked)
    await hub.stop()
    assert len(asterisk.asked) == asked


async def test_a_node_with_nothing_to_serve_is_no_reason_not_to_be_ready(fleet: Fleet) -> None:
    fleet.write(acme=ON.format("one"))
    runs = Supervisor(fleet.config)
    await runs.start()
    try:
        assert [hub.connected for hub in runs.hubs.values()] == [True, True]
        fleet.asterisks["two"].error = away()
        fleet.write(acme=SERVED)
        await until(lambda: not runs.hubs["two"].connected)  # now it has something, and cannot
        assert runs.hubs["one"].connected
    finally:
        await runs.close()


async def test_a_document_that_cannot_be_read_is_told_once_with_its_path(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    await runs.start()
    try:
        for times in (1, 2):
            fleet.config.unlink()
            await until(lambda times=times: caplog.text.count("stays in use") == times)  # type: ignore[misc]
            await asyncio.sleep(0.1)
            assert caplog.text.count(f"stays in use: {fleet.config}: the document does not exist") == times
            fleet.write(acme=SERVED)
            await until(lambda: not runs._fault)  # it is read again
    finally:
        await runs.close()


async def test_a_document_that_is_being_written_is_waited_for(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fleet.write(acme=SERVED, beta=SERVED)
    begin, table, rest = fleet.config.read_text().partition("[tenants.beta]")
    runs = Supervisor(fleet.config)
    await runs.start()
    to_come = [table + rest, "# a remark\n", begin]

    def writes(_: float) -> None:
        with fleet.config.open("a") as file:
            file.write(to_come.pop() if to_come else "")

    try:
        monkeypatch.setattr(supervisor_module, "sleep", writes)
        fleet.config.write_text("")
        await until(lambda: "reloaded: " in caplog.text)
        assert "reloaded: 2 tenants served, 0 changed" in caplog.text
        assert caplog.text.count("reloaded: ") == 1
        assert "stays in use" not in caplog.text
    finally:
        await runs.close()


async def test_a_password_is_asked_for_once(fleet: Fleet) -> None:
    fleet.write(acme=SERVED)
    asked = fleet.config.parent / "asked"
    text = fleet.config.read_text().replace(
        'ari_password_env = "HOME"', f'ari_password_command = ["sh", "-c", "echo x | tee -a {asked}"]', 1
    )
    fleet.config.write_text(text)
    runs = Supervisor(fleet.config)
    assert [secret.reveal() for secret in runs.secrets()] == ["x", os.environ["HOME"]]
    await runs.start()
    await runs.close()
    assert asked.read_text() == "x\n"


async def test_code_that_goes_on_after_a_fault_is_told_and_counts_as_served(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    await runs.start()
    try:
        (fleet.config.parent / "app.py").write_text("1 / 0\n")
        await until(lambda: "reloaded: 1 tenants served, 1 changed; served as before: acme" in caplog.text)
        assert list(runs.faults) == ["acme"]
        assert runs.without_handler == {}
        assert runs.sentence() == "serving 1 of 1 tenants on one, two"
    finally:
        await runs.close()


async def test_an_app_that_cannot_be_taken_back_now_is_taken_back_later() -> None:
    asterisk = Asterisk()
    hub = Hub(asterisk)  # type: ignore[arg-type]
    hub.serve("voxtra-acme", Taker("nothing"))  # type: ignore[arg-type]
    await hub.start()
    await asterisk.streams.pop().close()
    hub._web._on_taken("voxtra-acme")
    asterisk.no_websocket = True
    with pytest.raises(AriUnreachable):
        await hub.reclaim(force=True)
    asterisk.no_websocket = False
    await hub.reclaim(force=True)
    assert asterisk.apps == ["voxtra-acme"]
    await hub.stop()


async def test_from_the_begin_of_a_drain_nothing_more_is_served(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "PATIENCE", 0.05)
    go = fleet.config.parent / "go"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
    (fleet.config.parent / "slow.py").write_text(f"{wait}{HANDLER}")
    fleet.write(acme=SERVED)
    runs = Supervisor(fleet.config)
    await runs.start()
    one, two = fleet.asterisks["one"], fleet.asterisks["two"]
    try:
        fleet.write(acme=SERVED, slow='handler = "slow.py:app"')
        await until(lambda: runs.loading == {"slow"})
        one.error = away()
        fleet.write(acme=SERVED, slow='handler = "slow.py:app"', beta=SERVED)
        await until(lambda: two.apps == ["voxtra-acme", "voxtra-beta"] and runs._registering == {"one"})
        assert runs.loading == {"slow"}
        await runs.drain(0.0)
        one.error = None  # back, and what starts in our place is on its way
        fleet.write(acme=SERVED, slow='handler = "slow.py:app"', beta=SERVED, gamma=SERVED)
        runs.hubs["two"].taken.add("voxtra-acme")
        await runs.reclaim(force=True)
        assert await runs.reload() is False
        go.touch()
        await until(lambda: not runs._tried["slow"][1].hangs())  # it has loaded
        await asyncio.sleep(0.1)
        assert [one.apps, two.apps] == [["voxtra-acme"], ["voxtra-acme", "voxtra-beta"]]
        assert set(runs.served) == {"acme", "beta"}
        assert runs.hubs["two"].taken == {"voxtra-acme"}
    finally:
        go.touch()
        await runs.close()
