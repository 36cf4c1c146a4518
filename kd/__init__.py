"""Signals, models, losses, training and the edge cost of one model: torch, numpy, scipy; no Ray, MLflow or Slurm."""
