"""What shall be trained? From a YAML file to points: ids, order, packs, cost.

Knows neither Ray nor MLflow nor torch; trains nothing.
"""
