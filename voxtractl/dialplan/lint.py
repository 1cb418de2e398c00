"""Proves rendered text before it is pushed; returns every reason against it. Reads text, knows no bundle.

Asterisk loads faulty lines and answers 204 (facts, B1), so the proof is made here. Two strengths:

    lint_bundle, lint_file    whatever template made it: every context and extension has its one owner,
                              every DID is there with its label, every extension is complete, every line fits
    restrict                  a tenant's own template on top of that: applications, functions, targets and
                              keys from the lists below, and nothing else; absence is refusal

Reasons name lines and keys, never the text of a pjsip value: it may be a password.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from voxtractl import naming
from voxtractl.dialplan import syntax
from voxtractl.dialplan.syntax import Entry, Section, Step, Text
from voxtractl.errors import Reason
from voxtractl.model.fleet import Defaults, Fleet
from voxtractl.model.tenant import Tenant

__all__ = ["LINE_MAX", "Bounds", "bounds_of", "lint_bundle", "lint_file", "owns_fallback", "restrict"]

LINE_MAX: Final = 8000  # bytes; Asterisk skips a line above 8191 and says 204 (measured)

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_LABEL: Final = re.compile(r"v-[0-9a-z]{1,40}")
_BRACKETS: Final = re.compile(r"[^()\[\]{}]+")
# A pattern of numbers: it cannot take h, i, s or t.
_NUMBERS_ONLY: Final = re.compile(r"_(?:[+0-9XZN]|\[[-+0-9*#]+\])")
_PAIRS: Final = ("()", "[]", "{}")

_CONTEXTS: Final = (
    naming.fallback_context,
    naming.inbound_context,
    naming.queues_context,
    naming.outbound_context,
    naming.transfer_context,
)
# Contexts of the shared file: no tenant has this slug.
_SHARED: Final = frozenset(make(naming.SHARED) for make in (*_CONTEXTS, naming.dispatch_context))

# What a tenant's own template may use.
_APPLICATIONS: Final = frozenset(
    {"answer", "background", "busy", "congestion", "dial", "goto", "gotoif", "gotoiftime", "gosub", "hangup"}
    | {"musiconhold", "noop", "playback", "playtones", "proceeding", "progress", "queue", "return", "ringing"}
    | {"saydigits", "saynumber", "set", "stasis", "stopplaytones", "userevent", "wait", "waitexten"}
)
# EVAL is missing for a reason: it runs text that was put together from harmless pieces. So is DB, ENV, CURL …
_FUNCTIONS: Final = frozenset(
    {"CALLERID", "CHANNEL", "CUT", "FIELDNUM", "FIELDQTY", "FILTER", "GROUP_COUNT", "IF", "IFTIME", "ISNULL"}
    | {"LEN", "RAND", "REGEX", "STRFTIME", "TOLOWER", "TOUPPER", "URIDECODE", "URIENCODE"}
)
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)([}:(])")
_ASSIGNABLE: Final = re.compile(
    r"VOXTRA_[A-Z0-9_]+|CALLERID\((?:num|name)\)|CHANNEL\((?:language|musicclass)\)"
)
_NUMBER: Final = re.compile(r"\+?[0-9]+|\$\{FILTER\(0-9\+?,\$\{[A-Z_]+(?:\(num\))?\}\)\}")
# A sound file of the node, or what the filter `arg` makes of one; not a URL that Asterisk would fetch.
_SOUND: Final = re.compile(r"[A-Za-z0-9_./&-]+|\$\{URIDECODE\((?!.*%3A)[A-Za-z0-9%_.~-]*\)\}")
_DIAL_OPTIONS: Final = re.compile(r"[cCgHhIikKrRtT]*")

_ENDPOINT_KEYS: Final = frozenset(
    {
        "100rel",
        "accountcode",
        "allow",
        "allow_transfer",
        "aors",
        "callerid",
        "connected_line_method",
        "contact_user",
        "context",
    }
    | {"direct_media", "disallow", "dtmf_mode", "force_rport", "from_domain", "from_user", "ice_support"}
    | {"identify_by", "inband_progress", "language", "media_encryption", "moh_suggest", "outbound_auth"}
    | {
        "outbound_proxy",
        "rewrite_contact",
        "rtp_keepalive",
        "rtp_symmetric",
        "rtp_timeout",
        "rtp_timeout_hold",
        "set_var",
    }
    | {
        "send_diversion",
        "send_pai",
        "send_rpid",
        "t38_udptl",
        "timers",
        "timers_min_se",
        "timers_sess_expires",
    }
    | {"tone_zone", "transport", "trust_id_inbound", "trust_id_outbound", "type"}
)
_PJSIP_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "endpoint": _ENDPOINT_KEYS,
    "aor": frozenset({"type", "contact", "qualify_frequency", "qualify_timeout", "outbound_proxy"}),
    "auth": frozenset({"type", "auth_type", "username", "password", "realm"}),
    "identify": frozenset({"type", "endpoint", "match", "srv_lookups"}),
    "registration": frozenset(
        {"type", "server_uri", "client_uri", "outbound_auth", "outbound_proxy", "transport", "contact_user"}
        | {"expiration", "retry_interval", "forbidden_retry_interval", "fatal_retry_interval", "max_retries"}
        | {"auth_rejection_permanent"}
    ),
}
_QUEUE_KEYS: Final = frozenset(
    {"announce-frequency", "announce-holdtime", "announce-position", "autofill", "autopause", "joinempty"}
    | {"leavewhenempty", "maxlen", "member", "musicclass", "periodic-announce", "periodic-announce-frequency"}
    | {"retry", "ringinuse", "servicelevel", "strategy", "timeout", "timeoutrestart", "wrapuptime"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one tenant owns on one node."""

    slug: str
    trunk_context: str
    dids: Mapping[str, str]  # DID → the context it stands in
    app: str  # its Stasis app, as the shared dispatch gets it
    apps: tuple[str, ...]  # the app of each worker: those it may hand calls to
    stasis_argument: str  # what must stand before other arguments: "acme," with shared apps
    queues: tuple[str, ...]  # Asterisk's names
    trunk: bool
    fallback: bool  # it must have a fallback of its own
    arrival: str = ""  # where the calls of its own trunk arrive; its inbound context when empty

    @property
    def contexts(self) -> frozenset[str]:
        """The contexts that belong to this tenant alone."""
        return frozenset(make(self.slug) for make in _CONTEXTS)


def bounds_of(tenant: Tenant, defaults: Defaults, dids: int) -> Bounds:
    """The bounds of a tenant on a node that has ``dids`` DIDs."""
    workers = defaults.workers
    return Bounds(
        slug=tenant.slug,
        trunk_context=defaults.trunk_context,
        dids={did: naming.did_context(did, defaults.trunk_context, dids) for did in tenant.dids},
        app=tenant.app,
        apps=tuple(naming.worker_app(tenant.app, n, workers) for n in range(1, workers + 1)),
        stasis_argument=f"{tenant.slug}," if defaults.apps == "shared" else "",
        queues=tuple(naming.queue_name(tenant.slug, queue.name) for queue in tenant.queues),
        trunk=tenant.trunk is not None,
        fallback=owns_fallback(tenant),
    )


def owns_fallback(tenant: Tenant) -> bool:
    """True when the tenant says what happens without a runtime, or has no DID that could prove its load."""
    return tenant.fallback is not None or not tenant.dids


def lint_bundle(
    files: Mapping[str, bytes], fleet: Fleet, node: str, *, only: Collection[str] | None = None
) -> tuple[Reason, ...]:
    """Everything that is wrong with the files of a node; with ``only``, with these of them.

    ``files`` are the generated ones, by their path in the release. Index and end files are left out: no
    template has a hand in them.
    """
    checked = [path for path in files if "/" in path and (only is None or path in only)]
    owners: dict[str, list[Bounds]] = {path: [] for path in checked}
    tenants = fleet.on(node)
    dids = sum(len(tenant.dids) for tenant in tenants)
    for tenant in tenants:
        # The file is the same in every kind, so the kinds are looked at only where it is checked.
        name = naming.fragment_file("", tenant.slug, len(tenants))
        held = [path for path in (f"{kind}{name}" for kind in naming.KINDS) if path in owners]
        if held:
            bounds = bounds_of(tenant, fleet.defaults, dids)
            for path in held:
                owners[path].append(bounds)
    reasons: list[Reason] = []
    for path, bounds_here in owners.items():
        text = files[path].decode(errors="replace")
        reasons += lint_file(path.partition("/")[0], text, bounds_here, file=path)
    return tuple(sorted(reasons))


def lint_file(kind: str, text: str, owners: Iterable[Bounds], *, file: str) -> tuple[Reason, ...]:
    """Everything that is wrong with one file, or one fragment, that holds these tenants and no others.

    Without owners it is the shared file: patterns of the trunk context, and the buckets' own `i`.
    """
    parsed = syntax.read(text)
    return (*_lines(text, parsed, file), *_owned(kind, parsed, {b.slug: b for b in owners}, file))


def restrict(kind: str, text: str, bounds: Bounds, *, file: str) -> tuple[Reason, ...]:
    """Everything that a tenant's own template made and may not make. ``file`` is the template's name."""
    parsed = syntax.read(text)
    reasons = [*_lines(text, parsed, file), *_owned(kind, parsed, {bounds.slug: bounds}, file)]
    for section in parsed.sections:
        if section.options:
            reasons.append(_reason(file, section.line, "", "options on a section", "write [name]"))
        if kind == "extensions":
            reasons += _restricted_context(section, bounds, file)
        elif kind == "pjsip":
            reasons += _restricted_object(section, bounds, file)
        else:
            reasons += _restricted_queue(section, bounds, file)
    return tuple(sorted(set(reasons)))


# --- every file -------------------------------------------------------------------------------------------


def _reason(file: str, line: int, path: str, what: str, todo: str) -> Reason:
    return Reason(file, line, 1, path, what, todo)


def _lines(text: str, parsed: Text, file: str) -> Iterator[Reason]:
    """What is wrong with lines, whatever they mean."""
    for fault in parsed.faults:
        yield _reason(file, fault.line, "", fault.what, fault.todo)
    for directive in parsed.directives:
        known = directive.name if directive.name in ("include", "tryinclude", "exec") else "…"
        what = f"#{known} reads another file"
        yield _reason(file, directive.line, "", what, "put the text itself there")
    if _CONTROL.search(text):
        for number, line in enumerate(text.split("\n"), 1):
            if _CONTROL.search(line):
                yield _reason(file, number, "", "a control character or a line break of Unicode", "remove it")
    # One look at the whole text first: nearly always no line comes near the limit.
    if len(text) > LINE_MAX // 4 and max(map(len, text.split("\n"))) > LINE_MAX // 4:
        for number, line in enumerate(text.split("\n"), 1):
            if len(line.encode()) > LINE_MAX:
                yield _reason(file, number, "", f"a line over {LINE_MAX} bytes", "Asterisk would skip it")


def _owned(kind: str, parsed: Text, owners: Mapping[str, Bounds], file: str) -> Iterator[Reason]:
    if kind == "extensions":
        return _contexts(parsed, owners, file)
    names = {
        name: bounds.slug
        for bounds in owners.values()
        for name in (bounds.queues if kind == "queues" else (naming.trunk_endpoint(bounds.slug),))
    }
    return _objects(parsed, names, file)


def _objects(parsed: Text, names: Mapping[str, str], file: str) -> Iterator[Reason]:
    """Every section of a pjsip or queues file has an owner here. A foreign name is not repeated."""
    for section in parsed.sections:
        if section.name not in names and not _is_end(section):
            yield _reason(file, section.line, "", "a name nobody here owns", f"use {_some(names)}")


def _contexts(parsed: Text, owners: Mapping[str, Bounds], file: str) -> Iterator[Reason]:
    """Every extension has its owner and is complete; every DID is there and carries the label."""
    context_owner = {context: b for b in owners.values() for context in b.contexts}
    did_owner = {did: b for b in owners.values() for did in b.dids}
    places = {(context, did): b for b in owners.values() for did, context in b.dids.items()}
    places |= {(naming.fallback_context(slug), "s"): b for slug, b in owners.items() if b.fallback}
    seen: dict[tuple[str, str], list[Step]] = {}
    labels: dict[str, set[str]] = {slug: set() for slug in owners}
    for section in parsed.sections:
        if _is_end(section):
            continue
        owner = context_owner.get(section.name)
        shared = not owners and (section.name in _SHARED or not section.name.startswith("voxtra-"))
        faults: list[syntax.Fault] = []
        for step in syntax.steps(section, faults):
            key = (section.name, syntax.exten_key(step.exten))
            before = seen.setdefault(key, [])
            if not before and owner is None:
                yield from _foreign(section.name, step, did_owner, places, file, shared=shared)
            yield from _step(section.name, step, before, file)
            before.append(step)
        for fault in faults:
            yield _reason(file, fault.line, section.name, fault.what, fault.todo)
        if owner is None and not section.entries and not shared:
            yield _reason(file, section.line, section.name, "nobody here owns this context", "remove it")
        for entry in section.entries:
            if entry.key not in ("exten", "same"):
                yield from _other_line(section.name, entry, owner, file)
    for (context, exten), bounds in places.items():
        found = seen.get((context, exten))
        if not found:
            yield _reason(
                file, 1, context, f"{exten} is missing", "every DID and the fallback's s prove a load"
            )
        elif not _LABEL.fullmatch(found[0].label):
            what = f"{exten} has no label on its priority 1"
            yield _reason(file, found[0].line, context, what, "write 1({{ label }})")
        else:
            labels[bounds.slug].add(found[0].label)
    for slug, several in labels.items():
        if len(several) > 1:
            yield _reason(file, 1, slug, "it has different labels", "use {{ label }} for all of them")


def _foreign(
    context: str,
    step: Step,
    did_owner: Mapping[str, Bounds],
    places: Mapping[tuple[str, str], Bounds],
    file: str,
    *,
    shared: bool,
) -> Iterator[Reason]:
    """An extension in a context that belongs to no single tenant."""
    exten = step.exten
    if shared:
        if exten == "i" or context in _SHARED:
            return
        if exten[:1] != "_":
            yield _reason(file, step.line, context, f"{exten} in the shared file", "it belongs to a tenant")
        elif not _NUMBERS_ONLY.match(exten):
            yield _reason(
                file, step.line, context, f"{exten} may take h, i, s and t too", "begin with [+0-9]"
            )
        return
    did = exten if exten.startswith("+") else f"+{exten}"
    if (context, did) not in places:
        if did in did_owner:
            todo = f"put it into [{did_owner[did].dids[did]}]"
        else:
            todo = "a tenant may add its own DIDs here and nothing else"
        yield _reason(file, step.line, context, f"{exten} has no owner here", todo)


def _step(context: str, step: Step, before: list[Step], file: str) -> Iterator[Reason]:
    """One priority after those before it, of the same extension."""
    if "${" in step.exten or not step.exten or len(step.exten) > naming.CONTEXT_MAX:
        yield _reason(
            file, step.line, context, "an extension Asterisk will not match", "write it out, shorter"
        )
    if step.priority == 0:
        return
    last = before[-1].priority if before else 0
    if any(step.priority == other.priority for other in before):
        what = f"{step.exten} has priority {step.priority} twice"
        yield _reason(file, step.line, context, what, "the first would win and the rest be mixed")
    elif step.priority != last + 1:
        what = f"{step.exten} goes from priority {last} to {step.priority}"
        yield _reason(file, step.line, context, what, "start with 1 and go on with n")
    if not step.app:
        yield _reason(file, step.line, context, f"{step.exten} runs no application", "name one")
    if not _balanced(_BRACKETS.sub("", step.args)):
        yield _reason(file, step.line, context, "brackets that do not match", "close each (, [ and {")


def _other_line(context: str, entry: Entry, owner: Bounds | None, file: str) -> Iterator[Reason]:
    target = entry.value.partition(",")[0].strip()
    if entry.key == "include" and owner is not None and target in owner.contexts:
        return
    yield _reason(
        file, entry.line, context, f"{entry.key} => in a generated context", "use exten and same only"
    )


@lru_cache(maxsize=4096)  # few shapes of brackets, many lines
def _balanced(brackets: str) -> bool:
    while brackets:
        shorter = brackets
        for pair in _PAIRS:
            shorter = shorter.replace(pair, "")
        if shorter == brackets:
            return False
        brackets = shorter
    return True


def _is_end(section: Section) -> bool:
    """The empty template that ``render.bundle`` puts at the end of a file."""
    name = section.name
    return name.startswith(f"{naming.END_CONTEXT}-") and section.options == ("!",) and not section.entries


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "no name: this tenant has none of this kind"


# --- a tenant's own template ------------------------------------------------------------------------------


def _restricted_context(section: Section, bounds: Bounds, file: str) -> Iterator[Reason]:
    if section.name == naming.transfer_context(bounds.slug):
        for entry in section.entries:
            if entry.key == "include" or entry.value.lstrip().startswith("_"):
                what = "a pattern or an include, which takes a number with @ and another context behind it"
                yield _reason(file, entry.line, section.name, what, "write out each number")
    for step in syntax.steps(section):
        place = f"{section.name},{step.exten},{step.priority}"
        for what, todo in _restricted_step(section.name, step, bounds):
            yield _reason(file, step.line, place, what, todo)


def _restricted_step(context: str, step: Step, bounds: Bounds) -> Iterator[tuple[str, str]]:
    app = step.app.lower()
    if step.priority == 0:
        yield "a hint", "leave it out"
    elif app not in _APPLICATIONS:
        yield f"the application {step.app}", f"use one of {', '.join(sorted(_APPLICATIONS))}"
    yield from _restricted_variables(step.args)
    args = step.args.split(",")
    own = bounds.contexts
    if app == "gosub" and step.args.partition(",")[0] in _SHARED:
        yield from _subroutine(step.args, bounds)
    elif app in ("goto", "gosub"):
        yield from _target(step.args, bounds, own, context)
    elif app in ("gotoif", "gotoiftime"):
        condition, question, targets = step.args.rpartition("?")
        if not question or (app == "gotoif" and not (condition.startswith("$[") and condition.endswith("]"))):
            yield "a condition that cannot be read", "write GotoIf($[…]?label:label)"
        for target in targets.split(":"):
            yield from _target(target, bounds, own, context)
    elif app == "dial":
        yield from _dial(args, bounds)
    elif app == "queue":
        if args[0] not in bounds.queues or len(args) > 5 or not _DIAL_OPTIONS.fullmatch("".join(args[1:2])):
            yield f"the queue {args[0]}, or its arguments", f"use {_some(bounds.queues)} and plain options"
    elif app == "stasis":
        rest = step.args[len(args[0]) + 1 :]
        if args[0] not in bounds.apps or not rest.startswith(bounds.stasis_argument):
            yield f"the Stasis app {args[0]}", f"write Stasis({bounds.apps[0]},{bounds.stasis_argument}…)"
    elif app == "set":
        yield from _assignment(step.args, bounds)
    elif app == "userevent" and step.args != "VoxtraQueue,Status: ${QUEUESTATUS}":
        yield "an event of its own", "write it as the packaged template does"
    elif app in ("playback", "background") and not _SOUND.fullmatch(step.args):
        yield "a sound that is not a plain name", "name a sound file of the node"


def _restricted_variables(args: str) -> Iterator[tuple[str, str]]:
    good = 0
    for match in _VARIABLE.finditer(args):
        good += 1
        if match[2] == "(" and match[1] not in _FUNCTIONS:
            yield f"the function {match[1]}", f"use one of {', '.join(sorted(_FUNCTIONS))}"
    if args.count("${") != good:
        yield "a variable whose name is itself a variable", "write its name out"


def _target(target: str, bounds: Bounds, own: Collection[str], here: str) -> Iterator[tuple[str, str]]:
    """Where a Goto may lead: own contexts, and own DIDs where they stand."""
    parts = target.split("(")[0].split(",")
    if len(parts) < 3:
        if here not in own and len(parts) == 2 and parts[0] not in bounds.dids:
            yield f"a jump to {parts[0]} in {here}", "only own DIDs are there"
        return
    context, exten = parts[0], parts[1]
    if (context, exten) == (naming.fallback_context(naming.SHARED), "s"):
        return
    if context not in own and bounds.dids.get(exten) != context:
        yield f"a jump to {context},{exten}", f"stay in {_some(own)} or name an own DID"


def _subroutine(call: str, bounds: Bounds) -> Iterator[tuple[str, str]]:
    """A Gosub into the shared file: as the packaged template writes it, with the tenant's own names.

    The arguments say whose call it is, so nothing stands in them that a caller could lengthen by a comma.
    """
    slug, app = re.escape(bounds.slug), re.escape(bounds.app)
    queue = "|".join(map(re.escape, bounds.queues)) or "(?!)"
    number = r"(?:[0-9+*#]+|\$\{FILTER\(0-9\+?(?:\*#)?,\$\{EXTEN\}\)\})"
    calls = (
        rf"{naming.inbound_context(naming.SHARED)},s,1\({slug},{number}\)",
        rf"{naming.dispatch_context(naming.SHARED)},{number},1\({slug},{app},[0-9]*\)",
        rf"{naming.outbound_context(naming.SHARED)},s,1"
        rf"\({slug},{number},\$\{{LEN\(\$\{{EXTEN\}}\)\}},[0-9]*,\+?[0-9]*\)",
        rf"{naming.queues_context(naming.SHARED)},s,1\({slug},{app},(?:{queue})\)",
    )
    if not any(re.fullmatch(wanted, call) for wanted in calls):
        what = f"a Gosub to {call.partition(',')[0]} with other arguments"
        yield what, "write it as the packaged template does"


def _dial(args: list[str], bounds: Bounds) -> Iterator[tuple[str, str]]:
    joined = ",".join(args)
    tail = f"@{naming.trunk_endpoint(bounds.slug)}"
    target, found, rest = joined.partition(tail)
    number = target.removeprefix("PJSIP/")
    options = rest.split(",")
    if not found or target == number or not _NUMBER.fullmatch(number) or not bounds.trunk:
        wanted = f"Dial(PJSIP/${{FILTER(0-9+,${{EXTEN}})}}{tail},60,i)"
        yield "a Dial to something else than a number over the own trunk", f"write {wanted}"
    elif options[0] or len(options) > 3 or (len(options) == 3 and not _DIAL_OPTIONS.fullmatch(options[2])):
        yield "options of Dial that can lead elsewhere", "use letters without arguments"


def _assignment(args: str, bounds: Bounds) -> Iterator[tuple[str, str]]:
    name, _, assigned = args.partition("=")
    if name == "GROUP(voxtra)":
        if assigned != bounds.slug:
            yield "the group of another tenant", f"write Set(GROUP(voxtra)={bounds.slug})"
    elif not _ASSIGNABLE.fullmatch(name):
        yield f"an assignment to {name}", "name variables VOXTRA_…"


def _restricted_object(section: Section, bounds: Bounds, file: str) -> Iterator[Reason]:
    """One pjsip object; its values are never repeated."""
    kind = next((entry.value for entry in section.entries if entry.key == "type"), "")
    keys = _PJSIP_KEYS.get(kind)
    own = naming.trunk_endpoint(bounds.slug)
    if keys is None:
        todo = f"use one of {', '.join(_PJSIP_KEYS)}"
        yield _reason(file, section.line, own, "an object of another type", todo)
        return
    fixed = {
        "type": kind,
        "context": bounds.arrival or naming.inbound_context(bounds.slug),
        "aors": own,
        "outbound_auth": own,
        "endpoint": own,
        "accountcode": bounds.slug,
        "set_var": f"TRANSFER_CONTEXT={naming.transfer_context(bounds.slug)}",
    }
    for entry in section.entries:
        key = entry.key.rstrip("+")
        if key not in keys:
            yield _reason(file, entry.line, own, "a key that is not allowed", "leave it out")
        elif key in fixed and entry.value != fixed[key]:
            yield _reason(file, entry.line, own, f"{key} leads elsewhere", f"it must be {fixed[key]}")
    given = {entry.key: entry.value for entry in section.entries}
    if kind == "endpoint" and given.get("allow_transfer") != "no" and "set_var" not in given:
        todo = f"write allow_transfer = no, or set_var = {fixed['set_var']}"
        yield _reason(file, section.line, own, "a trunk that may transfer calls anywhere", todo)


def _restricted_queue(section: Section, bounds: Bounds, file: str) -> Iterator[Reason]:
    for entry in section.entries:
        if entry.key not in _QUEUE_KEYS:
            yield _reason(file, entry.line, section.name, f"the key {entry.key}", "leave it out")
        elif entry.key == "member" and not entry.value.startswith("PJSIP/"):
            yield _reason(file, entry.line, section.name, "a member that is no endpoint", "write PJSIP/name")
