"""tenants.toml as text becomes a Fleet, or the list of everything that is wrong with it. Pure: reads no file.

    sources ─ tomli ─▶ tables ─ forms, one value each ─▶ tenants and nodes ─ fleet.check ─▶ Fleet
                                        └────────────── faults ──────────────┴─▶ FleetError(all reasons)

Positions are looked up only for what is wrong (``layout.py``): a good document of 10,000 tenants is parsed in
well under a second, and that is the way every command takes. Changing a document is ``edit.py``.
"""

import contextlib
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from voxtractl import naming
from voxtractl.errors import FleetError, Reason
from voxtractl.files import Source
from voxtractl.model import fleet as rules
from voxtractl.model import forms
from voxtractl.model.fleet import SLUG_TAG, Defaults, Fleet
from voxtractl.model.forms import BAD, Check, Fault, Faults, each, number, table
from voxtractl.model.keys import Key, NotToml, read, spell
from voxtractl.model.node import Node
from voxtractl.model.tenant import Fallback, Outbound, Queue, Tenant, Trunk
from voxtractl.settings import SecretRef

if TYPE_CHECKING:
    from voxtractl.model.layout import Layout

__all__ = ["Finder", "Source", "collector_paused", "known_keys", "parse", "place", "slug_fault"]

_PORT: Final = number(1, 65535)


def parse(sources: Sequence[Source]) -> Fleet:
    """The fleet of a document. The first source is tenants.toml; the others hold tenants only.

    Raises FleetError with every reason, syntax errors of some files and rules broken in others together.
    """
    with collector_paused():
        reader = _Reader(sources[0].file if sources else "")
        for i, source in enumerate(sources):
            reader.take(source, first=i == 0)
        fleet = Fleet(reader.tenants, reader.nodes, reader.defaults)
        faults = reader.faults.found + rules.check(fleet, complete=reader.complete)
        if not faults and not reader.reasons:
            return fleet
    finder = Finder(sources)
    reasons = sorted({*reader.reasons, *(finder.reason(fault) for fault in faults)})
    count = f"{len(reasons)} errors" if len(reasons) > 1 else "1 error"
    raise FleetError(f"{count} in the document", reasons)


def place(sources: Sequence[Source], key: Key) -> tuple[str, int, int] | None:
    """File, line and column of a key such as ``("tenants", "acme", "dids", 0)``; None when it is nowhere."""
    finder = Finder(sources)
    for source in sources:
        # A cheap look first: 10,000 files need not be scanned for one tenant.
        if len(key) < 2 or str(key[1]) in source.text:
            found = finder.exact(source.file, key)
            if found is not None:
                return (source.file, *found)
    return None


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection while values are built that all stay: 10,000 tenants in one file 0.41 s
    instead of 1.05 s (measured)."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Finder:
    """Looks up where a key stands; scans each file once, and only when asked."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._texts = {source.file: source.text for source in sources}
        self.first = sources[0].file if sources else ""
        self._layouts: dict[str, Layout] = {}

    def layout(self, file: str) -> "Layout":
        """The layout of a file; an empty one when it is not TOML."""
        from voxtractl.model.layout import Layout, scan

        if file not in self._layouts:
            text = self._texts[file]
            try:
                read(text)
            except NotToml:
                self._layouts[file] = Layout()
            else:
                self._layouts[file] = scan(text)
        return self._layouts[file]

    def exact(self, file: str, key: Key) -> tuple[int, int] | None:
        from voxtractl.model.layout import line_col

        offset = self.layout(file).places.get(key)
        return None if offset is None else line_col(self._texts[file], offset)

    def nearest(self, file: str, key: Key) -> tuple[int, int]:
        """Line and column of the key, or of the innermost table around it that is written down."""
        for size in range(len(key), 0, -1):
            if (found := self.exact(file, key[:size])) is not None:
                return found
        return 1, 1

    def reason(self, fault: Fault) -> Reason:
        file = fault.file or self.first
        what = fault.what
        if fault.also is not None:
            other, key = fault.also[0] or self.first, fault.also[1]
            what += f" ({other}:{self.nearest(other, key)[0]})"
        return Reason(file, *self.nearest(file, fault.key), spell(fault.key), what, fault.todo)


def slug_fault(slug: str) -> tuple[str, str] | None:
    """What is wrong with a slug and what to do; None when it is good. Slugs are never rewritten."""
    if not naming.SLUG.fullmatch(slug):
        return f"{forms.shown(slug)} is not a slug", forms.SLUG_TODO
    if slug in naming.RESERVED_SLUGS:
        return f"{slug} is a reserved word", "choose another slug"
    return None


# --- secrets ----------------------------------------------------------------------------------------------


_KINDS: Final[tuple[Literal["file", "env", "command"], ...]] = ("file", "env", "command")


def _plain_secret(base: str) -> Check:
    def check(value: Any, at: Key, faults: Faults) -> Any:
        faults.add(
            at,
            "a password must not stand in the document",
            f"move it away and name the place with {base}_file, {base}_env or {base}_command",
        )
        return BAD

    return check


def _secret_keys(base: str) -> dict[str, Check]:
    return {
        base: _plain_secret(base),
        f"{base}_file": forms.word("the path of a file"),
        f"{base}_env": forms.form(
            r"[A-Za-z_][A-Za-z0-9_]*",
            "the name of an environment variable",
            "write the name, not the password",
        ),
        f"{base}_command": _command,
    }


def _command(value: Any, at: Key, faults: Faults) -> Any:
    """The words of a command; they may repeat and are never shown."""
    check = forms.word("a word of the command")
    if type(value) is not list or not value:
        faults.add(at, "this is not a list of words", 'write program and arguments: ["pass", "show", "…"]')
        return BAD
    words = tuple(check(part, (*at, i), faults) for i, part in enumerate(value))
    return BAD if BAD in words else words


def _secret(
    base: str, values: dict[str, Any], raw: Any, where: str, at: Key, faults: Faults
) -> SecretRef | None:
    """Take the keys of one secret out of ``values``; ``where`` is the table's name for later errors."""
    ref = None
    given = []
    for kind in _KINDS:
        key = f"{base}_{kind}"
        if key not in raw:
            continue
        given.append(key)
        value = values.pop(key, None)
        if value is not None:
            ref = SecretRef(kind, value if kind == "command" else (value,), f"{where}.{key}")
    if len(given) > 1:
        both = " and ".join(given)
        faults.add((*at, given[1]), f"{given[0]} names the password already", f"keep one of {both}")
    return ref


# --- the tables of the document ---------------------------------------------------------------------------


def _trunk(value: Any, at: Key, faults: Faults) -> Any:
    values = table(value, at, faults, _TRUNK, ("host",))
    if values is None:
        return BAD
    password = _secret("password", values, value, f"tenants.{at[1]}.trunk", at, faults)
    if value.get("register") is True and not ("username" in value and any(k in value for k in _PASSWORDS)):
        faults.add(
            (*at, "register"), "registering needs username and password", "add both, or remove register"
        )
    return Trunk(password=password, **values) if "host" in values else BAD


def _queues(value: Any, at: Key, faults: Faults) -> Any:
    if type(value) is not dict:
        faults.add(at, f"this is {forms.kind(value)}, not a table", f"write [{spell(at)}.NAME]")
        return BAD
    queues = []
    for name, raw in value.items():
        key = (*at, name)
        if forms.queue(name, key, faults) is not BAD and (got := table(raw, key, faults, _QUEUE)) is not None:
            queues.append(Queue(name=name, **got))
    return tuple(queues)


def _outbound(value: Any, at: Key, faults: Faults) -> Any:
    values = table(value, at, faults, _OUTBOUND, ("caller_ids",))
    if values is None:
        return BAD
    both = set(values.get("allow", ())) & set(values.get("deny", ()))
    for prefix in sorted(both - {""}):
        index = values["deny"].index(prefix)
        faults.add(
            (*at, "deny", index), f'"{prefix}" is allowed and denied', "remove it from allow or from deny"
        )
    return Outbound(**values) if "caller_ids" in values else BAD


def _fallback(value: Any, at: Key, faults: Faults) -> Any:
    values = table(value, at, faults, _FALLBACK)
    if values is None:
        return BAD
    if len(value) != 1:
        faults.add(at, "a fallback is exactly one of play, dial and queue", 'write { play = "vm-goodbye" }')
        return BAD
    for kind in ("play", "dial", "queue"):
        if kind in values:
            return Fallback(kind, values[kind])
    return BAD


def _templates(value: Any, at: Key, faults: Faults) -> Any:
    values = table(value, at, faults, _TEMPLATES)
    return BAD if values is None else values


_PASSWORDS: Final = ("password_file", "password_env", "password_command", "password")
_TRUNK: Final[Mapping[str, Check]] = {
    "host": forms.host,
    "port": _PORT,
    "username": forms.username,
    **_secret_keys("password"),
    "codecs": each(forms.codec, least=1),
    "transport": forms.plain,
    "register": forms.flag,
    "allow_transfer": forms.flag,
}
_QUEUE: Final[Mapping[str, Check]] = {
    "members": each(forms.member),
    "strategy": forms.strategy,
    "timeout": number(1, 3600),
    "max_callers": number(0, 100_000),
    "music": forms.plain,
}
_OUTBOUND: Final[Mapping[str, Check]] = {
    "caller_ids": each(forms.dialled, least=1),
    "allow": each(forms.prefix),
    "deny": each(forms.prefix),
    "calls_per_second": forms.amount,
}
_FALLBACK: Final[Mapping[str, Check]] = {"play": forms.sound, "dial": forms.dialled, "queue": forms.queue}
_TEMPLATES: Final[Mapping[str, Check]] = {kind: forms.word("the path of a template") for kind in naming.KINDS}
_TENANT: Final[Mapping[str, Check]] = {
    "name": forms.name,
    "dids": each(forms.did),
    "extensions": each(forms.extension),
    "handler": forms.handler,
    "app": forms.app,
    "max_channels": number(1, 1_000_000),
    "max_media_legs": number(0, 100_000),
    "fallback": _fallback,
    "nodes": each(forms.node_name, least=1),
    "trunk": _trunk,
    "queues": _queues,
    "outbound": _outbound,
    "templates": _templates,
}
_NODE: Final[Mapping[str, Check]] = {
    "ari": forms.ari,
    "ari_user": forms.plain,
    **_secret_keys("ari_password"),
    "store": forms.store,
    "config_dir": forms.folder,
    "identity": forms.word("the path of an SSH key"),
}
_DEFAULTS: Final[Mapping[str, Check]] = {
    "app_name": forms.name,
    "apps": forms.choice("a way to make Stasis apps", "per-tenant", "shared"),
    "workers": number(1, 64),
    "trunk_context": forms.context,
    "unmatched": forms.name,
}
SHARED_APP: Final = "voxtra"  # app_name when apps = "shared" and nothing else is said
_TOP: Final = ("defaults", "nodes", "tenants")


class _Reader:
    """Collects tenants, nodes and faults, one source after the other."""

    def __init__(self, first: str) -> None:
        self.first = first
        self.defaults = Defaults()
        self.tenants: dict[str, Tenant] = {}
        self.nodes: dict[str, Node] = {}
        self.faults = Faults()
        self.reasons: list[Reason] = []  # syntax errors: they have no key
        self.complete = True  # False when something could not be read: then nobody can say what is missing

    def take(self, source: Source, *, first: bool) -> None:
        self.faults.file = source.file
        top = self._tables(source)
        if top is None:
            self.complete = False
            return
        for key in top:
            if key not in _TOP:
                near = forms.close(key, _TOP)
                todo = f"did you mean {near}?" if near else "known tables: defaults, nodes, tenants"
                self.faults.add((key,), "unknown key", todo)
            elif key != "tenants" and not first:
                self.faults.add((key,), f"[{key}] may only stand in {self.first}", "move it there")
        if first:
            self._take_defaults(top.get("defaults", {}))
            for name, raw in self._members(top, "nodes", "NAME"):
                self._take_node(name, raw)
        for slug, raw in self._members(top, "tenants", "SLUG"):
            self._take_tenant(slug, raw)

    def _tables(self, source: Source) -> dict[str, Any] | None:
        try:
            return read(source.text)
        except NotToml as exc:
            self.reasons.append(Reason(source.file, exc.line, exc.col, "", exc.what, exc.todo))
            return None

    def _members(self, top: Mapping[str, Any], key: str, example: str) -> Iterable[tuple[str, Any]]:
        members = top.get(key, {})
        if type(members) is dict:
            return members.items()
        self.faults.add((key,), f"this is {forms.kind(members)}, not a table", f"write [{key}.{example}]")
        self.complete = False
        return ()

    def _take_defaults(self, raw: Any) -> None:
        values = table(raw, ("defaults",), self.faults, _DEFAULTS) or {}
        shared = values.get("apps") == "shared"
        template = values.pop("app_name", SHARED_APP if shared else self.defaults.app_name)
        at = ("defaults", "app_name")
        sample = template.replace(SLUG_TAG, "a")
        if "{" in sample or "}" in sample:
            self.faults.add(at, f"only {SLUG_TAG} is replaced here", f'write "voxtra-{SLUG_TAG}"')
        elif shared and sample != template:
            self.faults.add(
                at, 'with apps = "shared" no tenant has an app of its own', f'write "{SHARED_APP}"'
            )
        elif forms.app(sample, at, self.faults) is not BAD:
            values["app_name"] = template
        self.defaults = Defaults(**values)

    def _take_node(self, name: str, raw: Any) -> None:
        at: Key = ("nodes", name)
        if forms.node_name(name, at, self.faults) is BAD:
            self.complete = False
            return
        values = table(raw, at, self.faults, _NODE, ("ari", "ari_user", "store"))
        ref = None
        if values is not None:
            ref = _secret("ari_password", values, raw, spell(at), at, self.faults)
            if ref is None and not any(key.startswith("ari_password") for key in raw):
                self.faults.add(
                    at,
                    "the password of ari_user is not named",
                    'add ari_password_file = "secrets/…" or …_env',
                )
        if values is None or ref is None or not {"ari", "ari_user", "store"} <= values.keys():
            self.complete = False
            return
        values["ari"] = values["ari"].rstrip("/")
        self.nodes[name] = Node(name=name, ari_password=ref, file=self.faults.file, **values)

    def _take_tenant(self, slug: str, raw: Any) -> None:
        at: Key = ("tenants", slug)
        faults = self.faults
        if not naming.SLUG.fullmatch(slug) or slug in naming.RESERVED_SLUGS:
            faults.add(at, *(slug_fault(slug) or ("", "")))
            self.complete = False
            return
        if slug in self.tenants:
            faults.add(
                at, "this tenant stands here and there", "keep one of the two", (self.tenants[slug].file, at)
            )
            return
        values = table(raw, at, faults, _TENANT)
        if values is None:
            self.complete = False
            return
        app = values.pop("app", None) or self.defaults.app_name.replace(SLUG_TAG, slug)
        longest = naming.worker_app(app, self.defaults.workers, self.defaults.workers)
        if len(longest) > naming.APP_MAX:
            key = (*at, "app") if "app" in raw else at
            faults.add(
                key,
                f"the Stasis app {longest} has {len(longest)} characters; Asterisk takes {naming.APP_MAX}",
                "shorten app, or defaults.app_name",
            )
        self._check_inside(values, raw, at)
        self.tenants[slug] = Tenant(
            slug=slug, name=values.pop("name", slug), app=app, file=faults.file, **values
        )

    def _check_inside(self, values: Mapping[str, Any], raw: Mapping[str, Any], at: Key) -> None:
        """Rules between the values of one tenant."""
        fallback: Fallback | None = values.get("fallback")
        if fallback is None or fallback.kind == "play":
            return
        key = (*at, "fallback", fallback.kind)
        if fallback.kind == "queue":
            queues = raw.get("queues", {})
            if type(queues) is dict and fallback.value not in queues:
                near = forms.close(fallback.value, queues)
                todo = (
                    f'did you mean "{near}"?' if near else f"add [{spell((*at, 'queues', fallback.value))}]"
                )
                self.faults.add(key, f"{at[1]} has no queue {fallback.value}", todo)
            return
        for part in ("trunk", "outbound"):
            if part not in raw:
                self.faults.add(key, f"a fallback number needs an own {part}", f"add [{spell((*at, part))}]")


def known_keys() -> Mapping[str, tuple[str, ...]]:
    """The keys of every table of the document, for the reference and for tests."""
    tables = {
        "defaults": _DEFAULTS,
        "nodes.NAME": _NODE,
        "tenants.SLUG": _TENANT,
        "tenants.SLUG.trunk": _TRUNK,
        "tenants.SLUG.queues.NAME": _QUEUE,
        "tenants.SLUG.outbound": _OUTBOUND,
        "tenants.SLUG.fallback": _FALLBACK,
        "tenants.SLUG.templates": _TEMPLATES,
    }
    forbidden = {"password", "ari_password"}
    return {name: tuple(key for key in keys if key not in forbidden) for name, keys in tables.items()}
