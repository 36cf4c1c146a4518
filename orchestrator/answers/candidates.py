"""The students a budget admits, and the draws of their error. numpy only; knows laws.json.

Draws are looked up with plain arithmetic, no logarithm, so that a page that embeds them finds the same.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.models import inits
from orchestrator.answers.evidence import measured_of, scores, together, without_law
from orchestrator.edge.on_chip import C_OF, refuse_unknown
from orchestrator.laws.forms import Array
from orchestrator.laws.packing import unpack, unpack_at
from orchestrator.laws.refuse import REFUSE_FACTOR, WARN_FACTOR
from orchestrator.words import quoted

NEAR_BPM = 0.1  # students this close to the best are as good as it
# Draws of arms that were fitted apart differ by more than the arms do; about the curve that ranks them, this
# share of it is right (CALIBRATION.md).
APART = 0.3
Index = npt.NDArray[np.intp]
Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Budget:
    """Upper limits on a student; None = no limit. kB are 1000 bytes.

    max_memory_kb: peak of the activations of one window, or the tensor arena where it was measured;
    max_flash_kb: the weights, or the .tflite file where it was measured; max_macs: multiply-adds of one
    window; max_latency_ms: of one window on `device` (None: the only one profiled on). max_instructions: of
    one window, and max_uj: microjoules from one heart rate to the next, both in C on a microcontroller that
    `device` names (`orchestrator.edge.device_table`). precision: "fp32" or "int8", what the student is
    shipped as.
    """

    max_params: float | None = None
    max_memory_kb: float | None = None
    max_flash_kb: float | None = None
    max_macs: float | None = None
    max_latency_ms: float | None = None
    max_instructions: float | None = None
    max_uj: float | None = None
    precision: str = "fp32"
    device: str | None = None

    @property
    def given(self) -> dict[str, float]:
        """The limits that are set."""
        names = [f.name for f in fields(self) if f.name.startswith("max_")]
        return {name: v for name in names if (v := getattr(self, name)) is not None}


# budget -> (column of the configurations, units of the column per unit of the budget, what it is)
LIMITS = {
    "max_params": ("params", 1.0, "parameters"),
    "max_memory_kb": ("activation_bytes", 1000.0, "kB of activation peak (float32, computed)"),
    "max_flash_kb": ("weight_bytes", 1000.0, "kB of weights (float32, computed)"),
    "max_macs": ("macs", 1.0, "multiply-adds"),
    "max_latency_ms": ("latency_ms_fp32", 1.0, "ms (float32)"),
}
# the same of what is known only on a microcontroller of the device table, at a precision
CHIP_LIMITS = {
    "max_latency_ms": ("latency_ms_{}", 1.0, "ms ({}, computed)"),
    "max_instructions": ("instructions_{}", 1.0, "instructions ({})"),
    "max_uj": ("uj_{}", 1.0, "µJ ({}, computed)"),
}


def limits(document: dict[str, Any], precision: str = "fp32") -> dict[str, tuple[str, float, str]]:
    """LIMITS at a precision, with what a microcontroller's runtime measured in place of computed sizes.

    Documents that `read_document` gave have these columns.
    """
    found = dict(LIMITS)
    kind = {"fp32": "float32", "int8": "int8"}[precision]
    if arena := bool(document.get("profile", {}).get("measured", {}).get("arena")):
        memory = "tensor arena where measured, else activation peak"
        flash = ".tflite where measured, else weights"
    else:
        memory, flash = "activation peak, computed", "weights, computed"
    if arena or precision != "fp32":
        found["max_memory_kb"] = (f"memory_bytes_{precision}", 1000.0, f"kB of memory ({kind}; {memory})")
        found["max_flash_kb"] = (f"flash_bytes_{precision}", 1000.0, f"kB of flash ({kind}; {flash})")
    if precision != "fp32":
        found["max_latency_ms"] = (f"latency_ms_{precision}", 1.0, f"ms ({kind})")
    if "chip" not in document:
        return found
    if precision == "int8":
        found["max_memory_kb"] = (
            "memory_bytes_int8",
            1000.0,
            "kB of memory (the arena of the int8 C, computed)",
        )
    return found | {
        name: (column.format(precision), unit, what.format(C_OF[precision]))
        for name, (column, unit, what) in CHIP_LIMITS.items()
    }


@dataclass(frozen=True)
class Candidates:
    """Students, one row each: arm, configuration, draws of ln MAE (B, m), its median and run noise.

    score (m,): ln MAE by which they are ranked; compared (B, m): draws of ln MAE round it, for differences.
    """

    arm: Index  # (m,) index into the document's arms
    row: Index  # (m,) index into the configurations of the arm's architecture
    draws: Array
    median: Array
    noise: Array
    score: Array
    compared: Array
    trained: Rows  # (m,)


def blank(document: dict[str, Any], asked: dict[str, float]) -> dict[str, Any]:
    """An answer before anything is known: a refusal."""
    return {
        "sweep": document["sweep"],
        "budget": asked,
        "verdict": "refuse",
        "why": "",
        "best": None,
        "runner_up": None,
        "extrapolation": None,
        "binding": None,
        "decided": False,
        "measured": None,
        "contenders": [],
        "train": [],
        "intervals": None,
        "metric": document.get("metric"),
        "calibration": document["calibration"],
        "memory": _memory(document),
    }


def _memory(document: dict[str, Any]) -> str:
    """What a limit on memory means."""
    shapes = len(document.get("profile", {}).get("measured", {}).get("arena", []))
    peak = "activation peak of one window, computed from the model's shape"
    return (
        f"tflite-micro's tensor arena where measured ({shapes} shapes), else {peak}"
        if shapes
        else ("activation peak of one window, float32, computed from the model's shape")
    )


def refuse_unmeasured(document: dict[str, Any], budget: Budget) -> None:
    """InputError when a limit is on a quantity this sweep has not measured."""
    for limit in CHIP_LIMITS:
        if limit in budget.given and ("chip" in document or limit not in LIMITS):
            refuse_unknown(document, limit)
    if budget.max_latency_ms is None or "chip" in document:
        return
    profile = document.get("profile") or {"devices": [], "device": None}
    command = f"`kdsweep profile {quoted(document['sweep'])}`"
    if not profile["devices"]:
        raise InputError(
            f"--max-latency-ms: no latency was measured in this sweep; measure it with {command}"
        )
    if profile["device"] is None:
        raise InputError(
            f"--max-latency-ms: name a device. Add --device and one of {', '.join(profile['devices'])}"
        )
    column = limits(document, budget.precision)["max_latency_ms"][0]
    known = [data["configurations"][column] for data in document["architectures"].values()]
    if not any(v is not None for values in known for v in values):
        raise InputError(
            f"--max-latency-ms: too few students were measured on {profile['device']}; "
            f"measure more with {command}"
        )


def usable_arms(document: dict[str, Any]) -> tuple[list[int], str]:
    """Arms whose law may be used, and why there are none."""
    usable = [j for j, arm in enumerate(document["arms"]) if arm["reach"] > 0]
    first = document["arms"][0]
    return usable, "" if usable else f"no law may be used ({first['key']}: {first['why']})"


def refused_arms(document: dict[str, Any]) -> list[dict[str, str]]:
    """The arms that were not used, or not beyond their measured sizes, and why."""
    return [
        {"arm": arm["key"], "why": arm["why"]} for arm in document["arms"] if arm["reach"] < REFUSE_FACTOR
    ]


def allowed_rows(document: dict[str, Any], arch: str, budget: Budget) -> Rows:
    """Which configurations of an architecture meet every limit."""
    columns = document["architectures"][arch]["configurations"]
    rows = np.ones(len(columns["params"]), dtype=bool)
    known = limits(document, budget.precision)
    for name, limit in budget.given.items():
        column, unit, _ = known[name]
        rows &= np.array(columns[column], dtype=float) <= limit * unit
    return rows


def within_reach(document: dict[str, Any], arm: int) -> Rows:
    """Which configurations an arm can have within the extrapolation factor `reach` of its law.

    Of an arm without a law, those that are trained.
    """
    law = document["arms"][arm]
    params = np.array(document["architectures"][law["arch"]]["configurations"]["params"], dtype=float)
    reach = reach_of(law)
    if reach == 0:
        near = np.zeros(len(params), dtype=bool)
        near[list(measured_of(document, arm))] = True
        return near
    near = (params <= law["largest"] * reach) & (params >= law["smallest"] / reach)
    return np.asarray(near & buildable(document, arm))


def reach_of(law: dict[str, Any]) -> float:
    """How far beyond its data an arm's law may be used: not at all where larger students are worse."""
    return float(min(law["reach"], 1.0) if law.get("rises") else law["reach"])


def near_rows(document: dict[str, Any], allowed: dict[str, Rows]) -> dict[int, Rows]:
    """Arm -> which of its configurations are allowed and within reach."""
    return {j: allowed[arm["arch"]] & within_reach(document, j) for j, arm in enumerate(document["arms"])}


def buildable(document: dict[str, Any], arm: int) -> Rows:
    """Which configurations an arm can have: all, or what its teacher can be pruned to."""
    law = document["arms"][arm]
    columns = document["architectures"][law["arch"]]["configurations"]
    teacher = document["teacher_points"].get(law["teacher"])
    if teacher is None or not inits.needs_teacher(law["init"]):
        return np.ones(len(columns["params"]), dtype=bool)
    parent = (teacher["arch"], teacher["depth"], teacher["width"])
    shapes = zip(columns["depth"], columns["width"], strict=True)
    return np.array([not inits.why_not(*parent, law["arch"], *shape) for shape in shapes], dtype=bool)


def nothing_fits(document: dict[str, Any], allowed: dict[str, Rows], budget: Budget) -> str:
    """Why no student fits, naming the nearest."""
    smallest, known = [], limits(document, budget.precision)
    for arch, data in document["architectures"].items():
        columns = data["configurations"]
        sizes = ", ".join(_least(columns, *known[name]) for name in budget.given)
        smallest.append(f"{arch} needs at least {sizes}")
    return (
        f"no student within the range of the laws fits this budget: {'; '.join(smallest)} (the "
        f"smallest within a factor of {REFUSE_FACTOR:g} of the measured sizes); raise the limits, "
        "or train smaller students"
    )


def _least(columns: dict[str, Any], column: str, unit: float, what: str) -> str:
    values = [v for v in columns[column] if v is not None]
    return f"{min(values) / unit:g} {what}" if values else f"an unknown number of {what}"


def reaches_beyond(document: dict[str, Any], allowed: dict[str, Rows], usable: list[int]) -> str:
    """Why a budget that admits students 8 times larger than any measured is refused; "" if it is not."""
    limits = []
    for j in usable:
        arm = document["arms"][j]
        params = np.array(document["architectures"][arm["arch"]]["configurations"]["params"], dtype=float)
        inside = params[allowed[arm["arch"]]]
        limit = arm["largest"] * reach_of(arm)
        known = arm.get("rises") or arm["verdict"] == "weak"  # the answer is a trained student then
        if known or not len(inside) or inside.max() <= limit:
            return ""
        limits.append((limit, arm))
    limit, arm = max(limits, key=lambda pair: pair[0])
    why = f": {arm['why']}" if arm["why"] else ", or train larger students"
    return (
        f"this budget admits students beyond the range of every law (the largest measured one has "
        f"{arm['largest']:,} parameters; {arm['key']} may be extrapolated {arm['reach']:g} times): "
        f"use --max-params {int(limit)} or less{why}"
    )


def candidates(document: dict[str, Any], near: dict[int, Rows]) -> Candidates:
    """The students that can be best in some draw.

    Draws are linear between knots, so of all configurations between two knots only the outermost can win, and
    those that are trained, which have a mean of their own.
    """
    arms, rows = [], []
    for j, inside in near.items():
        kept = np.flatnonzero(inside)
        if len(kept):
            place = document["architectures"][document["arms"][j]["arch"]]["configurations"]["position"]
            interval = np.floor(np.array(place)[kept]).astype(int)
            first = np.flatnonzero(np.diff(interval, prepend=interval[0] - 1))
            outer = kept[np.union1d(first, np.append(first[1:], len(kept)) - 1)]
            trained = [row for row in measured_of(document, j) if inside[row]]
            chosen = np.union1d(outer, np.array(trained, dtype=np.intp))
            arms.append(np.full(len(chosen), j))
            rows.append(chosen)
    return evaluate(document, np.concatenate(arms), np.concatenate(rows))


def evaluate(document: dict[str, Any], arms: Index, rows: Index) -> Candidates:
    """Draws, median and noise of students given by arm and configuration, (m,) each, arms in order."""
    parts: list[tuple[Any, ...]] = []
    for j in dict.fromkeys(arms.tolist()):
        arm, here = document["arms"][j], rows[arms == j]
        seen = measured_of(document, j)
        trained = np.isin(here, list(seen))
        if reach_of(arm) == 0:
            draws, median, noise = without_law(document, j, here, seen)
            parts.append((draws, median, noise, median, draws, trained))
            continue
        place = np.array(document["architectures"][arm["arch"]]["configurations"]["position"])[here]
        draws, median, noise = (unpack_at(arm[key], place) for key in ("draws", "median", "noise"))
        score = scores(document, j, here, noise, seen)
        compared = score + spread_of(arm) * (draws - median)
        if arm.get("people"):  # of all people like these, the same for each arm
            compared = compared + unpack(arm["people"]["shift"])[:, None]
        parts.append((draws, median, noise, score, compared, trained))
    draws, median, noise, score, compared, trained = (
        np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)
    )
    return Candidates(arms, rows, draws, median, noise, score, compared, trained)


def spread_of(arm: dict[str, Any]) -> float:
    """The share of an arm's draws that differences to other arms have."""
    return 1.0 if together(arm) else APART


@dataclass(frozen=True)
class Shares:
    """P(best) of every candidate, (m,), and the least MAE of every draw, (B,)."""

    p_best: Array
    best_of_draw: Array

    @staticmethod
    def of(c: Candidates) -> "Shares":
        """Counted over joint draws."""
        wins = np.bincount(c.compared.argmin(1), minlength=len(c.score))
        return Shares(wins / len(c.compared), np.exp(c.compared).min(1))


def describe(
    document: dict[str, Any], c: Candidates, k: int, share: Shares, winner_of: int | None = None
) -> dict[str, Any]:
    """One student, as `best` and `runner_up` show it.

    winner_of: the candidate this one stands for (a trained one preferred to it), whose P(best) it takes.
    """
    arm = document["arms"][c.arm[k]]
    columns = document["architectures"][arm["arch"]]["configurations"]
    row = int(c.row[k])
    depth, width = columns["depth"][row], columns["width"][row]
    seen = measured_of(document, int(c.arm[k])).get(row)
    mean = np.exp(c.compared[:, k])
    mae = interval(document, c, k)
    return {
        "arch": arm["arch"],
        "depth": depth,
        "width": width,
        "init": arm["init"],
        "strategy": arm["strategy"],
        "strategy_args": arm["strategy_args"],
        "teacher": arm["teacher"],
        "params": columns["params"][row],
        "macs": columns["macs"][row],
        "weight_bytes": columns["weight_bytes"][row],
        "activation_bytes": columns["activation_bytes"][row],
        "trained": seen is not None,
        "point": seen.point if seen else None,
        "measured_mae_bpm": round(seen.point_error, 4) if seen else None,
        "measured_mean_bpm": round(seen.error, 4) if seen else None,
        "n_runs": seen.n_runs if seen else 0,
        "n_folds": seen.n_folds if seen else 0,
        "mae_bpm": mae,
        "intervals": {"run": [mae["low"], mae["high"]], "people": people(document, c, k)},
        "p_best": round(float(share.p_best[k if winner_of is None else winner_of]), 4),
        "p_within_0.1_bpm": round(float((mean <= share.best_of_draw + NEAR_BPM).mean()), 4),
        "p_feasible": 1.0,  # sizes are exact
    }


def interval(document: dict[str, Any], c: Candidates, k: int) -> dict[str, float]:
    """Median and interval of a new run, BPM."""
    level = document["level"]
    runs = c.draws[:, k] + unpack(document["run_noise"]) * c.noise[k]
    low, high = np.quantile(runs, [(1 - level) / 2, (1 + level) / 2])
    median = c.median[k]
    return {
        "median": round(float(np.exp(median)), 4),
        "low": round(float(np.exp(min(low, median))), 4),
        "high": round(float(np.exp(max(high, median))), 4),
        "level": level,
    }


def people(document: dict[str, Any], c: Candidates, k: int) -> dict[str, float] | None:
    """Interval of the mean over new people like those of the sweep; None where subjects aren't known.

    One wearer in 10 has more than p90_wearer_bpm.
    """
    arm = document["arms"][c.arm[k]]
    if not (known := arm.get("people")):
        return None
    place = np.array([document["architectures"][arm["arch"]]["configurations"]["position"][int(c.row[k])]])
    low, high, worst = (
        round(float(np.exp(unpack_at(known[key], place)[0])), 4) for key in ("low", "high", "p90_wearer")
    )
    return {"low": low, "high": high, "n_people": known["n_people"], "p90_wearer_bpm": worst}


def extrapolation(arm: dict[str, Any], params: float) -> dict[str, Any]:
    """The extrapolation factor of a student from its arm's measured sizes, and the warning if it is large."""
    distance = max(params / arm["largest"], arm["smallest"] / params, 1.0)
    side = "larger than the largest" if params > arm["largest"] else "smaller than the smallest"
    warning = None
    if distance > WARN_FACTOR:
        warning = (
            f"WARNING: {distance:.1f} times {side} measured student; train a closer size before you decide"
        )
    return {
        "distance": round(distance, 3),
        "smallest_measured": arm["smallest"],
        "largest_measured": arm["largest"],
        "warning": warning,
    }
