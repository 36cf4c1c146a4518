"""`kdsweep plan SPACE --answer`: from a space to what it could answer."""

import json

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands.plan import plan
from orchestrator.laws.crossed import CrossedSweep
from orchestrator.store.store import Store

SPACE = """
data:
  source: synthetic
  options: {subjects: 12, minutes: 1}
  split: {scheme: kfold, folds: 3}
teachers:
  - {arch: resnet1d, depth: 4, width: 8}
students:
  - {arch: resnet1d, depth: 2, width: [2, 4, 6, 8]}
  - {arch: mlp, depth: 1, width: [4, 8, 16, 32]}
strategies: {scratch: , soft: , dkd: {beta: 2}}
training: {max_epochs: 1}
"""


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(SPACE)
    return "tiny.yaml"


def ask(*args):
    ran = CliRunner().invoke(plan, args, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran


def test_the_plan_says_what_it_could_answer_and_what_would(space):
    lines = ask(space, "--answer", "max-params=5000").stdout.splitlines()
    said = next(
        i for i, line in enumerate(lines) if line.startswith("With 4 sizes, 1 seed, 3 folds the best")
    )
    assert "for max-params 5,000 would be named rightly" in lines[said]
    assert "20 new people" in lines[said + 1]
    assert any(word in lines[said + 2] for word in ("cheapest design", "reaches the target", "no design"))
    assert lines[said + 3].startswith("noise: typical noise")


def test_as_json(space):
    told = json.loads(ask(space, "--answer", "max-params=5000", "--target", "0.3", "--json").stdout)
    found = told["answerable"]
    assert found["asked"] == {"max_params": 5000.0}
    assert found["target"] == 0.3
    design = found["design"]
    assert (design["folds"], design["seeds"], design["sizes"]) == (3, 1.0, 4)
    assert 0 <= design["p_right"] <= design["p_within"] <= 1
    assert design["cost_s"] == pytest.approx(told["cost_s"], rel=1e-3)
    assert found["proposed"]["p_right"] >= 0.3
    cheaper = [r for r in found["designs"] if r["cost_s"] < found["proposed"]["cost_s"]]
    assert all(r["p_right"] < 0.3 for r in cheaper)
    assert found["noise"]["from"].startswith("typical")


def test_the_noise_of_an_earlier_sweep(space, tmp_path):
    loud, quiet = tmp_path / "sweeps" / "loud", tmp_path / "sweeps" / "quiet"
    for folder, noise in ((loud, 0.5), (quiet, 0.001)):
        for result in CrossedSweep(1, arms=4, noise=noise, deviation=0.0, interaction=0.0).results():
            Store(folder).write_result(result["id"], result)
        (folder / "space.yaml").write_text("")
    p = {}
    for name in ("loud", "quiet"):
        told = json.loads(ask(space, "--answer", "max-params=5000", "--noise", name, "--json").stdout)
        noise = told["answerable"]["noise"]
        assert noise["from"].startswith(f"the results of {name}; architectures: typical")
        p[name] = told["answerable"]["design"]["p_right"]
    assert p["quiet"] > 0.9 > p["loud"] + 0.2


def test_wrong_use(space, tmp_path):
    for args, says in (
        (["--target", "0.5"], "need --answer"),
        (["--noise", "nowhere", "--answer", "max-params=5000"], "no sweep at nowhere"),
        (["--answer", "max-params=3"], "no student near the sizes of this plan fits"),
        (["--answer", "max-latency-ms=3"], "latency isn't known"),
    ):
        with pytest.raises(InputError, match=says):
            ask(space, *args)
    (tmp_path / "sweeps" / "empty" / "points").mkdir(parents=True)
    with pytest.raises(InputError, match="tell of no noise"):
        ask(space, "--noise", "empty", "--answer", "max-params=5000")
    alone = ["students=[{arch: mlp, depth: 1, width: [4, 8]}]", "strategies={scratch: }"]
    with pytest.raises(InputError, match="one arm only"):
        ask(space, *alone, "--answer", "max-params=5000")
