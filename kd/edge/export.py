"""A trained model as a folder to ship: ONNX float32 and int8, preprocessing, example; its error as shipped.

Knows one model, its data config and its figures; where they come from (a sweep) it doesn't. Needs [edge].
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kd import shipped
from kd.edge import onnxfile
from kd.errors import InputError
from kd.recordings import ACC, Recording
from kd.shipped import example, stream
from kd.signals.prepare import Data, DataConfig
from kd.signals.preprocess import Preprocess
from kd.signals.windows import subject_label

SCHEMA = "kdsweep-export/1"
TOLERANCE_BPM = 1e-3  # between the sweep's test error and the shipped pipeline's
STREAMING = {"mae_bpm_streaming": False, "mae_bpm_causal": True}  # -> stream.Stream's `causal`
CHUNK_S = 1.0  # of live signal that the streaming helper is fed at a time


def preprocess_json(config: DataConfig, channels: int, acc_scale: float | None = None) -> dict[str, Any]:
    """Everything between a raw signal and a heart rate, as numbers that need no scipy to use.

    acc_scale: what the accelerometer is divided by; None for a model that sees none.
    """
    p = config.preprocess
    more: dict[str, Any] = {}
    if acc_scale is not None:
        more["acc"] = {
            "kind": p.acc,
            "channels": p.axes,
            "scale": acc_scale,
            "optional": p.acc_dropout > 0,
            "filter": _filter(p, p.band_hz),
        }
    if p.axes:
        more["windows_with_acc"] = True  # only windows in which it is recorded, too
    return {
        **more,
        "schema": SCHEMA,
        "input": {"name": onnxfile.WINDOW, "shape": ["batch", channels, p.samples], "dtype": "float32"},
        "output": {"name": onnxfile.LOGITS, "shape": ["batch", config.classes]},
        "fs": p.fs,
        "window_s": p.window_s,
        "stride_s": p.stride_s,
        "samples": p.samples,
        "window_start": "the sample nearest to k * stride_s, a half to the even one; grid.py has the rule",
        "channels": p.channels,
        "normalise": p.normalise,
        "resampler": "polyphase, Kaiser 5.0, 10 periods to each side, ends extended by the line through both",
        "filter": _filter(p, (p.low_hz, p.high_hz)),
        "class_centres_bpm": list(range(config.min_bpm, config.min_bpm + config.classes)),
        "bpm_range": [config.min_bpm, config.min_bpm + config.classes - 1],
        "decoding": "expectation: softmax over the classes, weighted by their centres; not argmax",
        "label_lag_s": _label_lag(config),
    }


def _filter(p: Preprocess, band_hz: tuple[float, float]) -> dict[str, Any]:
    from scipy.signal import butter, sosfilt_zi

    sos = butter(p.order, band_hz, btype="bandpass", fs=p.fs, output="sos")
    taps = 2 * len(sos) + 1 - min(int((sos[:, 2] == 0).sum()), int((sos[:, 5] == 0).sum()))
    return {
        "kind": "Butterworth band-pass, forward and back (zero phase)",
        "order": p.order,
        "band_hz": list(band_hz),
        "sos": sos.tolist(),
        "zi": sosfilt_zi(sos).tolist(),
        "padding": 3 * taps,
    }


def write_models(model: nn.Module, folder: Path, data: Data, calibration: Any, check: Any) -> None:
    """model.onnx, checked against torch on the windows `check`, and model.int8.onnx into `folder`."""
    channels, samples = data.test.x.shape[1:]
    onnxfile.write_onnx(model, folder / "model.onnx", channels, samples)
    onnxfile.verify(folder / "model.onnx", model, check)
    onnxfile.write_int8(folder / "model.onnx", folder / "model.int8.onnx", calibration)


def evaluate(
    folder: Path, recordings: Sequence[Recording], data: Data, lead_s: float = 0.0
) -> dict[str, Any]:
    """The shipped files on the raw recordings of the tested subjects: what preprocess.json says under "test".

    Offline as `example.py` does it, float32 and int8, and streaming, a second of signal at a time. Needs
    preprocess.json and the models in `folder`. lead_s: as of the data config, so that the windows are those
    that the sweep was tested on; the student itself needs nothing before its window.
    """
    fp32, int8 = example.Model(folder), example.Model(folder, int8=True)
    names = ("mae_bpm", "mae_bpm_int8", *STREAMING, *(f"{name}_offline" for name in STREAMING))
    errors: dict[str, list[Any]] = {name: [] for name in names}
    subjects: dict[str, list[Any]] = {}
    tracked: list[tuple[Any, bool, bool]] = []  # error, whether the interval holds the rate, unsure
    tested = sorted({str(s) for s in data.test.subject})
    for recording in recordings:
        if (subject := subject_label(recording)) not in tested:
            continue
        raw = as_dict(recording)
        windows, bpm, starts = example.labelled_windows(raw, fp32.config)
        windows, bpm, starts = (part[starts >= lead_s - 1e-6] for part in (windows, bpm, starts))
        if not len(bpm):
            continue
        error = np.abs(fp32(windows) - bpm)
        errors["mae_bpm"].append(error)
        errors["mae_bpm_int8"].append(np.abs(int8(windows) - bpm))
        for name, causal in STREAMING.items():
            live = streamed(fp32, raw, starts, causal=causal)
            there = np.isfinite(live)
            errors[name].append(np.abs(live - bpm)[there])
            errors[f"{name}_offline"].append(error[there])
        subjects.setdefault(subject, []).append(error)
        if "tracker" in fp32.config:
            said = example.tracked(fp32, windows, starts)
            tracked += [
                (abs(e.bpm - b), e.low <= b <= e.high, e.unsure) for e, b in zip(said, bpm, strict=True)
            ]
    mean = {name: float(np.concatenate(parts).mean()) for name, parts in errors.items()}
    by_subject = {name: np.concatenate(parts) for name, parts in sorted(subjects.items())}
    return {
        "subjects": tested,
        "windows": int(sum(map(len, errors["mae_bpm"]))),
        **{name: mean[name] for name in ("mae_bpm", "mae_bpm_int8", *STREAMING)},
        **{name.replace("mae", "costs"): mean[name] - mean[f"{name}_offline"] for name in STREAMING},
        "mae_by_subject": {name: float(e.mean()) for name, e in by_subject.items()},
        "interval_90": interval(list(by_subject.values())),
        **_tracked(tracked),
    }


def _tracked(said: Sequence[tuple[Any, bool, bool]]) -> dict[str, Any]:
    """What the shipped tracker reaches: error, share of rates in their interval, share it is unsure of."""
    if not said:
        return {}
    error, inside, unsure = (np.array(column) for column in zip(*said, strict=True))
    return {
        "mae_bpm_tracked": float(error.mean()),
        "coverage_90_tracked": float(inside.mean()),
        "unsure": float(unsure.mean()),
        "mae_bpm_sure": float(error[~unsure].mean()) if not unsure.all() else None,
    }


def streamed(model: Any, raw: dict[str, Any], starts: Any, *, causal: bool) -> Any:
    """BPM of the windows at `starts`, of a recording fed live; NaN where a live stream has none."""
    fs, ppg = float(raw["fs"]), np.asarray(raw["ppg"], np.float64)
    _, allowed = example.starts_of(raw, model.config)
    moves = {"acc_fs": float(raw["acc_fs"])} if "acc" in raw and "acc" in model.config else {}
    live = stream.Stream(model, fs, channels=len(ppg), causal=causal, first_s=float(allowed[0]), **moves)
    seconds = np.arange(0, ppg.shape[1] / fs + CHUNK_S, CHUNK_S)
    said: dict[float, float] = {}
    for begin, end in pairwise(seconds):
        chunk = [ppg[:, round(begin * fs) : round(end * fs)]]
        if moves:
            acc_fs = moves["acc_fs"]
            chunk.append(raw["acc"][:, round(begin * acc_fs) : round(end * acc_fs)])
        said |= dict(live.push(*chunk))
    return np.array([said.get(float(s), np.nan) for s in starts])


def interval(errors: Sequence[Any], level: float = 0.9, draws: int = 2000) -> list[float] | None:
    """Interval of the mean of |error|, drawing whole subjects again; None for fewer than 3 of them.

    Windows of one subject are no independent evidence: the interval says how the figure depends on who was
    tested.
    """
    if len(errors) < 3:
        return None
    total, count = np.array([e.sum() for e in errors]), np.array([len(e) for e in errors])
    chosen = np.random.default_rng(0).integers(0, len(errors), (draws, len(errors)))
    means = total[chosen].sum(1) / count[chosen].sum(1)
    return [float(q) for q in np.quantile(means, [(1 - level) / 2, (1 + level) / 2])]


def write_recordings(path: Path, recordings: Sequence[Recording], label_lag_s: Mapping[str, float]) -> None:
    """Raw recordings as an .npz that example.py and kdsweep read (`kd.datasets.recordings_npz`).

    label_lag_s: what both readers will take off a data set's label times again.
    """
    arrays: dict[str, Any] = {}
    meta = []
    for i, r in enumerate(recordings):
        name = f"{i:03d}-{r.name.replace('/', '_')}"
        raw = as_dict(r)
        for key in [key for key in ("ppg", "hr", "acc") if key in raw]:
            arrays[f"{name}/{key}"] = raw.pop(key)
        raw["hr_start_s"] += label_lag_s.get(r.dataset, 0.0)
        meta.append({**raw, "name": name})
    arrays["meta_json"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def as_dict(recording: Recording) -> dict[str, Any]:
    """A recording as example.py has it."""
    keys = ("name", "dataset", "subject", "ppg", "fs", "hr", "hr_window_s", "hr_stride_s", "hr_start_s")
    acc = recording.sensors.get(ACC)
    moves = {"acc": acc.values, "acc_fs": acc.fs} if acc else {}
    return {**{key: getattr(recording, key) for key in keys}, **moves}


def write_scripts(folder: Path) -> None:
    """example.py, stream.py, tracker.py and the window grid."""
    source = Path(shipped.__file__).parent
    for name in ("example.py", "stream.py", "tracker.py", "grid.py"):
        shutil.copyfile(source / name, folder / name)


def same_as_sweep(test: Mapping[str, Any], mae_bpm: float, windows: int, name: str = "mae_bpm") -> None:
    """Raise InputError unless the shipped pipeline reproduces the sweep's test error, `name` in both."""
    off = abs(test[name] - mae_bpm)
    if off > TOLERANCE_BPM or test["windows"] != windows:
        raise InputError(
            f"the exported pipeline has an error of {test[name]:.4f} BPM on {test['windows']} windows, "
            f"the sweep measured {mae_bpm:.4f} on {windows}: the recordings changed since the sweep"
        )


def _label_lag(config: DataConfig) -> dict[str, float]:
    """Data set -> seconds its labels come late in the raw file, as the loader corrects it."""
    from kd.datasets import recordings_npz

    lag = config.options.get("bidmc_lag_s", recordings_npz.OPTIONS["bidmc_lag_s"])
    return {"BIDMC": float(lag)}
