"""One tenant as a value: what the document says of it, with defaults filled in. Rules across tenants live in
``fleet.py``, reading and writing in ``document.py``, names on Asterisk in ``naming.py``.

The parts of a tenant are named tuples: a frozen dataclass costs every command 1.2 ms to define (a tuple 0.2)
and every value 2.9 us to make (0.5), of which 10,000 tenants have 50,000 (measured).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from voxtractl.settings import SecretRef

__all__ = ["Fallback", "Outbound", "Queue", "Tenant", "Trunk"]


class Trunk(NamedTuple):
    """The tenant's own carrier connection; becomes one PJSIP endpoint (``naming.trunk_endpoint``)."""

    host: str
    port: int | None = None
    username: str | None = None
    password: SecretRef | None = None
    codecs: tuple[str, ...] = ("ulaw", "alaw")
    transport: str | None = None  # name of a PJSIP transport of the node; Asterisk picks one when absent
    register: bool = False  # register with the carrier (needs username and password)
    allow_transfer: bool = False  # it may connect a caller elsewhere by itself (SIP REFER)


class Queue(NamedTuple):
    """A queue of the tenant; ``name`` is the short one (``support``), Asterisk sees ``acme-support``."""

    name: str
    members: tuple[str, ...] = ()
    strategy: str = "ringall"
    timeout: int = 15  # seconds a member rings
    max_callers: int = 0  # waiting at most; 0: no limit (Asterisk's maxlen)
    music: str = "default"


class Outbound(NamedTuple):
    """What the tenant may dial. Absent: it cannot dial out."""

    caller_ids: tuple[str, ...]
    allow: tuple[str, ...] = ()  # prefixes; the longest prefix of allow and deny wins
    deny: tuple[str, ...] = ()
    calls_per_second: float = 1.0

    def allows(self, number: str) -> bool:
        """Whether the longest prefix of the number allows it; one that is in both lists is denied."""
        allowed, denied = (
            max((len(prefix) for prefix in prefixes if number.startswith(prefix)), default=-1)
            for prefixes in (self.allow, self.deny)
        )
        return allowed > denied


class Fallback(NamedTuple):
    """What a caller gets when no runtime is connected: a sound, a number over the own trunk, or a queue."""

    kind: Literal["play", "dial", "queue"]
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    slug: str
    name: str
    app: str  # rendered Stasis app name (of worker 1 when workers = 1)
    dids: tuple[str, ...] = ()
    extensions: tuple[
        str, ...
    ] = ()  # internal numbers such as 1000, reachable through the tenant's own trunk context
    handler: str | None = None
    max_channels: int | None = None
    max_media_legs: int | None = None  # in one runtime process; None: what the runtime allows
    fallback: Fallback | None = None
    nodes: tuple[str, ...] = ()  # empty: all nodes
    trunk: Trunk | None = None
    queues: tuple[Queue, ...] = ()
    outbound: Outbound | None = None
    templates: Mapping[str, str] = field(default_factory=dict)  # kind → the tenant's own template file
    file: str = ""  # the document file it stands in
