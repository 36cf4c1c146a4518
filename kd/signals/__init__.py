"""From recordings to windows: filter, windows, splits, augmentation, the synthetic wrist, baselines.

Knows no model and no torch.
"""
