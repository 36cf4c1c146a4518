"""One step: what is trained next, what is advised, and when it is enough."""

import dataclasses
import json
import time

import numpy as np
import pytest
from small import EPOCHS, curve, known, plan, true_error

from kd.errors import InputError
from orchestrator.answers.economy import belief as belief_module
from orchestrator.answers.economy import step as step_module
from orchestrator.answers.economy.belief import believe
from orchestrator.answers.economy.kernel import GROUPS
from orchestrator.answers.economy.step import next_step
from orchestrator.answers.economy.students import students_of


def play(points, steps, **more):
    """Train what is said, step after step: the epochs of each point, and the last step."""
    trained: dict[str, int] = {}
    step = next_step(known(points, trained, **more))
    for _ in range(steps):
        trained |= dict(step.train[:4])
        step = next_step(known(points, trained, **more))
        if step.stop:
            break
    return trained, step


def test_the_best_student_is_found_for_less_than_the_grid():
    points = plan()
    trained, step = play(points, 60, until_regret=0.3)
    assert step.stop == "reached"
    best = min((p for p in points if p.role == "student"), key=true_error)
    advised = next(p for p in points if p.id == step.belief["advised"])
    assert true_error(advised) - true_error(best) <= 0.3
    assert trained[advised.id] == EPOCHS
    assert step.belief["regret_bpm"] <= 0.3
    assert step.belief["share_of_grid"] < 0.8
    assert json.loads(json.dumps(step.belief)) == step.belief


def test_the_same_is_said_twice_and_whatever_the_order():
    points = plan()
    trained, _ = play(points, 5)
    one = next_step(known(points, trained))
    assert one == next_step(known(points, trained))
    backwards = dict(reversed(list(trained.items())))
    assert next_step(known(points, backwards)).train == one.train


def test_no_slot_idles_while_what_is_worth_most_waits_for_a_teacher(monkeypatch):
    monkeypatch.setattr(step_module, "MOST", 1)
    points = plan()
    teachers = frozenset(p.id for p in points if p.role == "teacher")
    by_id = {p.id: p for p in points}
    waiting, other = [id for id, _ in next_step(known(points, {}, running=teachers)).train]
    assert by_id[waiting].teacher in teachers
    assert by_id[other].teacher is None


@pytest.mark.parametrize("mean", [False, True])
def test_a_teacher_comes_before_its_students_and_only_if_it_is_not_there(mean: bool):
    points = plan(teachers=(8, 16) if mean else (16,))
    if mean:  # one of two teachers is the mean of the other and itself, say

        def made(p):
            of = [{"kind": "trained", "content": [f"T8-{p.fold}"]}]
            return dataclasses.replace(p, brought={"name": "m", "of": of}) if p.id.startswith("T16") else p

        points = [made(p) for p in points]
    trained: dict[str, int] = {}
    by_id = {p.id: p for p in points}
    taught = 0
    for _ in range(12):
        step = next_step(known(points, trained))
        there = {id for id, n in trained.items() if n >= EPOCHS and by_id[id].role == "teacher"}
        for id, until in step.train:
            p = by_id[id]
            if p.role == "teacher":
                assert id not in there, "it is trained already"
                assert until == EPOCHS
                assert there.issuperset(p.needs)
                there.add(id)
            elif p.teacher:
                taught += 1
                assert p.teacher in there
            assert until > trained.get(id, 0)
        trained |= dict(step.train[:4])
    assert taught


def test_a_dear_teacher_is_left_out_and_a_cheap_one_is_not():
    points = plan(folds=(None,), teachers=(16, 64))
    for cheap in (16, 64):
        start = known(
            points, {p.id: EPOCHS for p in points if p.strategy == "scratch" and p.role == "student"}
        )
        pace = dict(start.seconds_per_epoch)
        for width in (16, 64):
            pace[f"T{width}-None"] = 1.0 if width == cheap else 1e5
        step = next_step(dataclasses.replace(start, seconds_per_epoch=pace))
        teachers = [id for id, _ in step.train if id.startswith("T")]
        assert teachers == [f"T{cheap}-None"]


def test_what_runs_is_not_asked_for_again():
    points = plan()
    trained, step = play(points, 1)
    running = frozenset(id for id, _ in step.train)
    again = next_step(known(points, trained, running=running))
    assert again.stop is None
    assert not running & {id for id, _ in again.train}


def test_a_budget_ends_it_and_is_kept():
    points = plan()
    trained, step = play(points, 40, budget_s=60.0)
    assert step.stop == "budget"
    now = known(points, trained)
    assert now.spent_s <= 60.0
    assert step.train == []


def test_when_everything_is_trained_there_is_nothing_more():
    points = plan()
    step = next_step(known(points, {p.id: EPOCHS for p in points}))
    assert step.stop == "nothing-more"
    assert step.belief["advised"].startswith("soft32")
    assert step.belief["share_of_grid"] == pytest.approx(1.0)
    assert step.belief["hours_to_target"] is None


def test_a_student_outside_the_limits_is_never_advised():
    points = plan()
    limit = sorted({p.params for p in points if p.role == "student"})[1]
    _, step = play(points, 15, question={"max_params": limit})
    assert next(p for p in points if p.id == step.belief["advised"]).params <= limit
    with pytest.raises(InputError, match="raise the limit"):
        next_step(known(points, {}, question={"max_params": 1}))


def test_unfinished_curves_tell_of_their_students_and_less_than_finished_ones():
    points = plan()
    who = students_of(points, {})
    scratch = [p for p in points if p.role == "student" and p.strategy == "scratch"]
    epochs = {p.id: EPOCHS for p in points}
    spread = []
    for n in (0, 2, 5, EPOCHS):
        curves = {p.id: curve(p)[:n] for p in scratch if n}
        tested = {p.id: curve(p)[-1] for p in scratch} if n == EPOCHS else {}
        belief, _ = believe(who, curves, tested, epochs)
        cells = [who.cell[who.ids.index(p.id)] for p in scratch[:4]]
        away = belief.covariance[np.ix_(cells, cells)]
        spread.append(float(away[0, 0] + away[3, 3] - 2 * away[0, 3]))
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] < 0.2 * spread[0]


def test_folds_whose_people_differ_do_not_decide_between_students():
    """One student was trained in the easy fold only, the better one in the hard fold only."""
    points = plan()
    done = [p.id for p in points if p.strategy == "scratch" and p.role == "student" and p.id != "scratch32-0"]
    belief, _ = believe(
        who := students_of(points, {}),
        {id: curve(next(p for p in points if p.id == id)) for id in done},
        {id: curve(next(p for p in points if p.id == id))[-1] for id in done},
        {p.id: EPOCHS for p in points},
    )
    small, large = (who.cell[who.ids.index(id)] for id in ("scratch16-0", "scratch32-1"))
    assert curve(points[0])[-1] > 0
    assert belief.mean[large] < belief.mean[small]


def test_a_diverged_curve_breaks_nothing():
    points = plan()
    now = known(points, {"scratch4-0": 3, "scratch8-0": EPOCHS})
    curves = dict(now.curves) | {"scratch4-0": [float("nan")] * 3, "scratch16-0": [7.0, float("inf")]}
    step = next_step(dataclasses.replace(now, curves=curves))
    assert step.train
    assert step.belief["advised"] == "scratch8-0"


def test_looking_ahead_is_what_learning_it_would_leave(monkeypatch):
    monkeypatch.setattr(belief_module, "likely_scales", lambda *_: dict.fromkeys(GROUPS, 1.0))
    points = plan()
    who = students_of(points, {})
    epochs = {p.id: EPOCHS for p in points}
    first = {"scratch4-0": curve(points[2])}
    tested = {id: c[-1] for id, c in first.items()}
    belief, _ = believe(who, first, tested, epochs)
    k = who.ids.index("scratch16-0")
    ahead = belief.copy()
    ahead.look(k, 0.0, finish=True)
    p = next(p for p in points if p.id == "scratch16-0")
    after, _ = believe(who, first | {p.id: curve(p)}, tested | {p.id: curve(p)[-1]}, epochs)
    np.testing.assert_allclose(ahead.covariance, after.covariance, rtol=1e-4, atol=1e-7)
    assert belief.covariance[0, 0] > ahead.covariance[0, 0], "the one that was copied is as it was"


def test_five_hundred_points_take_less_than_a_second_of_cpu_time():
    points = plan(folds=tuple(range(18)), teachers=(16,))
    points = [*points, *plan(folds=tuple(range(18, 36)))]
    assert len(points) >= 450
    trained = {p.id: EPOCHS if k % 3 else 4 for k, p in enumerate(points) if k % 2}
    trained |= {p.id: EPOCHS for p in points if p.role == "teacher"}
    now = known(points, trained)
    next_step(now)
    start = time.process_time()
    next_step(now)
    assert time.process_time() - start < 2.5, "a second where nothing else runs"
