"""What is wrong with a node, in an operator's words, and what to do about it; changes nothing.

Every question is asked whatever the others answered, and every answer is a Finding. The judgements are pure
functions of what was read (text of a file, an answer, facts of the store); only ``check`` and the two
functions that open the doors do I/O.
"""

import ipaddress
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.release import QUEUE_PROOF, Release
from voxtractl.deploy.include import State, has_lines
from voxtractl.deploy.plan import Snapshot
from voxtractl.deploy.prepare import file_of, hint_without, prefix_of
from voxtractl.deploy.proof import prove, questions
from voxtractl.deploy.store.base import Store, StoreFacts, parse_url
from voxtractl.dialplan import syntax
from voxtractl.errors import (
    AriAuthFailed,
    AriError,
    AriUnreachable,
    NodeError,
    SettingsError,
    StoreError,
    VoxtractlError,
)
from voxtractl.model.node import Node

__all__ = ["Finding", "check", "exit_code"]

Level = Literal["ok", "warn", "fail"]

CLOCK_OFF: Final = 5.0  # seconds
ROOM: Final = (
    200 * 1024 * 1024
)  # bytes; a release of 10,000 tenants is about 20 MB, and it is staged twice over
SESSIONS: Final = 200
SESSIONS_DEFAULT: Final = 100  # of Asterisk's http.conf

# Without these nothing can be pushed or proven.
NEEDED: Final[Mapping[str, str]] = {
    "pbx_config.so": "reads the dialplan",
    "res_pjsip.so": "reads the trunks",
    "app_queue.so": "reads the queues",
    "res_ari.so": "is ARI",
    "res_ari_asterisk.so": "reloads over ARI",
    "res_ari_channels.so": "proves the dialplan",
    "res_ari_device_states.so": "proves the queues",
}
# Without these files are proven and calls fail.
CALLS: Final[Mapping[str, str]] = {
    "app_stasis.so": "hands calls to the handlers",
    "res_stasis.so": "hands calls to the handlers",
    "res_ari_applications.so": "serves the handlers",
    "res_ari_events.so": "serves the handlers",
    "res_ari_bridges.so": "connects calls",
    "res_ari_playbacks.so": "plays sounds",
    "res_ari_recordings.so": "records",
    "chan_pjsip.so": "makes SIP calls",
    "res_pjsip_session.so": "makes SIP calls",
    "res_pjsip_endpoint_identifier_ip.so": "knows a trunk by its address",
    "res_pjsip_outbound_registration.so": "registers trunks",
}

_DOORS: Final = frozenset({"ari", "ari-user", "ari-write", "node"})  # a failure here is exit code 5
_OWN_FILES: Final = ("http.conf", "ari.conf")


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. ``hint`` is the next step, empty when all is well."""

    name: str
    level: Level
    text: str
    hint: str = ""

    def document(self) -> dict[str, str]:
        return asdict(self)


@dataclass
class _Disk:
    """What could be read of the node's files."""

    findings: list[Finding] = field(default_factory=list)
    facts: StoreFacts | None = None
    snapshot: Snapshot | None = None
    lines: dict[str, State] = field(default_factory=dict)  # kind → state
    own: dict[str, syntax.Text] = field(default_factory=dict)  # http.conf, ari.conf


async def check(
    node: Node, open_store: Callable[[], Store], open_ari: Callable[[], ARIClient]
) -> tuple[Finding, ...]:
    """Everything that can be asked of a node; never raises for what it finds.

    The callables make the doors, not yet connected; their errors (a password that cannot be read, a store
    URL that is none) are findings too.
    """
    disk = await _look_at_disk(node, open_store)
    found = await _ask_asterisk(node, open_ari, disk)
    found += disk.findings
    if disk.snapshot is not None:
        found += _release(node, disk.snapshot, disk.lines)
    found += _http(disk.own.get("http.conf"))
    found += _user(node, disk.own.get("ari.conf"))
    found += _transport(node.ari)
    found += _modes(node, disk.facts)
    return tuple(found)


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing failed. 5: a door is closed (no answer, refused). 1: anything else failed."""
    failed = {finding.name for finding in findings if finding.level == "fail"}
    return 0 if not failed else 5 if failed & _DOORS else 1


# --- the node's files -------------------------------------------------------------------------------------


async def _look_at_disk(node: Node, open_store: Callable[[], Store]) -> _Disk:
    disk = _Disk()
    prefix = None
    try:
        prefix = prefix_of(node)
    except StoreError as exc:
        disk.findings.append(_failed("store", exc))
    try:
        async with open_store() as store:
            disk.findings.append(Finding("node", "ok", f"the node's files are reached ({node.store})"))
            disk.facts = await store.facts()
            disk.findings += _store(disk.facts)
            await _read_files(node, store, prefix, disk)
    except NodeError as exc:
        disk.findings.append(_failed("node", exc))
    return disk


async def _read_files(node: Node, store: Store, prefix: str | None, disk: _Disk) -> None:
    """The release, the lines and the operator's own files; one that cannot be read hides no other."""
    try:
        disk.snapshot = await store.observe()
    except NodeError as exc:
        disk.findings.append(_failed("release", exc))
    if disk.facts is not None and not disk.facts.group:
        return  # there is no such folder, which is told; what would be in it is not
    for kind in naming.KINDS if prefix is not None else ():
        try:
            text = await store.read_config(file_of(kind))
        except NodeError as exc:
            disk.findings.append(_failed(f"lines-{kind}", exc))
            continue
        disk.lines[kind] = has_lines(text or b"", kind, prefix or "")
        disk.findings.append(_lines(node.name, kind, disk.lines[kind], text is None))
    for name in _OWN_FILES:
        try:
            text = await store.read_config(name)
        except NodeError as exc:
            disk.findings.append(
                Finding(name, "warn", f"{name} cannot be read, so it was not checked", exc.hint or "")
            )
            continue
        if text is not None:
            disk.own[name] = syntax.read(text.decode("latin-1"))
            continue
        what = f"there is no {name} in Asterisk's configuration folder, so it was not checked"
        todo = f"if Asterisk reads another folder, set nodes.{node.name}.config_dir to it"
        disk.findings.append(Finding(name, "warn", what, todo))


def _store(facts: StoreFacts) -> Iterator[Finding]:
    if facts.why:
        what, _, todo = facts.why.partition("; ")
        yield Finding("store", "fail", what, todo)
    else:
        yield Finding("store", "ok", f"the store is writable, and readable by the group {facts.group}")
    if facts.free_bytes is not None:
        free = f"{facts.free_bytes // (1024 * 1024)} MB are free on the node's disk"
        if facts.free_bytes < ROOM:
            yield Finding(
                "space", "warn", free, "make room: the last five releases and a new one lie side by side"
            )
        else:
            yield Finding("space", "ok", free)
    if facts.clock is not None:
        off = facts.clock - time.time()
        if abs(off) > CLOCK_OFF:
            yield Finding(
                "clock",
                "warn",
                f"the node's clock is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}",
                "set it by NTP (timedatectl set-ntp true): revisions and histories are named by time",
            )
        else:
            yield Finding("clock", "ok", "the node's clock agrees with this one")


def _lines(node: str, kind: str, state: State, missing: bool) -> Finding:
    name = file_of(kind)
    if state == "present":
        return Finding(f"lines-{kind}", "ok", f"{name} holds voxtractl's lines")
    todo = f"voxtractl node init {node}"
    if missing:
        what = f"there is no {name} in Asterisk's configuration folder"
        todo = hint_without(node, kind)
    elif state == "absent":
        what = f"{name} does not hold voxtractl's lines: Asterisk reads nothing of this kind"
    else:
        what = f"voxtractl's lines in {name} were changed by hand"
    return Finding(f"lines-{kind}", "fail", what, todo)


def _release(node: Node, snapshot: Snapshot, lines: Mapping[str, State]) -> Iterator[Finding]:
    mend = f"voxtractl dialplan push --overwrite-drift --node {node.name}"
    if snapshot.revision is None:
        included = [file_of(kind) for kind, state in lines.items() if state != "absent"]
        if included:
            yield Finding(
                "release",
                "fail",
                f"{' and '.join(included)} include a release that is not there:"
                " at its next start Asterisk would have no dialplan at all",
                mend if snapshot.drift else f"voxtractl node init {node.name}",
            )
        else:
            yield Finding("release", "fail", "nothing was ever pushed", f"voxtractl node init {node.name}")
        return
    if snapshot.drift:
        first = snapshot.drift[0]
        more = f" and {len(snapshot.drift) - 1} more" if len(snapshot.drift) > 1 else ""
        level: Level = "fail" if any(d.what in {"unreadable", "missing"} for d in snapshot.drift) else "warn"
        yield Finding(
            "release",
            level,
            f"{snapshot.revision} is not as pushed: {first.path} is {first.what}{more}",
            mend,
        )
        return
    count = len(snapshot.manifest.tenants) if snapshot.manifest else 0
    yield Finding("release", "ok", f"{snapshot.revision} is whole ({count} tenants)")


# --- Asterisk ---------------------------------------------------------------------------------------------


async def _ask_asterisk(node: Node, open_ari: Callable[[], ARIClient], disk: _Disk) -> list[Finding]:
    try:
        door = open_ari()
    except SettingsError as exc:
        return [_failed("ari-user", exc)]
    found: list[Finding] = []
    async with door as ari:
        try:
            answer = await ari.ask(requests.info())
        except AriUnreachable as exc:
            return [_failed("ari", exc, place=True)]
        except AriAuthFailed as exc:
            found.append(Finding("ari", "ok", f"ARI answers at {ari.url}"))
            return [*found, _refused(node, exc, disk.own.get("ari.conf"))]
        except AriError as exc:
            return [_failed("ari", exc, place=True)]
        if answer.status != 200:
            return [
                Finding(
                    "ari",
                    "fail",
                    f"{ari.url} answers, but not as ARI: {answer.status} {answer.message}".rstrip(),
                    "is the port right, ari.conf enabled, are res_ari.so and res_ari_asterisk.so loaded?",
                )
            ]
        found.append(Finding("ari", "ok", f"ARI answers at {ari.url}"))
        found.append(Finding("ari-user", "ok", f"the password of {node.ari_user} is right"))
        found.append(_version(_text_at(answer.body, "system", "version")))
        for ask in (_may_write, _modules):
            try:
                found += await ask(node, ari)
            except AriError as exc:
                found.append(_failed("ari", exc, place=True))
        found += await _live(node, ari, disk)
    return found


def _refused(node: Node, exc: AriAuthFailed, ari_conf: syntax.Text | None) -> Finding:
    names = [section.name for section in ari_conf.sections] if ari_conf else []
    if names and node.ari_user not in names and not (ari_conf and ari_conf.directives):
        return Finding(
            "ari-user",
            "fail",
            f"Asterisk has no ARI user {node.ari_user}",
            f"add [{node.ari_user}] with type = user, password and read_only = no to ari.conf,"
            " then: asterisk -rx 'module reload res_ari.so'",
        )
    return _failed("ari-user", exc)


async def _may_write(node: Node, ari: ARIClient) -> list[Finding]:
    try:
        await ari.ask(requests.probe_label(naming.LOADED_CONTEXT, "rev", "voxtractl"))
    except AriError as exc:
        if exc.status != 403:
            raise
        return [_failed("ari-write", exc)]
    return [Finding("ari-write", "ok", f"{node.ari_user} may write")]


async def _modules(node: Node, ari: ARIClient) -> list[Finding]:
    answer = await ari.ask(requests.modules())
    running = {
        str(module.get("name"))
        for module in (answer.body if isinstance(answer.body, list) else [])
        if isinstance(module, dict) and module.get("status") == "Running"
    }
    return _missing_modules(running)


def _missing_modules(running: Collection[str]) -> list[Finding]:
    found = [
        Finding(
            "modules",
            level,
            f"{module} is not loaded; it {what}",
            f"asterisk -rx 'module load {module}', and look for noload in modules.conf",
        )
        for level, wanted in _WANTED
        for module, what in wanted.items()
        if module not in running
    ]
    return found or [Finding("modules", "ok", f"all {len(NEEDED) + len(CALLS)} modules are loaded")]


_WANTED: Final[Sequence[tuple[Level, Mapping[str, str]]]] = (("fail", NEEDED), ("warn", CALLS))


async def _live(node: Node, ari: ARIClient, disk: _Disk) -> list[Finding]:
    """Whether Asterisk reads the current release through the lines."""
    manifest = disk.snapshot.manifest if disk.snapshot else None
    if manifest is None:
        return []
    try:
        proof = await prove(ari, questions(manifest.marks, {}, ""))
    except AriError as exc:
        return [_failed("live", exc)]
    found: list[Finding] = []
    for kind in manifest.marks:
        if kind not in proof.missing_kinds:
            found.append(Finding(f"live-{kind}", "ok", f"Asterisk runs {kind} of {manifest.revision}"))
        elif disk.lines.get(kind, "absent") == "present":
            hint = (
                f"voxtractl dialplan reload --all --node {node.name}; if that is refused, see Asterisk's log"
            )
            text = f"the lines are in {file_of(kind)}, but Asterisk does not run {manifest.revision}"
            found.append(Finding(f"live-{kind}", "fail", text, hint))
        else:
            text = f"Asterisk does not run {kind} of {manifest.revision}"
            found.append(Finding(f"live-{kind}", "fail", text, f"voxtractl node init {node.name}"))
    return found


def _version(version: str) -> Finding:
    release = Release.of(version)
    if release is None:
        return Finding("version", "warn", f"Asterisk calls itself {version or 'nothing'}: not a release")
    if release.major < 20:
        return Finding(
            "version", "fail", f"Asterisk {version} is too old", "install Asterisk 20 or 22 (the LTS series)"
        )
    if release.major not in QUEUE_PROOF.since:
        return Finding("version", "warn", f"Asterisk {version}; voxtractl is tested with 20 and 22")
    if not release.has(QUEUE_PROOF):
        return Finding(
            "version",
            "fail",
            f"Asterisk {version} is too old: what runs of queues.conf cannot be proven",
            f"install {release.major}.{QUEUE_PROOF.since[release.major]} or newer",
        )
    missing = release.missing()
    later = f"; newer ones have {', '.join(missing)}" if missing else ""
    return Finding("version", "ok", f"Asterisk {version}{later}")


# --- Asterisk's own files ---------------------------------------------------------------------------------


def _http(conf: syntax.Text | None) -> Iterator[Finding]:
    """http.conf: how many may connect, and from where."""
    if conf is None:
        return
    given = _value(conf, "general", "sessionlimit")
    limit = int(given) if given and given.isdigit() else SESSIONS_DEFAULT
    if limit < SESSIONS and not (given is None and conf.directives):
        yield Finding(
            "sessionlimit",
            "warn",
            f"sessionlimit is {limit}: every connection and every handler's websocket counts, and over it"
            " Asterisk hangs up without a word",
            f"set sessionlimit = {SESSIONS * 5} in [general] of http.conf,"
            " then: asterisk -rx 'module reload http'",
        )
    else:
        yield Finding("sessionlimit", "ok", f"sessionlimit is {given or 'in an included file'}")
    address = _value(conf, "general", "bindaddr") or ""
    if address.strip("[]") in {"0.0.0.0", "::"}:  # noqa: S104  looked for, not bound
        yield Finding(
            "bindaddr",
            "warn",
            f"http.conf binds {address}: ARI, which can read every password Asterisk has,"
            " is open to all networks without TLS",
            "set bindaddr = 127.0.0.1 and reach it through SSH, or by TLS (tlsenable, tlsbindaddr)",
        )


def _user(node: Node, conf: syntax.Text | None) -> Iterator[Finding]:
    """ari.conf: what a password costs."""
    if conf and _value(conf, node.ari_user, "password_format") == "crypt":
        yield Finding(
            "password-format",
            "warn",
            f"password_format = crypt of {node.ari_user} costs Asterisk 1.3 ms CPU on every request",
            "use password_format = plain with a long random password, and ari.conf with mode 0640",
        )


def _transport(url: str) -> Iterator[Finding]:
    parts = urlsplit(url)
    if parts.scheme == "http" and not _loopback(parts.hostname or ""):
        yield Finding(
            "transport",
            "warn",
            f"ARI's password crosses the network in clear ({url})",
            "use https:// (tlsenable in http.conf), or an SSH tunnel to 127.0.0.1",
        )


def _modes(node: Node, facts: StoreFacts | None) -> Iterator[Finding]:
    """Only files of this machine show their mode."""
    if facts is None or parse_url(node.store).scheme != "local":
        return
    path = os.path.join(facts.config_dir, "ari.conf")  # noqa: PTH118  a word of the node, not of this program
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return
    if mode & 0o004:
        yield Finding(
            "modes",
            "warn",
            f"everybody on the node may read ari.conf and its passwords (mode {mode:04o})",
            f"chmod 0640 {path}",
        )


def _value(conf: syntax.Text, section: str, key: str) -> str | None:
    """The last value of a key: what Asterisk keeps."""
    values = [
        entry.value
        for part in conf.sections
        if part.name == section
        for entry in part.entries
        if entry.key == key
    ]
    return values[-1] if values else None


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text_at(body: Any, *path: str) -> str:
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    return str(body or "")


def _failed(name: str, exc: VoxtractlError, *, place: bool = False) -> Finding:
    where = f" ({exc.where})" if place and exc.where else ""
    return Finding(name, "fail", exc.message + where, exc.hint or "")
