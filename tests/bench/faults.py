"""One tenant's file breaks, or one of its values is hostile: who is still served, by each tool.

Three tenants on a real Asterisk, and it is always the middle one, beta. Each tool lays its files its own way,
is hit at the same place, and reloads its own way. Then Asterisk itself is asked what a call to each DID would
meet: a tenant is served when that is, line by line, what it was while all was well.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from tests.bench import fleets
from tests.bench.figures import Figure, NotMeasured
from tests.bench.ground import Ground
from tests.bench.peer import Peer, include

__all__ = ["measure"]

HIT: Final = "beta"
CALL_LIMIT: Final = 3.0  # seconds a call may take
OTHERS: Final = ("acme", "gamma")

HOW: Final = (
    "both tools on one real Asterisk; yes: what the DIDs of acme and gamma lead to, and their trunks, are as"
    " before by `dialplan show` and `pjsip show`, and a call to beta runs no foreign code"
)


@dataclass(frozen=True, slots=True)
class Values:
    """What a tool is told of a tenant."""

    slug: str
    name: str
    did: str
    host: str
    password: str = "canary"


WELL: Final = (
    Values("acme", "Acme Ltd", "+265999000001", "127.0.1.1"),
    Values(HIT, "Beta Ltd", "+265999000002", "127.0.1.2"),
    Values("gamma", "Gamma Ltd", "+265999000003", "127.0.1.3"),
)


# --- what can happen to beta's dialplan file ----------------------------------------------------------------


def _unclosed(file: Path) -> None:
    file.write_bytes(re.sub(rb"^(\[[^\]\n]+)\]", rb"\1", file.read_bytes(), count=1, flags=re.MULTILINE))


def _cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"Stasis(") + 3])


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _closed(file: Path) -> None:
    os.chown(file, 0, 0)
    file.chmod(0)


def _commented(file: Path) -> None:
    file.write_bytes(b";--\n" + file.read_bytes())


FILES: Final[Mapping[str, Callable[[Path], None]]] = {
    "file: [context without ]": _unclosed,
    "file: cut in a line": _cut,
    "file: empty": _emptied,
    "file: unreadable": _closed,
    "file: missing": Path.unlink,
    "file: ;-- in its first line": _commented,
}


# --- the tools ----------------------------------------------------------------------------------------------


class Tool(Protocol):
    """``lay`` makes tenants live, ``reload`` has the files read again; both say how the tool ended."""

    def lay(self, *tenants: Values) -> str: ...

    def reload(self) -> str: ...

    def file(self) -> Path:
        """Beta's dialplan file."""
        ...

    def extension(self, tenant: Values) -> str:
        """Where a call to the tenant's DID arrives: ``number@context``."""
        ...

    def route(self, tenant: Values) -> str:
        """What Asterisk shows of the tenant's DID and trunk."""
        ...


class Ours:
    """A document, `dialplan push`, `dialplan reload`."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        ground.empty_lab()
        self.document = fleets.write(ground.new_folder(), ground.lab_node(), 0)
        ground.voxtractl(self.document, "node", "init", "lab", "--yes")
        self.tenants: dict[str, Values] = {}

    def lay(self, *tenants: Values) -> str:
        self.tenants |= {tenant.slug: tenant for tenant in tenants}
        texts = [self.document.nodes]
        for tenant in self.tenants.values():
            (self.document.path.parent / tenant.slug).write_text(tenant.password)
            texts.append(
                f"[tenants.{tenant.slug}]\n"
                f"name = {json.dumps(tenant.name)}\ndids = [{json.dumps(tenant.did)}]\n"
                f'[tenants.{tenant.slug}.trunk]\nhost = "{tenant.host}"\nusername = "{tenant.slug}"\n'
                f'password_file = "{tenant.slug}"\n'
            )
        self.document.path.write_text("\n".join(texts))
        return self._said("dialplan", "push", "--yes")

    def reload(self) -> str:
        return self._said("dialplan", "reload")

    def _said(self, *words: str) -> str:
        code = self.ground.voxtractl(self.document, *words, code=None).code
        return f"exit {code}"

    def file(self) -> Path:
        return self.ground.lab.store_dir / "current" / "extensions" / f"{HIT}.conf"

    def extension(self, tenant: Values) -> str:
        return f"{tenant.did}@from-trunk"

    def route(self, tenant: Values) -> str:
        return _shown(
            self.ground,
            tenant,
            f"dialplan show {self.extension(tenant)}",
            f"dialplan show voxtra-{tenant.slug}-fallback",
            f"pjsip show auth {tenant.slug}-trunk",
            f"pjsip show endpoint {tenant.slug}-trunk",
        )


class Theirs:
    """TenantProvisioner's fragments, included by a glob for each kind, and its own reload."""

    def __init__(self, ground: Ground, peer: Peer) -> None:
        self.ground = ground
        self.peer = peer
        ground.empty_lab()
        include(ground, "extensions", "pjsip", "ari")
        self.folder = ground.lab.config_dir / "voxtra.d"

    def lay(self, *tenants: Values) -> str:
        told: list[dict[str, Any]] = [
            {
                "tenant_id": tenant.slug,
                "tenant_name": tenant.name,
                "dids": [tenant.did],
                "trunk": {
                    "host": tenant.host,
                    "username": tenant.slug,
                    "password": tenant.password,
                    "codecs": ["ulaw"],
                },
            }
            for tenant in tenants
        ]
        self.peer.ask("lay", folder=str(self.folder), tenants=told)
        return self.reload()

    def reload(self) -> str:
        lab = self.ground.lab
        answer = self.peer.ask(
            "reload", url=lab.ari_url, user=lab.ari_user, password=lab.ari_password.reveal()
        )
        return f"{len(answer['reloaded'])} of 3 reloads reported good"

    def file(self) -> Path:
        return self.folder / f"extensions_{HIT}.conf"

    def extension(self, tenant: Values) -> str:
        return f"{tenant.did.removeprefix('+')}@voxtra-{tenant.slug}-inbound"

    def route(self, tenant: Values) -> str:
        return _shown(
            self.ground,
            tenant,
            f"dialplan show {self.extension(tenant)}",
            f"pjsip show auth voxtra-{tenant.slug}-trunk-auth",
            f"pjsip show endpoint voxtra-{tenant.slug}-trunk",
        )


def _shown(ground: Ground, tenant: Values, *questions: str) -> str:
    """Asterisk's own words, without the place in a file each line came from, and without what counts up."""
    text = "\n".join(ground.lab.cli(question) for question in questions).replace(tenant.password, "(right)")
    lines = (re.sub(r"\s*\[[^\]\s]+:\d+\]$", "", line) for line in text.splitlines())
    return "\n".join(line for line in lines if not line.lstrip().startswith(("Contact:", "-= ")))


# --- the cases ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended: who is not served as before, whether foreign code ran, and what the tool said."""

    lost: tuple[str, ...]
    ran: bool
    said: str

    @property
    def good(self) -> bool:
        return not self.ran and not set(self.lost) & set(OTHERS)

    def sentence(self) -> str:
        lost = f"not as before: {', '.join(self.lost)}" if self.lost else "all as before"
        return f"{lost}{'; foreign code ran' if self.ran else ''}; {self.said}"


def measure(ground: Ground) -> list[Figure]:
    peer = Peer(ground)
    ran = ground.lab.instance / "spool" / "tmp" / "ran"
    code = f"${{SHELL(touch {ground.lab.inside}/spool/tmp/ran)}}"
    gamma = WELL[2]
    hostile: dict[str, Callable[[Tool], Values]] = {
        "name: ${SHELL(…)}": lambda tool: _beta(name=code),
        "name: a line break, then gamma's context": lambda tool: _beta(
            name=f"Beta\n{_stanza(tool, gamma)}\n;"
        ),
        "name: a line break, then ;--": lambda tool: _beta(name="Beta\n;-- "),
        "DID: with ${SHELL(…)}": lambda tool: _beta(did=f"{WELL[1].did}{code}"),
        "trunk password: pa;--ss": lambda tool: _beta(password="pa;--ss"),
    }
    figures: list[Figure] = []
    others = {"voxtractl": 0, "voxtra": 0}
    itself = {"voxtractl": 0, "voxtra": 0}
    for case in (*FILES, *hostile):
        outcomes: dict[str, Outcome] = {}
        for name in others:
            tool: Tool = Ours(ground) if name == "voxtractl" else Theirs(ground, peer)
            said = tool.lay(*WELL)
            before = {tenant.slug: tool.route(tenant) for tenant in WELL}
            if not all("Stasis(" in shown for shown in before.values()):
                raise NotMeasured(f"{name} does not serve its tenants to begin with ({said}): {before}")
            ran.unlink(missing_ok=True)
            now = WELL
            if case in FILES:
                FILES[case](tool.file())
                said = tool.reload()
            else:
                values = hostile[case](tool)
                said = tool.lay(values)
                now = (WELL[0], _beta(password=values.password), WELL[2])
            lost = tuple(tenant.slug for tenant in now if tool.route(tenant) != before[tenant.slug])
            _call(ground, tool.extension(WELL[1]))
            outcomes[name] = Outcome(lost, ran.exists(), said)
            others[name] += outcomes[name].good
            itself[name] += HIT not in lost
        figures.append(
            Figure(
                what=case,
                value=", ".join(f"{name} {'yes' if o.good else 'NO'}" for name, o in outcomes.items()),
                spread=" | ".join(f"{name}: {o.sentence()}" for name, o in outcomes.items()),
                how=HOW,
            )
        )
    ground.empty_lab()
    cases = len(figures)
    for what, sums in (("cases the others survive", others), ("cases beta itself survives", itself)):
        value = ", ".join(f"{name} {good} of {cases}" for name, good in sums.items())
        figures.append(Figure(what=what, value=value, how=HOW))
    return figures


def _call(ground: Ground, extension: str) -> None:
    """Let a call arrive there, as from a carrier, and wait for its end."""
    ground.lab.cli(f"channel originate Local/{extension} application NoOp")
    deadline = time.monotonic() + CALL_LIMIT
    while not ground.lab.cli("core show channels count").startswith("0 active channels"):
        if time.monotonic() > deadline:
            ground.lab.cli("channel request hangup all")
            return


def _beta(**changed: str) -> Values:
    return replace(WELL[1], **changed)


def _stanza(tool: Tool, tenant: Values) -> str:
    """A stanza that takes this tenant's number, in the words of the tool's dialplan."""
    if isinstance(tool, Ours):
        return f"[from-trunk]\nexten => {tenant.did},1,Hangup(21)"
    return f"[voxtra-{tenant.slug}-inbound]\nexten => {tenant.did.removeprefix('+')},1,Hangup(21)"
