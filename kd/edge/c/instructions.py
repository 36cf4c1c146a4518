"""Instructions of a student in C, from its shape alone: how often each of the generator's loops turns.

`counts` follows the calls that `network` writes and the loops of student.c.j2, turn by turn; what a turn
costs on a processor was measured once (`kd.edge.calibrate`) and is shipped in instructions.json. The
functions of the C are compiled apart from their callers (APART): a turn costs the same in every student.
Torch-free.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.models import resnet1d
from kd.models.architectures import ARCHITECTURES, CLASSES
from kd.models.conv import Conv

FILE = Path(__file__).parent / "instructions.json"
ABOUT = (
    "computed from the loops of the generated C, with costs a turn that were counted once in QEMU; "
    "instructions, not cycles or wait states"
)
Call = tuple[
    str, tuple[Any, ...]
]  # a function and its numbers, as `numbers` takes them from a call of `Network`
Terms = dict[str, Any]  # a loop's name -> its turns


@dataclass(frozen=True)
class Pipeline:
    """What decides on the instructions beside the network.

    channels, samples: of the model's input. inputs: of the sensor. sections: of the filter. stride: samples
    from one window to the next. mean: whether the model's input is the mean of the sensor's channels. axes:
    channels of the model's input that are the accelerometer's, and lines of the filter beside the inputs.
    """

    samples: int = 200
    channels: int = 1
    inputs: int = 1
    classes: int = CLASSES
    sections: int = 4
    stride: float = 50.0
    zscore: bool = True
    mean: bool = True
    axes: int = 0

    @staticmethod
    def of(config: Mapping[str, Any], inputs: int) -> "Pipeline":
        """Of what preprocess.json says; inputs as `write_c` takes them."""
        _, channels, samples = config["input"]["shape"]
        mean = config["channels"] == "mean"
        axes = config["acc"]["channels"] if "acc" in config else 0
        return Pipeline(
            axes=axes,
            samples=samples,
            channels=channels,
            inputs=inputs if mean else channels - axes,
            classes=len(config["class_centres_bpm"]),
            sections=len(config["filter"]["sos"]),
            stride=config["stride_s"] * config["fs"],
            zscore=config["normalise"] == "zscore",
            mean=mean,
        )


def numbers(call: tuple[str, tuple[Any, ...]]) -> Call:
    """A call of `kd.edge.c.network.Network` without its places and constants: (function, numbers)."""
    function, given = call
    kept = {
        "convolve": (1, 2, 3, 4, 5, 8),
        "look_back": (1, 2, 3, 4, 5, 6),
        "depthwise": (1, 2, 3, 4),
        "norm_relu": (1, 2),
        "average": (1, 2),
        "dense": (1, 2, 5),
    }
    if function not in kept:
        raise InputError(f"{function} has no law of instructions")
    return function, tuple(given[i] for i in kept[function])


def label(call: Call) -> str:
    """A layer in words."""
    function, n = call
    if function == "convolve":
        after = {"PLAIN": "", "RELU": ", norm and ReLU", "ADD": ", added", "ADD_RELU": ", added, ReLU"}[n[5]]
        return (
            f"convolution {n[1]} to {n[2]}, {n[3]} tap{'s' * (n[3] > 1)}, length {n[0]}, stride {n[4]}{after}"
        )
    if function == "look_back":
        apart = f" {n[4]} apart" if n[4] > 1 else ""
        shape = f"{n[1]} to {n[2]}, {n[3]} taps{apart}, length {n[0]}, stride {n[5]}"
        return f"causal convolution {shape}, norm and ReLU"
    if function == "depthwise":
        return f"convolution of each of {n[1]}, {n[2]} taps, length {n[0]}, stride {n[3]}, norm and ReLU"
    if function == "dense":
        return f"linear {n[0]} to {n[1]}{', norm and ReLU' if n[2] == 'RELU' else ''}"
    return f"{'norm and ReLU' if function == 'norm_relu' else 'mean over time'}, {n[1]} by {n[0]}"


def known(arch: str) -> bool:
    """Whether `calls` knows an architecture: those that have C."""
    plan = ARCHITECTURES[arch].plan if arch in ARCHITECTURES else None
    return plan is not None or arch in ("mlp", "resnet1d", "resnet1d-post")


def calls(arch: str, depth: int, width: Any, pipeline: Pipeline) -> Iterator[Call]:
    """The calls that `network` writes for a model of this shape; width: an integer, or an array of them."""
    if arch == "mlp":
        inputs = pipeline.channels * pipeline.samples
        for _ in range(depth):
            yield "dense", (inputs, width, "RELU")
            inputs = width
        yield "dense", (inputs, pipeline.classes, "PLAIN")
        return
    if not known(arch):
        raise InputError(f"architecture {arch!r} has no law of instructions")
    if plan := ARCHITECTURES[arch].plan:
        yield from _chain_calls(plan(depth, width, pipeline.channels), pipeline)
        return
    kernel, length, filters = resnet1d.KERNEL, pipeline.samples, resnet1d.filters(depth, width)
    before = arch == "resnet1d"  # whether norms stand before the convolutions, or in them
    yield "convolve", (length, pipeline.channels, width, kernel, 1, "PLAIN" if before else "RELU")
    for i, (cin, cout) in enumerate(pairwise(filters)):
        stride = resnet1d.stride(i)
        out = -(-length // stride)
        if before:
            yield "norm_relu", (length, cin)
        if stride != 1 or (i > 0 and i % resnet1d.GROW_GAP == 0):
            yield "convolve", (length, cin, cout, 1, stride, "PLAIN")
        yield "convolve", (length, cin, cout, kernel, stride, "RELU")
        yield "convolve", (out, cout, cout, kernel, 1, "ADD" if before else "ADD_RELU")
        length = out
    if before:
        yield "norm_relu", (length, filters[-1])
    yield "average", (length, filters[-1])
    yield "dense", (filters[-1], pipeline.classes, "PLAIN")


def _chain_calls(convs: Sequence[Conv], pipeline: Pipeline) -> Iterator[Call]:
    length = pipeline.samples
    for c in convs:
        if c.depthwise:
            yield "depthwise", (length, c.cin, c.kernel, c.stride)
        elif c.causal:
            yield "look_back", (length, c.cin, c.cout, c.kernel, c.dilation, c.stride)
        else:
            yield "convolve", (length, c.cin, c.cout, c.kernel, c.stride, "RELU")
        length = -(-length // c.stride)
    yield "average", (length, convs[-1].cout)
    yield "dense", (convs[-1].cout, pipeline.classes, "PLAIN")


def counts(call: Call, pairs: bool) -> Terms:
    """How often the loops of a call turn, by their names; arrays where widths are. pairs: see `turns`."""
    function, n = call
    found: Terms = {function: 1}
    if function == "dense":
        found |= _rows(function, n[0], n[1], 1, n[2], pairs)
    elif function == "convolve":
        length, cin, cout, kernel, stride, how = n
        positions = range(0, length, stride)
        found[f"{function}.position"] = len(positions)
        inside = Counter(_inside(at, length, kernel) for at in positions)
        for taps, times in inside.items():
            for name, turns in _rows(function, taps * cin, cout, times, how, pairs).items():
                found[name] = found.get(name, 0) + turns
    elif function == "look_back":
        length, cin, cout, kernel, dilation, stride = n
        positions = range(0, length, stride)
        found[f"{function}.position"] = len(positions)
        for taps, times in Counter(min(at // dilation + 1, kernel) for at in positions).items():
            for name, turns in _rows(function, cin, cout, times, "RELU", pairs, taps).items():
                found[name] = found.get(name, 0) + turns
    elif function == "depthwise":
        length, channels, kernel, stride = n
        positions = range(0, length, stride)
        found[f"{function}.position"] = len(positions)
        found[f"{function}.channel"] = len(positions) * channels
        found[f"{function}.product"] = channels * sum(_inside(at, length, kernel) for at in positions)
    else:
        length, channels = n
        outer = length if function == "norm_relu" else channels
        found[f"{function}.row"] = outer
        found[f"{function}.value"] = length * channels
    return found


def _inside(at: int, length: int, kernel: int) -> int:
    """Taps about a position that lie inside the window."""
    return min(at - kernel // 2 + kernel, length) - max(at - kernel // 2, 0)


def _rows(
    function: str, inputs: Any, outputs: Any, times: int, how: str, pairs: bool, taps: int | None = None
) -> Terms:
    """Of `rows`: outputs two at a time and singly, each in quads of products and the rest.

    taps: of `rows_apart`, whose products are in as many runs.
    """
    two = outputs // 2 if pairs else 0 * outputs
    found: Terms = {}
    for kind, number in (("pair", two), ("single", outputs - 2 * two)):
        turns = number * times
        runs = turns * (taps or 1)
        found[f"{function}.{kind}"] = turns
        found[f"{function}.{kind}.quad"] = runs * (inputs // 4)
        found[f"{function}.{kind}.product"] = runs * (inputs % 4)
        found[f"{function}.{kind}.short"] = runs * (inputs < 4)
        found[f"{function}.{kind}.rest"] = runs * (inputs % 4 > 0)
        if taps is None:
            found[f"{function}.{kind}.{how}"] = turns
        else:
            found[f"{function}.{kind}.tap"] = runs
    found[f"{function}.any"] = times * (two > 0)
    return found


def around(pipeline: Pipeline) -> dict[str, Terms]:
    """What is done beside the network: for a "sample", for a "window" beyond its sample, for "decode"."""
    p = pipeline
    several = p.mean and p.inputs > 1
    lines, ppg = p.inputs + p.axes, p.channels - p.axes
    sample = {"sample": 1, "sample.input": lines, "sample.section": lines * p.sections}
    window = {"window": 1, "window.normalise": ppg * p.samples * p.zscore}
    window["window.copy"] = 0 if several else ppg * p.samples
    window["window.add"] = (p.inputs * several + p.axes) * p.samples  # the axes are scaled, too
    return {
        "sample": sample | {"sample.scale": p.inputs * several, "sample.mean": int(several)},
        "window": window | {"window.fraction": int(abs(p.stride - round(p.stride)) > 1e-9)},
        "decode": {"decode": 1, "decode.class": p.classes},
    }


@functools.cache
def shipped() -> dict[str, Any]:
    """instructions.json: what a turn costs on each target, and how that was measured."""
    document: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return document


def priced(terms: Terms, costs: Mapping[str, float]) -> Any:
    """Instructions of loops that turn so often."""
    # a loop without a cost turned in no student that was counted
    return sum((costs.get(name, 0.0) * turns for name, turns in terms.items()), start=0.0)


def per_window(arch: str, depth: int, width: Any, pipeline: Pipeline, target: str) -> Any:
    """Instructions of the kds_push that completes a window; width: an integer, or an array of them."""
    return network_instructions(calls(arch, depth, width, pipeline), target) + sum(
        priced(terms, shipped()["targets"][target]["costs"]) for terms in around(pipeline).values()
    )


def network_instructions(layers: Iterable[Call], target: str) -> Any:
    """Instructions of a network's calls."""
    known = shipped()["targets"][target]
    return sum((priced(counts(call, known["pairs"]), known["costs"]) for call in layers), start=0.0)


def per_sample(pipeline: Pipeline, target: str) -> float:
    """Instructions of any other kds_push."""
    return float(priced(around(pipeline)["sample"], shipped()["targets"][target]["costs"]))


def per_estimate(window: Any, pipeline: Pipeline, target: str) -> Any:
    """Instructions from one heart rate to the next: a window's and those of the samples that it waits for."""
    return window + per_sample(pipeline, target) * max(pipeline.stride - 1, 0.0)
