"""A lab that runs 10,000 tenants: one of them changes, Asterisk reloads, every DID is proven."""

import asyncio
from typing import Final

from tests.bench import fleets, runs
from tests.bench.figures import Figure, NotMeasured, Spread
from tests.bench.ground import Ground
from voxtractl.deploy.proof import Proof, prove, questions
from voxtractl.provision import TenantProvisioner

__all__ = ["change", "proof", "reload"]

CHANGED: Final = 4321
ROUNDS: Final = 5
RELOADS: Final = 10
DIDS: Final = 10_000


def change(ground: Ground) -> list[Figure]:
    document = ground.thousands
    ground.make_live(document)
    found: list[runs.Run] = []
    for version in range(1, ROUNDS + 2):
        document.change(CHANGED, version)
        found.append(ground.voxtractl(document, "dialplan", "push", "--yes"))
        if f"changes 1 of {document.count} tenants" not in found[-1].out:
            raise NotMeasured(f"the push changed something else: {found[-1].out[-300:]}")
    wall, cpu = runs.wall(found[1:]), runs.cpu(found[1:])
    return [
        Figure(
            what="one changed tenant, whole command",
            value=wall.median,
            unit="s",
            target=2.5,
            spread=f"{wall.text()}; CPU of the command {cpu.text()}",
            how="voxtractl dialplan push --yes, on the lab, one of 10,000 files in tenants.d changed;"
            f" a tenant has {fleets.WHAT[document.kind]}",
        )
    ]


def reload(ground: Ground) -> list[Figure]:
    kinds: tuple[fleets.Kind, ...] = ("lean", "dialling")
    count = ground.thousands.count
    others = [fleets.write(ground.new_folder(), ground.lab_node(), count, kind=kind) for kind in kinds]
    return [figure for document in (*others, ground.thousands) for figure in _reload(ground, document)]


def _reload(ground: Ground, document: fleets.Document) -> list[Figure]:
    ground.make_live(document)
    spent = [ground.put("pbx_config.so") for _ in range(RELOADS + 1)][1:]
    wall, cpu = Spread.of(one.wall for one in spent), Spread.of(one.cpu for one in spent)
    how = (
        f"PUT /ari/asterisk/modules/pbx_config.so of {document.count} tenants in 64 files, CPU from"
        f" /proc/PID/stat; a {document.kind} tenant has {fleets.WHAT[document.kind]}"
    )
    mean = sum(cpu.values) / len(cpu.values)  # a tick is 10 ms: the mean says more than the median
    return [
        Figure(
            what=f"{document.kind} tenants, wall",
            value=wall.median,
            unit="s",
            target=0.35,
            spread=wall.text(),
            how=how,
        ),
        Figure(
            what=f"{document.kind} tenants, CPU of Asterisk",
            value=mean,
            unit="s",
            spread=f"mean; {cpu.text()}",
            how=how,
        ),
    ]


def proof(ground: Ground) -> list[Figure]:
    document = ground.thousands
    ground.make_live(document)
    found = asyncio.run(_proofs(document))
    wall = Spread.of(found)
    return [
        Figure(
            what=f"{DIDS} DIDs and the marks",
            value=wall.median,
            unit="s",
            target=3.0,
            spread=wall.text(),
            how="deploy.proof.prove() of the first DID of each tenant, one label question each",
        )
    ]


async def _proofs(document: fleets.Document) -> list[float]:
    """Seconds of each proof; connections are open, as they are when a push has come this far."""
    loop = asyncio.get_running_loop()
    provisioner = TenantProvisioner(document.path)
    bundle = provisioner.bundle("lab")
    asked = questions(bundle.marks, bundle.tenants, bundle.trunk_context)
    marks = [question for question in asked if question.what != "did"]
    dids = [question for question in asked if question.what == "did"][::2]
    seconds: list[float] = []
    async with provisioner.ari("lab") as ari:
        for _ in range(ROUNDS + 1):
            started = loop.time()
            proven: Proof = await prove(ari, [*marks, *dids])
            seconds.append(loop.time() - started)
            if not proven.complete or proven.dids != DIDS:
                raise NotMeasured(f"the lab does not run the document: {proven.sentence()}")
    return seconds[1:]
