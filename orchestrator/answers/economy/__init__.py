"""What to train next, so that a question is answered for the least compute, and when that is enough.

A belief about every student of a plan (`belief`), from finished points and unfinished curves (`curves`); the
slices of training that lower the expected regret of the answer most per second (`worth`); one step of it
(`step`). numpy and scipy only: knows plans and result.json, neither Ray nor torch nor the command line.
"""
