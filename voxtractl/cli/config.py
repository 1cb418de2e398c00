"""`voxtractl config`: is the document right? Reads files, touches no node; made for CI."""

import typer

from voxtractl import files
from voxtractl.cli import context, show
from voxtractl.model import document

__all__ = ["app"]

app = typer.Typer(
    help="Check the document.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.callback()
def _group() -> None:
    """Check the document."""


@app.command()
def check() -> None:
    """Read the document; every error with its place.

    One a line, as file:line:col: path: what is wrong; what to do. Exit code 3.
    """
    sources = files.read_sources(context.settings().config)
    fleet = document.parse(sources)
    counts = {
        "tenants": len(fleet.tenants),
        "dids": len(fleet.owners),
        "nodes": len(fleet.nodes),
        "files": len(sources),
    }
    words = (("tenants", "tenant"), ("dids", "DID"), ("nodes", "node"), ("files", "file"))
    text = ", ".join(f"{counts[key]} {word}{'' if counts[key] == 1 else 's'}" for key, word in words)
    show.emit(counts, f"ok: {text}")
