"""How does error fall with size? Laws of error fitted to results, with intervals; `fit_law` takes one curve.

numpy only: knows no budget, no sweep directory beyond results, neither torch nor Ray.
"""

from orchestrator.laws.fit import fit_law
from orchestrator.laws.law import Law

__all__ = ["Law", "fit_law"]
