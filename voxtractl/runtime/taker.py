"""What the hub and its calls need of whoever gets the calls of a Stasis app."""

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from voxtractl.audio.server import AudioServer
    from voxtractl.runtime.hub import Hub
    from voxtractl.runtime.media import Breaker
    from voxtractl.runtime.session import CallSession
    from voxtractl.runtime.speech import SpeechToText, TextToSpeech

__all__ = ["Taker"]


class Taker(Protocol):
    """Who gets the calls of a Stasis app: a VoxtraApp."""

    tenant: str | None
    session_type: type["CallSession"]  # what its calls are
    tts: "TextToSpeech | None"
    stt: "SpeechToText | None"
    media: str  # audiosocket or websocket
    breaker: "Breaker"
    blocked: bool  # its loop does not turn: it can take no call

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def take(self, call: "CallSession") -> None:
        """A new call; in the loop of the taker."""

    def adopt(self, call: "CallSession") -> None:
        """A call that was there before this process; in the loop of the taker."""

    def ended(self, call: "CallSession") -> None:
        """The call is over; in the loop of the taker."""

    async def audio_server(self) -> "AudioServer":
        """Where Asterisk brings the sound of its calls, begun when it is first needed; in the loop of the
        taker. Raises LocalProtocolError."""

    def take_leg(self) -> None:
        """One more media leg. Raises LimitReached; in the loop of the taker."""

    def give_leg(self, why: str = "") -> None:
        """A media leg is closed."""

    def keep(self, work: "asyncio.Future[Any]") -> None:
        """A hook of a call runs: wait for it before the end; in the loop of the taker."""

    async def call(
        self, endpoint: str, *, hub: "Hub", caller_id: str | None = None, timeout: float = 30.0
    ) -> "CallSession":
        """Call somebody for this taker."""
