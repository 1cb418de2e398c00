"""What the supervisor does without an Asterisk; the rest is in tests/live/test_run.py."""

import asyncio
import errno
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import uvloop

from voxtractl import VoxtraApp
from voxtractl.ari.client import ARIClient
from voxtractl.errors import LimitReached
from voxtractl.model.fleet import Defaults, Fleet
from voxtractl.model.tenant import Outbound, Tenant
from voxtractl.runtime import loading
from voxtractl.runtime import supervisor as supervisor_module
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.journal import Journal
from voxtractl.runtime.lifecycle import Direction
from voxtractl.runtime.loading import Code
from voxtractl.runtime.loops import Loop
from voxtractl.runtime.session import CallSession
from voxtractl.runtime.supervisor import Supervisor


def tenant(slug: str, **more: Any) -> Tenant:
    return Tenant(**{"slug": slug, "name": slug, "handler": f"{slug}.py:app", "app": f"voxtra-{slug}"} | more)


def hub(name: str) -> Hub:
    return Hub(ARIClient("http://127.0.0.1:1", "nobody", ""), journal=Journal(name))


async def test_what_fails_unforeseen_is_told_and_done_again(caplog: pytest.LogCaptureFixture) -> None:
    done: asyncio.Queue[None] = asyncio.Queue()
    faults = [KeyError("first"), OSError("second")]

    async def look() -> None:
        if faults:
            raise faults.pop(0)
        done.put_nowait(None)

    task = asyncio.create_task(Supervisor._every(0.001, look))
    await asyncio.wait_for(done.get(), 10)
    await asyncio.wait_for(done.get(), 10)
    task.cancel()
    assert caplog.text.count("look failed, and is tried again") == 2
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_policy_of_event_loops_stays_what_it_was(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):  # Python 3.14 warns of each look
        supervisor = Supervisor(tmp_path / "tenants.toml")
    before = asyncio.get_event_loop_policy()
    # As uvloop.install() in a handler file: this one has no watcher for anybody's child processes.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        with warnings.catch_warnings(action="error"):
            await supervisor._watch()
        assert asyncio.get_event_loop_policy() is before
    finally:
        asyncio.set_event_loop_policy(before)


HOOK = """\
import asyncio
from voxtractl import VoxtraApp

app = VoxtraApp()

@app.on_startup
async def connect():
    {}
"""
CANCELS = "asyncio.current_task().cancel(); await asyncio.sleep(1)"


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (CANCELS, "a startup hook of acme was cancelled"),
        ("raise asyncio.CancelledError", "a startup hook of acme was cancelled"),
        ("raise KeyboardInterrupt", "a startup hook of acme failed: KeyboardInterrupt: "),
        ("raise BaseExceptionGroup('', [GeneratorExit()])", "a startup hook of acme failed: BaseExceptionG"),
        ("1 / 0", "a startup hook of acme failed: ZeroDivisionError: division by zero"),
    ],
)
async def test_a_startup_hook_is_its_tenants_fault_whatever_it_raises(
    tmp_path: Path, hook: str, told: str
) -> None:
    (tmp_path / "acme.py").write_text(HOOK.format(hook))
    (tmp_path / "beta.py").write_text(HOOK.format("pass"))
    supervisor = Supervisor(tmp_path / "tenants.toml")
    supervisor._fleet = Fleet(tenants={slug: tenant(slug) for slug in ("acme", "beta")})
    assert await supervisor._load(dict(supervisor._fleet.tenants)) == []
    assert str(supervisor.faults["acme"]).startswith(told)
    assert set(supervisor.served) == {"beta"}
    await supervisor.close()


@pytest.fixture
def load_is_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ends the time that the loads have, when it is called: by then they are where the test wants them."""
    loads: list[asyncio.Timeout] = []
    timeout, most = asyncio.timeout, 3600.0

    def kept(seconds: float | None) -> asyncio.Timeout:
        made = timeout(seconds)
        if seconds == most:
            loads.append(made)
        return made

    monkeypatch.setattr("voxtractl.runtime.supervisor.LOAD_TIMEOUT", most)
    monkeypatch.setattr(asyncio, "timeout", kept)

    def over() -> None:
        for load in loads:
            load.reschedule(asyncio.get_running_loop().time())

    return over


async def test_a_startup_hook_that_waits_is_cancelled_with_the_load(
    tmp_path: Path, load_is_over: Callable[[], None]
) -> None:
    waits = "\n    ".join(
        (
            "import pathlib",
            "pathlib.Path(__file__).with_suffix('.begun').touch()",
            "try:",
            "    await asyncio.sleep(60)",
            "finally:",
            "    pathlib.Path(__file__).with_suffix('.over').touch()",
        )
    )
    (tmp_path / "acme.py").write_text(HOOK.format(waits))
    supervisor = Supervisor(tmp_path / "tenants.toml")
    load = asyncio.create_task(supervisor._load({"acme": tenant("acme")}))
    await until((tmp_path / "acme.begun").exists)
    load_is_over()
    await asyncio.gather(*await load)
    assert "was not ready within" in str(supervisor.faults["acme"])
    await until((tmp_path / "acme.over").exists)
    await supervisor.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  threads make it so
            await asyncio.sleep(0.01)


async def watched(supervisor: Supervisor, app: VoxtraApp, *, blocked: bool) -> None:
    async with asyncio.timeout(10):
        while app.blocked is not blocked:
            await supervisor._watch()
            await asyncio.sleep(0.01)


async def test_code_that_repairs_a_blocked_tenant_gets_another_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtractl.runtime.loops.BLOCKED_AFTER", 0.05)
    (tmp_path / "acme.py").write_text(HOOK.format("pass"))
    supervisor, ends = Supervisor(tmp_path / "tenants.toml"), threading.Event()
    acme = tenant("acme")
    await supervisor._load({"acme": acme})
    first = supervisor.served["acme"].app
    first.loop.call_soon_threadsafe(ends.wait)
    await watched(supervisor, first, blocked=True)
    await supervisor._load({"acme": acme})  # its startup hook runs
    second = supervisor.served["acme"].app
    assert second is not first
    assert second.loop is not first.loop
    assert not second.blocked
    async with asyncio.timeout(4):
        await supervisor._retire()  # nobody waits for what is blocked
    ups = [first.is_up]
    ends.set()
    await watched(supervisor, first, blocked=False)
    left = supervisor._loops.of(first)
    await supervisor._retire()
    assert [*ups, first.is_up] == [True, False]
    await until(left.loop.is_closed)  # no thread is left behind
    assert second.loop.is_running()
    await supervisor.close()


async def test_names_a_tenant_had_go_to_its_new_app_unless_another_tenant_has_them(tmp_path: Path) -> None:
    for slug in ("acme", "beta"):
        (tmp_path / f"{slug}.py").write_text(HOOK.format("pass"))
    supervisor, one, two = Supervisor(tmp_path / "tenants.toml"), hub("one"), hub("two")
    supervisor.hubs = {"one": one, "two": two}
    await supervisor._load({"acme": tenant("acme", app="first", nodes=("one", "two"))})
    await supervisor._load({"acme": tenant("acme", app="second", nodes=("two",))})
    acme = supervisor.served["acme"].app
    assert one.taker("first") is two.taker("first") is two.taker("second") is acme
    assert one.taker("second") is None
    assert acme.app_name == "second"
    told: list[str] = []
    acme.on_event(lambda event: told.append(event["event"]))
    one.journal.write(
        "call_started", {"tenant": "acme", "call_id": "1"}
    )  # it hears of calls over the old name
    await supervisor._load({"beta": tenant("beta", app="first")})
    await supervisor._load({"acme": tenant("acme", app="third", nodes=("two",))})
    supervisor._leave("acme")
    assert two.taker("first") is supervisor.served["beta"].app
    assert two.taker("second") is two.taker("third") is None
    await supervisor.close()
    assert told == ["call_started"]


async def test_what_a_tenant_does_to_an_event_is_nobody_elses() -> None:
    app, lab = VoxtraApp(), hub("lab")
    heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @app.on_event
    def spoils(event: Any) -> None:
        event.clear()
        heard.set_result(None)

    told: list[Mapping[str, Any]] = []
    lab.journal.sinks.append(told.append)
    app.attach([lab], asyncio.get_running_loop, tenant="acme")
    lab.journal.write("call_started", {"tenant": "acme", "call_id": "1"})
    await heard
    assert [event["event"] for event in told] == ["call_started"]


async def test_limits_hold_over_a_reload_and_for_code_that_was_replaced(tmp_path: Path) -> None:
    (tmp_path / "acme.py").write_text(HOOK.format("pass"))
    supervisor, node = Supervisor(tmp_path / "tenants.toml"), hub("lab")
    supervisor.hubs = {"lab": node}
    slowly = Outbound((), calls_per_second=0.1)
    await supervisor._load({"acme": tenant("acme", max_channels=1, max_media_legs=2, outbound=slowly)})
    old = supervisor.served["acme"].app
    old.take_leg()
    old.usage.turn(monotonic(), 0.1)
    # A call that the old code has, where the hub keeps it.
    call = CallSession(node, old, {"id": "1"}, [], Direction.INBOUND, app="voxtra-acme")
    node.open(call, up=True)
    await supervisor._load({"acme": tenant("acme", max_channels=1, max_media_legs=1, outbound=slowly)})
    new = supervisor.served["acme"].app
    for app in (old, new):
        with pytest.raises(LimitReached, match="all of its 1 calls"):
            await app.originate("Local/s@far-wait/n")
        with pytest.raises(LimitReached, match="all of its 1 media legs"):
            app.take_leg()
    assert new.usage.turn(monotonic(), 0.1) > monotonic() + 9
    old.give_leg()
    new.take_leg()
    await supervisor.close()


async def test_a_reload_that_waits_for_another_does_nothing_after_the_end(tmp_path: Path) -> None:
    supervisor, done = Supervisor(tmp_path / "tenants.toml"), []

    async def work() -> None:
        done.append("work")

    async with supervisor._reloading:
        waits = asyncio.create_task(supervisor.reload())
        await asyncio.sleep(0)
        await supervisor.close()
    assert await waits is False
    await asyncio.wait([supervisor._go(work())])
    assert done == []
    assert not set(supervisor._loops)


async def test_a_load_that_fails_for_want_of_something_is_told_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = '[nodes.lab]\nari = "http://127.0.0.1:1"\nari_user = "x"\nari_password_env = "X"\n'
    text += 'store = "memory:lab"\n'
    for number, name in enumerate(("acme", "beta")):
        text += f'[tenants.{name}]\ndids = ["+26599900000{number}"]\nhandler = "{name}.py:app"\n'
        (tmp_path / f"{name}.py").write_text(HOOK.format("pass"))
    (tmp_path / "tenants.toml").write_text(text)
    supervisor, lab = Supervisor(tmp_path / "tenants.toml"), hub("lab")
    supervisor.hubs = {"lab": lab}
    lab._web.registered |= {"voxtra-acme", "voxtra-beta"}
    loop_of = supervisor._loops.of

    def no_file(app: VoxtraApp) -> Loop:
        if app.tenant == "acme":
            raise OSError(errno.EMFILE, "too many open files")
        return loop_of(app)

    monkeypatch.setattr(supervisor._loops, "of", no_file)
    await supervisor.reload()
    assert [*supervisor.served] == ["beta"]
    assert [*supervisor.without_handler] == ["acme"]
    assert supervisor.loading == set()
    told = "the handler of acme cannot be loaded now: OSError: [Errno 24] too many open files"
    assert [vars(line)["tenant"] for line in caplog.records if told in line.message] == ["acme"]
    monkeypatch.undo()
    await supervisor.reload()
    assert supervisor.served.keys() == {"acme", "beta"}
    await supervisor.close()


async def turns(of: list[int]) -> None:
    """Count the turns of the loop."""
    while True:
        of[0] += 1
        await asyncio.sleep(0)


async def test_calls_are_served_while_many_tenants_are_loaded_and_retired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"t{n}" for n in range(20)]
    text = '[nodes.lab]\nari = "http://127.0.0.1:1"\nari_user = "x"\nari_password_env = "X"\n'
    text += 'store = "memory:lab"\n'
    for number, name in enumerate(names):
        text += f'[tenants.{name}]\ndids = ["+2659990000{number:02d}"]\nhandler = "app.py:app"\n'
    (tmp_path / "tenants.toml").write_text(text)
    (tmp_path / "app.py").write_text("from voxtractl import VoxtraApp\n\napp = VoxtraApp()\n")
    looked: list[threading.Thread] = []
    begun: list[int] = []
    unloaded: list[int] = []
    turn = [0]
    stale, unload = Code.is_stale, loading.unload

    class Begun(Code):
        def __init__(self, *of: Any) -> None:
            begun.append(turn[0])
            super().__init__(*of)

        def is_stale(self) -> bool:
            looked.append(threading.current_thread())
            return stale(self)

    def all_at_once(codes: list[Code]) -> None:
        unloaded.append(len(codes))
        unload(codes)

    monkeypatch.setattr(supervisor_module, "Code", Begun)
    monkeypatch.setattr(supervisor_module, "unload", all_at_once)
    supervisor, lab = Supervisor(tmp_path / "tenants.toml"), hub("lab")
    supervisor.hubs = {"lab": lab}
    lab._web.registered |= {f"voxtra-{name}" for name in names}
    counts = asyncio.create_task(turns(turn))
    await supervisor.reload()
    assert len(supervisor.served) == len(set(begun)) == 20  # something else had its turn between
    (tmp_path / "app.py").write_text("from voxtractl import VoxtraApp\n\nX, app = 1, VoxtraApp()\n")
    await supervisor.reload()
    await supervisor._retire()
    assert unloaded == [20]
    assert looked
    assert threading.main_thread() not in looked
    counts.cancel()
    await supervisor.close()


async def test_a_tenant_that_gets_another_name_is_served_all_the_time(tmp_path: Path) -> None:
    text = '[nodes.lab]\nari = "http://127.0.0.1:1"\nari_user = "x"\nari_password_env = "X"\n'
    text += 'store = "memory:lab"\n'
    text += '[tenants.acme]\ndids = ["+265999000001"]\napp = "calls"\nhandler = "acme.py:app"\n'
    (tmp_path / "acme.py").write_text(HOOK.format("await asyncio.sleep(0.5)"))
    (tmp_path / "tenants.toml").write_text(text)
    supervisor, lab = Supervisor(tmp_path / "tenants.toml"), hub("lab")
    supervisor.hubs = {"lab": lab}
    lab._web.registered.add("calls")
    await supervisor.reload()
    (tmp_path / "tenants.toml").write_text(text.replace("tenants.acme", "tenants.firm"))
    reload = asyncio.create_task(supervisor.reload())
    while not reload.done():
        assert lab.taker("calls") is not None
        await asyncio.sleep(0.01)
    assert [*supervisor.served] == ["firm"]
    assert lab.taker("calls") is supervisor.served["firm"].app
    await supervisor.close()


async def test_an_app_whose_names_change_while_it_starts_knows_the_one_it_is_served_under(
    tmp_path: Path,
) -> None:
    (tmp_path / "acme.py").write_text(HOOK.format("await asyncio.sleep(0.3)"))
    supervisor, node = Supervisor(tmp_path / "tenants.toml"), hub("lab")
    supervisor.hubs = {"lab": node}
    load = asyncio.create_task(supervisor._load({"acme": tenant("acme")}))
    await until(lambda: supervisor._loops._at)  # its startup hook runs
    supervisor._fleet = Fleet(defaults=Defaults(workers=2))
    assert await load == []
    app = supervisor.served["acme"].app
    assert app.app_name == "voxtra-acme-1"
    assert node.taker(app.app_name) is app
    await supervisor.close()


async def test_the_thread_of_a_tenant_that_was_removed_ends(tmp_path: Path) -> None:
    for slug, hook in {"acme": "pass", "beta": "pass", "gamma": "1 / 0"}.items():
        (tmp_path / f"{slug}.py").write_text(HOOK.format(hook))
    supervisor = Supervisor(tmp_path / "tenants.toml")
    await supervisor._load({slug: tenant(slug) for slug in ("acme", "beta", "gamma")})
    loops = dict(supervisor._loops._of)
    await supervisor._retire()
    assert supervisor._loops._of == loops
    app = supervisor.served["acme"].app
    call = CallSession(hub("lab"), app, {"id": "1"}, [], Direction.INBOUND, app="voxtra-acme")
    app.calls["1"] = call
    supervisor._leave("acme")
    supervisor.faults.clear()  # gamma is not in the document any more
    await supervisor._retire()
    assert set(supervisor._loops._of) == {"acme", "beta"}  # acme has a call
    del app.calls["1"]
    await supervisor._retire()
    assert set(supervisor._loops._of) == {"beta"}
    for slug in ("acme", "gamma"):
        await until(loops[slug].loop.is_closed)
    assert loops["beta"].loop.is_running()
    await supervisor.close()


LONG_SHUTDOWN = """
import threading
import warnings
begun, may_end, done = threading.Event(), threading.Event(), threading.Event()

@app.on_shutdown
async def disconnect():
    begun.set()
    while not may_end.is_set():
        await asyncio.sleep(0.01)
    done.set()
"""


async def test_the_end_waits_for_a_shutdown_hook_that_runs_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtractl.runtime.supervisor.SHUT_DOWN", 0.1)
    (tmp_path / "acme.py").write_text(HOOK.format("pass") + LONG_SHUTDOWN)
    supervisor = Supervisor(tmp_path / "tenants.toml")
    await supervisor._load({"acme": tenant("acme")})
    hook = supervisor.served["acme"].app._on_shutdown[0].__globals__
    supervisor._leave("acme")
    for _ in range(2):
        await supervisor._retire()  # does not wait for ever
        assert await asyncio.to_thread(hook["begun"].wait, 10)
        assert [served.tenant.slug for served in supervisor._past] == ["acme"]
    monkeypatch.setattr("voxtractl.runtime.supervisor.SHUT_DOWN", 10)
    asyncio.get_running_loop().call_later(0.2, hook["may_end"].set)
    await supervisor.close()
    assert hook["done"].is_set()


async def test_a_startup_hook_that_blocks_for_ever_takes_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_is_over: Callable[[], None]
) -> None:
    monkeypatch.setattr("voxtractl.runtime.loops.BLOCKED_AFTER", 0.05)
    blocks = "import pathlib, time\n    end = pathlib.Path(__file__).with_suffix('.end')\n"
    blocks += "    while not end.exists(): time.sleep(0.01)"
    (tmp_path / "acme.py").write_text(HOOK.format(blocks))
    supervisor, acme = Supervisor(tmp_path / "tenants.toml"), tenant("acme")
    load = asyncio.create_task(supervisor._load({"acme": acme}))
    await until(lambda: supervisor._loops._at)
    app = next(iter(supervisor._loops._at))
    await watched(supervisor, app, blocked=True)
    load_is_over()
    await asyncio.gather(*await load)
    assert "was not ready within" in str(supervisor.faults["acme"])
    await supervisor._retire()
    assert not supervisor._is_due(acme)
    assert supervisor._is_due(tenant("acme", name="Another"))
    (tmp_path / "acme.end").touch()  # it was for long only
    async with asyncio.timeout(10):
        while not supervisor._is_due(acme):
            await supervisor._watch()
            await asyncio.sleep(0.01)
    await supervisor.close()
