"""What Asterisk must answer when it runs exactly a revision; asked over ARI, without a channel or a call.

The marks prove that every file of a kind was read; the labels prove what a call to each DID meets, through
includes and patterns as a real call would; endpoints prove that res_pjsip holds them. Queues have their mark
only: nothing else that ARI shows of a queue is about now.
A reload's 204 proves nothing (Asterisk says it after dropping half of the tenants).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Answer, Request
from voxtractl.render.bundle import TenantState

__all__ = ["Proof", "Question", "prove", "questions"]


What = Literal["kind", "tenant", "did", "endpoint"]


class Question(NamedTuple):
    """One thing that must be live, how to ask for it, and how to read the answer."""

    what: What
    name: str
    request: Request
    read: Callable[[Answer], bool | None]


class Proof(NamedTuple):
    """The answers: how much was asked, and by name what is not live. Empty ``missing`` is the proof."""

    asked: int
    dids: int
    missing_kinds: tuple[str, ...] = ()
    missing_tenants: tuple[str, ...] = ()  # only those without a DID to ask for
    missing_dids: tuple[str, ...] = ()
    missing_endpoints: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.missing()

    def missing(self) -> dict[str, list[str]]:
        found = {
            "kinds": self.missing_kinds,
            "tenants": self.missing_tenants,
            "dids": self.missing_dids,
            "endpoints": self.missing_endpoints,
        }
        return {name: list(values) for name, values in found.items() if values}

    def sentence(self) -> str:
        """What is missing, in one line: ``extensions was not loaded whole; 3 DIDs (+265…) …``."""
        parts: list[str] = []
        if self.missing_kinds:
            parts.append(f"{' and '.join(self.missing_kinds)} not loaded whole")
        for what, values in (
            ("tenant", self.missing_tenants),
            ("DID", self.missing_dids),
            ("endpoint", self.missing_endpoints),
        ):
            if values:
                shown = ", ".join(values[:3]) + (", …" if len(values) > 3 else "")
                plural = "" if len(values) == 1 else "s"
                parts.append(f"{len(values)} {what}{plural} not live ({shown})")
        return "; ".join(parts)

    def document(self) -> dict[str, Any]:
        return {"asked": self.asked, "dids": self.dids, "complete": self.complete, "missing": self.missing()}


def questions(
    marks: Mapping[str, str],
    tenants: Mapping[str, TenantState],
    trunk_context: str,
    *,
    only: Collection[str] | None = None,
) -> tuple[Question, ...]:
    """What to ask for a revision; ``only`` these tenants when given (the marks are always asked)."""
    asked = [
        Question("kind", kind, requests.mark(kind, mark), partial(requests.mark_answer, kind, mark))
        for kind, mark in marks.items()
    ]
    total = sum(len(state.dids) for state in tenants.values())
    for slug, state in tenants.items():
        if only is not None and slug not in only:
            continue
        if not state.dids:
            probe = requests.probe_label(naming.fallback_context(slug), "s", state.label)
            asked.append(Question("tenant", slug, probe, requests.label_answer))
        for did in state.dids:
            context = naming.did_context(did, trunk_context, total)
            probe = requests.probe_label(context, did, state.label)
            asked.append(Question("did", did, probe, requests.label_answer))
        if state.endpoint:
            request = requests.endpoint(state.endpoint)
            asked.append(Question("endpoint", state.endpoint, request, requests.endpoint_answer))
    return tuple(asked)


async def prove(ari: ARIClient, asked: Sequence[Question]) -> Proof:
    """Ask Asterisk all questions. Raises AriError when it does not answer one of them with yes or no."""
    missing: dict[What, list[str]] = {"kind": [], "tenant": [], "did": [], "endpoint": []}
    answers = await ari.ask_all([question.request for question in asked])
    for question, answer in zip(asked, answers, strict=True):
        live = question.read(answer)
        if live is None:
            raise ari.refused(question.request, answer)
        if not live:
            missing[question.what].append(question.name)
    return Proof(
        asked=len(asked),
        dids=sum(question.what == "did" for question in asked),
        missing_kinds=tuple(missing["kind"]),
        missing_tenants=tuple(missing["tenant"]),
        missing_dids=tuple(missing["did"]),
        missing_endpoints=tuple(missing["endpoint"]),
    )
