"""Means of teachers, some of them trained in the sweep itself: which points those are. No torch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from kd.errors import InputError
from kd.teachers.source import Source
from orchestrator.space.brought import Found
from orchestrator.space.plan import Point

Members = Mapping[str, Sequence[Point]]  # points of a fold, by what a mean calls them


def names_of(found: Found) -> list[str]:
    """What a mean calls its members that are trained here; none of another brought teacher."""
    return [one.name for one in found.source.of if one.kind == "trained"]


def with_members(source: Source, members: Members, id_of: Callable[[Point], str]) -> Source:
    """A mean with the points of a fold as its members, each once. InputError for one teacher alone."""
    of: dict[tuple[str, ...], Source] = {}
    for one in source.of:
        for point in members[one.name] if one.kind == "trained" else ():
            content = (id_of(point),)
            of[content] = dataclasses.replace(
                one,
                name=point.name,
                sensor=point.recipe.get("channels", ""),
                content=content,
                params=point.params,
                macs=point.macs,
            )
        if one.kind != "trained":
            of[one.name, *one.content] = one
    if len(of) < 2:
        raise InputError(
            f"teacher {source.name}: mean: {', '.join(one.name for one in source.of)} is one teacher: name "
            "another, or give it several seeds"
        )
    params, macs = ([getattr(one, key) for one in of.values()] for key in ("params", "macs"))
    return dataclasses.replace(
        source,
        of=tuple(of.values()),
        params=sum(params) if all(params) else 0,
        macs=sum(macs) if all(macs) else 0,
    )
