"""Sweeps and points by name."""

import pytest

from kd.errors import InputError
from orchestrator.store.find import find_point

IDS = ["ab", "ab01", "ab02", "cd03"]


def test_the_whole_id_or_the_only_one_that_starts_with_it() -> None:
    assert find_point(IDS, "c", "sweep") == "cd03"
    assert find_point(IDS, "ab02", "sweep") == "ab02"
    assert find_point(IDS, "ab", "sweep") == "ab"  # whole ids first, though two others start with it


@pytest.mark.parametrize(
    ("wanted", "why"),
    [("a", "sweep: 3 points start with 'a': ab, ab01, ab02"), ("x", "sweep: no point 'x'")],
)
def test_none_or_several_is_an_error(wanted: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        find_point(IDS, wanted, "sweep")
