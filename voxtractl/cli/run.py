"""`voxtractl run`: serve the calls of the configured tenants. Signals, streams and exit codes; the work is in
`voxtractl.runtime`.

SIGTERM and Ctrl-C drain: new calls take the dialplan's fallback, running ones get --drain seconds. A second
signal ends them at once; while it starts, the first. SIGHUP reads the document again, as a changed file does
by itself, opens the file of --events anew, takes apps back, and tries nodes again that refused our password;
while it starts, when it has started.
"""

import errno
import gc
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout, suppress
from functools import partial
from io import FileIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from voxtractl.cli import complete, context, show
from voxtractl.errors import PartialFailure, UsageFault, VoxtractlError
from voxtractl.settings import LONGEST

if TYPE_CHECKING:
    from voxtractl.runtime.journal import JsonLines, Sink
    from voxtractl.runtime.supervisor import Supervisor
    from voxtractl.runtime.workers import Worker

__all__ = ["app"]

log = logging.getLogger(__name__)

Say = Callable[[str], None]  # one line of what the process does

GARBAGE: Final = 700  # objects; what Python has itself. __main__ takes more, and 400 calls kept 800 MB

HINTS: Final = {  # when the file of --events cannot be opened
    errno.ENOENT: "make its folder first, or name another file",
    errno.EACCES: "name a file that this user may write, or change its owner or mode",
    errno.EISDIR: "name a file in it",
    errno.ENXIO: "nobody reads this pipe: start its reader first",
    errno.EROFS: "name a file on a disk that may be written",
}

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def run(
    tenants: list[str] | None = typer.Argument(
        None, metavar="[TENANT]...", help="Only these tenants.", autocompletion=complete.tenants
    ),
    drain: float = typer.Option(30.0, "--drain", metavar="SECONDS", help="Time for calls to finish."),
    worker: str | None = typer.Option(
        None, "--worker", metavar="K/N", help="This is process K of N (workers in the document)."
    ),
    events: str | None = typer.Option(
        None, "--events", metavar="FILE|-", help="Write every call event as a JSON line."
    ),
    monitor: int | None = typer.Option(
        None,
        "--monitor",
        min=0,
        max=65535,
        metavar="PORT",
        help="/healthz, /readyz and /metrics on loopback; 0: a free port, which is told.",
    ),
    log_json: bool = typer.Option(False, "--log-json", help="The log as JSON lines."),
) -> None:
    """Serve the calls of the tenants: their handlers, in one process.

    Reads the document, loads every tenant's handler and connects to every node. A tenant whose handler fails
    is told and left out; the others are served.
    """
    # Until the event loop is there: the document is read after that anyway, and a hangup would kill us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from voxtractl.cli.entry import wait
    from voxtractl.runtime import logs
    from voxtractl.runtime.event_loop import new_event_loop
    from voxtractl.runtime.supervisor import Supervisor

    settings = context.settings()
    if not 0 <= drain <= LONGEST:  # nor nan
        raise UsageFault(f"--drain {drain:g}: not a time to wait", hint="give seconds, 0 to 86400")
    _raise_open_files()
    # Handlers run for months: what is garbage goes as it does in any program, not as in a short command.
    gc.set_threshold(GARBAGE)
    with ExitStack() as stack:
        lines = _lines(events, stack) if events is not None else None
        sinks: list[Sink] = [lines] if lines else []
        counters = None
        if monitor is not None:
            from voxtractl.runtime.monitor import Monitor

            counters = Monitor()
            sinks.append(counters.count)
        supervisor = Supervisor(
            _absolute(settings.config),  # a handler may go to another folder
            tenants=tuple(tenants or ()),
            nodes=settings.node,
            worker=_worker(worker),
            sinks=sinks,
            timeout=min(settings.timeout, 30.0),
        )
        told = logs.configure(as_json=log_json, verbose=settings.verbose, secrets=supervisor.secrets())
        stack.callback(told.end)
        supervisor.keep_log = told.keep
        if lines is not None:
            lines.clean = told.clean
        if counters is not None:
            counters.supervisor = supervisor
        calls = [0]
        supervisor.listen(lambda event: _count(event, calls))
        say = partial(log.info, "%s") if log_json else told.say
        with _aside() if events == "-" or settings.output == "json" else nullcontext():
            if isinstance(
                sys.stdout, TextIOWrapper
            ):  # what a handler prints is seen at once, in a journal too
                sys.stdout.reconfigure(line_buffering=True)
            wait(_serve(supervisor, counters, monitor, drain, lines, say), new_event_loop)
        if events != "-":
            show.emit({"calls": calls[0]}, f"calls served: {calls[0]}")


def _aside() -> AbstractContextManager[object]:
    """What handlers print is no event, and no part of the one document: it goes to stderr. So does what their
    child processes and threads write, and what is written at exit: to the end of the process."""
    stdout = sys.stdout
    if stdout is not sys.__stdout__ or not isinstance(stdout, TextIOWrapper):
        return redirect_stdout(sys.stderr)  # somebody calls us from Python: the process is not ours
    stdout.flush()
    ours = FileIO(os.dup(1), "w")  # no buffer: what cannot be written is told when it is written
    show.results = TextIOWrapper(ours, stdout.encoding, errors="replace", write_through=True)
    os.dup2(sys.stderr.fileno(), 1)
    return nullcontext()


def _absolute(config: Path) -> Path:
    try:
        return config.absolute()
    except FileNotFoundError as exc:
        raise UsageFault(
            f"{config} is seen from the folder this runs in, and that was deleted",
            hint="go to another folder, or give the whole name: --config /etc/…",
        ) from exc


def _raise_open_files() -> None:
    """Take all that the system grants: a shell gives 1024, and 256 tenants with 300 legs need more."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS grants less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _count(event: Mapping[str, Any], calls: list[int]) -> None:
    calls[0] += event["event"] == "call_ended"


def _worker(text: str | None) -> "Worker | None":
    from voxtractl.runtime.workers import Worker

    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]?)/([1-9][0-9]?)", text)
    if found is None or int(found[1]) > int(found[2]):
        raise UsageFault(
            f"--worker {text}: not a process of several", hint="--worker 2/3 is the second of three"
        )
    return Worker(int(found[1]), int(found[2]))


def _lines(place: str, stack: ExitStack) -> "JsonLines":
    from voxtractl.runtime.journal import JsonLines

    if not place:
        raise UsageFault("--events names no file", hint="a variable that is not set? - is stdout")
    try:
        lines = JsonLines(place if place == "-" else str(Path(place).absolute()))
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise UsageFault(f"--events {place}: {reason}", hint=HINTS.get(exc.errno or 0)) from exc
    stack.callback(lines.close)
    return lines


async def _serve(
    supervisor: "Supervisor",
    counters: Any,
    port: int | None,
    drain: float,
    lines: "JsonLines | None",
    say: Say = show.note,
) -> None:
    """Serve until told to stop; every ending of the runtime passes through here."""
    import asyncio

    from voxtractl.cli.entry import SIGNALS
    from voxtractl.runtime.service import ServiceManager

    loop = asyncio.get_running_loop()
    manager = ServiceManager()
    living = loop.create_task(manager.live(supervisor.sentence))
    told, forced = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (forced if told.is_set() else told).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    reloads: set[asyncio.Task[None]] = set()
    started = hung_up = False

    async def again() -> None:
        manager.reloading()
        if lines is not None:
            lines.reopen()
        await supervisor.reload()
        await supervisor.reclaim(force=True)
        await supervisor.readmit()
        manager.ready(supervisor.sentence())

    def reload() -> None:
        nonlocal hung_up
        hung_up = True
        if not started or told.is_set():  # later, or never
            return
        reloads.add(task := loop.create_task(again()))
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        if port is not None:  # first: who has the port may serve these tenants, and goes on
            say(f"health and metrics: http://127.0.0.1:{await counters.start(port)}/metrics")
        if not await _started(supervisor, told):
            say("stopped by a signal before it served")
            return
        say(supervisor.sentence())
        manager.ready(supervisor.sentence())
        started = True
        if hung_up:
            reload()
        failure = await _until(told, supervisor)
        manager.stopping()
        faults = supervisor.without_handler
        if told.is_set():
            say(f"draining: calls get {drain:.0f} s; a second signal ends them now")
            await _drain(supervisor, drain, forced, say)
    finally:
        told.set()
        for task in reloads:
            task.cancel()
        if reloads:
            await asyncio.wait(reloads)
        await supervisor.drain(0.0)
        await supervisor.close()  # a signal does not cut it short: it is bounded, and hooks always run
        if counters is not None:
            await counters.close()
        living.cancel()
        for number in SIGNALS:  # it ends anyway, and has an exit code to tell
            signal.signal(number, signal.SIG_IGN)  # the loop's own way has a moment in which one kills it
    if failure is not None:
        raise failure
    if faults:
        first = next(iter(faults.values()))
        raise PartialFailure(
            f"{len(faults)} of {supervisor.wanted} tenants had no handler: {first}",
            where=first.where,
            hint=first.hint,
        )


async def _started(supervisor: "Supervisor", told: Any) -> bool:
    """Start it; False when a signal came first."""
    import asyncio

    starting = asyncio.ensure_future(supervisor.start())
    asked = asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
    if starting.done():
        starting.result()
        return True
    starting.cancel()
    await asyncio.wait([starting])
    if not starting.cancelled():
        starting.exception()  # no matter any more
    return False


async def _until(told: Any, supervisor: "Supervisor") -> VoxtractlError | None:
    """Wait for a signal, or for the connection to end for good."""
    import asyncio

    asked = asyncio.ensure_future(told.wait())
    failed = asyncio.ensure_future(supervisor.failed())
    try:
        await asyncio.wait([asked, failed], return_when=asyncio.FIRST_COMPLETED)
        return failed.result() if failed.done() else None
    finally:
        asked.cancel()
        failed.cancel()


async def _drain(supervisor: "Supervisor", seconds: float, forced: Any, say: Say) -> None:
    import asyncio

    draining = asyncio.ensure_future(supervisor.drain(seconds))
    force = asyncio.ensure_future(forced.wait())
    try:
        await asyncio.wait([draining, force], return_when=asyncio.FIRST_COMPLETED)
    finally:
        force.cancel()
        if not draining.done():
            draining.cancel()
    if draining.done() and not draining.cancelled() and draining.result():
        say(f"{draining.result()} calls were ended")
