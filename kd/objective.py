"""One training objective for every strategy: weights over loss terms, on a batch.

N windows, K classes, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kd import losses
from kd.strategies import Weights


@dataclass(frozen=True)
class Labels:
    """Turns BPM into training targets. centres: (K,) BPM; sigma_bpm: Gaussian smoothing, 0 = one-hot."""

    centres: Tensor
    sigma_bpm: float

    def index(self, bpm: Tensor) -> Tensor:
        """Class index of each BPM, (N,), clipped to the classes."""
        return (bpm - self.centres[0]).round().long().clamp(0, len(self.centres) - 1)

    def target(self, bpm: Tensor) -> Tensor:
        """What cross-entropy takes: (N, K) Gaussian round the BPM, or class indices (N,) without smoothing.

        The Gaussian, from BeliefPPG's binned regression loss, tells the model that classes have an order.
        """
        if self.sigma_bpm == 0:
            return self.index(bpm)
        distance = (self.centres - bpm.unsqueeze(1)) / self.sigma_bpm  # (N, K)
        return (-0.5 * distance.square()).softmax(1)


def objective(
    weights: Weights,
    labels: Labels,
    logits: Tensor,
    features: Tensor,
    bpm: Tensor,
    teacher_logits: Tensor | None,
    teacher_features: Tensor | None,
    distill_ramp: float,
) -> Tensor:
    """The scalar to minimise: the batch mean of the weighted terms whose weight isn't zero.

    logits (N, K), features (N, F) already connected to the teacher's width, bpm (N,). `distill_ramp` in 0..1
    scales the decoupled terms (DKD's warm-up). A term with weight 0 is never computed, so it can't spoil the
    sum with 0 * inf.
    """
    total = weights.ce * losses.cross_entropy(logits, labels.target(bpm)) if weights.ce else 0.0
    if teacher_logits is not None:
        if weights.hard:
            total = total + weights.hard * losses.hard(logits, teacher_logits)
        if weights.soft:
            total = total + weights.soft * losses.soft(logits, teacher_logits, weights.temperature)
        if weights.tckd or weights.nckd:
            tckd, nckd = losses.decoupled_terms(
                logits, teacher_logits, labels.index(bpm), weights.temperature, weights.window
            )
            total = total + distill_ramp * (weights.tckd * tckd + weights.nckd * nckd)
    if teacher_features is not None and weights.feature:
        total = total + weights.feature * losses.feature(features, teacher_features)
    if not isinstance(total, Tensor):
        raise ValueError(f"no loss term is left to train with: {weights}")
    return torch.mean(total)
