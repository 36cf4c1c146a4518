"""One law: recovery, symmetries, refusals, speed-free behaviour of `fit_law`."""

import functools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.laws import Law, fit_law
from orchestrator.laws.forms import FORMS
from orchestrator.laws.refuse import ExtrapolationWarning

SIZES = np.geomspace(3e3, 1e6, 8)
EXAMPLES = {  # parameters in the fitted parametrisation, for u = ln N centred and ln error centred
    "log_exponential": [-0.7, -0.9, np.log(0.4)],
    "bounded_power": [0.1, -2.0, np.log(0.5)],
    "shifted_power": [-0.8, -0.2, -1.5, np.log(0.6)],
    "sigmoid": [-0.9, 0.6, 0.3, np.log(0.8)],
    "exponential": [-0.3, 0.2, -0.5],
}


def power(n: np.ndarray, floor: float = 4.0, amplitude: float = 60.0, exponent: float = 0.4) -> np.ndarray:
    return floor + amplitude * n**-exponent


@pytest.mark.parametrize("name", FORMS)
def test_derivatives_are_those_of_the_form(name: str) -> None:
    theta = np.array([EXAMPLES[name]])
    u = np.linspace(-2.5, 2.5, 7)
    f, jacobian = FORMS[name].curve(theta, u)
    assert f.shape == (1, 7)
    for j in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, j] = 1e-6
        numeric = (FORMS[name].curve(theta + step, u)[0] - FORMS[name].curve(theta - step, u)[0]) / 2e-6
        np.testing.assert_allclose(jacobian[..., j], numeric, atol=1e-8)


@pytest.mark.parametrize("name", FORMS)
def test_natural_parameters_give_the_formula(name: str) -> None:
    """The parameters a user reads, put into the formula he reads, give the curve that was fitted."""
    theta, u = np.array(EXAMPLES[name]), np.linspace(-2, 2, 5)
    u0, z0 = np.log(5e4), np.log(7.0)
    p = FORMS[name].natural(theta, float(u0), float(z0))
    n = np.exp(u + u0)
    formula = {
        "log_exponential": lambda: p["c"] + p["A"] * (n / p["N_mid"]) ** -p["b"],
        "bounded_power": lambda: p["b"] * (p["N_mid"] / n + p["g"]) ** p["c"],
        "shifted_power": lambda: p["E"] + p["A"] * ((n + p["s"]) / p["N_mid"]) ** -p["a"],
        "sigmoid": lambda: p["E"] + (p["I"] - p["E"]) / (1 + (n / p["N0"]) ** p["k"]),
        "exponential": lambda: p["c"] + p["A"] * np.exp(-p["b"] * (n / p["N_mid"] - 1)),
    }[name]()
    np.testing.assert_allclose(formula, np.exp(FORMS[name].curve(theta[None], u)[0][0] + z0), rtol=1e-9)


def test_recovers_known_parameters_without_noise() -> None:
    law = fit_law(SIZES, power(SIZES))
    form = next(f for f in law.forms if f["name"] == "log_exponential")
    middle = float(np.exp(np.log(SIZES).mean()))
    expected = {"c": 4.0, "A": 60.0 * middle**-0.4, "N_mid": middle, "b": 0.4}
    assert form["params"] == pytest.approx(expected, rel=1e-3)
    assert form["fit_error"] < 1e-6
    assert form["starts_agree"] > 0.5


def test_predicts_a_power_law_beyond_its_data() -> None:
    rng = np.random.default_rng(0)
    sizes = np.repeat(SIZES, 3)
    law = fit_law(sizes, power(sizes) * np.exp(0.01 * rng.standard_normal(24)))
    new = np.array([2e6, 4e6])
    p = law.predict(new)
    assert law.verdict == "ok"
    np.testing.assert_allclose(p.median, power(new), rtol=0.05)
    assert ((p.low < power(new)) & (power(new) < p.high)).all()


def test_a_form_that_prefers_the_truth_is_told() -> None:
    rng = np.random.default_rng(1)
    sizes = np.repeat(SIZES, 3)
    law = fit_law(sizes, power(sizes) * np.exp(0.01 * rng.standard_normal(24)))
    by = {f["name"]: f for f in law.forms}
    assert by["log_exponential"]["aicc"] < by["exponential"]["aicc"] - 10
    assert by["log_exponential"]["holdout_error"] < by["exponential"]["holdout_error"]
    assert [f["name"] for f in law.forms if not f["in_ensemble"]] == ["exponential"]


def noisy(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = np.repeat(SIZES, 2)
    return sizes, power(sizes) * np.exp(0.02 * rng.standard_normal(16))


@functools.cache
def fitted() -> Law:
    return fit_law(*noisy())


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_do_not_matter(size_unit: float, error_unit: float) -> None:
    sizes, errors = noisy()
    new = np.array([1e3, 2e4, 2.5e6])
    plain = fitted().predict(new)
    scaled = fit_law(sizes * size_unit, errors * error_unit).predict(new * size_unit)
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(b / error_unit, a, rtol=2e-3)


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(16)))
def test_order_does_not_matter(order: list[int]) -> None:
    sizes, errors = noisy()
    new = np.array([1e3, 2e4, 2.5e6])
    for a, b in zip(fitted().predict(new), fit_law(sizes[order], errors[order]).predict(new), strict=True):
        np.testing.assert_array_equal(a, b)


def test_same_seed_same_law_other_seed_nearly() -> None:
    sizes, errors = noisy()
    first, again, other = (fit_law(sizes, errors, rng=s).predict([4e6]) for s in (0, 0, 1))
    assert first.high[0] == again.high[0]
    assert first.median[0] == other.median[0]
    assert first.high[0] == pytest.approx(other.high[0], rel=0.1)


def test_wider_at_a_higher_level_and_further_away() -> None:
    law = fitted()
    new = np.array([1e6, 2e6, 3e6, 4e6])
    narrow, wide = law.predict(new, level=0.5), law.predict(new, level=0.9)
    assert (wide.high > narrow.high).all()
    assert (wide.low < narrow.low).all()
    width = np.log(wide.high / wide.low)
    assert (np.diff(width) > 0).all()


def test_diverged_runs_hardly_move_the_law() -> None:
    sizes, errors = noisy()
    new = np.array([2e6])
    clean = fit_law(sizes, errors).predict(new).median[0]
    errors[5] *= 4
    assert fit_law(sizes, errors).predict(new).median[0] == pytest.approx(clean, rel=0.02)


REFUSED = {
    "no runs": ([], [], "train at least 3"),
    "two sizes": ([1e3, 1e4, 1e4], [9.0, 8, 8.1], "only 2 distinct sizes"),
    "one size": ([1e3, 1e3, 1e3], [9.0, 8, 8.1], "one size"),
    "nan": ([1e3, 1e4, 1e5, 1e6], [9.0, np.nan, 7, 6], "not a number"),
    "infinite": ([1e3, 1e4, 1e5, 1e6], [9.0, np.inf, 7, 6], "not a number"),
    "negative": ([1e3, 1e4, 1e5, 1e6], [9.0, 8, -7, 6], "negative"),
    "zero": ([1e3, 1e4, 1e5, 1e6], [9.0, 8, 7, 0], "zero"),
    "bad size": ([0, 1e4, 1e5, 1e6], [9.0, 8, 7, 6], "size is not a positive number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_cannot_carry_a_law(case: str) -> None:
    sizes, errors, why = REFUSED[case]
    law = fit_law(sizes, errors)
    assert law.verdict == "refuse"
    assert why in law.why
    with pytest.warns(ExtrapolationWarning, match="no law"):
        assert np.isnan(law.predict([2e4]).median).all()


def test_refuses_when_the_exponent_still_rises() -> None:
    """A transition that has only begun: the local exponent goes from 0.03 to 0.5 inside the data."""
    rng = np.random.default_rng(0)
    sizes = np.repeat(np.geomspace(1e3, 1e5, 8), 3)
    onset = 10 / (1 + (sizes / 1e5) ** 1.5)
    law = fit_law(sizes, onset * np.exp(0.01 * rng.standard_normal(24)))
    assert law.verdict == "refuse"
    assert "exponent still rises" in law.why
    assert "train sizes beyond 100000" in law.why
    assert np.isfinite(law.predict([1.5e5]).median).all()


def test_warns_beyond_4_and_refuses_beyond_8() -> None:
    law = fit_law(SIZES, power(SIZES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(law.predict([SIZES[0] / 4, SIZES[-1] * 4]).median).all()
    with pytest.warns(ExtrapolationWarning, match=r"extrapolation factor 7\.9"):
        assert np.isfinite(law.predict([SIZES[-1] * 7.9]).median).all()
    with pytest.warns(ExtrapolationWarning, match="refused"):
        p = law.predict([SIZES[0] / 9, SIZES[3], SIZES[-1] * 9])
    assert np.isnan(p.median).tolist() == [True, False, True]
    assert np.isnan(p.low).tolist() == [True, False, True]


def test_below_the_smallest_size_no_draw_is_better_than_there() -> None:
    sizes, errors = noisy(7)
    law = fit_law(sizes, errors + 4e4 / sizes**1.2)  # steep at the small end
    draws = law.draws(SIZES[0] * np.array([1 / 8, 1 / 3, 0.99, 1.0]))
    assert (draws[:, :-1] >= draws[:, -1:]).all()
    assert (np.diff(np.median(draws, 0)) < 0).all()


def test_arrays_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="one length"):
        fit_law([1.0, 2, 3], [1.0, 2])
    with pytest.raises(ValueError, match="cluster labels"):
        fit_law([1.0, 2, 3], [3.0, 2, 1], clusters=["a"])
    with pytest.raises(ValueError, match="level"):
        fit_law(SIZES, power(SIZES)).predict([1e4], level=90)


def test_three_sizes_are_the_least() -> None:
    law = fit_law([1e3, 1e4, 1e5], [9.0, 7, 6])
    assert isinstance(law, Law)
    assert law.verdict == "ok"
    assert {f["name"] for f in law.forms} == {"log_exponential", "bounded_power", "exponential"}
    p = law.predict([2e5])
    assert p.low[0] < p.median[0] < p.high[0]


def test_rising_errors_are_no_reason_to_crash() -> None:
    p = fit_law(SIZES, np.linspace(5, 8, 8)).predict([2e6])
    assert p.low[0] <= p.median[0] <= p.high[0]
