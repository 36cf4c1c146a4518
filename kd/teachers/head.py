"""The probe: a linear or one-hidden-layer head on a frozen embedding, fitted on training windows. Torch."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kd.training import metrics
from kd.training.objective import Labels
from kd.training.teacher import as_tensor

BATCH = 128  # as a student's default
SIGMA_BPM = 1.5  # label smoothing, the same
WEIGHT_DECAY = 1e-2  # AdamW's default
Array = npt.NDArray[np.float32]


class Head(nn.Module):
    """Embedding (N, F) -> logits (N, K): standardised by the training windows, then one layer or two."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        layers = [nn.Linear(features, hidden), nn.ReLU()] if hidden else []
        self.layers = nn.Sequential(*layers, nn.Linear(hidden or features, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.layers((x - self.mean) / self.scale)
        return logits


def fit(
    train: tuple[Array, Array],
    val: tuple[Array, Array],
    *,
    min_bpm: int,
    classes: int,
    hidden: int,
    epochs: int,
    lr: float,
) -> Head:
    """A head fitted to embeddings (N, F) and heart rates (N,) of training windows; frozen.

    AdamW with a cosine to zero, Gaussian labels; the weights of the best epoch by the MAE on `val` are kept,
    as in training. The same data give the same head: the generator is its own.
    """
    x, bpm = as_tensor(train[0]).float(), as_tensor(train[1])
    centres = metrics.class_centres(min_bpm, classes)
    labels = Labels(centres, SIGMA_BPM)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = Head(x.shape[1], hidden, classes)
    head.mean.copy_(x.mean(0))
    head.scale.copy_(x.std(0).clamp(min=1e-6))
    optimiser = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, kept = float("inf"), head.state_dict()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(head(x[rows]), labels.target(bpm[rows]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.inference_mode():
            predicted = metrics.decode_expectation(head(as_tensor(val[0]).float()), centres).numpy()
        error = metrics.error_figures(predicted, val[1])["mae_bpm"]
        if error < best:
            best, kept = error, {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(kept)
    return head.eval()
