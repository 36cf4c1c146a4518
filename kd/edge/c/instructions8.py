"""Instructions and arena of an 8-bit student in C, from its shape alone: `instructions` of its other loops.

`counts` follows the calls that `network8` writes; costs a turn are in instructions8.json. Torch-free.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kd.edge.c import instructions as base
from kd.edge.c.instructions import Call, Pipeline, Terms, priced
from kd.errors import InputError
from kd.models import resnet1d
from kd.models.architectures import ARCHITECTURES
from kd.models.conv import Conv

FILE = Path(__file__).parent / "instructions8.json"
VECTORS = 16  # numbers in a vector, and outputs whose sums wait for each other there
STEPS = {"m0plus": 1, "m4": 4, "m7": 4, "m33": 4, "m55": VECTORS}  # products that a target takes at a time
PLACES = 4  # of which a causal convolution lays the inputs side by side at most
TOGETHER = 8  # outputs whose sums wait for each other elsewhere
KNOWN = ("mlp", "resnet1d", "resnet1d-post")


def known(arch: str) -> bool:
    """Whether `calls` knows an architecture."""
    return arch in KNOWN


def calls(arch: str, depth: int, width: Any, pipeline: Pipeline) -> Iterator[Call]:
    """The calls that `network8` writes for a model of this shape; width: an integer, or an array of them.

    Of a convolution: length, border, inputs, outputs, taps, stride, and which maps it makes.
    """
    if not known(arch):
        raise InputError(f"architecture {arch!r} has no law of instructions in int8")
    if arch == "mlp":
        inputs = pipeline.channels * pipeline.samples
        for _ in range(depth):
            yield "dense", (inputs, width)
            inputs = width
        yield "classify.map", (inputs, pipeline.classes)
        return
    kernel, length, filters = resnet1d.KERNEL, pipeline.samples, resnet1d.filters(depth, width)
    pre = arch == "resnet1d"
    name = "convolve" if pre else "convolve.post"
    changes = _changes(depth)
    keeps = [pre and not changed for changed in changes] + [False]  # whether a sum is kept as int8, too

    def maps(kept: bool) -> tuple[str, ...]:
        return ("map", "kept") if kept else ("map",)

    yield name, (length, kernel // 2, pipeline.channels, width, kernel, 1, maps(keeps[0]))
    for i, (cin, cout) in enumerate(pairwise(filters)):
        stride = resnet1d.stride(i)
        out = -(-length // stride)
        if changes[i]:
            yield name, (length, 0, cin, cout, 1, stride, ("kept",) if pre else ("map",))
        yield name, (length, 0, cin, cout, kernel, stride, ("map",))
        yield name, (out, 0, cout, cout, kernel, 1, tuple(f"{m}.add" for m in maps(keeps[i + 1])))
        length = out
    yield "average", (length, filters[-1])
    yield "classify", (filters[-1], pipeline.classes)


def has_arena(arch: str) -> bool:
    """Whether `arena_bytes` knows the architecture; `calls` knows those of KNOWN alone."""
    return arch in KNOWN or (arch in ARCHITECTURES and ARCHITECTURES[arch].plan is not None)


def arena_bytes(arch: str, depth: int, width: Any, pipeline: Pipeline) -> Any:
    """KDS_ARENA_BYTES of its C: the most that is alive at once, in whole words; width as for `calls`."""
    live = list(_live(arch, depth, width, pipeline))
    return np.max(np.stack(np.broadcast_arrays(*live)), axis=0) + 3 & ~3


def _live(arch: str, depth: int, width: Any, pipeline: Pipeline) -> Iterator[Any]:
    """Bytes alive in each call, as `network8` lays them out."""
    width, logits = np.asarray(width), 4 * pipeline.classes
    window = pipeline.channels * pipeline.samples
    if arch == "mlp":
        yield from (window + width, *([2 * width] * (depth - 1)), width + logits)
        return
    if plan := ARCHITECTURES[arch].plan:
        yield from _live_chain(plan(depth, width, pipeline.channels), pipeline)
        return
    length, filters = pipeline.samples, resnet1d.filters(depth, width)
    pre, changes = arch == "resnet1d", [*_changes(depth), True]
    bordered = window + 2 * (resnet1d.KERNEL // 2) * pipeline.channels
    yield width * length * (1 + (pre and not changes[0])) + bordered
    for i, (cin, cout) in enumerate(pairwise(filters)):
        out = -(-length // resnet1d.stride(i))
        size, x = cout * out, cin * length
        if pre:
            yield 2 * size + np.maximum(x, 0 if changes[i + 1] else size)
        else:
            yield x + size * (1 + changes[i])
        length = out
    features = 4 * filters[-1]
    yield filters[-1] * length + features
    yield features + logits


def _live_chain(convs: Sequence[Conv], pipeline: Pipeline) -> Iterator[Any]:
    length, features = pipeline.samples, 4 * convs[-1].cout
    for i, c in enumerate(convs):
        out, border = -(-length // c.stride), 0 if i or c.causal else 2 * c.before * c.cin
        rows = PLACES * c.kernel * c.cin if c.causal else 0
        yield c.cin * length + border + c.cout * out + rows
        length = out
    yield convs[-1].cout * length + features
    yield features + 4 * pipeline.classes


def _changes(depth: int) -> list[bool]:
    """Which blocks have a convolution as their shortcut."""
    return [resnet1d.stride(i) != 1 or (i > 0 and i % resnet1d.GROW_GAP == 0) for i in range(depth)]


def counts(call: Call, step: int) -> Terms:
    """How often the loops of a call turn, by their names; arrays where widths are. step: of STEPS."""
    function, n = call
    vectors = step == VECTORS
    found: Terms = {function: 1}
    if function == "average":
        found |= {f"{function}.row": n[1], f"{function}.value": n[0] * n[1]}
    elif function == "classify":
        found |= {f"{function}.row": n[1], f"{function}.value": n[1] * (-(-n[0] // 4) if vectors else n[0])}
    elif function in ("dense", "classify.map"):
        inputs, outputs = n
        _add(found, f"{function}.dots", _products(inputs, step), -(-outputs // 4))
        found[f"{function}.row"] = outputs
        found[f"{function}.begin"] = -(-inputs // VECTORS) * vectors
    else:
        length, border, cin, cout, kernel, stride, maps = n
        for (places, taps), times in _turns(length, border, kernel, stride, 4 if vectors else 2).items():
            if vectors:
                terms = _blocks(places, taps * cin, cout, maps)
            else:
                terms = _pairs(places, taps * cin, cout, step, maps)
            _add(found, f"{function}.", terms, times)
    return found


def _turns(length: int, border: int, kernel: int, stride: int, most: int) -> Counter[tuple[int, int]]:
    """Of convolve's outer loop: how often it does how many places, `most` at once, with how many taps."""
    found: Counter[tuple[int, int]] = Counter()
    at = 0
    while at < length:
        first, last, places = at - kernel // 2, at - kernel // 2 + kernel, 1
        begin, end = max(first, -border), min(last, length + border)
        while places < most and first == begin:
            further = places * stride
            if at + further >= length or last + further > length + border:
                break
            places += 1
        found[places, end - begin] += 1
        at += places * stride
    return found


def _pairs(places: int, products: Any, cout: Any, step: int, maps: tuple[str, ...]) -> Terms:
    """A turn of network_int8.c.j2's own loop: outputs two at a time."""
    blocks, pairs = -(-cout // TOGETHER), cout // TOGETHER * 4 + (cout % TOGETHER + 1) // 2
    found: Terms = {f"{places}": 1, f"{places}.block": blocks}
    _add(found, f"{places}.dot", _products(products, step), pairs)
    for made in maps:
        found |= {made: blocks * places, f"{made}.value": cout * places}
    return found


def _blocks(places: int, products: Any, cout: Any, maps: tuple[str, ...]) -> Terms:
    """A turn of blocks_int8.c.j2: all places' sums of 16 outputs; one place's four outputs at a time."""
    groups, blocks = -(-products // VECTORS), -(-cout // VECTORS)
    kind, rows = ("many", cout) if places > 1 else ("one", cout // VECTORS * 4 + -(-(cout % VECTORS) // 4))
    found: Terms = {
        kind: 1,
        "place": places,
        "place.group": places * groups,
        f"{kind}.block": blocks,
        f"{kind}.row": rows,
        f"{kind}.row.group": rows * groups,
    }
    for made in maps:
        found |= {
            made: blocks,
            f"{made}.four": cout // 4,
            f"{made}.four.place": cout // 4 * places,
            f"{made}.rest": (cout % 4 > 0) * places,
            f"{made}.rest.value": cout % 4 * places,
        }
    return found


def _products(n: Any, step: int) -> Terms:
    """One sum of n products: groups of `step`, and what is left, which vectors take in one more of them."""
    if step == VECTORS:
        return {"": 1, ".group": -(-n // step)}
    return {"": 1, ".group": n // step, ".rest": n % step, ".any": n >= step}


def _add(found: Terms, name: str, terms: Terms, times: Any) -> None:
    for ending, turns in terms.items():
        found[name + ending] = found.get(name + ending, 0) + turns * times


def around(pipeline: Pipeline) -> dict[str, Terms]:
    """What is done beside the network, as in `instructions`; a window is gathered in one of six ways."""
    p = pipeline
    found, several = base.around(p), p.mean and p.inputs > 1
    kind = f"window.{'zscore' if p.zscore else 'plain'}.{'mean' if several else 'one' if p.mean else 'own'}"
    found["window"] = {
        "window": 1,
        f"{kind}.channel": p.channels - p.axes,
        f"{kind}.value": (p.channels - p.axes) * p.samples,
        f"{kind}.read": p.inputs * p.samples * several,  # by each pass over a window
        "window.scale": p.inputs * several,
        "window.fraction": found["window"]["window.fraction"],
    }
    if p.axes:  # what they take is nearly what a channel without z-score does
        _add(found["window"], "window.plain.own", {".channel": 1, ".value": p.samples}, p.axes)
    return found


@functools.cache
def shipped() -> dict[str, Any]:
    """instructions8.json: what a turn costs on each target, and how that was measured."""
    document: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return document


def per_window(arch: str, depth: int, width: Any, pipeline: Pipeline, target: str) -> Any:
    """Instructions of the kds_push that completes a window; width: an integer, or an array of them."""
    known = shipped()["targets"][target]["costs"]
    network = (priced(counts(call, STEPS[target]), known) for call in calls(arch, depth, width, pipeline))
    beside = (priced(terms, known) for terms in around(pipeline).values())
    return sum(network, start=0.0) + sum(beside)


def per_sample(pipeline: Pipeline, target: str) -> float:
    """Instructions of any other kds_push."""
    return float(priced(around(pipeline)["sample"], shipped()["targets"][target]["costs"]))


def per_estimate(window: Any, pipeline: Pipeline, target: str) -> Any:
    """Instructions from one heart rate to the next: a window's and those of the samples that it waits for."""
    return window + per_sample(pipeline, target) * max(pipeline.stride - 1, 0.0)
