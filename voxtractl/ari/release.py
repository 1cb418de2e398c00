"""Which release of Asterisk has what: the one table for whoever must know."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

__all__ = [
    "FEATURES",
    "LEG_RATES",
    "MANY_APPS",
    "MEDIA_WEBSOCKET",
    "QUEUE_PROOF",
    "REQUESTS",
    "SIP_CODES",
    "Feature",
    "Release",
]


@dataclass(frozen=True, slots=True)
class Feature:
    """``since`` is the first release of each series: 20.``since[20]``, 22.``since[22]``."""

    what: str
    since: Mapping[int, int]


# Seen in Asterisk's source, tag by tag; with 20.13, 20.19, 20.20 and 22.10 also in running ones.
QUEUE_PROOF: Final = Feature("paused members in queues.conf, which prove the queues", {20: 12, 22: 2})
REQUESTS: Final = Feature("requests over the event websocket", {20: 14, 22: 4})
MANY_APPS: Final = Feature("over 127 Stasis apps on a websocket", {20: 15, 22: 5})
LEG_RATES: Final = Feature("AudioSocket above 8 kHz", {20: 17, 22: 7})
SIP_CODES: Final = Feature("the SIP code of a call's end", {20: 17, 22: 7})
MEDIA_WEBSOCKET: Final = Feature('media="websocket" (its JSON messages)', {20: 18, 22: 8})
FEATURES: Final = (QUEUE_PROOF, REQUESTS, MANY_APPS, LEG_RATES, SIP_CODES, MEDIA_WEBSOCKET)


class Release(NamedTuple):
    major: int
    minor: int

    @classmethod
    def of(cls, version: str) -> Self | None:
        """Of what Asterisk calls itself (``22.10.1+dfsg``, ``certified-20.7-cert3``); None when that is no
        release."""
        found = re.search(r"(\d+)\.(\d+)", version)
        return cls(int(found[1]), int(found[2])) if found else None

    def has(self, feature: Feature) -> bool:
        """A series that is not in the table has what came before it was begun: 23 all, 21 nothing."""
        if self.major in feature.since:
            return self.minor >= feature.since[self.major]
        return self.major > max(feature.since)

    def missing(self) -> list[str]:
        """What it has not yet, each with the release that has it."""
        return [
            f"{feature.what} ({self.major}.{feature.since[self.major]})"
            for feature in FEATURES
            if self.major in feature.since and not self.has(feature)
        ]
