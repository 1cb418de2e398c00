"""What a handler file of the library ``voxtra`` (0.3) imports, made of what is here.

``MODULES`` is the table: module → name → object; ``loading.py`` puts it where ``import`` finds it, when that
library is not installed. A name stands there only when it does on Asterisk what such a file expects of it;
docs/handlers.md says what is left out. New handlers import ``voxtractl`` and need nothing of this.

The classes say what differs: other names for the same, and where that library means something else by a name
of ours (``number``, ``send_audio``, ``sink``), its meaning.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from uuid import uuid4

import voxtractl
from voxtractl import errors
from voxtractl.ari import client, requests, resources
from voxtractl.audio.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm
from voxtractl.audio.resample import Resampler
from voxtractl.runtime import app, session
from voxtractl.runtime.app import Handler, HubClient, checked_handler
from voxtractl.runtime.digits import Collected
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.lifecycle import Direction, Ended
from voxtractl.runtime.router import Route
from voxtractl.runtime.session import CallState
from voxtractl.runtime.sounds import Played

if TYPE_CHECKING:
    from voxtractl.audio.leg import Leg

__all__ = [
    "MODULES",
    "ARIClient",
    "AudioChunk",
    "AudioCodec",
    "AudioSocketConnection",
    "Bridge",
    "CallSession",
    "Channel",
    "CompositeSink",
    "LocalFileSink",
    "Playback",
    "RecordingMetadata",
    "RecordingSink",
    "Router",
    "VoxtraApp",
    "convert_audio",
]

log = logging.getLogger(__name__)

H = TypeVar("H", bound=Handler)

RATE: Final = 8000  # of all sound there: µ-law as the line has it
RECORDINGS: Final = "/var/spool/asterisk/recording"  # where Asterisk keeps them unless it is told otherwise


# --- sound ------------------------------------------------------------------------------------------------


class AudioCodec(StrEnum):
    ULAW = "ulaw"
    ALAW = "alaw"
    PCM_S16LE = "pcm_s16le"


@dataclass(kw_only=True)
class AudioChunk:
    """A piece of sound."""

    data: bytes = b""
    sample_rate: int = RATE
    channels: int = 1
    codec: AudioCodec = AudioCodec.ULAW
    timestamp_ms: float = 0.0
    duration_ms: float = 20.0
    sequence: int = 0

    @property
    def n_samples(self) -> int:
        return len(self.data) // (2 if self.codec == AudioCodec.PCM_S16LE else 1)

    @property
    def is_empty(self) -> bool:
        return not self.data


_TO_PCM: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    AudioCodec.ULAW: ulaw_to_pcm,
    AudioCodec.ALAW: alaw_to_pcm,
    AudioCodec.PCM_S16LE: bytes,
}
_OF_PCM: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    AudioCodec.ULAW: pcm_to_ulaw,
    AudioCodec.ALAW: pcm_to_alaw,
    AudioCodec.PCM_S16LE: bytes,
}


def convert_audio(data: bytes, *, from_codec: AudioCodec, to_codec: AudioCodec) -> bytes:
    return data if from_codec == to_codec else _OF_PCM[to_codec](_TO_PCM[from_codec](data))


class AudioSocketConnection:
    """The sound of a call in chunks: µ-law at 8000 Hz comes, any codec of AudioCodec goes."""

    __slots__ = ("_leg", "_resamplers")  # a hook that is hung on it and never called is a fault

    codec: Final = AudioCodec.ULAW
    sample_rate: Final = RATE

    def __init__(self, leg: "Leg") -> None:
        self._leg = leg
        self._resamplers: dict[int, Resampler] = {}

    async def receive(self) -> AsyncIterator[AudioChunk]:
        number = 0
        async for pcm in self._leg:
            ulaw = pcm_to_ulaw(pcm)
            milliseconds = 1000 * len(ulaw) / RATE
            yield AudioChunk(data=ulaw, duration_ms=milliseconds, sequence=number)
            number += 1

    async def send(self, chunk: AudioChunk) -> None:
        """Another rate than 8000 Hz needs soxr (``voxtractl[speech]``)."""
        rate = chunk.sample_rate
        if rate not in self._resamplers:
            self._resamplers[rate] = Resampler(rate, RATE)
        await self._leg.send(self._resamplers[rate].feed(_TO_PCM[chunk.codec](chunk.data)))

    async def send_bytes(self, data: bytes) -> None:
        await self.send(AudioChunk(data=data))

    async def close(self) -> None:
        await self._leg.close()

    @property
    def is_closed(self) -> bool:
        return self._leg.closed


# --- recordings -------------------------------------------------------------------------------------------


@dataclass
class RecordingMetadata:
    """A recording that ended. ``file_path`` is where an Asterisk with default folders has it."""

    session_id: str
    name: str
    file_path: str = ""
    duration_seconds: float | None = None
    format: str = "wav"
    extra: dict[str, Any] = field(default_factory=dict)


class RecordingSink(ABC):
    """Told of every recording that ended."""

    @abstractmethod
    async def on_recording_complete(self, metadata: RecordingMetadata) -> None: ...


class LocalFileSink(RecordingSink):
    """Leaves it where it is, and says so in the log."""

    def __init__(self, base_dir: object = RECORDINGS) -> None:
        self.base_dir = base_dir

    async def on_recording_complete(self, metadata: RecordingMetadata) -> None:
        log.info("recorded: %s/%s.%s", self.base_dir, metadata.name, metadata.format)


class CompositeSink(RecordingSink):
    """Tells several; what one raises goes to the log and the others are told all the same."""

    def __init__(self, *sinks: RecordingSink) -> None:
        self.sinks = list(sinks)

    async def on_recording_complete(self, metadata: RecordingMetadata) -> None:
        for sink in self.sinks:
            await _tell(sink, metadata)


async def _tell(sink: RecordingSink, metadata: RecordingMetadata) -> None:
    try:
        await sink.on_recording_complete(metadata)
    except Exception:  # a user's code; the call goes on
        log.exception("a recording sink failed for %s", metadata.name)


# --- calls ------------------------------------------------------------------------------------------------


class CallSession(session.CallSession):
    """A call of an app of that library. Its sound is µ-law in chunks; its verbs wait as ours do."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._told: dict[
            str, tuple[RecordingSink, str, float]
        ] = {}  # by recording: (who is told, format, begin)
        self._socket: AudioSocketConnection | None = None

    @property
    def app_name(self) -> str:
        return self.app

    async def play_file(self, filename: str, lang: str = "", *, wait: bool = True) -> Played:
        return await super().play_file(filename, lang, wait=wait)

    async def listen_dtmf(
        self, max_digits: int = 1, timeout: float = 10.0, *, terminator: str = "#", flush: bool = False
    ) -> Collected:
        return await super().listen_dtmf(max_digits, timeout, terminator=terminator, flush=flush)

    async def stop_playback(self, playback_id: str) -> None:
        """Stop a sound that was begun over ``app.ari``; ``stop()`` stops all of the call."""
        self._channel.check("stop_playback")
        await self._sounds.end(playback_id, [f"playback {playback_id}"])

    async def transfer_to(self, extension: str) -> Ended:  # type: ignore[override]
        """To a phone of this Asterisk (``1000`` is PJSIP/1000), an endpoint, or a number with a plus."""
        direct = "/" in extension or extension.startswith("+")
        return await self.transfer(extension if direct else f"PJSIP/{extension}")

    async def open_audio_socket(self) -> AudioSocketConnection:
        if self._socket is None or self._socket.is_closed:
            self._socket = AudioSocketConnection(await self.open_leg(RATE))
        return self._socket

    async def audio_stream(self) -> AsyncIterator[AudioChunk]:  # type: ignore[override]
        connection = await self.open_audio_socket()
        async for chunk in connection.receive():
            yield chunk

    async def send_audio(self, chunk: AudioChunk) -> None:  # type: ignore[override]
        await (await self.open_audio_socket()).send(chunk)

    async def send_audio_bytes(self, data: bytes) -> None:
        """µ-law at 8000 Hz."""
        await self.send_audio(AudioChunk(data=data))

    async def record_start(  # type: ignore[override]
        self, name: str = "", fmt: str = "wav", *, sink: RecordingSink | None = None
    ) -> str:
        """``sink``, or the app's ``recording_sink``, is told when the recording or the call ends."""
        name = await super().record_start(name, fmt)
        sink = sink or cast("VoxtraApp", self._taker).recording_sink
        if sink is not None:
            if not self._told:
                self.on_hangup(self._tell_all)
            self._told[name] = (sink, fmt, monotonic())
        return name

    async def record_stop(self) -> str | None:  # type: ignore[override]
        """End the last recording and return its name; None when nothing is being recorded."""
        if self._recordings.last is None:
            return None
        recorded = await super().record_stop()
        await self._tell_sink(recorded.name)
        return recorded.name

    async def _tell_all(self) -> None:
        for name in list(self._told):
            await self._tell_sink(name)

    async def _tell_sink(self, name: str) -> None:
        if name in self._told:
            sink, fmt, begin = self._told.pop(name)
            path = f"{RECORDINGS}/{name}.{fmt}"
            await _tell(sink, RecordingMetadata(self.id, name, path, monotonic() - begin, fmt))


# --- Asterisk itself --------------------------------------------------------------------------------------


class Channel(resources.Channel):
    """With the names that library has for what is told of a channel."""

    __slots__ = ()
    dialplan_context = resources.Channel.context
    dialplan_exten = resources.Channel.exten
    dialplan_priority = resources.Channel.priority
    creationtime = resources.Channel.created


class Bridge(resources.Bridge):
    __slots__ = ()
    bridge_type = resources.Bridge.type


class Playback(resources.Playback):
    __slots__ = ()
    media_uri = resources.Playback.media
    target_uri = resources.Playback.target


class _Verbs(client.ARIClient):
    """Requests by name; ours are values of ``ari/requests.py`` that ``request`` sends."""

    app_name: str  # where an answered channel goes that is not told a place in the dialplan

    async def originate(  # type: ignore[override]
        self,
        endpoint: str,
        *,
        app: str | None = None,
        context: str | None = None,
        extension: str | None = None,
        priority: int | None = None,
        caller_id: str = "",
        timeout: float = 30,
        variables: Mapping[str, object] | None = None,
        channel_id: str | None = None,
    ) -> Channel:
        where: dict[str, Any] = {"app": app or self.app_name}
        if context is not None:
            where = {"context": context, "extension": extension or "s", "priority": priority or 1}
        made = await super().originate(
            endpoint,
            caller_id=caller_id,
            timeout=timeout,
            variables=variables,
            channel_id=channel_id,
            **where,
        )
        return Channel(*made)

    async def answer_channel(self, channel_id: str) -> None:
        await self.request(requests.answer(channel_id))

    async def hangup_channel(self, channel_id: str, reason: str = "normal") -> None:
        await self.request(requests.hangup(channel_id, reason))

    async def get_channel(self, channel_id: str) -> Channel:
        return Channel.of(await self.request(requests.channel(channel_id)))

    async def list_channels(self) -> list[Channel]:
        return [Channel.of(row) for row in await self.request(requests.channels())]

    async def set_channel_var(self, channel_id: str, variable: str, value: str) -> None:
        await self.request(requests.set_variable(channel_id, variable, value))

    async def send_dtmf(self, channel_id: str, dtmf: str) -> None:
        await self.request(requests.dtmf(channel_id, dtmf))

    async def moh_start(self, channel_id: str, moh_class: str = "default") -> None:
        await self.request(requests.moh_start(channel_id, moh_class))

    async def moh_stop(self, channel_id: str) -> None:
        await self.request(requests.moh_stop(channel_id))

    async def play_on_channel(self, channel_id: str, media: str, *, lang: str = "") -> Playback:
        request = requests.play(channel_id, uuid4().hex, media, lang=lang or None)
        return Playback.of(await self.request(request))

    async def stop_playback(self, playback_id: str) -> None:
        answer = await client.stop_playback(self.ask, playback_id)
        if answer.status >= 300:
            raise self.refused(requests.stop_playback(playback_id), answer)

    async def create_bridge(self, bridge_type: str = "mixing", name: str = "") -> Bridge:
        return Bridge.of(await self.request(requests.create_bridge(uuid4().hex, bridge_type, name)))

    async def add_to_bridge(self, bridge_id: str, channel_ids: Sequence[str]) -> None:
        await self.request(requests.add_to_bridge(bridge_id, channel_ids))

    async def remove_from_bridge(self, bridge_id: str, channel_ids: Sequence[str]) -> None:
        await self.request(requests.remove_from_bridge(bridge_id, channel_ids))

    async def destroy_bridge(self, bridge_id: str) -> None:
        await self.request(requests.destroy_bridge(bridge_id))

    async def stop_recording(self, recording_name: str) -> None:
        await self.request(requests.stop_recording(recording_name))

    async def list_modules(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.request(requests.modules())
        return found

    async def reload_module(self, module_name: str) -> None:
        await self.reload(module_name)


class _HubVerbs(_Verbs, HubClient):
    """What ``app.ari`` is under ``voxtractl run``."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop, app_name: str) -> None:
        super().__init__(hub, loop)
        self.app_name = app_name


class ARIClient(_Verbs):
    """A client of one's own. It has no event stream: calls are the app's."""

    def __init__(
        self,
        base_url: str,
        username: str,
        password: str,
        app_name: str = "voxtra",
        reconnect_interval: float = 5.0,
        max_reconnect_attempts: int = 0,
    ) -> None:
        super().__init__(base_url, username, password)
        self.app_name = app_name

    async def connect(self) -> dict[str, Any]:
        """Open, and return what Asterisk says of itself. Raises AriUnreachable or AriAuthFailed."""
        await self.open()
        found: dict[str, Any] = await self.request(requests.info())
        return found


# --- the app ----------------------------------------------------------------------------------------------


class Router:
    """Routes in the order they were made; the first that fits takes the call, else the default.

    ``extension`` is the number that was called. ``number`` is who calls, all whose number begins so when it
    ends with ``*``; a file that gives a number of the tenant's means the one that was called.
    """

    def __init__(self) -> None:
        self._routes: list[tuple[str | None, str | None, Route[Handler]]] = []
        self._default: Route[Handler] | None = None

    def route(
        self,
        *,
        extension: str | None = None,
        number: str | None = None,
        name: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Callable[[H], H]:
        def keep(handler: H) -> H:
            route: Route[Handler] = Route(
                checked_handler(handler), "exact", extension or number or name, metadata or {}
            )
            self._routes.append((extension, number, route))
            return handler

        return keep

    def default(self) -> Callable[[H], H]:
        def keep(handler: H) -> H:
            self._default = Route(checked_handler(handler), "default", "", {})
            return handler

        return keep

    def find(self, called: str, caller: str) -> Route[Handler] | None:
        for extension, number, route in self._routes:
            if extension is not None:
                fits = _plain(extension) == _plain(called)
            elif number is not None and number.endswith("*"):
                fits = caller.startswith(number[:-1])
            else:
                fits = number is not None and _plain(number) in (_plain(caller), _plain(called))
            if fits:
                return route
        return self._default


def _plain(number: str) -> str:
    return number.removeprefix("+")


class VoxtraApp(app.VoxtraApp):
    """An app as that library has it. ``reconnect_interval`` and ``debug`` have no meaning here; ``tts`` and
    ``stt`` take speech of ours."""

    session_type = CallSession

    def __init__(
        self,
        ari_url: str = "",
        ari_user: str = "",
        ari_password: str = "",
        *,
        app_name: str = "voxtra",
        reconnect_interval: float = 5.0,
        debug: bool = False,
        router: Router | None = None,
        recording_sink: RecordingSink | None = None,
        **ours: Any,
    ) -> None:
        super().__init__(ari_url, ari_user, ari_password, app_name, **ours)
        self.router = router or Router()  # type: ignore[assignment]  # it has other rules
        self.recording_sink = recording_sink
        log.debug("not used here: reconnect_interval=%s, debug=%s", reconnect_interval, debug)

    @classmethod
    def with_asterisk(
        cls, *, ari_url: str, ari_user: str, ari_password: str, app_name: str = "voxtra", **more: Any
    ) -> "VoxtraApp":
        return cls(ari_url, ari_user, ari_password, app_name=app_name, **more)

    def route(  # type: ignore[override]
        self,
        *,
        extension: str | None = None,
        number: str | None = None,
        name: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Callable[[H], H]:
        return self._router.route(extension=extension, number=number, name=name, metadata=metadata)

    def default(self) -> Callable[[H], H]:
        return self._router.default()

    default_route = default

    def on_call(
        self, func: Handler | None = None, *, extension: str | None = None, number: str | None = None
    ) -> Any:
        """``@app.on_call`` is the default, with ``extension`` or ``number`` a route."""
        whole = extension is None and number is None
        keep = self.default() if whole else self.route(extension=extension, number=number)
        return keep if func is None else keep(func)

    @property
    def _router(self) -> Router:
        return cast("Router", self.router)

    def _route(self, call: session.CallSession) -> Route[Handler] | None:
        return self._router.find(call.called_number, call.caller_number)

    def _client(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> client.ARIClient:
        return _HubVerbs(hub, loop, self.app_name)

    def get_session(self, session_id: str) -> session.CallSession | None:
        return self.calls.get(session_id)

    @property
    def active_sessions(self) -> dict[str, session.CallSession]:
        return dict(self.calls)

    @property
    def is_running(self) -> bool:
        return bool(self._hubs)

    async def run_async(self) -> None:
        """As ``run()``: under ``voxtractl run`` it returns at once."""
        await self.start()


# --- the table --------------------------------------------------------------------------------------------

_RECORDING: Final = {
    "RecordingSink": RecordingSink,
    "RecordingMetadata": RecordingMetadata,
    "LocalFileSink": LocalFileSink,
    "CompositeSink": CompositeSink,
}
_CODEC: Final = {
    "convert_audio": convert_audio,
    "ulaw_to_pcm": ulaw_to_pcm,
    "pcm_to_ulaw": pcm_to_ulaw,
    "alaw_to_pcm": alaw_to_pcm,
    "pcm_to_alaw": pcm_to_alaw,
}
# Who catches one of these catches what is raised here in its place.
_EXCEPTIONS: Final = {
    "VoxtraError": errors.VoxtractlError,
    "TelephonyError": errors.VoxtractlError,  # what any refused verb raises: a CallError or an AriError
    "TelephonyConnectionError": errors.AriUnreachable,
    "CallError": errors.CallError,
    "SessionError": errors.CallError,
    "MediaError": errors.MediaFailed,
    "AudioSocketError": errors.MediaFailed,
    "CodecError": errors.LocalProtocolError,
    "ConfigurationError": errors.ConfigError,
    "ProviderError": errors.SpeechUnavailable,
    "STTError": errors.SpeechUnavailable,
    "TTSError": errors.SpeechUnavailable,
}

MODULES: Final[Mapping[str, Mapping[str, object]]] = {
    "voxtra": {
        "VoxtraApp": VoxtraApp,
        "CallSession": CallSession,
        "ARIClient": ARIClient,
        "AudioChunk": AudioChunk,
        **_RECORDING,
        "__version__": voxtractl.__version__,
    },
    "voxtra.app": {"VoxtraApp": VoxtraApp},
    "voxtra.session": {"CallSession": CallSession},
    "voxtra.router": {"Router": Router},
    "voxtra.types": {
        "AudioChunk": AudioChunk,
        "AudioCodec": AudioCodec,
        "CallDirection": Direction,
        "CallHandler": Handler,
        "CallState": CallState,
    },
    "voxtra.exceptions": _EXCEPTIONS,
    "voxtra.recording": _RECORDING,
    "voxtra.recording.sinks": _RECORDING,
    "voxtra.audio": {name: _CODEC[name] for name in ("convert_audio", "ulaw_to_pcm", "pcm_to_ulaw")},
    "voxtra.audio.codec": _CODEC,
    "voxtra.audio.socket": {"AudioSocketConnection": AudioSocketConnection},
    "voxtra.ari": {"ARIClient": ARIClient, "Bridge": Bridge, "Channel": Channel, "Playback": Playback},
    "voxtra.ari.client": {"ARIClient": ARIClient},
    "voxtra.ari.models": {"Bridge": Bridge, "Channel": Channel, "Playback": Playback},
}
