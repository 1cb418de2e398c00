"""Finds the templates: which file each fragment is rendered from. Reads files, renders nothing.

Each template is looked for on its own, first found wins, so a folder may replace just one of them:

    1. --templates DIR
    2. templates/ beside tenants.toml
    3. voxtractl/templates inside the package      put there when a wheel is built
    4. templates/ of the checkout                  an editable install has no copy of its own (tried)
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from voxtractl.errors import TemplateError

__all__ = ["NAMES", "Template", "TemplateSet", "find", "places", "read"]

NAMES: Final = (
    "extensions/tenant.conf.j2",
    "extensions/shared.conf.j2",
    "pjsip/tenant.conf.j2",
    "queues/tenant.conf.j2",
)
PACKAGE: Final = Path(__file__).resolve().parent.parent  # voxtractl/


@dataclass(frozen=True, slots=True)
class Template:
    """The text of one template and the file it came from; ``digest`` tells two texts apart."""

    origin: str
    text: str
    digest: str

    @classmethod
    def of(cls, origin: str, text: str) -> "Template":
        return cls(origin, text, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


@dataclass(frozen=True, slots=True)
class TemplateSet:
    """One template for each of ``NAMES``."""

    templates: tuple[tuple[str, Template], ...]

    def __getitem__(self, name: str) -> Template:
        return dict(self.templates)[name]

    @classmethod
    def of(cls, templates: Mapping[str, Template]) -> "TemplateSet":
        return cls(tuple(sorted(templates.items())))


def places(given: Path | None = None, config_dir: Path | None = None) -> tuple[Path, ...]:
    """The folders that are searched, in order. ``given`` is --templates, ``config_dir`` has tenants.toml."""
    folders = [given] if given else []
    if config_dir:
        folders.append(config_dir / "templates")
    folders.append(PACKAGE / "templates")
    if (PACKAGE.parent / "pyproject.toml").is_file():  # a checkout, not just any folder beside site-packages
        folders.append(PACKAGE.parent / "templates")
    return tuple(folders)


def find(given: Path | None = None, config_dir: Path | None = None) -> TemplateSet:
    """All templates; raises TemplateError when one is nowhere, or ``given`` is not a folder."""
    if given and not given.is_dir():
        raise TemplateError(
            f"--templates {given} is not a folder", template=str(given), hint="name a folder that exists"
        )
    folders = places(given, config_dir)
    return TemplateSet.of({name: _first(name, folders) for name in NAMES})


def read(path: Path, tenant: str | None = None) -> Template:
    """One template file; raises TemplateError when it cannot be read or is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise TemplateError(
            f"the template cannot be read: {reason}",
            template=str(path),
            tenant=tenant,
            hint="check the path, its owner and its mode",
        ) from exc
    return Template.of(str(path), text)


def _first(name: str, folders: Sequence[Path]) -> Template:
    for folder in folders:
        path = folder / name
        if path.is_file():
            return read(path)
    searched = ", ".join(str(folder) for folder in folders)
    raise TemplateError(
        f"no template {name} in {searched}",
        template=name,
        hint="reinstall voxtractl; its own copy is missing",
    )
