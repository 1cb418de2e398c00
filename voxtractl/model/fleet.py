"""All tenants and nodes together, and the rules that only show when one looks at all of them.

``check`` returns every broken rule as a Fault at its key; ``document.py`` turns keys into lines and raises.
Nothing here reads a file.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, NamedTuple

from voxtractl import naming
from voxtractl.errors import UsageFault
from voxtractl.model.forms import Fault, close, shown
from voxtractl.model.keys import Key
from voxtractl.model.node import Node
from voxtractl.model.tenant import Tenant

__all__ = ["SLUG_TAG", "Defaults", "Fleet", "check", "must_know"]

_CONTEXTS: Final = (
    naming.dispatch_context,
    naming.fallback_context,
    naming.inbound_context,
    naming.outbound_context,
    naming.queues_context,
    naming.transfer_context,
)
SLUG_TAG: Final = "{{ slug }}"  # the one thing that is replaced in app_name
FEW: Final = 5  # names that an error lists


class Defaults(NamedTuple):
    app_name: str = "voxtra-{{ slug }}"
    apps: str = "per-tenant"  # or "shared"
    workers: int = 1
    trunk_context: str = "from-trunk"
    unmatched: str = "reject"  # or the slug of the catch-all tenant


@dataclass(frozen=True)
class Fleet:
    """The whole document as values. Tenants and nodes are keyed by name, in the order of the document."""

    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    defaults: Defaults = field(default_factory=Defaults)

    def on(self, node: str) -> tuple[Tenant, ...]:
        """The tenants of one node, sorted by slug."""
        return tuple(
            sorted((t for t in self.tenants.values() if not t.nodes or node in t.nodes), key=lambda t: t.slug)
        )

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """DID → slug of its owner."""
        return {did: tenant.slug for tenant in self.tenants.values() for did in tenant.dids}


def must_know(kind: Literal["tenant", "node"], name: str, there: Iterable[str], where: object) -> None:
    """Raises UsageFault when it is not ``there``, with the name that was probably meant."""
    there = list(there)
    if name not in there:
        near = close(name, there)
        all_of_them = (
            f"{kind}s are: {', '.join(there)}" if 0 < len(there) <= FEW else f"voxtractl {kind} list"
        )
        raise UsageFault(
            f"there is no {kind} {shown(name)} in {where}",
            hint=f"did you mean {near}?" if near else all_of_them,
        )


def check(fleet: Fleet, *, complete: bool = True) -> list[Fault]:
    """Every rule that tenants and nodes break together.

    With ``complete`` False a part of the document could not be read, and nobody can say what is missing.
    """
    return [
        *_one_owner(fleet),
        *_queues(fleet),
        *_apps(fleet),
        *_node_names(fleet),
        *_foreign_members(fleet),
        *(_missing(fleet) if complete else ()),
    ]


def _one_owner(fleet: Fleet) -> Iterator[Fault]:
    """A number leads to one tenant, and nobody calls under the number of another."""
    owners: dict[str, Tenant] = {}
    for tenant in fleet.tenants.values():
        for i, did in enumerate(tenant.dids):
            owner = owners.setdefault(did, tenant)
            if owner is not tenant and did:
                key = ("tenants", owner.slug, "dids", owner.dids.index(did))
                yield Fault(
                    tenant.file,
                    ("tenants", tenant.slug, "dids", i),
                    f"DID {did} already belongs to {owner.slug}",
                    "give it to one of them",
                    (owner.file, key),
                )
    shown: dict[str, Tenant] = {}
    for tenant in fleet.tenants.values():
        if tenant.outbound is None:
            continue
        for i, number in enumerate(tenant.outbound.caller_ids):
            if not number.startswith("+"):
                continue  # an internal extension means something else at each tenant
            first = shown.setdefault(number, tenant)
            owner = owners.get(number, first)
            if owner is tenant:
                continue
            if number in owners:
                other: Key = ("tenants", owner.slug, "dids", owner.dids.index(number))
            else:
                index = first.outbound.caller_ids.index(number) if first.outbound else 0
                other = ("tenants", owner.slug, "outbound", "caller_ids", index)
            yield Fault(
                tenant.file,
                ("tenants", tenant.slug, "outbound", "caller_ids", i),
                f"caller ID {number} belongs to {owner.slug}",
                "call under a number of this tenant",
                (owner.file, other),
            )


def _queues(fleet: Fleet) -> Iterator[Fault]:
    """``a-b`` + ``c`` and ``a`` + ``b-c`` are the same queue on Asterisk."""
    owners: dict[str, tuple[Tenant, str]] = {}
    for tenant in fleet.tenants.values():
        for queue in tenant.queues:
            name = naming.queue_name(tenant.slug, queue.name)
            owner, short = owners.setdefault(name, (tenant, queue.name))
            key = ("tenants", tenant.slug, "queues", queue.name)
            if owner is not tenant:
                yield Fault(
                    tenant.file,
                    key,
                    f"Asterisk would know it as {name}, and so the queue {short} of {owner.slug}",
                    "rename one of the queues",
                    (owner.file, ("tenants", owner.slug, "queues", short)),
                )
            elif name == naming.LOADED_CONTEXT or name.startswith(naming.END_CONTEXT):
                yield Fault(tenant.file, key, f"voxtractl needs the name {name} itself", "rename the queue")


def _apps(fleet: Fleet) -> Iterator[Fault]:
    """Two tenants in one Stasis app would get each other's calls."""
    if fleet.defaults.apps != "per-tenant":
        return
    template = fleet.defaults.app_name
    groups: dict[str, list[Tenant]] = {}
    for tenant in fleet.tenants.values():
        groups.setdefault(tenant.app.casefold(), []).append(tenant)
    if SLUG_TAG not in template and len(same := groups.pop(template.casefold(), [])) > 1:
        yield Fault(
            "",
            ("defaults", "app_name"),
            f"it gives {len(same)} tenants the same Stasis app",
            f'write "{template}-{SLUG_TAG}", or set apps = "shared"',
        )
    for group in groups.values():
        for i, tenant in enumerate(group[1:], 1):
            first = next((other for other in group[:i] if _share_node(other, tenant)), None)
            if first is not None:
                yield Fault(
                    tenant.file,
                    ("tenants", tenant.slug, "app"),
                    f"the Stasis app {tenant.app} belongs to {first.slug}",
                    'give it another app, or set defaults.apps = "shared"',
                    (first.file, ("tenants", first.slug, "app")),
                )


def _share_node(one: Tenant, other: Tenant) -> bool:
    return not one.nodes or not other.nodes or not set(one.nodes).isdisjoint(other.nodes)


def _node_names(fleet: Fleet) -> Iterator[Fault]:
    """Names that differ in case only are one name to a person, and one file on some disks."""
    seen: dict[str, str] = {}
    for node in fleet.nodes.values():
        first = seen.setdefault(node.name.casefold(), node.name)
        if first != node.name:
            yield Fault(
                node.file,
                ("nodes", node.name),
                f"it differs from node {first} in case only",
                "rename one",
                (fleet.nodes[first].file, ("nodes", first)),
            )


def _foreign_members(fleet: Fleet) -> Iterator[Fault]:
    """A queue must not ring through the contexts or the trunk of another tenant: that tenant pays."""
    for tenant in fleet.tenants.values():
        for queue in tenant.queues:
            for i, member in enumerate(queue.members):
                owner = _owner_of(member, tenant.slug, fleet) if "-" in member else None
                if owner is not None:
                    yield Fault(
                        tenant.file,
                        ("tenants", tenant.slug, "queues", queue.name, "members", i),
                        f"{member} goes through what belongs to {owner}",
                        "use an own endpoint or context",
                        (fleet.tenants[owner].file, ("tenants", owner)),
                    )


def _owner_of(member: str, slug: str, fleet: Fleet) -> str | None:
    """The other tenant whose context or trunk a member names."""
    technology, _, rest = member.partition("/")
    words = rest.replace("@", "/").split("/")
    if technology == "Local":
        own = {make(slug) for make in _CONTEXTS}
        pattern = "|".join(make("(.+)") for make in _CONTEXTS)
        found = [re.fullmatch(pattern, word) for word in words[1:] if word not in own]
        owners = [match[match.lastindex or 0] for match in found if match]
    else:
        owners = [word.removesuffix("-trunk") for word in words if word.endswith("-trunk")]
    return next((owner for owner in owners if owner != slug and owner in fleet.tenants), None)


def _missing(fleet: Fleet) -> Iterator[Fault]:
    """Names that lead nowhere."""
    for tenant in fleet.tenants.values():
        for i, node in enumerate(tenant.nodes):
            if node and node not in fleet.nodes:
                near = close(node, fleet.nodes)
                todo = f'did you mean "{near}"?' if near else f"add [nodes.{node}]"
                key = ("tenants", tenant.slug, "nodes", i)
                yield Fault(tenant.file, key, f"there is no node {node}", todo)
    slug = fleet.defaults.unmatched
    if slug == "reject":
        return
    catch_all = fleet.tenants.get(slug)
    at = ("defaults", "unmatched")
    if catch_all is None:
        near = close(slug, ("reject", *fleet.tenants))
        todo = f'did you mean "{near}"?' if near else 'write "reject" or the slug of a tenant'
        yield Fault("", at, "there is no such tenant", todo)
    elif catch_all.nodes and (absent := [node for node in fleet.nodes if node not in catch_all.nodes]):
        yield Fault(
            "",
            at,
            f"{slug} is to catch every number, but is not on node {absent[0]}",
            f"remove nodes from {slug}, or choose another tenant",
            (catch_all.file, ("tenants", slug, "nodes")),
        )
