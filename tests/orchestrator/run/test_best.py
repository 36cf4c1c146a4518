"""The best of each strategy: one point of a fixed split, one configuration over folds."""

from dataclasses import replace

from orchestrator.run.best import Best, Leader
from orchestrator.space.plan import Point

POINT = Point(
    **{"id": "p", "role": "student", "arch": "mlp", "depth": 1, "width": 4, "init": "random"},
    **{"strategy": "soft", "strategy_args": {}, "teacher": "t", "seed": 0, "recipe": {}},
    **{"data_fingerprint": "f", "params": 9, "macs": 9, "activation_bytes": 9, "weight_bytes": 9},
    **{"weight_bytes_int8": 9, "cost_s": 1.0, "fold": None, "data_group": "f", "teacher_group": "t"},
)


def test_of_a_fixed_split_the_point_of_the_least_error_leads() -> None:
    best = Best()
    for i, error in enumerate((5.0, 4.0, 6.0)):
        best.add(replace(POINT, id=f"p{i}", seed=i), error)
    best.add(replace(POINT, id="t", role="teacher", strategy="scratch"), 3.0)
    assert list(best.by_kind().items()) == [("teacher", Leader(3.0, "t", 0)), ("soft", Leader(4.0, "p1", 0))]


def test_with_folds_the_mean_over_the_most_folds_leads_not_the_easiest_people() -> None:
    best = Best()
    for width, errors in ((4, (2.0, 9.0)), (6, (5.0, 5.0)), (8, (1.0,))):
        for fold, error in enumerate(errors):
            point = replace(POINT, id=f"w{width}f{fold}", width=width, fold=fold, teacher=f"t{fold}")
            best.add(point, error)
    assert best.by_kind() == {"soft": Leader(5.0, "w6f0", 2)}
