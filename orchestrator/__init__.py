"""The sweep: search space, plan, Ray Tune, store, MLflow, laws, budgets, report, command line."""
