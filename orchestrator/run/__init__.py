"""How is a plan trained, here or in a cluster? Driver, scheduler, workers, progress; Slurm submissions.

Knows neither laws nor answers; a worker knows no Ray, `kd` no sweep.
"""
