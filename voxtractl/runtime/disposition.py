"""How a call ended, from what Asterisk tells: tables from measured calls (docs/vocabulary.md has the words).

    a SIP answer's code (tech_cause)  ─▶  else the Q.850 cause  ─▶  else the closing status of the Dial

The status alone tells nothing (NOANSWER for 404, 500 and 603 alike); the cause is 0 for a Local channel that
was busy. Cause 19 says "no answer" and "the trunk is dead" alike: only who heard it ring knows.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["BY_CAUSE", "BY_REASON", "CAUSES", "CAUSE_OF", "Disposition", "cause_name", "disposition_of"]


class Disposition(StrEnum):
    """How a call ended."""

    ANSWERED = "answered"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    REJECTED = "rejected"
    CONGESTION = "congestion"
    FAILED = "failed"
    CANCELLED = "cancelled"


_BUSY, _NO_ANSWER, _REJECTED = Disposition.BUSY, Disposition.NO_ANSWER, Disposition.REJECTED
_CONGESTION, _FAILED = Disposition.CONGESTION, Disposition.FAILED

# Codes not named here leave it to the cause that Asterisk made of them.
BY_SIP: Final[Mapping[int, Disposition]] = MappingProxyType(
    {
        **dict.fromkeys((486, 600), _BUSY),
        **dict.fromkeys((403, 603, 607, 608), _REJECTED),  # 607, 608: unwanted, blocked on the way
        **dict.fromkeys((404, 410, 484), _FAILED),  # the number is none
        **dict.fromkeys((300, 301, 302, 305, 380), _FAILED),  # redirected, and nobody follows
        **dict.fromkeys((408, 483, 488, 500, 502, 504), _FAILED),
        503: _CONGESTION,
    }
)
BY_CAUSE: Final[Mapping[int, Disposition]] = MappingProxyType(
    {
        17: _BUSY,
        20: _NO_ANSWER,
        21: _REJECTED,
        **dict.fromkeys((34, 42, 44), _CONGESTION),
    }
)
# Causes that stand for several ends; every other one that is not named above is a failure.
VAGUE: Final = frozenset({0, 16, 18, 19, 31})
BY_STATUS: Final[Mapping[str, Disposition]] = MappingProxyType(
    {"BUSY": _BUSY, "CONGESTION": _CONGESTION, "NOANSWER": _NO_ANSWER, "CHANUNAVAIL": _FAILED}
)
# An inbound call that we ended before the answer, by the reason we gave; other reasons are failures.
BY_REASON: Final[Mapping[str, Disposition]] = MappingProxyType(
    {
        "busy": _BUSY,
        "congestion": _CONGESTION,
        **dict.fromkeys(("no_answer", "timeout"), _NO_ANSWER),
        **dict.fromkeys(("normal", "normal_unspecified", "rejected", "answered_elsewhere"), _REJECTED),
    }
)

# What Asterisk makes of the reason of our DELETE (res/ari/resource_channels.c).
CAUSE_OF: Final[Mapping[str, int]] = MappingProxyType(
    {
        "unallocated": 1,
        "normal": 16,
        "busy": 17,
        "timeout": 18,
        "no_answer": 19,
        "rejected": 21,
        "answered_elsewhere": 26,
        "number_incomplete": 28,
        "normal_unspecified": 31,
        "congestion": 34,
        "failure": 38,
        "codec_mismatch": 58,
        "interworking": 127,
    }
)

# Asterisk's names of the Q.850 causes it uses (include/asterisk/causes.h), in plain words.
CAUSES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "no cause given",
        1: "unallocated number",
        2: "no route to the transit network",
        3: "no route to the destination",
        5: "misdialled trunk prefix",
        6: "channel unacceptable",
        7: "call awarded in an established channel",
        8: "pre-emption",
        14: "number ported",
        16: "normal clearing",
        17: "user busy",
        18: "no user responds",
        19: "no answer",
        20: "subscriber absent",
        21: "call rejected",
        22: "number changed",
        23: "redirected to a new destination",
        26: "answered elsewhere",
        27: "destination out of order",
        28: "invalid number format",
        29: "facility rejected",
        30: "response to a status enquiry",
        31: "normal, unspecified",
        34: "congestion",
        38: "network out of order",
        41: "temporary failure",
        42: "switching equipment congested",
        43: "access information discarded",
        44: "requested channel not available",
        50: "facility not subscribed",
        52: "outgoing calls barred",
        54: "incoming calls barred",
        57: "bearer capability not authorised",
        58: "bearer capability not available",
        65: "bearer capability not implemented",
        66: "channel type not implemented",
        69: "facility not implemented",
        81: "invalid call reference",
        88: "incompatible destination",
        95: "invalid message",
        96: "mandatory information missing",
        97: "message type unknown",
        98: "wrong message",
        99: "information element unknown",
        100: "invalid information element",
        101: "wrong state of the call",
        102: "recovery on timer expiry",
        103: "mandatory information has a wrong length",
        111: "protocol error",
        127: "interworking, unspecified",
    }
)


def cause_name(cause: int) -> str:
    """What a Q.850 cause means, in words."""
    return CAUSES.get(cause, f"cause {cause}")


def disposition_of(
    *,
    answered: bool,
    cause: int = 0,
    tech_cause: int = 0,
    dial_status: str = "",
    rang: bool = False,
    cancelled: bool = False,
) -> Disposition:
    """How an outbound call ended.

    ``cause`` is Q.850, ``tech_cause`` the SIP code, both 0 when unknown; ``dial_status`` the closing status
    of the Dial, ``""`` when there was none (``create`` and ``dial`` give none on failure); ``rang`` when
    RINGING or PROGRESS was seen; ``cancelled`` when we ended it ourselves before the answer.
    """
    if answered:
        return Disposition.ANSWERED
    if cancelled:
        return Disposition.CANCELLED
    told = BY_SIP.get(tech_cause) or BY_CAUSE.get(cause)
    if told is None and cause in VAGUE:
        # Without a closing status it was Asterisk's own timeout: cause 19 and SIP code 480 for a telephone
        # that nobody took and for a trunk that is silent.
        told = BY_STATUS.get(dial_status) or (_NO_ANSWER if rang else None)
    return told or _FAILED
