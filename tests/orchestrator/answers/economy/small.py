"""A small plan with a truth: ResNets of four sizes, scratch and two strategies of one teacher, two folds."""

import numpy as np

from kd.models.sizes import size
from orchestrator.answers.economy.step import Known
from orchestrator.space.plan import Point

WIDTHS = (4, 8, 16, 32)
GAIN = {"scratch": 0.0, "soft": -0.3, "hard": -0.02}
EPOCHS = 10


def point(role: str, width: int, strategy: str, fold: int | None, teacher: str | None = None) -> Point:
    """One point; its id says what it is."""
    depth = 4 if role == "student" else 8
    s = size("resnet1d", depth, width)
    other = "" if teacher in (None, "T16") else teacher
    name = f"{strategy}{width}{other}" if role == "student" else f"T{width}"
    return Point(
        id=f"{name}-{fold}",
        role=role,
        arch="resnet1d",
        depth=depth,
        width=width,
        init="random",
        strategy=strategy,
        strategy_args={},
        teacher=f"{teacher}-{fold}" if teacher else None,
        seed=0,
        recipe={},
        data_fingerprint=f"data {fold}",
        params=s.params,
        macs=s.macs,
        activation_bytes=s.activation_bytes,
        weight_bytes=s.weight_bytes,
        weight_bytes_int8=s.weight_bytes // 4,
        cost_s=1.0,
        fold=fold,
        data_group="data",
        teacher_group=teacher if role == "student" else name,
    )


def plan(folds: tuple[int | None, ...] = (0, 1), teachers: tuple[int, ...] = (16,)) -> list[Point]:
    """All points, teachers first."""
    out = [point("teacher", width, "scratch", fold) for fold in folds for width in teachers]
    for fold in folds:
        for width in WIDTHS:
            out.append(point("student", width, "scratch", fold))
            for strategy in ("soft", "hard"):
                out += [point("student", width, strategy, fold, f"T{t}") for t in teachers]
    return out


def true_error(p: Point) -> float:
    """BPM: falls with size, and by strategy."""
    return float(8.0 * (p.params / 5000) ** -0.2 * np.exp(GAIN[p.strategy]))


def curve(p: Point) -> list[float]:
    """Validation error after each epoch, falling to the true error, in another fold's people 20 % more."""
    x = np.arange(1, EPOCHS + 1) / EPOCHS
    people = 1.2 if p.fold == 1 else 1.0
    return list(true_error(p) * people * np.exp(0.3 * (x**-0.5 - 1)))


def known(points: list[Point], trained: dict[str, int], **more) -> Known:
    """What is known after so many epochs of some points; those with all of them are finished."""
    by_id = {p.id: p for p in points}
    done = [id for id, n in trained.items() if n >= EPOCHS]
    of = {
        "until_regret": None,
        "budget_s": None,
        "running": frozenset(),
        "question": {"max_params": 1e5},
    } | more
    pace = {p.id: 1.0 + p.macs / 1e6 for p in points}
    spent = sum(pace[id] * n for id, n in trained.items())
    return Known(
        points=points,
        curves={id: curve(by_id[id])[:n] for id, n in trained.items()},
        results={id: {"mae_bpm": curve(by_id[id])[-1]} for id in done},
        seconds_per_epoch=pace,
        epochs={p.id: EPOCHS for p in points},
        **({"spent_s": spent} | of),
    )
