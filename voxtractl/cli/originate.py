"""`voxtractl originate`: one call for a tenant, over its trunk and by its outbound rules.

It goes through the tenant's outbound context, as a number does that a handler transfers to: the dialplan that
was pushed shows the caller ID, counts the call and has the last word. Who answers hears --play, or goes into
the dialplan: to the tenant's own number, as if they had called it, so that who serves the tenant has them.
The command stays until the call is over, and ends it when it is interrupted.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import uuid4

import typer

from voxtractl import naming
from voxtractl.cli import complete, context, show
from voxtractl.errors import (
    AriUnreachable,
    CallEnded,
    CallError,
    MediaFailed,
    OriginateFailed,
    UsageFault,
)
from voxtractl.model.fleet import Fleet, must_know
from voxtractl.model.tenant import Tenant
from voxtractl.runtime.disposition import cause_name

if TYPE_CHECKING:
    from voxtractl.deploy.steps import Report
    from voxtractl.provision import TenantProvisioner
    from voxtractl.runtime.app import VoxtraApp
    from voxtractl.runtime.lifecycle import Ended
    from voxtractl.runtime.session import CallSession

__all__ = ["app"]

NORMAL: Final = 16  # causes of Q.850: an ordinary hangup
REJECTED: Final = 21  # what the dialplan says to a number that the tenant may not dial
NOBODY: Final = 34  # what the dialplan says when no runtime is there, and no fallback
LIFETIME: Final = "TIMEOUT(absolute)"  # seconds after which Asterisk ends it, also when we were killed
LONGEST_CALL: Final = 3600
COUNTED: Final = "VOXTRA_COUNTED"  # whose limit has it already: the dialplan does not count it once more
LOOK: Final = 0.2  # seconds between looks whether the connection is there
RING_MAX: Final = 60  # seconds; the dialplan's own Dial rings no longer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What was asked for, checked against the document."""

    tenant: str
    number: str
    caller_id: str
    ring: int
    play: tuple[str, ...]
    to: tuple[str, str]  # context and extension; not gone to when something is played
    variables: dict[str, str] = field(default_factory=dict)


@app.command()
def originate(
    slug: str = typer.Argument(metavar="TENANT", help="Who calls.", autocompletion=complete.tenants),
    number: str = typer.Argument(metavar="NUMBER", help="Who is called: +265999123456."),
    caller_id: str = typer.Option(
        None, "--caller-id", metavar="NUMBER", help="One of the tenant's caller_ids. [the first]"
    ),
    ring: int = typer.Option(30, "--ring", min=1, max=RING_MAX, metavar="SECONDS", help="Time to answer."),
    play: list[str] = typer.Option(
        None,
        "--play",
        metavar="SOUND",
        help="Play this to who answers, then hang up: a sound of the node, or http://…; repeatable.",
        show_default=False,
    ),
    to: str = typer.Option(
        None,
        "--to",
        metavar="NUMBER|EXTEN@CONTEXT",
        help="Connect who answers with this number of the tenant, or this place in the dialplan."
        " [its first number]",
    ),
    variable: list[str] = typer.Option(
        None, "--variable", metavar="NAME=VALUE", help="A channel variable; repeatable.", show_default=False
    ),
) -> None:
    """Call a number for a tenant, and stay until the call is over; Ctrl-C ends it.

    Who answers is connected with the tenant's own number, so that its handler talks to them, or hears what
    --play names. Exit codes: 0 answered, 20 busy, 21 no answer, 22 rejected, 23 congestion, 24 failed.
    """
    import logging

    from voxtractl.cli.progress import reporter, wait
    from voxtractl.provision import TenantProvisioner

    settings = context.settings()
    provisioner = TenantProvisioner(settings.config, nodes=settings.node, timeout=settings.timeout)
    must_know("tenant", slug, provisioner.fleet.tenants, settings.config)
    tenant = provisioner.fleet.tenants[slug]
    order = _Order(
        tenant=slug,
        number=number,
        caller_id=_caller_id(tenant, caller_id),
        ring=ring,
        play=tuple(play or ()),
        to=_place(provisioner.fleet, tenant, to, wanted=not play),
        variables=_variables(variable or ()),
    )
    if to and play:
        raise UsageFault("--play and --to: who has heard it is hung up on", hint="leave one of them out")
    _must_be_allowed(tenant, number)
    from voxtractl.runtime.event_loop import new_event_loop

    if not settings.verbose:  # what matters of it is in the result
        logging.getLogger("voxtractl").addHandler(logging.NullHandler())
    work = _call(provisioner, _nodes(provisioner, tenant), order, reporter(), settings.timeout)
    node, ended = wait(work, new_event_loop)
    if not play and ended.cause == NOBODY:
        show.warn(f"nobody took the call: is {slug} served (voxtractl run), and has it a fallback?")
    show.emit(*_result(order, node, ended))


# --- what may be asked for --------------------------------------------------------------------------------


def _caller_id(tenant: Tenant, given: str | None) -> str:
    """The number that is shown. Raises UsageFault for one that is not the tenant's."""
    if tenant.outbound is None or tenant.trunk is None:
        missing = "outbound" if tenant.outbound is None else "trunk"
        raise UsageFault(
            f"{tenant.slug} cannot call out: it has no [tenants.{tenant.slug}.{missing}]",
            where=tenant.file,
            hint="docs/reference/document.md says what belongs there",
        )
    if given is None:
        return tenant.outbound.caller_ids[0]
    if given not in tenant.outbound.caller_ids:
        raise UsageFault(
            f"--caller-id {given}: not a number of {tenant.slug}",
            hint=f"one of {', '.join(tenant.outbound.caller_ids)}",
        )
    return given


def _must_be_allowed(tenant: Tenant, number: str) -> None:
    """Raises UsageFault for what is no number, OriginateFailed (rejected) as the dialplan would."""
    from voxtractl.ari import requests

    requests.dialled_number(number)
    if tenant.outbound is not None and not tenant.outbound.allows(number):
        raise OriginateFailed(
            f"{tenant.slug} may not call {number}",
            disposition="rejected",
            cause=REJECTED,
            hint=f"tenants.{tenant.slug}.outbound.allow in {tenant.file} says what it may call",
        )


def _place(fleet: Fleet, tenant: Tenant, given: str | None, *, wanted: bool) -> tuple[str, str]:
    """Context and extension that who answers goes to. Raises UsageFault."""
    if given is not None and "@" in given:
        extension, _, where = given.partition("@")
        return where, extension
    own = (*tenant.dids, *tenant.extensions)
    if not own and wanted:
        raise UsageFault(
            f"{tenant.slug} has no number to connect them with",
            hint="--play SOUND, or --to EXTENSION@CONTEXT",
        )
    if given is not None and given not in own:
        raise UsageFault(
            f"--to {given}: not a number of {tenant.slug}",
            hint=f"one of {', '.join(own[:5])}; another place of the dialplan is --to EXTENSION@CONTEXT",
        )
    number = given or (own[0] if own else "")
    inside = number in tenant.extensions
    return (naming.inbound_context(tenant.slug) if inside else fleet.defaults.trunk_context), number


def _variables(given: Sequence[str]) -> dict[str, str]:
    from voxtractl.ari import requests

    pairs = [text.partition("=") for text in given]
    for name, sign, _ in pairs:
        if not sign:
            raise UsageFault(f"--variable {name}: it has no value", hint=f"--variable {name}=VALUE")
    return requests.variables({name: value for name, _, value in pairs})


def _nodes(provisioner: "TenantProvisioner", tenant: Tenant) -> list[str]:
    """Those that may make the call, in the order of the document. Raises UsageFault."""
    found = [name for name in provisioner.nodes if not tenant.nodes or name in tenant.nodes]
    if not found:
        raise UsageFault(
            f"{tenant.slug} is not on {', '.join(provisioner.nodes)}",
            hint=f"it is on {', '.join(tenant.nodes)}",
        )
    return found


# --- the call ---------------------------------------------------------------------------------------------


async def _call(
    provisioner: "TenantProvisioner", nodes: Sequence[str], order: _Order, report: "Report", patience: float
) -> "tuple[str, Ended]":
    """Make it at the first node that answers, and see it to its end."""
    import asyncio

    _end_with_the_terminal()
    node, serving = await _connected(provisioner, nodes, order, report)
    work = [
        asyncio.ensure_future(_one(serving, order, node, report)),
        asyncio.ensure_future(_cut(serving, node, patience)),
    ]
    try:
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        return node, done.pop().result()
    except CallError as exc:
        exc.where = node  # there is one call; which one is in the details
        raise
    finally:
        for task in work:
            task.cancel()
        await _stopped(serving)
        report(node, "")


async def _one(serving: "VoxtraApp", order: _Order, node: str, report: "Report") -> "Ended":
    """The call, from its first ring to its end."""
    report(node, f"calling {order.number} as {order.caller_id}; Ctrl-C ends it")
    try:
        call = await serving.originate(
            f"Local/{order.number}@{naming.outbound_context(order.tenant)}/n",
            caller_id=order.caller_id,
            timeout=order.ring,
            variables={LIFETIME: LONGEST_CALL, COUNTED: order.tenant, **order.variables},
        )
    except OriginateFailed as exc:
        raise _told(exc, order, node) from exc
    report(node, f"{order.number} has answered; Ctrl-C ends the call")
    with suppress(CallEnded):  # they hung up meanwhile
        await _connect(call, order)
    return await call.wait_ended()


async def _cut(serving: "VoxtraApp", node: str, patience: float) -> NoReturn:
    """Raises AriUnreachable when nothing is heard of the call any more, for so many seconds."""
    import asyncio
    from time import monotonic

    heard = monotonic()
    while monotonic() - heard < patience:
        await asyncio.sleep(LOOK)
        if serving.is_connected:
            heard = monotonic()
    raise AriUnreachable(
        "the connection was lost during the call: what became of it is not known",
        method="GET",
        path="/ari/events",
        where=node,
        hint="when Asterisk is back: core show channels",
    )


def _end_with_the_terminal() -> None:
    """SIGHUP ends the call too, unless somebody has asked that it does not (nohup)."""
    import asyncio
    import signal

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and (task := asyncio.current_task()):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, task.cancel)


async def _connected(
    provisioner: "TenantProvisioner", nodes: Sequence[str], order: _Order, report: "Report"
) -> "tuple[str, VoxtraApp]":
    """An app of this command alone, at the first node that answers. Raises what the last one says."""
    from voxtractl.runtime.app import VoxtraApp

    for node in nodes:
        report(node, "connect")
        there = provisioner.fleet.nodes[node]
        serving = VoxtraApp(
            there.ari, there.ari_user, provisioner.password(node), f"voxtractl-originate-{uuid4().hex[:12]}"
        )
        serving.tenant = order.tenant
        try:
            await serving.start()
        except AriUnreachable as exc:
            report(node, "")
            if node == nodes[-1]:
                raise
            show.warn(f"{node}: {exc.message}")
        else:
            return node, serving
    raise AssertionError(nodes)  # there is one at least


async def _connect(call: "CallSession", order: _Order) -> None:
    """Do with who answered what was asked for. Raises MediaFailed, CallError, CallEnded."""
    if not order.play:
        await call.set_variable("CALLERID(num)", order.number)  # as if they had called
        if LIFETIME not in order.variables:
            await call.set_variable(LIFETIME, 0)  # it is no longer ours to end
        await call.continue_in_dialplan(*order.to)
        return
    for sound in order.play:
        if "://" in sound:
            played = await call.play_url(sound)
        else:
            played = await call.play(sound if ":" in sound else f"sound:{sound}")
        if played.status == "failed":
            raise MediaFailed(f"Asterisk could not play {sound}", call=call.id, hint="is it on the node?")
    await call.hangup()


def _told(failed: OriginateFailed, order: _Order, node: str) -> OriginateFailed:
    """The same, in words of this command."""
    why = failed.disposition.replace("_", " ")
    if failed.disposition in {"rejected", "failed"} and failed.cause:
        why += f" ({cause_name(failed.cause)})"
    undialled = failed.disposition == "failed" and not failed.cause
    return OriginateFailed(
        f"{order.number} was not answered: {why}",
        disposition=failed.disposition,
        cause=failed.cause,
        tech_cause=failed.tech_cause,
        call=str(failed.details.get("call_id", "")),
        hint=f"is {order.tenant} pushed to {node}? voxtractl dialplan status" if undialled else None,
    )


async def _stopped(serving: "VoxtraApp") -> None:
    """End what is left of the call, whatever comes meanwhile: it is bounded, and no call may stay up."""
    import asyncio

    stopping = asyncio.ensure_future(serving.stop())
    while not stopping.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([stopping])
    stopping.result()


# --- what became of it ------------------------------------------------------------------------------------


def _result(order: _Order, node: str, ended: "Ended") -> tuple[dict[str, Any], str]:
    rang = (ended.answered or ended.ended) - ended.started
    document = {
        "tenant": order.tenant,
        "node": node,
        "number": order.number,
        "caller_id": order.caller_id,
        "call_id": ended.call_id,
        "disposition": str(ended.disposition),
        "ring_seconds": round(rang, 3),
        "talk_seconds": round(ended.talk_seconds, 3),
        "ended_by": str(ended.ended_by),
        "cause": ended.cause,
        "tech_cause": ended.tech_cause,
    }
    text = (
        f"{show.paint(order.number, 'bold')} {show.paint('answered', 'green')} after {rang:.1f} s;"
        f" {ended.talk_seconds:.1f} s of call, ended by {ended.ended_by}"
    )
    if ended.cause not in {0, NORMAL}:
        text += f" ({cause_name(ended.cause)})"
    return document, text
