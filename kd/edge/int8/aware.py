"""Quantisation-aware fine-tuning: a trained point goes on, seeing in each step what its integers will say.

Forward, every map and every logit is the reference's to the bit (`student.Student8`, made anew of the weights
before each step); backward, gradients pass straight through all rounding, and stop where a map is cut off
(Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877). Batch norms keep their statistics.
Knows no sweep.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd.edge.int8.quantise import Ranges, quantise, require_walk, walked
from kd.edge.int8.student import Student8
from kd.signals.prepare import Data
from kd.training import metrics
from kd.training.member import Member
from kd.training.pretrain import PRETRAIN
from kd.training.recipe import Spec
from kd.training.stack import Stack, Start
from kd.training.teacher import outputs
from kd.training.train import Run

LR_SHARE = 0.002  # of the point's own peak rate: weights move by a few steps of 8 bits, no further
CONNECTED_WINDOWS = 4096  # that a new connector to the teacher's features is fitted to


class _Straight(torch.autograd.Function):
    """`exact` in place of `soft`; the gradient goes to soft, where that lies within what a map can say."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, exact: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((soft >= low) & (soft <= high))
        return exact

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


@contextmanager
def straight_through(model: nn.Module, arch: str, ranges: Ranges) -> Iterator[None]:
    """Within it `model.features` and `model.fc` give what the model's 8-bit student gives, with gradients.

    The student has the weights of the moment and the steps of `ranges`.
    """
    exact: dict[nn.Module, tuple[Tensor, float, float]] = {}

    def begin(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        student, maps = walked(model, arch, ranges)
        integers: dict[str, Any] = {}
        windows = inputs[0].detach().numpy()
        features = student.features(windows, integers)
        for module, to in maps.items():
            exact[module] = (to.real(integers[to.name]), *to.limits)
        exact[model.fc] = (torch.from_numpy(student.classes(features)), -np.inf, np.inf)  # type: ignore[index]
        return (torch.from_numpy(student.window.real(windows)),)

    def put(module: nn.Module, _: Any, soft: Tensor) -> Tensor:
        result: Tensor = _Straight.apply(soft, *exact[module])
        return result

    places = [*walked(model, arch, ranges)[1], model.fc]
    hooks = [module.register_forward_hook(put) for module in places]  # type: ignore[union-attr]
    hooks.append(next(model.children()).register_forward_pre_hook(begin))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class AwareStack(Stack):
    """One model in quantisation-aware training; `predict` is its 8-bit student's.

    calibration: the windows (N, C, S) that the student's ranges are of, chosen anew before each epoch.
    """

    calibration: Any = None

    def epoch(self, epochs: Sequence[int]) -> Tensor:
        """As `Stack.epoch`."""
        with straight_through(self.model, self.shape.arch, Ranges(self.model, self.calibration)):
            return super().epoch(epochs)

    def student(self) -> Student8:
        """The 8-bit student of the present weights."""
        return quantise(self.model, self.shape.arch, self.calibration)

    def predict(self, x: Tensor) -> Tensor:
        """BPM of windows x (N, C, S), (1, N)."""
        logits = torch.from_numpy(self.student().logits(x.numpy()))
        return metrics.decode_expectation(logits, self.labels.centres).unsqueeze(0)

    def _fill(self, epochs: tuple[int, ...]) -> None:
        super()._fill(epochs)
        self.model.eval()  # norms as they will be folded

    def _distill_ramp(self, member: int, epoch: int) -> float:
        return 1.0  # the warm-up is behind it


def aware_spec(spec: Spec, epochs: int) -> Spec:
    """What a point is fine-tuned as: its own objective, batches and seed, at LR_SHARE of its rate."""
    args = {name: value for name, value in spec.strategy_args.items() if name != PRETRAIN}
    recipe = replace(
        spec.recipe, max_epochs=epochs, patience=0, schedule="cosine", lr=LR_SHARE * spec.recipe.lr
    )
    return replace(spec, init="random", strategy_args=args, recipe=recipe)


class AwareRun(Run):
    """A trained point being fine-tuned in `folder`, on a CPU; resumes as `Run` does.

    spec: of `aware_spec`. weights: the point's state dict. Validation is the 8-bit student's, as the recipe
    stops on it in BPM; `before`: what it is without fine-tuning.
    """

    def __init__(
        self,
        spec: Spec,
        weights: Mapping[str, Tensor],
        data: Data,
        calibration: Any,
        folder: Path,
        *,
        teacher_folder: Path | None = None,
    ) -> None:
        require_walk(spec.arch)
        self._weights, self._calibration = weights, calibration
        super().__init__(spec, data, folder, teacher_folder=teacher_folder)
        recipe, model = spec.recipe, self.shape.build()
        model.load_state_dict(dict(weights))
        logits = torch.from_numpy(quantise(model, spec.arch, calibration).logits(data.val.x))
        bpm = metrics.decode_expectation(logits, self.labels.centres).numpy()
        self.before = self._val.criterion(bpm, recipe.stop_on, recipe.stop_weights)["mae_bpm"]

    def _stack_of(self, members: Sequence[Member], starts: Sequence[Start]) -> Stack:
        if not members[0].epoch:
            starts = [Start(self._weights, self._connected(members[0], starts[0]))]
        for place, member in enumerate(members):
            member.place = place
        teachers = [member.teacher for member in members]
        specs = [member.spec for member in members]
        stack = AwareStack(specs, self.shape, starts, teachers, self.x, self.bpm, self.labels)
        stack.calibration = self._calibration
        return stack

    def _connected(self, member: Member, start: Start) -> Mapping[str, Tensor]:
        """The connector to the teacher's features, fitted by least squares: the trained one is gone."""
        if not start.connector or member.teacher is None:
            return start.connector
        model = self.shape.build()
        model.load_state_dict(dict(self._weights))
        some = torch.linspace(0, len(self.bpm) - 1, min(CONNECTED_WINDOWS, len(self.bpm))).long()
        features = outputs(model, self.x[some])[1].double()
        rows = torch.cat([features, torch.ones(len(some), 1, dtype=torch.float64)], 1)
        solved = torch.linalg.lstsq(rows, member.teacher.features[some].double(), driver="gelsd").solution
        fitted = {"weight": solved[:-1].T, "bias": solved[-1]}
        return {name: fitted[name].to(tensor.dtype) for name, tensor in start.connector.items()}

    @property
    def chosen(self) -> int:
        """The epoch with the least validation error; 0 where none was better than no fine-tuning."""
        member = self.members[0]
        return member.best_epoch if member.best_mae < self.before else 0

    def model_chosen(self) -> nn.Module:
        """The model after that epoch, in evaluation mode."""
        model = self.shape.build()
        model.load_state_dict(self.best_state(0) if self.chosen else dict(self._weights))
        return model.eval()
