"""How long it is waited before the next try."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari.backoff import Backoff

attempts = st.integers(0, 100_000)
jitters = st.floats(0, 1, exclude_max=True)
backoffs = st.builds(Backoff, first=st.floats(0.001, 10), factor=st.floats(1, 10), most=st.floats(10, 1000))


@given(backoffs, attempts, jitters)
def test_a_wait_is_between_half_of_first_and_most(backoff: Backoff, attempt: int, jitter: float) -> None:
    assert backoff.first / 2 <= backoff.delay(attempt, jitter) <= backoff.most


@given(backoffs, attempts, jitters)
def test_waits_never_shrink_with_more_tries(backoff: Backoff, attempt: int, jitter: float) -> None:
    assert backoff.delay(attempt, jitter) <= backoff.delay(attempt + 1, jitter)


@given(backoffs, attempts, jitters)
def test_chance_moves_the_upper_half_only(backoff: Backoff, attempt: int, jitter: float) -> None:
    least = backoff.delay(attempt, 0)
    assert least <= backoff.delay(attempt, jitter) <= 2 * least


def test_the_waits_of_a_worker() -> None:
    assert [round(Backoff().delay(n, 0), 3) for n in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5]
    assert Backoff().delay(0, 0.5) == pytest.approx(0.075)


@pytest.mark.parametrize(("attempt", "jitter"), [(-1, 0), (0, 1), (0, -0.1), (0, float("nan"))])
def test_nonsense_is_refused(attempt: int, jitter: float) -> None:
    with pytest.raises(ValueError, match="must"):
        Backoff().delay(attempt, jitter)
