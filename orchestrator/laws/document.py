"""laws.json: everything a query or a report needs, so that neither fits again. See README.md.

Plain JSON with a schema name, no pickles. numpy only.
"""

import hashlib
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from kd.errors import InputError
from kd.files import read_json
from kd.training.strategies import PRETRAIN
from orchestrator.edge.device_table import find
from orchestrator.edge.latency import attach, read_profile
from orchestrator.edge.on_chip import attach_chip
from orchestrator.laws.arms import Arm, group_arms, missing_folds
from orchestrator.laws.comparable import comparable, notes_on, refuse_other_recipe
from orchestrator.laws.configurations import enumerate_configurations, with_channels
from orchestrator.laws.effects import Fitted, crossovers, gains
from orchestrator.laws.fit import DRAWS, Curve, fit_laws
from orchestrator.laws.forms import Array
from orchestrator.laws.holdout import Holdout
from orchestrator.laws.identified import judged, sound, summary
from orchestrator.laws.law import Law
from orchestrator.laws.matched import soft_against_dkd
from orchestrator.laws.packing import pack
from orchestrator.laws.people import QUANTILES, new_people
from orchestrator.laws.prefer import preference
from orchestrator.laws.record import calibration_record
from orchestrator.laws.refuse import REFUSE_FACTOR
from orchestrator.laws.teachers import teacher_effect
from orchestrator.store.metric import Headline
from orchestrator.store.mixed import mixed
from orchestrator.words import quoted

SCHEMA = "kdsweep-laws/2"
KNOTS = 49  # sizes at which the draws are kept; in between they are interpolated in ln size
LEVEL = 0.9
TEACHER_KEYS = ("arch", "depth", "width", "seed", "params", "mae_bpm")
RUN_KEYS = ("id", "depth", "width", "params", "seed", "fold", "mae_bpm")


def make_document(
    name: str,
    results: list[dict[str, Any]],
    shape: dict[str, int],
    rng: int = 0,
    recipe: str | None = None,
    headline: Headline | None = None,
) -> dict[str, Any]:
    """Fit every arm of a sweep and write down what came out.

    shape: samples and classes of the models, as `sizes.size` takes them; the students' sizes tell the
    channels. recipe: which of several groups of students trained alike (`comparable`). headline: the metric
    of all errors. Raises InputError when no student is finished.
    """
    headline = headline or Headline()
    results = [headline.judged(r) for r in results]  # every error below is by the sweep's metric
    made = _provenance(results, rng)
    results, group = comparable(sorted(results, key=lambda r: str(r["id"])), recipe)
    made["mixed"] = mixed(results)
    arms = group_arms(results)
    if not arms:
        raise InputError(f"sweep {name} has no finished student: run it first (kdsweep run)")
    shape = with_channels(shape, [r for arm in arms for r in arm.runs])
    arms, dropped = sound(arms)
    laws, holdouts = fit_laws([_curve(arm) for arm in arms], rng=rng)
    laws = judged(arms, _with_people(arms, laws, rng, headline))
    fitted = [Fitted(arm, law) for arm, law in zip(arms, laws, strict=True)]
    factor = next((law.factor for law in laws if law.reach > 0), 1.0)
    knots = {arch: _knots([a for a in arms if a.arch == arch]) for arch in sorted({a.arch for a in arms})}
    return {
        "schema": SCHEMA,
        "sweep": name,
        "metric": headline.metric,
        "metric_weights": dict(headline.weights),
        "made": made,
        "notes": [*notes_on(group), *dropped, *made["mixed"], *missing_folds(arms)],
        "group": group,
        "level": LEVEL,
        "run_noise": pack(_scores(rng)),
        "architectures": {
            arch: {
                "knots_ln_params": [round(float(k), 9) for k in points],
                "configurations": _configurations(arch, [a for a in arms if a.arch == arch], shape, points),
                "train_seconds": _train_seconds([r for a in arms if a.arch == arch for r in a.runs]),
            }
            for arch, points in knots.items()
        },
        "arms": [_arm(f, record, knots[f.arm.arch], rng) for f, record in zip(fitted, holdouts, strict=True)],
        "prefers": preference([f.law for f in fitted]),
        "calibration": calibration_record(holdouts, factor),
        "crossovers": crossovers(fitted),
        "gains": gains(fitted),
        "soft_against_dkd": soft_against_dkd(fitted),
        "teachers": teacher_effect(results, rng),
        "teacher_points": _teacher_points(results),
    }


def _teacher_points(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Every teacher, by id and by what arms call the same one of all folds; there with its mean error."""
    points = {r["id"]: {k: r[k] for k in TEACHER_KEYS} for r in results if r["role"] == "teacher"}
    for r in results:
        if r["role"] == "teacher" and (epochs := (r.get("strategy_args") or {}).get(PRETRAIN)):
            points[r["id"]][PRETRAIN] = epochs
        if r["role"] == "teacher" and (seen := (r.get("recipe") or {}).get("channels")):
            points[r["id"]]["channels"] = seen
        if r.get("brought"):  # its name in the space, which brings it
            points[r["id"]]["brought"] = r["brought"]["name"]
    groups: dict[str, set[str]] = {}
    for r in results:
        if r["role"] == "student" and r.get("teacher") in points and r.get("teacher_group"):
            groups.setdefault(r["teacher_group"], set()).add(r["teacher"])
    for group, ids in groups.items():
        mean = math.fsum(points[id]["mae_bpm"] for id in ids) / len(ids)
        points[group] = {**points[min(ids)], "mae_bpm": mean}
    return points


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a digest of each of its parts, by which `read_document` knows a damaged one."""
    return document | {"digests": {k: _digest(v) for k, v in document.items() if k != "digests"}}


def _digest(part: Any) -> str:
    return hashlib.blake2b(json.dumps(part).encode(), digest_size=8).hexdigest()


def laws_file(folder: Path, judge: Headline, tracked: bool | None = None) -> Path:
    """Where laws of a sweep judged by `judge` lie: laws.json, or beside it those of the other errors.

    tracked: of errors with the tracker behind students, or without; None: as the metric has it.
    """
    if tracked is None or tracked == judge.tracked:
        return folder / "laws.json"
    return folder / ("laws_tracked.json" if tracked else "laws_untracked.json")


def read_document(path: Path, device: str | None = None, recipe: str | None = None) -> dict[str, Any]:
    """laws.json, checked for its schema, with the costs that were profiled; InputError if it can't be used.

    device: whose latencies are meant; None = the only one profiled on (`orchestrator.edge.latency.attach`);
    or a microcontroller of the device table (`orchestrator.edge.device_table.find`).
    recipe: the group of students that the laws must be of; None = whichever.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: run `{_fit(path)}`")
    remedy = f"rebuild it with `{_fit(path)}`"
    document = read_json(path, remedy)
    if document.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has schema {document.get('schema')!r}, this version reads {SCHEMA!r}: {remedy}"
        )
    digests = document.pop("digests", {})  # earlier versions wrote none
    if not isinstance(digests, dict):
        raise InputError(f"{path}: digests is not a mapping: {remedy}")
    for key in sorted({*digests, *document}) if digests else ():
        if key not in document or _digest(document[key]) != digests.get(key):
            raise InputError(f"{path}: {key} is not as `kdsweep fit` wrote it: {remedy}")
    refuse_other_recipe(document, recipe, str(path.parent))
    profile = read_profile(path.parent)
    if chip := find(device, profile["devices"]):
        return attach_chip(attach(document, profile), profile, chip)
    return attach(document, profile, device)


def _fit(path: Path) -> str:
    """The command that writes it."""
    option = {"laws_tracked": " --tracked", "laws_untracked": " --untracked"}.get(path.stem, "")
    return f"kdsweep fit {quoted(path.parent)}{option}"


def _provenance(results: list[dict[str, Any]], rng: int) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kdsweep": _version("kdsweep"),
        "numpy": np.__version__,
        "seed": rng,
        "draws": DRAWS,
        "results": len(results),
        "results_digest": results_digest(results),
        "data_fingerprint": _only(results, "data_fingerprint"),
        "recipe_version": _only(results, "recipe_version"),
        "git_commit": _only(results, "git_commit"),
        "device": _only(results, "device"),
    }


def results_digest(results: list[dict[str, Any]]) -> str:
    """A hash of what was measured, as it is judged, by which a reader knows whether laws.json was fitted to
    these results.
    """
    measured = sorted((str(r["id"]), float(r["mae_bpm"])) for r in results)
    return hashlib.blake2b(json.dumps(measured).encode(), digest_size=8).hexdigest()


def _curve(arm: Arm) -> Curve:
    return Curve(
        np.array([r["params"] for r in arm.runs], dtype=float),
        np.array([r["mae_bpm"] for r in arm.runs], dtype=float),
        tuple(arm.configuration(r) for r in arm.runs),
        name=arm.key,
        family=f"{arm.arch} {arm.init}",
        pool=arm.arch,
        folds=tuple(str(r.get("fold")) for r in arm.runs),
    )


def _with_people(arms: list[Arm], laws: list[Law], rng: int, headline: Headline) -> list[Law]:
    """The laws with what new people change, where results keep errors by subject."""
    out = list(laws)
    for arch in sorted({a.arch for a in arms}):
        here = [j for j, a in enumerate(arms) if a.arch == arch and laws[j].reach > 0]
        runs = [arms[j].runs for j in here]
        said = [laws[j].centre(np.array([r["params"] for r in arms[j].runs], float)) for j in here]
        draw, by = np.random.default_rng([rng, 20]), (headline.weights, headline.over)
        found = new_people(runs, said, draw, DRAWS, *by) if here else []
        for j, people in zip(here, found, strict=True):
            out[j] = replace(laws[j], people=people)
    return out


def _knots(arms: list[Arm]) -> Array:
    """ln params from 1/8 of the smallest measured student to 8 times the largest."""
    params = [r["params"] for arm in arms for r in arm.runs]
    reach = math.log(REFUSE_FACTOR)
    return np.linspace(math.log(min(params)) - reach, math.log(max(params)) + reach, KNOTS)


def _configurations(arch: str, arms: list[Arm], shape: dict[str, int], knots: Array) -> dict[str, Any]:
    """Columns of all students the architecture can build; position: where ln params lies among the knots."""
    runs = [r for arm in arms for r in arm.runs]
    depths = [r["depth"] for r in runs]
    params = [r["params"] for r in runs]
    columns: dict[str, Any] = enumerate_configurations(
        arch, range(min(depths), max(depths) + 1), min(params), max(params), **shape
    )
    step = knots[1] - knots[0]
    where = (np.log(np.array(columns["params"], float)) - knots[0]) / step
    columns["position"] = [round(float(p), 6) for p in where]
    return columns


def _train_seconds(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds a run takes as fixed + per_mac * MACs, both >= 0, by least squares of relative error."""
    macs = np.array([r["macs"] for r in runs], dtype=float)
    seconds = np.maximum([r["train_seconds"] for r in runs], 1e-3)
    basis = np.stack([np.ones_like(macs), macs], axis=1) / seconds[:, None]
    fixed, per_mac = np.linalg.lstsq(basis, np.ones_like(seconds), rcond=None)[0]
    if per_mac < 0:
        fixed, per_mac = float(np.median(seconds)), 0.0
    elif fixed < 0:
        fixed, per_mac = 0.0, float(np.median(seconds / macs))
    return {"fixed": float(fixed), "per_mac": float(per_mac)}


def _intervals(law: Law, sizes: Array, scores: Array) -> dict[str, Any]:
    """`run` and `people`: see README.md. ln error at the knots."""
    half = (1 - LEVEL) / 2
    draws = law.draws(sizes) + scores[:, None] * law.noise(sizes)
    low, high = np.quantile(draws, [half, 1 - half], axis=0)
    run = {"low": pack(low), "high": pack(high)}
    if law.people is None:
        return {"run": run, "people": None}
    p = law.people
    low, high = np.quantile(draws + p.sample[:, None], [half, 1 - half], axis=0)
    p90 = law.centre(sizes) + np.interp(0.9, QUANTILES, p.wearers)
    return {
        "run": run,
        "people": {
            "n_people": p.n_people,
            "subjects": p.subjects,
            "low": pack(low),
            "high": pack(high),
            "p90_wearer": pack(p90),
            "shift": pack(p.shift),
            "sample": pack(p.sample),
            "wearers": pack(p.wearers),
        },
    }


def _arm(fitted: Fitted, record: list[Holdout], knots: Array, rng: int) -> dict[str, Any]:
    arm, law = fitted.arm, fitted.law
    out: dict[str, Any] = {
        "key": arm.key,
        "arch": arm.arch,
        "init": arm.init,
        "strategy": arm.strategy,
        "strategy_args": json.loads(arm.strategy_args),
        "teacher": arm.teacher,
        "verdict": law.verdict,
        "why": law.why,
        "reach": law.reach,
        "rises": law.rises,
        "summary": summary(arm, law, record),
        "smallest": min(r["params"] for r in arm.runs),
        "largest": max(r["params"] for r in arm.runs),
        "forms": [_finite(form) for form in law.forms],
        "runs": [{k: r.get(k) for k in RUN_KEYS} for r in arm.runs],
        "holdouts": [
            {"left_out": h.left_out, "distance": math.exp(h.distance), "error_ln": h.error, "score": h.score}
            for h in record
        ],
    }
    if law.forms:
        sizes = np.exp(knots)
        out["median"] = pack(law.centre(sizes))
        out["noise"] = pack(law.noise(sizes))
        out["draws"] = pack(law.draws(sizes))
        out |= _intervals(law, sizes, _scores(rng))
    return out


def _finite(form: dict[str, Any]) -> dict[str, Any]:
    """A form with numbers JSON can hold: an exponent near its bound may give an amplitude beyond floats."""
    params = {k: v if v is not None and math.isfinite(v) else None for k, v in form["params"].items()}
    return {**form, "params": params, "aicc": round(form["aicc"], 3)}


def _scores(rng: int) -> Array:
    """Standard normal numbers, spread evenly and shuffled: one new run's noise per draw."""
    scores = [NormalDist().inv_cdf((i + 0.5) / DRAWS) for i in range(DRAWS)]
    return np.random.default_rng(rng).permutation(scores)


def _only(results: list[dict[str, Any]], key: str) -> Any:
    """The one value all results share, a list when they differ, None when no result has it."""
    values = sorted({str(r[key]) for r in results if r.get(key) is not None})
    return values[0] if len(values) == 1 else (values or None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
