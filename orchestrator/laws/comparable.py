"""Which results may stand in one law: those trained alike. Plain Python."""

import hashlib
import json
from typing import Any

from kd.errors import InputError
from orchestrator.words import quoted


def comparable(
    results: list[dict[str, Any]], recipe: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The results of the largest group of students that were trained alike, and which group that is.

    Students are alike when data, recipe and its version are; of groups equally large the one that finished
    last is taken. recipe: another group, by its hash or by key=value of what sets it apart. Teachers all
    stay. Raises InputError when `recipe` names no group, or several.

    The group: hash, students, its `recipe`, and the `others`, each with hash, students and what `differs`:
    key -> its value.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in results:
        if r["role"] == "student":
            groups.setdefault(_training(r), []).append(r)
    ordered = sorted(groups, key=lambda key: (len(groups[key]), _last(groups[key])), reverse=True)
    if not ordered:
        return results, {"hash": None, "students": 0, "recipe": {}, "others": []}
    values = {key: _values(groups[key][0]) for key in ordered}
    apart = sorted(
        name
        for name in {n for v in values.values() for n in v}
        if len({v.get(name) for v in values.values()}) > 1
    )
    chosen = ordered[0] if recipe is None else _choose(ordered, values, apart, groups, recipe)
    others = [
        {
            "hash": short(key),
            "students": len(groups[key]),
            "differs": {n: values[key].get(n) for n in apart if values[key].get(n) != values[chosen].get(n)},
        }
        for key in ordered
        if key != chosen
    ]
    kept = [r for r in results if r["role"] != "student" or _training(r) == chosen]
    return kept, {
        "hash": short(chosen),
        "students": len(groups[chosen]),
        "recipe": {k: values[chosen][k] for k in groups[chosen][0].get("recipe") or {}},
        "differs": {n: values[chosen].get(n) for n in apart},
        "others": others,
    }


def notes_on(group: dict[str, Any]) -> list[str]:
    """What was set aside, in a line; none when all students were trained alike."""
    if not group["others"]:
        return []
    aside = sum(other["students"] for other in group["others"])
    named = "; ".join(_named(o["hash"], o["students"], o["differs"]) for o in group["others"])
    return [
        f"{aside} of {aside + group['students']} students were trained on other data or with another recipe "
        f"than the {group['students']} fitted (--recipe {group['hash']}), "
        f"and are not used in the laws: {named}"
    ]


def refuse_other_recipe(document: dict[str, Any], recipe: str | None, sweep: str) -> None:
    """Raises InputError when laws were fitted to another group than the one that `recipe` names."""
    group = document.get("group")
    if recipe is None:
        return
    if group is None:
        raise InputError(
            f"{sweep}: its laws don't say which recipe they hold: run `kdsweep fit {quoted(sweep)}` again"
        )
    known = [group, *group["others"]]
    differs = [
        group.get("differs", {}),
        *({**group.get("differs", {}), **o["differs"]} for o in group["others"]),
    ]
    found = [g["hash"] for g, d in zip(known, differs, strict=True) if _fits(g["hash"], d, recipe)]
    if not found:
        listing = "; ".join(_named(g["hash"], g["students"], d) for g, d in zip(known, differs, strict=True))
        raise InputError(
            f"--recipe {recipe}: {sweep} has no such group of students; choose one of: {listing}"
        )
    if group["hash"] not in found:
        raise InputError(
            f"--recipe {recipe}: the laws of {sweep} are of recipe {group['hash']}: "
            f"run `kdsweep fit {quoted(sweep)} --recipe {recipe}` first"
        )


def short(training: str) -> str:
    """The handle of a group."""
    return hashlib.sha256(training.encode()).hexdigest()[:8]


def _choose(
    ordered: list[str],
    values: dict[str, dict[str, str]],
    apart: list[str],
    groups: dict[str, list[dict[str, Any]]],
    recipe: str,
) -> str:
    found = [key for key in ordered if _fits(short(key), values[key], recipe)]
    if len(found) == 1:
        return found[0]
    listing = "; ".join(
        _named(short(key), len(groups[key]), {n: values[key].get(n) for n in apart}) for key in ordered
    )
    what = "no group of students" if not found else f"{len(found)} groups of students"
    raise InputError(f"--recipe {recipe}: {what} of this sweep; choose one of: {listing}")


def _fits(handle: str, values: dict[str, Any], wanted: str) -> bool:
    if handle == wanted:
        return True
    pairs = [pair.partition("=") for pair in wanted.split(",")]
    return all(sign and key in values and _same(values[key], text) for key, sign, text in pairs)


def _same(value: str, text: str) -> bool:
    """Whether a value is what a person typed: 1e-3 is 0.001."""
    if value == text:
        return True
    try:
        return float(value) == float(text)
    except ValueError:
        return False


def _named(handle: str, students: int, differs: dict[str, Any]) -> str:
    said = ", ".join(f"{k} by default" if v is None else f"{k}={v}" for k, v in differs.items())
    return f"{students} with {said} (--recipe {handle})"


def _values(result: dict[str, Any]) -> dict[str, str]:
    """What makes results alike, by the key that a person writes; texts, since MLflow holds nothing else."""
    data = result.get("data_group") or result.get("data_fingerprint")  # all folds of one division are alike
    alike = {"data_fingerprint": data, "recipe_version": result.get("recipe_version")}
    return {key: str(value) for key, value in (alike | (result.get("recipe") or {})).items()}


def _last(results: list[dict[str, Any]]) -> str:
    return max(str(r.get("finished_at", "")) for r in results)


def _training(result: dict[str, Any]) -> str:
    return json.dumps(_values(result), sort_keys=True)
