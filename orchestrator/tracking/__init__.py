"""What does MLflow show of a sweep? Written from the store, and read back.

Never the truth: knows nothing that the store does not hold, and no Ray.
"""
