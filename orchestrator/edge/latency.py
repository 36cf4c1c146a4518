"""How long a window takes on a profiled device: a law over shapes, and its columns in laws.json. numpy only.

Latency = fixed + per MAC * MACs + per layer * layers, all at least 0, per architecture, device and precision.
Its uncertainty is the leave-one-out error over shapes.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.files import read_json
from orchestrator.edge.on_chip import chip_cost
from orchestrator.store.records import ABOVE_0, NOT_NEGATIVE, NUMBER, POSITIVE, Each, problem

SCHEMA = "kdsweep-profile/1"
FILE = "profile.json"
PRECISIONS = ("fp32", "int8")
LEAST_SHAPES = 5  # three coefficients, and enough left to see how wrong they are
SURE = 0.8  # an unmeasured student meets a latency limit if it does so with this probability
_TIMED = {"latency_ms": {"median": ABOVE_0}}
_SHAPE = {"arch": str, "depth": POSITIVE, "width": POSITIVE, "macs": POSITIVE, "layers": POSITIVE}
_EXACT = {**_TIMED, "mae_bpm": NUMBER}
_SIZES = {"flash_bytes": POSITIVE, "arena_bytes": POSITIVE}
_COUNTED = {  # by `orchestrator.edge.firmware`
    **dict.fromkeys(("cpu", "about", "model_sha256"), str),
    "instructions": POSITIVE,
    "instructions_per_sample": POSITIVE,
    **dict.fromkeys(("arena_bytes", "static_bytes", "stack_bytes", "flash_bytes_c"), POSITIVE),
}
PROFILE = {  # of the keys, those that are read (`orchestrator.store.records.problem`)
    "schema": str,
    "devices": Each({"cpu": str}),
    "points": Each(
        {
            **_SHAPE,
            "devices": Each({"fp32": _EXACT, "int8": {**_EXACT, "drift_bpm": {"mean": NUMBER}}}),
            "mcu?": {"fp32": _SIZES, "int8": _SIZES},
            "targets?": Each(_COUNTED),
        }
    ),
    "shapes": Each(Each({**_SHAPE, "fp32": _TIMED, "int8": _TIMED})),
    "latency_laws": Each(Each(Each({}))),
}
LAW = {
    **dict.fromkeys(("fixed_ms", "per_mac_ms", "per_layer_ms", "sigma_ln"), NOT_NEGATIVE),
    "left_out_ln": [NUMBER],
    "shapes": POSITIVE,
    "most_macs": NUMBER,
}
Array = npt.NDArray[np.floating]
Shape = tuple[int, int]  # depth, width


def empty_profile() -> dict[str, Any]:
    """A profile.json without measurements."""
    return {"schema": SCHEMA, "devices": {}, "points": {}, "shapes": {}, "latency_laws": {}}


def read_profile(folder: Path) -> dict[str, Any]:
    """profile.json of a sweep directory, empty when there is none; InputError when it can't be read."""
    remedy = "remove it and profile again"
    try:
        profile = read_json(folder / FILE, remedy)
    except FileNotFoundError:
        return empty_profile()
    if profile.get("schema") != SCHEMA:
        raise InputError(
            f"{folder / FILE} has schema {profile.get('schema')!r}, this version reads {SCHEMA!r}: "
            f"delete it and profile again"
        )
    points = profile.get("points")
    for point in points.values() if isinstance(points, dict) else ():
        if isinstance(point, dict) and "birth" in point:  # what earlier versions called it
            point["init"] = point.pop("birth")
    profile = empty_profile() | profile
    why = problem(profile, PROFILE)
    for device, by_arch in () if why else profile["latency_laws"].items():
        for arch, by_precision in by_arch.items():
            for precision, law in by_precision.items():
                if "why" not in law:
                    why = why or problem(law, LAW, f"latency_laws.{device}.{arch}.{precision}")
    if why:
        raise InputError(f"{folder / FILE}: {why}: {remedy}")
    return profile


def fit_latency(shapes: Sequence[tuple[float, float]], ms: Sequence[float]) -> dict[str, Any]:
    """The law of milliseconds over (MACs, layers), (n, 2); {"why"} instead of one for too few shapes.

    sigma_ln: root mean square of left_out_ln, the log error on each shape by the law of all others.
    """
    if len(shapes) < LEAST_SHAPES:
        return {"why": f"{len(shapes)} shapes measured, {LEAST_SHAPES} are needed", "shapes": len(shapes)}
    x, y = np.array(shapes, float), np.array(ms, float)
    coefficients = _fit(x, y)
    every = np.arange(len(y))
    left_out = [
        math.log(y[i] / predict_ms(_fit(x[every != i], y[every != i]), x[i : i + 1])[0]) for i in every
    ]
    sigma = math.sqrt(sum(e * e for e in left_out) / len(left_out))
    return {
        "fixed_ms": coefficients[0],
        "per_mac_ms": coefficients[1],
        "per_layer_ms": coefficients[2],
        "sigma_ln": sigma,
        "left_out_ln": [round(e, 4) for e in left_out],
        "shapes": len(y),
        "most_macs": float(x[:, 0].max()),
    }


def predict_ms(coefficients: Sequence[float], shapes: Array) -> Array:
    """Milliseconds of shapes (n, 2): MACs and layers."""
    fixed, per_mac, per_layer = coefficients
    return np.asarray(fixed + per_mac * shapes[:, 0] + per_layer * shapes[:, 1])


def coefficients_of(law: dict[str, Any]) -> tuple[float, float, float]:
    """The three numbers `predict_ms` takes."""
    return law["fixed_ms"], law["per_mac_ms"], law["per_layer_ms"]


def p_within(median_ms: float, sure_ms: float, limit_ms: float) -> float:
    """P(a student keeps `limit_ms`), from its median and the latency it keeps with P = SURE.

    The log error is taken for logistic: heavier tails than a normal law, for a spread known from few shapes,
    and a page can compute it too. Measured students have no spread: 0 or 1.
    """
    spread = math.log(sure_ms / median_ms) / _logit(SURE)
    distance = math.log(limit_ms / median_ms)
    if spread <= 0:
        return float(distance >= 0)
    return 1 / (1 + math.exp(min(-distance / spread, 700.0)))


def sure_factor(sigma_ln: float) -> float:
    """What turns a median into the latency that is kept with P = SURE, for a log error of this deviation."""
    return math.exp(_logit(SURE) * sigma_ln * math.sqrt(3) / math.pi)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def timed_shapes(profile: dict[str, Any], device: str | None) -> Iterator[tuple[dict[str, Any], Any]]:
    """(shape, record) of all that was timed on a device: trained points, and untrained models of a shape."""
    for point in profile["points"].values():
        if device in point["devices"]:
            yield point, point["devices"][device]
    for shape in profile["shapes"].get(device, {}).values():
        yield shape, shape


def fit_laws(profile: dict[str, Any]) -> dict[str, Any]:
    """device -> architecture -> precision -> law, from all that a profile timed."""
    laws: dict[str, Any] = {}
    for device in sorted(profile["devices"]):
        measured: dict[tuple[str, str], dict[tuple[float, float], list[float]]] = {}
        for shape, record in timed_shapes(profile, device):
            for precision in PRECISIONS:
                of = measured.setdefault((shape["arch"], precision), defaultdict(list))
                of[shape["macs"], shape["layers"]].append(record[precision]["latency_ms"]["median"])
        for (arch, precision), shapes in sorted(measured.items()):
            law = fit_latency(list(shapes), [float(np.mean(ms)) for ms in shapes.values()])
            laws.setdefault(device, {}).setdefault(arch, {})[precision] = law
    return laws


def attach(document: dict[str, Any], profile: dict[str, Any], device: str | None = None) -> dict[str, Any]:
    """laws.json's document with what was profiled, in columns of its configurations.

    For each precision P: flash_bytes_P, memory_bytes_P (measured on a microcontroller's runtime where it was,
    else computed from the shape), latency_ms_P (measured, or what the law gives with P = 0.8; None if
    no law may be used) and latency_median_ms_P; document["profile"] says what was measured where.

    device: whose latencies; None = the only one there is. Raises InputError when there is no such device.
    """
    devices = profile["devices"]
    if device is not None and device not in devices:
        raise InputError(
            f"--device {device}: this sweep was profiled on {', '.join(sorted(devices)) or 'no device'}"
        )
    chosen = device or (next(iter(devices)) if len(devices) == 1 else None)
    for arch, data in document["architectures"].items():
        columns = data["configurations"]
        points = [p for p in profile["points"].values() if p["arch"] == arch]
        timed = [(s, r) for s, r in timed_shapes(profile, chosen) if s["arch"] == arch]
        laws = profile["latency_laws"].get(chosen, {}).get(arch, {})
        for precision in PRECISIONS:
            _sizes(columns, points, precision)
            _latencies(columns, timed, laws.get(precision), precision)
    document["profile"] = {
        "devices": sorted(devices),
        "device": chosen,
        "cpu": devices[chosen]["cpu"] if chosen else None,
        "latency_laws": profile["latency_laws"].get(chosen, {}),
        "measured": _measured(profile, chosen),
        "int8": _int8(profile, chosen),
    }
    return document


def _sizes(columns: dict[str, Any], points: list[dict[str, Any]], precision: str) -> None:
    flash, arena = (
        _mean_by_shape(points, precision, "flash_bytes"),
        _mean_by_shape(points, precision, "arena_bytes"),
    )
    weights = columns.get("weight_bytes" if precision == "fp32" else "weight_bytes_int8")
    if weights is None:
        raise InputError(
            "laws.json was written by an earlier version and has no int8 sizes: run `kdsweep fit` again"
        )
    peak = columns["activation_bytes"]
    part = 1 if precision == "fp32" else 4
    shapes = list(zip(columns["depth"], columns["width"], strict=True))
    columns[f"flash_bytes_{precision}"] = [flash.get(s, w) for s, w in zip(shapes, weights, strict=True)]
    columns[f"memory_bytes_{precision}"] = [
        arena.get(s, p // part) for s, p in zip(shapes, peak, strict=True)
    ]


def _mean_by_shape(points: list[dict[str, Any]], precision: str, what: str) -> dict[Shape, int]:
    found: dict[Shape, list[int]] = defaultdict(list)
    for p in points:
        if p.get("mcu"):
            found[p["depth"], p["width"]].append(p["mcu"][precision][what])
    return {shape: round(sum(values) / len(values)) for shape, values in found.items()}


def _latencies(
    columns: dict[str, Any],
    timed: list[tuple[dict[str, Any], Any]],
    law: dict[str, Any] | None,
    precision: str,
) -> None:
    n = len(columns["depth"])
    median: list[float | None] = [None] * n
    sure: list[float | None] = [None] * n
    if law and "why" not in law:
        shapes = np.array([columns["macs"], columns["layers"]], float).T
        ms = predict_ms(coefficients_of(law), shapes)
        factor = sure_factor(law["sigma_ln"])
        median, sure = [round(float(v), 6) for v in ms], [round(float(v) * factor, 6) for v in ms]
    measured: dict[Shape, list[float]] = defaultdict(list)
    for s, record in timed:
        measured[s["depth"], s["width"]].append(record[precision]["latency_ms"]["median"])
    for i, shape in enumerate(zip(columns["depth"], columns["width"], strict=True)):
        if values := measured.get(shape):
            median[i] = sure[i] = sum(values) / len(values)
    columns[f"latency_ms_{precision}"], columns[f"latency_median_ms_{precision}"] = sure, median


def with_costs(document: dict[str, Any], budget: Any, result: dict[str, Any]) -> dict[str, Any]:
    """A query's result with what its students cost at the budget's precision, and whether they keep it.

    Adds p_feasible and `cost` to best and runner_up: flash, memory and latency, each with what it is,
    measured or computed. budget: `orchestrator.answers.candidates.Budget`.
    """
    profile = document["profile"]
    for student in (result["best"], result["runner_up"]):
        if student:
            student["cost"] = _cost(document, student, budget.precision)
            if "chip" in document:
                student["cost"] |= chip_cost(document, student, _row(document, student), budget.precision)
            if budget.max_latency_ms is not None:
                row = _row(document, student)
                columns = document["architectures"][student["arch"]]["configurations"]
                student["p_feasible"] = round(
                    p_within(
                        columns[f"latency_median_ms_{budget.precision}"][row],
                        columns[f"latency_ms_{budget.precision}"][row],
                        budget.max_latency_ms,
                    ),
                    4,
                )
    said = {"chip": document["chip"]} if "chip" in document else {}
    return {
        **result,
        **said,
        "precision": budget.precision,
        "device": profile["device"],
        "int8": profile["int8"] if budget.precision == "int8" else None,
    }


def _row(document: dict[str, Any], student: dict[str, Any]) -> int:
    columns = document["architectures"][student["arch"]]["configurations"]
    shapes = list(zip(columns["depth"], columns["width"], strict=True))
    return shapes.index((student["depth"], student["width"]))


def _cost(document: dict[str, Any], student: dict[str, Any], precision: str) -> dict[str, Any]:
    columns, row = document["architectures"][student["arch"]]["configurations"], _row(document, student)
    measured = document["profile"]["measured"]
    name = f"{student['arch']} {student['depth']}x{student['width']}"
    on_mcu = name in measured["arena"]
    cost: dict[str, Any] = {
        "flash_bytes": columns[f"flash_bytes_{precision}"][row],
        "flash_is": "the .tflite file, measured" if on_mcu else "the weights, computed",
        "memory_bytes": columns[f"memory_bytes_{precision}"][row],
        "memory_is": "tflite-micro's tensor arena, measured" if on_mcu else "the activation peak, computed",
    }
    if (median := columns[f"latency_median_ms_{precision}"][row]) is not None:
        cost |= {
            "latency_ms": median,
            "latency_kept_with_p_0.8_ms": columns[f"latency_ms_{precision}"][row],
            "latency_is": "measured" if name in measured["latency"] else "predicted by the latency law",
        }
    return cost


def _measured(profile: dict[str, Any], device: str | None) -> dict[str, list[str]]:
    """Which shapes ("arch depth x width") have a measured latency here, and a measured arena."""

    def name(shape: dict[str, Any]) -> str:
        return f"{shape['arch']} {shape['depth']}x{shape['width']}"

    return {
        "latency": sorted({name(shape) for shape, _ in timed_shapes(profile, device)}),
        "arena": sorted({name(p) for p in profile["points"].values() if p.get("mcu")}),
    }


def _int8(profile: dict[str, Any], device: str | None) -> dict[str, float] | None:
    """What int8 does to the error: the laws are fitted to float32 errors, and an int8 answer reports it."""
    records = [p["devices"][device] for p in profile["points"].values() if device in p["devices"]]
    if not records:
        return None
    change = [r["int8"]["mae_bpm"] - r["fp32"]["mae_bpm"] for r in records]
    drift = [r["int8"]["drift_bpm"]["mean"] for r in records]
    return {
        "points": len(records),
        "mae_change_mean_bpm": round(sum(change) / len(change), 4),
        "mae_change_most_bpm": round(max(change), 4),
        "drift_mean_bpm": round(sum(drift) / len(drift), 4),
    }


def _fit(x: Array, y: Array) -> list[float]:
    """Least squares of the relative error, coefficients not negative."""
    from scipy.optimize import nnls

    basis = np.column_stack([np.ones(len(y)), x]) / y[:, None]
    scale = basis.max(0)  # MACs are millions: keep the problem of order 1
    found, _ = nnls(basis / scale, np.ones(len(y)))
    return [float(v) for v in found / scale]
