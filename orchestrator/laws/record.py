"""The calibration record of a sweep: how often its laws covered the largest sizes when held out."""

from math import expm1
from typing import Any

from orchestrator.laws.holdout import ENOUGH, LEVEL, Holdout


def calibration_record(records: list[list[Holdout]], factor: float) -> dict[str, Any]:
    """Hits over arms at the largest size, one and two sizes left out, with 95 % Clopper-Pearson limits.

    bias_ln: the mean of what was observed less what was predicted; too_low: how many predictions were below.
    """
    trials = []
    for left_out in (1, 2):
        held = [h for record in records for h in record if h.left_out == left_out]
        if held:
            hits = sum(h.hit for h in held)
            low, high = clopper_pearson(hits, len(held))
            trials.append(
                {
                    "left_out": left_out,
                    "groups": len(held),
                    "hits": hits,
                    "low": round(low, 4),
                    "high": round(high, 4),
                    "mean_abs_error_ln": round(sum(abs(h.error) for h in held) / len(held), 5),
                    "bias_ln": round(sum(h.error for h in held) / len(held), 5),
                    "too_low": sum(h.error > 0 for h in held),
                }
            )
    return {"level": LEVEL, "conformal_factor": round(factor, 4), "trials": trials, "text": _text(trials)}


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact limits of a binomial share (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    half = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, half))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - half))
    return low, high


def _text(trials: list[dict[str, Any]]) -> str:
    if not trials:
        return "no arm has enough sizes to hold out the largest: the intervals are unchecked on this sweep"
    parts = [
        f"{t['hits']} of {t['groups']} arms inside their {LEVEL:.0%} prediction interval "
        f"(95% CI {t['low']:.0%} to {t['high']:.0%}) with the largest {_sizes(t['left_out'])} held out"
        for t in trials
    ]
    text = "; ".join(parts)
    text += "; " + "; ".join(_bias(t) for t in trials)
    if trials[0]["groups"] < ENOUGH:
        text += f"; {trials[0]['groups']} arms are too few to tell 80% from 90%"
    return text + "; arms share configurations, so these trials are not independent"


def _bias(t: dict[str, Any]) -> str:
    """On which side the predictions were: "... were 3.1% too low on average (9 of 13 arms)"."""
    low = t["bias_ln"] > 0
    arms = t["too_low"] if low else t["groups"] - t["too_low"]
    share = abs(expm1(t["bias_ln"]))
    side = "low" if low else "high"
    of = f"{arms} of {t['groups']} arms"
    return f"predictions of the largest {_sizes(t['left_out'])} were {share:.1%} too {side} on average ({of})"


def _sizes(n: int) -> str:
    return "size" if n == 1 else f"{n} sizes"
