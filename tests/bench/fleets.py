"""Documents of many tenants, written into a folder. What a tenant of each kind has stands in WHAT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

__all__ = ["WHAT", "Document", "Kind", "host", "node_toml", "write"]

Kind = Literal["lean", "dialling", "plain", "trunk", "full"]

WHAT: Final[Mapping[Kind, str]] = {
    "lean": "2 DIDs, a name and a handler",
    "dialling": "2 DIDs, a name, a handler, a trunk without a password, outbound rules",
    "plain": "2 DIDs, a name, a handler, max_channels and a sound as fallback",
    "trunk": "what a plain one has, and a trunk with a password file",
    "full": "what a plain one has, a trunk with a password file, a queue with one member, outbound rules",
}


@dataclass(frozen=True, slots=True)
class Document:
    """A written document. ``split``: one file a tenant in ``tenants.d``, else all in ``tenants.toml``."""

    path: Path
    nodes: str
    count: int
    kind: Kind
    split: bool

    def change(self, number: int, version: int) -> None:
        """Give one tenant another ``max_channels``, which a lean one has not: only its dialplan changes."""
        if self.split:
            self._file(number).write_text(_tenant(number, self.kind, version))
        else:
            self.write_all(lambda n: version if n == number else 0)

    def write_all(self, version: Callable[[int], int] = lambda number: 0) -> None:
        """Write every tenant; ``version`` says which one for each number."""
        texts = [_tenant(number, self.kind, version(number)) for number in range(self.count)]
        if self.split:
            self.path.write_text(self.nodes)
            for number, text in enumerate(texts):
                self._file(number).write_text(text)
        else:
            self.path.write_text("\n".join((self.nodes, *texts)))

    def _file(self, number: int) -> Path:
        return self.path.parent / "tenants.d" / f"{_slug(number)}.toml"


def write(folder: Path, nodes: str, count: int, *, kind: Kind = "plain", split: bool = False) -> Document:
    """A new document of ``count`` tenants in ``folder``, which is made."""
    document = Document(folder / "tenants.toml", nodes, count, kind, split)
    (folder / "tenants.d" if split else folder).mkdir(parents=True, exist_ok=True)
    if kind in {"trunk", "full"}:
        (folder / "secrets").mkdir()
        for number in range(count):
            (folder / "secrets" / _slug(number)).write_text(f"password of {number}\n")
    document.write_all()
    return document


def node_toml(
    name: str, store: str, *, ari: str = "http://127.0.0.1:9", password_file: str = "none", more: str = ""
) -> str:
    """A node; without ``ari`` nobody answers there (port 9 is discard)."""
    return (
        f'[nodes.{name}]\nari = "{ari}"\nari_user = "voxtractl"\nari_password_file = "{password_file}"\n'
        f'store = "{store}"\n{more}'
    )


def host(number: int) -> str:
    """A carrier's address of its own on loopback: tenants that share one are routed in another way."""
    return f"127.{1 + number // 65536}.{number // 256 % 256}.{number % 256}"


def _slug(number: int) -> str:
    return f"t{number:05d}"


def _tenant(number: int, kind: Kind, version: int) -> str:
    slug = _slug(number)
    lean = f"""\
[tenants.{slug}]
name = "Tenant {number} Ltd"
dids = ["+2659{number:08d}", "+2658{number:08d}"]
handler = "handlers/{slug}.py:app"
"""
    if kind == "lean":
        return lean
    outbound = f"""
[tenants.{slug}.outbound]
caller_ids = ["+2657{number:08d}"]
allow = ["+265"]
calls_per_second = 2
"""
    if kind == "dialling":
        return f'{lean}\n[tenants.{slug}.trunk]\nhost = "{host(number)}"\n{outbound}'
    plain = f"""{lean}\
max_channels = {20 + version}
fallback = {{ play = "vm-goodbye" }}
"""
    if kind == "plain":
        return plain
    trunk = f"""{plain}
[tenants.{slug}.trunk]
host = "{host(number)}"
username = "{slug}"
password_file = "secrets/{slug}"
codecs = ["ulaw", "alaw"]
"""
    if kind == "trunk":
        return trunk
    return f"""{trunk}
[tenants.{slug}.queues.support]
members = ["PJSIP/agent1"]
{outbound}"""
