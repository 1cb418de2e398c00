"""The peer's half: run by the peer's own Python, which has voxtra and nothing of ours.

Reads one JSON document from stdin, prints one: ``{"do": "render" | "lay" | "reload", …}``. It does only what
the peer's own words ask of a user: TenantConfig, TenantProvisioner, provision, write_files, reload_asterisk.
"""

import asyncio
import json
import sys
import time
from typing import Any

from voxtra.ari.client import ARIClient  # type: ignore[import-not-found]
from voxtra.provisioning import TenantConfig, TenantProvisioner  # type: ignore[import-not-found]
from voxtra.types import SIPTrunk  # type: ignore[import-not-found]

__all__ = ["main"]


def lay(folder: str, tenants: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the files of all tenants; the names of each tenant's."""
    provisioner = TenantProvisioner(output_dir=folder)
    written: dict[str, list[str]] = {}
    for tenant in tenants:
        paths = provisioner.write_files(provisioner.provision(_config(tenant)))
        written[tenant["tenant_id"]] = [str(path) for path in paths]
    return {"written": written}


def render(tenants: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Seconds for all tenants: of provision() alone, and with making the TenantConfig."""
    provisioner = TenantProvisioner(output_dir="nowhere")
    alone: list[float] = []
    whole: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        configs = [_config(tenant) for tenant in tenants]
        made = time.perf_counter()
        for config in configs:
            provisioner.provision(config)
        ended = time.perf_counter()
        alone.append(ended - made)
        whole.append(ended - started)
    return {"alone": alone, "whole": whole}


async def reload(url: str, user: str, password: str) -> dict[str, Any]:
    ari = ARIClient(url, user, password)
    await ari.connect()
    try:
        return {"reloaded": await TenantProvisioner().reload_asterisk(ari)}
    finally:
        await ari.close()


def _config(tenant: dict[str, Any]) -> Any:
    values = dict(tenant)
    if "trunk" in values:
        values["sip_trunk"] = SIPTrunk(**values.pop("trunk"))
    return TenantConfig(**values)


def main() -> None:
    asked = json.load(sys.stdin)
    match asked.pop("do"):
        case "lay":
            answer = lay(**asked)
        case "render":
            answer = render(**asked)
        case _:
            answer = asyncio.run(reload(**asked))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
