"""Several nodes in order: canaries one by one, then batches in parallel, until the failure budget is used up.

A rollout never raises for a node: it returns every node's Result, and ``conclude`` makes one ending of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from voxtractl.deploy.steps import Result, failed
from voxtractl.errors import PartialFailure, RollbackFailed, VoxtractlError

__all__ = ["BATCH", "Rollout", "conclude", "conclude_nodes", "roll_out", "side_by_side"]

BATCH: Final = 16


class Rollout(NamedTuple):
    """How many nodes go first, how many at once, and how many may fail before the rest is left alone."""

    canaries: int = 1
    batch: int = BATCH
    failures: int = 0

    def waves(self, nodes: Sequence[str]) -> list[tuple[str, ...]]:
        """The nodes in the order they are worked on; a wave starts when the one before has ended."""
        first = [(node,) for node in nodes[: self.canaries]]
        rest = nodes[self.canaries :]
        return first + [tuple(rest[i : i + self.batch]) for i in range(0, len(rest), self.batch)]


async def roll_out(
    nodes: Sequence[str], work: Callable[[str], Awaitable[Result]], rollout: Rollout
) -> tuple[Result, ...]:
    """Every node's result in the order of ``nodes``; those never begun are ``skipped``."""
    results: dict[str, Result] = {}
    for wave in rollout.waves(nodes):
        if sum(result.status == "failed" for result in results.values()) > rollout.failures:
            break
        for result in await side_by_side(wave, work):
            results[result.node] = result
    return tuple(results.get(node) or Result(node=node, status="skipped") for node in nodes)


async def side_by_side(nodes: Sequence[str], work: Callable[[str], Awaitable[Result]]) -> tuple[Result, ...]:
    """Work on all nodes at once; an error of a node is its result and ends no other.

    Cancelled, it raises CancelledError, or RollbackFailed of a node that could not be taken back.
    """

    async def one(node: str) -> Result:
        try:
            return await work(node)
        except VoxtractlError as exc:
            return failed(node, exc)

    tasks: list[asyncio.Task[Result]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(one(node)) for node in nodes]
    except asyncio.CancelledError:
        # What had begun was taken back; a node that could not be is more than an interruption.
        for error in [task.result().error for task in tasks if not task.cancelled()]:
            if isinstance(error, RollbackFailed):
                raise error from None
        raise
    return tuple(task.result() for task in tasks)


def conclude(results: Sequence[Result]) -> None:
    """One ending for all nodes; see ``conclude_nodes``."""
    errors = {result.node: result.error for result in results if result.error is not None}
    skipped = [result.node for result in results if result.status == "skipped"]
    conclude_nodes(errors, [result.document() for result in results], skipped)


def conclude_nodes(
    errors: Mapping[str, VoxtractlError], nodes: Collection[Any], skipped: Sequence[str] = ()
) -> None:
    """One ending for all nodes: nothing, the error they all ended with, or PartialFailure.

    ``nodes`` is what is told of every node, errors or not: the error's details.
    """
    if not errors:
        return
    first = next(iter(errors.values()))
    details = {"nodes": nodes, "lines": [f"{node}: {_with_hint(error)}" for node, error in errors.items()]}
    if len(errors) + len(skipped) == len(nodes) and len({error.exit_code for error in errors.values()}) == 1:
        first.details.update(details if len(errors) > 1 else {"nodes": nodes})
        if skipped:
            first.details["skipped"] = skipped
        raise first
    raise PartialFailure(
        f"{len(errors)} of {len(nodes)} nodes failed ({', '.join(list(errors)[:5])})"
        + (f", {len(skipped)} were not begun" if skipped else ""),
        hint="the others are as they say; run the same command again after mending the failed ones",
        details=details,
    )


def _with_hint(error: VoxtractlError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message
