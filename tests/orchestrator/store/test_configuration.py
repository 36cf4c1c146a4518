"""One rule for what is the same configuration, for results and for planned points."""

import dataclasses

import pytest

from orchestrator.space.plan import Point
from orchestrator.store.configuration import configuration

POINT = Point(
    **{"id": "a", "role": "student", "arch": "mlp", "depth": 1, "width": 4, "init": "random"},
    **{"strategy": "soft", "strategy_args": {"weight": 1.0, "temperature": 4.0}, "teacher": "t0", "seed": 0},
    **{"recipe": {"lr": 0.1, "stop_weights": {"A": 1.0}}, "data_fingerprint": "f0", "params": 9, "macs": 9},
    **{"activation_bytes": 1, "weight_bytes": 1, "weight_bytes_int8": 1, "cost_s": 1.0},
    **{"fold": 0, "data_group": "all", "teacher_group": "t"},
)


def test_folds_and_seeds_are_one_configuration_also_as_results():
    other = dataclasses.replace(POINT, id="b", seed=3, fold=1, teacher="t1", data_fingerprint="f1")
    turned = dict(reversed(POINT.strategy_args.items()))
    same = [POINT, other, dataclasses.replace(POINT, strategy_args=turned)]
    assert len({configuration(p.fields) for p in same}) == 1
    result = {**dataclasses.asdict(POINT), "mae_bpm": 3.0}
    assert configuration(result) == configuration(POINT.fields)
    del result["teacher_group"]  # of a fixed split, before there were folds
    assert configuration(result | {"teacher": "t"}) == configuration(POINT.fields)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 5},
        {"init": "pruned"},
        {"strategy": "dkd"},
        {"strategy_args": {"weight": 2.0, "temperature": 4.0}},
        {"teacher_group": "u"},
        {"recipe": {"lr": 0.2, "stop_weights": {"A": 1.0}}},
        {"role": "teacher"},
    ],
)
def test_all_else_tells_configurations_apart(change):
    assert configuration(dataclasses.replace(POINT, **change).fields) != configuration(POINT.fields)
