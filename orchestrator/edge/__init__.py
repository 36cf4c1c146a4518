"""What does a student cost on the device, and what is shipped? Profiles, latency laws, exports, model cards.

Knows no laws of error and no budgets; what is inside an exported file is `kd.edge`.
"""
