"""The sweep: search space, plan, Ray Tune, store, MLflow, laws, budgets, report, command line, and Python.

`run` is a room of this package; the function that trains is `orchestrator.api.run`.
"""

from orchestrator.api import open_sweep

__all__ = ["open_sweep"]
