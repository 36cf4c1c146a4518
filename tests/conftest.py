"""What several rooms' tests share: small data, sweeps, and how `make test` divides them."""

import functools
from pathlib import Path

import pytest


@functools.cache
def share(file):
    """What one process runs in one go: a test file, all that boot Slurm, or all others that boot Ray."""
    if "mark.cluster" not in Path(__file__).parents[1].joinpath(file).read_text(encoding="utf-8"):
        return file
    return "slurm" if file.startswith("tests/slurm/") else "ray"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Slurm's tests, which wait most of the time, in one process; Ray's in another, then all others."""
    from xdist.scheduler import LoadScopeScheduling

    class Shares(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return share(nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # the longest begin: `pytest_collection_modifyitems`
    return Shares(config, log)


def pytest_collection_modifyitems(config, items):
    """In a process of xdist's Slurm's tests come first, then Ray's; else they keep the order of files."""
    if hasattr(config, "workerinput"):
        first = {"slurm": 0, "ray": 1}
        items.sort(key=lambda item: first.get(share(item.nodeid.partition("::")[0]), 2))


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A few hundred synthetic windows of a few subjects, prepared once."""
    from kd.signals.prepare import DataConfig, prepare

    config = DataConfig(source="synthetic", options={"subjects": 9, "minutes": 3.0})
    return prepare(config, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def whole_result():
    """Makes a result with every key that one must have; more replaces and adds."""

    def make(id, **more):
        shape = {"role": "student", "arch": "resnet1d", "depth": 2, "width": 4, "init": "random"}
        how = {"strategy": "scratch", "strategy_args": {}, "teacher": None, "seed": 0}
        return {"id": id, **shape, **how, "params": 1000, "mae_bpm": 3.0, "train_seconds": 2.0, **more}

    return make


HOSTILE = "</script><script>globalThis.hacked = 1</script>"  # what a user may well have put into a name


@pytest.fixture(scope="session")
def fitted_sweep(tmp_path_factory):
    """A simulated sweep's directory as `run` and `fit` leave it: two inits, failed, blocked and open points.

    Every name that a user may choose is hostile to HTML. Nothing in it may be changed.
    """
    import json
    from dataclasses import fields

    from orchestrator.laws.document import make_document
    from orchestrator.laws.simulate import FakeSweep
    from orchestrator.space.plan import Plan, Point
    from orchestrator.store.store import Store

    folder = tmp_path_factory.mktemp("sweeps") / "fitted"
    fake = FakeSweep(
        widths=(4, 6, 8, 12, 24, 48),
        strategies=("scratch", "soft", "dkd", f"own {HOSTILE}"),
        teachers=(f"T {HOSTILE}",),
        seeds=2,
        tilts={"dkd": 0.02, "soft": -0.02},
    )
    results = fake.results(rng=0)
    results[0] |= {"depth": 4, "width": 64}  # so that students of depth 4 can be pruned from it
    for r in results[1:]:
        if r["arch"] == "resnet1d" and r["strategy"] == "dkd":
            pruned = {"init": "pruned", "id": f"p{r['id']}", "mae_bpm": 0.97 * r["mae_bpm"]}
            results.append(r | pruned | {"total_seconds": r["train_seconds"] + 2.0})
    results = [
        r | {"epochs": 4, "device": "cpu", "git_commit": "c0ffee", "versions": {"torch": "2"}}
        for r in results
    ]
    store = Store(folder)
    for r in results:
        id = "teacher" if r["role"] == "teacher" else r["id"]
        store.write_result(id, r)
        history = [
            {
                "epoch": e,
                "val_mae_bpm": r["mae_bpm"] * (1 + 1 / e),
                "train_seconds": r["train_seconds"] * e / 4,
            }
            for e in range(1, 5)
        ]
        (store.folder(id) / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    like = next(r for r in results if r["role"] == "student")
    empty = {f.name: like.get(f.name, 0) for f in fields(Point)} | {"recipe": {}, "cost_s": 1.0}
    empty |= {"fold": None, "data_group": "simulated", "teacher_group": None, "brought": {}}
    points = [
        Point(**empty | {"id": "bad", "role": "teacher", "teacher": None}),
        Point(**empty | {"id": "blocked", "teacher": "bad", "strategy": "soft"}),
        Point(**empty | {"id": "open", "teacher": None}),
    ]
    Plan("fitted", points, []).save(folder / "plan.json")
    store.write_error("bad", {"type": "Diverged", "message": f"the loss is {HOSTILE}", "epoch": 3})
    document = make_document(f"fitted {HOSTILE}", results, {"samples": 200, "classes": 180})
    (folder / "laws.json").write_text(json.dumps(document))
    (folder / "space.yaml").write_text(f"name: fitted\ndata: {{source: synthetic}}\n# {HOSTILE}\n")
    return folder


@pytest.fixture(scope="session")
def profiled_sweep(fitted_sweep, tmp_path_factory):
    """`fitted_sweep` with a profile.json, invented: two devices, MLPs timed on cpu-1 alone.

    Latencies follow the law with noise, so that predictions are in doubt. One in four has a measured arena.
    """
    import json
    import math
    import random
    import shutil

    from orchestrator.edge.latency import FILE, empty_profile, fit_laws

    folder = tmp_path_factory.mktemp("sweeps") / "profiled"
    shutil.copytree(fitted_sweep, folder)
    document = json.loads((folder / "laws.json").read_text())
    dice, profile = random.Random(0), empty_profile()
    profile["devices"] = {key: {"cpu": f"CPU of {key}", "flags": []} for key in ("cpu-1", "cpu-2")}
    for arm in document["arms"]:
        columns = document["architectures"][arm["arch"]]["configurations"]
        shapes = list(zip(columns["depth"], columns["width"], strict=True))
        for run in arm["runs"][::2]:
            row = shapes.index((run["depth"], run["width"]))
            shape = {key: columns[key][row] for key in ("depth", "width", "macs", "layers")}
            ms = (0.01 + 2e-8 * shape["macs"] + 0.002 * shape["layers"]) * math.exp(dice.gauss(0, 0.2))
            devices = {
                device: {
                    "fp32": {"latency_ms": {"median": ms * slower}, "mae_bpm": run["mae_bpm"]},
                    "int8": {
                        "latency_ms": {"median": ms * slower * dice.uniform(0.5, 0.8)},
                        "mae_bpm": run["mae_bpm"] + dice.gauss(0.01, 0.02),
                        "drift_bpm": {"mean": 0.1},
                    },
                }
                for device, slower in (("cpu-1", 1.0), ("cpu-2", 3.0))
                if (device, arm["arch"]) != ("cpu-2", "mlp")
            }
            point = shape | {"arch": arm["arch"], "devices": devices}
            if len(profile["points"]) % 4 == 0:
                size = columns["weight_bytes"][row]
                kinds = (("fp32", 1), ("int8", 4))
                point["mcu"] = {
                    p: {"flash_bytes": size // n + 3000, "arena_bytes": 2 * size // n} for p, n in kinds
                }
            profile["points"][run["id"]] = point
    profile["latency_laws"] = fit_laws(profile)
    (folder / FILE).write_text(json.dumps(profile))
    return folder
