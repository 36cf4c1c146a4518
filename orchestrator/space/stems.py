"""Which points of schedule wsd go on from what shorter ones kept, and what that saves. Knows no torch.

A longer training is a point of its own, with the result it would have had from its first epoch.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from kd.training.recipe import RECIPE_VERSION, Recipe
from kd.training.stem import CHECKPOINT, Stem, epochs_kept
from orchestrator.space.plan import ID_DIGITS, Point
from orchestrator.store.store import Store


def stem_of(point: Point, store: Store) -> Stem | None:
    """What a point shares with longer and shorter trainings of it; None where nothing can be shared."""
    if point.brought or point.recipe.get("schedule") != "wsd":
        return None
    recipe = {key: value for key, value in point.recipe.items() if key != "max_epochs"}
    same = ("role", "arch", "depth", "width", "init", "strategy", "strategy_args", "teacher", "seed")
    identity = [RECIPE_VERSION, point.data_fingerprint, recipe, *(point.fields[key] for key in same)]
    text = json.dumps(identity, sort_keys=True)
    return Stem(store.stems, hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS])


@dataclass(frozen=True)
class Saved:
    """What a point need not train: so many epochs, of an estimated cost, since a shorter one trained them."""

    epochs: int
    cost_s: float


def saved(points: Iterable[Point], store: Store) -> dict[str, Saved]:
    """Of the points not yet begun those that go on from shorter ones, by id.

    Pre-training, which is in a point's cost, is counted as if it were spread over its epochs.
    """
    found: dict[str, Saved] = {}
    if not (kept := epochs_kept(store.stems)):
        return found
    for point in points:
        if (stem := stem_of(point, store)) is None or _begun(point, store):
            continue
        most = Recipe(**point.recipe).cooldown_from
        if epochs := max((e for e in kept.get(stem.key, ()) if e <= most), default=0):
            found[point.id] = Saved(epochs, point.cost_s * epochs / point.recipe["max_epochs"])
    return found


def _begun(point: Point, store: Store) -> bool:
    return store.is_done(point.id) or (store.folder(point.id) / CHECKPOINT).exists()
