"""The files of a student in C: `kdsweep_student.c` and `.h`, a test program with vectors, what builds it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from torch import nn

from kd.edge.c.network import network
from kd.edge.c.network8 import program8
from kd.edge.c.resampler import device_fs, inputs_until, resampler
from kd.edge.int8.layers import LEVEL
from kd.edge.int8.student import Student8
from kd.errors import InputError
from kd.files import write_text
from kd.shipped import grid, stream
from kd.training.teacher import as_tensor, outputs

VECTORS = 4  # windows; each is copied into the test program
TRIES = 100  # signals; of four windows of 200 samples every fourth or so will do for an 8-bit student
CMSIS_NN = "Source/NNSupportFunctions/arm_nn_mat_mult_nt_t_s8_s32.c"  # what -DKDSWEEP_CMSIS_NN takes of it
TEMPLATES = {
    "kdsweep_student.c": "student.c.j2",
    "kdsweep_student.h": "student.h.j2",
    "main.c": "main.c.j2",
    "vectors.h": "vectors.h.j2",
    "Makefile": "Makefile.j2",
    "kdsweep_student.cmake": "kdsweep_student.cmake.j2",
}


class Reference:
    """The model as `kd.shipped.stream` calls one; keeps every window and its logits."""

    def __init__(self, model: nn.Module | Student8, config: Mapping[str, Any]) -> None:
        self.model, self.config = model, config
        self.centres = np.asarray(config["class_centres_bpm"], np.float64)
        self.windows: list[Any] = []
        self.logits: list[Any] = []

    def __call__(self, windows: Any) -> Any:
        """BPM (N,) of windows (N, channels, samples)."""
        windows = np.ascontiguousarray(windows, np.float32)
        logits = logits_of(self.model, windows)
        self.windows += list(windows)
        self.logits += list(logits)
        return decoded(logits, self.centres)[0]


def logits_of(model: nn.Module | Student8, windows: Any) -> Any:
    """Logits (N, K) of windows (N, channels, samples): torch's, or an 8-bit student's."""
    if isinstance(model, Student8):
        return model.logits(windows)
    return outputs(model.eval(), as_tensor(windows))[0].numpy()


def decoded(logits: Any, centres: Any) -> tuple[Any, Any]:
    """BPM (N,) and the classes' standard deviation about it (N,), of logits (N, K), in float64."""
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    bpm = p @ centres
    return bpm, np.sqrt((p * (centres - bpm[:, None]) ** 2).sum(1))


def write_c(
    model: nn.Module | Student8, arch: str, config: Mapping[str, Any], inputs: int, title: str, folder: Path
) -> dict[str, int]:
    """Write the files into `folder`; bytes of the arena, the stream's state and the weights.

    config: what preprocess.json says, and "device_fs" if samples come at another rate, from which the C then
    resamples. inputs: the PPG sensor's channels, of which the mean is the model's input, if it was trained
    so; else they are the model's. Raises InputError for an architecture, rate or stride that C cannot have.
    """
    if config["stride_s"] * config["fs"] < 1:
        raise InputError(
            f"a window every {config['stride_s']:g} s is more than one a sample at {config['fs']:g} Hz: "
            "no C export; train with a longer preprocess.stride_s"
        )
    _, channels, samples = config["input"]["shape"]
    mean, acc = config["channels"] == "mean", config.get("acc")
    inputs = inputs if mean else ppg_channels(config)
    acc_channels = acc["channels"] if acc else 0
    program = program8(model) if isinstance(model, Student8) else _program(model, arch, channels, samples)
    sos, fs, numbers = config["filter"]["sos"], device_fs(config), resampler(config)
    ratio = float(grid.ratio(fs, config["fs"]))
    stride, reach = config["stride_s"] * fs * ratio, numbers["reach"]
    names = {
        "title": title,
        "fs": _float(fs),
        "fs_exact": f"{fs!r} * {ratio!r}" if reach else repr(fs),
        **numbers,
        "resample": bool(reach),
        "task_fs": f"{config['fs']:g}",
        "delay_s": f"{numbers['half'] / numbers['up'] / fs:.2g}",
        "tap_rows": _table(numbers["taps"], _float),
        "stride_s": repr(float(config["stride_s"])),
        "stride": round(stride) if abs(stride - round(stride)) < 1e-9 else 0,
        "window_s": f"{config['window_s']:g}",
        "low": f"{config['filter']['band_hz'][0]:g}",
        "high": f"{config['filter']['band_hz'][1]:g}",
        "samples": samples,
        "channels": channels,
        "inputs": inputs,
        "ppg_inputs": "KDS_PPG_INPUTS" if acc else "KDS_INPUTS",
        "ppg": "KDS_PPG" if acc else "KDS_CHANNELS",
        "filtered": "KDS_FILTERED" if acc else "KDS_INPUTS",
        "acc": acc["kind"] if acc else "",
        "acc_channels": acc_channels,
        "acc_scale": _float(acc["scale"]) if acc else "",
        "acc_sos": _sections(acc["filter"]["sos"]) if acc else "",
        "mean": mean,
        "classes": len(config["class_centres_bpm"]),
        "lowest": config["class_centres_bpm"][0],
        "sections": len(sos),
        "zscore": config["normalise"] == "zscore",
        "sos": _sections(sos),
        "level": LEVEL,
        "cmsis_nn": CMSIS_NN,
        **program,
        **_vectors(model, config, inputs),
    }
    environment = _environment()
    for name, template in TEMPLATES.items():
        write_text(folder / name, environment.get_template(template).render(names))
    floats = (inputs + acc_channels) * (2 * len(sos) + samples + 1) + 2 * inputs * (mean and inputs > 1)
    if reach:  # raw samples, and four integers that are as large as floats
        floats += (inputs + acc_channels) * (reach + 2) + 4
    return {
        "arena_bytes": program["arena_bytes"],
        "state_bytes": 8 * ((floats + 2) // 2) + 24,
        "constant_bytes": program["constant_bytes"] + 4 * numbers["taps"].size,
    }


def ppg_channels(config: Mapping[str, Any]) -> int:
    """Channels of the model's input that are the PPG's."""
    channels: int = config["input"]["shape"][1]
    return channels - (config["acc"]["channels"] if "acc" in config else 0)


def _sections(sos: Sequence[Sequence[float]]) -> str:
    return _table([[row[i] for i in (0, 1, 2, 4, 5)] for row in of_differences(sos)], _float)


def _program(model: nn.Module, arch: str, channels: int, samples: int) -> dict[str, Any]:
    """What student.c.j2 asks of a float32 network, and arena_bytes and constant_bytes."""
    net = network(model, arch, channels, samples)
    classes, called = len(net.constants["t_fc"]), {name for name, _ in net.calls}
    return {
        "int8": False,
        **{name: name in called for name in ("convolve", "look_back", "depthwise", "average")},
        "norms": "norm_relu" in called,
        "channels_last": net.channels_last,
        "constants": [(name, values.ravel()) for name, values in net.constants.items()],
        "statements": net.statements(),
        "logits_at": net.arena - classes if net.logits_at_top else 0,
        "arena_bytes": 4 * net.arena,
        "constant_bytes": 4 * sum(v.size for v in net.constants.values()),
    }


def of_differences(sos: Sequence[Sequence[float]]) -> list[list[float]]:
    """The second-order sections that say of a signal's differences what `sos` says of the signal.

    A band-pass has zeros at 0 Hz; the difference is one of them, so that it is left out of a section.
    """
    sections = [list(row) for row in sos]
    row = next(row for row in reversed(sections) if abs(sum(row[:3])) < 1e-9 * max(map(abs, row[:3])))
    row[:3] = [row[0], row[0] + row[1], 0.0]  # (1 - z)(b0 + (b0 + b1) z) is b0 + b1 z + b2 z^2
    return sections


def rehearsed(model: nn.Module | Student8, config: Mapping[str, Any], inputs: int) -> tuple[Any, Reference]:
    """A made-up signal, and the windows and logits that the live stream in Python makes of it.

    An 8-bit student gets one of which no sample lies so near two steps that a filter's rounding decides.
    """
    for seed in range(TRIES):
        signal, reference = made_up_signal(config, inputs, seed=seed), Reference(model, config)
        fs = device_fs(config)
        moves = {"acc_fs": fs} if "acc" in config else {}
        live = stream.Stream(reference, fs, inputs, causal=True, **moves)  # type: ignore[arg-type]
        heard = list(live.push(signal[:inputs], signal[inputs:]))
        if len(heard) != VECTORS:
            raise AssertionError(f"{len(heard)} windows in a signal made for {VECTORS}")
        if not isinstance(model, Student8) or model.window.certain(np.array(reference.windows)):
            break
    return signal, reference


def made_up_signal(config: Mapping[str, Any], channels: int, vectors: int = VECTORS, seed: int = 0) -> Any:
    """A pulse whose rate climbs, with noise, drift and a sensor's large level: (channels, samples), float32.

    After the channels of the PPG, an accelerometer's three axes, if the model sees one. Made up, so that no
    recording of a person goes into a firmware's tests. One sample is missing (NaN).
    """
    fs = device_fs(config)
    last = grid.first_sample(grid.start_s(vectors - 1, config["stride_s"]), fs, config["fs"])
    length = inputs_until(int(last) + config["samples"] - 1, resampler(config))
    t, rng = np.arange(length) / fs, np.random.default_rng(seed)
    phase = 2 * np.pi * (1.1 * t + 0.02 * t**2)
    rows = [np.sin(phase + c) + 0.4 * np.sin(2 * phase + c) for c in range(channels)]
    signal = 2000 + 10 * np.array(rows) + rng.standard_normal((channels, length)).cumsum(1)
    if "acc" in config:
        axes = [3 * (axis + 1) + np.sin(2 * np.pi * (1.7 + axis / 9) * t + axis) for axis in range(3)]
        signal = np.concatenate([signal, config["acc"]["scale"] * np.array(axes)])
    signal[:, length // 3] = np.nan
    return signal.astype(np.float32)


def _vectors(model: nn.Module | Student8, config: Mapping[str, Any], inputs: int) -> dict[str, Any]:
    """What vectors.h says: the signal, and what the live stream in Python cuts and hears."""
    signal, reference = rehearsed(model, config, inputs)
    bpm, sd = decoded(np.array(reference.logits), reference.centres)
    return {
        "vectors": VECTORS,
        "signal_length": signal.shape[1],
        "signal": _table(signal.T, _float),
        "windows": _table([w.ravel() for w in reference.windows], _float),
        "logits": _table(reference.logits, _float),
        "bpm": "{" + ", ".join(map(_float, bpm)) + "}",
        "sd": "{" + ", ".join(map(_float, sd)) + "}",
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kd.edge.c", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{##",
        comment_end_string="##}",
        autoescape=False,  # it is C
    )
    environment.filters["rows"] = lambda values: "\n".join(_lines(values))
    return environment


def _lines(values: Any, each: int = 8) -> Iterator[str]:
    """Numbers as lines of C."""
    texts = [_float(v) for v in np.ravel(values)]
    for i in range(0, len(texts), each):
        yield "    " + ", ".join(texts[i : i + each]) + ("," if i + each < len(texts) else "")


def _table(rows: Any, text: Any) -> str:
    """Rows of numbers as the inside of a C initialiser."""
    return "".join("    {" + ", ".join(text(float(v)) for v in row) + "},\n" for row in rows)


def _float(value: float) -> str:
    """A C float literal with all the digits a float32 has."""
    if np.isnan(value):
        return "NAN"
    text = f"{float(value):.9g}"
    return (text if any(c in text for c in ".e") else text + ".0") + "f"
