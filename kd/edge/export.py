"""A trained model as a folder to ship: ONNX float32 and int8, weights, preprocessing, C tables, example.

Knows one model, its data config and its figures; where they come from (a sweep) it doesn't. Needs [edge].
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kd import shipped
from kd.edge import onnxfile
from kd.errors import InputError
from kd.recordings import Recording
from kd.shipped import example, stream
from kd.signals.prepare import Data, DataConfig
from kd.signals.windows import subject_label

SCHEMA = "kdsweep-export/1"
TOLERANCE_BPM = 1e-3  # between the sweep's test error and the shipped pipeline's
STREAMING = {"mae_bpm_streaming": False, "mae_bpm_causal": True}  # -> stream.Stream's `causal`
CHUNK_S = 1.0  # of live signal that the streaming helper is fed at a time


def preprocess_json(config: DataConfig, channels: int) -> dict[str, Any]:
    """Everything between a raw signal and a heart rate, as numbers that need no scipy to use."""
    from scipy.signal import butter, sosfilt_zi

    p = config.preprocess
    sos = butter(p.order, (p.low_hz, p.high_hz), btype="bandpass", fs=p.fs, output="sos")
    taps = 2 * len(sos) + 1 - min(int((sos[:, 2] == 0).sum()), int((sos[:, 5] == 0).sum()))
    return {
        "schema": SCHEMA,
        "input": {"name": onnxfile.WINDOW, "shape": ["batch", channels, p.samples], "dtype": "float32"},
        "output": {"name": onnxfile.LOGITS, "shape": ["batch", config.classes]},
        "fs": p.fs,
        "window_s": p.window_s,
        "stride_s": p.stride_s,
        "samples": p.samples,
        "channels": p.channels,
        "normalise": p.normalise,
        "resampler": "polyphase, Kaiser 5.0, 10 periods to each side, ends extended by the line through both",
        "filter": {
            "kind": "Butterworth band-pass, forward and back (zero phase)",
            "order": p.order,
            "band_hz": [p.low_hz, p.high_hz],
            "sos": sos.tolist(),
            "zi": sosfilt_zi(sos).tolist(),
            "padding": 3 * taps,
        },
        "class_centres_bpm": list(range(config.min_bpm, config.min_bpm + config.classes)),
        "bpm_range": [config.min_bpm, config.min_bpm + config.classes - 1],
        "decoding": "expectation: softmax over the classes, weighted by their centres; not argmax",
        "label_lag_s": _label_lag(config),
    }


def write_models(model: nn.Module, folder: Path, data: Data, calibration: Any, check: Any) -> None:
    """model.onnx, checked against torch on the windows `check`, and model.int8.onnx into `folder`."""
    channels, samples = data.test.x.shape[1:]
    onnxfile.write_onnx(model, folder / "model.onnx", channels, samples)
    onnxfile.verify(folder / "model.onnx", model, check)
    onnxfile.write_int8(folder / "model.onnx", folder / "model.int8.onnx", calibration)


def evaluate(folder: Path, recordings: Sequence[Recording], data: Data) -> dict[str, Any]:
    """The shipped files on the raw recordings of the tested subjects: what preprocess.json says under "test".

    Offline as `example.py` does it, float32 and int8, and streaming, a second of signal at a time. Needs
    preprocess.json and the models in `folder`.
    """
    fp32, int8 = example.Model(folder), example.Model(folder, int8=True)
    names = ("mae_bpm", "mae_bpm_int8", *STREAMING, *(f"{name}_offline" for name in STREAMING))
    errors: dict[str, list[Any]] = {name: [] for name in names}
    subjects: dict[str, list[Any]] = {}
    tested = sorted({str(s) for s in data.test.subject})
    for recording in recordings:
        if (subject := subject_label(recording)) not in tested:
            continue
        raw = as_dict(recording)
        windows, bpm, starts = example.labelled_windows(raw, fp32.config)
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
    mean = {name: float(np.concatenate(parts).mean()) for name, parts in errors.items()}
    by_subject = {name: np.concatenate(parts) for name, parts in sorted(subjects.items())}
    return {
        "subjects": tested,
        "windows": int(sum(map(len, errors["mae_bpm"]))),
        **{name: mean[name] for name in ("mae_bpm", "mae_bpm_int8", *STREAMING)},
        **{name.replace("mae", "costs"): mean[name] - mean[f"{name}_offline"] for name in STREAMING},
        "mae_by_subject": {name: float(e.mean()) for name, e in by_subject.items()},
        "interval_90": interval(list(by_subject.values())),
    }


def streamed(model: Any, raw: Mapping[str, Any], starts: Any, *, causal: bool) -> Any:
    """BPM of the windows at `starts`, of a recording fed live; NaN where a live stream has none."""
    fs, ppg = float(raw["fs"]), np.asarray(raw["ppg"], np.float64)
    stride = model.config["stride_s"]
    first = float(starts[0] % stride)
    live = stream.Stream(model, fs, channels=len(ppg), causal=causal, first_s=first)
    step = max(round(CHUNK_S * fs), 1)
    said = {
        round(start / stride - first / stride): bpm
        for i in range(0, ppg.shape[1], step)
        for start, bpm in live.push(ppg[:, i : i + step])
    }
    return np.array([said.get(round((s - first) / stride), np.nan) for s in starts])


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
        arrays[f"{name}/ppg"], arrays[f"{name}/hr"] = raw.pop("ppg"), raw.pop("hr")
        raw["hr_start_s"] += label_lag_s.get(r.dataset, 0.0)
        meta.append({**raw, "name": name})
    arrays["meta_json"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def as_dict(recording: Recording) -> dict[str, Any]:
    """A recording as example.py has it."""
    keys = ("name", "dataset", "subject", "ppg", "fs", "hr", "hr_window_s", "hr_stride_s", "hr_start_s")
    return {key: getattr(recording, key) for key in keys}


def write_scripts(folder: Path) -> None:
    """example.py and stream.py."""
    source = Path(shipped.__file__).parent
    for name in ("example.py", "stream.py"):
        shutil.copyfile(source / name, folder / name)


def c_header(config: Mapping[str, Any], point: str) -> str:
    """The filter, the classes and the arithmetic round the model, for firmware: C99 with math.h."""
    sos = [[b0, b1, b2, a1, a2] for b0, b1, b2, _, a1, a2 in config["filter"]["sos"]]
    low, high = config["filter"]["band_hz"]
    rows = ",\n".join("    {" + ", ".join(_float(v) for v in row) + "}" for row in sos)
    zi = ",\n".join("    {" + ", ".join(_float(v) for v in row) + "}" for row in config["filter"]["zi"])
    centres = ", ".join(_float(v) for v in config["class_centres_bpm"])
    return C_HEADER.format(
        point=point,
        fs=_float(config["fs"]),
        samples=config["samples"],
        stride=round(config["stride_s"] * config["fs"]),
        channels=config["input"]["shape"][1],
        classes=len(config["class_centres_bpm"]),
        sections=len(sos),
        normalise=int(config["normalise"] == "zscore"),
        low=low,
        high=high,
        sos=rows,
        zi=zi,
        centres=centres,
    )


def same_as_sweep(test: Mapping[str, Any], mae_bpm: float, windows: int) -> None:
    """Raise InputError unless the shipped pipeline reproduces the sweep's test error."""
    off = abs(test["mae_bpm"] - mae_bpm)
    if off > TOLERANCE_BPM or test["windows"] != windows:
        raise InputError(
            f"the exported pipeline has an error of {test['mae_bpm']:.4f} BPM on {test['windows']} windows, "
            f"the sweep measured {mae_bpm:.4f} on {windows}: the recordings changed since the sweep"
        )


def _label_lag(config: DataConfig) -> dict[str, float]:
    """Data set -> seconds its labels come late in the raw file, as the loader corrects it."""
    from kd.datasets import recordings_npz

    lag = config.options.get("bidmc_lag_s", recordings_npz.OPTIONS["bidmc_lag_s"])
    return {"BIDMC": float(lag)}


def _float(value: float) -> str:
    """A C float literal with all the digits a float32 has."""
    text = f"{value:.9g}"
    return (text if any(c in text for c in ".e") else text + ".0") + "f"


C_HEADER = """\
/* Preprocessing and decoding of the heart-rate model {point}; generated by kdsweep export.
 * Per channel: filter at FS (band {low:g} to {high:g} Hz), gather KDS_SAMPLES, kds_normalise, run the model,
 * kds_bpm. Not a medical device. */
#ifndef KDSWEEP_MODEL_H
#define KDSWEEP_MODEL_H

#include <math.h>

#define KDS_FS {fs} /* Hz, of the filter's input */
#define KDS_SAMPLES {samples} /* of one window */
#define KDS_STRIDE {stride} /* samples from one window to the next */
#define KDS_CHANNELS {channels} /* of the model's input */
#define KDS_CLASSES {classes}
#define KDS_SECTIONS {sections}
#define KDS_NORMALISE {normalise} /* 1: kds_normalise every window; 0: leave it */

/* second-order sections: b0 b1 b2 a1 a2 (a0 is 1) */
static const float kds_sos[KDS_SECTIONS][5] = {{
{sos}
}};

/* the state of a filter that has seen a constant 1 for ever: start with it times the first sample */
static const float kds_sos_start[KDS_SECTIONS][2] = {{
{zi}
}};

static const float kds_class_bpm[KDS_CLASSES] = {{{centres}}};

typedef struct {{
    float z[KDS_SECTIONS][2];
}} kds_filter;

static inline void kds_filter_start(kds_filter *f, float first) {{
    for (int s = 0; s < KDS_SECTIONS; s++)
        for (int j = 0; j < 2; j++) f->z[s][j] = kds_sos_start[s][j] * first;
}}

static inline float kds_filter_step(kds_filter *f, float x) {{
    for (int s = 0; s < KDS_SECTIONS; s++) {{
        const float *c = kds_sos[s];
        float y = c[0] * x + f->z[s][0];
        f->z[s][0] = c[1] * x - c[3] * y + f->z[s][1];
        f->z[s][1] = c[2] * x - c[4] * y;
        x = y;
    }}
    return x;
}}

/* zero mean, unit deviation, in place */
static inline void kds_normalise(float *window, int n) {{
    float mean = 0.0f, square = 0.0f, deviation;
    for (int i = 0; i < n; i++) mean += window[i];
    mean /= (float)n;
    for (int i = 0; i < n; i++) square += (window[i] - mean) * (window[i] - mean);
    deviation = sqrtf(square / (float)n);
    if (deviation < 1e-12f) deviation = 1e-12f;
    for (int i = 0; i < n; i++) window[i] = (window[i] - mean) / deviation;
}}

/* expectation over the classes; not the largest: int8 logits tie */
static inline float kds_bpm(const float *logits) {{
    float top = logits[0], total = 0.0f, bpm = 0.0f;
    for (int k = 1; k < KDS_CLASSES; k++)
        if (logits[k] > top) top = logits[k];
    for (int k = 0; k < KDS_CLASSES; k++) {{
        float p = expf(logits[k] - top);
        total += p;
        bpm += p * kds_class_bpm[k];
    }}
    return bpm / total;
}}

#endif
"""
