"""What to train next: within the hours, on the question asked, as a space that `run` takes."""

import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.answers.candidates import Budget
from orchestrator.answers.suggest import suggest
from orchestrator.api import open_sweep
from orchestrator.commands.fit import fit
from orchestrator.commands.query import query
from orchestrator.commands.suggest import suggest as command
from orchestrator.laws.document import make_document
from orchestrator.laws.simulate import FakeSweep
from orchestrator.run.status import standing
from orchestrator.space.plan import Plan
from orchestrator.space.planning import make_plan
from orchestrator.space.resolve import open_space
from orchestrator.space.schema import load_space, space_text
from orchestrator.store.store import Store
from orchestrator.tracking.reader import from_folder, from_mlflow, model_shape

SWEEP = FakeSweep(archs=("resnet1d",), widths=(4, 6, 8, 12), strategies=("scratch", "soft", "dkd"), seeds=1)
SPACE = """
name: old
data: {options: {subjects: 9, minutes: 3.0}}
teachers:
  - {arch: resnet1d, depth: 4, width: [24, 32], seeds: 1}
students:
  - {arch: resnet1d, depth: 4, width: [4, 6, 8, 12]}
  - {arch: resnet1d, depth: 4, width: [4, 6, 8, 12], init: pruned, strategies: {soft: {temperature: 2}}}
strategies: {scratch: {}, dkd: {beta: 2}}
training: {max_epochs: 3, teachers: {max_epochs: 5}}
"""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document("fake", SWEEP.results(0), {})


@dataclass(frozen=True)
class Trained:
    """A sweep directory whose points have errors from a known law, and its plan."""

    folder: Path
    plan: Plan


@pytest.fixture(scope="module")
def trained(small_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("sweeps") / "old"
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    plan = make_plan(load_space(folder / "space.yaml"), small_data)
    (folder / "space.yaml").write_text(space_text(load_space(folder / "space.yaml")))
    plan.save(folder / "plan.json")
    rng = np.random.default_rng(0)
    for point in plan.points:
        mae = float(SWEEP.mean(point.arch, point.strategy, point.teacher, np.array([float(point.params)]))[0])
        figures = {
            "mae_bpm": mae * float(np.exp(0.01 * rng.standard_normal())),
            "train_seconds": 1 + point.macs / 1e6,
            "epochs": 3,
            "recipe_version": 1,
            "device": "cpu",
            "git_commit": "abc",
            "finished_at": "2026-01-01T00:00:00.000+00:00",
        }
        result = {k: v for k, v in asdict(point).items() if k not in ("cost_s", "brought")} | figures
        Store(folder).write_result(point.id, result)
    ran = CliRunner().invoke(fit, [str(folder)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return Trained(folder, plan)


def shapes(document: dict[str, Any], suggestion: Any) -> Iterator[tuple[dict[str, Any], int, bool]]:
    """(arm, params, whether such a student was trained) of every pick."""
    for pick in suggestion.picks:
        arm = document["arms"][pick.arm]
        columns = document["architectures"][arm["arch"]]["configurations"]
        shape = (columns["depth"][pick.row], columns["width"][pick.row])
        seen = {(r["depth"], r["width"]) for r in arm["runs"]}
        yield arm, columns["params"][pick.row], shape in seen


def test_stays_within_the_hours(document: dict[str, Any]) -> None:
    for hours in (0.003, 0.01, 0.03):
        found = suggest(document, Budget(max_params=9_000), hours)
        assert found.picks
        assert sum(p.cost_s for p in found.picks) == pytest.approx(found.cost_s)
        assert found.cost_s <= hours * 3600


def test_says_which_are_new_sizes_and_gives_repeats_the_next_seed(document: dict[str, Any]) -> None:
    found = suggest(document, Budget(max_params=9_000), 0.03)
    for pick, (_, _, trained) in zip(found.picks, shapes(document, found), strict=True):
        assert (pick.why, pick.seed) == (("seed repeat", 1) if trained else ("new size", 0))
    assert {pick.why for pick in found.picks} == {"seed repeat", "new size"}


def test_what_may_be_best_is_trained_first(document: dict[str, Any]) -> None:
    """Not the strategy that is a tenth worse at all sizes."""
    arms = [document["arms"][pick.arm] for pick in suggest(document, Budget(max_params=9_000), 0.03).picks]
    assert arms[0]["strategy"] != "scratch"
    assert arms[1]["strategy"] != "scratch"


def test_a_student_is_paid_for_in_every_fold(document: dict[str, Any]) -> None:
    folds = deepcopy(document)
    for arm in folds["arms"]:
        arm["runs"] = [
            run | {"fold": fold, "id": f"{run['id']}-{fold}", "mae_bpm": run["mae_bpm"] * (1 + fold)}
            for run in arm["runs"]
            for fold in range(2)
        ]
    once, twice = (suggest(d, Budget(max_params=9_000), 1).picks for d in (document, folds))
    cost = {(p.arm, p.row): p.cost_s for p in once}
    both = [p for p in twice if (p.arm, p.row) in cost]
    assert both
    assert all(p.cost_s == pytest.approx(2 * cost[p.arm, p.row]) for p in both)


def test_points_are_distinct_and_new(document: dict[str, Any]) -> None:
    found = suggest(document, Budget(max_params=9_000), 0.05)
    keys = [(p.arm, p.row, p.seed) for p in found.picks]
    assert len(set(keys)) == len(keys)
    for pick, (arm, params, _) in zip(found.picks, shapes(document, found), strict=True):
        assert not any(r["params"] == params and r["seed"] == pick.seed for r in arm["runs"])


def test_points_are_near_the_question(document: dict[str, Any]) -> None:
    """A question about small students is not answered by training large ones."""
    small = suggest(document, Budget(max_params=2_500), 0.02)
    picks = list(shapes(document, small))
    assert np.median([params for _, params, _ in picks]) <= 5_000


def test_the_expected_regret_falls() -> None:
    document = make_document("fake", replace(SWEEP, noise=0.08).results(0), {})
    found = suggest(document, Budget(max_params=9_000), 0.05)
    assert 0 < found.regret_after_bpm < found.regret_bpm  # never "nothing": the truth is none of the draws
    assert found.regret_bpm - sum(p.gain_bpm for p in found.picks) == pytest.approx(found.regret_after_bpm)


def test_the_same_question_gets_the_same_suggestion(document: dict[str, Any]) -> None:
    budget = Budget(max_params=9_000)
    assert suggest(document, budget, 0.02) == suggest(document, budget, 0.02)


def test_impossible_questions_say_why(document: dict[str, Any]) -> None:
    budget = Budget(max_params=9_000)
    with pytest.raises(InputError, match="cheapest student costs"):
        suggest(document, budget, 1e-6)
    with pytest.raises(InputError, match="positive number of hours"):
        suggest(document, budget, -1)
    with pytest.raises(InputError, match="no student within the range of the laws fits"):
        suggest(document, Budget(max_params=5), 1)
    with pytest.raises(InputError, match="kdsweep profile"):
        suggest(document, Budget(max_latency_ms=5), 1)


def test_two_sizes_without_a_law_are_enough_to_suggest_from() -> None:
    results = [r for r in SWEEP.results(0) if r["role"] == "teacher" or r["width"] <= 6]
    document = make_document("two", results, {})
    assert not any(arm["reach"] for arm in document["arms"])
    found = suggest(document, Budget(max_params=9_000), 1)
    assert "new size" in {pick.why for pick in found.picks}
    assert found.regret_after_bpm < found.regret_bpm


def test_folds_that_a_student_lacks_come_before_another_seed() -> None:
    """One of two folds is trained at the largest size: its other fold, at the price of one."""
    results = [r | {"id": f"{r['id']}{f}", "fold": f} for r in SWEEP.results(0) for f in range(2)]
    kept = [r for r in results if r["role"] == "teacher" or r["width"] < 12 or r["fold"] == 0]
    document = make_document("folds", kept, {})
    picks = [p for p in suggest(document, Budget(max_params=9_000), 1).picks if p.why == "missing folds"]
    assert picks
    cost = document["architectures"]["resnet1d"]["train_seconds"]
    columns = document["architectures"]["resnet1d"]["configurations"]
    for pick in picks:
        assert (columns["width"][pick.row], pick.seed) == (12, 0)
        assert pick.cost_s == pytest.approx(cost["fixed"] + cost["per_mac"] * columns["macs"][pick.row])


def test_the_space_it_writes_trains_what_it_says(trained: Trained, small_data: Any, tmp_path: Path) -> None:
    file = tmp_path / "next.yaml"
    options = ["--gpu-hours", "0.03", "--max-params", "20000", "-o", str(file), "--json"]
    ran = CliRunner().invoke(command, [str(trained.folder), *options], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["cost_gpu_hours"] <= 0.03
    assert file.read_text().startswith(f"# kdsweep run {file} --out {trained.folder}\n# about ")

    plan = make_plan(load_space(file), small_data)
    done = Store(trained.folder).done()
    teachers = {p.id for p in plan.points if p.role == "teacher"}
    assert teachers <= done  # the same ids, so they are not trained again
    assert teachers == {p["teacher"] for p in said["picks"]} - {None}
    keys = ("arch", "depth", "width", "init", "strategy", "teacher", "seed", "params")
    new = {tuple(getattr(p, k) for k in keys): p for p in plan.points if p.role == "student"}
    wanted = {tuple(p[k] for k in keys): p for p in said["picks"]}
    assert len(plan.points) == len(teachers) + len(said["picks"])
    assert {(*k[:6], k[6]) for k in new} == {(*k[:6], k[6]) for k in wanted}
    assert not {p.id for p in new.values()} & done
    assert {json.dumps(dict(p.strategy_args), sort_keys=True) for p in new.values()} == {
        json.dumps(p["strategy_args"], sort_keys=True) for p in said["picks"]
    }
    old = {p.id for p in trained.plan.points}
    repeat = next(p for p in said["picks"] if p["why"] == "seed repeat")
    again = new[tuple(repeat[k] for k in keys)]
    assert again.recipe == next(p for p in trained.plan.points if p.role == "student").recipe
    assert again.id not in old


def test_its_loop_adds_to_the_sweep(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(trained.folder, folder)
    said = open_sweep(folder).suggest(gpu_hours=0.03, max_params=20_000)
    made = open_space(said.file, [], str(folder))
    before = {p.id for p in trained.plan.points}
    assert len(made.new) == len(said.picks)
    assert said.untrained == 0
    assert made.left_in_words() == (
        f"{len(said.picks)} new points, {len(before)} already done, 0 of an earlier space still to train"
    )
    made.keep().save(folder / "plan.json")
    assert {p.id for p in made.plan.points} == before | made.new
    again = open_space(str(folder), [], None)
    assert again.plan == made.plan, "plan, run and retry read the sweep"
    assert standing(folder)["total"] == len(made.plan.points)
    page = open_sweep(folder).report().read_text()
    runs = [f"kdsweep run spaces/{number}.yaml --out old" for number in ("001", "002")]
    assert page.index(runs[0]) < page.index(runs[1])


def test_it_goes_on_with_the_recipe_that_was_fitted(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(trained.folder, folder)
    open_space(str(folder), ["training.lr=0.01", "students.0.width=20"], None).keep()
    said = open_sweep(folder).suggest(gpu_hours=0.02)
    assert load_space(folder / "space.yaml").recipe("student")["lr"] == 0.01
    assert load_space(said.file).recipe("student") == load_space(trained.folder / "space.yaml").recipe(
        "student"
    )


def test_it_says_what_else_its_command_would_train(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(trained.folder, folder)
    shutil.rmtree(folder / "points" / next(p.id for p in trained.plan.points if p.role == "student"))
    ran = CliRunner().invoke(command, [str(folder), "--gpu-hours", "0.02"], catch_exceptions=False)
    assert "points of the sweep that are not trained: 1. This trains them, too" in ran.stderr


def test_by_default_it_is_written_into_the_sweep(trained: Trained) -> None:
    ran = CliRunner().invoke(command, [str(trained.folder), "--gpu-hours", "0.02"], catch_exceptions=False)
    assert ran.exit_code == 0
    assert "expected regret" in ran.stdout
    assert "new size" in ran.stdout
    content = yaml.safe_load((trained.folder / "suggested.yaml").read_text())
    assert content["name"] == "old"
    assert content["training"]["max_epochs"] == 3


def test_mlflow_gives_the_same_laws_as_the_directory(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.tracking.writer import sync

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    sync(Store(trained.folder), trained.plan, uri, status="FINISHED")
    shown, stored = from_mlflow(uri, "old"), from_folder(trained.folder)
    assert shown.space == stored.space
    assert [r["id"] for r in shown.results] == [r["id"] for r in stored.results]
    for ours, theirs in zip(stored.results, shown.results, strict=True):
        assert ours.keys() <= theirs.keys() | {"teacher"}
        for key in set(ours) - {"recipe"}:
            assert theirs[key] == ours[key], key

    monkeypatch.chdir(tmp_path)
    out = tmp_path / "elsewhere"
    options = ["--tracking-uri", uri, "--experiment", "old", "-o", str(out)]
    assert CliRunner().invoke(fit, options, catch_exceptions=False).exit_code == 0
    documents = [json.loads((folder / "laws.json").read_text()) for folder in (out, trained.folder)]
    for document in documents:
        document["made"].pop("at")
        document.pop("digests")  # of all that, the time too
    assert documents[0] == documents[1]
    asked = ["--max-params", "20000", "--json"]
    answers = [
        CliRunner().invoke(query, [str(folder), *asked], catch_exceptions=False).stdout
        for folder in (out, trained.folder)
    ]
    assert answers[0] == answers[1]
    ran = CliRunner().invoke(command, [str(out), "--gpu-hours", "0.02"], catch_exceptions=False)
    assert ran.exit_code == 0

    with pytest.raises(InputError, match="it has Default, old"):
        from_mlflow(uri, "other")
    with pytest.raises(InputError, match="holds no sweep nobody"):
        from_mlflow(uri, "old", "nobody")
    with pytest.raises(InputError, match="give a sweep's directory, or --tracking-uri and --experiment"):
        CliRunner().invoke(fit, ["--tracking-uri", uri], catch_exceptions=False)


def test_two_sweeps_in_one_experiment_must_be_told_apart(trained: Trained, tmp_path: Path) -> None:
    import shutil

    from orchestrator.tracking.writer import sync

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    few = Plan("old", trained.plan.points[:3])
    for name in ("one", "two"):
        shutil.copytree(trained.folder, tmp_path / name, ignore=shutil.ignore_patterns("mlflow*"))
        sync(Store(tmp_path / name), few, uri, status="FINISHED")
    with pytest.raises(InputError, match="holds 2 sweeps: choose one with --sweep-id") as caught:
        from_mlflow(uri, "old")
    id = str(caught.value).rsplit(" ", 1)[1]
    assert len(from_mlflow(uri, "old", id).results) == 3


def test_the_space_tells_the_models_shape(trained: Trained) -> None:
    assert model_shape(trained.folder / "space.yaml") == {"samples": 200, "classes": 180}
