"""A plan: every point of a sweep, teachers first, and its file plan.json. Knows no search space.

Imports nothing heavy: `kdsweep status` reads plans on login nodes. Plans are made in `planning`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import write_json
from orchestrator.store.metric import Headline, headline_in
from orchestrator.store.parts import many_objects
from orchestrator.words import pretrained, seeing

ID_DIGITS = 12  # of a SHA-256; two of a million points share an id with probability 0.2 %
# Fields of a Point that aren't of one plain type, as they come out of JSON.
JSON_TYPES: dict[str, set[Any]] = {
    "teacher": {str, type(None)},
    "cost_s": {int, float},
    "strategy_args": {dict},
    "recipe": {dict},
    "fold": {int, type(None)},
    "teacher_group": {str, type(None)},
    "brought": {dict},
}
# Fields of which plans of versions without folds say nothing -> the column that has their values.
WITHOUT_FOLDS = {"fold": None, "data_group": "data_fingerprint", "teacher_group": "teacher"}


@dataclass(frozen=True, slots=True)
class Point:
    """One model trained once. teacher: id of the teacher it learns or is pruned from. cost_s: estimated.

    fold: of its data, None where the split is fixed. data_group: the fingerprint of all folds of these data;
    teacher_group: the id that its teacher would have on that. Where the split is fixed, the fingerprint, and
    the teacher's id. brought: where a teacher that is not trained here comes from (`kd.teachers.source`);
    then its depth and width say nothing, and sizes of 0 are not known.
    """

    id: str
    role: str  # "teacher" | "student"
    arch: str
    depth: int
    width: int
    init: str
    strategy: str
    strategy_args: Mapping[str, Any]
    teacher: str | None
    seed: int
    recipe: Mapping[str, Any]
    data_fingerprint: str
    params: int
    macs: int
    activation_bytes: int
    weight_bytes: int
    weight_bytes_int8: int
    cost_s: float
    fold: int | None
    data_group: str
    teacher_group: str | None
    brought: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields by name, as result.json has them."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of what must be done before: its teacher; of a mean, the members that are trained here."""
        if self.teacher is not None:
            return (self.teacher,)
        return trained_members(self.brought)

    @property
    def name(self) -> str:
        """Display name; several points may share it."""
        shape = f"{self.arch}-{self.depth}x{self.width}"
        return self.brought.get("name") or shape + pretrained(self.strategy_args) + seeing(self.recipe)


def trained_members(brought: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids of the points that are members of a mean; none of another brought teacher."""
    return tuple(one["content"][0] for one in brought.get("of", ()) if one["kind"] == "trained")


@dataclass(frozen=True)
class Plan:
    """All points of a space, teachers first. refused: grid entries that cannot be trained, and why."""

    name: str
    points: list[Point]
    refused: list[str] = field(default_factory=list)
    headline: Headline = field(default_factory=Headline)

    @property
    def folds(self) -> list[int]:
        """The folds of its points; none where the split is fixed."""
        return sorted({point.fold for point in self.points if point.fold is not None})

    def save(self, path: Path) -> None:
        """Write plan.json. Recipes and arguments are written once, points refer to them."""
        tables: dict[str, list[Any]] = {"recipes": [], "strategy_args": [], "brought": []}
        index: dict[str, int] = {}

        def place(table: str, value: Mapping[str, Any]) -> int:
            key = table + json.dumps(value, sort_keys=True)
            if key not in index:
                index[key] = len(tables[table])
                tables[table].append(dict(value))
            return index[key]

        columns = [f.name for f in dataclasses.fields(Point)]
        rows = []
        for point in self.points:
            row = [getattr(point, name) for name in columns]
            row[columns.index("recipe")] = place("recipes", point.recipe)
            row[columns.index("strategy_args")] = place("strategy_args", point.strategy_args)
            row[columns.index("brought")] = place("brought", point.brought)
            rows.append(row)
        weights = dict(self.headline.weights)
        content: dict[str, Any] = {
            "metric": self.headline.metric,
            "metric_weights": weights,
        }  # see `headline`
        content |= {"name": self.name, "refused": self.refused}
        content |= {**tables, "columns": columns, "points": rows}
        write_json(path, content)

    @classmethod
    @many_objects()
    def load(cls, path: Path) -> "Plan":
        """Read plan.json. Raises InputError when there is none or it is damaged."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = ["init" if name == "birth" else name for name in content["columns"]]  # 0.1.0 and before
            rows = content["points"]
            table = zip(*rows, strict=True) if rows else [()] * len(names)
            columns: dict[str, Sequence[Any]] = dict(zip(names, table, strict=True))
            tables = {"recipe": "recipes", "strategy_args": "strategy_args", "brought": "brought"}
            for name, values in tables.items():
                if name != "brought" or name in columns:  # plans of versions before have none
                    columns[name] = [content[values][i] for i in columns[name]]
            columns.setdefault("brought", [{}] * len(rows))
            for name, like in WITHOUT_FOLDS.items():
                columns.setdefault(name, columns[like] if like else [None] * len(rows))
            refused = [str(why) for why in content["refused"]]
            return cls(str(content["name"]), _points(columns), refused, headline_in(content))
        except FileNotFoundError:
            raise InputError(f"{path}: no plan: run the search space first (kdsweep run)") from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: not a plan ({error!r}): run the search space again") from error

    def with_earlier(self, path: Path, done: set[str]) -> "Plan":
        """This plan, and what is done of the plan at `path`: a sweep never forgets what it trained."""
        try:
            earlier = Plan.load(path)
        except InputError:  # none yet, or of another version: what is done is found again when it is planned
            return self
        ids = {point.id for point in self.points}
        more = [point for point in earlier.points if point.id in done and point.id not in ids]
        return dataclasses.replace(self, points=[*self.points, *more])


def _points(columns: dict[str, Sequence[Any]]) -> list[Point]:
    """Points from their columns: plans are long, and this takes half the time of one point after another.

    Raises KeyError for a column that is missing, TypeError unless every one holds what it should.
    """
    known = dataclasses.fields(Point)
    if strange := set(columns) - {column.name for column in known}:
        raise TypeError(f"unknown columns {', '.join(map(str, strange))}")
    for column in known:
        allowed, values = JSON_TYPES.get(column.name, {column.type}), columns[column.name]
        if not set(map(type, values)) <= allowed:
            wrong = next(value for value in values if type(value) not in allowed)
            raise TypeError(f"{column.name} is {wrong!r:.40}")
    return list(map(Point, *(columns[column.name] for column in known)))
