"""Is decoupling better, or only weighted more? soft and DKD as published, and at equal weight. numpy only.

Published DKD weights the teacher several times as much as published soft distillation. A difference between
them says nothing about decoupling until the weights are equal.
"""

from typing import Any

import numpy as np

from orchestrator.laws.arms import Arm
from orchestrator.laws.effects import SURE, Fitted, common_sizes, interval, log_ratio

ALIKE = 1.5  # weights within this factor count as equal


def distillation_weight(arm: Arm) -> float | None:
    """The weight of an arm's teacher terms, in units of soft distillation with weight = ce.

    DKD's share is the larger of alpha and beta: measured on peaked 180-class teachers at T 1 and 4, the
    gradient of DKD (alpha 1, beta b) is 0.9 to 1.05 times b times that of soft distillation for b = 4 and 8,
    1.05 to 1.4 times for b = 1. None for other strategies, and without labels (ce 0).
    """
    args = arm.args
    if not args.get("ce"):
        return None
    if arm.strategy == "soft":
        return float(args["weight"] / args["ce"])
    if arm.strategy == "dkd":
        return float(max(args["alpha"], args["beta"]) / args["ce"])
    return None


def soft_against_dkd(fitted: list[Fitted]) -> dict[str, Any]:
    """{as_published: [...], matched: [...], text}: one comparison an architecture, init and teacher.

    as_published: both at their authors' configuration. matched: all pairs of equal temperature whose
    distillation weights are alike. gain: 1 - MAE(dkd) / MAE(soft) over all sizes that both have measured.
    """
    pairs = [
        (soft, dkd)
        for soft in fitted
        for dkd in fitted
        if soft.arm.strategy == "soft" and dkd.arm.strategy == "dkd" and _same_place(soft.arm, dkd.arm)
    ]
    published = [_compare(s, d) for s, d in pairs if s.arm.published and d.arm.published]
    matched = [_compare(s, d) for s, d in pairs if alike(s.arm, d.arm)]
    return {
        "as_published": [c for c in published if c],
        "matched": [c for c in matched if c],
        "text": _text([c for c in published if c], [c for c in matched if c], [d.arm for _, d in pairs]),
    }


def _same_place(a: Arm, b: Arm) -> bool:
    return (a.arch, a.init, a.teacher) == (b.arch, b.init, b.teacher)


def alike(soft: Arm, dkd: Arm) -> bool:
    """Whether the two have one temperature, and distillation weights within ALIKE."""
    one, two = distillation_weight(soft), distillation_weight(dkd)
    if not one or not two or soft.args["temperature"] != dkd.args["temperature"]:
        return False
    return max(one, two) <= ALIKE * min(one, two)


def _compare(soft: Fitted, dkd: Fitted) -> dict[str, Any] | None:
    sizes = common_sizes(soft, dkd)
    if sizes is None:
        return None
    gain = (1 - np.exp(log_ratio(dkd, soft, sizes))).mean(1)
    p = float((gain > 0).mean())
    if max(p, 1 - p) >= SURE:
        verdict = f"{dkd.arm.label if p > 0.5 else soft.arm.label} is better"
    else:
        verdict = "no difference established"
    return {
        "arch": dkd.arm.arch,
        "init": dkd.arm.init,
        "teacher": dkd.arm.teacher,
        "soft": soft.arm.key,
        "dkd": dkd.arm.key,
        "soft_weight": distillation_weight(soft.arm),
        "dkd_weight": distillation_weight(dkd.arm),
        "gain": interval(gain),
        "p_dkd_better": round(p, 4),
        "text": f"{dkd.arm.arch}: {verdict} (dkd over soft: {100 * float(np.median(gain)):.1f} %)",
    }


def _text(published: list[dict[str, Any]], matched: list[dict[str, Any]], dkds: list[Arm]) -> str:
    if not dkds:
        return "soft and dkd were not both trained with one teacher: nothing to compare"
    parts = []
    if published:
        ratio = published[0]["dkd_weight"] / published[0]["soft_weight"]
        parts.append(
            f"as published, with {ratio:.2g} times the distillation weight of soft in dkd: "
            + _tally(published)
        )
    if matched:
        parts.append(f"at matched weight and temperature: {_tally(matched)}")
    else:
        arm = max(dkds, key=lambda a: distillation_weight(a) or 0.0)
        weight = distillation_weight(arm) or 1.0
        parts.append(
            "not compared at matched weight, so loss scale and decoupling can't be separated: add the "
            f"strategy soft with {{ce: 1, weight: {weight:g}, temperature: {arm.args['temperature']:g}}}"
        )
    return "; ".join(parts)


def _tally(comparisons: list[dict[str, Any]]) -> str:
    better = sum(c["p_dkd_better"] >= SURE for c in comparisons)
    worse = sum(c["p_dkd_better"] <= 1 - SURE for c in comparisons)
    return f"dkd is better in {better}, soft in {worse} of {len(comparisons)} comparisons"
