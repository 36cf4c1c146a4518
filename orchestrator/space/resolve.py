"""From what a person types to a search space, its sweep directory, its data and its plan. No torch."""

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd.errors import InputError
from kd.files import write_text
from kd.signals.prepare import Data, DataConfig, prepare
from orchestrator.space.plan import Plan, make_plan
from orchestrator.space.schema import SearchSpace, load_space, space_text
from orchestrator.space.slot import Slot
from orchestrator.store.store import Store


@dataclass(frozen=True)
class Opened:
    """A search space made ready: its data are prepared, its points known."""

    space: SearchSpace
    store: Store
    cache_dir: Path
    data: DataConfig
    windows: Data
    plan: Plan

    @property
    def slot(self) -> Slot:
        """What one running pack holds here."""
        return self.space.resources.slot(has_gpu())

    def save_space(self) -> None:
        """Write space.yaml, as it was understood: overrides applied, paths absolute."""
        self.store.path.mkdir(parents=True, exist_ok=True)
        write_text(self.store.path / "space.yaml", space_text(self.space))


def open_space(
    space: str, overrides: Sequence[str], out: str | None, say: Callable[[str], None] | None = None
) -> Opened:
    """Read a search space, prepare its data and plan its points.

    space: a YAML file, or a sweep (its directory, or its name under sweeps/), whose space.yaml is read again.
    out: the sweep directory; default sweeps/<name>. Raises InputError.
    """
    read, folder = space_of(space, overrides, out)
    config = read.data_config()
    cache_dir = cache_of(folder)
    windows = prepare(config, cache_dir, say)
    store = Store(folder)
    plan = make_plan(read, windows)
    _refuse_other_data(store, plan)
    return Opened(read, store, cache_dir, config, windows, plan)


def space_of(space: str, overrides: Sequence[str], out: str | None) -> tuple[SearchSpace, Path]:
    """The search space and its sweep directory, without touching the data."""
    file, folder = Path(space), None
    if not file.is_file():
        folder = next((f for f in (file, Path("sweeps") / space) if (f / "space.yaml").is_file()), None)
        file = folder / "space.yaml" if folder else file
    read = load_space(file, overrides)
    if read.data.path:
        path = str(Path(read.data.path).expanduser().absolute())
        read = read.model_copy(update={"data": read.data.model_copy(update={"path": path})})
    assert read.name is not None
    return read, Path(out) if out else folder or Path("sweeps") / read.name


def cache_of(folder: Path) -> Path:
    """Where prepared windows lie: beside the sweep, shared by all sweeps there."""
    return folder.absolute().parent / ".cache"


def has_gpu() -> bool:
    """Whether this machine, or this Slurm job, offers an NVIDIA GPU. Asks no driver and no torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return visible not in ("", "-1", "NoDevFiles")
    return bool(glob.glob("/dev/nvidia[0-9]*"))


def _refuse_other_data(store: Store, plan: Plan) -> None:
    """One sweep directory, one data set: laws over errors on different windows would mean nothing."""
    first = next(store.results(), None)
    if first and plan.points and first["data_fingerprint"] != plan.points[0].data_fingerprint:
        raise InputError(
            f"{store.path} holds results on other data (fingerprint {first['data_fingerprint']}, "
            f"this space has {plan.points[0].data_fingerprint}): choose another directory with --out"
        )
