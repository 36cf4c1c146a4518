"""Starting a sweep from Python: what stops it, and what it gives back."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from kd.errors import InputError, Unavailable
from orchestrator.run import ray_cluster, run_directory, start
from orchestrator.run.driver import Busy
from orchestrator.run.outcome import SweepResult
from orchestrator.run.progress import Display
from orchestrator.run.ray_cluster import environment_kept
from orchestrator.space.slot import Slot


@pytest.fixture
def ended(monkeypatch):
    """`run_space` without data or Ray: set how the training ends."""
    opened = SimpleNamespace(store=SimpleNamespace(path=Path("sweeps/x")))
    monkeypatch.setattr(start, "open_space", lambda *args: opened)

    def end(**how):
        result = SweepResult(total=2, already_done=0, done=1, **how)
        monkeypatch.setattr(start, "train", lambda *args, **options: result)
        return result

    return end


def test_an_interrupt_reaches_the_caller_once_all_is_saved(ended):
    ended(stopped_by=signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start.run_space("x.yaml")


def test_any_other_signal_goes_to_the_callers_handler(ended):
    got = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    try:
        ended(stopped_by=signal.SIGUSR1)
        assert start.run_space("x.yaml").result.done == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert got == [signal.SIGUSR1]


def test_a_sweep_that_cannot_run_raises_and_failed_points_do_not(ended):
    result = ended(failed=["a"])
    assert start.run_space("x.yaml").result is result
    ended(error="workers cannot start")
    with pytest.raises(RuntimeError, match="workers cannot start"):
        start.run_space("x.yaml")


def test_a_busy_sweep_is_an_input_error(monkeypatch, tmp_path):
    def busy(*args):
        raise Busy("sweeps/x is being run by another process")

    monkeypatch.setattr(start, "run_sweep", busy)
    resources = SimpleNamespace(max_failures=1)
    opened = SimpleNamespace(
        plan=SimpleNamespace(refused=[]),
        keep=None,
        left_in_words=str,
        space=SimpleNamespace(resources=resources),
    )
    opened.data = opened.cache_dir = opened.slot = None
    opened.store = SimpleNamespace(path=tmp_path)
    with pytest.raises(InputError, match="another process; wait for it"):
        start.train(opened, Display())


def test_a_ray_that_does_not_start_leaves_no_directory(monkeypatch, tmp_path):
    import ray

    def refuse(**options):
        assert list(tmp_path.glob("kds-*/token"))
        raise RuntimeError("no Ray today")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(run_directory, "_parents", lambda: [tmp_path])
    slot = Slot(cpus=1, gpus=0, threads=1)
    with environment_kept(), pytest.raises(Unavailable, match="no Ray today"):
        ray_cluster.Cluster.start(slot, slots=1, dashboard=False, env={})
    assert not list(tmp_path.glob("kds-*"))


def test_the_environment_is_given_back_also_after_an_error(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "mine")
    before = dict(os.environ)

    def fail():
        with environment_kept():
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH="/nowhere")
            raise ValueError("oh")

    with pytest.raises(ValueError, match="oh"):
        fail()
    assert dict(os.environ) == before
