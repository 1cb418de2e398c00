"""Speech from any server with the OpenAI audio API: their own, or one of yours (whisper.cpp, Speaches,
Kokoro).

    POST {url}/audio/speech          {"model", "voice", "input", "response_format"} → PCM or WAV as it is made
    POST {url}/audio/transcriptions  multipart: file (WAV), model, language         → {"text", "language"?}

Raw PCM of this API is 24 kHz, signed 16-bit little endian, mono, unless its Content-Type says another
``rate``; a WAV says its rate itself. Whatever goes wrong is a SpeechUnavailable with the URL and the status.
Answers of servers are never quoted: some repeat the key. Nothing is asked twice, because somebody is waiting
on the line, but for what met the end of a kept connection: the server closed it as the request was on its
way. Redirects are not followed, because the key would be.
"""

import asyncio
import io
import json
import re
import struct
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

from voxtractl.audio.resample import Resampler
from voxtractl.errors import SpeechUnavailable
from voxtractl.runtime.speech.provider import Transcript
from voxtractl.settings import Secret

if TYPE_CHECKING:
    from types import SimpleNamespace

    import aiohttp

__all__ = ["OpenAISpeech"]

PCM_RATE: Final = 24000  # of response_format "pcm"
ANSWER_MAX: Final = 1024 * 1024  # bytes of a transcription; a minute of speech is 1 kB
HEAD_MAX: Final = 64 * 1024  # bytes of a WAV before its sound; most are 44
PIECE: Final = 4800  # bytes read at once: 100 ms, so that the first sound comes early
SLOWEST: Final = 4.0  # seconds we wait for a second of sound; a caller hears gaps from 1 on
LONGEST: Final = 900  # seconds of one answer; the longest text OpenAI takes is 5 minutes
OURS: Final = frozenset(
    f"audio/{kind}" for kind in ("pcm", "x-pcm", "raw", "l16", "wav", "x-wav", "wave", "vnd.wave")
)
UNTYPED: Final = "application/octet-stream"
FOREIGN: Final = re.compile(rb"OggS|fLaC|ID3[\2-\4]")  # first bytes of what is no PCM
# And of an MP3, a page or JSON. Sound may begin so too, but seldom: with a bang.
RATHER: Final = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]|\s*(<[!?A-Za-z]|\{[\s\"}])")
RIFF_PCM: Final = (1, 0xFFFE)  # WAVE_FORMAT_PCM and EXTENSIBLE
RATES: Final = range(4000, 192001)

_HINTS: Final = {
    401: "check the API key",
    403: "check the API key and what it may do",
    404: "check the URL (it ends in /v1 as a rule) and the names of model and voice",
    429: "the provider limits requests: wait, or raise the account's limit",
}


class OpenAISpeech:
    """Speaks and understands through the OpenAI audio API at ``url`` (``https://api.openai.com/v1``).

    ``model`` is a model that speaks or one that understands, by what it is used for; ``voice`` is only needed
    to speak, ``language`` ("en") only helps to understand. ``timeout`` is seconds until the server must
    answer, and between two pieces of its answer. Serves any number of calls on one event loop over kept
    connections; ``await close()`` ends them. The first use after that opens new ones.
    """

    rate: Final = PCM_RATE

    def __init__(
        self,
        url: str,
        *,
        model: str,
        voice: str = "",
        language: str = "",
        api_key: Secret | None = None,
        response_format: Literal["pcm", "wav"] = "pcm",
        timeout: float = 10.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the URL of a speech server begins with http:// or https:// and a host")
        if "@" in parts.netloc or parts.query or parts.fragment:
            # It stands in every error; a key in it would too.
            raise ValueError("the URL of a speech server holds no password and no query")
        if api_key is not None and not (api_key.reveal().isascii() and api_key.reveal().isprintable()):
            raise ValueError("the API key holds a character that no HTTP header carries")
        self.url = url.rstrip("/")
        self._model, self._voice, self._language = model, voice, language
        self._api_key = api_key
        self._format = response_format
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"OpenAISpeech({self.url!r}, model={self._model!r}, voice={self._voice!r})"

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- speaking -----------------------------------------------------------------------------------------

    async def synthesize(self, text: str) -> AsyncIterator[bytes]:
        """PCM of 24 kHz, while the server makes it. Raises SpeechUnavailable, also in the middle."""
        import aiohttp

        url = f"{self.url}/audio/speech"
        body = {
            "model": self._model,
            "voice": self._voice,
            "input": text,
            "response_format": self._format,
        }
        try:
            async with self._post(url, lambda: {"json": body}) as answer:
                reader, pace = _Sound(answer.headers.get("Content-Type", UNTYPED)), _Pace(self._timeout)
                async for piece in answer.content.iter_chunked(PIECE):
                    pcm = reader.feed(piece)
                    pace.came(len(pcm))
                    if pcm:
                        yield pcm
                    pace.waits()
                rest = reader.end()
                if rest:
                    yield rest
                return
        except _NotSound as exc:
            what = str(exc)
        except TimeoutError:
            what = f"did not go on answering within {self._timeout:g} s"
        except aiohttp.ClientError as exc:
            what = f"the connection failed ({type(exc).__name__})"
        self._fail(url, what)  # out here, where it has no context: the foreign error shows the key

    # --- understanding ------------------------------------------------------------------------------------

    async def transcribe(self, pcm: bytes, rate: int) -> Transcript:
        """The words of a recording. Raises SpeechUnavailable."""
        import aiohttp

        url = f"{self.url}/audio/transcriptions"
        file = _wav(pcm, rate)

        def asked() -> dict[str, Any]:
            form = aiohttp.FormData()  # good for once
            form.add_field("file", file, filename="speech.wav", content_type="audio/wav")
            form.add_field("model", self._model)
            form.add_field("response_format", "json")
            if self._language:
                form.add_field("language", self._language)
            return {"data": form, "timeout": aiohttp.ClientTimeout(total=self._timeout)}

        body, what = bytearray(), ""
        try:
            async with self._post(url, asked) as answer:
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > ANSWER_MAX:
                        self._fail(url, f"answered with more than {ANSWER_MAX} bytes")
        except TimeoutError:
            what = f"did not answer within {self._timeout:g} s"
        except aiohttp.ClientError as exc:
            what = f"the connection failed ({type(exc).__name__})"
        if what:
            self._fail(url, what)  # out here, as above
        return self._words(url, body)

    def _words(self, url: str, body: bytes | bytearray) -> Transcript:
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            told = None  # the error of json holds the whole answer, so it goes no further
        if not isinstance(told, dict) or not isinstance(text := told.get("text"), str):
            self._fail(url, 'answered with something that is no JSON with "text"')
        language = told.get("language")
        return Transcript(text.strip(), language=language if isinstance(language, str) else None)

    # --- both ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _post(
        self, url: str, what: Callable[[], dict[str, Any]]
    ) -> "AsyncIterator[aiohttp.ClientResponse]":
        """A good answer. Raises SpeechUnavailable, aiohttp.ClientError, TimeoutError."""
        import aiohttp

        kept = {"kept": False}  # whether the connection is one that was used before
        post = partial(self._client().post, url, allow_redirects=False, trace_request_ctx=kept)
        try:
            answer = await post(**what())
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not kept["kept"]:
                raise
            answer = await post(**what())
        async with answer:
            self._check(url, answer)
            yield answer

    def _client(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._session is None:
            headers = {"Authorization": f"Bearer {self._api_key.reveal()}"} if self._api_key else {}
            # No total: a long prompt is read as slowly as it is played.
            times = aiohttp.ClientTimeout(total=None, connect=self._timeout, sock_read=self._timeout)
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_kept)
            self._session = aiohttp.ClientSession(headers=headers, timeout=times, trace_configs=[trace])
        return self._session

    def _check(self, url: str, answer: "aiohttp.ClientResponse") -> None:
        if answer.status == 200:
            return
        wait = answer.headers.get("Retry-After", "")
        later = f"; it asks to wait {wait} s" if wait.isascii() and wait.isdigit() and len(wait) < 6 else ""
        self._fail(url, f"answered with status {answer.status}{later}", status=answer.status)

    def _fail(self, url: str, what: str, *, status: int = 0) -> NoReturn:
        raise SpeechUnavailable(
            f"{url}: {what}",
            hint=_HINTS.get(status, "check that the server runs and what its log says"),
            details={"url": url, "status": status},
        )


async def _kept(_: object, context: "SimpleNamespace", __: object) -> None:
    context.trace_request_ctx["kept"] = True


def _wav(pcm: bytes, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm)
    return file.getvalue()


class _NotSound(Exception):
    """What the server sent is no sound we can play."""


class _Pace:
    """Whether sound comes in time, and ends; how slowly it is played is no fault of the server."""

    def __init__(self, timeout: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._left = timeout  # seconds we go on waiting
        self._sound = 0.0
        self._since = self._clock()

    def came(self, size: int) -> None:
        seconds = size / (2 * PCM_RATE)
        self._sound += seconds
        self._left += SLOWEST * seconds - (self._clock() - self._since)
        if self._left < 0:
            raise _NotSound(f"takes more than {SLOWEST:.0f} s for a second of sound")
        if self._sound > LONGEST:
            raise _NotSound(f"sent more than {LONGEST} s of sound")

    def waits(self) -> None:
        """From now on."""
        self._since = self._clock()


class _Sound:
    """Raw PCM or a WAV, told apart by the first bytes, in pieces of any size; gives PCM of 24 kHz.

    ``kind`` is what the server calls it (``audio/L16;rate=16000``). Its name only counts where it is not
    sound of ours: an MP3 played as PCM is a noise in somebody's ear. What it says of raw PCM is believed.
    """

    def __init__(self, kind: str) -> None:
        name, *more = kind.lower().replace('"', "").replace(" ", "").split(";")
        self._kind = name if "/" in name else UNTYPED
        self._told = dict(each.split("=", 1) for each in more if "=" in each)
        self._head = bytearray()  # not told apart yet, or a WAV's head
        self._resampler: Resampler | None = None  # None until the sound begins
        self._left = -1  # bytes of a WAV's sound to come; -1: until the end

    def feed(self, data: bytes) -> bytes:
        if self._resampler is None:
            self._head += data
            rate, at = self._begin()
            if not rate:
                return b""
            self._resampler = Resampler(rate, PCM_RATE)
            data = bytes(self._head[at:])
        if self._left >= 0:
            data = data[: self._left]
            self._left -= len(data)
        return self._resampler.feed(data)

    def end(self) -> bytes:
        if self._resampler is None:
            if self._head[:4] == b"RIFF"[: len(self._head)]:
                raise _NotSound("sent a WAV without sound" if self._head else "sent no sound")
            return b""
        if self._left > 0:
            raise _NotSound("sent a WAV that breaks off")
        return self._resampler.flush()

    def _begin(self) -> tuple[int, int]:
        """The rate of the sound and where it begins; rate 0 as long as its head is not whole."""
        head = self._head
        if len(head) < 4:
            return 0, 0
        if head[:4] != b"RIFF":
            untyped = self._kind == UNTYPED
            if FOREIGN.match(head) or (RATHER.match(head) if untyped else self._kind not in OURS):
                raise _NotSound(f"sent {self._kind} instead of PCM or WAV")
            return self._raw_rate(), 0
        at, rate = 12, 0
        while len(head) >= at + 8:
            name, size = struct.unpack_from("<4sI", head, at)
            if name == b"data":
                if not rate:
                    raise _NotSound("sent a WAV that does not say its format")
                # Who streams does not know the length yet and says 0 or about the largest number.
                self._left = size if 0 < size < 0x7FFF0000 else -1
                return rate, at + 8
            if name == b"fmt " and len(head) >= at + 24:
                kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, at + 8)
                if kind not in RIFF_PCM or channels != 1 or bits != 16 or rate not in RATES:
                    raise _NotSound(
                        f"sent a WAV of {channels} channels, {bits} bits, {rate} Hz, format {kind}"
                    )
            at += 8 + size + size % 2
        if len(head) > HEAD_MAX or at > HEAD_MAX:
            raise _NotSound("sent a WAV without sound")
        return 0, 0

    def _raw_rate(self) -> int:
        rate, channels = self._told.get("rate", str(PCM_RATE)), self._told.get("channels", "1")
        if not rate.isdecimal() or len(rate) > 6 or int(rate) not in RATES or channels != "1":
            raise _NotSound("sent PCM that is not one channel of 4000 to 192000 Hz")
        return int(rate)
