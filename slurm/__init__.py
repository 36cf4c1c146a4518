"""Slurm scripts, site profiles, submitting and job states: text in, text out; no torch, no Ray."""
