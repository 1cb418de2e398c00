"""How long a push takes on each way to a node: ``python -m tests.bench.stores``; prints, asserts nothing.

Connects to a private sshd on loopback; median of six pushes after one to warm up.
"""

import asyncio
import hashlib
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tests.tools.bundles import bundle_of, manifest_for, record_for
from tests.tools.sshd import SFTP_ONLY, start_sshd
from tests.tools.stores import node_over_ssh, node_with
from voxtractl.deploy.store import open_store
from voxtractl.model.node import Node
from voxtractl.render.bundle import Bundle

SIZES = ((100, 500), (300, 15_000))  # files, bytes each
LINE = "exten => +265999{0:06d},1(v-3f9c01d2a7b4),NoOp(Inbound {1})\n same => n,Stasis(voxtra-t,${{EXTEN}})\n"


def bundle(count: int, size: int, salt: str) -> Bundle:
    """A bundle of ``count`` files of ``size`` bytes; another ``salt``, another tree."""
    files: dict[str, bytes] = {}
    for n in range(count):
        lines = (LINE.format(n * 1000 + k, salt) for k in range(size // 80 + 1))
        files[f"extensions/t{n}.conf"] = "".join(lines)[:size].encode()
    tree = hashlib.sha256(f"{count} {size} {salt}".encode()).hexdigest()
    return replace(bundle_of({"acme": "+265999000001"}), files=files, tree=tree)


async def measure(node: Node, known_hosts: Path, count: int, size: int) -> list[float]:
    """Seconds of connect, lock and observe, push, record: the medians."""
    rows: list[list[float]] = []
    for turn in range(7):
        work = bundle(count, size, f"turn {turn}")
        times = [time.perf_counter()]
        async with open_store(node, known_hosts=known_hosts) as store:
            times.append(time.perf_counter())
            async with store.lock("bench") as snapshot:
                times.append(time.perf_counter())
                manifest = manifest_for(work, turn, snapshot.revision)
                await store.push(manifest, work.files)
                times.append(time.perf_counter())
                await store.record(record_for(manifest), drop=snapshot.revisions[:-2])
                times.append(time.perf_counter())
        rows.append([after - before for before, after in pairwise(times)])
    return [statistics.median(column) for column in zip(*rows[1:], strict=True)]


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        server = start_sshd(Path(name))
        try:
            for count, size in SIZES:
                root = Path(name) / f"{count}" / "asterisk" / "voxtractl"
                root.mkdir(parents=True)
                ways = {
                    "local": node_with(f"local:{root}"),
                    "ssh, shell": node_over_ssh(server, root),
                    "ssh, sftp only": node_over_ssh(server, root, SFTP_ONLY),
                }
                for way, node in ways.items():
                    root.joinpath("current").unlink(missing_ok=True)
                    connect, lock, push, record = await measure(node, server.known_hosts, count, size)
                    print(
                        f"{count} files of {size} B, {way}: connect {connect:.3f} s,"
                        f" lock and observe {lock:.3f}, push {push:.3f}, record {record:.3f};"
                        f" after connect {lock + push + record:.3f} s"
                    )
        finally:
            server.stop()


if __name__ == "__main__":
    asyncio.run(main())
