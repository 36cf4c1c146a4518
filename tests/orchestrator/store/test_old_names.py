"""A sweep that an earlier version wrote is read with today's names, under the same ids."""

import json
from pathlib import Path

from orchestrator.space.plan import Plan
from orchestrator.space.schema import load_space
from orchestrator.store.store import Store


def test_results_and_plans_that_say_birth(tmp_path: Path, tiny_sweep: Path) -> None:
    plan = json.loads((tiny_sweep / "plan.json").read_text())
    plan["columns"] = ["birth" if name == "init" else name for name in plan["columns"]]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert Plan.load(tmp_path / "plan.json").points == Plan.load(tiny_sweep / "plan.json").points

    result = next(Store(tiny_sweep).results())
    old = {"birth" if key == "init" else key: value for key, value in result.items()}
    store = Store(tmp_path)
    store.write_result(result["id"], old)
    assert store.result(result["id"]) == result


def test_a_space_that_says_birth(tmp_path: Path) -> None:
    text = "students:\n  - {arch: resnet1d, depth: 1, width: 2, NAME: [pruned]}\n"
    spaces = []
    for name in ("birth", "init"):
        (tmp_path / "s.yaml").write_text(text.replace("NAME", name))
        spaces.append(load_space(tmp_path / "s.yaml"))
    assert spaces[0] == spaces[1]
    assert spaces[0].students[0].init == ["pruned"]
