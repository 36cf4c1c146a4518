"""The one training loop: models of one shape, side by side, each with its own everything. Knows no files.

A stack of one is the ordinary trainer. Members share the windows and the number and size of batches; seed,
order of the windows, teacher, strategy, learning rate, weight decay and clipping are each one's own, and
nothing of one reaches another: a member that turns to NaN goes on alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kd.models.architectures import build
from kd.models.layers import CONVOLUTIONS, Convs, by_member, linear, summary
from kd.training import metrics
from kd.training.adamw import AdamW
from kd.training.layout import Layout
from kd.training.objective import Labels, Objective
from kd.training.orders import Orders
from kd.training.recipe import Recipe, Spec
from kd.training.schedule import Cooldown, rates
from kd.training.strategies import weights
from kd.training.teacher import EVAL_BATCH, TeacherOutputs

WARMUP_STEPS = 3  # before a CUDA graph is captured, as torch's documentation asks
PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Shape:
    """What the members of a stack have in common, as far as `kd.models.architectures.build` asks."""

    arch: str
    depth: int
    width: int
    channels: int
    samples: int
    classes: int

    def build(self, members: int = 1) -> nn.Module:
        """A fresh model of this shape, or a stack of them."""
        return build(
            self.arch,
            self.depth,
            self.width,
            channels=self.channels,
            samples=self.samples,
            classes=self.classes,
            members=members,
        )


@dataclass
class Start:
    """What a member begins or goes on with: weights, optimiser state, and the best weights so far."""

    model: Mapping[str, Tensor]
    connector: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]] | None = None
    best: Mapping[str, Tensor] | None = None


def together(spec: Spec) -> tuple[object, ...]:
    """Points with equal values here can train as one stack, given the same data."""
    recipe = spec.recipe
    return (
        (spec.arch, spec.depth, spec.width),
        (recipe.batch_size, recipe.windows_per_epoch, recipe.label_sigma_bpm, recipe.channels),
        spec.strategy_args.get("unlabelled_share", 0.0),
    )


class Stack:
    """M models in training. `epoch()` trains each for one; the caller keeps count of what that means.

    x (N, C, S), bpm (N,): the training windows, on the device they are trained on; x may go on with windows
    without labels, of which members see as many as their `unlabelled_share` says, while an epoch goes over
    those with labels. teachers: the outputs each member learns from. precision: "float32"; on CUDA also
    "tf32" or "bf16" (activations; weights, losses and the optimiser stay float32). convolution: one of
    `layers.CONVOLUTIONS`, for several members. cooldowns: of each member, as planned until the caller says
    otherwise.
    """

    engine = "torch"  # what computes the epochs; another one is in `fused.py`

    def __init__(
        self,
        specs: Sequence[Spec],
        shape: Shape,
        starts: Sequence[Start],
        teachers: Sequence[TeacherOutputs | None],
        x: Tensor,
        bpm: Tensor,
        labels: Labels,
        *,
        dtype: torch.dtype = torch.float32,
        precision: str = "float32",
        convolution: str = "grouped",
    ) -> None:
        if len({together(spec) for spec in specs}) != 1:
            raise ValueError("points of different shapes, batches or labels can't train as one stack")
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}: use {', '.join(PRECISIONS)}")
        if convolution not in CONVOLUTIONS:
            raise ValueError(f"unknown convolution {convolution!r}: use {', '.join(CONVOLUTIONS)}")
        self.specs, self.shape, self.members = list(specs), shape, len(specs)
        self.cooldowns = [Cooldown.planned(spec.recipe) for spec in specs]
        self.x, self.device, self.dtype, self.precision = x, x.device, dtype, precision
        self.bpm = torch.cat([bpm, bpm.new_full((len(x) - len(bpm),), torch.nan)])
        windows = min(specs[0].recipe.windows_per_epoch or len(bpm), len(bpm))
        self.batch = min(specs[0].recipe.batch_size, windows)
        self.weights = [weights(spec.strategy, spec.strategy_args) for spec in specs]
        share = self.weights[0].unlabelled_share if len(x) > len(bpm) else 0.0
        self.unlabelled = min(round(share * self.batch), self.batch - 1)  # the last of each batch
        self.steps = windows // (self.batch - self.unlabelled)  # per epoch
        self.objective = Objective(self.weights, labels, teachers, dtype, self.unlabelled)
        self.labels, self.teachers = labels, list(teachers)
        self.model = shape.build(self.members).to(self.device, dtype)
        self._keys = list(self.model.state_dict())  # a plain model's too
        for module in self.model.modules():
            if isinstance(module, Convs):
                module.as_matmul = convolution == "matmul"
        features = int(self.model.fc.in_features)  # type: ignore[union-attr, arg-type]
        self.connectors = {
            width: linear(features, width, members=len(few.members)).to(self.device, dtype)
            for width, few in self.objective.featured.items()
        }
        self._own(starts)
        self.orders = Orders(
            [spec.seed for spec in self.specs],
            len(bpm),
            self.steps * (self.batch - self.unlabelled),
            ahead=self.device.type == "cuda",
            steps=self.steps,
            more=self.steps * self.unlabelled,
            besides=[teacher.besides for teacher in teachers if teacher] if self.unlabelled else [],
        )
        self._orders = torch.zeros(
            self.members, self.steps, self.batch, dtype=torch.int32, device=self.device
        )
        self._coefficients = torch.zeros(self.steps, 3, self.members, dtype=dtype, device=self.device)
        self._ramp = torch.ones(self.members, dtype=dtype, device=self.device)
        self._loss = torch.zeros(self.members, dtype=dtype, device=self.device)
        self._cursor = torch.zeros(1, dtype=torch.long, device=self.device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def _own(self, starts: Sequence[Start]) -> None:
        """Lay parameters and running statistics out flat, and fill them with the members' starts."""
        everyone = range(self.members)
        parameters: dict[str, tuple[nn.Parameter, Sequence[int]]] = {
            name: (parameter, everyone) for name, parameter in self.model.named_parameters()
        }
        for width, few in self.objective.featured.items():
            for name, parameter in self.connectors[width].named_parameters():
                parameters[f"connector{width}.{name}"] = (parameter, few.members)
        self.optimiser = AdamW(
            parameters,
            [spec.recipe.weight_decay for spec in self.specs],
            [spec.recipe.clip_norm for spec in self.specs],
        )
        statistics = {}
        for module_name, module in self.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.num_batches_tracked = None  # known from the number of steps
                for name in ("running_mean", "running_var"):
                    statistics[f"{module_name}.{name}"] = (getattr(module, name), everyone)
        self._statistics = Layout(statistics, self.members).to(self.device)
        self._running = torch.zeros(self._statistics.size, dtype=self.dtype, device=self.device)
        for name, view in self._statistics.views(self._running).items():
            module_name, _, buffer = name.rpartition(".")
            # `data`: one's update must not count as a change of another's, which autograd may have kept.
            setattr(self.model.get_submodule(module_name), buffer, view.data)
        self._best = (self.optimiser.flat.clone(), self._running.clone())
        for member, start in enumerate(starts):
            if start.best:
                self._load(member, start.best, *self._best)
            self._load(member, start.model, self.optimiser.flat, self._running)
            for name, tensor in self._connector(member, self.optimiser.flat).items():
                tensor.copy_(start.connector[name])
            if start.moments is not None:
                moments = {
                    kind: {self._inside(member, name): tensor for name, tensor in tensors.items()}
                    for kind, tensors in start.moments.items()
                }
                self.optimiser.load(member, moments)

    # training

    def epoch(self, epochs: Sequence[int]) -> Tensor:
        """Train each member for one epoch; their mean losses, (M,), on the device.

        epochs: how many epochs each has behind it. The device is not waited for.
        """
        self._fill(tuple(epochs))
        with self.precise():
            if self.device.type == "cuda":
                self._replay()
                self.orders.ahead()  # while the device is at work
            else:
                for order, coefficients in zip(self._orders.unbind(1), self._coefficients, strict=True):
                    self._loss += self._train_step(order, coefficients)
        return self._loss / self.steps

    def _fill(self, epochs: tuple[int, ...]) -> None:
        """Bring to the device what an epoch's steps read."""
        self.model.train()
        self.orders.to(self._orders, epochs)
        self._coefficients.copy_(torch.from_numpy(self._schedule(epochs)))
        self._ramp.copy_(torch.tensor([self._distill_ramp(m, e) for m, e in enumerate(epochs)]))
        self._loss.zero_()
        self._cursor.zero_()

    def _train_step(self, order: Tensor, coefficients: Tensor) -> Tensor:
        """One step of every member on its windows `order` (M, N); their losses, (M,)."""
        index = order.long()
        x = self.x[index.t().contiguous()].flatten(1, 2)  # (N, M * C, S)
        with self._autocast():
            features = self.model.features(x)  # type: ignore[operator]
            logits = by_member(self.model.fc, features)  # type: ignore[arg-type]
            connected = {
                width: by_member(layer, self._features_of(features, width))
                for width, layer in self.connectors.items()
            }
        loss = self.objective(logits, connected, self.bpm[index], index, self._ramp)
        loss.sum().backward()
        self.optimiser.step(coefficients)
        return loss.detach()

    def _features_of(self, features: Tensor, width: int) -> Tensor:
        """(N, M * F), or maps -> (N, theirs * F), of the members that learn features of this width."""
        few = self.objective.featured[width]
        return few.of(summary(features).unflatten(1, (self.members, -1)), 1).flatten(1)

    def _replay(self) -> None:
        """An epoch as one CUDA graph per step, which finds its batch and coefficients by a cursor."""
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        for _ in range(self.steps):
            self._graph.replay()

    def _capture(self) -> None:
        kept = (
            self.optimiser.flat,
            self.optimiser.mean,
            self.optimiser.square,
            self.optimiser.gradient,
            self._running,
            self._loss,
            self._cursor,
        )
        before = [tensor.clone() for tensor in kept]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self._cursor.zero_()
                self._step_at_cursor()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step_at_cursor()
        for tensor, was in zip(kept, before, strict=True):
            tensor.copy_(was)
        self._graph = graph

    def _step_at_cursor(self) -> None:
        order = self._orders.index_select(1, self._cursor).squeeze(1)
        coefficients = self._coefficients.index_select(0, self._cursor).squeeze(0)
        self._loss += self._train_step(order, coefficients)
        self._cursor += 1

    def _schedule(self, epochs: Sequence[int]) -> np.ndarray:
        """The optimiser's coefficients for each step, (steps, 3, M)."""
        alike: dict[tuple[Recipe, Cooldown | None, int], list[int]] = {}
        for m, epoch in enumerate(epochs):
            alike.setdefault((self.specs[m].recipe, self.cooldowns[m], epoch), []).append(m)
        table = np.empty((self.steps, 3, self.members))
        for (_, _, epoch), (m, *others) in alike.items():
            step = epoch * self.steps + np.arange(self.steps)
            column = self.optimiser.coefficients(m, step, self.lr(m, step))
            table[:, :, [m, *others]] = column[..., None]
        return table

    def lr(self, member: int, step: np.ndarray) -> np.ndarray:
        """What the recipe's schedule gives for a member's steps, counted from 0 over its whole training."""
        return rates(self.specs[member].recipe, self.steps, step, self.cooldowns[member])

    def _distill_ramp(self, member: int, epoch: int) -> float:
        """Counted from 1, as in the DKD authors' code: the first epoch distils too.

        Under wsd it grows with the learning rate, since the length of the training is not to change it.
        """
        recipe, fraction = self.specs[member].recipe, self.weights[member].warmup_fraction
        share = fraction * recipe.max_epochs
        if recipe.schedule == "wsd" and fraction:
            share = recipe.warmup_epochs
        return min((epoch + 1) / share, 1.0) if share else 1.0

    # evaluation and state

    def predict(self, x: Tensor) -> Tensor:
        """Every member's BPM for the same windows x (N, C, S), (M, N), in evaluation mode; batch by batch."""
        parts = []
        for i in range(0, len(x), self.eval_batch):
            logits = self.logits(x[i : i + self.eval_batch])  # (M, n, K)
            bpm = metrics.decode_expectation(logits.flatten(0, 1), self.labels.centres)
            parts.append(bpm.view(self.members, -1))
        return torch.cat(parts, 1)

    @property
    def eval_batch(self) -> int:
        """Windows of a pass that keeps no gradient."""
        if self.device.type == "cpu":
            return max(EVAL_BATCH // self.members, 1)
        return max(EVAL_BATCH * 8 // self.members, 64)

    def logits(self, x: Tensor) -> Tensor:
        """Every member's logits of the same windows x (N, C, S), (M, N, K), in evaluation mode."""
        self.model.eval()
        parts = []
        with torch.inference_mode(), self.precise(), self._autocast():
            for i in range(0, len(x), self.eval_batch):
                batch = x[i : i + self.eval_batch].repeat(1, self.members, 1)  # (N, M * C, S)
                features = self.model.features(batch)  # type: ignore[operator]
                parts.append(by_member(self.model.fc, features))  # type: ignore[arg-type]
        return torch.cat(parts, 1)

    @torch.no_grad()
    def keep_best(self, better: Sequence[bool]) -> None:
        """Remember the present weights of the members that are better than ever."""
        mask = torch.tensor(better, device=self.device)
        for layout, now, best in (
            (self.optimiser.layout, self.optimiser.flat, self._best[0]),
            (self._statistics, self._running, self._best[1]),
        ):
            torch.where(layout.spread(mask), now, best, out=best)

    def state(self, member: int, epoch: int) -> dict[str, Tensor]:
        """A member's weights as the state dict of a plain model after `epoch` epochs; copies."""
        return self._state(member, epoch, self.optimiser.flat, self._running)

    def begin(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Give a member that has trained no epoch other first weights, a plain model's state dict."""
        self._load(member, state, self.optimiser.flat, self._running)

    def best(self, member: int, epoch: int) -> dict[str, Tensor]:
        """What `keep_best` last kept of a member, which was after `epoch` epochs."""
        return self._state(member, epoch, *self._best)

    def connector(self, member: int) -> dict[str, Tensor]:
        """The weights that connect a member's features with its teacher's; empty if it has none."""
        return {k: v.detach().clone() for k, v in self._connector(member, self.optimiser.flat).items()}

    def moments(self, member: int) -> dict[str, dict[str, Tensor]]:
        """A member's optimiser state by parameter; copies."""
        return {
            kind: {self._outside(name): tensor.detach().clone() for name, tensor in tensors.items()}
            for kind, tensors in self.optimiser.state(member).items()
        }

    def _state(self, member: int, epoch: int, flat: Tensor, running: Tensor) -> dict[str, Tensor]:
        found = self.optimiser.layout.of_member(flat, member) | self._statistics.of_member(running, member)
        found = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in found.items()
        }
        count = torch.tensor(epoch * self.steps)
        return {key: count if key.endswith("num_batches_tracked") else found[key] for key in self._keys}

    def _load(self, member: int, state: Mapping[str, Tensor], flat: Tensor, running: Tensor) -> None:
        mine = self.optimiser.layout.of_member(flat, member) | self._statistics.of_member(running, member)
        for name, tensor in mine.items():
            if not name.startswith("connector"):
                tensor.copy_(state[name])

    def _connector(self, member: int, flat: Tensor) -> dict[str, Tensor]:
        mine = self.optimiser.layout.of_member(flat, member)
        return {
            name.partition(".")[2]: tensor for name, tensor in mine.items() if name.startswith("connector")
        }

    def _outside(self, name: str) -> str:
        """A parameter's name in a checkpoint, which doesn't depend on the stack it was written in."""
        return f"connector.{name.partition('.')[2]}" if name.startswith("connector") else name

    def _inside(self, member: int, name: str) -> str:
        if not name.startswith("connector."):
            return name
        width = next(w for w, few in self.objective.featured.items() if member in few.members)
        return name.replace("connector.", f"connector{width}.", 1)

    # precision

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)  # graphs
        return nullcontext()

    @contextmanager
    def precise(self) -> Iterator[None]:
        """TF32 only where it was asked for; torch allows it in convolutions. Given back as it was found."""
        if self.device.type != "cuda":
            yield
            return
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = (cudnn.allow_tf32, matmul.allow_tf32)
        cudnn.allow_tf32 = matmul.allow_tf32 = self.precision == "tf32"
        try:
            yield
        finally:
            cudnn.allow_tf32, matmul.allow_tf32 = before
