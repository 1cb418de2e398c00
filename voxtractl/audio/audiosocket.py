"""The AudioSocket protocol as a table and a decoder: bytes in, frames out, no I/O.

    type (1 byte)  length of the payload (2 bytes, big endian)  payload

    type         payload                             Asterisk sends   we send
    0x00         none: hang up                       no: it closes    yes
    0x01         16 bytes: the UUID of the leg       once, first      no
    0x03         1 byte: a DTMF digit in ASCII       yes              no
    0x10 … 0x18  signed 16-bit mono, little endian   yes              yes
    0xFF         an error code, or nothing           reserved         no

The type of sound names its rate (``RATES``). Whatever else we sent would end the call (measured on Asterisk
22.10; src/res_audiosocket.c, ast_audiosocket_receive_frame_with_hangup), so ``encode`` makes only what the
table allows. Sound is little endian because Asterisk writes it in the byte order of its machine.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from voxtractl.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["FRAME_SECONDS", "RATES", "Decoder", "Frame", "Kind", "encode", "frame_bytes"]

FRAME_SECONDS: Final = 0.02  # what one frame of Asterisk lasts
LENGTH_MAX: Final = 0xFFFE  # of sound: the field holds 65,535, and a sample is two bytes

_HEADER: Final = 3
_UUID_BYTES: Final = 16


class Kind(IntEnum):
    """The types of the table."""

    HANGUP = 0x00
    UUID = 0x01
    DTMF = 0x03
    SLIN = 0x10
    SLIN12 = 0x11
    SLIN16 = 0x12
    SLIN24 = 0x13
    SLIN32 = 0x14
    SLIN44 = 0x15
    SLIN48 = 0x16
    SLIN96 = 0x17
    SLIN192 = 0x18
    ERROR = 0xFF


RATES: Final[Mapping[int, Kind]] = MappingProxyType(
    {
        8000: Kind.SLIN,
        12000: Kind.SLIN12,
        16000: Kind.SLIN16,
        24000: Kind.SLIN24,
        32000: Kind.SLIN32,
        44100: Kind.SLIN44,
        48000: Kind.SLIN48,
        96000: Kind.SLIN96,
        192000: Kind.SLIN192,
    }
)

# kind → the shortest and the longest payload that is accepted. Asterisk sends 20 ms; more than a second at
# once is somebody who fills our memory.
_ACCEPTED: Final[Mapping[int, tuple[int, int]]] = {
    Kind.HANGUP: (0, 0),
    Kind.UUID: (_UUID_BYTES, _UUID_BYTES),
    Kind.DTMF: (1, 1),
    Kind.ERROR: (0, 16),
    **{kind: (0, min(2 * rate, LENGTH_MAX)) for rate, kind in RATES.items()},
}
_KINDS: Final = {int(kind): kind for kind in Kind}  # Kind(number) takes five times as long
_SOUND: Final = frozenset(RATES.values())


class Frame(NamedTuple):
    """One frame; ``kind`` is a type of the table."""

    kind: Kind
    payload: bytes


def frame_bytes(rate: int) -> int:
    """Bytes of 20 ms of sound. Raises LocalProtocolError for a rate that AudioSocket has no type for."""
    if rate not in RATES:
        known = ", ".join(map(str, RATES))
        raise LocalProtocolError(f"there is no AudioSocket sound at {rate} Hz", hint=f"it has {known}")
    return rate // 50 * 2


def encode(kind: Kind, payload: bytes = b"") -> bytes:
    """A whole frame as it goes to Asterisk: a hangup, or sound of an even number of bytes, 2 to 65,534.

    Raises LocalProtocolError for all that Asterisk would end the call for.
    """
    if kind is Kind.HANGUP:
        if payload:
            raise LocalProtocolError("a hangup carries nothing")
    elif kind not in _SOUND:
        raise LocalProtocolError(f"only Asterisk sends frames of type 0x{kind:02x}")
    elif not payload or len(payload) > LENGTH_MAX or len(payload) % 2:
        raise LocalProtocolError(
            f"sound of {len(payload)} bytes is no frame: it needs whole samples, 2 to {LENGTH_MAX:,} bytes"
        )
    return b"%c%b%b" % (kind, len(payload).to_bytes(2, "big"), payload)


class Decoder:
    """Reads what Asterisk sends, in whatever pieces it comes.

    The first frame is the UUID and no other is; nothing follows a hangup. Bytes that break the rules are an
    error for ever, for the connection is of no use any more: the call that has frames from before them gives
    those and sets ``error``, every further call raises it.
    """

    def __init__(self) -> None:
        self.error: RemoteProtocolError | None = None
        self._left = bytearray()
        self._begun = False
        self._ended = False

    @property
    def waiting(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._left)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises RemoteProtocolError when an error is all there is."""
        frames: list[Frame] = []
        if self.error is None:
            try:
                self._read(data, frames)
            except RemoteProtocolError as error:
                self.error = error
                self._left.clear()
        if self.error is not None and not frames:
            raise self.error
        return frames

    def _read(self, data: bytes, frames: list[Frame]) -> None:
        left = self._left
        if left:
            left += data
            data = bytes(left)
        at, size = 0, len(data)
        while at < size:
            kind = self._allowed(data[at])
            body = at + _HEADER
            if size < body:
                break
            length = data[at + 1] << 8 | data[at + 2]
            least, most = _ACCEPTED[kind]
            if not least <= length <= most:
                raise RemoteProtocolError(
                    f"an AudioSocket frame of type 0x{kind:02x} has {length} bytes,"
                    f" not {least}{f' to {most}' if most > least else ''}"
                )
            if length % 2 and kind in _SOUND:
                raise RemoteProtocolError(f"AudioSocket sound of {length} bytes has half a sample")
            if size < body + length:
                break
            at = body + length
            frames.append(Frame(kind, data[body:at]))
            self._begun = True
            self._ended = kind is Kind.HANGUP
        left[:] = data[at:]

    def _allowed(self, number: int) -> Kind:
        """What this type is, if a frame of it may come now."""
        kind = _KINDS.get(number)
        if self._ended:
            raise RemoteProtocolError("something follows the hangup of an AudioSocket connection")
        if kind is None:
            raise RemoteProtocolError(f"0x{number:02x} is no type of an AudioSocket frame")
        if self._begun is (kind is Kind.UUID):
            raise RemoteProtocolError(
                "an AudioSocket connection names its UUID twice"
                if self._begun
                else f"an AudioSocket connection begins with type 0x{number:02x}, not with its UUID"
            )
        return kind
