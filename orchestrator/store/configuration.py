"""When are two points the same configuration: alike in all but fold and seed. Knows plain fields only."""

import json
from collections.abc import Mapping
from typing import Any

KEYS = ("role", "arch", "depth", "width", "init", "strategy", "strategy_args", "recipe")


def configuration(point: Mapping[str, Any]) -> str:
    """What points share that differ in fold and seed alone; point: a result, or the fields of a planned one.

    Teachers of different folds are one teacher.
    """
    teacher = point.get("teacher_group") or point.get("teacher")
    return json.dumps([*(point.get(key) for key in KEYS), teacher], sort_keys=True)
