"""Small real bundles and their manifests, for tests that push something; no template engine, no document."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from voxtractl import naming
from voxtractl.deploy.revision import Manifest, Record, manifest_of, revision_id
from voxtractl.render.bundle import Bundle, Fragment, TenantState, assemble

__all__ = ["START", "bundle_of", "manifest_for", "record_for"]

START = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)


def bundle_of(tenants: Mapping[str, str], node: str = "pbx1") -> Bundle:
    """A bundle of ``slug → DID`` with a dialplan and a queue for each."""
    fragments: list[Fragment] = []
    states: dict[str, TenantState] = {}
    for slug, did in tenants.items():
        label = naming.label(f"{slug} {did}".encode())
        dialplan = (
            f"[from-trunk]\nexten => {did},1({label}),NoOp(Inbound for {slug})\n same => n,Stasis({slug})\n"
        )
        queue = f"[{slug}-support]\nmember => PJSIP/agent1\n"
        fragments.append(Fragment(slug, "extensions", dialplan, "test"))
        fragments.append(Fragment(slug, "queues", queue, "test"))
        states[slug] = TenantState(label, (did,), {"extensions": label, "queues": label})
    return assemble(node, fragments, states, prefix="voxtractl", trunk_context="from-trunk")


def manifest_for(bundle: Bundle, after: int = 0, base: str | None = None) -> Manifest:
    """The manifest of a push ``after`` seconds past START."""
    when = START + timedelta(seconds=after)
    revision = revision_id(bundle.tree, when)
    return manifest_of(bundle, revision=revision, who="alice", when=when, base=base, tool="voxtractl test")


def record_for(manifest: Manifest) -> Record:
    return Record(
        when=manifest.when,
        who=manifest.who,
        node=manifest.node,
        outcome="pushed",
        revision=manifest.revision,
        base=manifest.base,
        tenants=len(manifest.tenants),
    )
