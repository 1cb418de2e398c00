"""The events of ARI, and where in them channels, bridges, playbacks, recordings stand. Pure.

Made from Asterisk's own api-docs by ``tests/tools/ari_events.py``; change that and run it again:
``python -m tests.tools.ari_events URL USER PASSWORD-FILE``. The shapes are for the type checker, which knows
an event by its ``type``; at run time an event is the dict that came out of the JSON.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, NotRequired, TypeAlias, TypedDict

__all__ = [
    "PLACES",
    "AdditionalParam",
    "ApplicationMoveFailed",
    "ApplicationRegistered",
    "ApplicationReplaced",
    "ApplicationUnregistered",
    "Bridge",
    "BridgeAttendedTransfer",
    "BridgeBlindTransfer",
    "BridgeCreated",
    "BridgeDestroyed",
    "BridgeMerged",
    "BridgeVideoSourceChanged",
    "CallBroadcast",
    "CallClaimed",
    "CallerID",
    "Channel",
    "ChannelCallerId",
    "ChannelConnectedLine",
    "ChannelCreated",
    "ChannelDestroyed",
    "ChannelDialplan",
    "ChannelDtmfReceived",
    "ChannelEnteredBridge",
    "ChannelHangupRequest",
    "ChannelHold",
    "ChannelLeftBridge",
    "ChannelStateChange",
    "ChannelTalkingFinished",
    "ChannelTalkingStarted",
    "ChannelToneDetected",
    "ChannelTransfer",
    "ChannelUnhold",
    "ChannelUserevent",
    "ChannelVarset",
    "ContactInfo",
    "ContactStatusChange",
    "DeviceState",
    "DeviceStateChanged",
    "Dial",
    "DialplanCEP",
    "Endpoint",
    "EndpointStateChange",
    "Event",
    "LiveRecording",
    "Peer",
    "PeerStatusChange",
    "Places",
    "Playback",
    "PlaybackContinuing",
    "PlaybackFinished",
    "PlaybackStarted",
    "RESTResponse",
    "RecordingFailed",
    "RecordingFinished",
    "RecordingStarted",
    "ReferTo",
    "ReferredBy",
    "RequiredDestination",
    "StasisEnd",
    "StasisStart",
    "TextMessage",
    "TextMessageReceived",
    "channels_of",
]


class CallerID(TypedDict):
    name: str
    number: str


class DialplanCEP(TypedDict):
    context: str
    exten: str
    priority: int
    app_name: str
    app_data: str


class Channel(TypedDict):
    id: str
    protocol_id: str
    name: str
    state: str
    caller: CallerID
    connected: CallerID
    accountcode: str
    dialplan: DialplanCEP
    creationtime: str
    language: str
    channelvars: NotRequired[dict[str, Any]]
    caller_rdnis: NotRequired[str]
    tenantid: NotRequired[str]


class Bridge(TypedDict):
    id: str
    technology: str
    bridge_type: str
    bridge_class: str
    creator: str
    name: str
    channels: list[str]
    video_mode: NotRequired[str]
    video_source_id: NotRequired[str]
    creationtime: str
    bridgevars: NotRequired[dict[str, Any]]


class AdditionalParam(TypedDict):
    parameter_name: str
    parameter_value: str


class RequiredDestination(TypedDict):
    protocol_id: NotRequired[str]
    destination: NotRequired[str]
    additional_protocol_params: NotRequired[list[AdditionalParam]]


class ReferTo(TypedDict):
    requested_destination: RequiredDestination
    destination_channel: NotRequired[Channel]
    connected_channel: NotRequired[Channel]
    bridge: NotRequired[Bridge]


class ReferredBy(TypedDict):
    source_channel: Channel
    connected_channel: NotRequired[Channel]
    bridge: NotRequired[Bridge]


class Endpoint(TypedDict):
    technology: str
    resource: str
    state: NotRequired[str]
    channel_ids: list[str]


class ContactInfo(TypedDict):
    uri: str
    contact_status: str
    aor: str
    roundtrip_usec: NotRequired[str]


class DeviceState(TypedDict):
    name: str
    state: str


class Peer(TypedDict):
    peer_status: str
    cause: NotRequired[str]
    address: NotRequired[str]
    port: NotRequired[str]
    time: NotRequired[str]


class Playback(TypedDict):
    id: str
    media_uri: str
    next_media_uri: NotRequired[str]
    target_uri: str
    language: NotRequired[str]
    state: str


class LiveRecording(TypedDict):
    name: str
    format: str
    target_uri: str
    state: str
    duration: NotRequired[int]
    talking_duration: NotRequired[int]
    silence_duration: NotRequired[int]
    cause: NotRequired[str]


TextMessage = TypedDict(
    "TextMessage", {"from": str, "to": str, "body": str, "variables": NotRequired[dict[str, Any]]}
)


class _Event(TypedDict):
    asterisk_id: NotRequired[str]
    application: str
    timestamp: str


class ApplicationMoveFailed(_Event):
    type: Literal["ApplicationMoveFailed"]
    channel: Channel
    destination: str
    args: list[str]


class ApplicationRegistered(_Event):
    type: Literal["ApplicationRegistered"]


class ApplicationReplaced(_Event):
    type: Literal["ApplicationReplaced"]


class ApplicationUnregistered(_Event):
    type: Literal["ApplicationUnregistered"]


class BridgeAttendedTransfer(_Event):
    type: Literal["BridgeAttendedTransfer"]
    transferer_first_leg: Channel
    transferer_second_leg: Channel
    replace_channel: NotRequired[Channel]
    transferee: NotRequired[Channel]
    transfer_target: NotRequired[Channel]
    result: str
    is_external: bool
    transferer_first_leg_bridge: NotRequired[Bridge]
    transferer_second_leg_bridge: NotRequired[Bridge]
    destination_type: str
    destination_bridge: NotRequired[str]
    destination_application: NotRequired[str]
    destination_link_first_leg: NotRequired[Channel]
    destination_link_second_leg: NotRequired[Channel]
    destination_threeway_channel: NotRequired[Channel]
    destination_threeway_bridge: NotRequired[Bridge]


class BridgeBlindTransfer(_Event):
    type: Literal["BridgeBlindTransfer"]
    channel: Channel
    replace_channel: NotRequired[Channel]
    transferee: NotRequired[Channel]
    exten: str
    context: str
    result: str
    is_external: bool
    bridge: NotRequired[Bridge]


class BridgeCreated(_Event):
    type: Literal["BridgeCreated"]
    bridge: Bridge


class BridgeDestroyed(_Event):
    type: Literal["BridgeDestroyed"]
    bridge: Bridge


class BridgeMerged(_Event):
    type: Literal["BridgeMerged"]
    bridge: Bridge
    bridge_from: Bridge


class BridgeVideoSourceChanged(_Event):
    type: Literal["BridgeVideoSourceChanged"]
    bridge: Bridge
    old_video_source_id: NotRequired[str]


class CallBroadcast(_Event):
    type: Literal["CallBroadcast"]
    channel: Channel
    caller: NotRequired[str]
    called: NotRequired[str]


class CallClaimed(_Event):
    type: Literal["CallClaimed"]
    channel: Channel
    winner_app: str


class ChannelCallerId(_Event):
    type: Literal["ChannelCallerId"]
    caller_presentation: int
    caller_presentation_txt: str
    channel: Channel


class ChannelConnectedLine(_Event):
    type: Literal["ChannelConnectedLine"]
    channel: Channel


class ChannelCreated(_Event):
    type: Literal["ChannelCreated"]
    channel: Channel


class ChannelDestroyed(_Event):
    type: Literal["ChannelDestroyed"]
    cause: int
    cause_txt: str
    tech_cause: NotRequired[int]
    channel: Channel


class ChannelDialplan(_Event):
    type: Literal["ChannelDialplan"]
    channel: Channel
    dialplan_app: str
    dialplan_app_data: str


class ChannelDtmfReceived(_Event):
    type: Literal["ChannelDtmfReceived"]
    digit: str
    duration_ms: int
    channel: Channel


class ChannelEnteredBridge(_Event):
    type: Literal["ChannelEnteredBridge"]
    bridge: Bridge
    channel: NotRequired[Channel]


class ChannelHangupRequest(_Event):
    type: Literal["ChannelHangupRequest"]
    cause: NotRequired[int]
    tech_cause: NotRequired[int]
    soft: NotRequired[bool]
    channel: Channel


class ChannelHold(_Event):
    type: Literal["ChannelHold"]
    channel: Channel
    musicclass: NotRequired[str]


class ChannelLeftBridge(_Event):
    type: Literal["ChannelLeftBridge"]
    bridge: Bridge
    channel: Channel


class ChannelStateChange(_Event):
    type: Literal["ChannelStateChange"]
    channel: Channel


class ChannelTalkingFinished(_Event):
    type: Literal["ChannelTalkingFinished"]
    channel: Channel
    duration: int


class ChannelTalkingStarted(_Event):
    type: Literal["ChannelTalkingStarted"]
    channel: Channel


class ChannelToneDetected(_Event):
    type: Literal["ChannelToneDetected"]
    channel: Channel


class ChannelTransfer(_Event):
    type: Literal["ChannelTransfer"]
    state: NotRequired[str]
    refer_to: ReferTo
    referred_by: ReferredBy


class ChannelUnhold(_Event):
    type: Literal["ChannelUnhold"]
    channel: Channel


class ChannelUserevent(_Event):
    type: Literal["ChannelUserevent"]
    eventname: str
    channel: NotRequired[Channel]
    bridge: NotRequired[Bridge]
    endpoint: NotRequired[Endpoint]
    userevent: dict[str, Any]


class ChannelVarset(_Event):
    type: Literal["ChannelVarset"]
    variable: str
    value: str
    channel: NotRequired[Channel]


class ContactStatusChange(_Event):
    type: Literal["ContactStatusChange"]
    endpoint: Endpoint
    contact_info: ContactInfo


class DeviceStateChanged(_Event):
    type: Literal["DeviceStateChanged"]
    device_state: DeviceState


class Dial(_Event):
    type: Literal["Dial"]
    caller: NotRequired[Channel]
    peer: Channel
    forward: NotRequired[str]
    forwarded: NotRequired[Channel]
    dialstring: NotRequired[str]
    dialstatus: str


class EndpointStateChange(_Event):
    type: Literal["EndpointStateChange"]
    endpoint: Endpoint


class PeerStatusChange(_Event):
    type: Literal["PeerStatusChange"]
    endpoint: Endpoint
    peer: Peer


class PlaybackContinuing(_Event):
    type: Literal["PlaybackContinuing"]
    playback: Playback


class PlaybackFinished(_Event):
    type: Literal["PlaybackFinished"]
    playback: Playback


class PlaybackStarted(_Event):
    type: Literal["PlaybackStarted"]
    playback: Playback


class RESTResponse(_Event):
    type: Literal["RESTResponse"]
    transaction_id: str
    request_id: str
    status_code: int
    reason_phrase: str
    uri: str
    content_type: NotRequired[str]
    message_body: NotRequired[str]


class RecordingFailed(_Event):
    type: Literal["RecordingFailed"]
    recording: LiveRecording


class RecordingFinished(_Event):
    type: Literal["RecordingFinished"]
    recording: LiveRecording


class RecordingStarted(_Event):
    type: Literal["RecordingStarted"]
    recording: LiveRecording


class StasisEnd(_Event):
    type: Literal["StasisEnd"]
    channel: Channel


class StasisStart(_Event):
    type: Literal["StasisStart"]
    args: list[str]
    channel: Channel
    replace_channel: NotRequired[Channel]


class TextMessageReceived(_Event):
    type: Literal["TextMessageReceived"]
    message: TextMessage
    endpoint: NotRequired[Endpoint]


Event: TypeAlias = (
    ApplicationMoveFailed
    | ApplicationRegistered
    | ApplicationReplaced
    | ApplicationUnregistered
    | BridgeAttendedTransfer
    | BridgeBlindTransfer
    | BridgeCreated
    | BridgeDestroyed
    | BridgeMerged
    | BridgeVideoSourceChanged
    | CallBroadcast
    | CallClaimed
    | ChannelCallerId
    | ChannelConnectedLine
    | ChannelCreated
    | ChannelDestroyed
    | ChannelDialplan
    | ChannelDtmfReceived
    | ChannelEnteredBridge
    | ChannelHangupRequest
    | ChannelHold
    | ChannelLeftBridge
    | ChannelStateChange
    | ChannelTalkingFinished
    | ChannelTalkingStarted
    | ChannelToneDetected
    | ChannelTransfer
    | ChannelUnhold
    | ChannelUserevent
    | ChannelVarset
    | ContactStatusChange
    | DeviceStateChanged
    | Dial
    | EndpointStateChange
    | PeerStatusChange
    | PlaybackContinuing
    | PlaybackFinished
    | PlaybackStarted
    | RESTResponse
    | RecordingFailed
    | RecordingFinished
    | RecordingStarted
    | StasisEnd
    | StasisStart
    | TextMessageReceived
)


class Places(NamedTuple):
    """The keys of an event under which subjects of each kind stand; a dot goes one level down."""

    channels: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    playbacks: tuple[str, ...] = ()
    recordings: tuple[str, ...] = ()


# Channels that are merely members of a bridge are not listed: nothing happened to them.
PLACES: Final[Mapping[str, Places]] = {
    "ApplicationMoveFailed": Places(channels=("channel",)),
    "ApplicationRegistered": Places(),
    "ApplicationReplaced": Places(),
    "ApplicationUnregistered": Places(),
    "BridgeAttendedTransfer": Places(
        channels=(
            "transferer_first_leg",
            "transferer_second_leg",
            "replace_channel",
            "transferee",
            "transfer_target",
            "destination_link_first_leg",
            "destination_link_second_leg",
            "destination_threeway_channel",
        ),
        bridges=(
            "transferer_first_leg_bridge",
            "transferer_second_leg_bridge",
            "destination_threeway_bridge",
        ),
    ),
    "BridgeBlindTransfer": Places(channels=("channel", "replace_channel", "transferee"), bridges=("bridge",)),
    "BridgeCreated": Places(bridges=("bridge",)),
    "BridgeDestroyed": Places(bridges=("bridge",)),
    "BridgeMerged": Places(bridges=("bridge", "bridge_from")),
    "BridgeVideoSourceChanged": Places(bridges=("bridge",)),
    "CallBroadcast": Places(channels=("channel",)),
    "CallClaimed": Places(channels=("channel",)),
    "ChannelCallerId": Places(channels=("channel",)),
    "ChannelConnectedLine": Places(channels=("channel",)),
    "ChannelCreated": Places(channels=("channel",)),
    "ChannelDestroyed": Places(channels=("channel",)),
    "ChannelDialplan": Places(channels=("channel",)),
    "ChannelDtmfReceived": Places(channels=("channel",)),
    "ChannelEnteredBridge": Places(channels=("channel",), bridges=("bridge",)),
    "ChannelHangupRequest": Places(channels=("channel",)),
    "ChannelHold": Places(channels=("channel",)),
    "ChannelLeftBridge": Places(channels=("channel",), bridges=("bridge",)),
    "ChannelStateChange": Places(channels=("channel",)),
    "ChannelTalkingFinished": Places(channels=("channel",)),
    "ChannelTalkingStarted": Places(channels=("channel",)),
    "ChannelToneDetected": Places(channels=("channel",)),
    "ChannelTransfer": Places(
        channels=(
            "refer_to.destination_channel",
            "refer_to.connected_channel",
            "referred_by.source_channel",
            "referred_by.connected_channel",
        ),
        bridges=("refer_to.bridge", "referred_by.bridge"),
    ),
    "ChannelUnhold": Places(channels=("channel",)),
    "ChannelUserevent": Places(channels=("channel",), bridges=("bridge",)),
    "ChannelVarset": Places(channels=("channel",)),
    "ContactStatusChange": Places(),
    "DeviceStateChanged": Places(),
    "Dial": Places(channels=("caller", "peer", "forwarded")),
    "EndpointStateChange": Places(),
    "PeerStatusChange": Places(),
    "PlaybackContinuing": Places(playbacks=("playback",)),
    "PlaybackFinished": Places(playbacks=("playback",)),
    "PlaybackStarted": Places(playbacks=("playback",)),
    "RESTResponse": Places(),
    "RecordingFailed": Places(recordings=("recording",)),
    "RecordingFinished": Places(recordings=("recording",)),
    "RecordingStarted": Places(recordings=("recording",)),
    "StasisEnd": Places(channels=("channel",)),
    "StasisStart": Places(channels=("channel", "replace_channel")),
    "TextMessageReceived": Places(),
}

_NOWHERE: Final = Places()


def channels_of(event: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of the channels an event is about, each once, in the order of the table.

    A playback or a recording is about the channel it is played to or made of. An unknown type, and one that
    names no channel (a bridge, a device), gives none.
    """
    places = PLACES.get(event["type"], _NOWHERE)
    found = [_at(event, f"{place}.id") for place in places.channels]
    for place in places.playbacks + places.recordings:
        kind, _, target = _at(event, f"{place}.target_uri").partition(":")
        found.append(target if kind == "channel" else "")
    return tuple(dict.fromkeys(filter(None, found)))


def _at(event: Mapping[str, Any], path: str) -> str:
    """The text at a path; "" when something on the way is not there."""
    found: Any = event
    for key in path.split("."):
        if not isinstance(found, dict):
            return ""
        found = found.get(key)
    return found if isinstance(found, str) else ""
