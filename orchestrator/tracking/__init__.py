"""What does MLflow show of a sweep? Written from the store, and read back.

A sweep's own database (mlflow.db) is made aside, and remade from the results if it is broken: `database`.
Which sweep a directory is that was moved or copied: `memory`. All trouble goes through `client.told`.

Never the truth: knows nothing that the store does not hold, and no Ray.
"""
