"""G.711, the two codecs of telephony: a byte a sample (µ-law, A-law) from and to signed 16-bit PCM.

Pure tables, made on the first use. They hold exactly what Asterisk's own hold, which differ from others at
the 508 samples on the edge of two µ-law steps (22.10.1, ``file convert`` of all 65,536 samples): Asterisk
looks up ``sample >> 2``, and each entry is that of the highest of its four samples (src/main/ulaw.c).
"""

from collections.abc import Callable
from functools import cache
from struct import unpack

from voxtractl.errors import LocalProtocolError

__all__ = ["alaw_to_pcm", "pcm_to_alaw", "pcm_to_ulaw", "ulaw_to_pcm"]


def ulaw_to_pcm(ulaw: bytes) -> bytes:
    """16-bit little endian PCM, two bytes a sample."""
    return _decode(ulaw, *_halves(_ulaw_sample))


def alaw_to_pcm(alaw: bytes) -> bytes:
    """16-bit little endian PCM, two bytes a sample."""
    return _decode(alaw, *_halves(_alaw_sample))


def pcm_to_ulaw(pcm: bytes) -> bytes:
    """µ-law of 16-bit little endian PCM. Raises LocalProtocolError for half a sample."""
    return _encode(pcm, _codes(_ulaw_code))


def pcm_to_alaw(pcm: bytes) -> bytes:
    """A-law of 16-bit little endian PCM. Raises LocalProtocolError for half a sample."""
    return _encode(pcm, _codes(_alaw_code))


# --- one sample (ITU-T G.711) ------------------------------------------------------------------------------


def _ulaw_sample(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + 132 << (code >> 4 & 7)) - 132
    return -magnitude if code & 0x80 else magnitude


def _ulaw_code(sample: int) -> int:
    sample |= 3  # the highest of four: see the top
    magnitude = min(abs(sample), 32635) + 132
    exponent = magnitude.bit_length() - 8
    code = exponent << 4 | magnitude >> exponent + 3 & 0x0F
    return ~(code | (0x80 if sample < 0 else 0)) & 0xFF


def _alaw_sample(code: int) -> int:
    code ^= 0x55
    exponent = code >> 4 & 7
    magnitude = (code & 0x0F) << 4 | 8
    if exponent:
        magnitude = magnitude + 0x100 << exponent - 1
    return magnitude if code & 0x80 else -magnitude


def _alaw_code(sample: int) -> int:
    magnitude = sample if sample >= 0 else ~sample
    exponent = max(magnitude.bit_length() - 8, 0)
    code = exponent << 4 | magnitude >> max(exponent, 1) + 3 & 0x0F
    return code ^ (0xD5 if sample >= 0 else 0x55)


# --- tables -------------------------------------------------------------------------------------------------


@cache
def _halves(sample: Callable[[int], int]) -> tuple[bytes, bytes]:
    """The low and the high byte of each of the 256 codes, for bytes.translate."""
    samples = [sample(code) & 0xFFFF for code in range(256)]
    return bytes(value & 0xFF for value in samples), bytes(value >> 8 for value in samples)


@cache
def _codes(code: Callable[[int], int]) -> bytes:
    """The code of each sample, by the sample as an unsigned number."""
    return bytes(code(value - 0x10000 if value & 0x8000 else value) for value in range(0x10000))


def _decode(codes: bytes, low: bytes, high: bytes) -> bytes:
    pcm = bytearray(2 * len(codes))
    pcm[::2] = codes.translate(low)
    pcm[1::2] = codes.translate(high)
    return bytes(pcm)


def _encode(pcm: bytes, codes: bytes) -> bytes:
    if len(pcm) % 2:
        raise LocalProtocolError(f"PCM of {len(pcm)} bytes has half a sample")
    return bytes(map(codes.__getitem__, unpack(f"<{len(pcm) // 2}H", pcm)))
