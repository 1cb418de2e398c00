"""One table of what came when."""

import pytest

from voxtractl.ari.release import FEATURES, LEG_RATES, REQUESTS, Release


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("22.10.1+dfsg+~cs6.17.60671434-1", (22, 10)),
        ("20.9.0", (20, 9)),
        ("certified-20.7-cert3", (20, 7)),
        ("GIT-master-f0c1c1a", None),
        ("", None),
    ],
)
def test_what_asterisk_calls_itself(version: str, release: tuple[int, int] | None) -> None:
    assert Release.of(version) == release


@pytest.mark.parametrize(
    ("release", "has"),
    [
        ((20, 13), False),
        ((20, 14), True),
        ((22, 3), False),
        ((22, 4), True),
        ((21, 99), False),
        ((23, 0), True),
    ],
)
def test_a_feature_comes_with_a_release_of_each_series(release: tuple[int, int], has: bool) -> None:
    assert Release(*release).has(REQUESTS) is has


def test_what_a_release_has_not_is_named_with_the_one_that_has() -> None:
    assert Release(22, 99).missing() == []
    assert Release(20, 0).missing() == [f"{one.what} (20.{one.since[20]})" for one in FEATURES]
    assert f"{LEG_RATES.what} (22.7)" in Release(22, 6).missing()
