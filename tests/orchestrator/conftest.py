"""A small trained sweep, shared by the commands that ship students."""

from dataclasses import asdict

import pytest

SPACE = """
name: tiny
data: {options: {subjects: 9, minutes: 2}}
students:
  - {arch: resnet1d, depth: 1, width: [2, 3, 4, 5, 6]}
  - {arch: mlp, depth: 1, width: [4]}
training: {max_epochs: 1, batch_size: 64}
"""


@pytest.fixture(scope="session")
def tiny_sweep(tmp_path_factory):
    """A sweep directory with six trained students, laws.json among its files. Copy it before changing it."""
    from kd.training.recipe import RECIPE_VERSION, Recipe, Spec
    from kd.training.train import Run
    from orchestrator.space.resolve import open_space

    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    opened = open_space(str(folder), [], None)
    opened.plan.save(folder / "plan.json")
    for p in opened.plan.points:
        spec = Spec(p.id, p.role, p.arch, p.depth, p.width, seed=p.seed, recipe=Recipe(**p.recipe))
        run = Run(spec, opened.windows, opened.store.folder(p.id))
        while run.step() is not None:
            pass
        made = {"recipe_version": RECIPE_VERSION, "versions": {"torch": "2"}, "git_commit": None}
        made |= {"finished_at": "2026-01-01T00:00:00.000+00:00"}
        opened.store.write_result(p.id, {**asdict(p), **run.finish(), **made})
    return folder
