"""What the sound of many calls costs: AudioSocket legs on the real Asterisk, 50 frames a second each way.

Legs are bridged in pairs: one plays a sound, the other gives back what it hears. So each leg sends and
receives 50 frames a second through Asterisk. A process of its own: its CPU is that of our side alone.
Beside it, in turn, the least that an asyncio program can do (media_bare.py).
"""

import json
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench import runs
from tests.bench.figures import Figure, Spread, ratio
from tests.bench.ground import Ground

__all__ = ["measure"]

LEGS: Final = (100, 300)
ROUNDS: Final = 3
SECONDS: Final = 10
RATE: Final = 8000
CORE: Final = "% of a core"


def measure(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for legs in LEGS:
        ours: list[dict[str, Any]] = []
        bare: list[dict[str, Any]] = []
        for _ in range(ROUNDS):
            for side, found in (("side", ours), ("bare", bare)):
                found.append(_side(ground, side, legs))
        figures += _figures(legs, ours, bare)
    return figures


def _side(ground: Ground, side: str, legs: int) -> dict[str, Any]:
    words = [f"tests.bench.media_{side}", ground.lab.name, str(legs), str(SECONDS), str(RATE)]
    done = runs.run([runs.PYTHON, "-m", *words], Path(__file__).parents[2])
    found: dict[str, Any] = json.loads(done.out)
    return found


def _figures(legs: int, ours: list[dict[str, Any]], bare: list[dict[str, Any]]) -> list[Figure]:
    how = (
        f"{legs} legs in pairs, one of each sends {SECONDS} s of sound at {RATE} Hz with send(), the"
        " other sends back what `async for` gives; on time is a frame that arrives within 40 ms after the"
        " last; CPU of the process is of all threads, from getrusage, Asterisk's from /proc/PID/stat;"
        f" {ROUNDS} rounds, each with the bare program (media_bare.py, on asyncio's own loop) in turn"
    )

    def figure(what: str, value: float, unit: str, target: float | None = None, spread: str = "") -> Figure:
        return Figure(
            what=f"{legs} legs, {what}", value=value, unit=unit, target=target, spread=spread, how=how
        )

    def of(found: list[dict[str, Any]], key: str) -> Spread:
        return Spread.of(each[key] for each in found)

    def kernel(found: list[dict[str, Any]]) -> str:
        return f"{of(found, 'cpu').text('%')}, of it {of(found, 'kernel').median:.0f} in the kernel"

    worst = min(ours, key=lambda each: float(each["on_time"]))
    times, minima = ratio(of(ours, "cpu"), of(bare, "cpu"))
    return [
        figure(
            "frames not on time",
            100 - median(each["on_time"] for each in ours),
            "%",
            1.0,
            f"at worst {100 - worst['on_time']:.2f} %: {worst['received']} received,"
            f" {worst['expected']} expected, {worst['late']} sent late, {worst['dropped']} dropped;"
            f" gaps in ms p50 {worst['gap_p50']:.1f}, p99 {worst['gap_p99']:.1f},"
            f" longest {worst['gap_max']:.0f}",
        ),
        figure("our CPU", of(ours, "cpu").median, CORE, 25.0, kernel(ours)),
        figure("a bare program's CPU", of(bare, "cpu").median, CORE, None, kernel(bare)),
        figure("ours / a bare program's", times, "x", None, minima),
        figure("Asterisk's CPU", of(ours, "asterisk").median, CORE, None, of(ours, "asterisk").text("%")),
    ]
