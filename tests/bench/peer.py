"""voxtra 0.3.1 from PyPI in an environment of its own: what it costs beside ours."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.bench import fleets, runs
from tests.bench.figures import Figure, NotMeasured, Spread, ratio
from tests.bench.ground import Ground

__all__ = ["PEER", "Peer", "measure"]

PEER: Final = "voxtra==0.3.1"
INSTALL_LIMIT: Final = 180.0  # seconds

COUNT: Final = 10_000
ROUNDS: Final = 5
STARTS: Final = 10
RELOADS: Final = 3


class Peer:
    """A peer's environment; made when it is not there, and removed with the ground unless it is kept."""

    def __init__(self, ground: Ground, requirement: str = PEER) -> None:
        self.requirement = requirement
        name = requirement.partition("=")[0]
        self.folder = Path(tempfile.gettempdir()) / f"voxtractl-bench-{name}-{os.geteuid()}"
        self.ground = ground
        if not ground.keep_peer:
            ground.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        if not (self.folder / "complete").exists():
            self._install()
        elif self.folder.stat().st_uid != os.geteuid():
            raise NotMeasured(f"{self.folder} belongs to somebody else")

    def _install(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for words in (
            [sys.executable, "-m", "venv", str(self.folder / "venv")],
            [*pip, self.requirement],
        ):
            try:
                done = subprocess.run(
                    words, capture_output=True, text=True, timeout=INSTALL_LIMIT, check=False
                )
            except subprocess.TimeoutExpired as exc:
                raise NotMeasured(
                    f"{self.requirement} was not installed within {INSTALL_LIMIT:.0f} s"
                ) from exc
            if done.returncode:
                raise NotMeasured(f"{self.requirement} cannot be installed: {done.stderr.strip()[-300:]}")
        (self.folder / "complete").touch()

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    def ask(self, do: str, **asked: Any) -> Any:
        """What ``peer_side.py`` answers; -P keeps our folder out of the peer's imports."""
        words = [str(self.python), "-P", str(Path(__file__).with_name("peer_side.py"))]
        done = runs.run(words, self.folder, stdin=json.dumps({"do": do, **asked}))
        return json.loads(done.out.splitlines()[-1])


def measure(ground: Ground) -> list[Figure]:
    peer = Peer(ground)
    return [*_start(peer), *_render(ground, peer), *_reload(ground, peer)]


def _start(peer: Peer) -> list[Figure]:
    """Each beside an empty program of the Python it runs in."""
    ours = runs.voxtractl()
    theirs = [str(peer.python.with_name("voxtra"))]
    found = runs.alternate(
        {
            name: partial(runs.run, words, peer.folder)
            for name, words in {
                "ours": [runs.PYTHON, "-c", "pass"],
                "theirs": [str(peer.python), "-c", "pass"],
                "voxtractl --version": [*ours, "--version"],
                "voxtractl --help": [*ours, "--help"],
                "voxtra --version": [*theirs, "--version"],
                "voxtra --help": [*theirs, "--help"],
            }.items()
        },
        STARTS,
    )
    figures: list[Figure] = []
    for name in found:
        if name in {"ours", "theirs"}:
            continue
        spread = runs.wall(found[name])
        value, minima = ratio(spread, runs.wall(found["ours" if name.startswith("voxtractl") else "theirs"]))
        how = f"wall clock / python -c pass of the same environment, medians of {STARTS} interleaved runs"
        figures.append(
            Figure(what=name, value=value, unit="x pass", spread=f"{minima}; {spread.text()}", how=how)
        )
    return figures


def _render(ground: Ground, peer: Peer) -> list[Figure]:
    """The same content for both: two DIDs, a limit of calls, a trunk with password."""
    folder = ground.new_folder()
    document = fleets.write(
        folder, fleets.node_toml("pbx1", f"local:{folder}/asterisk/voxtractl"), COUNT, kind="trunk"
    )
    root = Path(__file__).parents[2]
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, list[float]]] = []
    tenants = [tenant(number) for number in range(COUNT)]
    for _ in range(ROUNDS):
        done = runs.run([runs.PYTHON, "-m", "tests.bench.render_once", str(document.path)], root)
        ours.append(json.loads(done.out))
        theirs.append(peer.ask("render", tenants=tenants, rounds=1))
    figures: list[Figure] = []
    what = f"{COUNT} tenants of 2 DIDs, a limit of calls, a trunk with password; {ROUNDS} processes in turn"
    for name, values, how in (
        (
            "voxtractl, render a tenant",
            [one["render"] for one in ours],
            "bundle(): rendered, escaped, labelled",
        ),
        ("voxtractl, lint a tenant", [one["lint"] for one in ours], "lint(): parsed again and proven"),
        (
            "voxtra, render a tenant",
            [one["alone"][0] for one in theirs],
            "provision() alone; nothing is escaped",
        ),
        (
            "voxtra, with its TenantConfig",
            [one["whole"][0] for one in theirs],
            "TenantConfig() and provision()",
        ),
    ):
        spread = Spread.of(value / COUNT * 1e6 for value in values)
        figures.append(
            Figure(what=name, value=spread.median, unit="us", spread=spread.text("us"), how=f"{how}; {what}")
        )
    return figures


def _reload(ground: Ground, peer: Peer) -> list[Figure]:
    """10,000 tenants on Asterisk as each tool lays them out, dialplan only."""
    figures: list[Figure] = []
    for name in ("voxtractl", "voxtra"):
        if name == "voxtractl":
            ground.make_live(ground.thousands)
            how = "64 files and the end file"
        else:
            ground.empty_lab()
            include(ground, "extensions")
            peer.ask(
                "lay",
                folder=str(ground.lab.config_dir / "voxtra.d"),
                tenants=[tenant(number) for number in range(COUNT)],
            )
            how = "a file a tenant, included by a glob"
        spent = [ground.put("pbx_config.so") for _ in range(RELOADS + 1)][1:]
        spread = Spread.of(one.wall for one in spent)
        cpu = Spread.of(one.cpu for one in spent)
        figures.append(
            Figure(
                what=f"{name}, reload of {COUNT} tenants",
                value=spread.median,
                unit="s",
                spread=f"{spread.text()}; CPU of Asterisk {cpu.text()}",
                how=f"PUT /ari/asterisk/modules/pbx_config.so; {how}",
            )
        )
    ground.empty_lab()
    return figures


def include(ground: Ground, *kinds: str) -> None:
    """Let Asterisk's own files include the peer's fragments, each kind by its prefix."""
    for kind in kinds:
        with (ground.lab.config_dir / f"{kind}.conf").open("a") as file:
            file.write(f"#include voxtra.d/{kind}_*.conf\n")


def tenant(number: int) -> dict[str, Any]:
    """A tenant for the peer, with what ours has."""
    return {
        "tenant_id": f"t{number:05d}",
        "tenant_name": f"Tenant {number} Ltd",
        "dids": [f"+2659{number:08d}", f"+2658{number:08d}"],
        "max_channels": 20,
        "trunk": {
            "host": fleets.host(number),
            "username": f"t{number:05d}",
            "password": f"password of {number}",
        },
    }
