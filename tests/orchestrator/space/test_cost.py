"""How long starting takes, by what earlier runs needed; and how it is said."""

import pytest

from orchestrator.space.cost import START_S, startup, with_startup


def test_earlier_runs_say_how_long_starting_takes() -> None:
    assert startup([]) == (START_S, "as measured on 2 cores")
    ends = [{"event": "end", "startup_s": s} for s in (30.0, 9.0, 10.0, None)]
    assert startup([{"event": "start"}, *ends, {"event": "end"}]) == (10.0, "as in 3 earlier runs")


@pytest.mark.parametrize(
    ("seconds", "start", "says"),
    [
        (19.3, 18.0, "about 19 s, of which 18 s are start-up"),
        (7200.0, 18.0, "about 2 h 00 min"),
        (0.0, 0.0, "about 0.0 s"),
    ],
)
def test_starting_is_told_where_it_is_most_of_it(seconds: float, start: float, says: str) -> None:
    assert with_startup(seconds, start) == says
