"""A process that recognises speech for ``local.PocketsphinxRecognizer``: run as a file, never imported by it.

pocketsphinx keeps Python's lock while it works: in a thread 3 s of speech stop every other call for 260 ms
(measured, docs/decisions/0008). This file imports nothing of voxtractl, so it starts as fast as its library.

    argument    the decoder's options as JSON
    stdin       length (4 bytes, little endian), then so many bytes of 16 kHz PCM; again until its end
    stdout      one line of JSON for the start and for each: {"text": "…"} or {"error": "…"}
"""

import json
import os
import struct
import sys

__all__ = ["main"]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever the library prints is no answer

    def answer(**told: str) -> None:
        print(json.dumps(told), file=answers, flush=True)

    try:
        from pocketsphinx import Decoder  # type: ignore[import-untyped]

        decoder = Decoder(samprate=16000, loglevel="FATAL", **json.loads(sys.argv[1]))
    except (ImportError, RuntimeError, ValueError) as exc:
        answer(error=f"{type(exc).__name__}: {exc}")
        return
    answer(text="")
    asked = sys.stdin.buffer
    while len(head := asked.read(4)) == 4:
        pcm = asked.read(struct.unpack("<I", head)[0])
        # Else what it learned from one speaker colours the next: the same sound gave other words (measured).
        decoder.reinit_feat()
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        guess = decoder.hyp()
        answer(text=guess.hypstr if guess is not None else "")


if __name__ == "__main__":
    main()
