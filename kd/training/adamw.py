"""AdamW with a learning rate, a step count, a weight decay and a clipped gradient norm for each member."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kd.training.layout import Layout

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # AdamW's defaults (Loshchilov and Hutter 2019, arXiv 1711.05101)


class AdamW:
    """Takes over the parameters: they and their gradients become views of `flat` and `gradient`.

    Matrices and filters decay, vectors don't. clip_norm: per member; all its parameters count together.
    Nothing here waits for the device or depends on a value, so a step can be captured in a CUDA graph.
    """

    def __init__(
        self,
        parameters: Mapping[str, tuple[nn.Parameter, Sequence[int]]],
        weight_decay: Sequence[float],
        clip_norm: Sequence[float],
    ) -> None:
        self.members = len(weight_decay)
        ordered = dict(sorted(parameters.items(), key=lambda item: item[1][0].ndim <= 1))  # decayed first
        first = next(iter(ordered.values()))[0]
        self.layout = Layout(ordered, self.members).to(first.device)
        self.decayed = self.layout.end_of({name for name, (p, _) in ordered.items() if p.ndim > 1})
        self.flat, self.gradient, self.mean, self.square, self._a, self._b = (
            torch.zeros(self.layout.size, dtype=first.dtype, device=first.device) for _ in range(6)
        )
        gradients = self.layout.views(self.gradient)
        for name, view in self.layout.views(self.flat).items():
            parameter = ordered[name][0]
            view.copy_(parameter.detach())
            parameter.data, parameter.grad = view, gradients[name]
        self.weight_decay = weight_decay
        self.clip_norm = torch.tensor(clip_norm, dtype=first.dtype, device=first.device)

    def coefficients(self, member: int, step: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """What one member's steps take, (steps, 3): share decay keeps, step size, 1 / sqrt(bias of square).

        step: counted from 0 over the member's whole training. lr: of each.
        """
        keep = 1 - lr * self.weight_decay[member]
        return np.stack([keep, lr / (1 - BETA1 ** (step + 1)), (1 - BETA2 ** (step + 1)) ** -0.5], axis=1)

    @torch.no_grad()
    def step(self, coefficients: Tensor) -> None:
        """One step on what `gradient` holds, which is then zero. coefficients: (3, M), see above."""
        gradient, a, b, spread = self.gradient, self._a, self._b, self.layout.spread
        keep, size, unbias = coefficients
        norm = self.layout.sums(torch.mul(gradient, gradient, out=a)).sqrt_()
        gradient.mul_(spread((self.clip_norm / norm.add_(1e-6)).clamp_(max=1.0)))
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        torch.sqrt(self.square, out=a).mul_(spread(unbias)).add_(EPS)
        torch.div(self.mean, a, out=b).mul_(spread(size))
        self.flat[: self.decayed].mul_(spread(keep)[: self.decayed])
        self.flat.sub_(b)
        gradient.zero_()

    def state(self, member: int) -> dict[str, dict[str, Tensor]]:
        """A member's moments by parameter, as views."""
        return {
            "mean": self.layout.of_member(self.mean, member),
            "square": self.layout.of_member(self.square, member),
        }

    def load(self, member: int, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what `state` gave, in this stack or in another."""
        for kind, tensors in self.state(member).items():
            for name, tensor in tensors.items():
                tensor.copy_(state[kind][name])
