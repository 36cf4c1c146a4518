"""Heart rate from a raw PPG recording, with numpy and onnxruntime alone.

    python example.py RECORDINGS.npz [--int8] [--all]

RECORDINGS.npz holds NAME/ppg (channels, samples), NAME/hr (windows,) in BPM, and meta_json, a list of {name,
dataset, subject, fs}; for a model that sees an accelerometer NAME/acc (3, samples), too, at the PPG's rate or
acc_fs. The subjects the model was tested on are evaluated, or with --all every recording. All
numbers of the pipeline stand in preprocess.json beside this file; `Model` and `heart_rate` are made to be
imported.
"""

import argparse
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

if __package__:  # where kdsweep tests it
    from kd.shipped import grid
    from kd.shipped.tracker import Estimate, Tracker
else:  # beside grid.py and tracker.py, where it is used
    import grid  # type: ignore[no-redef]
    from tracker import Estimate, Tracker  # type: ignore[no-redef]

HERE = Path(__file__).resolve().parent


class Model:
    """The exported model: windows (N, channels, samples) in, BPM (N,) out."""

    def __init__(self, folder: Path = HERE, int8: bool = False) -> None:
        import onnxruntime

        self.config = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = folder / ("model.int8.onnx" if int8 else "model.onnx")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.centres = np.array(self.config["class_centres_bpm"])

    def logits(self, windows: Any) -> Any:
        """What it says of each window (N, classes)."""
        windows = np.ascontiguousarray(windows, np.float32)
        parts = [
            self.session.run(None, {"window": windows[i : i + 256]})[0] for i in range(0, len(windows), 256)
        ]
        return np.concatenate(parts)

    def tracker(self) -> Tracker:
        """A heart rate with a memory, its interval, and whether it is unsure, of one window after another.

        KeyError for a model that was exported without one.
        """
        return Tracker(self.config["tracker"], self.centres[0], len(self.centres))

    def __call__(self, windows: Any) -> Any:
        """BPM of each window: the expectation over the classes. Never the argmax: int8 logits tie."""
        logits = self.logits(windows).astype(np.float64)
        p = np.exp(logits - logits.max(1, keepdims=True))
        return (p / p.sum(1, keepdims=True)) @ self.centres


def heart_rate(
    model: Model, ppg: Any, fs: float, acc: Any = None, acc_fs: float | None = None
) -> tuple[Any, Any]:
    """Start of each window (W,), seconds, and its BPM (W,), of a raw recording (channels, samples) at fs.

    acc: the accelerometer, (3, samples at acc_fs, by default fs), of which the first sample is the PPG's
    first; in the units of the recordings that the model was trained on.
    """
    config = model.config
    rates, window_s = (fs, config["fs"]), config["window_s"]
    starts = grid.unlabelled_starts(np.shape(ppg)[1], window_s, config["stride_s"], *rates)
    if acc is not None:
        starts = starts[inside(starts, np.shape(acc)[1], acc_fs or fs, config)]
    windows = cut(prepared(ppg, fs, config), grid.first_sample(starts, *rates), config)
    return starts, model(with_acc(windows, starts, acc, acc_fs or fs, config))


def inside(starts: Any, samples: int, fs: float, config: dict[str, Any]) -> Any:
    """Whether windows (W,) lie inside a signal of so many samples at fs."""
    first = grid.first_sample(starts, fs, config["fs"])
    return (first >= 0) & (first + config["samples"] <= grid.resampled(samples, fs, config["fs"]))


def with_acc(windows: Any, starts: Any, acc: Any, fs: float, config: dict[str, Any]) -> Any:
    """Windows (W, C, S) with the accelerometer's channels after the PPG's, if the model sees any.

    Zeros where there is no accelerometer. Raises ValueError if the model can't do without.
    """
    if "acc" not in config:
        return windows
    spec = config["acc"]
    if acc is None:
        if not spec["optional"]:
            raise ValueError("this model sees an accelerometer: give acc (3, samples)")
        moves = np.zeros((len(windows), spec["channels"], config["samples"]))
    else:
        signal = filtered_both_ways(
            resampled(axes(bridged(np.asarray(acc, np.float64)), spec), fs, config["fs"]), spec["filter"]
        )
        first = grid.first_sample(starts, fs, config["fs"])
        moves = pieces(signal, first, config["samples"]).astype(np.float32) / np.float32(spec["scale"])
    return np.concatenate([windows, moves], axis=1).astype(np.float32)


def axes(acc: Any, spec: dict[str, Any]) -> Any:
    """What the model sees of an accelerometer (3, samples): its axes, or the length of the vector."""
    return np.sqrt(np.square(acc).sum(0, keepdims=True)) if spec["kind"] == "magnitude" else acc


def tracked(model: Model, windows: Any, starts: Any) -> list[Estimate]:
    """The same of windows (W, channels, samples) at `starts` (W,), seconds, with a tracker behind the model.

    It forgets where a window is missing.
    """
    tracker, found, before = model.tracker(), [], -np.inf
    for logits, start in zip(model.logits(windows), starts):  # noqa: B905
        if start - before > 1.5 * model.config["stride_s"]:
            tracker.reset()
        found.append(tracker.update(logits))
        before = start
    return found


def prepared(ppg: Any, fs: float, config: dict[str, Any]) -> Any:
    """A raw recording resampled, band-passed (zero-phase) and its channels combined: (channels, samples)."""
    ppg = np.asarray(ppg, np.float64)
    if config["channels"] == "first":
        ppg = ppg[:1]
    signal = filtered_both_ways(resampled(bridged(ppg), fs, config["fs"]), config["filter"])
    if config["channels"] == "mean" and len(signal) > 1:
        scale = signal.std(axis=-1, keepdims=True)
        signal = np.divide(signal, scale, out=np.zeros_like(signal), where=scale > 0)
        signal = signal.mean(axis=0, keepdims=True)
    return signal


def cut(signal: Any, first: Any, config: dict[str, Any]) -> Any:
    """Windows (W, channels, samples) from the samples `first` (W,) of a prepared signal on, normalised.

    Every window must lie inside.
    """
    return normalised(pieces(signal, first, config["samples"]), config).astype(np.float32)


def pieces(signal: Any, first: Any, samples: int) -> Any:
    """Windows (W, channels, samples) as they are."""
    if not len(first):
        return np.zeros((0, len(signal), samples))
    return np.stack([signal[:, i : i + samples] for i in first])


def normalised(windows: Any, config: dict[str, Any]) -> Any:
    """Zero mean and unit deviation per window and channel, if the model was trained so."""
    if config["normalise"] == "zscore":
        windows = windows - windows.mean(axis=-1, keepdims=True)
        windows = windows / np.maximum(windows.std(axis=-1, keepdims=True), 1e-12)
    return windows


def bridged(ppg: Any) -> Any:
    """Gaps (NaN) replaced by straight lines, so that one doesn't spoil the whole filtered recording."""
    missing = ~np.isfinite(ppg)
    if not missing.any():
        return ppg
    t, out = np.arange(ppg.shape[1]), np.zeros(ppg.shape)
    for row, channel, gap in zip(out, ppg, missing):  # noqa: B905
        if not gap.all():
            row[:] = np.interp(t, t[~gap], channel[~gap])
    return out


def resampled(signal: Any, fs: float, to: float) -> Any:
    """signal (channels, samples at fs) at `to` Hz, by a polyphase filter: scipy's resample_poly, "line"."""
    ratio = grid.ratio(fs, to)
    up, down = ratio.numerator, ratio.denominator
    n = signal.shape[1]
    if up == down or n == 0:
        return signal
    taps, half = low_pass(up, down)
    reach = half // up + 1  # samples to each side that an output may need
    slope = (signal[:, -1:] - signal[:, :1]) / max(n - 1, 1)
    beyond = np.arange(1, reach + 1)
    line = np.concatenate(
        [signal[:, :1] - slope * beyond[::-1], signal, signal[:, -1:] + slope * beyond], axis=1
    )
    out = np.empty((len(signal), grid.resampled(n, fs, to)))
    for begin in range(0, out.shape[1], 4096):
        m = np.arange(begin, min(begin + 4096, out.shape[1]))[:, None]
        k = m * down // up + np.arange(-reach + 1, reach + 1)  # inputs round each output
        tap = m * down - k * up + half
        weight = np.where((tap >= 0) & (tap <= 2 * half), taps[np.clip(tap, 0, 2 * half)], 0.0)
        out[:, m[:, 0]] = np.einsum("cmk,mk->cm", line[:, k + reach], weight)
    return out


def low_pass(up: int, down: int) -> tuple[Any, int]:
    """The resampler's taps (2 half + 1,): a Kaiser-windowed sinc, as scipy's."""
    rate = max(up, down)
    half = 10 * rate
    m = np.arange(-half, half + 1)
    taps = np.sinc(m / rate) * np.kaiser(2 * half + 1, 5.0)
    return taps * (up / taps.sum()), half


def filtered_both_ways(signal: Any, spec: dict[str, Any]) -> Any:
    """Second-order sections forward and back over an oddly extended signal: scipy's sosfiltfilt."""
    pad, zi = min(spec["padding"], signal.shape[1] - 1), np.array(spec["zi"])
    left = 2 * signal[:, :1] - signal[:, pad:0:-1]
    right = 2 * signal[:, -1:] - signal[:, -2 : -pad - 2 : -1]
    out = np.concatenate([left, signal, right], axis=1)
    for _ in range(2):
        out = np.stack([filtered(row, spec["sos"], zi * row[0])[0] for row in out])[:, ::-1]
    return out[:, pad : pad + signal.shape[1]]


def filtered(x: Any, sos: Any, state: Any) -> tuple[Any, Any]:
    """One channel (samples,) through second-order sections, from a state (sections, 2): scipy's sosfilt.

    Returns the output and the state to go on from.
    """
    y, end = np.asarray(x, np.float64).tolist(), []
    for (b0, b1, b2, _, a1, a2), (z1, z2) in zip(sos, np.asarray(state).tolist()):  # noqa: B905
        for i, value in enumerate(y):
            out = b0 * value + z1
            z1 = b1 * value - a1 * out + z2
            z2 = b2 * value - a2 * out
            y[i] = out
        end.append((z1, z2))
    return np.array(y), np.array(end)


def recordings(file: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Every recording of an .npz: its meta_json entry with ppg, hr and the times of its labels.

    Exits with a line for a file that is damaged or would unpack to far more than any recording does.
    """
    try:
        with zipfile.ZipFile(file) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if size > max(2**28, 100 * Path(file).stat().st_size):
            raise ValueError(f"would unpack to {size / 2**30:.1f} GiB")
        return unpacked(file, config)
    except Exception as error:  # broken bytes lead to errors of zip, zlib, JSON, numpy and memory
        sys.exit(f"{file}: not a readable .npz of recordings ({error!r:.200}): copy or build it again")


def unpacked(file: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    """What `recordings` gives, of a file that is as large as it looks."""
    with np.load(file, allow_pickle=False) as archive:
        entries = json.loads(bytes(np.asarray(archive["meta_json"], np.uint8)).decode())
        found = []
        for entry in entries:
            name = entry["name"]
            times = {"hr_window_s": 8.0, "hr_stride_s": 2.0, "hr_start_s": 0.0, **entry}
            times["hr_start_s"] -= config["label_lag_s"].get(entry["dataset"], 0.0)
            found.append({**times, "ppg": archive[f"{name}/ppg"], "hr": archive[f"{name}/hr"]})
            if f"{name}/acc" in archive:
                found[-1] |= {"acc": archive[f"{name}/acc"], "acc_fs": entry.get("acc_fs", entry["fs"])}
        return found


def starts_of(recording: dict[str, Any], config: dict[str, Any]) -> tuple[grid.Labels, Any]:
    """When a recording's labels were true, and the start of every window they allow, in seconds, (W,)."""
    labels = grid.Labels(
        len(recording["hr"]), *(recording[key] for key in ("hr_start_s", "hr_window_s", "hr_stride_s"))
    )
    return labels, grid.labelled_starts(labels, config["window_s"], config["stride_s"])


def labelled_windows(recording: dict[str, Any], config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Windows (W, C, S) that have a label, their BPM (W,) and their starts in seconds (W,).

    The rules of the sweep: no window over a gap, without a label, with a label outside the classes, or of a
    sensor that is off.
    """
    ppg = np.asarray(recording["ppg"], np.float32)[: 1 if config["channels"] == "first" else None]
    fs, hr, width = float(recording["fs"]), np.asarray(recording["hr"], np.float32), config["window_s"]
    labels, starts = starts_of(recording, config)
    if not len(starts) or not grid.covered(ppg.shape[1], width, fs, config["fs"]):
        return np.zeros((0, 1, config["samples"])), np.zeros(0), np.zeros(0)

    lowest, highest = config["bpm_range"]
    bpm = grid.labels_at(grid.readings(hr, lowest, highest), labels, starts + width / 2)
    signal = prepared(ppg, fs, config)
    first = grid.first_sample(starts, fs, config["fs"])
    keep = (first >= 0) & (first + config["samples"] <= signal.shape[1])
    keep &= grid.count_in(~np.isfinite(ppg).all(axis=0), starts, width, fs) == 0
    keep &= ~np.isnan(bpm)
    acc, acc_fs = recording.get("acc"), float(recording.get("acc_fs", fs))
    if acc is not None and config.get("windows_with_acc"):
        acc = np.asarray(acc, np.float32)
        keep &= inside(starts, acc.shape[1], acc_fs, config)
        keep &= grid.count_in(~np.isfinite(acc).all(axis=0), starts, width, acc_fs) == 0
    changes = [grid.count_in(np.diff(c, append=c[-1:]) != 0, starts, width, fs) for c in ppg]
    keep &= np.max(changes, axis=0) >= 2 * width * lowest / 60
    windows = cut(signal, first[keep], config)
    return with_acc(windows, starts[keep], acc, acc_fs, config), bpm[keep], starts[keep]


def main() -> int:
    """Print the error by recording and in all; 1 if the tested subjects' error isn't the sweep's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recordings")
    parser.add_argument("--int8", action="store_true", help="the int8 model")
    parser.add_argument("--all", action="store_true", help="every recording, not only the tested subjects'")
    args = parser.parse_args()
    model = Model(int8=args.int8)
    test = model.config["test"]
    errors, seen = [], set()
    for r in recordings(args.recordings, model.config):
        subject = f"{r['dataset']}/{r['subject']}"
        if not args.all and subject not in test["subjects"]:
            continue
        try:
            windows, bpm, _ = labelled_windows(r, model.config)
        except ValueError as error:
            sys.exit(f"{args.recordings}: {r['name']}: {error}")
        if len(bpm):
            seen.add(subject)
            errors.append(np.abs(model(windows) - bpm))
            print(f"{r['name']:24} {subject:24} {len(bpm):5} windows  MAE {errors[-1].mean():7.3f} BPM")
    if not errors:
        print(
            "no window of a tested subject in this file: give --all for any other recording", file=sys.stderr
        )
        return 1
    mae, windows = float(np.concatenate(errors).mean()), sum(map(len, errors))
    print(f"all: MAE {mae:.4f} BPM on {windows:,} windows of {len(seen)} subjects")
    if args.all or seen != set(test["subjects"]):
        return 0
    wanted = test["mae_bpm_int8" if args.int8 else "mae_bpm"]
    same = abs(mae - wanted) <= 1e-3 and windows == test["windows"]
    verdict = "the same" if same else "NOT the same"
    print(f"the sweep measured {wanted:.4f} BPM on {test['windows']:,}: {verdict}")
    if about := test.get("about"):
        print(about)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
