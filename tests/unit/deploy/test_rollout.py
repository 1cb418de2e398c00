"""Rollouts: who goes first, who is left alone, and how many endings become one."""

import asyncio

import pytest

from voxtractl.deploy.rollout import Rollout, conclude, roll_out
from voxtractl.deploy.steps import Result
from voxtractl.errors import (
    NodeAuthFailed,
    NodeUnreachable,
    PartialFailure,
    RollbackFailed,
    StalePlan,
    VerifyFailed,
    VoxtractlError,
)

NODES = ("a", "b", "c", "d", "e")


class Nodes:
    """Nodes that end as told; remembers who ran beside whom."""

    def __init__(self, **errors: VoxtractlError) -> None:
        self.errors = errors
        self.running: set[str] = set()
        self.beside: list[frozenset[str]] = []

    async def work(self, node: str) -> Result:
        self.running.add(node)
        await asyncio.sleep(0)
        self.beside.append(frozenset(self.running))
        await asyncio.sleep(0)
        self.running.discard(node)
        if node in self.errors:
            raise self.errors[node]
        return Result(node=node, status="pushed")


async def statuses(nodes: Nodes, rollout: Rollout) -> list[str]:
    return [result.status for result in await roll_out(NODES, nodes.work, rollout)]


def test_canaries_go_one_by_one_then_batches() -> None:
    assert Rollout(canaries=2, batch=2).waves(NODES) == [("a",), ("b",), ("c", "d"), ("e",)]
    assert Rollout(canaries=0).waves(NODES) == [NODES]
    assert Rollout(canaries=9).waves(NODES) == [(node,) for node in NODES]


async def test_a_batch_runs_side_by_side_and_the_canary_alone() -> None:
    nodes = Nodes()
    assert await statuses(nodes, Rollout(batch=4)) == ["pushed"] * 5
    assert nodes.beside[0] == {"a"}
    assert frozenset("bcde") in nodes.beside


async def test_a_failed_canary_leaves_the_others_alone() -> None:
    nodes = Nodes(a=VerifyFailed("no", node="a"))
    assert await statuses(nodes, Rollout()) == ["failed", "skipped", "skipped", "skipped", "skipped"]


async def test_the_budget_says_how_many_may_fail() -> None:
    nodes = Nodes(a=VerifyFailed("no", node="a"), c=VerifyFailed("no", node="c"))
    assert await statuses(nodes, Rollout(batch=2, failures=1)) == [
        "failed",
        "pushed",
        "failed",
        "skipped",
        "skipped",
    ]


async def test_a_failure_ends_no_neighbour_in_its_batch() -> None:
    nodes = Nodes(b=NodeUnreachable("gone", node="b"))
    assert await statuses(nodes, Rollout(canaries=0)) == ["pushed", "failed", "pushed", "pushed", "pushed"]


async def test_a_bug_is_not_a_result() -> None:
    async def broken(node: str) -> Result:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await roll_out(NODES, broken, Rollout())


@pytest.mark.parametrize(
    ("ending", "seen"),
    [
        (RollbackFailed("no", node="b"), RollbackFailed),
        (NodeUnreachable("no", node="b"), asyncio.CancelledError),
    ],
)
async def test_an_interruption_hides_no_node_that_could_not_be_taken_back(
    ending: VoxtractlError, seen: type[BaseException]
) -> None:
    async def work(node: str) -> Result:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if node == "b":
                raise ending from None
            raise
        raise AssertionError("nobody waits that long")

    rollout = asyncio.ensure_future(roll_out(NODES, work, Rollout(canaries=0)))
    await asyncio.sleep(0.01)
    rollout.cancel()
    with pytest.raises(seen):
        await rollout


def test_no_error_concludes_in_peace() -> None:
    conclude([Result(node="a", status="pushed")])


def test_the_only_error_is_raised_as_itself() -> None:
    stale = StalePlan("moved")
    with pytest.raises(StalePlan) as raised:
        conclude([Result(node="a", status="failed", error=stale), Result(node="b", status="skipped")])
    assert raised.value.details["skipped"] == ["b"]


def test_some_done_and_some_not_is_partial_and_names_them() -> None:
    gone = NodeUnreachable("gone", node="b")
    with pytest.raises(PartialFailure, match=r"1 of 2 nodes failed \(b\)") as raised:
        conclude([Result(node="a", status="pushed"), Result(node="b", status="failed", error=gone)])
    assert raised.value.exit_code == 7


def test_all_failed_alike_is_that_failure() -> None:
    errors = [NodeUnreachable("gone", node="a"), NodeAuthFailed("refused", node="b")]
    with pytest.raises(NodeUnreachable) as raised:
        conclude([Result(node=e.node, status="failed", error=e) for e in errors])
    assert raised.value.details["lines"] == ["a: gone", "b: refused"]
