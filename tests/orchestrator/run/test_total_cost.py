"""The compute a point really had: its own, and its teacher's."""

from types import SimpleNamespace

import pytest

from orchestrator.run.worker import total_cost
from orchestrator.store.store import Store


def test_a_student_carries_its_share_and_the_whole_of_its_teacher(tmp_path, whole_result):
    store = Store(tmp_path)
    store.write_result("t", whole_result("t", train_seconds=30.0))
    teachers = {"t": None, "a": "t", "b": "t", "c": "t", "alone": None}
    points = {id: SimpleNamespace(needs=(teacher,) if teacher else ()) for id, teacher in teachers.items()}
    served = {"t": 3}
    assert total_cost(points["a"], served, 5.0, store) == {
        "teacher_seconds": 30.0,
        "teacher_students": 3,
        "total_seconds": pytest.approx(15.0),
        "alone_seconds": pytest.approx(35.0),
    }
    for id in ("t", "alone"):
        assert total_cost(points[id], served, 5.0, store) == {"total_seconds": 5.0, "alone_seconds": 5.0}


def test_a_mean_carries_its_members_and_its_students_all_of_them(tmp_path, whole_result):
    store = Store(tmp_path)
    for id, seconds in (("one", 30.0), ("two", 10.0)):
        store.write_result(id, whole_result(id, train_seconds=seconds))
    served = {"one": 3, "two": 1, "mean": 2}
    cost = total_cost(SimpleNamespace(needs=("one", "two")), served, 1.0, store)
    assert (cost["total_seconds"], cost["alone_seconds"]) == (1 + 30 / 3 + 10, 41.0)
    store.write_result("mean", whole_result("mean", train_seconds=1.0) | cost)
    cost = total_cost(SimpleNamespace(needs=("mean",)), served, 5.0, store)
    assert (cost["total_seconds"], cost["alone_seconds"]) == (5 + 21 / 2, 46.0)
