"""What the shell completes besides commands and options, above all tenants and nodes of the document.

Quiet: whatever is wrong with the document, nothing is offered, and the command itself will tell.
"""

from pathlib import Path
from typing import Any

import typer

from voxtractl.errors import VoxtractlError
from voxtractl.settings import Settings

__all__ = ["forms", "nodes", "tenants"]


def forms(incomplete: str) -> list[str]:
    return [form for form in ("text", "json") if form.startswith(incomplete)]


def tenants(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names("tenants", ctx, incomplete)


def nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names("nodes", ctx, incomplete)


def _names(kind: str, ctx: typer.Context, begin: str) -> list[str]:
    from voxtractl import files
    from voxtractl.model import document

    given: str | None = ctx.find_root().params.get("config")
    typed: dict[str, Any] = {"config": Path(given).expanduser()} if given is not None else {}
    try:
        fleet = document.parse(files.read_sources(Settings.load(typed).config))
    except VoxtractlError:
        return []
    return sorted(name for name in getattr(fleet, kind) if name.startswith(begin))
