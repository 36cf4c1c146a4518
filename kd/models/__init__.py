"""The architectures, their sizes in closed form, and the files their weights are in.

Knows no loss, no data and no training; names, sizes and inits are torch-free.
"""
