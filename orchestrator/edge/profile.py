"""Measure trained students as deployed, into <sweep>/profile.json. Needs the extra [edge].

One point at a time: ONNX float32 and int8 in a temporary folder, checked, then timed in fresh processes. The
profile is written after every point, so that an interrupted one resumes where it was.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kd.edge.stopwatch import time_model
from kd.errors import InputError
from kd.files import write_json
from kd.models.sizes import size
from kd.signals.prepare import Data
from orchestrator.edge.latency import FILE, fit_laws, read_profile
from orchestrator.edge.seen import windows_for
from orchestrator.space.folds import windows_of
from orchestrator.store.check import check_model
from orchestrator.store.configuration import configuration
from orchestrator.store.find import find_point
from orchestrator.store.refits import store_of
from orchestrator.store.store import Store

VERIFY_WINDOWS = 1000  # at least so many are compared between torch and ONNX
TIMED_WINDOWS = 200  # real windows the stopwatch goes round
LAW_SHAPES = 8  # per architecture, spread over MACs, for the latency law
TRIES, DISTURBED = 3, 1.3  # a median so many times the minimum was disturbed, and is taken again
TORCH_TOLERANCE = 1e-3  # BPM between result.json's MAE and the model's today
Say = Callable[[str], None]


def choose(
    results: Iterable[dict[str, Any]],
    wanted: Iterable[str],
    limits: Mapping[str, float],
    refitted: Iterable[dict[str, Any]] = (),
) -> list[str]:
    """Ids of the students to profile, smallest first.

    wanted: "front" (the Pareto fronts of error against parameters and against MACs), "law" (shapes spread
    over MACs, for the latency law), "all", or ids and their beginnings, also of `refitted` students. limits:
    a result's figure -> most, for what is not named by its id.
    """
    named = {r["id"]: r for r in refitted if r["role"] == "student"}
    students = [r for r in results if r["role"] == "student"]
    if not students:
        raise InputError("no student is trained yet: run the sweep first")
    within = [r for r in students if all(r[name] <= most for name, most in limits.items())]
    if not within:
        nearest = {name: min(r[name] for r in students) for name in limits}
        raise InputError(f"no trained student is within {dict(limits)}; the smallest values are {nearest}")
    chosen: dict[str, dict[str, Any]] = {}
    for word in wanted:
        if word == "all":
            found = within
        elif word == "front":
            found = front(within, "params") + front(within, "macs")
        elif word == "law":
            found = spread(within)
        else:
            by_id = {r["id"]: r for r in students} | named
            found = [by_id[find_point(by_id, word, "--points takes front, law, all, or trained students")]]
        chosen |= {r["id"]: r for r in found}
    return sorted(chosen, key=lambda id: (chosen[id]["params"], id))


def front(students: Iterable[dict[str, Any]], cost: str) -> list[dict[str, Any]]:
    """The Pareto front of `cost` and error, the error being the mean over folds and seeds.

    Of a configuration's runs the one with the best validation error: test errors choose nothing.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in students:
        groups.setdefault(configuration(r), []).append(r)
    rows = [
        (
            runs[0][cost],
            float(np.mean([r["mae_bpm"] for r in runs])),
            min(runs, key=lambda r: (r["val_mae_bpm"], r["id"])),
        )
        for runs in groups.values()
    ]
    best, found = float("inf"), []
    for _, mae, run in sorted(rows, key=lambda row: (row[0], row[1], row[2]["id"])):
        if mae < best:
            best = mae
            found.append(run)
    return found


def spread(students: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per architecture up to LAW_SHAPES students of different shapes, spread over MACs and layers."""
    found = []
    shapes: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for r in sorted(students, key=lambda r: str(r["id"])):
        shapes.setdefault(r["arch"], {}).setdefault((r["depth"], r["width"]), r)
    for by_shape in shapes.values():
        ordered = sorted(by_shape.values(), key=lambda r: (r["macs"], r["id"]))
        places = np.linspace(0, len(ordered) - 1, min(LAW_SHAPES, len(ordered))).round().astype(int)
        found += [ordered[i] for i in dict.fromkeys(places.tolist())]
    return found


def untrained(results: Iterable[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Shapes (architecture, depth, width) that the latency law needs beside the trained ones.

    Latency doesn't depend on the weights: where fewer than LAW_SHAPES shapes are trained, others of the
    same depths are timed with random weights, from the least width to twice the largest.
    """
    trained: dict[str, set[tuple[int, int]]] = {}
    for r in results:
        if r["role"] == "student":
            trained.setdefault(r["arch"], set()).add((r["depth"], r["width"]))
    found = []
    for arch, shapes in sorted(trained.items()):
        depths, widths = sorted({d for d, _ in shapes}), [w for _, w in shapes]
        grid = np.geomspace(min(widths), 2 * max(widths), 2 * LAW_SHAPES).round().astype(int)[::-1]
        new = [
            (arch, depths[i % len(depths)], int(width))
            for i, width in enumerate(dict.fromkeys(grid.tolist()))
            if (depths[i % len(depths)], width) not in shapes
        ]
        missing = max(LAW_SHAPES - len(shapes), 0)
        places = np.linspace(0, len(new) - 1, min(missing, len(new))).round().astype(int)
        found += [new[i] for i in dict.fromkeys(places.tolist())]
    return found


def profile_points(
    store: Store,
    ids: Iterable[str],
    data: Data | Mapping[int, Data],
    *,
    runs: int,
    shapes: Iterable[tuple[str, int, int]] = (),
    again: bool = False,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure points here, write profile.json, return it. What this device measured already is kept.

    A refitted student is measured as a point is, but its errors are of people it was trained on.
    data: of each fold, where the sweep has some. runs: timed inferences per runtime. shapes: timed with
    random weights (`untrained`). again: re-measure.
    Raises InputError without the extra [edge].
    """
    from kd.edge.device import device
    from kd.edge.onnxfile import require_extra

    require_extra()
    here = device()
    profile = read_profile(store.path)
    profile["devices"][here["key"]] = here
    ids = list(ids)
    for i, id in enumerate(ids):
        own = store_of(store.path, id)
        result = own.result(id)
        check_model(own, result)
        mine = windows_for(windows_of(data, result.get("fold")), result)
        point = profile["points"].setdefault(id, describe(result, mine))
        known = point["devices"].get(here["key"])
        if known and known["model_sha256"] == result["model_sha256"] and not again:
            say(f"{i + 1} of {len(ids)}: {id} already measured on this device")
            continue
        point["devices"][here["key"]] = record = measure_point(own, result, mine, runs)
        fp32, int8 = record["fp32"], record["int8"]
        say(
            f"{i + 1} of {len(ids)}: {id} {fp32['latency_ms']['median']:.3f} ms float32, "
            f"{int8['latency_ms']['median']:.3f} ms int8, drift {int8['drift_bpm']['mean']:.3f} BPM"
        )
        write_profile(store, profile)
    known_shapes = profile["shapes"].setdefault(here["key"], {})
    for arch, depth, width in shapes:
        if (name := f"{arch} {depth}x{width}") not in known_shapes or again:
            known_shapes[name] = record = measure_shape(arch, depth, width, windows_of(data, None), runs)
            say(f"{name} with random weights: {record['fp32']['latency_ms']['median']:.3f} ms float32")
            write_profile(store, profile)
    write_profile(store, profile)
    return profile


def write_profile(store: Store, profile: dict[str, Any]) -> None:
    """Write profile.json atomically, with the latency laws its measurements give."""
    profile["latency_laws"] = fit_laws(profile)
    write_json(store.path / FILE, profile, indent=1)


def measure_point(store: Store, result: dict[str, Any], data: Data, runs: int) -> dict[str, Any]:
    """One point on this device: torch, float32 ONNX and int8 ONNX. Bytes, milliseconds, errors in BPM."""
    from kd.edge import onnxfile
    from kd.training import metrics
    from kd.training.teacher import MODEL, as_tensor, outputs
    from kd.training.train import load_model

    channels, samples = data.test.x.shape[1:]
    shape = {"channels": channels, "samples": samples, "classes": data.classes}
    folder = store.folder(result["id"])
    model = load_model(folder, arch=result["arch"], depth=result["depth"], width=result["width"], **shape)
    centres = metrics.class_centres(data.min_bpm, data.classes)
    held_out, bpm = np.asarray(data.test.x), np.asarray(data.test.bpm)

    def decoded(logits: Any) -> Any:
        return metrics.decode_expectation(logits, centres).numpy()

    predicted = {"torch": decoded(outputs(model, as_tensor(held_out))[0])}
    mae = metrics.error_figures(predicted["torch"], bpm)["mae_bpm"]
    if abs(mae - result.get("mae_bpm", mae)) > TORCH_TOLERANCE:  # a refitted student has no test error
        raise InputError(
            f"point {result['id']}: its model has a test error of {mae:.4f} BPM, result.json says "
            f"{result['mae_bpm']:.4f}: the data or the model file changed since training; retrain the point"
        )
    with tempfile.TemporaryDirectory() as temporary:
        files = {
            "torch": folder / MODEL,
            "fp32": Path(temporary) / "model.onnx",
            "int8": Path(temporary) / "model.int8.onnx",
        }
        onnxfile.write_onnx(model, files["fp32"], channels, samples)
        check = verification_windows(data)
        logit_error = onnxfile.verify(files["fp32"], model, check)
        onnxfile.write_int8(files["fp32"], files["int8"], calibration_windows(data))
        for name in ("fp32", "int8"):
            predicted[name] = decoded(onnxfile.run_onnx(files[name], held_out))
        timed = timed_windows(data, Path(temporary))
        record: dict[str, Any] = {
            name: {
                "file_bytes": file.stat().st_size,
                **calmest(partial(time_model, file, timed, runs=runs)),
            }
            for name, file in files.items()
        }
    for name, values in predicted.items():
        record[name]["mae_bpm"] = metrics.error_figures(values, bpm)["mae_bpm"]
        if name != "torch":
            record[name]["drift_bpm"] = drift(values, predicted["torch"])
    return record | {
        "model_sha256": result["model_sha256"],
        "verified_windows": len(check),
        "logit_error": logit_error,
        "held_out_windows": len(bpm),
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")},
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def measure_shape(arch: str, depth: int, width: int, data: Data, runs: int) -> dict[str, Any]:
    """Milliseconds of a model with random weights, float32 and int8, for the latency law."""
    import torch

    from kd.edge import onnxfile
    from kd.models.architectures import build

    channels, samples = data.test.x.shape[1:]
    shape = {"channels": channels, "samples": samples, "classes": data.classes}
    s = size(arch, depth, width, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(arch, depth, width, **shape).eval()
    with tempfile.TemporaryDirectory() as temporary:
        files = {"fp32": Path(temporary) / "model.onnx", "int8": Path(temporary) / "model.int8.onnx"}
        onnxfile.write_onnx(model, files["fp32"], channels, samples)
        onnxfile.write_int8(files["fp32"], files["int8"], calibration_windows(data))
        timed = timed_windows(data, Path(temporary))
        record = {name: calmest(partial(time_model, file, timed, runs=runs)) for name, file in files.items()}
    shape_of = {"arch": arch, "depth": depth, "width": width, "macs": s.macs, "layers": s.layers}
    return {**shape_of, "params": s.params, **record}


def timed_windows(data: Data, folder: Path) -> Path:
    """Held-out windows, spread over the subjects, that the stopwatch goes round."""
    path, held_out = folder / "windows.npy", np.asarray(data.test.x)
    np.save(path, held_out[:: max(len(held_out) // TIMED_WINDOWS, 1)][:TIMED_WINDOWS])
    return path


def calmest(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A timing that other work on this machine didn't disturb, or the least disturbed of TRIES."""
    tries: list[dict[str, Any]] = []
    while len(tries) < TRIES:
        tries.append(measure())
        if tries[-1]["latency_ms"]["median"] <= DISTURBED * tries[-1]["latency_ms"]["min"]:
            break
    return min(tries, key=lambda t: t["latency_ms"]["median"]) | {"tries": len(tries)}


def drift(predicted: Any, reference: Any) -> dict[str, float]:
    """How far decoded heart rates moved, BPM: mean, 95th percentile and largest of |difference|."""
    moved = np.abs(predicted - reference)
    return {
        "mean": float(moved.mean()),
        "p95": float(np.quantile(moved, 0.95)),
        "max": float(moved.max()),
    }


def calibration_windows(data: Data) -> Any:
    """Windows of training subjects that int8 ranges are taken from, spread over all of them."""
    from kd.edge.onnxfile import CALIBRATION_WINDOWS

    return np.asarray(data.train.x[:: max(len(data.train) // CALIBRATION_WINDOWS, 1)][:CALIBRATION_WINDOWS])


def verification_windows(data: Data) -> Any:
    """All held-out windows, and training windows where those are fewer than VERIFY_WINDOWS."""
    missing = max(VERIFY_WINDOWS - len(data.test), 0)
    return np.concatenate([data.test.x, data.train.x[:missing]])


def describe(result: dict[str, Any], data: Data) -> dict[str, Any]:
    """A point of profile.json before anything is measured: its configuration, error and sizes."""
    channels, samples = data.test.x.shape[1:]
    s = size(
        result["arch"],
        result["depth"],
        result["width"],
        channels=channels,
        samples=samples,
        classes=data.classes,
    )
    kept = ("arch", "depth", "width", "init", "strategy", "teacher", "seed", "params", "macs")
    refitted = "estimate" in result
    return {
        **{key: result[key] for key in kept},
        "mae_bpm": result["estimate"]["mae_bpm"] if refitted else result["mae_bpm"],
        **({"of_point": result["of_point"]} if refitted else {}),
        "layers": s.layers,
        "activation_bytes": s.activation_bytes,
        "weight_bytes": s.weight_bytes,
        "weight_bytes_int8": s.weight_bytes_int8,
        "devices": {},
    }
