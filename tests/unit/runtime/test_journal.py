"""Events of calls: one vocabulary, whole fields, and listeners that cannot harm a call."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from voxtractl.runtime.journal import EVENTS, Journal

CALL = {"call_id": "1", "tenant": "acme", "direction": "inbound", "did": "+265", "caller": ""}


def test_every_event_has_the_fields_of_its_kind_and_of_every_call() -> None:
    told: list[Mapping[str, Any]] = []
    journal = Journal("pbx1")
    journal.sinks.append(told.append)
    for event, fields in EVENTS.items():
        journal.write(event, CALL, **dict.fromkeys(fields, "x"))
    assert [one["event"] for one in told] == list(EVENTS)
    for one in told:
        assert set(one) == {"event", "time", "node", *CALL, *EVENTS[one["event"]]}
        assert one["time"].endswith("Z")
        assert one["node"] == "pbx1"


def test_an_event_with_other_fields_is_a_bug_that_shows() -> None:
    journal = Journal()
    journal.sinks.append(lambda event: None)
    with pytest.raises(ValueError, match="digit"):
        journal.write("dtmf", CALL)


def test_a_listener_that_fails_is_told_and_the_others_hear(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Mapping[str, Any]] = []
    journal = Journal()

    def fails(event: Mapping[str, Any]) -> None:
        raise KeyError(event["event"])

    journal.sinks += [fails, told.append]
    with caplog.at_level(logging.ERROR):
        journal.write("call_started", CALL)
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
