"""Tones as 16-bit little endian mono PCM, and what an ear says of them."""

import math
from struct import pack, unpack

__all__ = ["loudness", "pitch", "tone"]


def tone(hertz: float, seconds: float, rate: int, level: int = 8000) -> bytes:
    """A sine."""
    count = int(seconds * rate)
    step = 2 * math.pi * hertz / rate
    return pack(f"<{count}h", *(round(level * math.sin(step * n)) for n in range(count)))


def loudness(pcm: bytes) -> float:
    """The mean of the samples' magnitudes."""
    samples: tuple[int, ...] = unpack(f"<{len(pcm) // 2}h", pcm)
    return sum(map(abs, samples)) / max(len(samples), 1)


def pitch(pcm: bytes, rate: int) -> float:
    """Hertz of a tone, by its zero crossings upwards; 0 when there are not two."""
    samples: tuple[int, ...] = unpack(f"<{len(pcm) // 2}h", pcm)
    ups = [n for n in range(1, len(samples)) if samples[n - 1] < 0 <= samples[n]]
    return (len(ups) - 1) * rate / (ups[-1] - ups[0]) if len(ups) > 1 else 0.0
