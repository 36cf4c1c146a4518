"""The compute a point really had: its own, and its teacher's."""

from types import SimpleNamespace

import pytest

from orchestrator.run.worker import total_cost
from orchestrator.store.store import Store


def test_a_student_carries_its_share_and_the_whole_of_its_teacher(tmp_path, whole_result):
    store = Store(tmp_path)
    store.write_result("t", whole_result("t", train_seconds=30.0))
    teachers = {"t": None, "a": "t", "b": "t", "c": "t", "alone": None}
    points = {id: SimpleNamespace(teacher=teacher) for id, teacher in teachers.items()}
    served = {"t": 3}
    assert total_cost(points["a"], served, 5.0, store) == {
        "teacher_seconds": 30.0,
        "teacher_students": 3,
        "total_seconds": pytest.approx(15.0),
        "alone_seconds": pytest.approx(35.0),
    }
    for id in ("t", "alone"):
        assert total_cost(points[id], served, 5.0, store) == {"total_seconds": 5.0, "alone_seconds": 5.0}
