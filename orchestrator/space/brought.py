"""From a brought teacher in a space's file to its source: files hashed, declarations filled in and checked.

Reading a declaration runs no code; `facts`, which plans need, runs the teacher on a few windows, once.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.signals.prepare import LABELS_VERSION, Data, DataConfig, fingerprint
from kd.signals.preprocess import PPG
from kd.teachers.facts import Facts, facts
from kd.teachers.source import FEATURES_FILE, Source, contents, port_says
from kd.teachers.windows import lead_s
from orchestrator.space import spaces
from orchestrator.space.brought_schema import Brought
from orchestrator.space.folds import of_fold
from orchestrator.space.schema import SearchSpace
from orchestrator.store.check import check_model
from orchestrator.store.find import find_point, sweep_folder
from orchestrator.store.store import Store

SIZES = ("activation_bytes", "weight_bytes", "weight_bytes_int8")
PATHS = ("onnx", "port", "weights", "sweep", "outputs")
ALIKE = ("role", "arch", "depth", "width", "init", "strategy", "strategy_args", "recipe", "seed")


@dataclass(frozen=True)
class Found:
    """A brought teacher that can be planned. twins: by fold's fingerprint, where a fold has its own.

    shape: arch, depth, width of a model of `kd.models`. sizes: its bytes, as results have them.
    """

    source: Source
    facts: Facts
    twins: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    shape: tuple[str, int, int] | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def of(self, fingerprint: str) -> Source:
        """The source of the fold with these windows."""
        return self.twins.get(fingerprint, self.source)


def absolute(space: SearchSpace) -> SearchSpace:
    """The space with its teachers' paths absolute, and data that reach back as far as their windows do.

    Raises InputError for a teacher whose files are not there.
    """
    if not space.brought:
        return space
    blocks = [_absolute(block) if isinstance(block, Brought) else block for block in space.teachers]
    space = space.model_copy(update={"teachers": blocks})
    student = space.data_config().preprocess
    declared = _declared_all(space)
    lead = max([space.data.lead_s, *(lead_s(source, student) for source, _ in declared.values())])
    return space.model_copy(update={"data": space.data.model_copy(update={"lead_s": lead})})


def find_all(
    space: SearchSpace,
    prepared: Data | Mapping[int, Data],
    cache_dir: Path,
    say: Callable[[str], None] | None = None,
) -> dict[str, Found]:
    """The brought teachers of a space by name. Raises InputError, naming the teacher."""
    if not space.brought:
        return {}
    config = space.data_config()
    folds = {None: prepared} if isinstance(prepared, Data) else prepared
    prints = {
        _labelled(config, fold, data.fingerprint, cache_dir): data.fingerprint for fold, data in folds.items()
    }
    found: dict[str, Found] = {}
    for name, (source, result) in _declared_all(space).items():
        if say:
            for path in source.runs_code:
                say(f"teacher {name}: the code of {path} runs here, as you")
        twins: dict[str, Source] = {}
        if result:
            source = dataclasses.replace(source, same_input=_same_input(source, config))
            twins = _twins(source, result, Path(source.path).parents[2], prints, cache_dir)
        known = facts(source, config, cache_dir)
        source = dataclasses.replace(source, params=known.params, macs=known.macs)
        shape = (result["arch"], result["depth"], result["width"]) if result else None
        sizes = {key: result.get(key) or 0 for key in SIZES} if result else {}
        found[name] = Found(source, known, twins, shape, sizes)
    return {name: _with_twins(one, found) for name, one in found.items()}


def _with_twins(one: Found, found: Mapping[str, Found]) -> Found:
    """A mean with the members of each fold."""
    if one.source.kind != "mean":
        return one
    members = [
        Found(member, one.facts) if member.kind == "trained" else found[member.name]
        for member in one.source.of
    ]
    prints = {print_ for member in members for print_ in member.twins}

    def of(parts: Sequence[Source]) -> Source:
        return dataclasses.replace(
            one.source, of=tuple(parts), same_split=all(part.same_split for part in parts)
        )

    twins = {print_: of([member.of(print_) for member in members]) for print_ in prints}
    return dataclasses.replace(one, source=of([member.source for member in members]), twins=twins)


def _absolute(block: Brought) -> Brought:
    update: dict[str, Any] = {}
    for key in PATHS:
        path = getattr(block, key)
        if path is None:
            continue
        file, colon, symbol = path.partition(":") if key == "port" else (path, "", "")
        if key == "sweep":
            file = str(sweep_folder(file))
        update[key] = os.path.abspath(os.path.expanduser(file)) + colon + symbol
    return block.model_copy(update=update)


def _declared_all(space: SearchSpace) -> dict[str, tuple[Source, dict[str, Any] | None]]:
    """Sources by name, each with the result of the point that it is, if it is one."""
    found: dict[str, tuple[Source, dict[str, Any] | None]] = {}
    for block in space.brought:
        if block.name in found:
            raise InputError(f"teachers: two are called {block.name}: give each a name of its own")
        found[block.name] = (Source(block.name, "mean"), None) if block.mean else _declared(block)
    for block in space.brought:
        if block.mean:
            of = _members(block, {name: source for name, (source, _) in found.items()}, bool(space.grids))
            if tuned := [one.name for one in of if one.finetune]:
                raise InputError(f"teacher {block.name}: mean: {tuned[0]} is fine-tuned: leave it out")
            found[block.name] = (Source(block.name, "mean", of=of, params=block.params), None)
    return found


def _members(block: Brought, sources: Mapping[str, Source], grids: bool) -> tuple[Source, ...]:
    """Of a mean. What is not brought is trained here, if anything is (grids); planning finds it."""
    where = f"teacher {block.name}: mean:"
    trained = Source("", "trained", same_input=True, same_split=True)
    for name in block.mean or ():
        if name in sources and sources[name].kind == "mean":
            raise InputError(f"{where} {name} is a mean itself: name its members")
        if name not in sources and not grids:
            there = ", ".join(n for n, one in sources.items() if one.kind != "mean") or "none"
            raise InputError(f"{where} no teacher {name!r}: brought are {there}, and none is trained here")
    of = tuple(sources.get(name) or dataclasses.replace(trained, name=name) for name in block.mean or ())
    if len(of) < 2 and of[0].kind != "trained":
        raise InputError(f"{where} {of[0].name} is one teacher: name another")
    return of


def _declared(block: Brought) -> tuple[Source, dict[str, Any] | None]:
    """The source of one that is no mean."""
    if block.sweep is not None:
        return _point_of_sweep(block)
    told: dict[str, Any] = {"path": str(getattr(block, block.kind))}
    fs, window_s = block.input.fs or 0.0, block.input.window_s or 0.0
    if block.port is not None:
        told["path"], _, told["symbol"] = block.port.partition(":")
        says = port_says(Path(told["path"]), told["symbol"])
        for key, yaml, own in (("fs", fs, says[0]), ("window_s", window_s, says[1])):
            if yaml and yaml != own:
                raise InputError(
                    f"teacher {block.name}: input.{key} is {yaml:g}, but {told['path']} has {own:g}: leave "
                    "it out"
                )
        fs, window_s = says
    features = block.features
    if block.outputs is not None and (Path(block.outputs) / FEATURES_FILE).is_file():
        features = FEATURES_FILE
    source = Source(
        name=block.name,
        kind=block.kind,
        weights=block.weights,
        fs=fs,
        window_s=window_s,
        band_hz=(block.input.band_hz[0], block.input.band_hz[1]) if block.input.band_hz else None,
        order=block.input.order,
        normalise=block.input.normalise,
        channels=block.input.channels,
        output=block.output,
        min_bpm=block.bins.min_bpm if block.bins else None,
        step_bpm=block.bins.step_bpm if block.bins else 1.0,
        width_bpm=block.width_bpm,
        features=features,
        hidden=block.probe.hidden,
        epochs=block.probe.epochs,
        lr=block.probe.lr,
        finetune=(tune.epochs, tune.lr, tune.layers) if (tune := block.finetune) else None,
        precision=block.precision,
        params=block.params,
        macs=block.macs,
        **told,
    )
    return dataclasses.replace(source, content=contents(source)), None


def _point_of_sweep(block: Brought) -> tuple[Source, dict[str, Any]]:
    """A point of another sweep, with the windows of that sweep's space."""
    folder = sweep_folder(str(block.sweep))
    store = Store(folder)
    id = find_point(store.done(), str(block.point), f"teacher {block.name}: {folder}")
    result = store.result(id)
    if result.get("brought", {}).get("kind", "model") != "model":
        raise InputError(
            f"teacher {block.name}: point {id} of {folder} was itself brought: bring "
            f"{result['brought']['path']}"
        )
    check_model(store, result)
    known = spaces.load_spaces(folder)
    if not known:
        raise InputError(f"teacher {block.name}: {folder} has no space, which says what its windows are")
    config = known[-1][1].data_config()
    p = config.preprocess
    if p.axes and (result.get("recipe") or {}).get("channels") != PPG:
        raise InputError(
            f"teacher {block.name}: point {id} of {folder} sees the accelerometer, and teachers of other "
            "sweeps get the PPG alone: train it in this sweep"
        )
    source = Source(
        name=block.name,
        kind="model",
        path=str((store.folder(id) / "model.safetensors").absolute()),
        fs=p.fs,
        window_s=p.window_s,
        band_hz=(p.low_hz, p.high_hz),
        order=p.order,
        normalise=p.normalise,
        channels=p.channels,
        min_bpm=float(config.min_bpm),
        params=result["params"],
        macs=result.get("macs") or 0,
    )
    return dataclasses.replace(source, content=contents(source)), result


def _same_input(source: Source, config: DataConfig) -> bool:
    p = config.preprocess
    if p.axes:
        return False
    ours = (p.fs, p.window_s, (p.low_hz, p.high_hz), p.order, p.normalise, p.channels, config.min_bpm)
    s = source
    return ours == (s.fs, s.window_s, s.band_hz, s.order, s.normalise, s.channels, s.min_bpm)


def _twins(
    source: Source, result: Mapping[str, Any], folder: Path, prints: Mapping[str, str], cache_dir: Path
) -> dict[str, Source]:
    """The same model of each of these folds, where the other sweep has it: it saw no test subject.

    prints: the fold's labelled data -> its data. Recordings without labels are never of a test subject, so
    that either sweep may have some.
    """
    store, theirs = Store(folder), spaces.load_spaces(folder)[-1][1].data_config()
    named = result.get("teacher_group") or result.get("teacher")
    twins = {}
    for other in store.results():
        same = all(other.get(key) == result.get(key) for key in ALIKE)
        if not same or (other.get("teacher_group") or other.get("teacher")) != named:
            continue
        alone = _labelled(theirs, other.get("fold"), str(other.get("data_fingerprint")), cache_dir)
        if alone in prints:
            check_model(store, other)
            path = str((store.folder(other["id"]) / "model.safetensors").absolute())
            twin = dataclasses.replace(source, path=path, same_split=True)
            twins[prints[alone]] = dataclasses.replace(twin, content=contents(twin))
    return twins


def _labelled(config: DataConfig, fold: int | None, known: str, cache_dir: Path) -> str:
    """The fingerprint of a fold's data without their recordings without labels; known: that with them.

    The same where the data are no longer there to tell.
    """
    if config.unlabelled is None:
        return known
    config = of_fold(config, fold)
    with contextlib.suppress(InputError, OSError):
        for version in (1, LABELS_VERSION):
            if fingerprint(config, cache_dir, version) == known:
                return fingerprint(dataclasses.replace(config, unlabelled=None), cache_dir, version)
    return known
