"""An operator at the keyboard: types commands of the real command line and reads what comes back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from voxtractl.cli import context
from voxtractl.cli.entry import run
from voxtractl.lab import Lab
from voxtractl.settings import Settings

__all__ = ["Operator", "Said"]


@dataclass(frozen=True)
class Said:
    """How one command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document of ``-o json``."""
        return json.loads(self.out)


class Operator:
    """Types commands for one document. ``capsys`` of the test collects what they write."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str], lab: Lab, node: str = "lab") -> None:
        self.config = config
        self.capsys = capsys
        self.lab = lab
        self.node = node
        self.heard = ""  # all that was ever written, for the hunt for secrets

    def types(self, *words: str) -> Said:
        context.configure(Settings())
        self.capsys.readouterr()
        code = run(["--config", str(self.config), *words])
        out, err = self.capsys.readouterr()
        self.heard += out + err
        return Said(code, out, err)

    def must(self, *words: str) -> Said:
        """A command that has to succeed."""
        said = self.types(*words)
        assert said.code == 0, f"{words} ended with {said.code}:\n{said.out}{said.err}"
        return said

    def add(self, slug: str, *words: str) -> None:
        self.must("tenant", "add", slug, *words)

    @property
    def current(self) -> Path:
        """The release the node's link leads to."""
        return self.lab.store_dir / (self.lab.store_dir / "current").readlink()

    def live(self) -> bool:
        """Whether Asterisk proves every DID of the current revision."""
        return self.types("dialplan", "verify").code == 0

    def dialplan(self, context: str) -> str:
        """What Asterisk itself shows of a context."""
        return self.lab.cli(f"dialplan show {context}")
