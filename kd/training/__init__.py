"""How models are trained: strategies, losses, the one loop, stacks, teachers' outputs, pruned starts.

Knows neither Ray nor where sweeps keep their files.
"""
