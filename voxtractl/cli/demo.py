"""``voxtractl demo``: the whole flow on a private, real Asterisk, with the commands an operator types.

Nothing is played: every line that starts with ``$`` is a command that runs, and every claim of the summary is
an answer of Asterisk. The lab and the document are gone afterwards; ``--keep`` leaves both.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import typer

from voxtractl.cli import context, show
from voxtractl.errors import DemoFailed, Interrupted

if TYPE_CHECKING:
    from voxtractl.lab import Lab

__all__ = ["Step", "app"]

TENANTS: Final = ("acme", "beta")
EXAMPLE: Final = "tenants.example.toml"

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the summary."""

    what: str
    answer: str
    seconds: float


@app.command()
def demo(
    keep: bool = typer.Option(False, "--keep", help="Leave the lab and the document for you to play with."),
) -> None:
    """See it all work on a private Asterisk: add, push, prove, break, survive, heal."""
    from voxtractl import lab as labs

    started = monotonic()
    folder = Path(tempfile.mkdtemp(prefix="voxtractl-demo-"))
    name = f"demo-{os.getpid()}"  # two demos at once do not meet
    before = context.settings()
    try:
        with _quiet_stdout():
            show.note("A private Asterisk (the first time on a machine takes half a minute):")
            lab = labs.up(name, report=lambda line: show.note(f"  {line}"))
            steps = [Step("a private Asterisk", f"{lab.version} on {lab.ari_url}", monotonic() - started)]
            steps += _flow(lab, folder)
    finally:
        context.configure(before)
        if not keep:
            labs.purge(name)
            shutil.rmtree(folder)
    seconds = monotonic() - started
    show.emit(
        {
            "seconds": round(seconds, 1),
            "steps": [{"what": s.what, "answer": s.answer, "seconds": round(s.seconds, 2)} for s in steps],
            "folder": str(folder) if keep else None,
        },
        lambda: _summary(steps, seconds, folder if keep else None, name),
    )


def _flow(lab: "Lab", folder: Path) -> list[Step]:
    config = folder / "tenants.toml"
    _write_document(lab, config)
    steps: list[Step] = []

    def step(what: str, answer: str, *commands: tuple[Sequence[str], int]) -> None:
        began = monotonic()
        for words, expected in commands:
            _run(config, words, expected)
        steps.append(Step(what, answer, monotonic() - began))

    step("Asterisk told to read the store", "2 lines in 3 files", (("node", "init", "lab", "--yes"), 0))
    step("the document is sound", f"{len(TENANTS)} tenants", (("config", "check"), 0))
    step("what will be pushed is sound", "nothing touched yet", (("dialplan", "lint"), 0))
    dids = _dids(config)
    step("pushed, reloaded, proven", f"{len(dids)} DIDs live", (("dialplan", "push", "--yes"), 0))
    broken = lab.store_dir / "current" / "extensions" / "beta.conf"
    show.note(f"\nNow break one tenant on purpose: the second half of {broken.name} is cut off.")
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    step(
        "one file cut in half, reloaded",
        "refused; the old dialplan stays",
        (("dialplan", "reload"), 8),
    )
    step("every DID asked again", f"{len(dids)} of {len(dids)} still live", (("dialplan", "verify"), 0))
    step(
        "healed from the document",
        "proven; the edit is kept aside",
        (("dialplan", "push", "--overwrite-drift", "--yes"), 0),
    )
    step(
        "is everything what it should be?", "files, Asterisk and document agree", (("dialplan", "status"), 0)
    )
    return steps


def _run(config: Path, words: Sequence[str], expected: int) -> None:
    """One command as an operator types it, in this process; raises DemoFailed when it ends otherwise."""
    from voxtractl.cli.entry import run

    show.note(show.paint(f"\n$ voxtractl {' '.join(words)}", "bold", stream=sys.stderr))
    code = run(["--config", str(config), *words])
    if code == Interrupted.exit_code:
        raise KeyboardInterrupt
    if code != expected:
        raise DemoFailed(
            f"voxtractl {' '.join(words)} ended with {code}, not {expected}",
            hint="run `voxtractl demo --keep` and look at the lab's log: voxtractl lab status",
        )
    if code:
        show.note(f"(exit code {code}, as it should be)")


def _write_document(lab: "Lab", config: Path) -> None:
    """The lab as the only node, and the example's tenants in tenants.d."""
    import tomlkit

    document = tomlkit.document()
    document["nodes"] = {
        "lab": {
            "ari": lab.ari_url,
            "ari_user": lab.ari_user,
            "ari_password_file": str(lab.ari_password_file),
            "store": f"local:{lab.store_dir}",
        }
    }
    config.write_text(tomlkit.dumps(document), encoding="utf-8")
    example: Any = tomlkit.parse(_example().read_text(encoding="utf-8"))
    secrets = config.parent / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "acme.trunk").write_text("only-a-demo", encoding="utf-8")
    (config.parent / "tenants.d").mkdir()
    for slug in TENANTS:
        text = tomlkit.dumps({"tenants": {slug: example["tenants"][slug].unwrap()}})
        (config.parent / "tenants.d" / f"{slug}.toml").write_text(text, encoding="utf-8")
    show.note(f"\nTenants {' and '.join(TENANTS)} of {EXAMPLE}, in {config.parent / 'tenants.d'}")


def _dids(config: Path) -> list[str]:
    from voxtractl.files import read_sources
    from voxtractl.model.document import parse

    return list(parse(read_sources(config)).owners)


def _example() -> Path:
    """The example document: in the package, or in the checkout it was installed from."""
    package = Path(__file__).resolve().parent.parent
    return next(path for path in (package / EXAMPLE, package.parent / EXAMPLE) if path.is_file())


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """With -o json the commands' own output goes to stderr: stdout is one document."""
    if context.settings().output == "json":
        with contextlib.redirect_stdout(sys.stderr):
            yield
    else:
        yield


def _summary(steps: Sequence[Step], seconds: float, kept: Path | None, name: str) -> str:
    rows = [(s.what, s.answer, f"{s.seconds:.2f}") for s in steps]
    lines = ["", show.table(("WHAT", "WHAT ASTERISK SHOWED", "SECONDS"), rows), ""]
    lines.append(show.paint(f"All of it on a real Asterisk, in {seconds:.1f} s.", "green"))
    if kept is not None:
        lines.append(f"Kept: cd {kept}; the lab is `voxtractl lab status --name {name}`.")
    return "\n".join(lines)
