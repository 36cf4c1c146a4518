"""Strategies as weights: their defaults, what a search space may set, and what is refused."""

import pytest

from kd.errors import InputError
from kd.training.strategies import STRATEGIES, defaults, full_args, needs_teacher
from kd.training.terms import TERMS, Weights


def test_the_strategies_and_the_terms_they_use():
    used = {name: set(STRATEGIES[name]().terms) for name in STRATEGIES}
    assert used == {
        "scratch": {"ce"},
        "hard": {"ce", "hard"},
        "soft": {"ce", "soft"},
        "dkd": {"ce", "tckd", "nckd"},
        "feature": {"ce", "feature"},
        "soft_std": {"ce", "standardised"},
        "dist": {"ce", "inter", "intra"},
    }
    assert set().union(*used.values()) == {name for term in TERMS.values() for name in term.weights}
    assert [name for name in STRATEGIES if not needs_teacher(name)] == ["scratch"]


def test_arguments_reach_their_weights():
    args = {"temperature": 5, "window": 4, "warmup_fraction": 0.1}
    assert STRATEGIES["dkd"](ce=0.5, alpha=2, beta=3, **args) == Weights(
        {"ce": 0.5, "tckd": 2, "nckd": 3}, **args
    )
    assert STRATEGIES["soft"](ce=0.1, weight=0.9, temperature=2) == Weights(
        {"ce": 0.1, "soft": 0.9}, temperature=2
    )
    assert STRATEGIES["soft_std"](ce=0.1, weight=0.9, temperature=2) == Weights(
        {"ce": 0.1, "standardised": 0.9}, temperature=2
    )
    assert STRATEGIES["dist"](ce=0.1, beta=3, gamma=0.5, temperature=2) == Weights(
        {"ce": 0.1, "inter": 3, "intra": 0.5}, temperature=2
    )
    assert STRATEGIES["hard"](ce=0.1, weight=0.9) == Weights({"ce": 0.1, "hard": 0.9})
    assert STRATEGIES["feature"](ce=0.1, weight=0.9) == Weights({"ce": 0.1, "feature": 0.9})


def test_a_term_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match=r"unknown loss term sfot: use ce, hard, soft, tckd, nckd, feature"):
        Weights({"ce": 1.0, "sfot": 1.0})


def test_the_published_defaults():
    assert defaults("dkd") == {
        **{"ce": 1.0, "alpha": 1.0, "beta": 8.0, "temperature": 4.0, "window": 0},
        "warmup_fraction": pytest.approx(20 / 240),
    }
    assert defaults("soft") == {"ce": 0.5, "weight": 0.5, "temperature": 4.0}
    assert defaults("soft_std") == {"ce": 1.0, "weight": 9.0, "temperature": 2.0}
    assert defaults("dist") == {"ce": 1.0, "beta": 2.0, "gamma": 2.0, "temperature": 4.0}
    assert defaults("scratch") == {}


@pytest.mark.parametrize("name", STRATEGIES)
def test_equal_points_have_equal_arguments(name):
    assert full_args(name, {}) == defaults(name)
    assert full_args(name, defaults(name)) == defaults(name)
    for key, value in defaults(name).items():
        whole = full_args(name, {key: 1})
        assert list(whole) == list(defaults(name))
        assert type(whole[key]) is type(value)
        assert whole[key] == 1


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("soft", {"temprature": 4}, "has no 'temprature': it takes ce, weight, temperature"),
        ("scratch", {"ce": 1}, "it takes no arguments"),
        ("soft", {"temperature": 0}, "temperature is 0"),
        ("soft", {"weight": -1}, "weight is -1"),
        ("soft", {"weight": float("nan")}, "weight is nan"),
        ("soft", {"weight": float("inf")}, "weight is inf"),
        ("soft", {"weight": "much"}, "weight is 'much'"),
        ("soft", {"weight": True}, "weight is True"),
        ("dkd", {"window": 1.5}, "whole number"),
        ("dkd", {"warmup_fraction": 1.5}, "from 0 to 1"),
        ("hard", {"ce": 0, "weight": 0}, "every weight is 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name, args, says):
    with pytest.raises(InputError, match=says) as error:
        full_args(name, args)
    assert name in str(error.value)
