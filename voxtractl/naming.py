"""The only place that knows how a tenant's names on Asterisk are made; pure functions of a slug.

Every name a tenant owns is ``prefix + slug + a suffix from a closed set``, so two different slugs can never
meet in one name. A queue is the exception (``acme-support``: the documented name, without a prefix), and the
fleet rules therefore check queues across tenants. Slugs are refused, never rewritten.
"""

import re
from typing import Final

__all__ = [
    "APP_MAX",
    "BUCKETS",
    "BUCKETS_ABOVE",
    "CONTEXT_MAX",
    "DID",
    "END_CONTEXT",
    "INTERNAL_EXTENSION",
    "KINDS",
    "LABEL_LENGTH",
    "LOADED_CONTEXT",
    "NODE",
    "RESERVED_SLUGS",
    "SHARDS",
    "SHARD_ABOVE",
    "SHARED",
    "SLUG",
    "bucket_context",
    "did_context",
    "dispatch_context",
    "end_template",
    "fallback_context",
    "fragment_file",
    "inbound_context",
    "label",
    "outbound_context",
    "queue_name",
    "queues_context",
    "transfer_context",
    "tree_label",
    "trunk_endpoint",
    "worker_app",
]

SLUG: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")  # use fullmatch
RESERVED_SLUGS: Final = frozenset({"general", "globals", "default", "index", "current", "shared"})
DID: Final = re.compile(
    r"\+[1-9][0-9]{6,14}"
)  # E.164, with the plus; [0-9] because \d also takes Arabic digits
INTERNAL_EXTENSION: Final = re.compile(r"[0-9*#]{1,15}")
NODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

APP_MAX: Final = (
    73  # Asterisk prefixes `stasis-` and cuts at 80: a longer name is an HTTP 500 (measured on 22.10)
)
CONTEXT_MAX: Final = 79  # longer context names are cut silently and may merge (measured)

KINDS: Final = ("extensions", "pjsip", "queues")  # one Asterisk file each, in the order they are loaded
SHARED: Final = "shared"  # the fragment that belongs to no tenant: unmatched numbers, bucket routing

# One file per tenant makes 1000 endpoints cost 12 s on the first reload, 64 files 0.16 s (measured).
SHARD_ABOVE: Final = 64
SHARDS: Final = 64

# A sorted list in Asterisk: 30 000 DIDs in one context reload in 8.1 s,
# in 1000 buckets in 0.08 s (measured).
BUCKETS: Final = 1000
# DIDs on a node, each with and without its plus: reload CPU at 1000 is 50 ms flat against 25 ms in buckets,
# at 2000 190 against 55 ms, at 5000 1120 against 150 ms (measured on 22.10 with whole tenants).
BUCKETS_ABOVE: Final = 1000

LABEL_LENGTH: Final = 12
END_CONTEXT: Final = "voxtractl-end"
LOADED_CONTEXT: Final = "voxtractl-loaded"


def fallback_context(slug: str) -> str:
    """Where a call goes when no runtime is connected."""
    return f"voxtra-{slug}-fallback"


def inbound_context(slug: str) -> str:
    """Where the tenant's own trunk endpoint delivers its calls."""
    return f"voxtra-{slug}-inbound"


def queues_context(slug: str) -> str:
    """Where a session continues to enter one of the tenant's queues."""
    return f"voxtra-{slug}-queues"


def outbound_context(slug: str) -> str:
    """What the tenant may dial; exists only when the tenant has ``outbound``."""
    return f"voxtra-{slug}-outbound"


def transfer_context(slug: str) -> str:
    """Where the tenant's own trunk may send a call by itself; exists only when it may."""
    return f"voxtra-{slug}-transfer"


def queue_name(slug: str, queue: str) -> str:
    """Asterisk's name of a tenant's queue: ``acme`` + ``support`` is ``acme-support``."""
    return f"{slug}-{queue}"


def dispatch_context(slug: str) -> str:
    """Where a call is counted and offered to the workers; only the one of ``SHARED`` exists."""
    return f"voxtra-{slug}-dispatch"


def trunk_endpoint(slug: str) -> str:
    """PJSIP id of the tenant's own trunk (endpoint, auth, aor, identify and registration share it)."""
    return f"{slug}-trunk"


def worker_app(app: str, worker: int | str, workers: int) -> str:
    """Stasis app of one of ``workers`` runtime processes; a single worker has the plain name."""
    return app if workers == 1 else f"{app}-{worker}"


def bucket_context(last_digits: str) -> str:
    """Context of the DIDs that end in these three digits."""
    return f"did-{last_digits}"


def did_context(did: str, trunk_context: str, dids: int) -> str:
    """Context that holds a DID's stanza on a node of ``dids`` DIDs: the trunk context, or its bucket."""
    return trunk_context if dids <= BUCKETS_ABOVE else bucket_context(did[-3:])


def end_template(path: str, digest: str) -> str:
    """Name of the empty template that ends a generated file: ``voxtractl-end-extensions-acme-3f9c01d2``."""
    return f"{END_CONTEXT}-{path.removesuffix('.conf').replace('/', '-')}-{digest[:8]}"


def fragment_file(kind: str, slug: str, tenants: int) -> str:
    """Path below the release of this tenant's fragment, on a node of ``tenants`` tenants.

    Up to 64 tenants each has its own file; above, 64 files by hash of the slug, so that adding a tenant
    changes one file and the number of files stays what Asterisk reloads fast.
    """
    if slug == SHARED or tenants <= SHARD_ABOVE:
        return f"{kind}/{slug}.conf"
    import hashlib  # here, not above: loads OpenSSL, 3 ms of every command

    shard = hashlib.sha256(slug.encode()).digest()[0] % SHARDS
    return f"{kind}/{shard:02x}.conf"


def label(fragment: bytes) -> str:
    """Revision label of a tenant's fragment. Starts with a letter: Asterisk reads digits as a priority."""
    import hashlib

    return f"v-{hashlib.sha256(fragment).hexdigest()[:LABEL_LENGTH]}"


def tree_label(tree: str) -> str:
    """Label of ``rev`` in the end file, from the hexadecimal tree hash of a bundle."""
    return f"h-{tree[:LABEL_LENGTH]}"
