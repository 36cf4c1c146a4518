"""From the results of a sweep to one curve per arm. Plain Python: knows result.json, nothing of fitting.

An arm is what a law is fitted to: one architecture, init, strategy with its arguments, and teacher. Folds and
seeds of a configuration are repeated runs of one size: they are of the same arm.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kd.training.strategies import STRATEGIES, defaults


@dataclass(frozen=True)
class Arm:
    """One arm and its runs (result.json dicts), smallest first."""

    arch: str
    init: str
    strategy: str
    strategy_args: str  # canonical JSON
    teacher: str | None  # what its teachers of all folds share; where the split is fixed, its id
    runs: list[dict[str, Any]] = field(default_factory=list, compare=False, hash=False)

    @property
    def key(self) -> str:
        """A readable name, unique in a sweep."""
        parts = [self.arch, self.label]
        if self.init != "random":
            parts.append(self.init)
        if self.teacher:
            parts.append(f"from {self.teacher}")
        return " ".join(parts)

    @property
    def args(self) -> dict[str, Any]:
        """The strategy's arguments."""
        return dict(json.loads(self.strategy_args))

    @property
    def published(self) -> bool:
        """Whether every argument is the strategy's default, which is its authors' configuration."""
        return self.strategy_args == canonical(self.strategy, {})

    @property
    def label(self) -> str:
        """The strategy, with the arguments that differ from its defaults."""
        return strategy_label(self.strategy, self.args)

    def configuration(self, run: dict[str, Any]) -> str:
        """Label of a run's configuration: shared by every strategy, so that their draws are paired."""
        return f"{self.arch} {run['depth']}x{run['width']} {self.init}"


def strategy_label(strategy: str, args: dict[str, Any]) -> str:
    """A strategy, with the arguments that differ from its defaults."""
    known = known_defaults(strategy)
    changed = [f"{k}={v}" for k, v in sorted(args.items()) if k not in known or v != known[k]]
    return " ".join([strategy, *changed])


def known_defaults(strategy: str) -> dict[str, Any]:
    """The arguments a strategy has when none are given."""
    return dict(defaults(strategy)) if strategy in STRATEGIES else {}


def canonical(strategy: str, args: dict[str, Any] | None) -> str:
    """Strategy arguments, defaults filled in, as one string: the same for equal arguments."""
    known = known_defaults(strategy)
    given = {k: type(known[k])(v) if k in known else v for k, v in (args or {}).items()}
    return json.dumps(known | given, sort_keys=True, separators=(",", ":"))


def group_arms(results: Iterable[dict[str, Any]]) -> list[Arm]:
    """The arms of a sweep's students, sorted by key; teachers are left out."""
    arms: dict[Arm, Arm] = {}
    for run in results:
        if run["role"] != "student":
            continue
        arm = Arm(
            run["arch"],
            run.get("init") or "random",
            run["strategy"],
            canonical(run["strategy"], run.get("strategy_args")),
            run.get("teacher_group") or run.get("teacher"),
        )
        arms.setdefault(arm, arm).runs.append(run)
    for arm in arms.values():
        arm.runs.sort(key=lambda r: (r["params"], r["depth"], r["width"], r["seed"], r["id"]))
    return sorted(arms.values(), key=lambda a: a.key)


def missing_folds(arms: Iterable[Arm]) -> list[str]:
    """A line if some sizes were not trained in every fold: folds differ by people, and means with them."""
    trained: dict[str, set[int]] = {}
    for arm in arms:
        for run in arm.runs:
            if run.get("fold") is not None:
                trained.setdefault(f"{arm.key} {run['depth']}x{run['width']}", set()).add(run["fold"])
    folds = set().union(*trained.values())
    lacking = [
        f"{name} (fold {', '.join(map(str, sorted(folds - there)))})"
        for name, there in sorted(trained.items())
        if there != folds
    ]
    if not lacking:
        return []
    more = f", and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    return [
        f"{len(lacking)} of {len(trained)} sizes are not trained in all {len(folds)} folds, so their errors "
        f"are of other people: {'; '.join(lacking[:5])}{more}"
    ]
