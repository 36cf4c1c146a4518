"""From the people of a sweep to people like them: how far a law's error moves with who wears it. numpy only.

A subject's ratio is its error over the law's at the run's size; what is known of new people is the
distribution of these ratios, resampled by subject within each data set, the same subjects for every arm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.laws.forms import Array
from orchestrator.laws.packing import unpack, unpack_at
from orchestrator.store.metric import DEFAULT, mae_by_subject

WEARERS = 20
LEAST = 4  # subjects; of fewer, nothing can be said about new ones
# Resampling few people shows too little of a heavy-tailed population: with 8 to 90 simulated people a 90 %
# interval of 20 new ones held them in .74 to .87 of cases, made wider by this over people in .87 to .89.
HEAVY = 3.5
QUANTILES = np.linspace(0.005, 0.995, 100)


@dataclass(frozen=True)
class People:
    """Of one arm, to be added to its draws of ln error.

    shift (B,): all people like these, instead of these; sample (B,): so many new ones; wearers (100,): ln
    ratio of single wearers at `QUANTILES`; subjects: how many tell.
    """

    shift: Array
    sample: Array
    wearers: Array
    subjects: int
    n_people: int = WEARERS


def widened(freedom: float) -> float:
    """How much wider an interval for new people is than resampling shows; freedom: people less data sets."""
    return 1 + HEAVY / max(freedom, 1.0)


def new_people(
    runs: Sequence[Sequence[Mapping[str, Any]]],
    said: Sequence[Array],
    rng: np.random.Generator,
    draws: int,
    weights: Mapping[str, float] | None = None,
    metric: str = DEFAULT,
) -> list[People | None]:
    """For each arm of an architecture, from its runs (result.json dicts) and the law's ln error of each (n,).

    metric: that the laws are of; of p90-subject `shift` and `sample` are of that percentile over people, who
    count alike. weights: of data sets; None = all alike. None for all arms where fewer than `LEAST` subjects
    are known.
    """
    ratios = [_ratios(arm, centre) for arm, centre in zip(runs, said, strict=True)]
    names = sorted({name for arm in ratios for name in arm})
    if len(names) < LEAST:
        return [None] * len(runs)
    common = {n: float(np.mean([np.mean(arm[n]) for arm in ratios if n in arm])) for n in names}
    sets = sorted({n.partition("/")[0] for n in names})
    of = [np.array([i for i, n in enumerate(names) if n.partition("/")[0] == d]) for d in sets]
    share = np.array([(weights or {}).get(d, 0.0 if weights else 1.0) for d in sets])
    if metric == "p90-subject":
        share = np.array([float(len(members)) for members in of])
    share = share / share.sum() if share.sum() > 0 else np.full(len(sets), 1 / len(sets))
    drawn = [members[rng.integers(len(members), size=(draws, len(members)))] for members in of]
    few = len(names) - len(sets)
    wider = widened(few)
    data = rng.choice(len(sets), p=share, size=(draws, WEARERS))
    pick, which = rng.random((draws, WEARERS)), rng.random((draws, WEARERS))
    out: list[People | None] = []
    for arm in ratios:
        kept = [arm.get(n, np.array([common[n]])) for n in names]
        mean = np.array([np.exp(r).mean() for r in kept])
        levels = np.log(_over_people([mean[d] for d in drawn], share, metric))
        centre = float(np.log(_over_people([mean[m][None] for m in of], share, metric)[0]))
        long = max(len(r) for r in kept)
        table = np.stack([np.resize(r, long) for r in kept])  # (subjects, runs)
        subject = np.zeros((draws, WEARERS), int)
        for d, resampled in enumerate(drawn):
            chosen = np.take_along_axis(resampled, (pick * resampled.shape[1]).astype(int), 1)
            subject = np.where(data == d, chosen, subject)
        wearer = table[subject, (which * long).astype(int)]
        few_people = np.log(_over_people([np.exp(wearer)], np.ones(1), metric))
        each = np.concatenate(
            [
                np.full(len(kept[i]), w / len(m) / len(kept[i]))
                for w, m in zip(share, of, strict=True)
                for i in m
            ]
        )
        flat = np.concatenate([kept[i] for m in of for i in m])
        order = np.argsort(flat)
        place = np.cumsum(each[order]) - each[order] / 2
        out.append(
            People(
                centre + wider * (levels - centre),
                centre + wider * (few_people - centre),
                np.interp(QUANTILES, place, flat[order]),
                len(names),
            )
        )
    return out


def _over_people(errors: Sequence[Array], share: Array, metric: str) -> Array:
    """What the metric makes of people's errors, of each data set (B, n): (B,)."""
    if metric == "p90-subject":
        return np.asarray(np.percentile(np.concatenate(errors, axis=1), 90, axis=1))
    return np.asarray(sum(w * of_set.mean(1) for w, of_set in zip(share, errors, strict=True)))


def _ratios(runs: Sequence[Mapping[str, Any]], said: Array) -> dict[str, Array]:
    """ln of each subject's error over the law's, one number a run."""
    out: dict[str, list[float]] = {}
    for run, centre in zip(runs, said, strict=True):
        for name, error in mae_by_subject(run).items():
            if error > 0 and np.isfinite(error):
                out.setdefault(name, []).append(float(np.log(error) - centre))
    return {name: np.array(values) for name, values in out.items()}


def people_draws(arm: Mapping[str, Any], position: Array) -> Array:
    """Draws (B, m) of ln error over all people like these, of students at `position` (m,) among the knots.

    The draws to compare arms with, for P(best) and regret: row b is one state of the world for every arm.
    Where an arm knows no subjects they are of these people.
    """
    draws = unpack_at(arm["draws"], position)
    people = arm.get("people")
    return draws + unpack(people["shift"])[:, None] if people else draws


def intervals(document: Mapping[str, Any], arm: Mapping[str, Any], position: float) -> dict[str, Any]:
    """Both intervals of one student, BPM: `run` {low, high}, `people` {low, high, n_people, p90_wearer_bpm}.

    run: another training run, these people. people: one training run on n new people like these; None where
    no subjects are known. p90_wearer_bpm: 1 new wearer in 10 has more.
    """
    at, half = np.array([position]), (1 - document["level"]) / 2
    noise = unpack_at(arm["noise"], at) * unpack(document["run_noise"])
    draws = unpack_at(arm["draws"], at)[:, 0] + noise

    def ends(values: Array) -> dict[str, Any]:
        low, high = np.exp(np.quantile(values, [half, 1 - half]))
        return {"low": round(float(low), 4), "high": round(float(high), 4)}

    people = arm.get("people")
    if not people:
        return {"run": ends(draws), "people": None}
    p90 = unpack_at(arm["median"], at)[0] + float(np.interp(0.9, QUANTILES, unpack(people["wearers"])))
    new = ends(draws + unpack(people["sample"])) | {
        "n_people": people["n_people"],
        "p90_wearer_bpm": round(float(np.exp(p90)), 4),
    }
    return {"run": ends(draws), "people": new}


def share_above(arm: Mapping[str, Any], position: float, limit_bpm: float) -> float | None:
    """The expected share of new wearers whose error is above a limit; None where no subjects are known."""
    if not (people := arm.get("people")):
        return None
    draws = unpack_at(arm["draws"], np.array([position]))
    return float((draws + unpack(people["wearers"]) > np.log(limit_bpm)).mean())
