"""What handlers, hooks and sinks raise is the end of their call, or of nothing; the rest is in tests/live."""

import asyncio
import sys
from collections.abc import Callable
from math import nan
from types import SimpleNamespace
from typing import Any, cast

import pytest

from voxtractl import VoxtraApp
from voxtractl.errors import RuntimeFault, UsageFault
from voxtractl.runtime import lifecycle
from voxtractl.runtime.disposition import Disposition
from voxtractl.runtime.lifecycle import Direction, Ended, EndedBy
from voxtractl.runtime.session import CallSession

CALL = {"event": "call_started", "node": None, "tenant": None, "call_id": "1"}


class Base(BaseException):
    pass


class StubHub:
    """Keeps what is told of a call."""

    def __init__(self) -> None:
        self.journal = SimpleNamespace(node="lab", write=self.write)
        self.loop = asyncio.get_running_loop()
        self.signals: list[lifecycle.Signal] = []
        self.events: list[tuple[str, Any]] = []

    def write(self, event: str, call: Any, **more: Any) -> None:
        self.events.append((event, more))

    def feed(self, call_id: str, signal: lifecycle.Signal, *, of: object = None) -> None:
        self.signals.append(signal)


def taken(app: VoxtraApp) -> tuple[CallSession, StubHub]:
    """A call that the app takes."""
    hub, loop = StubHub(), asyncio.get_running_loop()
    app._loop = lambda: loop
    channel = {"id": "1", "state": "Up"}
    call = CallSession(cast("Any", hub), app, channel, ["+265999000001"], Direction.INBOUND, app="x")
    app.take(call)
    return call, hub


def test_a_route_without_its_number_is_refused_where_it_is_written() -> None:
    async def handler(call: CallSession) -> None: ...

    with pytest.raises(UsageFault, match="does not say which number"):
        VoxtraApp().route(cast("Any", handler))  # @app.route


def test_sound_goes_one_of_two_ways() -> None:
    with pytest.raises(UsageFault, match="no media 'rtp'"):
        VoxtraApp(media="rtp")


async def test_run_where_a_loop_runs_already_names_start() -> None:
    with pytest.raises(RuntimeFault, match="an event loop runs here already") as refused:
        VoxtraApp().run()
    assert "await app.start()" in str(refused.value.hint)
    assert asyncio.get_running_loop().is_running()


@pytest.mark.parametrize("wrong", [{"endpoint": None}, {"caller_id": 265888000001}])
async def test_who_is_called_and_who_calls_are_looked_at_first(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageFault):
        await VoxtraApp().call(**{"endpoint": "PJSIP/1@t", "hub": cast("Any", None), **wrong})


@pytest.mark.parametrize("name", ["on_event", "on_startup", "on_shutdown", "on_hangup", "on_dtmf"])
async def test_what_cannot_be_run_is_refused_where_it_is_given(name: str) -> None:
    async def cleanup() -> None: ...

    call, _ = taken(app := VoxtraApp())
    began = cleanup()
    with pytest.raises(UsageFault, match=f"{name} takes a function, not <coroutine"):
        getattr(call if hasattr(call, name) else app, name)(began)
    began.close()


@pytest.mark.parametrize("seconds", [nan, None, "5"])
@pytest.mark.parametrize(
    "waits",
    [
        lambda call, seconds: call.listen_dtmf(timeout=seconds),
        lambda call, seconds: call.play("sound:a", timeout=seconds),
        lambda call, seconds: call.listen(silence=seconds),
    ],
)
async def test_what_is_no_time_to_wait_is_refused(waits: Callable[..., Any], seconds: object) -> None:
    """With NaN among its timers a loop forgets others."""
    call, _ = taken(VoxtraApp())
    with pytest.raises(UsageFault, match=f"takes seconds as its .*, not {seconds!r}"):
        await waits(call, seconds)


@pytest.mark.parametrize("sound", ["", None, 5])
async def test_what_is_no_name_of_a_sound_is_refused(sound: Any) -> None:
    call, _ = taken(VoxtraApp())
    with pytest.raises(UsageFault, match="play_file takes the name of a sound"):
        await call.play_file(sound)


@pytest.mark.parametrize("error", [SystemExit("done"), KeyboardInterrupt(), Base("b"), ValueError("v")])
async def test_whatever_a_handler_raises_fails_its_call(error: BaseException) -> None:
    app = VoxtraApp()

    @app.default()
    async def handler(call: CallSession) -> None:
        raise error

    _, hub = taken(app)
    await app.settle()
    told = f"{type(error).__name__}: {error}"
    assert hub.events == [("handler_failed", {"error": told})]
    assert hub.signals == [lifecycle.HandlerRaised(told, 1)]


@pytest.mark.parametrize("kind", [Exception, BaseException])
async def test_an_error_that_cannot_be_told_fails_its_call(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Dumb(kind):  # type: ignore[misc, valid-type]
        def __str__(self) -> str:
            raise self

    app = VoxtraApp()

    @app.default()
    async def handler(call: CallSession) -> None:
        raise Dumb

    _, hub = taken(app)
    await app.settle()
    assert hub.signals == [lifecycle.HandlerRaised("Dumb: it cannot be told", 1)]


async def test_a_handler_that_is_cancelled_is_none_that_failed() -> None:
    app = VoxtraApp()

    @app.default()
    async def handler(call: CallSession) -> None:
        await asyncio.Event().wait()

    _, hub = taken(app)
    await app.settle(0.01)
    assert hub.events == []
    assert hub.signals == [lifecycle.HandlerReturned(1)]


async def test_a_handler_that_stops_its_app_is_not_waited_for() -> None:
    app, ended = VoxtraApp(), list[CallSession]()

    @app.default()
    async def handler(call: CallSession) -> None:
        await app.settle(0.01)  # of stop()
        ended.append(call)

    call, _ = taken(app)
    await asyncio.wait(set(app._tasks))
    assert ended == [call]


async def test_hooks_of_a_call_that_end_the_process_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app, done = VoxtraApp(), list[str]()

    @app.default()
    async def handler(call: CallSession) -> None:
        @call.on_hangup
        async def bye() -> None:
            done.append("async")
            raise KeyboardInterrupt

        @call.on_hangup
        def plain() -> None:
            done.append("plain")
            sys.exit()

    call, _ = taken(app)
    await app.settle()
    call.over(Ended("1", call.direction, Disposition.ANSWERED, 16, 0, EndedBy.CALLER, 1.0, 1.0, 2.0))
    await app.settle(5.0)
    assert sorted(done) == ["async", "plain"]
    assert not app.busy
    assert caplog.text.count("a hook of call 1 failed") == 2


async def test_a_sink_that_ends_the_process_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app, hub = VoxtraApp(), SimpleNamespace(journal=SimpleNamespace(sinks=[]))
    loop = asyncio.get_running_loop()
    app.attach([cast("Any", hub)], lambda: loop, tenant="acme")
    app.on_event(lambda event: sys.exit("heard"))
    (sink,) = hub.journal.sinks
    sink({**CALL, "tenant": "acme"})
    await asyncio.sleep(0)
    assert "an event could not be told: call_started" in caplog.text


async def test_an_async_sink_that_ends_the_process_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app, hub = VoxtraApp(), SimpleNamespace(journal=SimpleNamespace(sinks=[]))
    loop = asyncio.get_running_loop()
    app.attach([cast("Any", hub)], lambda: loop, tenant="acme")

    @app.on_event
    async def heard(event: Any) -> None:
        await asyncio.sleep(0)
        sys.exit("heard")

    (sink,) = hub.journal.sinks
    sink({**CALL, "tenant": "acme"})
    await asyncio.sleep(0)
    assert app.busy
    await app.settle()
    assert "an event could not be told: call_started" in caplog.text


async def test_a_shutdown_hook_that_fails_leaves_the_others_theirs(caplog: pytest.LogCaptureFixture) -> None:
    app, done = VoxtraApp(), list[int]()

    @app.on_shutdown
    def first() -> None:
        raise KeyboardInterrupt

    app.on_shutdown(lambda: done.append(2))
    await app.start_up()
    await app.shut_down()
    assert done == [2]
    assert "a shutdown hook failed" in caplog.text
