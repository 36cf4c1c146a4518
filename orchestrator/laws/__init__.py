from orchestrator.laws.law import Law, fit_law

__all__ = ["Law", "fit_law"]
