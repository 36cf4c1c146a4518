"""Signals, models, losses, training, the edge cost of one model: torch, numpy, scipy; nothing of a sweep."""
