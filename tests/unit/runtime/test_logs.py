"""The log: tenant and call on every line, and stars for every secret, in tracebacks too."""

import errno
import io
import json
import logging
import logging.config
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from voxtractl.runtime import logs
from voxtractl.runtime.app import CALL, TENANT
from voxtractl.settings import Secret

CANARY = "canary-9c41"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)


def test_no_secret_reaches_a_line_or_a_traceback(stream: io.StringIO) -> None:
    logs.configure(secrets=[Secret(CANARY), Secret("ab")], stream=stream).end()
    log = logging.getLogger("acme")
    log.warning("the password is %s, ab", CANARY)
    try:
        raise ValueError(CANARY)
    except ValueError:
        log.exception("it failed")
    text = stream.getvalue()
    assert CANARY not in text
    assert "the password is ****, ab" in text  # a short one would make stars of ordinary words
    assert "ValueError: ****" in text


def test_where_a_line_was_told_stands_below_it(stream: io.StringIO) -> None:
    logs.configure(secrets=[Secret(CANARY)], stream=stream).end()
    logging.getLogger("acme").warning("here", stack_info=True)  # canary-9c41
    begin, *stack = stream.getvalue().splitlines()
    assert begin.endswith("here")
    assert stack[0] == "Stack (most recent call last):"
    assert stack[-1].endswith("# ****")


def test_a_line_names_its_tenant_and_call(stream: io.StringIO) -> None:
    logs.configure(stream=stream).end()
    tokens = TENANT.set("acme"), CALL.set("17")
    logging.getLogger("x").info("hello")
    TENANT.reset(tokens[0])
    CALL.reset(tokens[1])
    logging.getLogger("x").info("nobody's")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("info    [acme 17] hello")
    assert second.endswith("info    nobody's")


def test_what_a_caller_calls_himself_neither_moves_the_terminal_nor_forges_a_line(
    stream: io.StringIO,
) -> None:
    logs.configure(stream=stream).end()
    name = "\x1b[2JEve\r\n2026-12-01T00:00:00Z info    forged\x9b5m\tü"
    logging.getLogger("x").info("a call of %s", name)
    try:
        raise ValueError(name)
    except ValueError:
        logging.getLogger("x").exception("it failed")
    first, second, *rest = stream.getvalue().splitlines()
    assert first.endswith("info    a call of \\x1b[2JEve\\x0d")
    assert second == "    2026-12-01T00:00:00Z info    forged\\x9b5m\tü"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "".join(rest))


def test_a_line_about_a_tenant_that_is_told_elsewhere_names_it(stream: io.StringIO) -> None:
    logs.configure(as_json=True, stream=stream).end()
    logging.getLogger("x").warning("its handler cannot be loaded", extra={"tenant": "acme"})
    assert json.loads(stream.getvalue())["tenant"] == "acme"


def test_json_lines_hold_the_same(stream: io.StringIO) -> None:
    logs.configure(as_json=True, verbose=True, secrets=[Secret(CANARY)], stream=stream).end()
    token = TENANT.set("acme")
    try:
        raise KeyError(CANARY)
    except KeyError:
        logging.getLogger("x").exception("é %s", CANARY)
    TENANT.reset(token)
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (line["level"], line["tenant"], line["message"]) == ("error", "acme", "é ****")
    assert CANARY not in line["traceback"]


def test_json_lines_stay_json_where_the_locale_is_not_utf_8(stream: io.StringIO) -> None:
    written = io.BytesIO()
    told = logs.configure(as_json=True, stream=io.TextIOWrapper(written, "iso8859-1", errors="replace"))
    logging.getLogger("x").warning("Zoë 中")
    told.end()
    assert json.loads(written.getvalue())["message"] == "Zoë 中"


@pytest.mark.parametrize("as_json", [False, True])
def test_the_journal_of_systemd_is_told_the_level_of_each_line(
    stream: io.StringIO, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as journal, (tmp_path / "file").open("w+") as file:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        for there in (journal, file):
            told = logs.configure(as_json=as_json, verbose=True, stream=there)
            log = logging.getLogger("x")
            log.debug("one")
            log.info("two")
            log.warning("three")
            try:
                raise ValueError("five\nlines")
            except ValueError:
                log.exception("four")
            told.end()
            there.seek(0)
        lines, plain = journal.read().splitlines(), file.read().splitlines()
    assert [line[:3] for line in lines[:4]] == ["<7>", "<6>", "<4>", "<3>"]
    assert {line[:3] for line in lines[4:]} <= {"<3>"}  # a traceback
    assert not [line for line in plain if line.startswith("<")]
    assert len(lines) == len(plain) == (4 if as_json else 9)


@pytest.mark.filterwarnings("always")
def test_what_python_itself_would_tell_is_in_the_log(
    stream: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    class Left:
        def __del__(self) -> None:
            raise KeyError(CANARY)

    def fails() -> None:
        raise ValueError(CANARY)

    told = logs.configure(as_json=True, secrets=[Secret(CANARY)], stream=stream)
    for work in (fails, sys.exit, Left, lambda: warnings.warn(CANARY, stacklevel=1)):
        thread = Thread(target=work, name=work.__name__)
        thread.start()
        thread.join()
    told.end()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["error", "error", "warning"]
    assert lines[0]["message"] == "the thread fails failed"
    assert lines[0]["traceback"].endswith("ValueError: ****")
    assert lines[1]["traceback"].endswith("KeyError: '****'")
    assert "UserWarning: ****" in lines[2]["message"]
    assert capfd.readouterr() == ("", "")


class Unspeakable:
    def __repr__(self) -> str:
        raise KeyError("no words")


def test_a_format_that_does_not_fit_is_told_with_its_values_and_raises_nothing(stream: io.StringIO) -> None:
    logs.configure(secrets=[Secret(CANARY)], stream=stream).end()
    log = logging.getLogger("acme")
    log.info("caller %d", "x" + CANARY)
    log.info("%s and %s", 7)
    log.info("%(name)s", 7)
    log.info("%s", Unspeakable())
    log.info(Unspeakable())
    first, second, third, *rest = (line.partition("info    ")[2] for line in stream.getvalue().splitlines())
    assert first == "caller %d ('x****',)"
    assert second == "%s and %s (7,)"
    assert third == "%(name)s (7,)"
    assert len(rest) == 2
    assert all(line.startswith(f"a line that cannot be written, of {__file__}:") for line in rest)


@pytest.mark.parametrize(
    "configures",
    [
        lambda: logging.config.dictConfig({"version": 1}),
        lambda: logging.config.dictConfig({"version": 1, "root": {"level": "ERROR", "handlers": []}}),
        lambda: logging.basicConfig(level=logging.ERROR, force=True),
        lambda: logging.disable(),
        lambda: logging.getLogger().addHandler(logging.StreamHandler()),
        lambda: logging.getLogger().handlers[0].setLevel(logging.ERROR),
        lambda: logging.getLogger().handlers[0].setFormatter(logging.Formatter("mine: %(message)s")),
        lambda: logging.getLogger().handlers[0].filters.clear(),
        lambda: logging.setLogRecordFactory(lambda *values, **more: logging.makeLogRecord({})),
        lambda: logging.getLogger("voxtractl").setLevel(logging.ERROR),
        lambda: logging.getLogger("voxtractl.some").setLevel(logging.ERROR),
        lambda: setattr(logging.getLogger("voxtractl.some"), "propagate", False),
    ],
)
def test_a_handler_file_that_configures_logging_changes_no_other_tenants_log(
    stream: io.StringIO, configures: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    told = logs.configure(secrets=[Secret(CANARY)], stream=stream)
    told.end()
    log, own = logging.getLogger("voxtractl.some"), logging.getLogger("acme.own")
    own.setLevel(logging.ERROR)
    configures()
    told.keep()
    log.info("hello %s", CANARY)
    own.info("not told")
    assert stream.getvalue().endswith("info    hello ****\n")
    assert capsys.readouterr().err == ""  # nor is it told twice


def test_a_reader_that_sleeps_holds_up_nobody(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    monkeypatch.setattr(logs, "WAITING_MAX", 100)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "w") as pipe:
        os.set_blocking(read, False)
        told = logs.configure(stream=pipe)
        log = logging.getLogger("acme")
        begun = time.monotonic()
        for n in range(1000):
            log.info("%d %s", n, "x" * 1000)
        told.say("a word of ours")
        assert time.monotonic() - begun < 900 * logs.ROOM / 2  # none of those without room has waited for it
        heard = b""
        while b"lines of the log were lost" not in heard:
            heard += reader.read() or b""
        told.end()
    lost = re.search(rb"(\d+) lines of the log were lost", heard)
    assert lost is not None
    assert int(lost[1]) + heard.count(b"\n") == 1002


def test_lines_that_a_full_disk_did_not_take_are_counted(stream: io.StringIO) -> None:
    class Disk(io.StringIO):
        room = refused = 0

        def write(self, text: str) -> int:
            if not self.room:
                self.refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    disk = Disk()
    told = logs.configure(stream=disk)
    for n in range(5):
        logging.getLogger("x").warning("line %d", n)
    while disk.refused < 5:
        time.sleep(0.001)
    disk.room = 1
    logging.getLogger("x").warning("line 5")
    told.end()
    assert disk.getvalue().count(" line ") == 1
    assert "5 lines of the log were lost" in disk.getvalue()


def test_a_slow_reader_gets_every_line_of_a_handler(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "ROOM", 10.0)  # the machine may be slower than any reader
    told = logs.configure(stream=stream)
    log = logging.getLogger("acme")

    def tells() -> None:
        for n in range(3 * logs.WAITING_MAX):
            log.info("%d", n)

    work = Thread(target=tells)
    work.start()
    work.join()
    told.end()
    assert stream.getvalue().count("\n") == 3 * logs.WAITING_MAX


LATE = """
import logging
from voxtractl.runtime import logs

class Late:
    def __del__(self):
        logging.getLogger("late").error("told when Python goes down")

late = Late()
logs.configure().end()
"""


def test_what_is_told_when_python_goes_down_is_a_line_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, check=False, timeout=60
    )
    assert re.fullmatch(r"\S+Z error   told when Python goes down\n", done.stderr)


def test_what_is_told_is_shown_for_a_while_and_the_programs_own_lines_are_not(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ours = logging.getLogger(), logging.getLogger("voxtractl")
    for logger in (root, ours):  # `originate` silences ours for the rest of its process
        monkeypatch.setattr(logger, "handlers", [])
    told = logging.getLogger("voxtractl.somewhere")
    with logs.shown([Secret(CANARY)]):
        told.info("with %s", CANARY)
        told.debug("below")
        logging.getLogger("acme").info("the program's own")
    told.info("afterwards")
    text = capfd.readouterr().err
    assert [line.split(maxsplit=1)[1] for line in text.splitlines()] == ["info    with ****"]
    assert ours.level == logging.NOTSET
    assert not ours.handlers


def test_a_program_that_configured_logging_is_shown_nothing_twice(
    stream: io.StringIO, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(stream)])
    monkeypatch.setattr(logging.getLogger("voxtractl"), "handlers", [])
    with logs.shown([]):
        logging.getLogger("voxtractl.somewhere").warning("once")
    assert stream.getvalue() == "once\n"
    assert not capfd.readouterr().err
