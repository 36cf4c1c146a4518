"""From what a person types to a search space, its sweep directory, its data and its plan. No torch."""

import dataclasses
import glob
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.signals.prepare import Data, DataConfig, folds, group_fingerprint, prepare
from orchestrator.space import spaces
from orchestrator.space.brought import absolute, find_all
from orchestrator.space.brought_schema import Brought
from orchestrator.space.folds import of_fold, windows_of
from orchestrator.space.plan import Plan, Point
from orchestrator.space.planning import make_plan
from orchestrator.space.schema import SearchSpace, load_space
from orchestrator.space.slot import Slot
from orchestrator.store.store import Store


@dataclass(frozen=True)
class Opened:
    """A search space made ready: its data are prepared, its points known.

    plan: every point of the sweep, of its earlier spaces too. new: those that no earlier space names.
    data: of folds the first; `of_fold` gives another. prepared: windows of the fixed split, or of each fold.
    """

    space: SearchSpace
    store: Store
    cache_dir: Path
    data: DataConfig
    prepared: Data | Mapping[int, Data]
    plan: Plan
    file: Path
    new: frozenset[str] = frozenset()
    known: str = ""  # the sweep's spaces as they were read

    @property
    def windows(self) -> Data:
        """The windows of the fixed split, or of the first fold."""
        return windows_of(self.prepared, None)

    @property
    def folds(self) -> dict[int, Data]:
        """The windows of each fold; none where the split is fixed."""
        return {} if isinstance(self.prepared, Data) else dict(self.prepared)

    def of_fold(self, fold: int | None) -> "Opened":
        """The same with the windows of a point's fold only, or as it is."""
        if fold is None or isinstance(self.prepared, Data):
            return self
        return dataclasses.replace(self, data=of_fold(self.data, fold), prepared=self.prepared[fold])

    @property
    def slot(self) -> Slot:
        """What one running pack holds here."""
        return self.space.resources.slot(has_gpu())

    def keep(self) -> Plan:
        """Add the space to its sweep, as understood: overrides applied, paths absolute; the sweep's plan.

        The caller holds the sweep's lock: what others added since is in the plan. Raises InputError.
        """
        plan = self.plan
        if spaces.documents(self.store.path) != self.known:
            known = spaces.load_spaces(self.store.path)
            prepared, group = _prepared(self.space, known, self.data, self.cache_dir)
            plan, _ = _plan_all(self.space, self.file, self.store, prepared, group, self.cache_dir)
        spaces.keep(self.store.path, self.space)
        return plan

    def left_in_words(self) -> str:
        """How many points this space adds, are done, and are left of those before; "" without any."""
        if not self.known:
            return ""
        done = self.store.done()
        ids = {point.id for point in self.plan.points}
        return (
            f"{len(self.new - done)} new points, {len(ids & done)} already done, "
            f"{len(ids - done - self.new)} of an earlier space still to train"
        )


def open_space(
    space: str, overrides: Sequence[str], out: str | None, say: Callable[[str], None] | None = None
) -> Opened:
    """Read a search space, prepare its data and plan its points.

    space: a YAML file, or a sweep (its directory, or its name under sweeps/), whose latest space is
    read again. out: the sweep directory; default sweeps/<name>. Raises InputError.
    """
    read, folder, file = space_of(space, overrides, out)
    config = read.data_config()
    cache_dir = cache_of(folder)
    store = Store(folder)
    earlier = spaces.load_spaces(folder)
    spaces.refuse_stranger(read, file, earlier)
    known = spaces.documents(folder)
    prepared, group = _prepared(read, earlier, config, cache_dir, say)
    plan, new = _plan_all(read, file, store, prepared, group, cache_dir, say)
    return Opened(read, store, cache_dir, config, prepared, plan, file, new, known)


def _prepared(
    space: SearchSpace,
    known: Sequence[tuple[Path, SearchSpace]],
    config: DataConfig,
    cache_dir: Path,
    say: Callable[[str], None] | None = None,
) -> tuple[Data | Mapping[int, Data], str | None]:
    """The windows of all folds that a sweep's spaces use, and the fingerprint that they share."""
    if config.split.scheme == "fixed":
        return prepare(config, cache_dir, say), None
    used: set[int] = set()
    for one in (space, *(other for _, other in known)):
        used |= set(range(folds(config, cache_dir, say))) if one.use == "all" else set(one.use)
    data = {fold: prepare(of_fold(config, fold), cache_dir, say) for fold in sorted(used)}
    return data, group_fingerprint(config, cache_dir, say)


def _plan_all(
    space: SearchSpace,
    file: Path,
    store: Store,
    windows: Data | Mapping[int, Data],
    group: str | None,
    cache_dir: Path,
    say: Callable[[str], None] | None = None,
) -> tuple[Plan, frozenset[str]]:
    """The union of a sweep's spaces and this one, and the points that only this one names.

    Teachers come first, each kind in the order in which the spaces first name it. Raises InputError.
    """
    known = spaces.load_spaces(store.path)
    spaces.refuse_stranger(space, file, known)
    mine = make_plan(space, windows, group, find_all(space, windows, cache_dir, say))
    _refuse_other_data(store, mine)
    points: dict[str, Point] = {}
    refused: list[str] = []
    for where, other in known:
        if spaces.same(space, other):
            plan = mine
        else:
            try:
                plan = make_plan(other, windows, group, find_all(other, windows, cache_dir))
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        points |= {p.id: points.get(p.id, p) for p in plan.points}
        refused += plan.refused
    new = frozenset(p.id for p in mine.points if p.id not in points)
    points |= {p.id: points.get(p.id, p) for p in mine.points}
    ordered = sorted(points.values(), key=lambda p: p.role != "teacher")
    union = Plan(mine.name, ordered, list(dict.fromkeys([*refused, *mine.refused])), mine.headline)
    return union.with_earlier(store.path / "plan.json", store.done()), new


def space_of(space: str, overrides: Sequence[str], out: str | None) -> tuple[SearchSpace, Path, Path]:
    """The search space, its sweep directory and the space's file, without touching the data."""
    read, folder, file = _read(space, overrides, out)
    return absolute(read), folder, file


def _read(space: str, overrides: Sequence[str], out: str | None) -> tuple[SearchSpace, Path, Path]:
    """The same, without a look at the files of brought teachers."""
    file, folder = Path(space), None
    if not file.is_file():
        folder = next((f for f in (file, Path("sweeps") / space) if (f / "space.yaml").is_file()), None)
        file = folder / "space.yaml" if folder else file
    read = load_space(file, overrides)
    absolute: dict[str, Any] = {}
    if read.data.path:
        absolute["path"] = str(Path(read.data.path).expanduser().absolute())
    more: Any = read.data.unlabelled
    if more and more.path:
        path = str(Path(more.path).expanduser().absolute())
        absolute["unlabelled"] = more.model_copy(update={"path": path})
    if absolute:
        read = read.model_copy(update={"data": read.data.model_copy(update=absolute)})
    assert read.name is not None
    return read, Path(out) if out else folder or Path("sweeps") / read.name, file


def data_of(space: str, overrides: Sequence[str]) -> tuple[DataConfig, Path]:
    """The data of a space whose ready outputs need not be there yet, and where their windows lie."""
    read, folder, _ = _read(space, overrides, None)
    there = [b for b in read.teachers if not isinstance(b, Brought) or b.kind not in ("outputs", "mean")]
    return absolute(read.model_copy(update={"teachers": there})).data_config(), cache_of(folder)


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
    first = next(store.figures(), None)
    known = {name for point in plan.points for name in (point.data_fingerprint, point.data_group)}
    if first and known and not known & {first["data_fingerprint"], first["data_group"]}:
        raise InputError(
            f"{store.path} holds results on other data (fingerprint {first['data_fingerprint']}, "
            f"this space has {plan.points[0].data_fingerprint}): choose another directory with --out"
        )
