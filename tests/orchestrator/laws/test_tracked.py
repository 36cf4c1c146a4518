"""Laws of errors with the tracker beside those without: of the same results, in files of their own."""

import json

import pytest

from kd.errors import InputError
from orchestrator.api import open_sweep
from orchestrator.laws.document import laws_file
from orchestrator.laws.simulate import FakeSweep
from orchestrator.store.metric import Headline
from orchestrator.store.store import Store


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A simulated sweep whose tracked errors are half the others for dkd, and a tenth less for scratch."""
    folder = tmp_path_factory.mktemp("sweep") / "s"
    fake = FakeSweep(widths=(4, 8, 16, 32), strategies=("scratch", "dkd"), teachers=("t",), seeds=1)
    store = Store(folder)
    for result in fake.results():
        share = 0.5 if result["strategy"] == "dkd" else 0.9
        store.write_result(result["id"], result | {"mae_bpm_tracked": share * result["mae_bpm"]})
    (folder / "space.yaml").write_text("name: s\n")
    (folder / "plan.json").write_text(json.dumps({"metric": "by-window"}))
    return open_sweep(folder)


def test_query_answers_for_either_error(sweep) -> None:
    one, other = sweep.fit(), sweep.fit(tracked=True)
    assert (one["metric"], other["metric"]) == ("by-window", "tracked-by-window")
    alone, tracked = sweep.query(max_params=20000), sweep.query(max_params=20000, tracked=True)
    assert tracked.best["mae_bpm"]["median"] < 0.95 * alone.best["mae_bpm"]["median"]
    assert "mean over windows, tracked" in repr(tracked)
    assert "tracked" not in repr(alone)
    assert sweep.query(max_params=20000, tracked=False) == alone
    assert {p.name for p in sweep.folder.glob("laws_*")} == {"laws_tracked.json", "laws_tracked.png"}


def test_laws_that_are_missing_are_asked_for_by_their_command(sweep, tmp_path) -> None:
    path = laws_file(tmp_path, Headline("tracked-by-subject"), False)
    assert path.name == "laws_untracked.json"
    assert laws_file(tmp_path, Headline("tracked-by-subject"), True).name == "laws.json"
    (tmp_path / "plan.json").write_text(json.dumps({"metric": "by-subject"}))
    (tmp_path / "points").mkdir()
    with pytest.raises(InputError, match=r"laws_tracked.json does not exist: run `kdsweep fit .* --tracked`"):
        open_sweep(tmp_path).query(max_params=9, tracked=True)


def test_results_of_earlier_versions_have_no_such_laws(sweep, tmp_path) -> None:
    store = Store(tmp_path)
    for result in sweep.store.results():
        result.pop("mae_bpm_tracked")
        store.write_result(result["id"], result)
    (tmp_path / "space.yaml").write_text("name: s\n")
    with pytest.raises(InputError, match="has no error with a tracker"):
        open_sweep(tmp_path).fit(tracked=True)
