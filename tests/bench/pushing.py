"""Pushes from a process that runs already: one node over SSH, and many nodes side by side."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench import fleets
from tests.bench.figures import Figure, NotMeasured, Spread
from tests.bench.ground import Ground
from tests.bench.runs import Run, cpu, wall
from voxtractl.deploy.rollout import conclude
from voxtractl.deploy.store.shell import Shell
from voxtractl.provision import TenantProvisioner

__all__ = ["over_ssh", "to_nodes"]

TENANTS: Final = 100
NODES: Final = 32
ROUNDS: Final = 5


def over_ssh(ground: Ground) -> list[Figure]:
    server = ground.sshd
    document = fleets.write(
        ground.new_folder(),
        ground.lab_node(server.url(ground.lab.store_dir), f'identity = "{server.key()}"\n'),
        TENANTS,
    )
    ground.make_live(document)
    pushes: list[float] = []
    trips: set[int] = set()
    connects: list[float] = []
    for version in range(1, ROUNDS + 2):
        document.write_all(lambda number, version=version: version)  # type: ignore[misc]
        provisioner = TenantProvisioner(document.path)
        provisioner.bundle("lab")
        with _exchanges() as counted:
            pushes.append(_push(provisioner).wall)
        trips.add(len(counted) - 1)
        connects.append(asyncio.run(_connect(provisioner)))
    ground.live = None
    whole, alone = Spread.of(pushes[1:]), Spread.of(connects[1:])
    how = (
        f"TenantProvisioner.push() of {TENANTS} changed tenants, rendered before, to the lab through sshd:"
        " connect, lock, stage, check, flip, reload, prove, record"
    )
    return [
        Figure(what="whole push", value=whole.median, unit="s", target=0.25, spread=whole.text(), how=how),
        Figure(
            what="of it connecting",
            value=alone.median,
            unit="s",
            spread=alone.text(),
            how="opening and closing the store: SSH handshake, login, the shell and its receiver",
        ),
        Figure(
            what="round trips beyond connecting",
            value=max(trips),
            target=3,
            how="commands sent to the receiver and answered (Shell._exchange), without its greeting",
        ),
    ]


def to_nodes(ground: Ground) -> list[Figure]:
    server = ground.sshd
    key = server.key()
    figures: list[Figure] = []
    for way, url in (("local", lambda path: f"local:{path}"), ("SSH", server.url)):
        more = f'identity = "{key}"\n' if way == "SSH" else ""
        folder = ground.new_folder()
        document = fleets.write(folder, _nodes(ground, folder, url, more), TENANTS)
        ground.empty_lab()
        ground.voxtractl(document, "node", "init", *_names(), "--yes")
        version = 0
        for changed in (1, TENANTS):
            found: list[Run] = []
            for _ in range(ROUNDS + 1):
                version += 1
                document.write_all(lambda number, c=changed, v=version: v if number < c else 0)  # type: ignore[misc]
                found.append(_push(TenantProvisioner(document.path)))
            spread, own = wall(found[1:]), cpu(found[1:])
            figures.append(
                Figure(
                    what=f"{NODES} nodes, {way}, {changed} of {TENANTS} tenants changed",
                    value=spread.median,
                    unit="s",
                    target=2.0,
                    spread=f"{spread.text()}; CPU of our own process {own.text()}",
                    how=f"TenantProvisioner.push(), rendering included, to {NODES} stores of one Asterisk,"
                    " whose reloads wait for each other; one canary, then 16 at once; all nodes' work is done"
                    " by this machine as well",
                )
            )
    return figures


def _names() -> list[str]:
    return ["lab", *(f"node{number}" for number in range(2, NODES + 1))]


def _nodes(ground: Ground, folder: Path, url: Callable[[Path], str], more: str) -> str:
    """The lab, and nodes with folders of their own that ask the same Asterisk.

    Their trees are equal, so what the lab's Asterisk loaded from the lab's store proves them all.
    """
    nodes = [ground.lab_node(url(ground.lab.store_dir), more)]
    for name in _names()[1:]:
        etc = folder / name / "etc"
        etc.mkdir(parents=True)
        for file in ("extensions.conf", "pjsip.conf", "queues.conf"):
            (etc / file).touch()
        nodes.append(
            fleets.node_toml(
                name,
                url(etc / "voxtractl"),
                ari=ground.lab.ari_url,
                password_file=str(ground.lab.ari_password_file),
                more=more,
            )
        )
    return "\n".join(nodes)


def _push(provisioner: TenantProvisioner) -> Run:
    async def push() -> Run:
        started, busy = time.perf_counter(), time.process_time()
        results = await provisioner.push()
        done = Run(time.perf_counter() - started, time.process_time() - busy, "")
        conclude(results)
        if any(result.status != "pushed" for result in results):
            raise NotMeasured("a node had nothing to push")
        return done

    return asyncio.run(push())


async def _connect(provisioner: TenantProvisioner) -> float:
    started = time.perf_counter()
    async with provisioner.store("lab"):
        return time.perf_counter() - started


@contextmanager
def _exchanges() -> Iterator[list[bytes]]:
    """What shells on nodes are sent meanwhile; each is answered before the next: a round trip."""
    sent: list[bytes] = []
    original = Shell._exchange

    async def counted(self: Shell, line: bytes, payload: bytes) -> Any:
        sent.append(line)
        return await original(self, line, payload)

    Shell._exchange = counted  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        Shell._exchange = original  # type: ignore[method-assign]
