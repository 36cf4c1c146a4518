"""From a search space to points: what is trained, under which id, in which order, at what cost. No torch.

A point's id is the hash of everything that can change its result, so that what is done is never done again,
however the space was written. Identity is content; files, seeds of the schedule and machines are not in it.
Students of a fold learn from teachers of that fold: none of them saw a subject that the others are tested on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kd.errors import InputError
from kd.models import inits
from kd.models.sizes import size
from kd.signals.prepare import Data
from kd.teachers.source import Source, source_of
from kd.training.recipe import RECIPE_VERSION
from kd.training.strategies import PRETRAIN, needs_teacher, weights
from orchestrator.space.brought import Found
from orchestrator.space.means import Members, names_of, with_members
from orchestrator.space.plan import ID_DIGITS, Plan, Point
from orchestrator.space.schema import SearchSpace, Students, Teachers, strategy_points

# Seconds a window takes in one epoch on one CPU core, fixed + per MAC: a rule of thumb. Least squares over
# the quickstart's grid on one split (83 points) on an AMD EPYC gave 1e-5 and 1.6e-10: it makes small models
# look too dear, and their packs shorter. Finished points correct the scale.
WINDOW_S, MAC_S = 6e-5, 1.5e-10
# So many windows' time takes one in pre-training: two views, by torch. Forward and backward of them took 2.2
# (ResNet 8x32), 3.2 (4x32) and 4.2 (6x16) times the rule above, on an AMD EPYC core.
VIEW_TIMES = 4
BRINGING_S = 1.0  # of a brought teacher beside its pass: evaluating and writing it; a rule of thumb
GROUP = "group"  # of Point.brought: what all folds call it


def make_plan(
    space: SearchSpace,
    data: Data | Mapping[int, Data],
    group: str | None = None,
    brought: Mapping[str, Found] | None = None,
) -> Plan:
    """All points of a space on prepared data, teachers first.

    data: of the fixed split, or of folds by number, of which the space may use only some. group: with folds,
    the fingerprint that they share. brought: the teachers that `brought.find_all` gave. Raises InputError
    when nothing is left to train, or strategies need teachers that aren't there.
    """
    folds: dict[int | None, Data] = {None: data} if isinstance(data, Data) else {k: data[k] for k in data}
    if space.use and space.use != "all":
        folds = {fold: folds[fold] for fold in space.use}
    _check_weights(space, folds.values())
    makers = [_Maker(space, found, fold, group or found.fingerprint) for fold, found in folds.items()]
    of_fold = {m.fold: {p.id: p for block in space.grids for p in m.teachers(block)} for m in makers}
    here = [p for teachers in of_fold.values() for p in teachers.values()]
    groups = {t.id: m.group_of(t) for m in makers for t in of_fold[m.fold].values()}
    for found in (brought or {}).values():
        where = f"teacher {found.source.name}: mean"
        members = {name: _chosen([name], here, groups, where) for name in names_of(found)}
        for m in makers:
            mine = {name: [p for p in some if p.fold == m.fold] for name, some in members.items()}
            of_fold[m.fold] |= {p.id: p for p in m.brought(found, len(makers), mine)}
    points = {id: point for teachers in of_fold.values() for id, point in teachers.items()}
    groups |= {t.id: m.group_of(t) for m in makers for t in of_fold[m.fold].values()}
    refused = Counter[str]()
    for i, block in enumerate(space.students):
        chosen = _chosen(block.teachers, [points[id] for id in groups], groups, f"students.{i}.teachers")
        made: list[Point] = []
        for maker in makers:
            why: Counter[str] = Counter()
            teachers = [t for t in chosen if t.fold == maker.fold]
            made += maker.students(block, teachers, f"students.{i}", why)
            refused |= why  # alike in all folds
        if not made:
            because = "; ".join(refused) or "strategies that need a teacher have none"
            raise InputError(f"students.{i}: no point can be trained: {because}")
        points |= {p.id: p for p in made}
    if not points:
        raise InputError("the space has neither teachers nor students: add a block of each")
    assert space.name is not None
    said = [f"{why} ({n} times)" for why, n in refused.items()]
    return Plan(space.name, list(points.values()), said, space.headline)


def _check_weights(space: SearchSpace, folds: Iterable[Data]) -> None:
    """Raises InputError for weights of data sets that nobody is tested of, or of some data sets only.

    Also where nobody validates of a data set with a weight: early stopping goes by them, too.
    """
    if not space.metric_weights:
        return
    folds = list(folds)
    tested = {str(name) for data in folds for name in np.unique(data.test.dataset)}
    if tested != set(space.metric_weights):
        raise InputError(
            f"metric_weights weigh {', '.join(sorted(space.metric_weights))}, but tested are "
            f"{', '.join(sorted(tested))}: give each of these one weight"
        )
    for data in folds:
        validating = {str(name) for name in np.unique(data.val.dataset)}
        if not any(space.metric_weights.get(name) for name in validating):
            raise InputError(
                f"metric_weights give those who validate ({', '.join(sorted(validating))}) no weight, and "
                "early stopping goes by them: give one of these a weight above 0"
            )


class _Maker:
    """Makes points of one fold, or of the fixed split; holds what they all share."""

    def __init__(self, space: SearchSpace, data: Data, fold: int | None, group: str) -> None:
        self.space = space
        self.fold = fold
        self.fingerprint = data.fingerprint
        self.group = group
        blocks: list[Teachers | Students] = [*space.grids, *space.students]
        seen = {"", *map(space.seen, blocks)}
        recipes = {role: space.recipe(role) for role in ("teacher", "student")}
        # by role and `Recipe.channels`, of which recipes say nothing where it is ""
        self.recipes = {
            (role, s): {**r, **({"channels": s} if s else {})} for role, r in recipes.items() for s in seen
        }
        self.shapes = {s: data.seen_by(s).train.x.shape[1:] for s in seen}
        self.classes = data.classes
        self.unlabelled = data.unlabelled is not None
        windows, self.judged = len(data.train), len(data.val) + len(data.test)
        every = len(data.taught_x)
        self.pretrained_on = min(recipes["teacher"]["windows_per_epoch"] or every, every)
        self.windows = {  # trained on, and validated on
            role: (
                r["max_epochs"] * min(r["windows_per_epoch"] or windows, windows),
                r["max_epochs"] * len(data.val),
            )
            for role, r in recipes.items()
        }
        self.fixed = {  # what all points of a role share in their hash, by data, role and sensor
            (name, role, seen): json.dumps([RECIPE_VERSION, name, role, r], sort_keys=True)
            for name in (self.fingerprint, group)
            for (role, seen), r in self.recipes.items()
        }

    def teachers(self, block: Teachers) -> Iterator[Point]:
        args = {PRETRAIN: block.pretrain.epochs} if block.pretrain else {}
        seen = self.space.seen(block)
        for arch in block.arch:
            for depth in block.depth:
                for width in block.width:
                    for seed in block.seeds:
                        shape = arch, depth, width
                        yield self.point("teacher", *shape, "random", "scratch", args, None, seed, seen)

    def brought(self, found: Found, folds: int, members: Members) -> Iterator[Point]:
        """The point of a brought teacher. folds: how many of them share its pass. members: of a mean."""
        source, of_all = found.of(self.fingerprint), found.source
        params, macs = found.facts.params, found.facts.macs
        if members:
            source = with_members(source, members, lambda point: point.id)
            of_all = with_members(of_all, members, self.group_of)
            params, macs = source.params, source.macs
        judging = self.judged * sum(WINDOW_S + MAC_S * p.macs for some in members.values() for p in some)
        arch, depth, width = found.shape or (source.name, 1, 1)
        yield Point(
            id=_brought_id(self.fingerprint, source),
            role="teacher",
            arch=arch,
            depth=depth,
            width=width,
            init="random",
            strategy="scratch",
            strategy_args={},
            teacher=None,
            seed=0,
            recipe={},
            data_fingerprint=self.fingerprint,
            params=params,
            macs=macs,
            activation_bytes=found.sizes.get("activation_bytes", 0),
            weight_bytes=found.sizes.get("weight_bytes", 4 * params),
            weight_bytes_int8=found.sizes.get("weight_bytes_int8", 0),
            cost_s=found.facts.pass_s / folds + BRINGING_S + judging,
            fold=self.fold,
            data_group=self.group,
            teacher_group=None,
            brought={**source.as_json(), GROUP: _brought_id(self.group, of_all)},
        )

    def students(
        self, block: Students, teachers: Sequence[Point], where: str, refused: Counter[str]
    ) -> Iterator[Point]:
        strategies = list(strategy_points(block.strategies or self.space.strategies, self.unlabelled))
        seeds, seen = block.seeds or self.space.seeds, self.space.seen(block)
        for arch in block.arch:
            for depth in block.depth:
                for width in block.width:
                    for init in block.init:
                        for strategy, args in strategies:
                            for teacher in self._teachers_of(
                                arch, depth, width, init, strategy, args, seen, teachers, where, refused
                            ):
                                for seed in seeds:
                                    yield self.point(
                                        "student",
                                        arch,
                                        depth,
                                        width,
                                        init,
                                        strategy,
                                        args,
                                        teacher,
                                        seed,
                                        seen,
                                    )

    def _teachers_of(
        self,
        arch: str,
        depth: int,
        width: int,
        init: str,
        strategy: str,
        args: Mapping[str, Any],
        seen: str,
        teachers: Sequence[Point],
        where: str,
        refused: Counter[str],
    ) -> list[Point | None]:
        """The teachers a student multiplies by: [None] if it needs none."""
        if not needs_teacher(strategy) and not inits.needs_teacher(init):
            return [None]
        if not teachers:
            what = f"strategy {strategy}" if needs_teacher(strategy) else f"init {init}"
            raise InputError(f"{where}: {what} needs a teacher, and the space has none: add a teachers block")
        able: list[Point | None] = []
        features = "feature" in weights(strategy, args).terms
        for t in teachers:
            if features and t.brought and not source_of(t.brought).has_features:
                refused[f"{strategy} from teacher {t.name}: it gives no features"] += 1
            elif not inits.needs_teacher(init):
                able.append(t)
            elif t.brought and not t.brought["same_input"]:
                refused[f"{init} from teacher {t.name}: it is no model on the same windows"] += 1
            elif not t.brought and t.recipe.get("channels", "") != seen:
                refused[f"{init} from teacher {t.name}: it sees other sensors than the student"] += 1
            elif why := inits.why_not(t.arch, t.depth, t.width, arch, depth, width):
                refused[f"{init} {arch}-{depth}x{width} from teacher {t.name}: {why}"] += 1
            else:
                able.append(t)
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
        teacher: Point | None,
        seed: int,
        seen: str,
    ) -> Point:
        """One point with its id, exact sizes and estimated cost."""
        identity = [arch, depth, width, init, strategy, dict(sorted(args.items()))]
        channels, samples = self.shapes[seen]
        s = size(arch, depth, width, channels=channels, samples=samples, classes=self.classes)
        trained, validated = self.windows[role]
        trained /= 1 - args.get("unlabelled_share", 0.0)
        trained += args.get(PRETRAIN, 0) * self.pretrained_on * VIEW_TIMES
        return Point(
            id=self._hash(self.fingerprint, role, seen, [*identity, teacher.id if teacher else None, seed]),
            role=role,
            arch=arch,
            depth=depth,
            width=width,
            init=init,
            strategy=strategy,
            strategy_args=args,
            teacher=teacher.id if teacher else None,
            seed=seed,
            recipe=self.recipes[role, seen],
            data_fingerprint=self.fingerprint,
            params=s.params,
            macs=s.macs,
            activation_bytes=s.activation_bytes,
            weight_bytes=s.weight_bytes,
            weight_bytes_int8=s.weight_bytes_int8,
            cost_s=(trained + validated) * (WINDOW_S + MAC_S * s.macs),
            fold=self.fold,
            data_group=self.group,
            teacher_group=self.group_of(teacher) if teacher else None,
        )

    def group_of(self, teacher: Point) -> str:
        """What the same teacher of every fold is called: its id, had it been trained on the data of all."""
        t = teacher
        if t.brought:
            return str(t.brought[GROUP])
        identity = [t.arch, t.depth, t.width, t.init, t.strategy, dict(sorted(t.strategy_args.items()))]
        return self._hash(self.group, "teacher", t.recipe.get("channels", ""), [*identity, None, t.seed])

    def _hash(self, data: str, role: str, seen: str, identity: Sequence[Any]) -> str:
        text = self.fixed[data, role, seen] + json.dumps(identity)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def _brought_id(data: str, source: Source) -> str:
    """The id of a brought teacher on these data: no recipe changes it."""
    text = json.dumps([data, "brought", source.identity()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def _chosen(
    names: Sequence[str] | None, teachers: Sequence[Point], groups: Mapping[str, str], where: str
) -> Sequence[Point]:
    """The teachers that are named, or all: by name, by the id that folds share, or by that of one fold."""
    if names is None:
        return teachers
    chosen: set[str] = set()
    for name in names:
        found = {groups[t.id] for t in teachers if name in (t.id, t.name, groups[t.id])}
        if not found:
            there = ", ".join(dict.fromkeys(t.name for t in teachers)) or "none"
            raise InputError(f"{where}: no teacher {name!r} in this space: it has {there}")
        chosen |= found
    return [t for t in teachers if groups[t.id] in chosen]
