"""A student as C99: `network` walks the model, `source` writes the files, `check` runs them.

Needs torch and jinja2; of a sweep it knows nothing.
"""
