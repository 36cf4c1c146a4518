"""Which student, how sure, and what to train next? From laws.json and a budget.

Knows neither Ray nor MLflow, neither torch nor the command line.
"""
