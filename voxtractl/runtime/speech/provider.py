"""What speaks and what understands: two small protocols, and the text of somebody who spoke.

A provider is any object of this shape. It serves many calls at once on one event loop and never blocks it.
What it cannot do it says with SpeechUnavailable. One with a connection or a process to end has ``async
close()`` too; who made it closes it.
"""

from collections.abc import AsyncIterator
from typing import Literal, Protocol, Self, runtime_checkable

__all__ = ["EndedBy", "SpeechToText", "TextToSpeech", "Transcript"]

EndedBy = Literal["silence", "most", "timeout"]


class Transcript(str):
    """What somebody said: a ``str`` that knows more about itself. Empty when nothing was understood.

    ``confidence``  0 to 1, as the provider gives it; None when it gives none
    ``language``    as the provider gives it ("en", "english"); None when it gives none
    ``ended_by``    "silence": they stopped speaking; "most": they were cut off; "timeout": nobody spoke
    """

    confidence: float | None
    language: str | None
    ended_by: EndedBy

    def __new__(
        cls,
        text: str = "",
        *,
        confidence: float | None = None,
        language: str | None = None,
        ended_by: EndedBy = "silence",
    ) -> Self:
        self = super().__new__(cls, text)
        self.confidence, self.language, self.ended_by = confidence, language, ended_by
        return self


@runtime_checkable
class TextToSpeech(Protocol):
    """Speaks. ``rate`` is the samples a second of what ``synthesize`` gives."""

    @property
    def rate(self) -> int: ...

    def synthesize(self, text: str) -> AsyncIterator[bytes]:
        """Signed 16-bit little endian mono PCM in pieces of whole samples, the first as early as may be.

        Raises SpeechUnavailable, also after the first pieces.
        """
        ...


@runtime_checkable
class SpeechToText(Protocol):
    """Understands."""

    async def transcribe(self, pcm: bytes, rate: int) -> str:
        """The words in signed 16-bit little endian mono PCM of ``rate`` samples a second; a Transcript when
        more is known of them.

        Raises SpeechUnavailable.
        """
        ...
