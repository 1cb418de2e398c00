"""One prompt and one answer: text becomes sound in a media leg, sound in it becomes text.

``say`` ends when the caller has heard all of it, not when it was sent. ``hear`` ends when they stopped
speaking. Both end with CallEnded when the leg does; what is queued is dropped when ``say`` is cancelled or
fails.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from voxtractl.audio.leg import Leg
from voxtractl.audio.resample import Resampler
from voxtractl.runtime.endpointing import Endpointer, SpeechBegan, SpeechEnded
from voxtractl.runtime.speech.provider import EndedBy, SpeechToText, TextToSpeech, Transcript

__all__ = ["BargeIn", "Said", "VoiceBargeIn", "hear", "say", "sentences"]

BEFORE: Final = 0.3  # seconds kept before the first loud frame: many words begin softly (f, s, h)
AFTER: Final = 0.2  # seconds kept after the last loud one, for the same reason
TOGETHER: Final = 200  # characters; later sentences are asked for together up to this, for fewer seams
LONGEST: Final = 500  # characters of one request; a comma or a blank must do where no sentence ends

# A sentence ends with "!", "?", or a full stop after four letters: after fewer it may be that of "Dr." or
# "a.m.", and not to split costs only time.
_SENTENCE: Final = re.compile(
    r".+?(?:(?:\w{4}\.|[^\w\s]\.|[!?…])[\"'”’)\]]*(?=\s)|[。！？]|\n|\Z)",
    re.DOTALL,
)

BargeIn = asyncio.Event | Callable[[bytes], bool]


class Said(NamedTuple):
    """How a prompt ended. ``seconds`` were played; ``interrupted`` says that the caller cut in."""

    text: str
    seconds: float
    interrupted: bool


class VoiceBargeIn:
    """Cuts in on a prompt as soon as the caller speaks; ``heard`` is what they said so far, for
    ``hear(before=)``.

    ``onset`` seconds of speech ``margin`` dB above the noise are needed: more than the echo of the prompt on
    an ordinary line, and more than a cough.
    """

    def __init__(self, rate: int, *, onset: float = 0.2, margin: float = 15.0) -> None:
        self._ears = Endpointer(rate, onset=onset, margin=margin)
        self._keep = _bytes_of(onset + 2 * BEFORE, rate)
        self.heard = b""

    def __call__(self, pcm: bytes) -> bool:
        self.heard = (self.heard + pcm)[-self._keep :]
        return any(isinstance(event, SpeechBegan) for event in self._ears.feed(pcm))


# --- saying -----------------------------------------------------------------------------------------------


def sentences(text: str) -> Iterator[str]:
    """The text in parts to ask for one by one: the first sentence alone, so that it is heard early."""
    part, first = "", True
    for found in _SENTENCE.findall(text):
        for piece in _bounded(found.strip()):
            if part and (first or len(part) + len(piece) >= TOGETHER):
                yield part
                part, first = "", False
            part = f"{part} {piece}" if part else piece
    if part:
        yield part


def _bounded(sentence: str) -> Iterator[str]:
    while len(sentence) > LONGEST:
        at = sentence.rfind(", ", 0, LONGEST) + 1 or sentence.rfind(" ", 0, LONGEST)
        at = at if at > 0 else LONGEST
        yield sentence[:at]
        sentence = sentence[at:].strip()
    if sentence:
        yield sentence


async def say(leg: Leg, tts: TextToSpeech, text: str, *, barge_in: BargeIn | None = None) -> Said:
    """Say a text; returns when it has been heard, or as soon as the caller cuts in.

    ``barge_in`` is an event that somebody sets (a key was pressed), or a function that gets each piece of
    what the caller says meanwhile and returns True to cut in (``VoiceBargeIn``); ``say`` reads the leg then.
    What is queued is dropped at once. Raises SpeechUnavailable, or CallEnded when the leg has ended.
    """
    if isinstance(barge_in, asyncio.Event) and barge_in.is_set():
        return Said(text, 0.0, interrupted=True)
    prompt = _Prompt(leg, tts)
    speaking = asyncio.create_task(prompt.speak(text))
    cutting = asyncio.create_task(_cut_in(leg, barge_in))
    played = False
    try:
        await asyncio.wait((speaking, cutting), return_when=asyncio.FIRST_COMPLETED)
        (speaking if speaking.done() else cutting).result()  # either may have failed
        played = speaking.done()
    finally:
        # Before the task is cancelled: what its send() has in hand counts as dropped too.
        dropped = 0.0 if played else leg.clear()
        speaking.cancel()
        cutting.cancel()
        await asyncio.gather(speaking, cutting, return_exceptions=True)
    seconds = prompt.given / (2 * leg.rate) - dropped
    return Said(text, max(seconds, 0.0), interrupted=not played)


class _Prompt:
    def __init__(self, leg: Leg, tts: TextToSpeech) -> None:
        self._leg, self._tts = leg, tts
        self.given = 0  # bytes of sound, to the leg

    async def speak(self, text: str) -> None:
        resampler = Resampler(self._tts.rate, self._leg.rate)
        for part in sentences(text):
            pieces = self._tts.synthesize(part)
            try:
                async for pcm in pieces:
                    await self._send(resampler.feed(pcm))
            finally:
                # An interrupted generator would keep its connection until somebody collects it.
                close = getattr(pieces, "aclose", None)
                if close is not None:
                    await close()
        await self._send(resampler.flush())
        await self._leg.drained()

    async def _send(self, pcm: bytes) -> None:
        self.given += len(pcm)
        await self._leg.send(pcm)


async def _cut_in(leg: Leg, barge_in: BargeIn | None) -> None:
    if barge_in is None:
        await asyncio.get_running_loop().create_future()
    elif isinstance(barge_in, asyncio.Event):
        await barge_in.wait()
    else:
        while not barge_in(await leg.receive()):
            pass


# --- hearing ----------------------------------------------------------------------------------------------


async def hear(
    leg: Leg,
    stt: SpeechToText,
    *,
    timeout: float,
    silence: float = 0.8,
    most: float = 30.0,
    before: bytes = b"",
) -> Transcript:
    """What the caller says next.

    Waits at most ``timeout`` seconds for them to begin, and ends after ``silence`` seconds of quiet or
    ``most`` seconds of speech; the transcript's ``ended_by`` says which. It is empty when nobody spoke. What
    the leg received and nobody read (its last two seconds) counts, and ``before`` it what a barge-in has
    heard. Raises SpeechUnavailable, or CallEnded when the leg has ended: what was said before it is lost.
    """
    ended_by, pcm = await _utterance(leg, timeout, silence, most, before)
    if not pcm:
        return Transcript(ended_by=ended_by)
    words = await stt.transcribe(pcm, leg.rate)
    known = words if isinstance(words, Transcript) else Transcript(words)
    return Transcript(known, confidence=known.confidence, language=known.language, ended_by=ended_by)


async def _utterance(
    leg: Leg, timeout: float, silence: float, most: float, before: bytes
) -> tuple[EndedBy, bytes]:
    now = asyncio.get_running_loop().time
    ears = Endpointer(leg.rate, silence=silence)
    heard = _Heard(leg.rate)
    start: float | None = None
    last = 0.0  # the time at which they have spoken for long enough
    try:
        async with asyncio.timeout(timeout) as clock:
            pcm = before
            while True:
                heard.add(pcm)
                for event in ears.feed(pcm):
                    if isinstance(event, SpeechEnded):
                        return "silence", heard.between(event.start, event.end)
                    start, last = event.start, now() + most
                if start is None:
                    heard.forget()
                elif ears.seconds - start >= most:
                    return "most", heard.between(start, ears.seconds)
                else:
                    # A line that sends nothing while nobody speaks is silent too.
                    clock.reschedule(min(now() + silence, last))
                pcm = await leg.receive()
    except TimeoutError:
        if start is None:
            return "timeout", b""
        return "most" if now() >= last else "silence", heard.between(start, ears.seconds)


class _Heard:
    """Received sound that may be needed, by its seconds."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._keep = _bytes_of(2 * BEFORE, rate)  # an onset is shorter than BEFORE
        self._pcm = bytearray()
        self._gone = 0  # bytes that were forgotten

    def add(self, pcm: bytes) -> None:
        self._pcm += pcm

    def forget(self) -> None:
        """Nobody speaks yet: only a little is needed."""
        surplus = len(self._pcm) - self._keep
        if surplus > 0:
            del self._pcm[:surplus]
            self._gone += surplus

    def between(self, start: float, end: float) -> bytes:
        first = max(_bytes_of(start - BEFORE, self._rate) - self._gone, 0)
        return bytes(self._pcm[first : _bytes_of(end + AFTER, self._rate) - self._gone])


def _bytes_of(seconds: float, rate: int) -> int:
    return 2 * round(seconds * rate)
