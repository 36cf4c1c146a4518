"""What is true on disk? A sweep's directory: results, errors, ledger, locks, and how to find it.

Knows nothing of spaces, plans or training.
"""
