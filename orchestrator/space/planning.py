"""From a search space to points: what is trained, under which id, in which order, at what cost. No torch.

A point's id is the hash of everything that can change its result, so that what is done is never done again,
however the space was written. Identity is content; files, seeds of the schedule and machines are not in it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd.errors import InputError
from kd.models import inits
from kd.models.sizes import size
from kd.signals.prepare import Data
from kd.training.recipe import RECIPE_VERSION
from kd.training.strategies import needs_teacher
from orchestrator.space.plan import Plan, Point
from orchestrator.space.schema import SearchSpace, Students, strategy_points

ID_DIGITS = 12  # of a SHA-256; two of a million points share an id with probability 0.2 %
# Seconds a window takes in one epoch on one CPU core, fixed + per MAC: a rule of thumb. Least squares over
# the quickstart's 83 points on an AMD EPYC gave 1e-5 and 1.6e-10: it makes small models look too dear, and
# their packs shorter. Finished points correct the scale.
WINDOW_S, MAC_S = 6e-5, 1.5e-10


def make_plan(space: SearchSpace, data: Data) -> Plan:
    """All points of a space on prepared data.

    Raises InputError when nothing is left to train, or strategies need teachers that aren't there.
    """
    maker = _Maker(space, data)
    teachers = {p.id: p for block in space.teachers for p in maker.teachers(block)}
    points, refused = dict(teachers), Counter[str]()
    for i, block in enumerate(space.students):
        made = list(maker.students(block, list(teachers.values()), f"students.{i}", refused))
        if not made:
            why = "; ".join(refused) or "strategies that need a teacher have none"
            raise InputError(f"students.{i}: no point can be trained: {why}")
        points |= {p.id: p for p in made}
    if not points:
        raise InputError("the space has neither teachers nor students: add a block of each")
    assert space.name is not None
    return Plan(space.name, list(points.values()), [f"{why} ({n} times)" for why, n in refused.items()])


class _Maker:
    """Makes points; holds what they all share."""

    def __init__(self, space: SearchSpace, data: Data) -> None:
        self.space = space
        self.fingerprint = data.fingerprint
        channels, samples = data.train.x.shape[1:]
        self.shape = {"channels": channels, "samples": samples, "classes": data.classes}
        self.recipes = {role: space.recipe(role) for role in ("teacher", "student")}
        windows = len(data.train)
        self.windows = {
            role: r["max_epochs"] * (min(r["windows_per_epoch"] or windows, windows) + len(data.val))
            for role, r in self.recipes.items()
        }
        self.fixed = {  # what all points of a role share in their hash
            role: json.dumps([RECIPE_VERSION, self.fingerprint, role, r], sort_keys=True)
            for role, r in self.recipes.items()
        }

    def teachers(self, block: Any) -> Iterator[Point]:
        for arch in block.arch:
            for depth in block.depth:
                for width in block.width:
                    for seed in block.seeds:
                        yield self.point("teacher", arch, depth, width, "random", "scratch", {}, None, seed)

    def students(
        self, block: Students, teachers: Sequence[Point], where: str, refused: Counter[str]
    ) -> Iterator[Point]:
        strategies = list(strategy_points(block.strategies or self.space.strategies))
        chosen = _chosen(block, teachers, where)
        seeds = block.seeds or self.space.seeds
        for arch in block.arch:
            for depth in block.depth:
                for width in block.width:
                    for init in block.init:
                        for strategy, args in strategies:
                            for teacher in self._teachers_of(
                                arch, depth, width, init, strategy, chosen, where, refused
                            ):
                                for seed in seeds:
                                    yield self.point(
                                        "student", arch, depth, width, init, strategy, args, teacher, seed
                                    )

    def _teachers_of(
        self,
        arch: str,
        depth: int,
        width: int,
        init: str,
        strategy: str,
        teachers: Sequence[Point],
        where: str,
        refused: Counter[str],
    ) -> list[str | None]:
        """The teachers a student multiplies by: [None] if it needs none."""
        if not needs_teacher(strategy) and not inits.needs_teacher(init):
            return [None]
        if not teachers:
            what = f"strategy {strategy}" if needs_teacher(strategy) else f"init {init}"
            raise InputError(f"{where}: {what} needs a teacher, and the space has none: add a teachers block")
        if not inits.needs_teacher(init):
            return [t.id for t in teachers]
        able: list[str | None] = []
        for t in teachers:
            if why := inits.why_not(t.arch, t.depth, t.width, arch, depth, width):
                refused[f"{init} {arch}-{depth}x{width} from teacher {t.name}: {why}"] += 1
            else:
                able.append(t.id)
        return able

    def point(
        self,
        role: str,
        arch: str,
        depth: int,
        width: int,
        init: str,
        strategy: str,
        args: Mapping[str, Any],
        teacher: str | None,
        seed: int,
    ) -> Point:
        """One point with its id, exact sizes and estimated cost."""
        identity = [arch, depth, width, init, strategy, dict(sorted(args.items())), teacher, seed]
        text = self.fixed[role] + json.dumps(identity)
        s = size(arch, depth, width, **self.shape)
        return Point(
            id=hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS],
            role=role,
            arch=arch,
            depth=depth,
            width=width,
            init=init,
            strategy=strategy,
            strategy_args=args,
            teacher=teacher,
            seed=seed,
            recipe=self.recipes[role],
            data_fingerprint=self.fingerprint,
            params=s.params,
            macs=s.macs,
            activation_bytes=s.activation_bytes,
            weight_bytes=s.weight_bytes,
            weight_bytes_int8=s.weight_bytes_int8,
            cost_s=self.windows[role] * (WINDOW_S + MAC_S * s.macs),
        )


def _chosen(block: Students, teachers: Sequence[Point], where: str) -> Sequence[Point]:
    """The teachers a block names, or all."""
    if block.teachers is None:
        return teachers
    for name in block.teachers:
        if not any(name in (t.id, t.name) for t in teachers):
            there = ", ".join(dict.fromkeys(t.name for t in teachers)) or "none"
            raise InputError(f"{where}.teachers: no teacher {name!r} in this space: it has {there}")
    return [t for t in teachers if t.id in block.teachers or t.name in block.teachers]
