"""Simulated sweeps over people: subjects with heavy-tailed effects crossed with configurations. numpy only.

ln MAE of (arm, configuration, fold, seed, subject) = truth of the size + the arm's offset and tilt + the
configuration's deviation + the subject's difficulty + its smaller interactions with arm and configuration +
the run's seed noise + the subject's share of it. A fold's test subjects are no other fold's.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from kd.models.sizes import size
from orchestrator.laws.forms import Array
from orchestrator.laws.simulate import student_result
from orchestrator.laws.truths import FAMILIES, RISING

WORST = 1.6  # ln; a subject's difficulty is cut there, so that a population has a mean
WINDOWS = 100


def difficulty(rng: np.random.Generator, spread: float, n: int) -> Array:
    """ln effects of n subjects: Student's t with 4 degrees of freedom times a lognormal scale."""
    scale = spread * np.exp(0.3 * rng.standard_normal(n))
    return np.asarray(np.clip(scale * rng.standard_t(4, n) / np.sqrt(2), -WORST, WORST))


@cache
def _mean_factor(spread: float) -> float:
    return float(np.exp(difficulty(np.random.default_rng(0), spread, 200_000)).mean())


@dataclass(frozen=True)
class CrossedSweep:
    """One simulated sweep; everything follows from `rng`. noise and spreads are of ln error."""

    rng: int
    family: str = "power"
    widths: tuple[int, ...] = (4, 6, 9, 14, 22, 34)
    arms: int = 8
    seeds: int = 2
    folds: int = 5
    subjects: int = 40
    offset: float = 0.05  # between arms
    tilt: float = 0.015  # of the arms' slopes, per unit of ln size
    noise: float = 0.02  # of a run's seed
    deviation: float = 0.01  # of a configuration, half of it its own in each arm
    between: float = 0.35  # subjects' difficulty
    interaction: float = 0.06  # subject x arm; subject x configuration; subject x run
    arch: str = "resnet1d"
    depth: int = 4
    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def _effects(self) -> dict[str, Any]:
        if not self._kept:
            g = np.random.default_rng([self.rng, 15])
            truth = (FAMILIES | RISING)[self.family](g)
            self._kept.update(
                {
                    "truth": truth,
                    "offset": self.offset * g.standard_normal(self.arms),
                    "tilt": self.tilt * g.standard_normal(self.arms),
                    "people": difficulty(g, self.between, self.subjects),
                    "likes": self.interaction * g.standard_normal((self.arms, self.subjects)),
                    "data": np.arange(self.subjects) % 2,
                    "fold": g.permutation(self.subjects) % self.folds,
                }
            )
        return self._kept

    def params(self, widths: tuple[int, ...] | None = None) -> Array:
        """Sizes of the grid, (n,)."""
        return np.array([size(self.arch, self.depth, w).params for w in widths or self.widths], float)

    def curve(self, params: Array) -> Array:
        """The true ln error of each arm for the mean of all people, (arms, n)."""
        e = self._effects()
        away = np.log(params / np.exp(np.log(self.params()).mean()))
        people = np.log(_mean_factor(self.between)) + self.interaction**2 * 1.5
        return np.asarray(
            np.log(e["truth"](params)) + e["offset"][:, None] + e["tilt"][:, None] * away + people
        )

    def arm(self, j: int) -> dict[str, Any]:
        """What tells arm j from the others in a result."""
        strategies = ("scratch", "hard", "soft", "dkd", "feature")
        strategy = strategies[j % 5] if j < 5 else strategies[1 + (j - 5) % 4]
        return {
            "strategy": strategy,
            "teacher": None if strategy == "scratch" else f"T{(j - 5) // 4 + 2 if j >= 5 else 1}",
        }

    def results(self) -> list[dict[str, Any]]:
        """result.json dicts of every arm, configuration, fold and seed."""
        e, g = self._effects(), np.random.default_rng([self.rng, 16])
        sizes, out = self.params(), []
        away = np.log(sizes) - np.log(sizes).mean()
        for c, width in enumerate(self.widths):
            common = self.deviation * g.standard_normal() * np.sqrt(0.5)
            meets = self.interaction * g.standard_normal(self.subjects)
            for j in range(self.arms):
                mean = np.log(e["truth"](sizes[c : c + 1])[0]) + e["offset"][j] + e["tilt"][j] * away[c]
                mean += common + self.deviation * g.standard_normal() * np.sqrt(0.5)
                for fold in range(self.folds):
                    here = np.flatnonzero(e["fold"] == fold)
                    for seed in range(self.seeds):
                        run = self.noise * g.standard_normal()
                        own = self.interaction * g.standard_normal(len(here))
                        errors = np.exp(
                            mean + run + e["people"][here] + e["likes"][j, here] + meets[here] + own
                        )
                        out.append(self._result(j, width, fold, seed, here, errors))
        return out

    def _result(self, j: int, width: int, fold: int, seed: int, here: Any, errors: Array) -> dict[str, Any]:
        data = self._effects()["data"]
        subjects = {
            f"D{data[s]}/{s}": {
                "windows": WINDOWS,
                "abs_sum": float(WINDOWS * error),
                "sq_sum": float(WINDOWS * error**2 * 1.6),
                "within_5": int(WINDOWS * np.exp(-error / 8)),
            }
            for s, error in zip(here, errors, strict=True)
        }
        arm = self.arm(j)
        fold_of = fold if self.folds > 1 else None
        return student_result(
            self.arch, self.depth, width, float(errors.mean()), fold=fold_of, seed=seed, **arm
        ) | {"subjects": subjects, "teacher_group": arm["teacher"], "data_group": "simulated"}

    def new_run(self, params: Array, rng: int, people: int | None = None) -> Array:
        """ln error (arms, n) of one new training run of every arm and size: on these people (each by the
        fold that tests it), or on so many new ones.
        """
        e, g = self._effects(), np.random.default_rng([self.rng, 17, rng])
        n = self.subjects if people is None else people
        centre = self.curve(params) - np.log(_mean_factor(self.between)) - self.interaction**2 * 1.5
        hard = e["people"] if people is None else difficulty(g, self.between, n)
        likes = e["likes"] if people is None else self.interaction * g.standard_normal((self.arms, n))
        meets = self.interaction * g.standard_normal((len(params), n))
        own = self.interaction * g.standard_normal((self.arms, len(params), n))
        whole = people is None
        seeds = self.noise * g.standard_normal((self.arms, len(params), self.folds if whole else 1))
        run = seeds[:, :, e["fold"]] if whole else seeds
        common = self.deviation * np.sqrt(0.5) * g.standard_normal(len(params))
        each = self.deviation * np.sqrt(0.5) * g.standard_normal((self.arms, len(params)))
        errors = np.exp(hard + likes[:, None] + meets[None] + own + run)
        return np.asarray(centre + common + each + np.log(errors.mean(-1)))
