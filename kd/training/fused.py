"""The engine for one model on a CPU: an epoch in C++ (`fused.cpp`), on the flat vectors of `stack.py`."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kd.models.architectures import architecture
from kd.models.resnet1d import filters, stride
from kd.training.stack import Shape, Stack
from kd.training.terms import TERMS, Weights

KNOWN_TERMS = {"cross_entropy", "hard", "soft", "decoupled", "feature", "standardised", "dist"}
ARCHITECTURES = ("resnet1d", "mlp", "resnet1d-post")  # as fused.cpp numbers them; then those of a plan
INT, FLOAT, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Weight(ctypes.Structure):
    _fields_ = [(name, INT) for name in ("start", "out", "inner", "tap")]


class _Norm(ctypes.Structure):
    _fields_ = [(name, INT) for name in ("weight", "bias", "mean", "var")]


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, INT) for name in ("inner", "out", "stride")),
        *((name, _Norm) for name in ("norm1", "norm2", "norm3")),
        *((name, _Weight) for name in ("conv1", "conv2", "shortcut")),
        ("has_shortcut", INT),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [("inner", INT), ("out", INT), ("weight", _Weight), ("norm", _Norm)]


class _Link(ctypes.Structure):
    _fields_ = [
        *((name, INT) for name in ("inner", "out", "kernel", "stride", "dilation", "before", "depthwise")),
        *(("weight", _Weight), ("norm", _Norm)),
    ]


class _Shape(ctypes.Structure):
    _fields_ = [
        *(
            (name, INT)
            for name in ("arch", "channels", "samples", "depth", "features", "classes", "batch", "threads")
        ),
        ("stem", _Weight),
        ("last", _Norm),
        ("fc", _Weight),
        ("fc_bias", INT),
        ("connected", INT),
        ("connector", _Weight),
        ("connector_bias", INT),
    ]


class _Epoch(ctypes.Structure):
    _fields_ = [
        *(
            (name, POINTER)
            for name in (
                *("x", "bpm", "centres", "teacher_logits", "teacher_features"),
                *("coefficients", "orders"),
            )
        ),
        *((name, POINTER) for name in ("flat", "gradient", "mean", "square", "running")),
        *((name, INT) for name in ("steps", "size", "decayed")),
        *(
            (name, FLOAT)
            for name in (
                *("clip", "sigma", "ce", "hard", "soft", "tckd", "nckd", "feature"),
                *("temperature", "ramp", "unlabelled_weight"),
                *("standardised", "inter", "intra"),
            )
        ),
        ("window", INT),
        ("unlabelled", INT),
    ]


def fits(shape: Shape, weights: Weights) -> bool:
    """Whether the engine knows this architecture and these loss terms."""
    others = [weights.of(term) for name, term in TERMS.items() if name not in KNOWN_TERMS]
    known = shape.arch in ARCHITECTURES or architecture(shape.arch).plan is not None
    return known and not any(any(values) for values in others)


def address(tensor: Tensor | None) -> int | None:
    """Where a contiguous tensor's numbers are."""
    if tensor is None:
        return None
    assert tensor.is_contiguous(), "the engine reads contiguous memory"
    return tensor.data_ptr()


class FusedStack(Stack):
    """A stack of one on a CPU in float32, whose epochs and logits the engine computes."""

    engine = "fused"

    def __init__(self, library: ctypes.CDLL, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        assert self.members == 1
        assert self.dtype == torch.float32
        assert self.device.type == "cpu"
        self._library = library
        self._net: int | None = self._made()

    def _made(self) -> int:
        """The network, which works on this stack's vectors where they lie."""
        shape, layout = self.shape, self.optimiser.layout.places
        statistics = self._statistics.places

        def weight(name: str) -> _Weight:
            place = layout[f"{name}.weight"]
            tap = place.stride[3] if len(place.stride) == 4 else 0
            return _Weight(place.start, *place.stride[:2], tap)

        def norm(name: str) -> _Norm:
            return _Norm(
                layout[f"{name}.weight"].start,
                layout[f"{name}.bias"].start,
                statistics[f"{name}.running_mean"].start,
                statistics[f"{name}.running_var"].start,
            )

        plan = architecture(shape.arch).plan
        convs = plan(shape.depth, shape.width, shape.channels) if plan else ()
        made = _Shape(
            arch=len(ARCHITECTURES) if plan else ARCHITECTURES.index(shape.arch),
            channels=shape.channels,
            samples=shape.samples,
            depth=len(convs) or shape.depth,
            features=layout["fc.weight"].shape[1],
            classes=shape.classes,
            batch=self.batch,
            threads=torch.get_num_threads(),
            fc=weight("fc"),
            fc_bias=layout["fc.bias"].start,
        )
        for width in self.connectors:
            made.connected, made.connector = width, weight(f"connector{width}")
            made.connector_bias = layout[f"connector{width}.bias"].start
        blocks, layers = (_Block * shape.depth)(), (_Layer * shape.depth)()
        links = (_Link * len(convs))()
        if plan:
            for i, c in enumerate(convs):
                numbers = (c.cin, c.cout, c.kernel, c.stride, c.dilation, c.before, int(c.depthwise))
                links[i] = _Link(*numbers, weight(f"convs.{i}.conv"), norm(f"convs.{i}.bn"))
        elif shape.arch == "mlp":
            inputs = [shape.channels * shape.samples, *[shape.width] * (shape.depth - 1)]
            for i in range(shape.depth):
                linear, bn = f"hidden.{3 * i}", f"hidden.{3 * i + 1}"
                layers[i] = _Layer(inputs[i], shape.width, weight(linear), norm(bn))
        else:
            made.stem, made.last = weight("stem"), norm("bn")
            n = filters(shape.depth, shape.width)
            for i in range(shape.depth):
                name = f"blocks.{i}"
                has = f"{name}.shortcut.weight" in layout
                normed = f"{name}.bn_shortcut.weight" in layout
                blocks[i] = _Block(
                    *(n[i], n[i + 1], stride(i)),
                    *(norm(f"{name}.bn1"), norm(f"{name}.bn2")),
                    norm(f"{name}.bn_shortcut") if normed else _Norm(),
                    *(weight(f"{name}.conv1"), weight(f"{name}.conv2")),
                    *(weight(f"{name}.shortcut") if has else _Weight(), int(has)),
                )
        return int(self._library.kds_make(ctypes.byref(made), blocks, layers, links))

    def __del__(self) -> None:
        if getattr(self, "_net", None):
            self._library.kds_free(POINTER(self._net))

    def epoch(self, epochs: Sequence[int]) -> Tensor:
        self._fill(tuple(epochs))
        loss = self._library.kds_epoch(POINTER(self._net), ctypes.byref(self._epoch()))
        return torch.tensor([loss], dtype=self.dtype)

    def gradients(self, epochs: Sequence[int]) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradients of an epoch's first batch, without a step; statistics are updated."""
        self._fill(tuple(epochs))
        loss = self._library.kds_gradients(POINTER(self._net), ctypes.byref(self._epoch()))
        views = self.optimiser.layout.of_member(self.optimiser.gradient, 0)
        found = {name: view.clone() for name, view in views.items()}
        self.optimiser.gradient.zero_()
        return loss, found

    def logits(self, x: Tensor) -> Tensor:
        return self._outputs(x, self.optimiser.flat, self._running)[0].unsqueeze(0)

    def best_outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and features (N, F) by what `keep_best` last kept, in evaluation mode."""
        return self._outputs(x, *self._best)

    def _outputs(self, x: Tensor, flat: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        logits = torch.empty(len(x), self.shape.classes)
        features = torch.empty(len(x), self.optimiser.layout.places["fc.weight"].shape[1])
        self._library.kds_outputs(
            POINTER(self._net),
            POINTER(address(x)),
            INT(len(x)),
            *(POINTER(address(tensor)) for tensor in (flat, running, logits, features)),
        )
        return logits, features

    def _epoch(self) -> _Epoch:
        weights, optimiser, teacher = self.weights[0], self.optimiser, self.teachers[0]
        names = [name for term in KNOWN_TERMS for name in TERMS[term].weights]
        terms = {name: float(weights.terms.get(name, 0.0)) for name in names}
        return _Epoch(
            x=address(self.x),
            bpm=address(self.bpm),
            centres=address(self.labels.centres),
            teacher_logits=address(teacher.logits) if teacher else None,
            teacher_features=address(teacher.features) if teacher else None,
            coefficients=address(self._coefficients),
            orders=address(self._orders),
            flat=address(optimiser.flat),
            gradient=address(optimiser.gradient),
            mean=address(optimiser.mean),
            square=address(optimiser.square),
            running=address(self._running),
            steps=self.steps,
            size=len(optimiser.flat),
            decayed=optimiser.decayed,
            clip=float(optimiser.clip_norm[0]),
            sigma=float(self.labels.sigma_bpm),
            **terms,
            temperature=weights.temperature,
            window=weights.window,
            ramp=float(self._ramp[0]),
            unlabelled_weight=weights.unlabelled_weight,
            unlabelled=self.unlabelled,
        )
