"""Where the ids of channels stand in events. The shapes are proven in tests/live/test_ari_events.py."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari.events import PLACES, channels_of

A, B, C = {"id": "a"}, {"id": "b"}, {"id": "c;2"}

EXAMPLES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"type": "StasisStart", "args": [], "channel": A}, ("a",)),
    ({"type": "StasisStart", "args": [], "channel": A, "replace_channel": B}, ("a", "b")),
    ({"type": "Dial", "dialstatus": "BUSY", "peer": B}, ("b",)),
    ({"type": "Dial", "dialstatus": "", "caller": A, "peer": B, "forwarded": C}, ("a", "b", "c;2")),
    ({"type": "Dial", "dialstatus": "", "caller": A, "peer": A}, ("a",)),
    ({"type": "ChannelUserevent", "eventname": "x", "userevent": {}, "bridge": {"id": "br"}}, ()),
    ({"type": "ChannelVarset", "variable": "GLOBAL", "value": "1"}, ()),
    ({"type": "BridgeDestroyed", "bridge": {"id": "br", "channels": ["a"]}}, ()),
    ({"type": "PlaybackFinished", "playback": {"id": "p", "target_uri": "channel:c;2"}}, ("c;2",)),
    ({"type": "PlaybackFinished", "playback": {"id": "p", "target_uri": "bridge:br"}}, ()),
    ({"type": "PlaybackFinished", "playback": {"id": "p", "target_uri": 7}}, ()),
    ({"type": "StasisEnd", "channel": {"id": None}}, ()),
    ({"type": "RecordingFailed", "recording": {"name": "r", "target_uri": "channel:a"}}, ("a",)),
    (
        {
            "type": "ChannelTransfer",
            "refer_to": {"requested_destination": {}, "destination_channel": B},
            "referred_by": {"source_channel": A},
        },
        ("b", "a"),
    ),
    ({"type": "InventedByAsterisk99", "channel": A}, ()),
]


@pytest.mark.parametrize(("event", "channels"), EXAMPLES)
def test_channels_of_an_event(event: dict[str, Any], channels: tuple[str, ...]) -> None:
    assert channels_of(event) == channels


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
fields = sorted({place.split(".")[0] for places in PLACES.values() for kind in places for place in kind})


@given(st.sampled_from(sorted(PLACES)), st.dictionaries(st.sampled_from(fields), json))
def test_no_event_is_too_odd_to_be_read(kind: str, rest: dict[str, Any]) -> None:
    assert isinstance(channels_of({**rest, "type": kind}), tuple)
