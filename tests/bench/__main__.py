"""``python -m tests.bench [PART ...] [--json FILE] [--keep]``: the measured figures of this machine.

Figures, not assertions: the exit code is 0 whatever they are. Everything runs on loopback and is removed.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from tests.bench.figures import Figure, NotMeasured, table
from tests.bench.ground import Ground
from voxtractl.errors import VoxtractlError

__all__ = ["PARTS", "main"]

Part = Callable[[Ground], list[Figure]]

# name → (where it is measured, its title); the order saves laying down 10,000 tenants twice
PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "startup": ("startup:measure", "start-up of commands"),
    "render": ("rendering:measure", "rendering 10,000 tenants"),
    "plan": ("planning:measure", "dialplan plan, one changed tenant among 10,000"),
    "ssh": ("pushing:over_ssh", "push of 100 tenants over SSH on loopback"),
    "nodes": ("pushing:to_nodes", "push to 32 nodes"),
    "change": ("thousands:change", "one changed tenant among 10,000: planned, pushed, proven"),
    "reload": ("thousands:reload", "Asterisk's reload of 10,000 tenants"),
    "proof": ("thousands:proof", "proof of 10,000 DIDs"),
    "media": ("media:measure", "sound of many calls over AudioSocket"),
    "calls": ("calls:measure", "calls beside voxtra 0.3.1, asyncari 0.20.6 and ari-client 0.9.0"),
    "peer": ("peer:measure", "beside voxtra 0.3.1"),
    "faults": ("faults:measure", "beside voxtra 0.3.1: are the other tenants still served?"),
}
PATIENCE: Final = 330.0  # seconds after which no further part begins


def main(words: list[str]) -> None:
    chosen = _arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lab goes as well
    started = time.monotonic()
    document: dict[str, Any] = {"machine": _machine(), "parts": {}}
    print(document["machine"], "\n", flush=True)
    with Ground(keep_peer=chosen.keep) as ground:
        for name in chosen.parts or PARTS:
            place, title = PARTS[name]
            if time.monotonic() - started > PATIENCE:
                print(f"== {title}: left out, time is up: python -m tests.bench {name}\n", flush=True)
                continue
            module, _, function = place.partition(":")
            part: Part = getattr(import_module(f"tests.bench.{module}"), function)
            try:
                figures = part(ground)
            except (NotMeasured, VoxtractlError) as error:
                print(f"== {title}: not measured: {error}\n", flush=True)
                document["parts"][name] = {"not_measured": str(error)}
                continue
            print(table(title, figures), flush=True)
            document["parts"][name] = [figure.document() for figure in figures]
    print(f"{time.monotonic() - started:.0f} s")
    if chosen.json:
        chosen.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--keep", action="store_true", help="keep the peers' environments for the next time")
    chosen = parser.parse_args(words)
    for name in chosen.parts:
        if name not in PARTS:
            parser.error(f"no part {name!r}; there is {', '.join(PARTS)}")
    return chosen


def _machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()},"
        f" {os.cpu_count()} CPUs, load {load} at the start"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
