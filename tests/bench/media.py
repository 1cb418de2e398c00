"""What the sound of many calls costs: AudioSocket legs on the real Asterisk, 50 frames a second each way.

Legs are bridged in pairs: one plays a sound, the other gives back what it hears. So each leg sends and
receives 50 frames a second through Asterisk. A process of its own: its CPU is that of our side alone.
"""

import json
from pathlib import Path
from typing import Final

from tests.bench import runs
from tests.bench.figures import Figure
from tests.bench.ground import Ground

__all__ = ["measure"]

LEGS: Final = (100, 300)
SECONDS: Final = 10
RATE: Final = 8000


def measure(ground: Ground) -> list[Figure]:
    root = Path(__file__).parents[2]
    figures: list[Figure] = []
    for legs in LEGS:
        words = [ground.lab.name, str(legs), str(SECONDS), str(RATE)]
        done = runs.run([runs.PYTHON, "-m", "tests.bench.media_side", *words], root)
        found = json.loads(done.out)
        how = (
            f"{legs} legs in pairs, one of each sends {SECONDS} s of sound at {RATE} Hz with send(), the"
            " other sends back what `async for` gives; on time is a frame that arrives within 40 ms after the"
            " last; CPU of the process is of all threads, from getrusage, Asterisk's from /proc/PID/stat"
        )
        figures += [
            Figure(
                what=f"{legs} legs, frames not on time",
                value=100 - found["on_time"],
                unit="%",
                target=1.0,
                spread=f"{found['received']} received, {found['expected']} expected,"
                f" {found['late']} sent late, {found['dropped']} dropped;"
                f" gaps p50 {found['gap_p50']:.1f}, p99 {found['gap_p99']:.1f},"
                f" longest {found['gap_max']:.0f} ms",
                how=how,
            ),
            Figure(
                what=f"{legs} legs, our CPU", value=found["cpu"], unit="% of a core", target=25.0, how=how
            ),
            Figure(what=f"{legs} legs, Asterisk's CPU", value=found["asterisk"], unit="% of a core", how=how),
        ]
    return figures
