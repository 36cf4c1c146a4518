"""Sweeps and points by name."""

import pytest

from kd.errors import InputError
from orchestrator.store.find import find_point

IDS = ["ab12", "ab34", "cd", "cd56"]


def test_a_point_by_its_id_or_the_beginning_of_it():
    assert find_point(IDS, "ab1", "here") == "ab12"
    assert find_point(iter(IDS), "ab34", "here") == "ab34"
    assert find_point(IDS, "cd", "here") == "cd", "an id that begins another is itself"


def test_none_and_several_are_errors_that_name_the_place():
    with pytest.raises(InputError, match="here: several points begin with 'ab': ab12, ab34: give more"):
        find_point(IDS, "ab", "here")
    with pytest.raises(InputError, match="here: no point begins with 'x': `kdsweep results here`"):
        find_point(IDS, "x", "here")
