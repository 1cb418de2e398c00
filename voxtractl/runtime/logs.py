"""The log of a runtime: which tenant, which call, and never a secret. stdlib logging; text or one JSON
object a line.

A thread writes it. Whoever reads it may sleep (a terminal after Ctrl-S, a pager): that holds up no call, and
costs lines.
"""

import codecs
import json
import logging
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from queue import Full, Queue
from typing import Final, TextIO

from voxtractl.runtime.service import journal_reads, levelled
from voxtractl.runtime.session import CALL, TENANT
from voxtractl.settings import Secret

__all__ = ["Log", "configure", "shown"]

log = logging.getLogger(__name__)

STARS: Final = "****"
OURS: Final = "voxtractl"
NOISY: Final = ("asyncio", "aiohttp.access", "aiohttp.server", "voxtractl.ari.stream.wire")
WAITING_MAX: Final = 10_000  # lines that wait for a slow reader
ROOM: Final = 0.05  # seconds a handler waits for room among them, before its line is lost
FLUSH: Final = 2.0  # seconds for them at the end
SYSLOG: Final = {3: logging.ERROR, 4: logging.WARNING, 6: logging.INFO}  # its numbers; 7 is what is below
CONTROLS: Final = {  # a caller's name may hold what a terminal obeys
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
}
SHORTEST: Final = 4  # a shorter secret would turn ordinary words into stars


class _Redact(logging.Filter):
    """Puts stars where a secret would stand, in messages and tracebacks, and adds tenant and call."""

    def __init__(self, secrets: Collection[Secret]) -> None:
        super().__init__()
        self._secrets, self._known = secrets, 0
        self._texts: list[str] = []

    def clean(self, text: str) -> str:
        if len(self._secrets) != self._known:  # a node's password was changed
            texts = {secret.reveal() for secret in self._secrets}
            self._texts = sorted((text for text in texts if len(text) >= SHORTEST), key=len, reverse=True)
            self._known = len(self._secrets)
        for secret in self._texts:
            text = text.replace(secret, STARS)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.clean(_message(record)), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.stack_info:
            told = f"{record.exc_text}\n" if record.exc_text else ""
            record.exc_text, record.stack_info = told + record.stack_info, None
        if record.exc_text:
            record.exc_text = self.clean(record.exc_text)
        record.tenant = getattr(record, "tenant", None) or TENANT.get()  # told with it, or where it was told
        record.call = CALL.get()
        return True


def _message(record: logging.LogRecord) -> str:
    """What it says; a format that does not fit its values is shown beside them, and raises nothing."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  a user's format, or objects of a user's
        with suppress(Exception):
            return f"{record.msg} {record.args!r}"
        return f"a line that cannot be written, of {record.pathname}:{record.lineno}"


class _Json(logging.Formatter):
    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._ascii = codecs.lookup(stream.encoding or "utf-8").name != "utf-8"  # JSON knows no other

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "tenant": getattr(record, "tenant", None),
            "call_id": getattr(record, "call", None),
        }
        if record.exc_text:
            told["traceback"] = record.exc_text
        return json.dumps(told, ensure_ascii=self._ascii)


class _Text(logging.Formatter):
    """A record begins with its time; a line that begins otherwise belongs to the one before."""

    def format(self, record: logging.LogRecord) -> str:
        place = " ".join(
            part for part in (getattr(record, "tenant", None), getattr(record, "call", None)) if part
        )
        # Not by strftime, which imports: when Python goes down that is an error of logging, 50 lines long.
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")[:-6]
        told = record.getMessage().replace("\n", "\n    ")
        line = f"{time}Z {record.levelname.lower():7} {f'[{place}] ' if place else ''}{told}"
        return (f"{line}\n{record.exc_text}" if record.exc_text else line).translate(CONTROLS)


class _Writer(logging.Handler):
    """Writes to a stream, in a thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._journal = journal_reads(stream)
        self._lines: Queue[str | None] = Queue(WAITING_MAX)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def createLock(self) -> None:
        """None: who waits for room would hold up everybody."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As logging's own, which needs a lock from Python 3.13 on."""
        kept = bool(self.filter(record))
        if kept:
            self.emit(record)
        return kept

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            self.write(levelled(line, _syslog(record.levelno)) if self._journal else line)
        except Exception:  # noqa: BLE001  logging's way: whoever tells something is not harmed
            self.handleError(record)

    def write(self, line: str) -> None:
        """One line more, from whatever thread. The main thread, which has the calls, waits for no room."""
        thread = threading.current_thread()
        if thread is self._thread or not self._thread.is_alive():  # the end, or a fork of a handler
            self._put(line)
            return
        waits = not self._lost and thread is not threading.main_thread()
        try:
            self._lines.put(line, timeout=ROOM if waits else 0.0)
        except Full:
            self._lost += 1

    def end(self) -> None:
        """Write what waits, unless that takes longer than ``FLUSH``."""
        with suppress(Full):
            self._lines.put_nowait(None)
        self._thread.join(FLUSH)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._put(line) and self._lines.empty():
                self._tell_lost()
        self._tell_lost()

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("%d lines of the log were lost: too fast for its reader, or the disk was full", lost)

    def _put(self, line: str) -> bool:
        """Whether it could be written."""
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, or it is closed
            self._lost += 1
            return False
        return True


class Log:
    """How the log of the process is written; what ``configure`` has made so. What Python itself would write
    to stderr is in it too: exceptions of threads, those nobody can be told of, and warnings."""

    def __init__(self, writer: _Writer, redact: _Redact, form: logging.Formatter, level: int) -> None:
        self._writer, self._redact, self._form, self._level = writer, redact, form, level
        self.say = writer.write  # a line as it is
        self.clean = redact.clean  # a text without the secrets
        self._before = threading.excepthook, sys.unraisablehook
        threading.excepthook, sys.unraisablehook = _thread_failed, _left_unsaid
        logging.captureWarnings(True)

    def end(self) -> None:
        """Write what waits, unless that takes longer than ``FLUSH``; what is told then is written at once."""
        threading.excepthook, sys.unraisablehook = self._before
        logging.captureWarnings(False)
        self._writer.end()

    def keep(self) -> None:
        """Make it so again. A handler file that configures logging does so for every tenant: ``dictConfig``
        silences all loggers there are, ``basicConfig(force=True)`` takes the stars away. Loggers of a
        tenant's own may have what handlers and levels they like; the root's and voxtractl's are everybody's.
        """
        root = logging.getLogger()
        root.handlers[:] = [self._writer]
        _set_level(root, self._level)
        self._writer.filters[:] = [self._redact]
        self._writer.setFormatter(self._form)
        self._writer.setLevel(logging.NOTSET)
        logging.disable(logging.NOTSET)
        logging.setLogRecordFactory(logging.LogRecord)
        for logger in (root, *list(root.manager.loggerDict.values())):
            if isinstance(logger, logging.Logger):
                logger.disabled = False
                if logger.name.partition(".")[0] == OURS:
                    logger.filters.clear()
                    logger.propagate = True
                    _set_level(logger, logging.WARNING if logger.name in NOISY else logging.NOTSET)
        for noisy in NOISY:
            _set_level(logging.getLogger(noisy), logging.WARNING)


def configure(
    *,
    as_json: bool = False,
    verbose: bool = False,
    secrets: Collection[Secret] = (),
    stream: TextIO | None = None,
) -> Log:
    """Send the whole process's log to ``stream`` (stderr), at INFO, with ``verbose`` at DEBUG. ``secrets``
    may grow meanwhile. Who asked for it ends it."""
    stream = stream or sys.stderr
    form = _Json(stream) if as_json else _Text()
    level = logging.DEBUG if verbose else logging.INFO
    told = Log(_Writer(stream), _Redact(secrets), form, level)
    told.keep()
    return told


@contextmanager
def shown(secrets: Collection[Secret]) -> Iterator[None]:
    """What voxtractl tells stands on stderr meanwhile, at INFO, unless the program has configured logging.

    That of the program's own loggers stays as it is.
    """
    ours = logging.getLogger(OURS)
    if ours.hasHandlers() or sys.stderr is None:
        yield
        return
    writer, level = _Writer(sys.stderr), ours.level
    writer.addFilter(_Redact(secrets))
    writer.setFormatter(_Text())
    ours.addHandler(writer)
    ours.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        ours.setLevel(level)
        ours.removeHandler(writer)
        writer.end()


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else "?"
        log.error("the thread %s failed", name, exc_info=args.exc_value or args.exc_type())


def _left_unsaid(args: "sys.UnraisableHookArgs") -> None:
    what = args.err_msg or "an exception that nobody can be told of"
    log.error("%s: %r", what, args.object, exc_info=args.exc_value or args.exc_type())


def _syslog(level: int) -> int:
    return next((number for number, least in SYSLOG.items() if level >= least), 7)


def _set_level(logger: logging.Logger, level: int) -> None:
    if logger.level != level:  # setting it makes all loggers forget what they know
        logger.setLevel(level)
