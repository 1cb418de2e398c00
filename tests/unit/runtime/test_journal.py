"""Events of calls: one vocabulary, whole fields, and listeners that cannot harm a call."""

import errno
import json
import logging
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from voxtractl.runtime import journal
from voxtractl.runtime.journal import EVENTS, WORDS_MAX, Journal, JsonLines

CALL = {"call_id": "1", "tenant": "acme", "direction": "inbound", "did": "+265", "caller": ""}


def test_every_event_has_the_fields_of_its_kind_and_of_every_call() -> None:
    told: list[Mapping[str, Any]] = []
    book = Journal("pbx1")
    book.sinks.append(told.append)
    for event, fields in EVENTS.items():
        book.write(event, CALL, **dict.fromkeys(fields, "x"))
    assert [one["event"] for one in told] == list(EVENTS)
    for one in told:
        assert set(one) == {"event", "time", "node", *CALL, *EVENTS[one["event"]]}
        assert one["time"].endswith("Z")
        assert one["node"] == "pbx1"


def test_an_event_with_other_fields_is_a_bug_that_shows() -> None:
    book = Journal()
    book.sinks.append(lambda event: None)
    with pytest.raises(ValueError, match="digit"):
        book.write("dtmf", CALL)


def test_a_listener_that_fails_is_told_and_the_others_hear(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Mapping[str, Any]] = []
    book = Journal()

    def fails(event: Mapping[str, Any]) -> None:
        raise KeyError(event["event"])

    book.sinks += [fails, told.append]
    with caplog.at_level(logging.ERROR):
        book.write("call_started", CALL)
    assert len(told) == 1
    assert "could not be told: call_started" in caplog.text


def test_the_page_of_events_lists_every_event_with_its_fields() -> None:
    page = (Path(__file__).parents[3] / "docs" / "events.md").read_text()
    rows = {
        cells[1].strip().strip("`"): cells[2]
        for cells in (line.split("|") for line in page.splitlines())
        if len(cells) == 5
    }
    told = {name: tuple(re.findall(r"`(\w+)`", fields)) for name, fields in rows.items() if name in EVENTS}
    assert told == EVENTS


def lines(file: Path) -> list[int]:
    return [json.loads(line)["n"] for line in file.read_text().splitlines()]


def test_events_become_whole_lines_in_their_order(tmp_path: Path) -> None:
    sink = JsonLines(str(tmp_path / "events"))
    for n in range(1000):
        sink({"n": n, "text": "é\n"})
    sink.close()
    assert lines(tmp_path / "events") == list(range(1000))


def test_an_event_that_cannot_be_written_is_told_and_the_next_one_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = JsonLines(str(tmp_path / "events"))
    lines({"event": "call_started", "did": object()})
    lines({"event": "handler_failed", "error": "no file \udcff"})  # the name of a file that is not UTF-8
    lines({"event": "call_ended"})
    lines.clean = lambda text: text.replace("secret", "****")
    lines({"event": "call_ended", "did": "secret", "detail": "the secret"})  # a number is nobody's word
    lines({"event": "handler_failed", "error": "secret" * 1_000_000})
    lines.close()
    assert [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()] == [
        {"event": "handler_failed", "error": "no file \udcff"},
        {"event": "call_ended"},
        {"event": "call_ended", "did": "secret", "detail": "the ****"},
        {"event": "handler_failed", "error": "****" * (WORDS_MAX // 4)},
    ]
    assert "could not be told: call_started" in caplog.text


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    file, old = tmp_path / "events", tmp_path / "events.1"
    sink = JsonLines(str(file))
    sink({"n": 1})
    wait_until(lambda: file.stat().st_size > 0)
    file.rename(old)
    sink.reopen()
    wait_until(file.exists)  # at once, not with the next event
    sink({"n": 2})
    sink.close()
    assert (lines(old), lines(file)) == ([1], [2])


def test_a_new_file_that_cannot_be_opened_leaves_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    sink = JsonLines(str(folder / "events"))
    folder.rename(tmp_path / "gone")
    sink.reopen()
    sink({"n": 1})
    sink.close()
    assert lines(tmp_path / "gone" / "events") == [1]
    assert "the old file stays in use" in caplog.text


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """A limit of the process stands for the disk: a write goes as far as it can, the next one fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def begun(file: Path) -> JsonLines:
    """A sink with one event in its file."""
    sink = JsonLines(str(file))
    sink({"n": 0, "long": "x" * 100})
    wait_until(lambda: file.stat().st_size > 0)
    return sink


def test_what_a_full_disk_does_not_take_is_told_once_with_its_number_and_no_line_is_torn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "events"
    sink = begun(file)
    most = file.stat().st_size
    with full_after(most + 3):
        for n in range(1, 11):
            sink({"n": n})
        wait_until(lambda: sink.lost == 9)  # the first one has begun and is finished later
        assert file.stat().st_size == most + 3
    sink({"n": 11})
    sink.close()
    assert lines(file) == [0, 1, 11]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "9 were lost" in caplog.text


def test_a_line_that_was_begun_in_a_file_that_was_moved_away_is_whole_in_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "events"
    sink = begun(file)
    with full_after(file.stat().st_size + 3):
        sink({"n": 1})
        sink({"n": 2})
        wait_until(lambda: sink.lost == 1)
        old = file.rename(tmp_path / "events.1")
        sink.reopen()
        wait_until(file.exists)
    sink({"n": 3})
    sink.close()
    assert old.read_bytes().endswith(b'}\n{"n')
    assert lines(file) == [1, 3]


def test_a_line_that_nobody_will_finish_is_ended_before_the_next_one(tmp_path: Path) -> None:
    """The disk was full to the end of the process, or the machine went down."""
    file = tmp_path / "events"
    file.write_text('{"n":0}\n{"n')
    sink = JsonLines(str(file))
    sink({"n": 1})
    sink.close()
    assert file.read_text() == '{"n":0}\n{"n\n{"n":1}\n'


def test_what_is_lost_at_the_end_is_told_with_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "events"
    sink = begun(file)
    with full_after(file.stat().st_size + 3):
        for n in range(1, 11):
            sink({"n": n})
        sink.close()
    assert "10 events were lost at the end" in caplog.text


def test_a_reader_that_sleeps_holds_up_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "WAITING_MAX", 1000)
    monkeypatch.setattr(journal, "FLUSH", 0.1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    full = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(full, bytes(size))
    os.close(full)
    sink = JsonLines(str(pipe))
    sink({"n": 0})
    wait_until(lambda: sink._rest)  # and stays so: there is no room for a byte
    for n in range(1, 5000):
        sink({"n": n, "long": "x" * 1000})
    sink.close()  # returns although nobody reads
    assert sink.lost == 3999
    assert "faster than they are taken" in caplog.text
    assert "5000 events were lost at the end" in caplog.text
    os.close(reader)  # the thread ends


def test_a_pipe_that_nobody_reads_is_refused_and_holds_up_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError) as refused:
        JsonLines(str(pipe))
    assert refused.value.errno == errno.ENXIO


def test_a_pipe_that_is_full_is_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonLines(str(pipe))
    for n in range(100):
        sink({"n": n, "long": "x" * 10_000})  # a pipe holds 64 KiB
    os.set_blocking(reader, True)
    read = b""
    while read.count(b"\n") < 100:
        read += os.read(reader, 65_536)
    sink.close()
    os.close(reader)
    assert sink.lost == 0
    assert [json.loads(line)["n"] for line in read.splitlines()] == list(range(100))


def wait_until(is_so: Callable[[], object]) -> None:
    for _ in range(1000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it never was")


def test_standard_output_stays_what_it_was() -> None:
    read, write = os.pipe()
    before = os.dup(1)
    os.dup2(write, 1)
    try:
        sink = JsonLines("-")
    finally:
        os.dup2(before, 1)  # from now on something else
    sink.reopen()
    sink({"event": "call_started"})
    sink.close()
    os.close(write)
    os.close(before)
    with open(read, "rb") as told:
        assert told.read() == b'{"event":"call_started"}\n'
