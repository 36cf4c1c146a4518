"""The loss terms that a strategy may weigh, by name. Torch-free: the functions are in `kd.training.losses`.

Adding a term is one function there and one line in TERMS.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """How a loss function is weighed. What it needs of teacher and student, its parameters' names say.

    weights: a name for each value it gives; more than one where two terms share their computation.
    ramped: whether its weights grow from 0 over the first `warmup_fraction` of the epochs.
    """

    weights: tuple[str, ...]
    ramped: bool = False


TERMS: dict[str, Term] = {  # by the function's name; a loss is summed in this order
    "cross_entropy": Term(("ce",)),
    "hard": Term(("hard",)),
    "soft": Term(("soft",)),
    "decoupled": Term(("tckd", "nckd"), ramped=True),
    "feature": Term(("feature",)),
    "standardised": Term(("standardised",)),
    "dist": Term(("inter", "intra")),
}


@dataclass(frozen=True)
class Weights:
    """How much each loss term counts; one that isn't named counts 0. A term of weight 0 is never computed.

    temperature: of terms that temper logits. window: half-width, in classes, of the decoupled target part.
    warmup_fraction: share of the epochs over which ramped terms grow from 0 to their weight.
    unlabelled_share: of a batch's windows, how many have no label; unlabelled_weight: how much one of them
    counts, beside one with a label, in terms that need no label. Raises ValueError for a name that no entry
    of TERMS has.
    """

    terms: Mapping[str, float]
    temperature: float = 1.0
    window: int = 0
    warmup_fraction: float = 0.0
    unlabelled_share: float = 0.0
    unlabelled_weight: float = 1.0

    def __post_init__(self) -> None:
        known = [name for term in TERMS.values() for name in term.weights]
        if unknown := [name for name in self.terms if name not in known]:
            raise ValueError(f"unknown loss term {', '.join(unknown)}: use {', '.join(known)}")

    def of(self, term: Term) -> list[float]:
        """The weight of each of a term's values."""
        return [float(self.terms.get(name, 0.0)) for name in term.weights]
