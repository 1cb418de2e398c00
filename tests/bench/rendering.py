"""Rendering a big fleet, in a process of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.bench import fleets, runs
from tests.bench.figures import Figure, Spread
from tests.bench.ground import Ground

__all__ = ["measure"]

COUNT: Final = 10_000
ROUNDS: Final[Mapping[fleets.Kind, int]] = {"plain": 5, "full": 3}  # a full one takes four times as long


def measure(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for kind, rounds in ROUNDS.items():
        folder = ground.new_folder()
        store = f"local:{folder}/asterisk/voxtractl"
        document = fleets.write(folder, fleets.node_toml("pbx1", store), COUNT, kind=kind)
        found = [_once(document.path) for _ in range(rounds)]
        seconds, peak, lint = (Spread.of(once[name] for once in found) for name in ("render", "peak", "lint"))
        how = (
            "TenantProvisioner.bundle() of a parsed document, in an own process; memory is its VmHWM;"
            f" a {kind} tenant has {fleets.WHAT[kind]}; {found[0]['size']:.1f} MB of files"
        )
        name = f"{COUNT} {kind} tenants"
        figures += [
            Figure(what=name, value=seconds.median, unit="s", target=1.5, spread=seconds.text(), how=how),
            Figure(
                what=f"{name}, memory",
                value=peak.median,
                unit="MB",
                target=250,
                spread=peak.text("MB"),
                how=how,
            ),
            Figure(
                what=f"{name}, lint of all",
                value=lint.median,
                unit="s",
                spread=lint.text(),
                how="TenantProvisioner.lint() of the whole bundle, as in `dialplan lint`",
            ),
        ]
    return figures


def _once(config: Path) -> dict[str, float]:
    root = Path(__file__).parents[2]
    done = runs.run([runs.PYTHON, "-m", "tests.bench.render_once", str(config)], root)
    return dict(json.loads(done.out))
