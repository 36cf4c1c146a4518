"""A trained point on new recordings. Knows the store and a sweep's space; trains nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.signals.preprocess import Preprocess
from kd.signals.windows import WindowSet
from orchestrator.edge.seen import preprocess_for
from orchestrator.store.check import check_model
from orchestrator.store.find import find_point
from orchestrator.store.metric import headline, mae_by_subject
from orchestrator.store.refits import REFITTED, Refits, said_of
from orchestrator.store.store import Store
from orchestrator.words import quoted

BEST = "best"


def evaluate_point(
    folder: Path,
    point: str,
    path: Path,
    format: str = "auto",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Errors of a point on all labelled windows at `path`, beside two baselines, as a JSON-ready dict.

    The windows are cut as the sweep's own, and only labels within its classes count. baselines: the peak of
    the spectrum (fft_peak), and always the median of these very labels (constant), the best that a single
    number can do. subjects_of_the_sweep: those here that the point was tested on. trained_on: those here that
    a refitted student was trained on, and `refitted` what it says of itself, else "". tracked: what its
    tracker reaches and how sure it is, None for a point of an earlier version. Raises InputError.
    """
    from kd.signals.prepare import windows_of
    from kd.training import metrics
    from orchestrator.space.schema import load_space

    store, result = trained(folder, point)
    check_model(store, result)
    data = load_space(folder / "space.yaml", []).data_config()
    preprocess = preprocess_for(data.preprocess, result)
    progress(f"reading {path}")
    windows, dropped = windows_of(
        path,
        format,
        preprocess,
        acc_scale=result.get("acc_scale", 1.0),
        min_bpm=data.min_bpm,
        classes=data.classes,
        progress=progress,
    )
    if len(windows) == 0:
        why = ", ".join(f"{n} {reason}" for reason, n in dropped.by_reason.items()) or "no labels"
        raise InputError(
            f"{path}: no usable window ({why}): run kdsweep data check {quoted(path)} for details"
        )
    progress(f"evaluating {len(windows):,} windows")
    logits = _logits(store.folder(result["id"]), result, windows, data.classes)
    centres = metrics.class_centres(data.min_bpm, data.classes)
    predicted = metrics.decode_expectation(logits, centres).numpy()
    argmax = metrics.decode_argmax(logits, centres).numpy()

    def figures(groups: Any) -> dict[str, dict[str, Any]]:
        return {g: _figures(predicted[groups == g], windows.bpm[groups == g]) for g in sorted(set(groups))}

    by_dataset = figures(windows.dataset)
    for name, found in by_dataset.items():
        found["baselines"] = _baselines(windows.take(windows.dataset == name), preprocess)
    here = set(windows.subject.tolist())
    refitted = "estimate" in result
    described = ("arch", "depth", "width", "init", "strategy", "strategy_args", "teacher", "seed", "params")
    return {
        "sweep": folder.resolve().name,
        "point": result["id"],
        "role": result["role"],
        **{key: result[key] for key in described},
        "path": str(path),
        **_figures(predicted, windows.bpm),
        "mae_bpm_argmax": metrics.error_figures(argmax, windows.bpm)["mae_bpm"],
        "baselines": _baselines(windows, preprocess),
        "by_dataset": by_dataset,
        "by_subject": figures(windows.subject),
        "tracked": _tracked(store.folder(result["id"]), windows, logits.numpy(), data.min_bpm),
        "dropped": dropped.by_reason,
        "test_mae_bpm": result["estimate"]["mae_bpm"] if refitted else result["mae_bpm"],
        "subjects_of_the_sweep": [] if refitted else sorted(here & set(mae_by_subject(result))),
        "trained_on": sorted(here & set(result["trained_on"])) if refitted else [],
        "refitted": said_of(result) if refitted else "",
    }


def trained(folder: Path, point: str) -> tuple[Store, dict[str, Any]]:
    """A trained point, or a student refitted on everybody (its id begins with r), and its store."""
    if point.startswith(REFITTED):
        refits = Refits(folder)
        return refits, refits.result(find_point(refits.done(), point, f"{folder}, refitted students"))
    store = Store(folder)
    return store, store.result(find_trained(store, point))


def find_trained(store: Store, point: str) -> str:
    """The id of a trained point by id, by the beginning of one, or "best": the student of least error."""
    if point == BEST:
        results = list(store.results())
        pool = [r for r in results if r["role"] == "student"] or results
        if not pool:
            raise InputError(f"{store.path}: no point is trained yet: kdsweep run trains them")
        judge = headline(store.path)
        return str(min(pool, key=lambda r: (judge(r), r["params"], r["id"]))["id"])
    where = f"{store.path}, trained points ({BEST}: the student with the lowest error)"
    return find_point(store.done(), point, where)


def _logits(folder: Path, result: dict[str, Any], windows: WindowSet, classes: int) -> Any:
    """The trained model's logits (N, K) of all windows."""
    from kd.models.sizes import size
    from kd.training.teacher import MODEL, as_tensor, outputs
    from kd.training.train import load_model

    channels, samples = windows.x.shape[1:]
    name = (result["arch"], result["depth"], result["width"])
    shape = {"channels": channels, "samples": samples, "classes": classes}
    if size(*name, **shape).params != result["params"]:
        raise InputError(
            f"point {result['id']} was trained on windows of another shape than these with {channels} "
            "channel(s): give recordings with as many as the sweep's, or run it with "
            "data.preprocess.channels=mean"
        )
    if not (folder / MODEL).is_file():
        raise InputError(f"{folder / MODEL}: no such file: delete {folder} and run the sweep again")
    model = load_model(folder, arch=name[0], depth=name[1], width=name[2], **shape)
    return outputs(model, as_tensor(windows.x))[0]


def _figures(predicted: Any, bpm: Any) -> dict[str, Any]:
    """mae_bpm, rmse_bpm, within_5_bpm and windows."""
    from kd.training.metrics import error_figures

    return {**error_figures(predicted, bpm), "windows": len(bpm)}


def _tracked(folder: Path, windows: WindowSet, logits: Any, min_bpm: int) -> dict[str, Any] | None:
    """mae_bpm, coverage_90, unsure and mae_bpm_sure with the tracker that the point has."""
    from kd.files import read_json
    from kd.training import tracking

    if not (folder / tracking.FILE).is_file():
        return None
    config = read_json(folder / tracking.FILE)["tracker"]
    found = tracking.measure(config, windows, logits, min_bpm)["tracked"]
    return {key: found[key] for key in ("mae_bpm", "coverage_90", "unsure", "mae_bpm_sure")}


def _baselines(windows: WindowSet, preprocess: Preprocess) -> dict[str, dict[str, float]]:
    """What costs no model, on the same windows."""
    import numpy as np

    from kd.signals.baselines import fft_peak, training_median
    from kd.training.metrics import error_figures

    constant = training_median(windows.bpm, len(windows))
    ppg = windows.x[:, : windows.x.shape[1] - preprocess.axes]
    return {
        "fft_peak": error_figures(fft_peak(ppg, preprocess.fs), windows.bpm),
        "constant": {**error_figures(constant, windows.bpm), "bpm": float(np.median(windows.bpm))},
    }
