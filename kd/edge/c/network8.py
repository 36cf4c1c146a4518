"""An 8-bit student as the calls and constants of a C program, with the place of every map in one arena.

Maps are channels-last, as in `network`. A residual sum's int8 map lies at one end of the arena, the uint8 map
that is read next at the other, and a block's hidden map beyond that; sizes are bytes.
"""

from typing import Any

import numpy as np

from kd.edge.c.network import Place
from kd.edge.int8.layers import Convolution, Rescale
from kd.edge.int8.student import Student8


class Program:
    """calls: functions with arguments, some of them a Place. arena: its size. constant_bytes: in flash."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.constants: list[tuple[str, str, str]] = []  # type, name with its length, values
        self.constant_bytes = self.arena = 0

    def constant(self, kind: str, name: str, values: Any, each: int = 1) -> str:
        """An array of `kind`; its name. each: numbers of an element."""
        numbers = np.asarray(values).reshape(-1, each)
        if kind == "float":
            texts = [f"{float(v):.9g}" for v in numbers.ravel()]
            texts = [(t if any(c in t for c in ".e") else t + ".0") + "f" for t in texts]
        else:
            texts = [
                str(int(v)) if each == 1 else f"{{{', '.join(map(str, v))}}}"
                for v in (numbers.ravel() if each == 1 else numbers)
            ]
        self.constant_bytes += numbers.size * (1 if kind == "int8_t" else 4)
        step = 16 if kind == "int8_t" else 6
        lines = (", ".join(texts[i : i + step]) for i in range(0, len(texts), step))
        self.constants.append((kind, f"{name}[{len(texts)}]", ",\n    ".join(lines)))
        return name

    def rescale(self, name: str, to: Rescale | None) -> str:
        """How sums become a map; the C expression for it."""
        if to is None:
            return "NONE"
        channels = np.stack([to.multiplier, to.offset], 1)
        table = self.constant("channel", f"c_{name}", channels, 2)
        keep = "NONE" if to.keep is None else self.constant("int32_t", f"k_{name}", to.keep)
        self.constants.append(("rescale", f"r_{name}", f"{table}, {keep}, {to.left}, {to.shift}"))
        self.constant_bytes += 16
        return f"&r_{name}"

    def live(self, *sizes: int) -> None:
        """So many bytes are alive at once; the arena is of whole words."""
        self.arena = max(self.arena, -(-sum(sizes) // 4) * 4)

    def call(self, function: str, *arguments: Any) -> None:
        """Add a statement."""
        self.calls.append((function, arguments))

    def statements(self) -> list[str]:
        """The calls as C, places resolved."""
        return [f"{name}({', '.join(self._argument(a) for a in given)});" for name, given in self.calls]

    def _argument(self, argument: Any) -> str:
        if not isinstance(argument, tuple):
            return str(argument)
        kind, place = argument
        offset = place.offset(self.arena)
        if kind == "kept":
            return f"(kept_t *)arena.maps + {offset}"
        return f"arena.maps + {offset}" if kind == "map" else f"arena.{kind} + {offset // 4}"


def labels8(student: Student8) -> list[str]:
    """The program's calls in words."""
    return [_label(*call) for call in _walked(student)[0].calls]


def _label(function: str, given: tuple[Any, ...]) -> str:
    if function == "convolve":
        _, length, _, cin, cout, taps, stride, *_ = given
        return f"convolution {cin} to {cout}, {taps} tap{'s' * (taps > 1)}, length {length}, stride {stride}"
    if function == "average":
        return f"mean over time, {given[2]} by {given[1]}"
    return f"linear {given[1]} to {given[2]}"


def program8(student: Student8) -> dict[str, Any]:
    """What student.c.j2 asks of an 8-bit student, and arena_bytes and constant_bytes."""
    program, window, logits = _walked(student)
    border = student.stem.weights.shape[1] // 2 if student.stem is not None else 0
    w = student.window
    return {
        "int8": True,
        "resnet": student.stem is not None,
        "post": student.post,
        "channels_last": student.stem is not None,
        "constants": program.constants,
        "statements": program.statements(),
        "logits_at": logits.offset(program.arena) // 4,
        "window_at": window.offset(program.arena) + border * student.channels,
        "border": border,
        "longest_row": _longest_row(student),
        "limit": _float(w.limit),
        "factor": _float(w.factor),
        "multiplier": w.multiplier,
        "offset": w.offset,
        "shift": w.shift,
        "arena_bytes": program.arena,
        "constant_bytes": program.constant_bytes,
    }


def _longest_row(student: Student8) -> int:
    """The most products of a sum that `cmsis_int8.c.j2` copies the inputs of."""
    if student.stem is None:
        rows = [layer.weights for layer in student.hidden] + [student.classes.weights]
        return max(weights.shape[1] for weights in rows)
    convolutions = [student.stem, *(c for b in student.blocks for c in (b.first, b.second))]
    return max(c.weights.shape[1] * c.weights.shape[2] for c in convolutions)


def _walked(student: Student8) -> tuple[Program, Place, Place]:
    """The program, and the places of the window, borders included, and of the logits."""
    program = Program()
    walk = _mlp if student.stem is None else _resnet1d_post if student.post else _resnet1d
    window, x = walk(program, student)
    classes = student.classes
    logits = Place(not x.top, 4 * len(classes.bias))
    weights = program.constant("int8_t", "w_fc", classes.weights)
    bias = program.constant("int32_t", "t_fc", classes.bias)
    scale = program.constant("float", "s_fc", classes.scale)
    outputs, inputs = classes.weights.shape
    features = ("words" if student.stem is not None else "map", x)
    program.call("classify", features, inputs, outputs, weights, bias, scale, ("reals", logits))
    program.live(x.size, logits.size)
    return program, window, logits


def _float(value: float) -> str:
    text = f"{value:.9g}"
    return (text if any(c in text for c in ".e") else text + ".0") + "f"


def _resnet1d(program: Program, student: Student8) -> tuple[Place, Place]:
    """Places of the window, borders included, and of the features."""
    stem, length = student.stem, student.samples
    assert stem is not None
    width, kernel, cin = stem.weights.shape
    pre = Place(False, width * length)
    kept = Place(True, width * length) if stem.to_kept else None
    window = Place(False, (length + 2 * (kernel // 2)) * cin, beyond=pre.size)
    _convolve(program, stem, window, length, kept, pre)
    program.live(kept.size if kept else 0, pre.size, window.size)
    for block in student.blocks:
        cout = block.second.weights.shape[0]
        out = -(-length // block.first.stride)
        size = cout * out
        if block.shortcut is not None:
            kept = Place(not pre.top, size)
            _convolve(program, block.shortcut, pre, length, kept, None)
        assert kept is not None
        # the map after the block lies over the one before it, or over what was kept if nothing keeps it on
        after = Place(pre.top if block.second.to_kept else kept.top, size)
        room = max(pre.size, size if block.second.to_kept else 0)
        hidden = Place(pre.top, size, beyond=room)
        _convolve(program, block.first, pre, length, None, hidden)
        _convolve(program, block.second, hidden, out, kept, after)
        program.live(kept.size, room, hidden.size)
        pre, length = after, out
        kept = kept if block.second.to_kept else None
    return window, _average(program, student, pre, length)


def _resnet1d_post(program: Program, student: Student8) -> tuple[Place, Place]:
    """The same of post-activation blocks: what they keep is their input, or lies opposite to it."""
    stem, length = student.stem, student.samples
    assert stem is not None
    width, kernel, cin = stem.weights.shape
    x = Place(True, width * length)
    window = Place(False, (length + 2 * (kernel // 2)) * cin)
    _convolve(program, stem, window, length, None, x, post=True)
    program.live(x.size, window.size)
    for block in student.blocks:
        cout = block.second.weights.shape[0]
        out = -(-length // block.first.stride)
        kept, beyond = x, 0
        if block.shortcut is not None:
            kept = Place(not x.top, cout * out)
            beyond = kept.size
            _convolve(program, block.shortcut, x, length, None, kept, post=True)
        hidden = Place(not x.top, cout * out, beyond=beyond)
        _convolve(program, block.first, x, length, None, hidden, post=True)
        _convolve(program, block.second, hidden, out, kept, kept, post=True)
        program.live(x.size, hidden.size, beyond)
        x, length = kept, out
    return window, _average(program, student, x, length)


def _average(program: Program, student: Student8, x: Place, length: int) -> Place:
    assert student.average is not None
    channels = x.size // length
    features = Place(not x.top, 4 * channels)
    program.call("average", ("map", x), length, channels, student.average.shift, ("words", features))
    program.live(x.size, features.size)
    return features


def _convolve(
    program: Program,
    layer: Convolution,
    x: Place,
    length: int,
    kept: Place | None,
    y: Place | None,
    post: bool = False,
) -> None:
    cout, kernel, cin = layer.weights.shape
    weights = program.constant("int8_t", f"w_{layer.name}", layer.weights)
    to_kept = () if post else (program.rescale(f"{layer.name}_kept", layer.to_kept),)
    to_map = program.rescale(f"{layer.name}_map", layer.to_map)
    border = kernel // 2 if layer.border else 0
    if border:
        x = Place(x.top, x.size - border * cin, x.beyond + border * cin)
    places = (("kept", kept) if kept else "NONE", ("map", y) if y else "NONE")
    shape = (length, border, cin, cout, kernel, layer.stride)
    program.call("convolve", ("map", x), *shape, weights, *to_kept, to_map, *places)


def _mlp(program: Program, student: Student8) -> tuple[Place, Place]:
    """Places of the window and of the features."""
    x = window = Place(False, student.channels * student.samples)
    for layer in student.hidden:
        outputs, inputs = layer.weights.shape
        weights = program.constant("int8_t", f"w_{layer.name}", layer.weights)
        y = Place(not x.top, outputs)
        to_map = program.rescale(f"{layer.name}_map", layer.to_map)
        program.call("dense", ("map", x), inputs, outputs, weights, to_map, ("map", y))
        program.live(x.size, y.size)
        x = y
    return window, x
