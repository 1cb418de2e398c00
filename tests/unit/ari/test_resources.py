"""Resources from what Asterisk 22.10.1 sent, from less and from more."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari.resources import Bridge, Channel, Playback, StoredRecording

# As Asterisk sent it.
CHANNEL: dict[str, Any] = {
    "id": "fd1aea603959bc8fca568098e1d81e81",
    "name": "Local/talk@ari-test-000000c3;1",
    "state": "Up",
    "protocol_id": "",
    "caller": {"name": "N", "number": "12"},
    "connected": {"name": "", "number": "34"},
    "accountcode": "",
    "dialplan": {
        "context": "ari-test",
        "exten": "talk",
        "priority": 1,
        "app_name": "Stasis",
        "app_data": "desk,a",
    },
    "creationtime": "2026-11-24T15:13:56.016+0000",
    "language": "en",
}


def test_a_channel() -> None:
    assert Channel.of(CHANNEL | {"invented": {"later": 1}}) == Channel(
        id="fd1aea603959bc8fca568098e1d81e81",
        name="Local/talk@ari-test-000000c3;1",
        state="Up",
        caller_number="12",
        caller_name="N",
        connected_number="34",
        context="ari-test",
        exten="talk",
        priority=1,
        app="Stasis",
        app_data="desk,a",
        created="2026-11-24T15:13:56.016+0000",
        language="en",
    )


def test_a_bridge() -> None:
    sent = {"id": "b", "name": "n", "bridge_type": "mixing", "technology": "softmix", "channels": ["x", "y"]}
    assert Bridge.of(sent) == Bridge("b", "n", "mixing", "softmix", channels=("x", "y"))


def test_a_playback_and_a_recording() -> None:
    sent = {
        "id": "p",
        "media_uri": "sound:x",
        "target_uri": "channel:c",
        "language": "en",
        "state": "playing",
    }
    assert Playback.of(sent) == Playback("p", "sound:x", "channel:c", "playing", "en")
    assert StoredRecording.of({"name": "r", "format": "wav"}) == StoredRecording("r", "wav")


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = sorted({*CHANNEL, "bridge_type", "channels", "media_uri", "format", "technology"})


@pytest.mark.parametrize("read", [Channel.of, Bridge.of, Playback.of, StoredRecording.of])
@given(sent=st.dictionaries(st.sampled_from(keys), json))
def test_any_object_can_be_read(
    read: Callable[[dict[str, Any]], tuple[Any, ...]], sent: dict[str, Any]
) -> None:
    assert isinstance(read(sent)[0], str)
