"""Renders the fleet: Fleet × node × templates × secrets → Bundle. Reads no file, no clock, no network.

The packaged templates get plain values that ``naming`` and this file have prepared, so a template holds text
and little logic. A tenant's own template (an override) is written by somebody who must not reach other
tenants: it may use only the statements and expressions of ``_OVERRIDE_NODES`` (no call, no assignment, no
arithmetic: nothing that grows or runs on), runs in the sandbox, and its output is parsed and restricted by
``dialplan.lint`` before it becomes a fragment. The alternatives are in docs/decisions/0004.

What the runtime relies on, the arguments of Stasis:

    apps = "per-tenant"    Stasis(voxtra-acme,+265999000001)             args: [number]
    apps = "shared"        Stasis(voxtra,acme,+265999000001)             args: [slug, number]
    workers = 3            Stasis(voxtra-acme-2,+265999000001)           the same, another app name

The number is a DID with its plus, an internal extension, or (for the tenant that takes what nobody owns)
whatever was dialled, reduced to digits and plus.
"""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

from voxtractl import naming
from voxtractl.dialplan import lint, quoting
from voxtractl.errors import LintFailed, RenderError, TemplateError, UnsafeValue
from voxtractl.model.fleet import Fleet
from voxtractl.model.node import Node
from voxtractl.model.tenant import Tenant
from voxtractl.render.bundle import Bundle, Fragment, TenantState, assemble
from voxtractl.render.templates import Template, TemplateSet
from voxtractl.settings import Secret

if TYPE_CHECKING:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["FRAGMENT_MAX", "OVERRIDE_MAX", "Overrides", "render", "store_prefix"]

FRAGMENT_MAX: Final = 4 * 1024 * 1024  # bytes of one fragment; 5000 DIDs of one tenant are 1.3 MB
OVERRIDE_MAX: Final = 256 * 1024  # bytes of one rendered override
OVERRIDE_TEXT_MAX: Final = 64 * 1024  # characters of its template
DIGEST_LENGTH: Final = 16

# Stands where the label will; the label is the digest of the text with this in its place. No value can hold
# it: the escaper refuses NUL everywhere.
LABEL_PLACE: Final = "\0label\0"

Overrides = Mapping[tuple[str, str], Template]  # (slug, kind) → the tenant's own template

_OVERRIDE_NODES: Final = frozenset(
    {"Template", "Output", "TemplateData", "Name", "Const", "For", "If", "CondExpr", "Compare", "Operand"}
    | {"Not", "And", "Or", "Test", "Filter", "Getattr", "Getitem", "Tuple"}
)
_OVERRIDE_FILTERS: Final = frozenset(
    {*quoting.FILTERS, "default", "first", "last", "length", "lower", "upper"}
)
_LOOPS_MAX: Final = 2  # loops inside each other: only over the values given, so their work is bounded


def render(
    fleet: Fleet,
    node: Node,
    templates: TemplateSet,
    secrets: Mapping[str, Secret],
    *,
    overrides: Overrides | None = None,
    prefix: str | None = None,
) -> Bundle:
    """The bundle of one node; the same arguments give the same bytes, in whatever order they were built.

    ``secrets`` holds the trunk password of each tenant (slug → secret) whose trunk has one. ``overrides``
    holds the templates named in ``Tenant.templates``. Raises TemplateError, UnsafeValue or LintFailed (an
    override that leaves its bounds), each naming the template and the tenant, never a secret.
    """
    return _Renderer(fleet, node, templates, secrets, overrides or {}).bundle(prefix or store_prefix(node))


def store_prefix(node: Node) -> str:
    """The store as Asterisk's configuration folder sees it: what stands in the #tryinclude lines."""
    scheme, _, rest = node.store.partition(":")
    if scheme == "memory":
        return "voxtractl"
    path = "/" + rest.removeprefix("//").partition("/")[2] if scheme == "sftp" else rest
    return posixpath.relpath(path, node.config_dir or posixpath.dirname(path.rstrip("/")))


class _Renderer:
    """One rendering of one node: what is the same for all its tenants is worked out once."""

    def __init__(
        self,
        fleet: Fleet,
        node: Node,
        templates: TemplateSet,
        secrets: Mapping[str, Secret],
        overrides: Overrides,
    ) -> None:
        self.defaults = fleet.defaults
        self.node = node.name
        self.tenants = fleet.on(node.name)
        self.dids = sum(len(tenant.dids) for tenant in self.tenants)
        self.bucketed = self.dids > naming.BUCKETS_ABOVE
        self.origins = {name: template.origin for name, template in templates.templates}
        self.compiled = _compiled(templates)
        self.secrets = secrets
        self.overrides = overrides
        hosts = Counter(tenant.trunk.host.casefold() for tenant in self.tenants if tenant.trunk)
        self.shared_hosts = {host for host, tenants in hosts.items() if tenants > 1}
        self.trunk_context = quoting.name(fleet.defaults.trunk_context, "defaults.trunk_context")
        unmatched = fleet.defaults.unmatched
        self.catch_all = None if unmatched == "reject" else unmatched
        if self.catch_all and all(tenant.slug != self.catch_all for tenant in self.tenants):
            raise RenderError(
                f"defaults.unmatched: the tenant {self.catch_all} is not on node {self.node}",
                hint="put it on every node, or set unmatched to reject",
            )

    def bundle(self, prefix: str) -> Bundle:
        fragments = [self._shared()]
        states: dict[str, TenantState] = {}
        for tenant in self.tenants:
            states[tenant.slug] = self._tenant(tenant, fragments)
        return assemble(self.node, fragments, states, prefix=prefix, trunk_context=self.trunk_context)

    def _shared(self) -> Fragment:
        numbers = [f"{number:03d}" for number in range(naming.BUCKETS)] if self.bucketed else []
        workers = self.defaults.workers
        tenant = "${ARG1}"
        values = {
            "label": LABEL_PLACE,
            "node": self.node,
            "trunk_context": self.trunk_context,
            "buckets": [(number, naming.bucket_context(number)) for number in numbers],
            "catch_all": self._catch_all_arguments(),
            "workers": workers,
            "worker_app": naming.worker_app("${ARG2}", "${VOXTRA_WORKER}", workers),
            "stasis_argument": self._stasis_argument(tenant),
            "inbound": naming.inbound_context(naming.SHARED),
            "dispatch": naming.dispatch_context(naming.SHARED),
            "outbound": naming.outbound_context(naming.SHARED),
            "queues": naming.queues_context(naming.SHARED),
            "fallback": naming.fallback_context(naming.SHARED),
            "own_fallback": naming.fallback_context(tenant),
            "own_outbound": naming.outbound_context(tenant),
            "own_trunk": naming.trunk_endpoint(tenant),
        }
        text, _ = _labelled(self._text("extensions/shared.conf.j2", values, None))
        origin = self.origins["extensions/shared.conf.j2"]
        return Fragment(naming.SHARED, "extensions", text, origin)

    def _catch_all_arguments(self) -> str:
        """Of the dispatch, for a number nobody owns: ``beta,voxtra-beta,20``; empty when it is refused."""
        for tenant in self.tenants:
            if tenant.slug == self.catch_all:
                limit = "" if tenant.max_channels is None else tenant.max_channels
                return f"{tenant.slug},{quoting.name(tenant.app, f'tenants.{tenant.slug}.app')},{limit}"
        return ""

    def _stasis_argument(self, slug: str) -> str:
        return f"{slug}," if self.defaults.apps == "shared" else ""

    def _tenant(self, tenant: Tenant, fragments: list[Fragment]) -> TenantState:
        """Add the tenant's fragments and return what is remembered of it."""
        slug = tenant.slug
        if not naming.SLUG.fullmatch(slug) or slug in naming.RESERVED_SLUGS:
            raise UnsafeValue(f"{slug!r} cannot be a tenant", hint="a to z, digits and - after a letter")
        queues = [(queue.name, naming.queue_name(slug, queue.name)) for queue in tenant.queues]
        for short, full in queues:
            quoting.name(full, f"tenants.{slug}.queues.{short}")
        common: dict[str, Any] = {
            "slug": slug,
            "name": tenant.name,
            "node": self.node,
            "queues": queues,
            "inbound_context": naming.inbound_context(slug),
            "queues_context": naming.queues_context(slug),
            "outbound_context": naming.outbound_context(slug),
            "transfer_context": naming.transfer_context(slug),
            "trunk_endpoint": naming.trunk_endpoint(slug),
            "trunk_context": self.trunk_context,
            "arrival_context": self._arrival(tenant),
        }
        label = ""
        digests: dict[str, str] = {}
        for kind, values in self._kinds(tenant):
            text, origin = self._fragment(tenant, kind, {**common, **values})
            if kind == "extensions":
                text, label = _labelled(text)
            digests[kind] = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
            fragments.append(Fragment(slug, kind, text, origin))
        return TenantState(
            label=label,
            dids=tenant.dids,
            digests=digests,
            endpoint=naming.trunk_endpoint(slug) if tenant.trunk else None,
            queues=tuple(full for _, full in queues),
        )

    def _kinds(self, tenant: Tenant) -> Iterator[tuple[str, dict[str, Any]]]:
        """The kinds this tenant has, each with the values only this kind gets."""
        yield "extensions", self._extensions(tenant)
        if tenant.trunk:
            yield "pjsip", self._pjsip(tenant)
        if tenant.queues:
            settings = [
                (
                    naming.queue_name(tenant.slug, q.name),
                    q.strategy,
                    q.timeout,
                    q.max_callers,
                    q.music,
                    q.members,
                )
                for q in tenant.queues
            ]
            yield "queues", {"settings": settings}

    def _extensions(self, tenant: Tenant) -> dict[str, Any]:
        slug, fallback, outbound = tenant.slug, tenant.fallback, tenant.outbound
        app = quoting.name(tenant.app, f"tenants.{slug}.app")
        workers = self.defaults.workers
        own_fallback = lint.owns_fallback(tenant)
        if fallback and fallback.kind == "dial" and not tenant.trunk:
            raise RenderError(
                f"tenants.{slug}.fallback.dial: the tenant has no trunk to dial over",
                where=tenant.file or None,
                hint="give it a trunk, or play a sound instead",
            )
        return {
            "label": LABEL_PLACE,
            "routes": self._routes(tenant),
            "buckets": self.bucketed,
            "app": app,
            "apps": [naming.worker_app(app, worker, workers) for worker in range(1, workers + 1)],
            "workers": workers,
            "stasis_argument": self._stasis_argument(slug),
            "dispatch": workers > 1 or tenant.max_channels is not None,
            "max_channels": "" if tenant.max_channels is None else tenant.max_channels,
            "inbound": tenant.trunk is not None or bool(tenant.extensions),
            "transfer": tenant.trunk is not None and tenant.trunk.allow_transfer,
            "extensions": tenant.extensions,
            "fallback_context": naming.fallback_context(slug if own_fallback else naming.SHARED),
            "own_fallback": own_fallback,
            "fallback_kind": fallback.kind if fallback else "none",
            "fallback": fallback.value if fallback else "",
            "outbound": outbound is not None and tenant.trunk is not None,
            "caller_id": outbound.caller_ids[0] if outbound and outbound.caller_ids else "",
            "other_caller_ids": outbound.caller_ids[1:] if outbound else (),
            "prefixes": _prefixes(outbound.allow, outbound.deny) if outbound else (),
            "shared_inbound": naming.inbound_context(naming.SHARED),
            "shared_dispatch": naming.dispatch_context(naming.SHARED),
            "shared_outbound": naming.outbound_context(naming.SHARED),
            "shared_queues": naming.queues_context(naming.SHARED),
        }

    def _routes(self, tenant: Tenant) -> list[tuple[str, list[tuple[str, str]]]]:
        """The tenant's DIDs by the context they stand in."""
        routes: dict[str, list[tuple[str, str]]] = {}
        for did in tenant.dids:
            if not naming.DID.fullmatch(did):
                raise UnsafeValue(f"tenants.{tenant.slug}.dids: not a number in E.164", hint="+265999000001")
            context = naming.did_context(did, self.trunk_context, self.dids)
            routes.setdefault(context, []).append((did, did[1:]))
        return sorted(routes.items())

    def _arrival(self, tenant: Tenant) -> str:
        """Where the calls of its own trunk arrive.

        Asterisk knows a carrier by its address only, so of two tenants at one carrier the first would get the
        calls of both (measured). Such a carrier is everybody's: its calls are routed by DID.
        """
        if tenant.trunk and tenant.trunk.host.casefold() in self.shared_hosts:
            return self.trunk_context
        return naming.inbound_context(tenant.slug)

    def _pjsip(self, tenant: Tenant) -> dict[str, Any]:
        trunk = tenant.trunk
        assert trunk is not None  # noqa: S101 - _kinds asked
        secret = self.secrets.get(tenant.slug)
        if trunk.password and secret is None:
            raise RenderError(
                f"tenants.{tenant.slug}.trunk: its password was not given to the renderer",
                where=tenant.file or None,
                hint=f"{trunk.password.where} names where it is kept",
            )
        return {
            "host": trunk.host,
            "port": trunk.port,
            "username": trunk.username,
            "password": secret.reveal() if secret and trunk.password else None,
            "codecs": ",".join(trunk.codecs),
            "transport": trunk.transport,
            "register": trunk.register,
            "allow_transfer": trunk.allow_transfer,
            "caller_ids": tenant.outbound.caller_ids if tenant.outbound else (),
        }

    def _fragment(self, tenant: Tenant, kind: str, values: dict[str, Any]) -> tuple[str, str]:
        """Text and origin of one fragment, from the tenant's own template where it has one."""
        if kind not in tenant.templates:
            name = f"{kind}/tenant.conf.j2"
            return self._text(name, values, tenant), self.origins[name]
        override = self.overrides.get((tenant.slug, kind))
        if override is None:
            raise TemplateError(
                f"the {kind} template of tenant {tenant.slug} was not given to the renderer",
                template=tenant.templates[kind],
                tenant=tenant.slug,
                hint="check the path under templates",
            )
        text = self._override(override, values, tenant)
        bounds = replace(lint.bounds_of(tenant, self.defaults, self.dids), arrival=values["arrival_context"])
        reasons = lint.restrict(kind, text.replace(LABEL_PLACE, "v-label"), bounds, file=override.origin)
        if reasons:
            raise LintFailed(
                f"the {kind} template of tenant {tenant.slug} leaves its bounds: {reasons[0].what}",
                reasons,
                hint=reasons[0].todo,
            )
        return text, override.origin

    def _text(self, name: str, values: Mapping[str, Any], tenant: Tenant | None) -> str:
        origin = self.origins[name]
        try:
            text = _rendered(self.compiled[name], values)
        except _faults():
            text = self._slowly(name, values, tenant)
        return _bounded(text, FRAGMENT_MAX, origin, tenant)

    def _slowly(self, name: str, values: Mapping[str, Any], tenant: Tenant | None) -> str:
        """Once more in Jinja's own way, which tells the template's lines from those of its compiled code."""
        try:
            return self.compiled[name].render(values)
        except _faults() as exc:
            raise _translated(exc, self.origins[name], values, tenant) from None

    def _override(self, override: Template, values: Mapping[str, Any], tenant: Tenant) -> str:
        text: list[str] = []
        size = 0
        try:
            for piece in _compile(override, restricted=True).generate(values):
                text.append(piece)
                size += len(piece)
                if size > OVERRIDE_MAX:
                    break
        except _faults() as exc:
            raise _translated(exc, override.origin, values, tenant) from None
        return _bounded("".join(text), OVERRIDE_MAX, override.origin, tenant)


@lru_cache(maxsize=1024)  # most tenants of a fleet share a few sets of rules
def _prefixes(allow: tuple[str, ...], deny: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
    """(pattern, allowed) for each prefix; one in both lists is denied. Asterisk prefers the longest."""
    verdicts = dict.fromkeys(allow, True) | dict.fromkeys(deny, False)
    return tuple((quoting.prefix(text, "outbound prefixes"), verdicts[text]) for text in sorted(verdicts))


def _labelled(text: str) -> tuple[str, str]:
    """The text with its own label in place, and the label."""
    label = naming.label(text.encode())
    return text.replace(LABEL_PLACE, label), label


# --- Jinja ------------------------------------------------------------------------------------------------


def _rendered(template: "jinja2.Template", values: Mapping[str, Any]) -> str:
    """As ``template.render``, which spends a third of its time on merging globals for each fragment."""
    environment = template.environment
    names = {**environment.globals, **values}
    context = environment.context_class(environment, names, template.name, template.blocks)
    return "".join(template.root_render_func(context))


@lru_cache(maxsize=8)
def _compiled(templates: TemplateSet) -> dict[str, "jinja2.Template"]:
    """Every template of a set, compiled once."""
    compiled: dict[str, jinja2.Template] = {}
    for name, template in templates.templates:
        try:
            compiled[name] = _compile(template, restricted=False)
        except _faults() as exc:
            raise _translated(exc, template.origin, {}, None) from exc
    return compiled


@lru_cache(maxsize=1)
def _environment() -> "ImmutableSandboxedEnvironment":
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # this is not HTML; quoting.py escapes
        loader=None,
    )
    environment.filters.update(quoting.FILTERS)
    return environment


def _compile(template: Template, *, restricted: bool) -> "jinja2.Template":
    import jinja2

    environment = _environment()
    tree = environment.parse(template.text, filename=template.origin)
    if restricted:
        _restrict(tree, template)
    code: CodeType = environment.compile(tree, filename=template.origin)
    return jinja2.Template.from_code(environment, code, environment.make_globals(None))


def _restrict(tree: "jinja2.nodes.Template", template: Template) -> None:
    """Refuse whatever an override may not use; what is left cannot run longer than its values are."""
    from jinja2 import TemplateAssertionError, nodes

    def refuse(what: str, line: int) -> None:
        raise TemplateAssertionError(
            f"a tenant's template may not use {what}", line, filename=template.origin
        )

    def walk(node: nodes.Node, loops: int) -> None:
        kind = type(node).__name__
        if kind not in _OVERRIDE_NODES:
            refuse(f"{kind.lower()}", node.lineno)
        if isinstance(node, nodes.Filter) and node.name not in _OVERRIDE_FILTERS:
            refuse(f"the filter {node.name}", node.lineno)
        if isinstance(node, nodes.For):
            loops += 1
            if node.recursive or loops > _LOOPS_MAX:
                refuse("more than two loops inside each other", node.lineno)
        for child in node.iter_child_nodes():
            walk(child, loops)

    if len(template.text) > OVERRIDE_TEXT_MAX:
        refuse(f"more than {OVERRIDE_TEXT_MAX} characters", 1)
    walk(tree, 0)


def _bounded(text: str, most: int, origin: str, tenant: Tenant | None) -> str:
    """The text as a whole number of lines, if it is not longer than ``most`` bytes."""
    if len(text) * 4 > most and len(text.encode()) > most:  # UTF-8 is at most 4 bytes a character
        raise TemplateError(
            f"the template makes more than {most} bytes",
            template=origin,
            tenant=tenant.slug if tenant else None,
            hint="look for a loop that repeats more than it should",
        )
    return text if text.endswith("\n") else f"{text}\n"


@lru_cache(maxsize=1)
def _faults() -> tuple[type[Exception], ...]:
    """What a template can raise: the escaper, Jinja, and Python for `1 / 0` or `none + 1` in it."""
    import jinja2

    return (
        UnsafeValue,
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    )


def _translated(
    exc: Exception, origin: str, values: Mapping[str, Any], tenant: Tenant | None
) -> TemplateError | UnsafeValue:
    """Our error for one that came out of a template. A secret in its text becomes stars."""
    slug = tenant.slug if tenant else None
    if isinstance(exc, UnsafeValue):
        return UnsafeValue(
            f"tenant {slug}: {exc.message}" if slug else exc.message,
            where=tenant.file if tenant and tenant.file else origin,
            hint=exc.hint,
            details={"template": origin, "tenant": slug},
        )
    text = str(exc) or type(exc).__name__
    password = values.get("password")
    if password:
        text = text.replace(password, "****")
    known = ", ".join(sorted(values))
    return TemplateError(
        f"{text} (tenant {slug})" if slug else text,
        template=origin,
        line=_line(exc, origin),
        tenant=slug,
        hint=f"the values it gets: {known}"
        if known
        else "see the comment at the top of the packaged template",
    )


def _line(exc: Exception, origin: str) -> int:
    """Where in the template: a syntax error knows; else the innermost frame that runs template code."""
    line = getattr(exc, "lineno", None)
    if isinstance(line, int):
        return line
    line = 0
    frame = exc.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == origin:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
