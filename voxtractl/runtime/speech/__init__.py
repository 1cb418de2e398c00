"""Speech in calls: what a provider is, saying and hearing over a media leg, and the providers.

    provider.py     TextToSpeech, SpeechToText, Transcript: what a provider must be; write your own
    talk.py         say() and hear(): one prompt, one answer
    openai.py       any server with the OpenAI audio API
    local.py        piper and pocketsphinx on this machine: pip install 'voxtractl[speech]'
    configured.py   a provider from one line of configuration

Nothing here imports a provider's library before it is used.
"""

from voxtractl.runtime.speech.configured import provider_of
from voxtractl.runtime.speech.local import PiperSpeech, PocketsphinxRecognizer
from voxtractl.runtime.speech.openai import OpenAISpeech
from voxtractl.runtime.speech.provider import SpeechToText, TextToSpeech, Transcript
from voxtractl.runtime.speech.talk import Said, VoiceBargeIn, hear, say

__all__ = [
    "OpenAISpeech",
    "PiperSpeech",
    "PocketsphinxRecognizer",
    "Said",
    "SpeechToText",
    "TextToSpeech",
    "Transcript",
    "VoiceBargeIn",
    "hear",
    "provider_of",
    "say",
]
