"""Pre-training a network without labels, before it is trained with them: contrastive, SimCLR's way.

Two random views of a window shall have features that are alike, and unlike those of all other windows in the
batch (Chen et al. 2020, arXiv 2002.05709: NT-Xent on a projection of the features, which is then dropped).
Not masked reconstruction: a `resnet1d` ends in a mean over time, and what has no order in time any more
can't say what was where; a decoder would have to sit before the mean, where no student and no head looks,
and an `mlp` has no such place. Contrast acts on the very features that the heart rate is read from, for any
architecture. Views never change the heart rate: no stretching, and whatever hides, moves or turns a window
leaves its rhythm. Neighbouring windows that overlap count as different, as in SimCLR; batches are drawn from
all windows, so that this is rare.

One model at a time, with torch: the compiled engine is for supervised steps. Knows no files.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd.models.layers import summary
from kd.training.adamw import AdamW
from kd.training.recipe import Spec
from kd.training.schedule import warm_cosine
from kd.training.stack import Shape
from kd.training.strategies import PRETRAIN

TEMPERATURE = 0.1  # of NT-Xent: the best in SimCLR's table for normalised features
PROJECTED = 128  # numbers that views are compared by, after one hidden layer: SimCLR's
# Of the views, ours: louder or quieter by up to e^0.7, noise of up to 0.3 standard deviations, up to half of
# the window hidden.
GAIN, NOISE, HIDDEN = 0.7, 0.3, 0.5


class Pretraining:
    """One network in pre-training on `x`, (N, C, S) on its device: `data.taught_x`, so never held-out people.

    start: its first weights. state: what `state()` gave after some epoch, to go on from: what follows has
    the same bits. Batches, learning rate, decay and clipping are of its recipe.
    """

    def __init__(
        self,
        spec: Spec,
        shape: Shape,
        start: Mapping[str, Tensor],
        x: Tensor,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec, self.x, self.recipe = spec, x, spec.recipe
        self.epochs, self.epoch = int(spec.strategy_args[PRETRAIN]), 0
        windows = min(self.recipe.windows_per_epoch or len(x), len(x))
        self.batch = min(self.recipe.batch_size, windows)
        self.steps = windows // self.batch
        self.model = shape.build().to(x.device, x.dtype)
        self.model.load_state_dict(start)
        features = int(self.model.fc.in_features)  # type: ignore[union-attr, arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed + 1)
            head = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, PROJECTED))
        self.head = head.to(x.device, x.dtype)
        named = {f"model.{name}": p for name, p in self.model.named_parameters()}
        trained = {name: (p, [0]) for name, p in named.items() if not name.startswith("model.fc.")}
        trained |= {f"head.{name}": (p, [0]) for name, p in self.head.named_parameters()}
        self.optimiser = AdamW(trained, [self.recipe.weight_decay], [self.recipe.clip_norm])
        if state is not None:
            self.epoch = int(state["epoch"])
            self.model.load_state_dict(state["model"])
            self.head.load_state_dict(state["head"])
            self.optimiser.load(0, state["moments"])

    @property
    def over(self) -> bool:
        """Whether every epoch is done."""
        return self.epoch >= self.epochs

    def step(self) -> tuple[float, float]:
        """Train for an epoch: its mean loss, and the learning rate of its last step."""
        self.model.train()
        number = self.spec.seed * 1_000_003 + self.epoch
        generator = torch.Generator().manual_seed(-1 - number)  # none of those that order supervised epochs
        order = torch.randperm(len(self.x), generator=generator)[: self.steps * self.batch]
        step = self.epoch * self.steps + np.arange(self.steps)
        lr = warm_cosine(self.recipe, self.epochs * self.steps, step)
        coefficients = torch.from_numpy(self.optimiser.coefficients(0, step, lr)).to(self.x)
        total = torch.zeros((), dtype=self.x.dtype, device=self.x.device)
        for index, now in zip(order.view(self.steps, -1), coefficients.unsqueeze(2), strict=True):
            windows = self.x[index.to(self.x.device)]
            both = torch.cat([view(windows, generator), view(windows, generator)])
            loss = nt_xent(self.head(summary(self.model.features(both))))  # type: ignore[operator]
            loss.backward()
            self.optimiser.step(now)
            total += loss.detach()
        self.epoch += 1
        return float(total) / self.steps, float(lr[-1])

    def weights(self) -> dict[str, Tensor]:
        """The network's weights now, a plain model's state dict; copies. Its class layer is as it began."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """All that another needs to go on, for `torch.save`."""
        moments = self.optimiser.state(0).items()
        return {
            "epoch": self.epoch,
            "model": self.weights(),
            "head": {name: tensor.detach().clone() for name, tensor in self.head.state_dict().items()},
            "moments": {kind: {n: t.clone() for n, t in tensors.items()} for kind, tensors in moments},
        }


def view(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each window (N, C, S) otherwise, of the same heart rate; what is drawn doesn't depend on the device.

    Turned round in a circle, half of them played backwards and half upside down, louder or quieter, with
    noise, and a stretch of it hidden (zero).
    """
    n, _, samples = x.shape
    shift, back, down, gain, noise, start, length = torch.rand(7, n, 1, generator=generator)
    at = torch.arange(samples).expand(n, -1)
    hidden = (at - (start * samples).long()) % samples < (length * HIDDEN * samples).long()
    at = (torch.where(back < 0.5, at, samples - 1 - at) + (shift * samples).long()) % samples
    scale = torch.exp((2 * gain - 1) * GAIN) * torch.where(down < 0.5, 1.0, -1.0)
    disturbed = NOISE * noise.unsqueeze(2) * torch.randn(x.shape, generator=generator)
    moved = x.gather(2, at.to(x.device).unsqueeze(1).expand_as(x))
    spread = moved.std(2, keepdim=True)
    seen = moved * scale.unsqueeze(2).to(x) + spread * disturbed.to(x)
    return seen.masked_fill(hidden.to(x.device).unsqueeze(1), 0.0)


def nt_xent(projected: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """SimCLR's loss of (2N, D), the second half other views of the first: each shall know its own among all.

    The mean over rows of -log of the softmax, over all other rows, of cosine similarity / temperature.
    """
    unit = functional.normalize(projected, dim=1)
    alike = unit @ unit.T / temperature
    alike.fill_diagonal_(-math.inf)
    n = len(projected) // 2
    own = torch.arange(2 * n, device=projected.device).roll(n)
    return functional.cross_entropy(alike, own)
