"""How one model is trained, as plain data: the part of a point's identity that training reads. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kd.errors import InputError

Schedule = Literal["cosine", "wsd"]
WSD_ONLY = ("warmup_epochs", "cooldown_fraction")  # fields that say nothing under another schedule
STOP_ON = ("by-window", "by-subject", "p90-subject")
RECIPE_VERSION = 1  # raise when training code changes so that the same recipe gives other numbers


@dataclass(frozen=True)
class Recipe:
    """The training of one model. Every default is a convention with its source beside it.

    The optimiser is AdamW with linear warm-up and cosine decay to zero; the weights of the best validation
    epoch (MAE in BPM, decoded by expectation) are kept. schedule "wsd": warm-up, stable, cooldown (Hu et al.
    2024, MiniCPM), the cooldown 1 - sqrt over the last epochs (Hägele et al. 2024, "Scaling Laws and
    Compute-Optimal Training Beyond Fixed Training Durations"); nothing before it depends on max_epochs, so
    that a point of fewer epochs is the beginning of one of more.
    """

    max_epochs: int = 30
    batch_size: int = 128  # WildPPG's supervised baseline
    lr: float = 2e-3  # peak of the schedule; ours, for one-cycle training (WildPPG: Adam 5e-4, constant)
    weight_decay: float = 1e-2  # AdamW's default
    warmup_fraction: float = 0.1  # share of all steps
    clip_norm: float = 1.0  # student and connector together; notes: clipping only one suppresses feature KD
    # epochs without a better validation MAE before stopping, with wsd before the cooldown begins, which is
    # always trained to its end; 0 = train to the end
    patience: int = 0
    label_sigma_bpm: float = 1.5  # Gaussian label smoothing; BeliefPPG (2.0 and 1.5 are both used); 0 = off
    windows_per_epoch: int = 0  # windows drawn per epoch without replacement; 0 = all training windows
    # The validation MAE that decides: over windows, as before there was a choice (a recipe without it means
    # that), over subjects of each data set and then data sets, or the 90th percentile over subjects.
    stop_on: str = "by-window"
    # Weights of data sets in by-subject, by name; empty: all alike. Not in the hash, since a dict has none.
    stop_weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    schedule: Schedule = "cosine"
    warmup_epochs: float = 1.0  # wsd: instead of warmup_fraction; MiniCPM's is short and fixed, too
    cooldown_fraction: float = 0.2  # wsd: share of the epochs; Hägele et al.: 20 % is about as good as cosine

    # The one sensor whose channels it sees, "ppg" or "acc"; "" = all there are in the windows. Teachers may
    # see what students don't (learning with privileged information, Vapnik and Vashist 2009).
    channels: str = ""

    @property
    def cooldown_from(self) -> int:
        """Epochs before the cooldown of wsd begins."""
        cooldown = self.cooldown_fraction * self.max_epochs
        return self.max_epochs - (max(round(cooldown), 1) if cooldown else 0)

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise InputError(f"recipe: schedule is {self.schedule!r}: use {', '.join(get_args(Schedule))}")
        if self.stop_on not in STOP_ON:
            raise InputError(f"recipe: stop_on is {self.stop_on!r}: use {', '.join(STOP_ON)}")


@dataclass(frozen=True)
class Spec:
    """One model to train: what `kd.training.train.Run` needs to know of a point.

    teacher: id of the teacher whose outputs the student learns from, or whose weights it starts from; None
    for teachers and for `scratch` students of random init.
    init: `inits.INITS`: "random", or "pruned" (copied from the teacher, pruned to the student's width).
    """

    id: str
    role: str  # "teacher" | "student"
    arch: str  # of kd.models.architectures
    depth: int
    width: int
    init: str = "random"
    strategy: str = "scratch"
    strategy_args: dict[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
