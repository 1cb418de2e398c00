"""What the parts stand on: a temporary folder, a lab, an SSH server; all gone when the bench ends.

A lab's name holds the pid of its bench, so that the next bench can remove the lab of one that was killed.
"""

import asyncio
import http.client
import os
import re
import shutil
import tempfile
import time
from base64 import b64encode
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from tests.bench import fleets, runs
from tests.bench.figures import NotMeasured
from voxtractl.deploy.revision import manifest_of, revision_id
from voxtractl.errors import LabError
from voxtractl.lab import Lab, names, purge, up
from voxtractl.provision import TenantProvisioner

if TYPE_CHECKING:
    from tests.tools.sshd import Sshd

__all__ = ["Ground", "Spent", "lay_down"]

TICK: Final = 1 / os.sysconf("SC_CLK_TCK")  # what /proc counts CPU in


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one request: seconds until the answer, and the CPU seconds of Asterisk meanwhile."""

    wall: float
    cpu: float


@dataclass
class Ground:
    """``async``-free; parts run their own event loops."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="voxtractl-bench-")))
    stack: ExitStack = field(default_factory=ExitStack)
    keep_peer: bool = False
    live: fleets.Document | None = None  # what the lab runs now
    _folders: int = 0

    def __enter__(self) -> Self:
        self.folder.chmod(0o711)  # sshd's sessions pass through
        self.stack.callback(shutil.rmtree, self.folder)
        # Audit lines and trusted keys of this bench are nobody else's.
        for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
            os.environ[name] = str(self.folder / name.lower())
        _purge_labs_of_killed_benches()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stack.close()

    def new_folder(self) -> Path:
        """A folder nobody has used; not made yet."""
        self._folders += 1
        return self.folder / str(self._folders)

    # --- the lab ------------------------------------------------------------------------------------------

    @cached_property
    def lab(self) -> Lab:
        name = f"bench-{os.getpid()}"
        self.stack.callback(purge, name)
        try:
            return up(name)
        except LabError as error:
            raise NotMeasured(f"no lab: {error}; {error.hint}") from error

    def lab_node(self, store: str | None = None, more: str = "") -> str:
        """The lab as a node of a document; its store is local unless another way to it is given."""
        return fleets.node_toml(
            "lab",
            store or f"local:{self.lab.store_dir}",
            ari=self.lab.ari_url,
            password_file=str(self.lab.ari_password_file),
            more=more,
        )

    def empty_lab(self) -> None:
        self.live = None
        self.lab.restore()

    def make_live(self, document: fleets.Document) -> None:
        """The lab runs exactly this document, pushed and proven by the command line."""
        if self.live is document:
            return
        self.empty_lab()
        for words in (("node", "init", "lab", "--yes"), ("dialplan", "push", "--yes")):
            self.voxtractl(document, *words)
        self.live = document

    def voxtractl(self, document: fleets.Document, *words: str, code: int | None = 0) -> runs.Run:
        """A whole command for a document."""
        command = [*runs.voxtractl(), "--config", str(document.path), *words]
        return runs.run(command, document.path.parent, code=code)

    @cached_property
    def thousands(self) -> fleets.Document:
        """10,000 plain tenants, one file each, for the lab."""
        return fleets.write(self.new_folder(), self.lab_node(), 10_000, split=True)

    def put(self, module: str) -> Spent:
        """Reload a module over ARI with a bare HTTP client. Raises NotMeasured when Asterisk refuses."""
        secret = f"{self.lab.ari_user}:{self.lab.ari_password.reveal()}"
        headers = {"Authorization": "Basic " + b64encode(secret.encode()).decode()}
        connection = http.client.HTTPConnection("127.0.0.1", self.lab.http_port, timeout=120)
        try:
            connection.connect()
            before = self.asterisk_cpu()
            started = time.perf_counter()
            connection.request("PUT", f"/ari/asterisk/modules/{module}", headers=headers)
            answer = connection.getresponse()
            answer.read()
            spent = Spent(time.perf_counter() - started, self.asterisk_cpu() - before)
        finally:
            connection.close()
        if answer.status != 204:
            raise NotMeasured(f"Asterisk answered {answer.status} to a reload of {module}")
        return spent

    def asterisk_cpu(self) -> float:
        """CPU seconds of the lab's Asterisk since it started (proc(5): utime and stime, in ticks)."""
        stat = Path(f"/proc/{self.lab.pid}/stat").read_text()
        utime, stime = stat.rpartition(")")[2].split()[11:13]
        return (int(utime) + int(stime)) * TICK

    # --- SSH ----------------------------------------------------------------------------------------------

    @cached_property
    def sshd(self) -> "Sshd":
        """An SSH server on loopback that this bench's voxtractl trusts."""
        if shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
            raise NotMeasured("OpenSSH's server is missing: apt-get install openssh-server")
        from tests.tools.sshd import start_sshd

        folder = self.new_folder()
        folder.mkdir()
        server = start_sshd(folder)
        self.stack.callback(server.stop)
        own = Path(os.environ["XDG_CONFIG_HOME"]) / "voxtractl"
        own.mkdir(parents=True)
        shutil.copy(server.known_hosts, own)
        return server


def lay_down(config: Path, node: str) -> None:
    """Put a document's files on a node's store, as a push would; no Asterisk is asked."""

    async def push() -> None:
        provisioner = TenantProvisioner(config, nodes=(node,))
        bundle = provisioner.bundle(node)
        when = datetime.now(UTC)
        revision = revision_id(bundle.tree, when)
        manifest = manifest_of(bundle, revision=revision, who="bench", when=when, base=None, tool="bench")
        async with provisioner.store(node) as store, store.lock("bench"):
            await store.push(manifest, bundle.files)

    asyncio.run(push())


def _purge_labs_of_killed_benches() -> None:
    for name in names():
        owner = re.fullmatch(r"bench-(\d+)", name)
        if owner and not Path("/proc", owner[1]).exists():
            purge(name)
