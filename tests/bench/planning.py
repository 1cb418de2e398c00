"""``dialplan plan`` as a whole command, of a big fleet in which one tenant changed."""

from typing import Final

from tests.bench import fleets, runs
from tests.bench.figures import Figure, NotMeasured
from tests.bench.ground import Ground, lay_down

__all__ = ["measure"]

COUNT: Final = 10_000
CHANGED: Final = 4321
ROUNDS: Final = 5


def measure(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    layouts: tuple[tuple[fleets.Kind, bool], ...] = (("plain", True), ("plain", False), ("full", True))
    for kind, split in layouts:
        folder = ground.new_folder()
        store = f"local:{folder}/asterisk/voxtractl"
        document = fleets.write(folder, fleets.node_toml("pbx1", store), COUNT, kind=kind, split=split)
        (folder / "asterisk" / "voxtractl").mkdir(parents=True)
        lay_down(document.path, "pbx1")
        document.change(CHANGED, 1)
        found = [ground.voxtractl(document, "dialplan", "plan") for _ in range(ROUNDS + 1)][1:]
        if f"changes 1 of {COUNT} tenants" not in found[0].out:
            raise NotMeasured(f"dialplan plan saw another change: {found[0].out[-300:]}")
        wall, cpu = runs.wall(found), runs.cpu(found)
        figures.append(
            Figure(
                what=f"{kind} tenants, {'one file each' if split else 'one tenants.toml'}",
                value=wall.median,
                unit="s",
                target=2.0,
                spread=f"{wall.text()}; CPU {cpu.text()}",
                how=f"voxtractl dialplan plan, local store; a {kind} tenant has {fleets.WHAT[kind]}",
            )
        )
    return figures
