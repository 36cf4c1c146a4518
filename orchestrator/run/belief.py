"""What is believed of a question that a sweep is trained for: decisions.jsonl. Knows the store."""

from collections.abc import Mapping
from typing import Any

from orchestrator.store.store import Store

PROBABILITY = 0.9  # of the quantile that a belief gives of the regret
REACHED, BUDGET, NOTHING_MORE = "reached", "budget", "nothing-more"  # why a decision stops
# Keys of a belief (JSON); each may be None.
ADVISED = "advised"  # id of a point, the best finished one of the student to be named
P_BEST = "p_best"  # probability that no other student of the plan within the limits is better
REGRET = "regret_bpm"  # what the regret of the advised one is below with PROBABILITY
EXPECTED = "expected_regret_bpm"
OF_GRID = "share_of_grid"  # what was spent over what the whole plan costs
HOURS = "hours_to_target"  # of one slot, until the regret that was asked for; None: not with this plan


def last_decision(store: Store) -> dict[str, Any] | None:
    """What the last run of a sweep last decided for its question; None if it trained everything."""
    last = None
    for entry in store.decisions():
        if entry["event"] in ("decision", "all"):
            last = entry
    return last if last and last["event"] == "decision" else None


def answered(stopped: str, until_regret: float | None) -> bool:
    """Whether a run that stopped has what was asked for: the regret, where one was named."""
    return stopped == REACHED or until_regret is None


def verdict(
    belief: Mapping[str, Any], stopped: str | None, until_regret: float | None, gpus_per_slot: float = 0.0
) -> str:
    """What a belief says of the question: how small the regret is, after how much of the grid's cost.

    >>> verdict({"regret_bpm": 0.1, "share_of_grid": 0.11}, "reached", 0.1)
    "regret <= 0.1 BPM with probability 0.9 after 11 % of the grid's cost"
    >>> verdict({"regret_bpm": 0.4, "hours_to_target": 3.0}, "budget", 0.1)
    'not reached: 3 more slot-hours would bring it to 0.1 BPM; regret <= 0.4 BPM with probability 0.9'
    """
    regret, share, more = (belief.get(key) for key in (REGRET, OF_GRID, HOURS))
    said = (
        "regret unknown" if regret is None else f"regret <= {regret:.2g} BPM with probability {PROBABILITY}"
    )
    said += "" if share is None else f" after {100 * share:.2g} % of the grid's cost"
    if until_regret is None or stopped in (None, REACHED):
        return said
    if more is None:
        return (
            f"not reached: nothing more of this grid is expected to bring it to {until_regret:g} BPM; {said}"
        )
    hours = f"{more * (gpus_per_slot or 1.0):.2g} more {'GPU' if gpus_per_slot else 'slot'}-hours"
    return f"not reached: {hours} would bring it to {until_regret:g} BPM; {said}"
