"""What was measured of each student: its mean over folds and seeds, and of how many runs. numpy only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.laws.forms import Array
from orchestrator.laws.packing import pack, unpack, unpack_at

MISFIT = (
    0.01  # ln error by which a student's own mean lies off its law; its runs' noise is told from it by this
)
NOISE = 0.02  # of one run, in ln error, where no law of the sweep tells


@dataclass(frozen=True)
class Measured:
    """A trained student. error: BPM, the mean over folds of the mean over seeds; point: its best run, with
    `point_error`.
    """

    row: int  # of its architecture's configurations
    error: float
    n_runs: int
    n_folds: int
    point: str
    point_error: float


def measured_of(document: dict[str, Any], arm: int) -> dict[int, Measured]:
    """The trained students of an arm by their row; runs whose error is not a number don't count."""
    law = document["arms"][arm]
    columns = document["architectures"][law["arch"]]["configurations"]
    rows = {shape: row for row, shape in enumerate(zip(columns["depth"], columns["width"], strict=True))}
    shapes: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for run in law["runs"]:
        if run["mae_bpm"] is not None and math.isfinite(run["mae_bpm"]):
            shapes.setdefault((run["depth"], run["width"]), []).append(run)
    found = {}
    for (depth, width), runs in shapes.items():
        folds: dict[Any, list[float]] = {}
        for run in runs:
            folds.setdefault(run.get("fold"), []).append(float(run["mae_bpm"]))
        error = sum(sum(errors) / len(errors) for errors in folds.values()) / len(folds)
        point = min(runs, key=lambda r: (r["mae_bpm"], r["id"]))
        row = rows.get((depth, width))
        if row is not None:
            found[row] = Measured(
                row, error, len(runs), len(folds), str(point["id"]), float(point["mae_bpm"])
            )
    return found


def rank_curve(document: dict[str, Any], arm: int) -> dict[str, Any]:
    """ln error at the knots by which an arm's students are ranked, packed.

    Of arms that were fitted together the law's own; of others one saturating power law, which chooses better
    beyond the data than the ensemble does that gives the interval (CALIBRATION.md).
    """
    law = document["arms"][arm]
    power: dict[str, Any] = next(
        (form["params"] for form in law["forms"] if form["name"] == "log_exponential"), {}
    )
    if together(law) or not all((power.get(k) or 0) > 0 for k in ("c", "A", "N_mid", "b")):
        return dict(law["median"])
    knots = np.array(document["architectures"][law["arch"]]["knots_ln_params"])
    return pack(
        np.logaddexp(np.log(power["c"]), np.log(power["A"]) - power["b"] * (knots - np.log(power["N_mid"])))
    )


def together(law: dict[str, Any]) -> bool:
    """Whether an arm was fitted with the others, so that its draws differ from theirs by what is known."""
    return "run" in law


def scores(
    document: dict[str, Any], arm: int, rows: Any, noise: Array, seen: Mapping[int, Measured]
) -> Array:
    """ln error by which students are ranked, (m,): of trained ones their mean, drawn towards the law.

    Where errors rise with size the law can't follow: what it lacks at a size, by all arms, is added.
    """
    law = document["arms"][arm]
    place = np.array(document["architectures"][law["arch"]]["configurations"]["position"])
    out = unpack_at(rank_curve(document, arm), place[rows])
    lacks = misfit(document, law["arch"]) if law.get("rises") else {}
    for k, row in enumerate(np.asarray(rows).tolist()):
        out[k] += lacks.get(row, 0.0)
        if row in seen:
            own = MISFIT**2 / (MISFIT**2 + float(noise[k]) ** 2 / seen[row].n_runs)
            out[k] = own * math.log(seen[row].error) + (1 - own) * out[k]
    return out


def misfit(document: dict[str, Any], arch: str) -> dict[int, float]:
    """How far measured students of a configuration are from their laws, in ln error: the mean over arms."""
    place = np.array(document["architectures"][arch]["configurations"]["position"])
    off: dict[int, list[float]] = {}
    for j, arm in enumerate(document["arms"]):
        if arm["arch"] == arch and arm["reach"] > 0:
            found = measured_of(document, j)
            said = unpack_at(rank_curve(document, j), place[list(found)])
            for m, at in zip(found.values(), said, strict=True):
                off.setdefault(m.row, []).append(math.log(m.error) - float(at))
    return {row: sum(values) / len(values) for row, values in off.items()}


def without_law(
    document: dict[str, Any], arm: int, rows: Any, seen: Mapping[int, Measured]
) -> tuple[Array, Array, Array]:
    """Draws (B, m), median (m,) and noise (m,) of the trained students of an arm without a law."""
    noise = typical_noise(document)
    normal = unpack(document["run_noise"])
    wanted = [seen[row] for row in np.asarray(rows).tolist()]
    median = np.array([math.log(m.error) for m in wanted])
    own = [np.roll(normal, -shift(arm, m.row, len(normal))) * (noise / math.sqrt(m.n_runs)) for m in wanted]
    return median + np.stack(own, axis=1), median, np.full(len(wanted), noise)


def shift(arm: int, row: int, n: int) -> int:
    """Where a student without a law begins in the list of normal numbers, so that no two move together."""
    return (1 + 37 * arm + 101 * row) % n


def typical_noise(document: dict[str, Any]) -> float:
    """Noise of one run, in ln error: the median over the sweep's laws."""
    known = [float(np.median(unpack(arm["noise"]))) for arm in document["arms"] if arm["reach"] > 0]
    return float(np.median(known)) if known else NOISE
