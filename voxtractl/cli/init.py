"""`voxtractl init`: a folder to start from. Writes new files only; what exists is never touched."""

from pathlib import Path
from typing import Final

import typer

from voxtractl import files
from voxtractl.cli import context, show
from voxtractl.errors import DocumentError

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

DOCUMENT: Final = """\
# The tenants of your Asterisk servers: reviewed in git, pushed with `voxtractl dialplan push`.
# Check it at any time: voxtractl config check

[defaults]
app_name      = "voxtra-{{ slug }}"   # the Stasis app of a tenant: voxtra-acme
trunk_context = "from-trunk"          # where the carriers' calls arrive on Asterisk
unmatched     = "reject"              # a number nobody owns: "reject", or the slug of a catch-all tenant

# One Asterisk. This one is on this machine; its password goes into the file that is named here.
[nodes.pbx1]
ari               = "http://127.0.0.1:8088"
ari_user          = "voxtractl"
ari_password_file = "secrets/pbx1.ari"              # or ari_password_env = "NAME"
store             = "local:/etc/asterisk/voxtractl" # elsewhere: "sftp://deploy@pbx1/etc/asterisk/voxtractl"

# One tenant. Add yours with `voxtractl tenant add acme --did +265999000001`, or write it here:
#
# [tenants.acme]
# name         = "Acme Ltd"
# dids         = ["+265999000001"]
# handler      = "handlers/acme.py:app"
# max_channels = 20                                 # calls at once, in and out together
# fallback     = { play = "vm-goodbye" }            # when no runtime is connected
#
# [tenants.acme.trunk]
# host          = "sip.carrier.example"
# username      = "acme"
# password_file = "secrets/acme.trunk"
#
# [tenants.acme.queues.support]                     # rendered as acme-support
# members = ["PJSIP/agent1"]
#
# [tenants.acme.outbound]                           # absent: this tenant cannot dial out
# caller_ids = ["+265888000001"]
# allow      = ["+265"]
"""

HANDLER: Final = '''\
"""A call handler to start from; docs/handlers.md says what a call can do. `voxtractl run` serves it."""

from voxtractl import VoxtraApp

app = VoxtraApp()


@app.default()
async def every_call(call):
    await call.answer()
    await call.play_file("hello-world")
    digit = await call.listen_dtmf(timeout=5)
    if digit:
        await call.play(f"digits:{digit}")
    await call.play_file("vm-goodbye")
'''

IGNORE: Final = "# Secrets stay on this machine.\n*\n!.gitignore\n"


@app.command()
def init(
    folder: Path | None = typer.Argument(
        None, metavar="[DIR]", help="Where. [this folder]", show_default=False
    ),
) -> None:
    """Start: write a commented tenants.toml, a call handler and a folder for secrets."""
    config = context.settings().config if folder is None else folder / "tenants.toml"
    folder = config.parent
    written = _init(config)
    here = "" if config == Path("tenants.toml") else f" --config {config}"
    lines = [
        *(f"wrote {path}" for path in written),
        "",
        "Next:",
        f"  put the ARI password of pbx1 into {folder / 'secrets' / 'pbx1.ari'}",
        f"  voxtractl{here} node init pbx1",
        f"  voxtractl{here} tenant add acme --did +265999000001 --handler handlers/example.py:app --push",
        f"  voxtractl{here} run",
    ]
    show.emit({"files": written}, "\n".join(lines))


def _init(config: Path) -> list[str]:
    """Write the files; their names."""
    folder, secrets = config.parent, config.parent / "secrets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.create(config, DOCUMENT)
        written = [str(config)]
        if not secrets.exists():
            secrets.mkdir(mode=0o700)
            files.create(secrets / ".gitignore", IGNORE)
            written.append(str(secrets / ".gitignore"))
        handlers = folder / "handlers"
        if not handlers.exists():
            handlers.mkdir()
            files.create(handlers / "example.py", HANDLER)
            written.append(str(handlers / "example.py"))
    except OSError as exc:
        raise DocumentError(
            f"the folder cannot be made: {(exc.strerror or '').lower()}",
            file=str(exc.filename or folder),
            hint="choose another folder, or check its owner and mode",
        ) from exc
    return written
