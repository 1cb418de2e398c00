"""Sound from one rate to another, as it comes: soxr does it, and is loaded when it is needed first.

How long a sound stays inside and what it costs, of 20 ms (soxr 1.1, one core): LQ 40 to 61 ms and 3 to 4 µs,
HQ 73 to 155 ms and about the same. LQ passes all of what a telephone line does; HQ is for files.
"""

from typing import TYPE_CHECKING, Final, Literal

from voxtractl.errors import LocalProtocolError, SpeechUnavailable

if TYPE_CHECKING:
    from soxr import ResampleStream  # type: ignore[import-untyped]  # it ships no marker of its types

__all__ = ["Resampler"]

RATE_MIN: Final = 4000
RATE_MAX: Final = 192000


class Resampler:
    """One sound from ``from_rate`` to ``to_rate``, 16-bit little endian mono PCM in and out.

    Equal rates pass through and need no soxr. Raises SpeechUnavailable when soxr is needed and absent,
    LocalProtocolError for a rate that is no rate of speech.
    """

    def __init__(self, from_rate: int, to_rate: int, *, quality: Literal["LQ", "HQ"] = "LQ") -> None:
        for rate in (from_rate, to_rate):
            if not RATE_MIN <= rate <= RATE_MAX:
                raise LocalProtocolError(f"{rate} Hz is no rate of sound here ({RATE_MIN} to {RATE_MAX})")
        self.from_rate, self.to_rate = from_rate, to_rate
        self._half = b""  # of a sample
        self._stream = None if from_rate == to_rate else _stream(from_rate, to_rate, quality)

    def feed(self, pcm: bytes) -> bytes:
        """What is ready of the sound so far, maybe nothing. A piece may end anywhere, in a sample too."""
        pcm = self._half + pcm
        whole = len(pcm) & ~1
        self._half = pcm[whole:]
        return self._next(pcm[:whole], last=False)

    def flush(self) -> bytes:
        """The rest of the sound; what is fed afterwards is another one."""
        self._half = b""
        rest = self._next(b"", last=True)
        if self._stream is not None:
            self._stream.clear()
        return rest

    def _next(self, pcm: bytes, *, last: bool) -> bytes:
        if self._stream is None:
            return pcm
        import numpy

        samples = self._stream.resample_chunk(numpy.frombuffer(pcm, "<i2"), last=last)
        return bytes(samples.astype("<i2", copy=False).tobytes())


def _stream(from_rate: int, to_rate: int, quality: str) -> "ResampleStream":
    try:
        from soxr import ResampleStream
    except ImportError as exc:
        raise SpeechUnavailable(
            f"sound at {from_rate} Hz cannot be turned into {to_rate} Hz: soxr is not installed",
            hint="pip install 'voxtractl[speech]'",
        ) from exc
    return ResampleStream(from_rate, to_rate, 1, dtype="int16", quality=quality)
