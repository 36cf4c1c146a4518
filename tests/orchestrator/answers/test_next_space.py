"""A suggested space brings the teachers that its students need, and trains the others."""

from types import SimpleNamespace

import pytest

from orchestrator.answers import next_space
from orchestrator.space.schema import SearchSpace

SPACE = {
    "name": "s",
    "teachers": [
        {"arch": "mlp", "depth": 1, "width": [8, 16]},
        {"name": "a", "outputs": "a"},
        {"name": "b", "outputs": "b"},
        {"name": "c", "outputs": "c"},
        {"name": "both", "mean": ["a", "b"]},
    ],
    "students": [{"arch": "mlp", "depth": 1, "width": 4}],
    "strategies": {"soft": {}},
}


def test_brought_teachers_are_brought_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"arch": "x", "depth": 1, "width": 1, "seed": 0}
    points = {
        "t": {"arch": "mlp", "depth": 1, "width": 8, "seed": 0},
        "u": {**shape, "brought": "both"},
        "v": {**shape, "brought": "a"},
    }
    picks = [
        {"arch": "mlp", "depth": 1, "width": 6, "init": "random", "strategy": "soft", "strategy_args": {}}
        | {"seed": 0, "teacher": teacher}
        for teacher in points
    ]
    monkeypatch.setattr(next_space, "_pick", lambda document, pick, share: pick)
    space = SearchSpace.model_validate(SPACE)
    suggestion = SimpleNamespace(picks=picks)
    made = next_space.next_space(space, {"teacher_points": points}, suggestion)  # type: ignore[arg-type]
    assert [(block.width, block.seeds) for block in made.grids] == [([8], [0])]
    assert sorted(block.name for block in made.brought) == ["a", "b", "both"]
    SPACE["teachers"][4]["mean"] = ["a", "mlp-1x16"]  # type: ignore[index]
    space = SearchSpace.model_validate(SPACE)
    made = next_space.next_space(space, {"teacher_points": points}, suggestion)  # type: ignore[arg-type]
    assert [block.width for block in made.grids] == [[8], [8, 16]], "members must be what they were"
    assert sorted(block.name for block in made.brought) == ["a", "both"]


def test_a_pre_trained_teacher_is_pre_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "t": {"arch": "mlp", "depth": 1, "width": 8, "seed": 0},
        "p": {"arch": "mlp", "depth": 1, "width": 8, "seed": 0, "pretrain_epochs": 5},
    }
    picks = [
        {"arch": "mlp", "depth": 1, "width": 6, "init": "random", "strategy": "soft", "strategy_args": {}}
        | {"seed": 0, "teacher": teacher}
        for teacher in points
    ]
    monkeypatch.setattr(next_space, "_pick", lambda document, pick, share: pick)
    suggestion = SimpleNamespace(picks=picks)
    space = SearchSpace.model_validate(SPACE)
    made = next_space.next_space(space, {"teacher_points": points}, suggestion)  # type: ignore[arg-type]
    assert [block.pretrain and block.pretrain.epochs for block in made.grids] == [5, None]
