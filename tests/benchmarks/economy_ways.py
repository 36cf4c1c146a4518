"""Ways of spending a grid's compute, replayed on a finished world (`economy_worlds`): what each trains next.

A way is a generator that trains something in a `Replay` before each of its yields.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from economy_worlds import WIDTHS, World, cell_of

from orchestrator.answers.candidates import Budget
from orchestrator.answers.economy.belief import Belief, Seen, believe
from orchestrator.answers.economy.choose import Situation, choose
from orchestrator.answers.economy.kernel import GROUPS, at_scales, latents_of, parts_of
from orchestrator.answers.economy.step import Known
from orchestrator.answers.economy.students import students_of
from orchestrator.answers.economy.worth import slices_of

SLOTS = 8  # points that train at a time
ETA, GRACE = 3, 1  # of ASHA: reduction factor, epochs before the first rung


class Replay:
    """A world of which some epochs have been trained."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.points = {p.id: p for p in world.points}
        self.trained: dict[str, int] = {}
        self.spent = 0.0
        self.grid = world.grid_s

    @property
    def share(self) -> float:
        return self.spent / self.grid

    def train(self, id: str, until: int) -> None:
        """Train a point until an epoch, and before it its teacher."""
        teacher = self.points[id].teacher
        if teacher and self.trained.get(teacher, 0) < self.world.epochs[teacher]:
            self.train(teacher, self.world.epochs[teacher])
        more = max(until - self.trained.get(id, 0), 0)
        self.spent += more * self.world.seconds_per_epoch[id]
        self.trained[id] = max(until, self.trained.get(id, 0))

    def done(self, id: str) -> bool:
        return self.trained.get(id, 0) >= self.world.epochs[id]

    def known(self, until_regret: float | None = None) -> Known:
        world = self.world
        return Known(
            question=world.question,
            points=world.points,
            curves={id: world.curves[id][:n] for id, n in self.trained.items()},
            results={id: world.results[id] for id in self.trained if self.done(id)},
            seconds_per_epoch=world.seconds_per_epoch,
            epochs=world.epochs,
            running=frozenset(),
            spent_s=self.spent,
            until_regret=until_regret,
            budget_s=None,
        )

    def off(self, advised: str | None) -> float:
        """True error of an answer, BPM; infinite without one."""
        return float(np.exp(self.world.truth[cell_of(self.points[advised])])) if advised else np.inf


Way = Callable[[Replay, int], Iterator[None]]


def whole(replay: Replay, order: list[str]) -> Iterator[None]:
    for id in order:
        replay.train(id, replay.world.epochs[id])
        yield


def students(replay: Replay, seed: int) -> list[str]:
    ids = [p.id for p in replay.world.points if p.role == "student"]
    return [ids[i] for i in np.random.default_rng([seed, 3]).permutation(len(ids))]


def at_random(replay: Replay, seed: int) -> Iterator[None]:
    yield from whole(replay, students(replay, seed))


def asha(replay: Replay, seed: int) -> Iterator[None]:
    """Points in random order, `SLOTS` at a time, an epoch each in turn; then what was stopped."""
    from types import SimpleNamespace

    from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

    world, order = replay.world, students(replay, seed)
    scheduler = {
        fold: AsyncHyperBandScheduler(
            metric="mae",
            mode="min",
            max_t=max(world.epochs[id] for id in order),
            grace_period=GRACE,
            reduction_factor=ETA,
        )
        for fold in {replay.points[id].fold for id in order}
    }
    waiting, busy = list(reversed(order)), list[Any]()
    while waiting or busy:
        while waiting and len(busy) < SLOTS:
            trial = SimpleNamespace(trial_id=waiting.pop())
            scheduler[replay.points[trial.trial_id].fold].on_trial_add(None, trial)
            busy.append(trial)
        for trial in list(busy):
            id = trial.trial_id
            epoch = replay.trained.get(id, 0) + 1
            replay.train(id, epoch)
            row = {"training_iteration": epoch, "mae": min(world.curves[id][:epoch])}
            said = scheduler[replay.points[id].fold].on_trial_result(None, trial, row)
            if said == TrialScheduler.STOP or epoch >= world.epochs[id]:
                busy.remove(trial)
        yield
    # ASHA is through; who isn't content with it trains the rest, the furthest first
    rest = sorted((id for id in order if not replay.done(id)), key=lambda id: -replay.trained[id])
    yield from whole(replay, rest)


def v_optimal(replay: Replay, seed: int) -> Iterator[None]:
    """Whole points, each of which lowers the summed variance of all candidates' error most per second."""
    world = replay.world
    who = students_of(world.points, world.question)
    kernel = at_scales(parts_of(who.cells), dict.fromkeys(GROUPS, 1.0))
    nothing = Seen(np.zeros(0, np.intp), np.zeros(0), np.zeros((0, 0)))
    belief = Belief(who, latents_of(who), kernel, nothing)
    c, n = len(who.cells), len(who)
    fits = np.flatnonzero(who.cells.fits)
    seconds = np.array([world.seconds_per_epoch[id] * world.epochs[id] for id in who.ids])
    left = np.ones(n, bool)
    sharing = max(sum(t is not None for t in who.teacher) / max(len(set(who.teacher)) - 1, 1) / 5, 1.0)
    while left.any():
        owed = np.array([0.0 if not t or replay.done(t) else _cost(world, t) / sharing for t in who.teacher])
        gain = (belief.to_cells[c + n :, fits] ** 2).sum(1) / (belief.variance[c + n :] + 1e-9)
        k = int(np.where(left, gain / (seconds + owed), -1.0).argmax())
        left[k] = False
        belief.look(k, 0.0, finish=True)
        replay.train(who.ids[k], world.epochs[who.ids[k]])
        yield


def _cost(world: World, id: str) -> float:
    return world.seconds_per_epoch[id] * world.epochs[id]


def suggest_in_rounds(replay: Replay, seed: int) -> Iterator[None]:
    """Three small sizes of every arm in every fold; then, a tenth of the rest at a time, what `suggest` says.

    It may say sizes that the grid has not: the nearest that isn't trained yet stands for each.
    """
    from orchestrator.answers.suggest import suggest
    from orchestrator.laws.document import make_document

    world = replay.world
    learners = [p for p in world.points if p.role == "student"]
    for p in learners:
        if p.width in WIDTHS[p.arch][1][:3]:
            replay.train(p.id, world.epochs[p.id])
    yield
    seconds = (replay.grid - replay.spent) / 10
    while any(not replay.done(p.id) for p in learners):
        document = make_document("simulated", list(replay.known().results.values()), {}, rng=seed)
        budget = Budget(max_params=world.question["max_params"])
        for pick in suggest(document, budget, seconds / 3600).picks:
            arm = document["arms"][pick.arm]
            columns = document["architectures"][arm["arch"]]["configurations"]
            same = [
                p
                for p in learners
                if (p.arch, p.strategy, p.teacher_group) == (arm["arch"], arm["strategy"], arm["teacher"])
                and not replay.done(p.id)
            ]
            if same:
                away = [abs(np.log(p.params / columns["params"][pick.row])) for p in same]
                width = same[int(np.argmin(away))].width
                for p in same:
                    if p.width == width:
                        replay.train(p.id, world.epochs[p.id])
        yield


def clairvoyant(replay: Replay, seed: int) -> Iterator[None]:
    """Ours, but chosen by someone who knows all true errors, as gaps between students: a bound.

    Its answer is read off as all others are.
    """
    world = replay.world
    who = students_of(world.points, world.question)
    true = {c: world.truth[cell_of(replay.points[id])] for id, c in zip(who.ids, who.cell, strict=True)}
    truth = np.array([true[c] for c in range(len(who.cells))])
    fits = np.flatnonzero(who.cells.fits)
    best = int(fits[truth[fits].argmin()])
    teachers = [p.id for p in world.points if p.role == "teacher"]
    epochs = {k: world.epochs[id] for k, id in enumerate(who.ids)}
    pace = {k: world.seconds_per_epoch[id] for k, id in enumerate(who.ids)}
    while True:
        known = replay.known()
        tested = {id: r["mae_bpm"] for id, r in known.results.items()}
        belief, law = believe(who, known.curves, tested, world.epochs)
        belief.mean = truth
        open_ = [k for k, id in enumerate(who.ids) if id not in tested]
        trained = {k: replay.trained.get(who.ids[k], 0) for k in open_}
        slices = slices_of(law, belief, open_, trained, epochs, pace)
        owed = {id: _cost(world, id) for id in teachers if not replay.done(id)}
        named = any(id in tested and c == best for id, c in zip(who.ids, who.cell, strict=True))
        chosen = choose(belief, slices, Situation(best, named, fits, owed), SLOTS, None)
        if not chosen:
            return
        for one in chosen:
            replay.train(who.ids[one.student], one.until)
            yield


WAYS: dict[str, Way] = {
    "clairvoyant": clairvoyant,
    "random": at_random,
    "ASHA": asha,
    "V-optimal": v_optimal,
    "suggest": suggest_in_rounds,
}
