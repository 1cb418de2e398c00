"""Which heavy modules each command may load: the deterministic form of "the command line starts fast".

Times lie on a busy machine, `sys.modules` does not. Each command runs as a process of its own and tells at
its end what it had loaded of HEAVY. A row is exact: loading less must be written down here too.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from voxtractl.deploy.revision import manifest_of, revision_id
from voxtractl.provision import TenantProvisioner

HEAVY: Final = (
    "aiohttp",
    "asyncio",
    "asyncssh",
    "jinja2",
    "pydantic",
    "pydantic_settings",
    "rich",
    "tomlkit",
    "typer",
)

PROBE: Final = f"""
import json, sys
from voxtractl.__main__ import main
try:
    main()
finally:
    sys.stderr.write("\\n" + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""

TYPER: Final = {"typer"}

# command line → (exit code, what it may load)
COMMANDS: Final[dict[str, tuple[int, set[str]]]] = {
    "--version": (0, set()),
    "--help": (0, TYPER),
    "": (2, TYPER),
    "tennant": (2, TYPER),
    "tenant": (2, TYPER),
    "tenant lst": (2, TYPER),
    "tenant add --help": (0, TYPER),
    "tenant list": (0, TYPER),
    "tenant list -o json": (0, TYPER),
    "tenant show acme -o json": (0, TYPER),
    "tenant add beta --did +265999000002": (0, TYPER | {"tomlkit"}),
    "tenant set acme max_channels=7": (0, TYPER | {"tomlkit"}),
    "tenant remove acme --yes": (0, TYPER),
    "config check": (0, TYPER),
    "init new": (0, TYPER),
    "dialplan --help": (0, TYPER),
    "dialplan render": (0, TYPER | {"jinja2"}),
    "dialplan lint": (0, TYPER | {"jinja2"}),
    "dialplan plan": (0, TYPER | {"jinja2", "asyncio"}),
    "dialplan reload": (5, TYPER | {"asyncio"}),  # nobody listens there: 5
    "dialplan verify": (5, TYPER | {"asyncio"}),
    "dialplan history": (0, TYPER | {"asyncio"}),
    "dialplan status": (5, TYPER | {"asyncio", "jinja2"}),
    "dialplan push --yes": (5, TYPER | {"asyncio", "jinja2"}),
    "run --help": (0, TYPER),
    "run": (2, TYPER | {"asyncio"}),  # its tenant has no handler
    "originate --help": (0, TYPER),
    "originate acme +265999123456": (2, TYPER),  # it has no outbound
    "node --help": (0, TYPER),
    "node list": (0, TYPER),
    "lab --help": (0, TYPER),
    "lab status": (0, TYPER),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A document with one tenant and one node; nothing answers at the node's ARI."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # bound and not listening: connecting is refused
        (tmp_path / "asterisk" / "voxtractl").mkdir(parents=True)
        (tmp_path / "pbx1.ari").write_text("not-a-secret\n")
        (tmp_path / "tenants.toml").write_text(
            "[nodes.pbx1]\n"
            f'ari = "http://127.0.0.1:{unheard.getsockname()[1]}"\n'
            'ari_user = "voxtractl"\n'
            'ari_password_file = "pbx1.ari"\n'
            f'store = "local:{tmp_path}/asterisk/voxtractl"\n\n'
            '[tenants.acme]\ndids = ["+265999000001"]\n'
        )
        asyncio.run(lay_down(tmp_path / "tenants.toml"))
        yield tmp_path


async def lay_down(config: Path) -> None:
    """Put the document's files on its node, as a push would."""
    provisioner = TenantProvisioner(config)
    bundle = provisioner.bundle("pbx1")
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    manifest = manifest_of(
        bundle, revision=revision_id(bundle.tree, when), who="ann", when=when, base=None, tool="test"
    )
    async with provisioner.store("pbx1") as store, store.lock("ann"):
        await store.push(manifest, bundle.files)


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line or "nothing at all")
def test_a_command_loads_exactly_what_it_needs(line: str, folder: Path) -> None:
    code, allowed = COMMANDS[line]
    # coverage would load modules of its own into the process
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE_", "VOXTRACTL_"))}
    environment["VOXTRACTL_LAB_HOME"] = str(folder / "labs")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *line.split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert set(json.loads(done.stderr.splitlines()[-1])) == allowed


def test_a_setting_in_the_environment_is_what_loads_pydantic(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "tenant", "list"],
        cwd=folder,
        env={**os.environ, "VOXTRACTL_OUTPUT": "json"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"pydantic", "pydantic_settings"} < set(json.loads(done.stderr.splitlines()[-1]))
    assert json.loads(done.stdout)["ok"] is True
