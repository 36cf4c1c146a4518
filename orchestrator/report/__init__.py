"""The report: one HTML file of a sweep. `page.render` makes it, `artifacts.log` shows it in MLflow.

Reads laws.json and the store; fits nothing. numpy, jinja2 and hand-made SVG: neither torch nor matplotlib.
"""
