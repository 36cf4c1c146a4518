"""A student in 8-bit integers: `layers` is the arithmetic, `ranges` the scales, `quantise` walks a model.

What C computes (`kd.edge.c.network8`) is what `layers` computes, to the bit. Needs torch, knows no sweep.
"""
