"""One line of configuration becomes a provider, or an error that names the known forms and no secret."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.errors import SettingsError, SpeechUnavailable
from voxtractl.runtime.speech import OpenAISpeech, PiperSpeech, PocketsphinxRecognizer, provider_of
from voxtractl.runtime.speech.configured import FORMS

KEY = "sk-canary-4711"


def test_a_server_with_its_model_and_voice() -> None:
    provider = provider_of(
        "openai+https://api.example.net:8443/v1?model=tts-1&voice=alloy&format=wav&timeout=3.5"
    )
    assert isinstance(provider, OpenAISpeech)
    assert provider.url == "https://api.example.net:8443/v1"
    assert repr(provider) == "OpenAISpeech('https://api.example.net:8443/v1', model='tts-1', voice='alloy')"
    assert (provider._format, provider._timeout) == ("wav", 3.5)


def test_its_key_from_a_variable_or_a_file_beside_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECH_KEY", KEY)
    (tmp_path / "speech.key").write_text(KEY + "\n")
    for where in ("key_env=SPEECH_KEY", "key_file=speech.key"):
        provider = provider_of(f"openai+http://127.0.0.1:8000/v1?model=m&{where}", base=tmp_path)
        assert isinstance(provider, OpenAISpeech)
        assert provider._api_key is not None
        assert provider._api_key.reveal() == KEY
        assert KEY not in repr(provider)


def test_a_key_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="NO_SUCH_KEY is not set"):
        provider_of("openai+http://127.0.0.1:8000/v1?model=m&key_env=NO_SUCH_KEY")


async def test_the_local_ones() -> None:
    piper = provider_of("piper:")
    assert isinstance(piper, PiperSpeech)
    again = provider_of(f"piper:{piper.model}?variation=0")
    assert isinstance(again, PiperSpeech)
    assert again.model == piper.model
    assert isinstance(provider_of("pocketsphinx:"), PocketsphinxRecognizer)


def test_local_paths_are_seen_from_the_document(tmp_path: Path) -> None:
    (tmp_path / "answers.gram").write_text("#JSGF V1.0;")
    heard = provider_of("pocketsphinx:?jsgf=answers.gram", base=tmp_path)
    assert isinstance(heard, PocketsphinxRecognizer)
    assert heard._options == {"jsgf": str(tmp_path / "answers.gram")}
    with pytest.raises(SpeechUnavailable, match=r"voices/joe\.onnx does not exist") as told:
        provider_of("piper:voices/joe.onnx", base=tmp_path)
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "there is no such speech provider"),
        (KEY, "there is no such speech provider"),
        ("google:", "there is no such speech provider: google"),
        ("openai:", "there is no such speech provider: openai"),
        ("https://api.example.net/v1", "there is no such speech provider: https"),
        ("openai+https:///v1?model=m", "needs a host"),
        (f"openai+https://user:{KEY}@host/v1?model=m", "neither user nor password"),
        ("openai+https://host/v1", "needs a model"),
        ("openai+https://host/v1?model=m&format=mp3", "pcm and wav are known"),
        (
            f"openai+https://host/v1?model=m&api_key={KEY}",
            "no option 'api_key'; known: format, key_env, key_file",
        ),
        ("openai+https://host/v1?model=m&model=n", "an option twice"),
        ("openai+https://host/v1?model=m&timeout=soon", "timeout is no number"),
        ("openai+https://host/v1?model=m&timeout=nan", "not between 0 and 600"),
        ("openai+https://host/v1?model=m&timeout=-1", "not between 0 and 600"),
        ("openai+https://host:port/v1?model=m", "not written like a URL"),
        ("openai+https://[host/v1?model=m", "not written like a URL"),
        ("openai+https://host/v1?model", "not written like a URL"),
        ("piper://host/voice.onnx", "there is no such speech provider: piper"),
        ("piper:?speed=2", "no option 'speed'"),
        ("pocketsphinx:/path", "there is no such speech provider: pocketsphinx"),
    ],
)
def test_a_line_that_is_none_names_the_known_forms(line: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as told:
        provider_of(line)
    assert sentence in str(told.value)
    assert all(form in (told.value.hint or "") for form in FORMS)
    assert KEY not in f"{told.value} {told.value.hint} {told.value.details}"


@given(
    st.sampled_from(["", "openai+https://", "openai+http://h/v1?", "piper:", "pocketsphinx:"]),
    st.text(max_size=40),
)
def test_any_line_is_a_provider_or_a_clear_refusal(head: str, rest: str) -> None:
    try:
        provider = provider_of(head + rest)
    except (SettingsError, SpeechUnavailable) as exc:
        told: object = exc.hint
    else:
        told = provider
    assert told
