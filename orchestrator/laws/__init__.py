from orchestrator.laws.fit import fit_law
from orchestrator.laws.law import Law

__all__ = ["Law", "fit_law"]
