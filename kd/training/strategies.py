"""The strategies of the sweep, each a point in the space of weights over loss terms (`terms.py`). Torch-free.

One training step serves them all (`kd.training.objective`). Adding a strategy is one function and one line in
STRATEGIES; its keyword arguments, with their defaults, are what a search space may set.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from kd.errors import InputError
from kd.training.terms import Weights


def scratch() -> Weights:
    """True labels only."""
    return Weights({"ce": 1.0})


def hard(ce: float = 0.5, weight: float = 0.5) -> Weights:
    """True labels and the teacher's most likely class. Equal shares are ours; swept in `paper.yaml`."""
    return Weights({"ce": ce, "hard": weight})


def soft(ce: float = 0.5, weight: float = 0.5, temperature: float = 4.0) -> Weights:
    """True labels and T^2 KL to the teacher's tempered distribution.

    Equal shares: PPG-Distill (arXiv 2509.19215); T 4: the same, and mdistiller's CIFAR-100 configuration.
    """
    return Weights({"ce": ce, "soft": weight}, temperature=temperature)


def dkd(
    ce: float = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    window: int = 0,
    warmup_fraction: float = 20 / 240,
) -> Weights:
    """Decoupled distillation: true labels, target part and non-target part.

    Defaults: the DKD authors' CIFAR-100 configuration (mdistiller): CE 1, alpha 1, beta 8, T 4, warm-up over
    20 of 240 epochs. Its terms weigh about ten times the cross-entropy; compare it with `soft` at equal
    weight before calling it better.
    """
    return Weights(
        {"ce": ce, "tckd": alpha, "nckd": beta},
        temperature=temperature,
        window=window,
        warmup_fraction=warmup_fraction,
    )


def feature(ce: float = 1.0, weight: float = 1.0) -> Weights:
    """True labels and the squared distance to the teacher's features. Weight 1: PPG-Distill."""
    return Weights({"ce": ce, "feature": weight})


def soft_std(ce: float = 1.0, weight: float = 9.0, temperature: float = 2.0) -> Weights:
    """True labels and T^2 KL to the teacher's distribution, of logits standardised per window.

    Defaults: the logit standardisation authors' CIFAR-100 runs (arXiv 2403.01407): CE 1, weight 9, T 2. The
    weight is far above `soft`'s; compare it with `soft` at equal weight before calling it better.
    """
    return Weights({"ce": ce, "standardised": weight}, temperature=temperature)


def dist(ce: float = 1.0, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0) -> Weights:
    """True labels and the teacher's relations: between the classes of a window, and of a class over a batch.

    beta weighs the first, gamma the second. Defaults: the DIST authors' CIFAR-100 configuration
    (arXiv 2205.10536): CE 1, both 2, T 4; theirs for ImageNet has T 1.
    """
    return Weights({"ce": ce, "inter": beta, "intra": gamma}, temperature=temperature)


STRATEGIES: dict[str, Callable[..., Weights]] = {
    "scratch": scratch,
    "hard": hard,
    "soft": soft,
    "dkd": dkd,
    "feature": feature,
    "soft_std": soft_std,
    "dist": dist,
}


# What all strategies with a teacher take where there are recordings without labels. Ours: half of each batch,
# its windows as dear as others.
UNLABELLED = {"unlabelled_share": 0.5, "unlabelled_weight": 1.0}
PRETRAIN = "pretrain_epochs"  # of a teacher's arguments, where it is pre-trained (`kd.training.pretrain`)


def weights(strategy: str, args: Mapping[str, Any]) -> Weights:
    """What a strategy with these arguments weighs."""
    own = {name: value for name, value in args.items() if name not in {*UNLABELLED, PRETRAIN}}
    return dataclasses.replace(
        STRATEGIES[strategy](**own),
        unlabelled_share=args.get("unlabelled_share", 0.0),
        unlabelled_weight=args.get("unlabelled_weight", 1.0),
    )


def needs_teacher(strategy: str) -> bool:
    """Whether points of this strategy multiply by teachers."""
    return strategy != "scratch"


def defaults(strategy: str, unlabelled: bool = False) -> dict[str, float]:
    """What a search space may set for a strategy, with the values used otherwise.

    unlabelled: whether there are recordings without labels.
    """
    own = {name: p.default for name, p in inspect.signature(STRATEGIES[strategy]).parameters.items()}
    return own | UNLABELLED if unlabelled and needs_teacher(strategy) else own


def full_args(strategy: str, given: Mapping[str, Any], unlabelled: bool = False) -> dict[str, Any]:
    """`given` with the defaults filled in, so that equal points have equal arguments. InputError if bad.

    unlabelled: as of `defaults`.
    """
    known = defaults(strategy, unlabelled)
    for name, value in given.items():
        if name in UNLABELLED and name not in known and needs_teacher(strategy):
            raise InputError(
                f"strategy {strategy}: {name} is of windows without labels, and there are none: add "
                "data.unlabelled, or leave it out"
            )
        if name not in known:
            takes = ", ".join(known) or "no arguments"
            raise InputError(f"strategy {strategy} has no {name!r}: it takes {takes}")
        ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not ok or value < 0 or (name == "temperature" and value == 0):
            raise InputError(
                f"strategy {strategy}: {name} is {value!r}: use a positive number, or 0 to disable"
            )
        if name == "window" and value != int(value):
            raise InputError(f"strategy {strategy}: window is {value!r}: use a whole number of classes")
        if name == "unlabelled_share" and value >= 1:
            raise InputError(f"strategy {strategy}: unlabelled_share is {value!r}: use a share below 1")
        if name == "warmup_fraction" and value > 1:
            raise InputError(f"strategy {strategy}: warmup_fraction is {value!r}: use a fraction from 0 to 1")
    args = {name: type(known[name])(given.get(name, default)) for name, default in known.items()}
    if args.get("unlabelled_share") == 0:  # whatever they would count
        args["unlabelled_weight"] = UNLABELLED["unlabelled_weight"]
    if not any(weights(strategy, args).terms.values()):
        raise InputError(f"strategy {strategy}: every weight is 0: set at least one above 0")
    return args
