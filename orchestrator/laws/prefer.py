"""Which form the data prefer, and how strongly: reported, never used to select. numpy only."""

from typing import Any

import numpy as np

from orchestrator.laws.law import Law

PAPER = "log_exponential"
RIVAL = "exponential"
WORDS = (
    (10.0, "strongly"),
    (4.0, "clearly"),
    (2.0, "weakly"),
)  # of AICc, Burnham 2002


def preference(laws: list[Law]) -> dict[str, Any]:
    """Forms summed over arms: mean fit and holdout error, AICc beyond the best; and a sentence."""
    fitted = [law for law in laws if law.forms]
    common = [
        name
        for name in dict.fromkeys(f["name"] for law in fitted for f in law.forms)
        if all(any(f["name"] == name for f in law.forms) for law in fitted)
    ]
    if not common:
        return {"forms": [], "text": "no arm could be fitted"}
    rows = [_row(name, fitted) for name in common]
    least = min(row["aicc"] for row in rows)
    for row in rows:
        row["aicc"] = round(row["aicc"] - least, 2)
    rows.sort(key=lambda row: row["aicc"])
    return {"forms": rows, "text": _text(rows)}


def _row(name: str, laws: list[Law]) -> dict[str, Any]:
    forms = [next(f for f in law.forms if f["name"] == name) for law in laws]
    held = [f["holdout_error"] for f in forms if f["holdout_error"] is not None]
    return {
        "name": name,
        "title": forms[0]["title"],
        "in_ensemble": forms[0]["in_ensemble"],
        "aicc": float(sum(f["aicc"] for f in forms)),
        "fit_error": round(float(np.mean([f["fit_error"] for f in forms])), 5),
        "holdout_error": round(float(np.mean(held)), 5) if held else None,
    }


def _text(rows: list[dict[str, Any]]) -> str:
    by = {row["name"]: row for row in rows}
    text = f"the data prefer the {rows[0]['title']}"
    if len(rows) > 1:
        text += f", {_strength(rows[1]['aicc'])} before the {rows[1]['title']} (AICc {rows[1]['aicc']:.1f})"
    paper, rival = by.get(PAPER), by.get(RIVAL)
    if paper and rival:
        first, second = sorted((paper, rival), key=lambda row: row["aicc"])
        gap = second["aicc"] - first["aicc"]
        text += f"; of the two exponentials, {_strength(gap)} the {first['title']} (AICc {gap:.1f}"
        if paper["holdout_error"] is not None and rival["holdout_error"] is not None:
            text += (
                f"; error on held-out largest sizes {100 * first['holdout_error']:.1f} % "
                f"against {100 * second['holdout_error']:.1f} %"
            )
        text += ")"
    return text


def _strength(gap: float) -> str:
    return next((word for least, word in WORDS if gap >= least), "hardly")
