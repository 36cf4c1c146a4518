"""README.md of an exported model: what it is, its error, its cost, its limits."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from kd.edge import onnxfile
from kd.signals.baselines import baseline_errors
from kd.signals.preprocess import PPG
from orchestrator.edge.card_tracker import in_c, sureness
from orchestrator.edge.int8 import said
from orchestrator.edge.latency import PRECISIONS
from orchestrator.space.resolve import Opened
from orchestrator.store.refits import Refits, said_of
from orchestrator.words import UNSEEN, model_name


def card(opened: Opened, result: dict[str, Any], config: dict[str, Any], measured: dict[str, Any]) -> str:
    """The model card. config: preprocess.json; measured: bytes and what was profiled."""
    parts = [
        _head(opened, result, config),
        _error(opened, result, config),
        *([sureness(config)] if "tracker" in config and "estimate" not in result else []),
        _cost(result, measured),
        _training(opened, result),
        _use(config, measured),
        *([_tflite(measured["mcu"], measured["tflite"])] if "tflite" in measured else []),
        *([_c(config, measured["c"])] if "c" in measured else []),
        _limits(opened, result, config),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _head(opened: Opened, result: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    test = config["test"]
    if "estimate" in result:
        yield f"# Heart rate from PPG: {result['arch']} {result['depth']}x{result['width']}"
        yield ""
        yield (
            f"`{result['id']}`, refitted from point `{result['of_point']}` of the kdsweep sweep "
            f"`{opened.plan.name}`: {result['params']:,} parameters, {said_of(result)}."
        )
        if opened.data.source == "synthetic":
            yield ""
            yield "**Trained and tested on synthetic recordings**: its error on real wrists is unknown."
        return
    yield f"# Heart rate from PPG: {result['arch']} {result['depth']}x{result['width']}"
    yield ""
    yield (
        f"Point `{result['id']}` of the kdsweep sweep `{opened.plan.name}`: {result['params']:,} parameters, "
        f"mean absolute error {test['mae_bpm']:.2f} BPM{_interval(test)} on {test['windows']:,} windows of "
        f"{len(test['subjects'])} subjects it was not trained on."
    )
    if opened.data.source == "synthetic":
        yield ""
        yield "**Trained and tested on synthetic recordings**: its error on real wrists is unknown."


def _interval(test: dict[str, Any]) -> str:
    if test["interval_90"] is None:
        return " (too few subjects for an interval)"
    low, high = test["interval_90"]
    return f" (90 % interval {low:.2f} to {high:.2f}, bootstrap over subjects)"


def _error(opened: Opened, result: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    test, data = config["test"], opened.windows
    if "estimate" in result:
        yield from _estimate(result, test)
        return
    ppg = data.seen_by(PPG)
    base = baseline_errors(ppg.train, ppg.test, config["fs"])
    yield "## Error"
    yield ""
    yield "| on the test subjects | MAE, BPM |"
    yield "|---|---|"
    yield f"| float32, offline | {test['mae_bpm']:.3f} |"
    yield f"| int8, offline | {test['mae_bpm_int8']:.3f} |"
    yield f"| float32, streaming (`stream.py`) | {test['mae_bpm_streaming']:.3f} |"
    yield f"| float32, streaming, causal filter only | {test['mae_bpm_causal']:.3f} |"
    yield f"| highest peak of the spectrum | {base['fft_peak']['all']:.3f} |"
    yield f"| always the training median | {base['training_median']['all']:.3f} |"
    yield ""
    yield (
        f"Within 5 BPM: {result['within_5_bpm']:.0%} of windows. Offline the filter runs over the whole "
        "recording and back. Streaming changes the error on the same windows by "
        f"{test['costs_bpm_streaming']:+.3f} BPM when each window is filtered back from its own end, and by "
        f"{test['costs_bpm_causal']:+.3f} BPM when the filter only runs forward."
    )
    yield ""
    yield from _by_subject("MAE, BPM", test["mae_by_subject"])


def _estimate(result: dict[str, Any], test: dict[str, Any]) -> Iterator[str]:
    yield "## Error"
    yield ""
    yield f"{said_of(result).capitalize()}: nobody is left to test this model itself on."
    if (tracked := result["estimate"].get("tracked_bpm")) is not None:
        yield (
            f"With the tracker (`tracker.py`) {tracked:.2f} BPM, of the same people in the same way; its "
            "settings are medians of those points'."
        )
    yield ""
    yield "| change on the same windows | MAE, BPM |"
    yield "|---|---|"
    yield f"| int8 | {test['mae_bpm_int8'] - test['mae_bpm']:+.3f} |"
    yield f"| streaming (`stream.py`) | {test['costs_bpm_streaming']:+.3f} |"
    yield f"| streaming, causal filter only | {test['costs_bpm_causal']:+.3f} |"
    yield ""
    yield from _by_subject("MAE, BPM, by models trained without them", result["estimate"]["mae_by_subject"])


def _by_subject(title: str, errors: dict[str, float]) -> Iterator[str]:
    yield f"| subject | {title} |"
    yield "|---|---|"
    for subject, mae in errors.items():
        yield f"| {subject} | {mae:.2f} |"


def _cost(result: dict[str, Any], measured: dict[str, Any]) -> Iterator[str]:
    yield "## Cost of one window"
    yield ""
    yield f"{result['macs']:,} multiply-adds; activation peak {result['activation_bytes']:,} bytes, float32."
    yield ""
    yield "| | float32 | int8 |"
    yield "|---|---|---|"
    yield f"| weights, bytes (computed) | {result['weight_bytes']:,} | {result['weight_bytes_int8']:,} |"
    yield "| ONNX file, bytes | {:,} | {:,} |".format(*measured["files"].values())
    for key, record in measured["devices"].items():
        for what, name in (("median", "median"), ("p95", "95th percentile")):
            ms = " | ".join(f"{record[p]['latency_ms'][what]:.3f}" for p in PRECISIONS)
            yield f"| ms on {key}, one thread, {name} | {ms} |"
    if mcu := measured["mcu"]:
        for what, name in (("flash_bytes", ".tflite, bytes"), ("arena_bytes", "tflite-micro arena, bytes")):
            yield f"| {name} | " + " | ".join(f"{mcu[p][what]:,}" for p in PRECISIONS) + " |"
    counted = {"fp32": measured["targets"], "int8": measured["targets_int8"]}
    for target in dict.fromkeys(t for records in counted.values() for t in records):
        records = [counted[p].get(target) for p in PRECISIONS]
        cpu = next(r["cpu"] for r in records if r)
        for key, what in (
            ("instructions", "instructions on {}, in C, emulated"),
            ("flash_bytes_c", "flash of the C on {}, bytes"),
        ):
            cells = " | ".join(f"{r[key]:,}" if r else "–" for r in records)
            yield f"| {what.format(cpu)} | {cells} |"
    if counts := [r for records in counted.values() for r in records.values()]:
        yield ""
        yield f"{counts[0]['about']}."
    if not measured["devices"]:
        yield ""
        named = f" --points {result['id']}" if "estimate" in result else ""
        yield f"Latency is not measured: run `kdsweep profile{named}`."
    elif measured["of"] != result["id"]:
        yield ""
        yield f"Times and arenas were measured on point `{measured['of']}`, which has the same shape."


def _training(opened: Opened, result: dict[str, Any]) -> Iterator[str]:
    data = opened.windows
    sides = {side: getattr(data, side) for side in ("train", "val", "test")}
    counts = ", ".join(
        f"{len(w):,} windows of {len(np.unique(w.subject))} subjects ({side})" for side, w in sides.items()
    )
    store, split = opened.store, f"{counts}; fingerprint `{data.fingerprint}`; split by subject"
    if "estimate" in result:
        store = Refits(opened.store.path)
        everybody = ", ".join(f"{n} of {name}" for name, n in result["subjects_by_dataset"].items())
        split = f"all subjects: {everybody}; fingerprint `{result['data_fingerprint']}`"
    args = ", ".join(f"{k} {v:g}" for k, v in result["strategy_args"].items())
    yield "## Training"
    yield ""
    yield f"- data: {opened.data.source}, {split}"
    yield f"- strategy: {result['strategy']}{f' ({args})' if args else ''}; {result['init']} init"
    if result["teacher"]:
        t = store.result(result["teacher"])
        mae = t["estimate"]["mae_bpm"] if "estimate" in t else t["mae_bpm"]
        yield (
            f"- teacher: `{t['id']}`, {model_name(t['arch'], t['depth'], t['width'], '{} {}x{}')}, "
            f"{format(t['params'], ',') if t['params'] else 'unknown'} parameters, MAE {mae:.2f} BPM"
        )
        if t.get("brought") and not t["brought"]["same_split"]:
            yield f"- the teacher is brought ({t['brought']['kind']}): {UNSEEN}"
    if more := result.get("unlabelled_windows"):
        yield f"- {more:,} windows without labels besides, for the terms that need only the teacher"
    how = result.get("epochs_by") or f"best after {result['best_epoch']}"
    yield f"- seed {result['seed']}, {result['epochs']} epochs, {how}"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    commit = result["git_commit"] or "unknown"
    yield f"- commit `{commit}`, recipe version {result['recipe_version']}, {versions}"


def _use(config: dict[str, Any], measured: dict[str, Any]) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "| file | what |"
    yield "|---|---|"
    yield "| `model.onnx`, `model.int8.onnx` | the model; input `window`, output `logits` over the classes |"
    if "tflite" in measured:
        yield "| `model.int8.tflite` | the same in 8-bit integers only, one window at a time |"
    yield "| `model.safetensors` | its weights and its shape; `kd.models.weights.load` reads it |"
    yield "| `preprocess.json` | filter, window, normalisation, classes, decoding |"
    yield "| `example.py` | raw recordings to heart rate, numpy and onnxruntime only |"
    yield "| `stream.py` | the same from a live signal |"
    if "tracker" in config:
        yield "| `tracker.py` | a memory behind the model: heart rate, its interval, unsure or not |"
    yield "| `grid.py` | where windows start and which label is theirs; both use it |"
    yield "| `kdsweep_model.h` | filter, window starts, class table, normalisation and decoding in C |"
    yield ""
    yield (
        f"ONNX operator set {onnxfile.OPSET}, IR version {onnxfile.IR}; the oldest onnxruntime such files "
        f"were tried with is {onnxfile.OLDEST_RUNTIME} (before 1.19 it needs numpy 1), this one with "
        f"{onnxfile.require_extra()[1].__version__}."
    )
    yield ""
    yield "    pip install numpy onnxruntime"
    yield "    python example.py RECORDINGS.npz"
    yield ""
    low, high = config["filter"]["band_hz"]
    yield (
        f"Windows of {config['window_s']:g} s every {config['stride_s']:g} s at {config['fs']:g} Hz, "
        f"band-passed {low:g} to {high:g} Hz. Decode by expectation over the classes, never by argmax: "
        "int8 logits tie."
    )
    if acc := config.get("acc"):
        low, high = acc["filter"]["band_hz"]
        what = "the length of its vector" if acc["kind"] == "magnitude" else "its axes x, y, z"
        yield ""
        yield (
            f"The last {acc['channels']} channel(s) of a window are the accelerometer's: {what}, band-passed "
            f"{low:g} to {high:g} Hz and divided by {acc['scale']:.6g}, in the units of the recordings "
            "trained on; no z-score. "
            + ("Without one, zeros." if acc["optional"] else "It was never trained without one.")
        )


def _tflite(mcu: dict[str, Any], tflite: dict[str, Any]) -> Iterator[str]:
    cost = tflite["mae_bpm"] - mcu["fp32"]["mae_bpm"]
    yield "## .tflite"
    yield ""
    yield (
        "`model.int8.tflite` has no float in it, as compilers for microcontrollers ask; its ranges are of "
        "windows of training subjects. For compilers that take ONNX, `model.int8.onnx` is quantised as QDQ, "
        "with its class layer in float32."
    )
    yield ""
    yield "| | type and shape | scale | zero point |"
    yield "|---|---|---|---|"
    for name in ("input", "output"):
        end = tflite[name]
        shape = ", ".join(map(str, end["shape"]))
        yield f"| {name} | {end['dtype']} ({shape}) | {end['scale']:.9g} | {end['zero']} |"
    yield ""
    yield (
        "Give round(x / scale) + zero point of a filtered, normalised window, cut off at -128 and 127; take "
        "(y - zero point) * scale as logits, and decode those by expectation."
    )
    yield ""
    yield (
        f"Run at export on {tflite['windows']:,} windows of the test subjects: it changes the error by "
        f"{cost:+.3f} BPM against float32, and a heart rate by {tflite['drift_bpm']['mean']:.3f} BPM on "
        "average."
    )


def _c(config: dict[str, Any], c: dict[str, Any]) -> Iterator[str]:
    yield "## C"
    yield ""
    int8, fs = config["test"].get("int8_c"), config["fs"]
    rate = (
        f"Samples come at {c['device_fs']:g} Hz and are resampled to {fs:g} Hz as they come, by the same "
        "polyphase filter as in `stream.py`."
        if c["device_fs"]
        else "Nothing is resampled: samples must come at that rate (for another: `export --device-fs`)."
    )
    yield (
        f"`c/kdsweep_student.c` and `.h` are the {'int8' if int8 else 'float32'} model and everything round "
        f"it, from samples at {c['device_fs'] or fs:g} Hz to BPM and the classes' standard deviation, in C99 "
        "without malloc; of the C library they use memcpy, memset, sqrtf, isfinite and, for a stride of no "
        "whole number of samples, llrint. The filter runs forward only, as `stream.py` does with "
        f"`causal=True`, in single precision on the samples' differences. {rate}"
    )
    yield ""
    if int8:
        yield (
            "Weights and maps are 8-bit integers, ranges from windows of training subjects; logits are the "
            f"same to the bit on every processor. Beside float32 it costs {said(int8)}."
        )
        yield ""
        if "qat" in int8:
            yield from _qat(int8)
    yield "| RAM and flash | bytes |"
    yield "|---|---|"
    yield f"| arena (`KDS_ARENA_BYTES`) | {c['arena_bytes']:,} |"
    yield f"| the stream's state (`kds_stream`), about | {c['state_bytes']:,} |"
    more = ", and the resampler's taps" if c["device_fs"] else ""
    yield f"| weights{more} | {c['constant_bytes']:,} |"
    yield ""
    if checked := c["checked"]:
        logits = (
            "are those of the reference in numpy to the bit"
            if int8
            else f"differ from torch by at most {checked['off']:.1e} of the largest"
        )
        yield (
            f"Built and run at export: `make test` passed, and on {checked['windows']:,} windows the logits "
            f"{logits}, BPM differ by {checked['off_bpm']:.1e}."
        )
    else:
        yield "Not run at export: there was no cc or no make. Run `make test` in `c/`."
    yield ""
    if "tracker" in c:
        yield in_c(c["tracker"])
        yield ""
    yield "    make -C c test    # on your machine; c/Makefile says how for a microcontroller"
    yield ""
    yield (
        "In firmware: compile `kdsweep_student.c` with your flags (or include `kdsweep_student.cmake`), call "
        "`kds_start` once and `kds_push` for every sample; where it returns 1 there is a new heart rate. "
        "`main.c` shows the calls and runs `vectors.h`, made-up signals; put your own output for its printf."
    )


def _qat(int8: dict[str, Any]) -> Iterator[str]:
    qat, before = int8["qat"], int8["post_training"]
    chosen = f"epoch {qat['best_epoch']} of {qat['epochs']}" if qat["best_epoch"] else "none of its epochs"
    yield (
        f"The weights in C were fine-tuned for their integers (quantisation-aware, `{qat['id']}`; {chosen} "
        "was chosen on the validation windows); `model.onnx` has those from before."
    )
    yield ""
    yield "| on the test windows | MAE, BPM | heart rates move by, BPM |"
    yield "|---|---|---|"
    yield f"| float32 | {before['mae_bpm'] - before['costs_bpm']:.3f} | |"
    for what, cost in (("int8 after training", before), ("int8, fine-tuned: in C", int8)):
        yield f"| {what} | {cost['mae_bpm']:.3f} | {cost['drift_bpm']['mean']:.3f} |"
    yield ""


def _limits(opened: Opened, result: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    lowest, highest = config["bpm_range"]
    yield "## Limits"
    yield ""
    yield "- **Not a medical device.** Not for diagnosis, alarms or any decision about health."
    flag = (
        "only its tracker says where it is unsure"
        if "tracker" in config
        else "it does not flag inputs it cannot handle"
    )
    yield f"- Outputs {lowest} to {highest} BPM for any input; {flag}."
    yield "- Untested on sensors, skin tones, body sites and movements outside the training data."
    yield "- The interval above covers new subjects from the same population, not other devices."
    if "estimate" not in result and len(config["test"]["subjects"]) < 10:
        yield f"- Tested on {len(config['test']['subjects'])} subjects only."
    if opened.data.source == "synthetic":
        yield "- All figures are of synthetic recordings."
