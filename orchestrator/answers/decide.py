"""Which of the candidates to name, and whether the evidence can decide between them. numpy only."""

from typing import Any

import numpy as np

from orchestrator.answers.candidates import NEAR_BPM, Candidates, Rows, Shares
from orchestrator.answers.evidence import Measured, measured_of

TIE = 0.002  # ln error: of students this close to the best, the smallest is named
SURE = 0.5  # P(within `NEAR_SHARE` of the best) below which the evidence can't decide
NEAR_SHARE = 0.02  # of the error, and never less than NEAR_BPM
MOST_REGRET = 0.04  # expected, as a share of the error
NAMED = 3  # contenders in a sentence


def choose(document: dict[str, Any], c: Candidates) -> tuple[int, int, str]:
    """The candidate that is best by rank, the one to name, and why if they differ.

    A trained student is named if it is as good; of students that are no worse, the smallest.
    """
    first = int(c.score.argmin())
    leader = _smallest(document, c, np.ones(len(c.score), dtype=bool), first)
    trained = trained_winner(document, c)
    if trained is None or c.trained[leader]:
        return first, leader, "" if leader == first else _smaller(c, leader, first)
    gap = float(np.exp(c.score[trained]) - np.exp(c.score[leader]))
    worse = f"the best trained student within the budget is expected to be {gap:.2f} BPM worse than this one"
    if gap > NEAR_BPM:
        return leader, leader, worse
    gain = f"an untrained student would gain {max(gap, 0.0):.3f} BPM, less than {NEAR_BPM:g}"
    return leader, trained, f"already trained and as good: {gain}"


def trained_winner(document: dict[str, Any], c: Candidates) -> int | None:
    """The trained candidate that is ranked first; of those no worse, the smallest."""
    if not c.trained.any():
        return None
    first = int(np.where(c.trained, c.score, np.inf).argmin())
    return _smallest(document, c, c.trained, first)


def _smallest(document: dict[str, Any], c: Candidates, among: Rows, first: int) -> int:
    close = np.flatnonzero(among & (c.score <= c.score[first] + TIE))
    sizes = np.array([_params(document, c, int(k)) for k in close])
    return int(close[np.lexsort((c.score[close], sizes))[0]])


def _params(document: dict[str, Any], c: Candidates, k: int) -> int:
    arch = document["arms"][c.arm[k]]["arch"]
    return int(document["architectures"][arch]["configurations"]["params"][int(c.row[k])])


def _smaller(c: Candidates, named: int, first: int) -> str:
    worse = float(np.exp(c.score[named]) - np.exp(c.score[first]))
    return f"as good as any larger one: the best would gain {max(worse, 0.0):.3f} BPM"


def doubt(document: dict[str, Any], c: Candidates, leader: int, best: int, share: Shares) -> str:
    """Why the evidence can't decide for `leader`, for which `best` is named; "" if it can."""
    arm = document["arms"][c.arm[leader]]
    if arm["verdict"] == "weak" and not c.trained[best]:
        why = arm["why"].replace("; ", ", ")  # `shown` tells an answer's notes apart by "; "
        return f"cannot decide: the law of {arm['key']} is weak ({why})"
    mae = np.exp(c.compared[:, leader])
    over = mae - share.best_of_draw
    close = float((over <= np.maximum(NEAR_SHARE * share.best_of_draw, NEAR_BPM)).mean())
    if close >= SURE and float(over.mean()) <= MOST_REGRET * float(mae.mean()):
        return ""
    rivals = contenders(document, c)
    if len(rivals) == 1:
        return f"cannot decide how large a student of {rivals[0]['arm']} should be"
    named = ", ".join(f"{rival['arm']} (P(best) {rival['p_best']:.2f})" for rival in rivals)
    return f"cannot decide between {named}"


def contenders(document: dict[str, Any], c: Candidates) -> list[dict[str, Any]]:
    """The arms that most often have the best student, with how often: {arm, p_best}."""
    share = np.bincount(c.arm[c.compared.argmin(1)], minlength=len(document["arms"])) / len(c.compared)
    order = np.argsort(-share, kind="stable")[:NAMED]
    return [
        {"arm": document["arms"][j]["key"], "p_best": round(float(share[j]), 4)}
        for j in order
        if share[j] > 0
    ]


def told(document: dict[str, Any], c: Candidates, k: int) -> dict[str, Any]:
    """A trained candidate as `measured` shows it."""
    j = int(c.arm[k])
    return _told(document, j, measured_of(document, j)[int(c.row[k])])


def best_measured(document: dict[str, Any], allowed: dict[str, Rows]) -> dict[str, Any] | None:
    """The trained student with the lowest mean error, where no law ranks them; None if there is none."""
    found = [
        (m.error, document["architectures"][arm["arch"]]["configurations"]["params"][m.row], j, m)
        for j, arm in enumerate(document["arms"])
        for m in measured_of(document, j).values()
        if allowed[arm["arch"]][m.row]
    ]
    if not found:
        return None
    _, _, j, m = min(found, key=lambda f: (f[0], f[1], f[2]))
    return _told(document, j, m)


def _told(document: dict[str, Any], j: int, m: Measured) -> dict[str, Any]:
    arm = document["arms"][j]
    columns = document["architectures"][arm["arch"]]["configurations"]
    return {
        "point": m.point,
        "arm": arm["key"],
        "depth": columns["depth"][m.row],
        "width": columns["width"][m.row],
        "params": columns["params"][m.row],
        "error": round(m.error, 4),
        "n_runs": m.n_runs,
        "n_folds": m.n_folds,
    }
