"""Renders one document and prints what it cost as JSON: ``python -m tests.bench.render_once tenants.toml``.

A process of its own, because memory is measured: VmHWM is the most this program ever had (proc(5)); the
kernel's ru_maxrss would count the parent before exec as well.
"""

import json
import re
import sys
import time
from pathlib import Path

from voxtractl.provision import TenantProvisioner

__all__ = ["main"]


def main(config: str) -> None:
    provisioner = TenantProvisioner(config)
    node = provisioner.nodes[0]  # reads and parses the document
    started = time.perf_counter()
    bundle = provisioner.bundle(node)
    rendered = time.perf_counter()
    memory = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    provisioner.lint(bundle)
    linted = time.perf_counter()
    size = sum(len(content) for content in bundle.files.values())
    assert memory is not None
    figures = {
        "render": rendered - started,
        "lint": linted - rendered,
        "peak": int(memory[1]) / 1024,
        "size": size / 1e6,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
