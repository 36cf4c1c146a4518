"""Workers of one node train from its copy of the data what they train from the shared one."""

from pathlib import Path

import pytest

from kd.signals import stage
from orchestrator.run.worker import PackTrainer, Setup
from orchestrator.space.packs import Pack
from orchestrator.space.resolve import open_space

SPACE = """\
name: staged
data: {options: {subjects: 6, minutes: 1.0}}
teachers: {arch: mlp, depth: 1, width: 8}
students: [{arch: mlp, depth: 1, width: 4}]
strategies: {scratch: {}}
training: {max_epochs: 2, batch_size: 32}
"""


def trained(tmp_path: Path, name: str, node_dir: Path | None) -> dict[str, bytes]:
    """Bytes of every model, trained by two workers in turn."""
    (tmp_path / "staged.yaml").write_text(SPACE, encoding="utf-8")
    opened = open_space(str(tmp_path / "staged.yaml"), (), str(tmp_path / name))
    opened.store.path.mkdir()
    opened.plan.save(opened.store.path / "plan.json")
    setup = Setup(
        sweep_dir=str(opened.store.path),
        pace_dir=str(tmp_path),
        cache_dir=str(opened.cache_dir),
        data=opened.data,
        threads=1,
        gpu=False,
        slice_s=0.0,
        checkpoint_every_s=1e9,
        git_commit=None,
    )
    workers = [PackTrainer(setup, node_dir) for _ in range(2)]
    for worker, point in zip(workers, opened.plan.points, strict=True):
        worker.take(Pack.of([point], {}))
        while worker.ids:
            worker.advance(0.0)
    return {path.parent.name: path.read_bytes() for path in opened.store.path.glob("points/*/*.safetensors")}


def test_two_workers_copy_once_and_train_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "worth_it", lambda *_: True)
    (tmp_path / "node" / "trainers").mkdir(parents=True)
    shared = trained(tmp_path, "shared", None)
    assert "copied" not in capfd.readouterr().out
    assert len(shared) == 2
    assert trained(tmp_path, "local", tmp_path / "node") == shared
    assert capfd.readouterr().out.count("the data is copied to") == 1
