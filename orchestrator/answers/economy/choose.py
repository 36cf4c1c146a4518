"""Which slices to train next: the most regret taken away per second, teachers paid by those who need them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.answers.economy.belief import Belief
from orchestrator.answers.economy.students import Index
from orchestrator.answers.economy.worth import FIRST, Rivals, Slices, regret, rivals_of, worth
from orchestrator.laws.forms import Array

PARTY = (2, 4, 8)  # students that may share a teacher's cost
TRIED = 3  # teachers that are looked at closely
SHORT = 200  # slices that are looked at again after the first is chosen


@dataclass(frozen=True)
class Situation:
    """What a choice depends on. answer: the cell to be advised; deliverable: whether one of its points is
    trained; admitted: cells that fit the question; owed: teacher -> seconds it takes (none: it is there).
    """

    answer: int
    deliverable: bool
    admitted: Index
    owed: Mapping[str, float]


@dataclass(frozen=True)
class Chosen:
    """Number of the student, until which epoch, worth in BPM, seconds with its teacher's."""

    student: int
    until: int
    worth: float
    seconds: float


def choose(belief: Belief, slices: Slices, at: Situation, most: int, left_s: float | None) -> list[Chosen]:
    """Up to `most` slices within `left_s` seconds, best first, each in the light of those before.

    Of one student, one slice.
    """
    belief, owed = belief.copy(), dict(at.owed)
    taught = belief.students.teacher
    out: list[Chosen] = []
    used = np.zeros(len(slices), bool)
    first = not at.deliverable
    while len(out) < most and not used.all():
        rivals = rivals_of(belief, at.answer, at.admitted)
        gain = worth(belief, rivals, slices)
        mine = slices.ends & (belief.students.cell[slices.student] == at.answer)
        gain = gain + mine * first * FIRST * float(np.exp(belief.mean[at.answer]))
        if not out and len(slices) > SHORT:
            keep = np.sort(np.argsort(-gain / slices.seconds, kind="stable")[:SHORT])
            slices, gain, used, mine = without(slices, keep), gain[keep], used[keep], mine[keep]
        waiting = np.array([owed.get(taught[k] or "", 0.0) for k in slices.student])
        affordable = ~used & (slices.seconds + waiting <= (np.inf if left_s is None else left_s))
        free = affordable & (waiting == 0)
        rate = np.where(free, gain / slices.seconds, 0.0)
        picks = [int(rate.argmax())] if free.any() and rate.max() > 0 else []
        best = float(rate[picks[0]]) if picks else 0.0
        for party, party_rate in _parties(belief, slices, rivals, gain, affordable, owed, best):
            if party_rate > best:
                picks, best = party, party_rate
        if not picks:
            break
        for s in picks:
            k = int(slices.student[s])
            dear = owed.pop(taught[k] or "", 0.0)
            out.append(Chosen(k, int(slices.until[s]), float(gain[s]), float(slices.seconds[s]) + dear))
            if left_s is not None:
                left_s -= out[-1].seconds
            belief.look(k, float(slices.off[s]), bool(slices.ends[s]))
            used |= slices.student == k
            first = first and not bool(mine[s])
    return out[:most]


def _parties(
    belief: Belief,
    slices: Slices,
    rivals: Rivals,
    gain: Array,
    free: np.ndarray,
    owed: Mapping[str, float],
    least: float,
) -> list[tuple[list[int], float]]:
    """Students of one teacher that isn't there yet, who pay for it together: slices, BPM per second.

    Only those that may be above `least`.
    """
    groups: dict[str, list[int]] = {}
    for s in map(int, np.flatnonzero(free)):
        teacher = belief.students.teacher[slices.student[s]]
        if teacher in owed:
            groups.setdefault(teacher, []).append(s)
    bounds = []
    for teacher, members in groups.items():
        rate = gain[members] / slices.seconds[members]
        order = np.argsort(-rate, kind="stable")
        party: list[int] = []
        for i in order:  # one slice a student: the one with the best rate
            if not any(slices.student[members[i]] == slices.student[s] for s in party):
                party.append(members[i])
            if len(party) == PARTY[-1]:
                break
        whole = owed[teacher] + float(slices.seconds[party].sum())
        bounds.append((float(gain[party].sum()) / whole, teacher, party))
    bounds.sort(key=lambda b: (-b[0], b[1]))
    out = []
    for bound, teacher, party in bounds[:TRIED]:
        if bound <= least:  # what they tell together is less than the sum of what each would
            break
        ahead = belief.copy()
        start = regret(ahead, rivals)
        spent = owed[teacher]
        for size, s in enumerate(party, 1):
            ahead.look(int(slices.student[s]), float(slices.off[s]), bool(slices.ends[s]))
            spent += float(slices.seconds[s])
            if size in PARTY or size == len(party):
                out.append((party[:size], (start - regret(ahead, rivals)) / spent))
    return out


def without(slices: Slices, keep: np.ndarray) -> Slices:
    """Only some of the slices."""
    return replace(
        slices,
        student=slices.student[keep],
        until=slices.until[keep],
        off=slices.off[keep],
        seconds=slices.seconds[keep],
        ends=slices.ends[keep],
    )
