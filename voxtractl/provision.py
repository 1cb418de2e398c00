"""TenantProvisioner: the document to a proven dialplan, the same code for the command line and for programs.

    provisioner = TenantProvisioner("tenants.toml")
    plans   = await provisioner.plan()
    results = await provisioner.push()

It loads, renders, opens nodes and hands the work to ``deploy``; it prints nothing and asks nobody.
"""

import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from voxtractl import files, naming
from voxtractl.errors import LintFailed, NodeError, SettingsError, StalePlan, UsageFault
from voxtractl.model import document
from voxtractl.model.fleet import Fleet, must_know
from voxtractl.model.node import Node
from voxtractl.settings import Secret

if TYPE_CHECKING:
    from voxtractl.ari.client import ARIClient
    from voxtractl.deploy.plan import Plan
    from voxtractl.deploy.proof import Proof
    from voxtractl.deploy.revision import Record
    from voxtractl.deploy.rollout import Rollout
    from voxtractl.deploy.steps import Options, Report, Result, Status
    from voxtractl.deploy.store.base import Store
    from voxtractl.model.tenant import Tenant
    from voxtractl.render.bundle import Bundle
    from voxtractl.render.templates import Template, TemplateSet

__all__ = ["Allowed", "TenantProvisioner", "audit_file"]

PARALLEL_READS: Final = 16  # nodes that are only looked at, at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What a push may do beyond the ordinary, and the digest that was reviewed."""

    deletes: int = 0
    move: bool = False
    overwrite_drift: bool = False
    reviewed: str | None = None


def audit_file() -> Path:
    """The local audit file: one JSON line a push or rollback, of every node this account worked on."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "voxtractl" / "audit.jsonl"


class TenantProvisioner:
    """Everything that can be done with one document and its nodes.

    ``nodes`` limits the work to these; ``templates`` is a folder of own templates; ``timeout`` is in seconds,
    for one request or one step. ``who`` names the operator in manifests, locks and audit lines. ``report`` is
    told (node, step) as the work goes on. Nothing is read before it is needed; every property is read once.

    Raises the errors of ``voxtractl.errors``; see each method.
    """

    def __init__(
        self,
        config: Path | str = "tenants.toml",
        *,
        nodes: Sequence[str] = (),
        templates: Path | None = None,
        timeout: float = 30.0,
        who: str | None = None,
        report: "Report | None" = None,
    ) -> None:
        self.config = Path(config)
        self._only = tuple(nodes)
        self._templates = templates
        self._timeout = timeout
        self.who = who or _operator()
        self._report: Report = report or _silent
        self._given: Fleet | None = None
        self._bundles: dict[str, Bundle] = {}
        self._sound: set[tuple[str, frozenset[str]]] = set()  # (tree, files) that passed

    # --- pure up to here: no Asterisk needed ---------------------------------------------------------

    @property
    def fleet(self) -> Fleet:
        """The document as values. Raises DocumentError or FleetError with all reasons."""
        if self._given is None:
            self._given = document.parse(files.read_sources(self.config))
        return self._given

    @property
    def base(self) -> Path:
        """The folder of the document; relative paths in it are seen from here."""
        return self.config.parent

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes to work on, in the order of the document. Raises UsageFault for an unknown name."""
        for name in self._only:
            must_know("node", name, self.fleet.nodes, self.config)
        if not self.fleet.nodes:
            raise UsageFault(f"{self.config} has no nodes", hint="add a [nodes.NAME] with ari and store")
        return tuple(name for name in self.fleet.nodes if not self._only or name in self._only)

    @cached_property
    def templates(self) -> "TemplateSet":
        from voxtractl.render import templates

        return templates.find(self._templates, self.base)

    @cached_property
    def _secrets(self) -> Mapping[str, Secret]:
        """Trunk passwords by tenant of these nodes. All that cannot be read are named at once."""
        found: dict[str, Secret] = {}
        broken: list[SettingsError] = []
        for slug, tenant in self._tenants():
            if tenant.trunk and tenant.trunk.password:
                try:
                    found[slug] = tenant.trunk.password.resolve(self.base)
                except SettingsError as exc:
                    broken.append(exc)
        if broken:
            first = broken[0]
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            raise SettingsError(
                first.message + more,
                hint=first.hint,
                details={"secrets": [exc.message for exc in broken]},
            )
        return found

    def bundle(self, node: str) -> "Bundle":
        """All files of one node, rendered (once). Raises RenderError or SettingsError."""
        if node not in self._bundles:
            from voxtractl.render import engine

            self._bundles[node] = engine.render(
                self.fleet, self.fleet.nodes[node], self.templates, self._secrets, overrides=self._overrides()
            )
        return self._bundles[node]

    def empty_bundle(self, node: str) -> "Bundle":
        """The files of a node without any tenant: what ``node init`` lays down first."""
        from voxtractl.render import bundle, engine

        prefix = engine.store_prefix(self.fleet.nodes[node])
        return bundle.assemble(node, [], {}, prefix=prefix, trunk_context=self.fleet.defaults.trunk_context)

    def lint(self, bundle: "Bundle", paths: Collection[str] | None = None) -> None:
        """Prove the rendered files (only ``paths`` when given). Raises LintFailed with all reasons."""
        from voxtractl.dialplan import lint

        reasons = lint.lint_bundle(bundle.files, self.fleet, bundle.node, only=paths)
        if reasons:
            raise LintFailed(f"{len(reasons)} faults in what was rendered for {bundle.node}", reasons)

    def _inspect(self, bundle: "Bundle", plan: "Plan") -> None:
        """Prove what a plan would put on its node; what it leaves alone was proven when it came there."""
        paths = frozenset(change.path for change in plan.files)
        if (bundle.tree, paths) not in self._sound:
            self.lint(bundle, paths)
            self._sound.add((bundle.tree, paths))

    def _overrides(self) -> "Mapping[tuple[str, str], Template]":
        from voxtractl.render import templates

        return {
            (slug, kind): templates.read(self.base / name, slug)
            for slug, tenant in self._tenants()
            for kind, name in tenant.templates.items()
        }

    def _tenants(self) -> Iterator[tuple[str, "Tenant"]]:
        """Those on the nodes to work on: what only other nodes need may be kept elsewhere."""
        nodes = set(self.nodes)
        for slug, tenant in self.fleet.tenants.items():
            if not tenant.nodes or nodes.intersection(tenant.nodes):
                yield slug, tenant

    # --- nodes ------------------------------------------------------------------------------------------

    def password(self, node: str) -> Secret:
        """The ARI password of a node. Raises SettingsError."""
        return self.fleet.nodes[node].ari_password.resolve(self.base)

    def store(self, node: str) -> "Store":
        """The node's store, not yet connected."""
        from voxtractl.deploy.store import open_store

        return open_store(self._local(self.fleet.nodes[node]), timeout=self._timeout)

    def ari(self, node: str) -> "ARIClient":
        """The node's ARI client, not yet connected."""
        from voxtractl.ari.client import ARIClient

        found = self.fleet.nodes[node]
        password = self.password(node)
        return ARIClient(found.ari, found.ari_user, password, timeout=self._timeout)

    def _local(self, node: Node) -> Node:
        """The node with its key file as seen from here, not from the document."""
        return (
            replace(node, identity=str(self.base / Path(node.identity).expanduser()))
            if node.identity
            else node
        )

    @asynccontextmanager
    async def open(self, node: str) -> "AsyncIterator[tuple[Store, ARIClient]]":
        """Both doors of a node. Raises NodeUnreachable, NodeAuthFailed, HostKeyUnknown, HostKeyChanged."""
        async with self.ari(node) as ari, self.store(node) as store:
            yield store, ari

    @asynccontextmanager
    async def at_work(self, node: str) -> "AsyncIterator[tuple[Store, ARIClient]]":
        """As ``open``; the reporter is told when the node begins, and when it has ended (an empty step)."""
        self._report(node, "connect")
        try:
            async with self.open(node) as doors:
                yield doors
        finally:
            self._report(node, "")

    # --- the work ---------------------------------------------------------------------------------------

    async def plan(self) -> "tuple[Plan, ...]":
        """What a push would do to each node; reads the nodes' files, asks no Asterisk.

        There is no plan while a node cannot be read: raises NodeError; details["lines"] are all such nodes.
        """
        from voxtractl.deploy.plan import diff
        from voxtractl.deploy.rollout import conclude_nodes

        plans: list[Plan] = []
        unread: dict[str, NodeError] = {}
        for node in self.nodes:
            bundle = self.bundle(node)
            try:
                async with self.store(node) as store:
                    plan = diff(await store.observe(), bundle)
            except NodeError as exc:
                unread[node] = exc
                continue
            self._inspect(bundle, plan)
            plans.append(plan)
        conclude_nodes(unread, list(unread))  # as if there were no others: without them nothing is planned
        return tuple(plans)

    async def texts(self, plan: "Plan") -> dict[str, tuple[bytes, bytes]]:
        """Old and new content of every file the plan changes, for showing the difference."""
        bundle = self.bundle(plan.node)
        paths = [change.path for change in plan.files]
        async with self.store(plan.node) as store:
            old = await store.read(paths) if plan.base else {}
        return {path: (old.get(path, b""), bundle.files.get(path, b"")) for path in paths}

    async def push(
        self, allowed: Allowed | None = None, rollout: "Rollout | None" = None
    ) -> "tuple[Result, ...]":
        """Bring every node to the document, canary first, and prove it. Never raises for a node: see
        ``deploy.rollout.conclude``. Raises StalePlan when ``allowed.reviewed`` names another plan."""
        from voxtractl.deploy import steps
        from voxtractl.deploy.rollout import Rollout, roll_out

        allowed = allowed or Allowed()
        options = await self._options(allowed)

        async def one(node: str) -> "Result":
            bundle = self.bundle(node)
            inspect = partial(self._inspect, bundle)
            async with self.at_work(node) as (store, ari):
                return await steps.push(store, ari, bundle, options[node], inspect, self._report)

        return self.audit(await roll_out(self.nodes, one, rollout or Rollout()))

    async def _options(self, allowed: Allowed) -> "dict[str, Options]":
        """The options of each node. A reviewed digest of several nodes is taken apart by planning again."""
        from voxtractl import __version__
        from voxtractl.deploy.plan import plans_digest
        from voxtractl.deploy.steps import Options

        reviewed: dict[str, str | None] = dict.fromkeys(self.nodes, allowed.reviewed)
        if allowed.reviewed is not None and len(self.nodes) > 1:
            plans = await self.plan()
            if plans_digest(plans) != allowed.reviewed:
                raise StalePlan(
                    "a node or the document changed since the plan was reviewed",
                    where=str(self.config),
                    hint="look at `voxtractl dialplan plan` again and push its digest",
                    details={"reviewed": allowed.reviewed, "now": plans_digest(plans)},
                )
            reviewed = {plan.node: plan.digest for plan in plans}
        return {
            node: Options(
                who=self.who,
                tool=f"voxtractl {__version__}",
                allow_deletes=allowed.deletes,
                allow_move=allowed.move,
                overwrite_drift=allowed.overwrite_drift,
                reviewed=digest,
            )
            for node, digest in reviewed.items()
        }

    async def rollback(self, revision: str | None = None) -> "tuple[Result, ...]":
        """Every node back to ``revision``, or to its last proven one."""
        from voxtractl.deploy import steps
        from voxtractl.deploy.rollout import Rollout, roll_out

        options = await self._options(Allowed())

        async def one(node: str) -> "Result":
            async with self.at_work(node) as (store, ari):
                return await steps.rollback(store, ari, node, revision, options[node], self._report)

        return self.audit(await roll_out(self.nodes, one, Rollout()))

    async def reload(self, kinds: Collection[str] = ("extensions",)) -> "tuple[Result, ...]":
        """Let every Asterisk read its current revision again, and prove it."""
        from voxtractl.deploy import steps

        return await self._each(lambda node, store, ari: steps.reload(store, ari, node, kinds, self._report))

    async def verify(self, tenants: Collection[str] | None = None) -> "tuple[Result, ...]":
        """Prove the current revision of every node, or these tenants of it."""
        from voxtractl.deploy import steps

        return await self._each(
            lambda node, store, ari: steps.verify(store, ari, node, tenants, self._report)
        )

    async def _each(
        self, work: "Callable[[str, Store, ARIClient], Awaitable[Result]]"
    ) -> "tuple[Result, ...]":
        from voxtractl.deploy.rollout import Rollout, roll_out

        async def one(node: str) -> "Result":
            async with self.at_work(node) as (store, ari):
                return await work(node, store, ari)

        everything = Rollout(canaries=0, batch=PARALLEL_READS, failures=len(self.nodes))
        return await roll_out(self.nodes, one, everything)

    async def status(self) -> "tuple[Status, ...]":
        """What every node is: its files, what Asterisk runs of them, what the document would change. A node
        that cannot be read says so in its ``error``."""
        import asyncio

        from voxtractl.deploy import steps

        async def one(node: str) -> "Status":
            bundle = self.bundle(node)
            try:
                async with self.open(node) as (store, ari):
                    return await steps.look(store, ari, bundle)
            except (NodeError, SettingsError) as exc:  # of its own password
                return steps.Status(node=node, error=exc)

        return tuple(await asyncio.gather(*(one(node) for node in self.nodes)))

    async def history(self, node: str) -> "tuple[Record, ...]":
        """The audit lines of a node, oldest first."""
        async with self.store(node) as store:
            return await store.history()

    # --- for programs: the words of the documentation ---------------------------------------------------

    def provision(self, tenant: "Tenant") -> dict[str, str]:
        """Add or replace a tenant in this provisioner's fleet (not in the document) and render it.

        Returns the files of the first node that hold the tenant (path below the release → text); they
        contain the trunk's password. ``await push()`` or ``write_files()`` puts them on the nodes.
        """
        self._become({**self.fleet.tenants, tenant.slug: tenant})
        bundle = self.bundle(self.nodes[0])
        paths = {path for (slug, _), path in bundle.places.items() if slug == tenant.slug}
        return {path: bundle.files[path].decode() for path in sorted(paths)}

    def deprovision(self, slug: str) -> None:
        """Take a tenant out of this provisioner's fleet (not out of the document). Raises UsageFault."""
        must_know("tenant", slug, self.fleet.tenants, self.config)
        self._become({name: tenant for name, tenant in self.fleet.tenants.items() if name != slug})

    def _become(self, tenants: "Mapping[str, Tenant]") -> None:
        self._given = replace(self.fleet, tenants=tenants)
        self._bundles.clear()
        self._sound.clear()
        self.__dict__.pop("_secrets", None)

    async def write_files(self, allowed: Allowed | None = None) -> "tuple[Result, ...]":
        """Push the fleet to every node; the same as ``push``, under the name of the documentation."""
        return await self.push(allowed)

    async def reload_asterisk(
        self, ari: "ARIClient | None" = None, kinds: Collection[str] = naming.KINDS
    ) -> "tuple[Result, ...] | Proof":
        """Let Asterisk read what was pushed, and prove it. Raises ReloadFailed or VerifyFailed.

        With an open ``ari`` client: that Asterisk, which must be one of the document's nodes. Without: all.
        """
        from voxtractl.deploy import steps
        from voxtractl.deploy.rollout import conclude

        if ari is None:
            results = await self.reload(kinds)
            conclude(results)
            return results
        node = next((name for name in self.nodes if self.fleet.nodes[name].ari.rstrip("/") == ari.url), None)
        if node is None:
            raise UsageFault(f"no node of {self.config} has its ARI at {ari.url}", hint="voxtractl node list")
        async with self.store(node) as store:
            result = await steps.reload(store, ari, node, kinds, self._report)
        assert result.proof is not None  # noqa: S101  reload proves or raises
        return result.proof

    def audit(self, results: "tuple[Result, ...]") -> "tuple[Result, ...]":
        """Write each node's audit line here too; trouble with it is a warning, never the end of a push."""
        lines = "".join(result.record.to_line() for result in results if result.record)
        if not lines:
            return results
        path = audit_file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, lines.encode())
            finally:
                os.close(fd)
        except OSError as exc:
            warning = f"the local audit line could not be written to {path}: {exc.strerror}"
            return (replace(results[0], warnings=(*results[0].warnings, warning)), *results[1:])
        return results


def _operator() -> str:
    """``user@host`` of whoever runs this; behind sudo the one who typed it."""
    user = os.environ.get("SUDO_USER") or os.environ.get("LOGNAME") or getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def _silent(node: str, step: str) -> None:
    """Reports to nobody."""
