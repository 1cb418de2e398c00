"""How long an operator waits before a command does anything: whole processes, beside python and typer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench import fleets, runs
from tests.bench.figures import Figure, Spread, ratio
from tests.bench.ground import Ground
from tests.bench.runs import Run

__all__ = ["measure"]

ROUNDS: Final = 20
TENANTS: Final = 10

HOW: Final = f"wall clock of the command / of the other, medians of {ROUNDS} interleaved runs"

# the other → the program it runs
BASES: Final = {"python -c pass": "pass", "import typer": "import typer"}

# command → (the other, target, exit code)
COMMANDS: Final = {
    "--version": ("python -c pass", 2.0, 0),
    "--help": ("import typer", 1.25, 0),
    "tennant": ("import typer", 1.25, 2),
    "tenant list -o json": ("import typer", 1.5, 0),
}
RELOAD: Final = "dialplan reload"
FLOOR: Final = "import typer, aiohttp"


def measure(ground: Ground) -> list[Figure]:
    document = fleets.write(ground.new_folder(), ground.lab_node(), TENANTS)
    ground.make_live(document)
    folder = document.path.parent
    reloads: list[float] = []

    def python(program: str) -> Callable[[], Run]:
        return partial(runs.run, [runs.PYTHON, "-c", program], folder)

    def reload() -> Run:
        """The command, and right behind it what Asterisk needs for such a reload."""
        done = ground.voxtractl(document, *RELOAD.split())
        reloads.append(ground.put("pbx_config.so").wall)
        return Run(done.wall - reloads[-1], done.cpu, done.out)

    found = runs.alternate(
        {
            **{name: python(program) for name, program in BASES.items()},
            FLOOR: python(FLOOR),
            **{
                command: partial(_voxtractl, folder, command, code)
                for command, (_, _, code) in COMMANDS.items()
            },
            RELOAD: reload,
        },
        ROUNDS,
    )
    figures = [
        _beside(found, command, other, target, HOW + ("; 10 tenants" if "list" in command else ""))
        for command, (other, target, _) in COMMANDS.items()
    ]
    taken = Spread.of(reloads).text()
    how = (
        f"{HOW}; {TENANTS} tenants, {2 * TENANTS} DIDs; taken off is the PUT modules/pbx_config.so of a bare"
        f" HTTP client right after it ({taken}), not the answers of the proof"
    )
    figures.append(_beside(found, RELOAD, "import typer", 3.6, how))
    figures.append(_beside(found, FLOOR, "import typer", None, HOW))
    figures.append(_beside(found, "import typer", "python -c pass", None, HOW))
    return figures


def _voxtractl(folder: Path, command: str, code: int) -> Run:
    return runs.run([*runs.voxtractl(), *command.split()], folder, code=code)


def _beside(found: dict[str, list[Run]], name: str, other: str, target: float | None, how: str) -> Figure:
    spread = runs.wall(found[name])
    value, minima = ratio(spread, runs.wall(found[other]))
    processor, _ = ratio(runs.cpu(found[name]), runs.cpu(found[other]))
    return Figure(
        what=f"python -c '{name}'" if name in (*BASES, FLOOR) else f"voxtractl {name}",
        value=value,
        unit=f"x {other}",
        target=target,
        spread=f"{minima}, {processor:.2f} by CPU; {spread.text()}",
        how=how,
    )
