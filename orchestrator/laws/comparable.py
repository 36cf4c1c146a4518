"""Which results may stand in one law: those trained alike. Plain Python."""

import json
from typing import Any


def comparable(results: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The results that go with the most recently finished student, and a note on what was set aside.

    Students are alike when data, recipe and its version are; a directory may hold others, since a space can
    be edited. Teachers all stay.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in results:
        if r["role"] == "student":
            groups.setdefault(_training(r), []).append(r)
    if len(groups) < 2:
        return results, []
    newest = max(groups, key=lambda key: max(str(r.get("finished_at", "")) for r in groups[key]))
    aside = sum(len(group) for group in groups.values()) - len(groups[newest])
    kept = [r for r in results if r["role"] != "student" or _training(r) == newest]
    return kept, [
        f"{aside} of {aside + len(groups[newest])} students were trained on other data or with another "
        f"recipe than the latest ones, and are not used in the laws"
    ]


def _training(result: dict[str, Any]) -> str:
    return json.dumps(
        [result.get(k) for k in ("data_fingerprint", "recipe_version", "recipe")], sort_keys=True
    )
