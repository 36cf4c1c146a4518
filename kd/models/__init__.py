"""The architectures, and their sizes in closed form.

Knows no loss, no data and no training; names, sizes and inits are torch-free.
"""
