"""laws.json: everything a query or a report needs, so that neither fits again. See README.md.

numpy only; the file is plain JSON with a schema name, no pickles.
"""

import json
import math
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.laws.arms import Arm, group_arms
from orchestrator.laws.configurations import enumerate_configurations
from orchestrator.laws.law import DRAWS, Curve, Law, fit_laws
from orchestrator.laws.packing import pack
from orchestrator.laws.refuse import REFUSE_FACTOR

SCHEMA = "kdsweep-laws/1"
KNOTS = 49  # sizes at which the draws are kept; in between they are interpolated in ln size
LEVEL = 0.9


def make_document(
    name: str, results: list[dict[str, Any]], shape: dict[str, int], rng: int = 0
) -> dict[str, Any]:
    """Fit every arm of a sweep and write down what came out.

    shape: channels, samples, classes of the models, as `kd.sizes.size` takes them. InputError without
    finished students.
    """
    arms = group_arms(results)
    if not arms:
        raise InputError(f"sweep {name} has no finished student: run it first (kdsweep run)")
    laws = fit_laws([_curve(arm) for arm in arms], rng=rng)
    knots = {arch: _knots([a for a in arms if a.arch == arch]) for arch in sorted({a.arch for a in arms})}
    generator = np.random.default_rng(rng)
    return {
        "schema": SCHEMA,
        "sweep": name,
        "made": {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "kdsweep": _version("kdsweep"),
            "numpy": _version("numpy"),
            "seed": rng,
            "draws": DRAWS,
            "results": len(results),
            "data_fingerprint": _only(results, "data_fingerprint"),
            "recipe_version": _only(results, "recipe_version"),
            "git_commit": _only(results, "git_commit"),
        },
        "level": LEVEL,
        "run_noise": pack(_scores(generator, DRAWS)),
        "architectures": {
            arch: {
                "knots_ln_params": [round(float(k), 9) for k in points],
                "configurations": _configurations(arch, [a for a in arms if a.arch == arch], shape, points),
            }
            for arch, points in knots.items()
        },
        "arms": [_arm(arm, law, knots[arm.arch]) for arm, law in zip(arms, laws, strict=True)],
    }


def read_document(path: Path) -> dict[str, Any]:
    """laws.json, checked for its schema; InputError with the command that makes it otherwise."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: make it with `kdsweep fit {path.parent}`")
    document = json.loads(path.read_bytes())
    if document.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has schema {document.get('schema')!r}, this version reads {SCHEMA!r}: "
            f"make it anew with `kdsweep fit {path.parent}`"
        )
    return dict(document)


def _curve(arm: Arm) -> Curve:
    return Curve(
        np.array([r["params"] for r in arm.runs], dtype=float),
        np.array([r["mae_bpm"] for r in arm.runs], dtype=float),
        tuple(arm.configuration(r) for r in arm.runs),
    )


def _knots(arms: list[Arm]) -> np.ndarray:
    """ln params from 1/8 of the smallest measured student to 8 times the largest."""
    params = [r["params"] for arm in arms for r in arm.runs]
    reach = math.log(REFUSE_FACTOR)
    return np.linspace(math.log(min(params)) - reach, math.log(max(params)) + reach, KNOTS)


def _configurations(arch: str, arms: list[Arm], shape: dict[str, int], knots: np.ndarray) -> dict[str, Any]:
    runs = [r for arm in arms for r in arm.runs]
    depths = [r["depth"] for r in runs]
    params = [r["params"] for r in runs]
    columns: dict[str, Any] = enumerate_configurations(
        arch, range(min(depths), max(depths) + 1), min(params), max(params), **shape
    )
    step = knots[1] - knots[0]
    columns["position"] = [
        round(float(p), 6) for p in (np.log(np.array(columns["params"], float)) - knots[0]) / step
    ]
    return columns


def _arm(arm: Arm, law: Law, knots: np.ndarray) -> dict[str, Any]:
    out: dict[str, Any] = {
        "key": arm.key,
        "arch": arm.arch,
        "birth": arm.birth,
        "strategy": arm.strategy,
        "strategy_args": json.loads(arm.strategy_args),
        "teacher": arm.teacher,
        "verdict": law.verdict,
        "why": law.why,
        "smallest": min(r["params"] for r in arm.runs),
        "largest": max(r["params"] for r in arm.runs),
        "forms": list(law.forms),
        "runs": [{k: r[k] for k in ("id", "depth", "width", "params", "seed", "mae_bpm")} for r in arm.runs],
    }
    if law.verdict == "ok":
        out["noise_ln"] = law.noise
        out["draws"] = pack(law.draws(np.exp(knots)))
        out["median"] = pack(law.centre(np.exp(knots)))
    return out


def _scores(generator: np.random.Generator, n: int) -> np.ndarray:
    """Standard normal numbers, spread evenly and shuffled: one new run's noise per draw."""
    from statistics import NormalDist

    scores = np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])
    return generator.permutation(scores)


def _only(results: list[dict[str, Any]], key: str) -> Any:
    """The one value all results share, a list when they differ, None when no result has it."""
    values = sorted({str(r[key]) for r in results if r.get(key) is not None})
    return values[0] if len(values) == 1 else (values or None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
