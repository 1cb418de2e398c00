"""Settings of one invocation, and secrets; every value knows where it came from.

A setting is taken from the command line, else from ``VOXTRACTL_*`` (an empty one is none), else from its
default, and says which.
pydantic-settings validates the environment, and is imported only when a ``VOXTRACTL_*`` variable is set:
it costs 0.2 s, more than a whole ``tenant list``. A secret is named in the document (file, environment
variable or command) and read only when it is used; its value prints as stars.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from voxtractl.errors import SettingsError

__all__ = ["LONGEST", "PREFIX", "Secret", "SecretRef", "Settings", "Source"]

PREFIX: Final = "VOXTRACTL_"
LONGEST: Final = 86_400.0  # seconds that may be given for anything; beyond a day it is a mistake
SECRET_MAX: Final = 64 * 1024  # bytes of a secret's file; no password is as long
SECRET_TIMEOUT: Final = 30.0  # seconds a password command may take (a password store may ask for a PIN)

Source = Literal["default", "environment", "command line"]


class Secret:
    """A secret value. ``str`` and ``repr`` show stars; ``reveal()`` is the one way to the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret('****')"

    def __str__(self) -> str:
        return "****"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(("Secret", self._text))


class SecretRef(NamedTuple):
    """Where a secret is to be had: ``…_file``, ``…_env`` or ``…_command`` of the document.

    ``repr`` shows the key only: the words of a command may hold a token.
    """

    kind: Literal["file", "env", "command"]
    value: tuple[str, ...]  # one path, one variable name, or the words of a command
    where: str  # the key in the document, for the error: nodes.pbx1.ari_password_file

    def __repr__(self) -> str:
        return f"SecretRef({self.where})"

    def resolve(self, base: Path) -> Secret:
        """Read the secret; relative files and commands are seen from ``base``, the document's folder.

        Raises SettingsError that names the key and never the value.
        """
        if self.kind == "file":
            text = self._from_file(os.path.join(base, os.path.expanduser(self.value[0])))  # noqa: PTH111, PTH118
        elif self.kind == "env":
            text = self._from_variable(self.value[0])
        else:
            text = self._from_command(base)
        secret = text.rstrip("\r\n")
        if not secret:
            raise SettingsError(f"{self.where}: the secret is empty", hint="put the password there")
        return Secret(secret)

    def _from_file(self, path: str) -> str:
        # Plain calls: 10,000 trunk passwords in 0.1 s against 0.5 s with Path.read_text (measured).
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(fd, SECRET_MAX).decode("utf-8")
            finally:
                os.close(fd)
        except FileNotFoundError as exc:
            raise SettingsError(
                f"{self.where}: the file {path} does not exist",
                hint=f"put the password there: umask 077; printf %s PASSWORD > {path}",
            ) from exc
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise SettingsError(
                f"{self.where}: the file {path} cannot be read: {reason}", hint="check its owner and mode"
            ) from exc

    def _from_variable(self, name: str) -> str:
        text = os.environ.get(name)
        if text is None:
            raise SettingsError(
                f"{self.where}: the environment variable {name} is not set",
                hint=f"export {name} before running voxtractl",
            )
        return text

    def _from_command(self, base: Path) -> str:
        program = self.value[0]
        try:
            done = subprocess.run(
                self.value, cwd=base, capture_output=True, text=True, timeout=SECRET_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise SettingsError(
                f"{self.where}: {program} gave no password within {SECRET_TIMEOUT:.0f} s",
                hint="run the command by hand; it may be waiting for a PIN",
            ) from exc
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "its answer is not UTF-8 text"
            raise SettingsError(
                f"{self.where}: {program} cannot be run: {reason}", hint="check the command"
            ) from exc
        if done.returncode != 0:
            # Its output is left out: a failing password program may print what it holds.
            raise SettingsError(
                f"{self.where}: {program} ended with exit code {done.returncode}",
                hint="run the command by hand",
            )
        return done.stdout


@dataclass(frozen=True, slots=True)
class Settings:
    """What one invocation works with. ``sources`` tells for each field where its value came from."""

    config: Path = Path("tenants.toml")
    node: tuple[str, ...] = ()
    output: Literal["text", "json"] = "text"
    yes: bool = False
    no_color: bool = False
    verbose: bool = False
    templates: Path | None = None
    timeout: float = 30.0  # seconds for one request to Asterisk or one step on a node
    sources: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def load(cls, given: Mapping[str, Any]) -> "Settings":
        """Settings from ``given`` (the command line's words, only those typed), then the environment.

        Raises SettingsError for a ``VOXTRACTL_*`` variable that is not valid.
        """
        names = [f.name for f in fields(cls) if f.name != "sources"]
        values: dict[str, Any] = {}
        sources: dict[str, Source] = dict.fromkeys(names, "default")
        if any(PREFIX + name.upper() in os.environ for name in names):
            for name, value in _from_environment().items():
                values[name], sources[name] = value, "environment"
        for name, value in given.items():
            values[name], sources[name] = value, "command line"
        return cls(**values, sources=sources)


def _from_environment() -> dict[str, Any]:
    from typing import Annotated

    from pydantic import Field, ValidationError, field_validator
    from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

    class Environment(BaseSettings):
        """The same names as Settings; only those that are set are taken over."""

        model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore")

        config: Path = Path("tenants.toml")
        node: Annotated[tuple[str, ...], NoDecode] = ()
        output: Literal["text", "json"] = "text"
        yes: bool = False
        no_color: bool = False
        verbose: bool = False
        templates: Path | None = None
        timeout: float = Field(default=30.0, gt=0, le=LONGEST)

        @field_validator("node", mode="before")
        @classmethod
        def words(cls, value: object) -> object:
            """``pbx1,pbx2`` or ``pbx1 pbx2``; not JSON."""
            return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    try:
        parsed = Environment()
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        name = PREFIX + str(first["loc"][0]).upper().removeprefix(PREFIX)
        raise SettingsError(
            f"{name}: {first['msg'].lower()}", where="environment", hint=f"correct or unset {name}"
        ) from exc
    return {name: getattr(parsed, name) for name in parsed.model_fields_set}
