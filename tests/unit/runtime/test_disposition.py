"""Dispositions of calls that were really made: status, cause and SIP code as Asterisk 22.10.1 told them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari.requests import HANGUP_REASONS
from voxtractl.runtime.disposition import CAUSE_OF, CAUSES, Disposition, cause_name, disposition_of

MEASURED = [
    # what the far side did              status        cause  SIP  rang   disposition
    ("486", "BUSY", 17, 486, True, "busy"),
    ("600", "BUSY", 17, 600, False, "busy"),
    ("603", "NOANSWER", 21, 603, False, "rejected"),
    ("403", "NOANSWER", 21, 403, False, "rejected"),
    ("607", "NOANSWER", 127, 607, True, "rejected"),
    ("608", "NOANSWER", 127, 608, False, "rejected"),
    ("404", "NOANSWER", 1, 404, False, "failed"),
    ("410", "NOANSWER", 22, 410, False, "failed"),
    ("484", "NOANSWER", 28, 484, False, "failed"),
    ("480", "NOANSWER", 19, 480, False, "no_answer"),
    ("480 after ringing", "NOANSWER", 19, 480, True, "no_answer"),
    ("rang until our timeout", "", 19, 480, True, "no_answer"),
    ("a trunk that says nothing", "", 19, 480, False, "failed"),
    ("408", "NOANSWER", 18, 408, False, "failed"),
    ("483", "NOANSWER", 19, 483, False, "failed"),
    ("301 without a number", "NOANSWER", 16, 301, False, "failed"),
    ("302", "CANCEL", 23, 302, False, "failed"),
    ("500", "NOANSWER", 38, 500, True, "failed"),
    ("502", "NOANSWER", 27, 502, False, "failed"),
    ("504", "NOANSWER", 102, 504, False, "failed"),
    ("488", "NOANSWER", 58, 488, False, "failed"),
    ("503", "CONGESTION", 34, 503, False, "congestion"),
    ("Busy() on a Local channel", "BUSY", 0, 0, False, "busy"),
    ("Congestion() on a Local channel", "CONGESTION", 0, 0, False, "congestion"),
    ("Congestion() on a Local channel, with its cause", "", 34, 0, False, "congestion"),
    ("a Local channel without an extension", "", 0, 0, False, "failed"),
    ("a code and a cause without a name here", "NOANSWER", 127, 420, True, "failed"),
]


@pytest.mark.parametrize(
    ("status", "cause", "sip", "rang", "disposition"),
    [row[1:] for row in MEASURED],
    ids=[r[0] for r in MEASURED],
)
def test_a_call_that_was_not_answered(
    status: str, cause: int, sip: int, rang: bool, disposition: str
) -> None:
    told = disposition_of(answered=False, cause=cause, tech_cause=sip, dial_status=status, rang=rang)
    assert told == disposition


@given(
    cause=st.integers(0, 130),
    sip=st.integers(0, 699),
    status=st.sampled_from(["", "BUSY", "NOANSWER", "CANCEL", "WHAT"]),
    rang=st.booleans(),
    cancelled=st.booleans(),
)
def test_an_answer_is_an_answer_and_our_own_end_is_ours(
    cause: int, sip: int, status: str, rang: bool, cancelled: bool
) -> None:
    def told(*, answered: bool) -> Disposition:
        return disposition_of(
            answered=answered, cause=cause, tech_cause=sip, dial_status=status, rang=rang, cancelled=cancelled
        )

    assert told(answered=True) is Disposition.ANSWERED
    assert told(answered=False) is not Disposition.ANSWERED
    assert (told(answered=False) is Disposition.CANCELLED) == cancelled


def test_every_reason_asterisk_takes_has_its_cause() -> None:
    assert set(CAUSE_OF) == set(HANGUP_REASONS)
    assert set(CAUSE_OF.values()) <= set(CAUSES)


def test_causes_have_names() -> None:
    assert cause_name(17) == "user busy"
    assert cause_name(126) == "cause 126"
    assert len(set(CAUSES.values())) == len(CAUSES)
