"""What do I mail? One HTML file of a sweep: `page.render` makes it, `artifacts.log` shows it in MLflow.

Reads laws.json and the store and fits nothing; knows neither torch nor matplotlib: jinja2 and SVG by hand.
"""
