"""The teacher's size: an optimum that is there, one that is not, and too few teachers to tell."""

from typing import Any

import numpy as np

from orchestrator.laws.teachers import teacher_effect

TEACHERS = {f"T{i}": float(n) for i, n in enumerate(np.geomspace(3e4, 3e6, 6))}
SHAPES = {4: 3e3, 8: 1e4, 16: 3e4}  # width -> params


def students(effect: Any, noise: float = 0.005, teachers: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    """Students of three sizes under two strategies; `effect`(ln of teacher over student) adds to ln MAE."""
    rng = np.random.default_rng(seed)
    chosen = dict(list(TEACHERS.items())[:teachers])
    out: list[dict[str, Any]] = [
        {"id": t, "role": "teacher", "params": n, "arch": "resnet1d"} for t, n in chosen.items()
    ]
    for width, params in SHAPES.items():
        for strategy in ("soft", "dkd"):
            for teacher, n in chosen.items():
                for s in range(2):
                    ln = 2 - 0.1 * np.log(params) + effect(np.log(n / params)) + noise * rng.standard_normal()
                    out.append(
                        {
                            "id": f"{width}{strategy}{teacher}{s}",
                            "role": "student",
                            "arch": "resnet1d",
                            "depth": 4,
                            "width": width,
                            "init": "random",
                            "strategy": strategy,
                            "strategy_args": {},
                            "teacher": teacher,
                            "params": params,
                            "mae_bpm": float(np.exp(ln)),
                            "seed": s,
                        }
                    )
    return out


def test_finds_an_optimum_with_an_interval() -> None:
    best = np.log(20.0)
    (found,) = teacher_effect(students(lambda x: 0.02 * (x - best) ** 2))
    assert found["kept"] == "quadratic"
    assert found["optimum"]["low"] < 20 < found["optimum"]["high"]
    assert found["optimum"]["ratio"] == np.clip(found["optimum"]["ratio"], 14, 28)
    assert "times the student's size" in found["text"]


def test_larger_teachers_better_throughout_is_no_optimum() -> None:
    (found,) = teacher_effect(students(lambda x: -0.03 * x))
    assert found["kept"] == "linear"
    assert found["optimum"] is None
    assert "larger teachers are better throughout; no optimum inside the swept range" in found["text"]


def test_no_effect_is_kept_out_by_two_tests() -> None:
    kept = [teacher_effect(students(lambda x: 0.0, noise=0.02, seed=s))[0]["kept"] for s in range(20)]
    assert kept.count("none") >= 16
    assert kept.count("quadratic") <= 1


def test_too_few_teachers_say_how_many_to_train() -> None:
    (found,) = teacher_effect(students(lambda x: 0.02 * (x - 3) ** 2, teachers=3))
    assert found["kept"] == "none"
    assert "train 4 or more" in found["text"]


def test_without_teachers_nothing_is_said() -> None:
    assert teacher_effect([]) == []


def test_a_brought_teacher_of_unknown_size_is_left_out() -> None:
    results = students(lambda x: -0.05 * x, teachers=4)
    results[0]["params"] = 0
    (found,) = teacher_effect(results)
    assert found["teachers"] == 3
