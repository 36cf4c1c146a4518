"""The learning rate over a training: a cosine of known length, or warm-up, stable, cooldown (wsd). No torch.

wsd holds the rate after the warm-up and lets it fall to zero over the last epochs alone, as 1 - sqrt
(`Recipe`). What comes before the cooldown depends on no length: see `stem.py`.
"""

from dataclasses import dataclass

import numpy as np

from kd.training.recipe import Recipe


@dataclass(frozen=True)
class Cooldown:
    """Where the rate of a wsd training falls: from after so many epochs until all are done."""

    begins: int
    ends: int

    @classmethod
    def planned(cls, recipe: Recipe) -> "Cooldown | None":
        """That of a training that nothing stops early; None for a cosine."""
        return cls(recipe.cooldown_from, recipe.max_epochs) if recipe.schedule == "wsd" else None

    def early(self, recipe: Recipe, epoch: int) -> "Cooldown":
        """The same share of the epochs, if it begins after `epoch` of them: no more than were planned."""
        share = recipe.cooldown_fraction
        epochs = max(round(share / (1 - share) * epoch), 1) if share else 0
        return Cooldown(epoch, min(epoch + epochs, self.ends))


def rates(recipe: Recipe, steps: int, step: np.ndarray, cooldown: Cooldown | None) -> np.ndarray:
    """Learning rates at `step`, counted from 0 over the whole training. steps: of an epoch."""
    if cooldown is None:
        return warm_cosine(recipe, steps * recipe.max_epochs, step)
    return trapezoid(recipe, steps, step, cooldown)


def warm_cosine(recipe: Recipe, steps: int, step: np.ndarray) -> np.ndarray:
    """Learning rates of a training of so many steps: linear warm-up, then cosine to zero. From step 0."""
    warmup = max(round(recipe.warmup_fraction * steps), 1)
    falling = 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(steps - warmup, 1)))
    return recipe.lr * np.where(step < warmup, (step + 1) / warmup, falling)


def trapezoid(recipe: Recipe, steps: int, step: np.ndarray, cooldown: Cooldown) -> np.ndarray:
    """Learning rates of the schedule wsd with so many steps an epoch: up, constant, down as 1 - sqrt. From 0.

    Before the cooldown a step's rate is the same bits for every max_epochs.
    """
    rising = np.minimum((step + 1) / max(round(recipe.warmup_epochs * steps), 1), 1.0)
    begins, ends = cooldown.begins * steps, cooldown.ends * steps
    falling = 1 - np.sqrt(np.clip((step - begins) / max(ends - begins, 1), 0.0, 1.0))
    return recipe.lr * rising * falling
