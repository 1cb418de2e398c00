"""All tenants and nodes together, and the rules that only show when one looks at all of them.

``check`` returns every broken rule as (path in the document, what, todo); ``document.py`` turns paths into
lines and raises. Nothing here reads a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from voxtractl.model.node import Node
from voxtractl.model.tenant import Tenant

__all__ = ["Defaults", "Fleet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
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
