"""The objective: a loop over the terms that a strategy weighs, each for the members that weigh it."""

import dataclasses
import inspect

import pytest
import torch

from kd.training import losses, objective
from kd.training.objective import INPUTS, Labels, Objective
from kd.training.recipe import Recipe, Spec
from kd.training.strategies import STRATEGIES
from kd.training.terms import TERMS, Term, Weights
from kd.training.train import Run, Runs

LABELS = Labels(torch.arange(30.0, 210.0), 1.5)
WINDOWS, BATCH = 40, 6
RECIPE = Recipe(max_epochs=2, batch_size=64)


class Teacher:
    """Outputs of a teacher for a handful of windows."""

    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(width)
        self.logits = 3 * torch.randn(WINDOWS, 180, generator=generator)
        self.features = torch.randn(WINDOWS, width, generator=generator)


# The whole of a new term and of a strategy that weighs it: two functions and two lines.
def cosine(student_features, teacher_features):
    return 1 - torch.nn.functional.cosine_similarity(student_features, teacher_features)


def aligned(ce: float = 1.0, feature: float = 0.0, weight: float = 0.5) -> Weights:
    return Weights({"ce": ce, "feature": feature, "cosine": weight})


@pytest.fixture
def new_term(monkeypatch):
    monkeypatch.setattr(losses, "cosine", cosine, raising=False)
    monkeypatch.setitem(TERMS, "cosine", Term(("cosine",)))
    monkeypatch.setitem(STRATEGIES, "aligned", aligned)


def of(weights, teachers, seed=0, ramp=0.25):
    """The losses of members on random batches, and what they were computed from."""
    generator = torch.Generator().manual_seed(seed)
    made = Objective(weights, LABELS, teachers)
    logits = torch.randn(len(weights), BATCH, 180, generator=generator, requires_grad=True)
    index = torch.randint(WINDOWS, (len(weights), BATCH), generator=generator)
    bpm = 40 + 100 * torch.rand(len(weights), BATCH, generator=generator)
    features = {
        width: torch.randn(len(few.members), BATCH, width, generator=generator, requires_grad=True)
        for width, few in made.featured.items()
    }
    ramps = torch.full((len(weights),), ramp)
    return made, made(logits, features, bpm, index, ramps), logits, features, bpm, index


def test_a_new_term_trains_alone_and_beside_others(small_data, new_term, tmp_path):
    teacher = Spec("t", "teacher", "resnet1d", 2, 8, recipe=RECIPE)
    run = Run(teacher, small_data, tmp_path / "t")
    while run.step():
        pass
    run.finish()
    spec = Spec("s", "student", "resnet1d", 2, 4, strategy="aligned", teacher="t", recipe=RECIPE)
    alone = Run(spec, small_data, tmp_path / "s", teacher_folder=tmp_path / "t")
    first, last = alone.step(), alone.step()
    assert last["train_loss"] < first["train_loss"]
    figures = alone.finish()
    none = dataclasses.replace(spec, strategy_args={"weight": 0.0})
    scratch = dataclasses.replace(spec, strategy="scratch", teacher=None)
    both = dataclasses.replace(spec, strategy_args={"feature": 2.0})
    for other, differs in ((none, True), (both, True), (scratch, True), (spec, False)):
        folder = tmp_path / str(other.strategy_args) / other.strategy
        run = Run(other, small_data, folder, teacher_folder=tmp_path / "t")
        while run.step():
            pass
        assert (run.finish()["model_sha256"] != figures["model_sha256"]) == differs
    specs = [scratch, both, spec, dataclasses.replace(spec, strategy="feature")]
    stack = Runs(
        specs,
        small_data,
        [tmp_path / f"stacked{i}" for i in range(4)],
        teacher_folders=[None, *[tmp_path / "t"] * 3],
    )
    assert stack.step()[2]["train_loss"] == pytest.approx(first["train_loss"], rel=1e-4)


def test_each_member_gets_its_own_terms(new_term):
    """A stack of teachers of two widths against each member's terms written out."""
    weights = [
        Weights({"ce": 1.0}),
        Weights({"ce": 0.5, "tckd": 2.0, "nckd": 3.0}, temperature=2.0, window=1, warmup_fraction=0.5),
        Weights({"feature": 2.0, "cosine": 0.5}),
        Weights({"soft": 1.5}, temperature=4.0),
        Weights({"hard": 0.5, "cosine": 1.0}),
        Weights({"nckd": 1.0}, temperature=3.0),
    ]
    teachers = [None, Teacher(7), Teacher(5), Teacher(7), Teacher(7), Teacher(7)]
    made, ours, logits, features, bpm, index = of(weights, teachers)
    assert {width: few.members for width, few in made.featured.items()} == {5: [2], 7: [4]}
    t = [teacher and teacher.logits[index[m]] for m, teacher in enumerate(teachers)]
    ce = [losses.cross_entropy(logits[m], LABELS.target(bpm[m])) for m in range(6)]
    tckd, nckd = losses.decoupled(logits[1], t[1], LABELS.index(bpm[1]), 2.0, 1)
    theirs = [
        ce[0],
        0.5 * ce[1] + 0.25 * (2.0 * tckd + 3.0 * nckd),
        2.0 * losses.feature(features[5][0], teachers[2].features[index[2]])
        + 0.5 * cosine(features[5][0], teachers[2].features[index[2]]),
        1.5 * losses.soft(logits[3], t[3], 4.0),
        0.5 * losses.hard(logits[4], t[4]) + cosine(features[7][0], teachers[4].features[index[4]]),
        0.25 * losses.decoupled(logits[5], t[5], LABELS.index(bpm[5]), 3.0)[1],
    ]
    torch.testing.assert_close(ours, torch.stack(theirs).mean(1))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_term_of_weight_0_is_never_computed(monkeypatch, strategy):
    called, inside = [], []  # `hard` itself calls `cross_entropy`
    for name in TERMS:
        function = getattr(losses, name)

        def spy(*args, name=name, function=function):
            if not inside:
                called.append(name)
            inside.append(name)
            result = function(*args)
            inside.pop()
            return result

        spy.__signature__ = inspect.signature(function)
        monkeypatch.setattr(losses, name, spy)
    weights = STRATEGIES[strategy]()
    of([weights, weights], [None, None] if strategy == "scratch" else [Teacher(7), Teacher(5)])
    wanted = [name for name, term in TERMS.items() if any(weights.of(term))]
    assert called == wanted + wanted[-1:] * (strategy == "feature")  # once for each width
    called.clear()
    of([Weights({**dict.fromkeys(weights.terms, 0.0), "soft": 1.0})], [Teacher(7)])
    assert called == ["soft"]


def test_a_term_of_weight_0_that_is_not_finite_spoils_no_sum():
    teacher = Teacher(7)
    teacher.logits.fill_(torch.inf)
    _, ours, logits, *_ = of([Weights({"ce": 1.0, "tckd": 0.0, "nckd": 0.0})], [teacher])
    ours.sum().backward()
    assert ours.isfinite().all()
    assert logits.grad.isfinite().all()


def test_what_can_not_be_trained_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="no loss term is left"):
        Objective([Weights({"soft": 1.0})], LABELS, [None])
    with pytest.raises(ValueError, match="no loss term is left"):
        Objective([Weights({"ce": 1.0}), Weights({"ce": 0.0})], LABELS, [None, Teacher(7)])
    with pytest.raises(ValueError, match="window 89"):
        Objective([Weights({"tckd": 1.0}, window=89)], LABELS, [Teacher(7)])
    monkeypatch.setattr(losses, "odd", lambda student_logits, weather: student_logits, raising=False)
    monkeypatch.setitem(TERMS, "odd", Term(("odd",)))
    with pytest.raises(ValueError, match="asks for weather: there is student_logits"):
        Objective([Weights({"odd": 1.0})], LABELS, [Teacher(7)])


@pytest.mark.parametrize("name", TERMS)
def test_every_term_is_a_loss_that_asks_for_what_there_is(name):
    assert set(objective.needs_of(name)) <= set(INPUTS)
