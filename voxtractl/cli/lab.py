"""`voxtractl lab`: a private, real Asterisk on loopback. Commands only; the work is in `voxtractl.lab`.

The ARI password is never printed: what is shown is the file it lies in, as tenants.toml wants it.
"""

from typing import TYPE_CHECKING, Any

import typer

from voxtractl.cli import show
from voxtractl.errors import LabError, UsageFault

if TYPE_CHECKING:
    from voxtractl.lab import Lab

__all__ = ["app"]

app = typer.Typer(
    help="A private, real Asterisk on loopback to try things on; nothing outside its folder.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

NAME = typer.Option("lab", "--name", help="Which lab; several may run at once.")


@app.command()
def up(name: str = NAME) -> None:
    """Start a lab; built first if need be (root on Debian; 30 s)."""
    from voxtractl import lab as labs

    lab = labs.up(name, report=show.note)
    show.emit(_facts(lab), lambda: _text(lab))


@app.command()
def down(
    name: str = NAME,
    purge: bool = typer.Option(False, "--purge", help="Delete its files too."),
    everything: bool = typer.Option(False, "--all", help="All labs; with --purge the built Debian too."),
) -> None:
    """End a lab; its files stay unless --purge."""
    from voxtractl import lab as labs

    chosen = labs.names() if everything else [name]
    rows = []
    for each in chosen:
        lab = labs.find(each)
        was_up = lab is not None and lab.alive
        if lab is not None:
            lab.down()
        if purge:
            labs.purge(each)
        rows.append({"name": each, "existed": lab is not None, "was_up": was_up, "purged": purge})
    if everything and purge:
        labs.remove_root()
    show.emit({"labs": rows}, lambda: "\n".join(_ending(row) for row in rows) or "no labs")


@app.command()
def status(name: str = NAME) -> None:
    """Whether a lab is up, and where everything of it is."""
    from voxtractl import lab as labs

    lab = labs.find(name)
    if lab is None:
        show.emit(
            {"name": name, "exists": False, "up": False},
            f"there is no lab {name}; make one: voxtractl lab up" + _option(name),
        )
        return
    show.emit(_facts(lab), lambda: _text(lab))


@app.command()
def cli(
    command: list[str] = typer.Argument(
        metavar="COMMAND...", help='A command of Asterisk\'s console: "core show channels".'
    ),
    name: str = NAME,
) -> None:
    """Ask the lab's Asterisk console (after -- when a dash is in it)."""
    from voxtractl import lab as labs

    lab = labs.find(name)
    if lab is None:
        raise LabError(f"there is no lab {name}", hint="voxtractl lab up" + _option(name))
    line = " ".join(command)
    if not line.strip():
        raise UsageFault("there is no command to ask", hint='voxtractl lab cli "core show channels"')
    answer = lab.cli(line)
    show.emit({"name": name, "command": line, "answer": answer}, answer)


def _facts(lab: "Lab") -> dict[str, Any]:
    return {
        "name": lab.name,
        "exists": True,
        "up": lab.alive,
        "pid": lab.pid,
        "how": lab.how,
        "version": lab.version,
        "ari_url": lab.ari_url,
        "ari_user": lab.ari_user,
        "ari_password_file": str(lab.ari_password_file),
        "http_port": lab.http_port,
        "sip_port": lab.sip_port,
        "config_dir": str(lab.config_dir),
        "inside_config_dir": lab.inside_config_dir,
        "store_dir": str(lab.store_dir),
        "log_file": str(lab.log_file),
    }


def _text(lab: "Lab") -> str:
    from json import dumps

    pid = lab.pid
    state = show.paint("up", "green") + f", pid {pid}" if pid else show.paint("down", "yellow")
    where = "on PATH" if lab.how == "path" else f"in {lab.home / 'root'}"
    # JSON's strings are TOML's basic strings.
    return f"""\
lab {show.paint(lab.name, "bold")} is {state}: Asterisk {lab.version} {where}
  SIP     127.0.0.1:{lab.sip_port} (UDP)
  config  {lab.config_dir}
  log     {lab.log_file}

For tenants.toml:
  [nodes.{lab.name}]
  ari = {dumps(lab.ari_url)}
  ari_user = {dumps(lab.ari_user)}
  ari_password_file = {dumps(str(lab.ari_password_file), ensure_ascii=False)}
  store = {dumps(f"local:{lab.store_dir}", ensure_ascii=False)}
"""


def _ending(row: dict[str, Any]) -> str:
    if not row["existed"]:
        return f"there is no lab {row['name']}"
    ended = "is down" if row["was_up"] else "was down already"
    return f"lab {row['name']} {ended}" + (", its files are deleted" if row["purged"] else "")


def _option(name: str) -> str:
    return "" if name == "lab" else f" --name {name}"
