"""A search space: one YAML file that says what to sweep. Unknown keys are refused with their line.

Knows the shape of the file and nothing of points; `plan.py` turns it into them. Values that make a grid may
be single or lists. `key.sub=value` overrides change single values from the command line.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from kd.errors import InputError
from kd.files import read_text
from kd.models import spectra
from kd.models.architectures import ARCHITECTURES
from kd.models.inits import INITS
from kd.signals.augment import Augment
from kd.signals.prepare import DataConfig, check_options
from kd.signals.preprocess import Preprocess
from kd.signals.splits import Split
from kd.signals.unlabelled import Unlabelled
from kd.training.recipe import WSD_ONLY, Recipe
from kd.training.strategies import STRATEGIES, defaults, full_args
from orchestrator.space.brought_schema import Brought, kinds_of
from orchestrator.space.fields import Number, Real, Strict, Whole
from orchestrator.space.slot import GPU_SHARE, Slot
from orchestrator.store.metric import DEFAULT, METRICS, OLDER, Headline
from orchestrator.words import escaped
from slurm.bounded_yaml import BadYaml, Lines, read_yaml


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _mapping(value: Any) -> Any:
    """[scratch, soft] looks right, but each strategy has arguments."""
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        names = ", ".join(f"{name}: {{}}" for name in _listed(value)[:9])
        text = f"Input should be a mapping from names to arguments: write {{{names}}}"
        raise PydanticCustomError("mapping", "{text}", {"text": text})
    return value


def _different(values: list[int]) -> list[int]:
    twice = sorted({v for v in values if values.count(v) > 1}) if len(set(values)) < len(values) else []
    if twice:
        text = f"{twice[0]} is given twice, and the same seed trains the same model: give each once"
        raise PydanticCustomError("twice", "{text}", {"text": text})
    return values


def _preprocess(model: Any) -> Preprocess:
    fields = model.model_dump()
    channels = fields.pop("channels")
    return Preprocess(**fields, channels=channels["ppg"], acc=channels["acc"])


def _sensors(names: list[str]) -> list[str]:
    for name in names:
        if name not in Channels.model_fields:
            text = f"no such sensor: {name!r:.40}{_hint(name, Channels.model_fields)}"
            raise PydanticCustomError("sensor", "{text}", {"text": text})
    return sorted(set(names), key=list(Channels.model_fields).index)


def _folds(value: Any) -> Any:
    if value != "all" and (not value or len(set(value)) < len(value)):
        text = "name each fold that shall be trained once, as in [0, 2], or write all"
        raise PydanticCustomError("folds", "{text}", {"text": text})
    return value if value == "all" else sorted(value)


def _architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        text = f"no such architecture{_hint(name, ARCHITECTURES)}"
        raise PydanticCustomError("unknown_architecture", "{text}", {"text": text})
    return name


def _checked(of: Any) -> Any:
    """The type of a dataclass's field, its numbers none that are true, false or beyond what is possible."""
    if get_origin(of) is tuple:
        parts = tuple(part if part is ... else _checked(part) for part in get_args(of))
        return GenericAlias(tuple, parts)
    return {int: Whole, float: Real}.get(of, of)


def _model(of: type, leave_out: Sequence[str] = (), **replaced: Any) -> type[BaseModel]:
    """A pydantic model with the fields and defaults of a dataclass, so that both are said once."""
    parts: dict[str, Any] = {}
    for field in (field for field in dataclasses.fields(of) if field.name not in leave_out):
        if field.default is not dataclasses.MISSING:
            parts[field.name] = (_checked(field.type), field.default)
        elif field.default_factory is not dataclasses.MISSING:
            parts[field.name] = (_checked(field.type), Field(default_factory=field.default_factory))
    return create_model(f"{of.__name__}Model", __base__=Strict, **(parts | replaced))


MOST_POINTS = 1_000_000  # of all grids; ten times what was ever planned
METHOD = "contrastive"  # of pre-training
MOST_ARGUMENTS = 10_000  # combinations of strategies' arguments: to check so many takes a second
Positive = Annotated[int, Field(ge=1, le=100_000), Number]  # no width, depth or class is larger
Ints = Annotated[list[Positive], BeforeValidator(_listed), Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), Number]  # what every generator takes
Seeds = Annotated[list[Seed], BeforeValidator(_listed), AfterValidator(_different), Field(min_length=1)]
Names = Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]
Arch = Annotated[
    str,
    AfterValidator(_architecture),
    Field(json_schema_extra=lambda schema: schema.update(enum=[*ARCHITECTURES])),
]
Sensors = Annotated[list[str], BeforeValidator(_listed), AfterValidator(_sensors), Field(min_length=1)]
Archs = Annotated[list[Arch], BeforeValidator(_listed), Field(min_length=1)]
Values = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False), Number]], BeforeValidator(_listed), Field(min_length=1)
]
# one grid, or a list of grids, of a strategy's arguments
Grids = Annotated[list[dict[str, Values]], BeforeValidator(lambda v: _listed({} if v is None else v))]
Strategies = Annotated[dict[str, Grids], BeforeValidator(_mapping), Field(min_length=1)]


class Channels(Strict):
    """What a window holds of each sensor; text is short for what it holds of the PPG."""

    ppg: str = Preprocess.channels
    acc: str = Preprocess.acc


PreprocessModel = _model(
    Preprocess,
    leave_out=("acc",),  # under channels
    channels=(
        Annotated[Channels, BeforeValidator(lambda v: {"ppg": v} if isinstance(v, str) else v)],
        Field(default_factory=Channels),
    ),
    acc_band_hz=(tuple[Real, Real] | None, None),
    fs=(Annotated[float, Field(le=100_000), Number], Preprocess.fs),
    order=(Annotated[int, Field(ge=1, le=20), Number], Preprocess.order),
    window_s=(Annotated[float, Field(gt=0, le=3600), Number], Preprocess.window_s),
)
# which of a split's folds are trained; `fold: 2`, as spaces said before, is `use: [2]`
Folds = Annotated[
    Literal["all"] | list[Annotated[int, Field(ge=0, le=100_000), Number]],
    BeforeValidator(lambda v: v if v == "all" else _listed(v)),
    AfterValidator(_folds),
]
SplitModel = _model(
    Split,
    leave_out=("fold",),
    seed=(Seed, Split.seed),
    use=(Folds, Field("all", validation_alias=AliasChoices("use", "fold"))),
)
AugmentModel = _model(
    Augment, seed=(Seed, Augment.seed), copies=(Annotated[int, Field(ge=0, le=1000), Number], Augment.copies)
)
# of a recipe: follows from the metric, or from a block of the grid
ELSEWHERE = ("stop_on", "stop_weights", "channels")
RecipeModel = _model(Recipe, leave_out=ELSEWHERE)
RECIPE_FIELDS = [field for field in dataclasses.fields(Recipe) if field.name not in ELSEWHERE]
# a recipe with only what differs
Changes: type[BaseModel] = create_model(
    "Changes",
    __base__=Strict,
    **{f.name: (_checked(f.type) | None, None) for f in RECIPE_FIELDS},  # type: ignore[call-overload]
)
Training = _model(
    Recipe,
    leave_out=ELSEWHERE,
    teachers=(Changes, Field(default_factory=Changes)),
    students=(Changes, Field(default_factory=Changes)),
)


UnlabelledModel = _model(Unlabelled, copies=(Annotated[int, Field(ge=0, le=1000), Number], Unlabelled.copies))


class Data(Strict):
    """Which recordings, and how they become windows: `kd.signals.prepare.DataConfig` less the classes."""

    source: str = "synthetic"
    path: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    preprocess: PreprocessModel = Field(default_factory=PreprocessModel)  # type: ignore[valid-type]
    split: SplitModel = Field(default_factory=SplitModel)  # type: ignore[valid-type]
    augment: AugmentModel = Field(default_factory=AugmentModel)  # type: ignore[valid-type]
    lead_s: Annotated[float, Field(ge=0, le=3600), Number] = DataConfig.lead_s
    unlabelled: UnlabelledModel | None = None  # type: ignore[valid-type]


class Task(Strict):
    """A model's outputs: one of `classes` heart rates, 1 BPM apart from `min_bpm`."""

    min_bpm: Positive = 30
    classes: Annotated[int, Field(ge=3, le=100_000), Number] = 180


def _method(value: Any) -> Any:
    if value != METHOD:
        text = f"{value!r:.40} is no way to pre-train here: write method: {METHOD}"
        raise PydanticCustomError("method", "{text}", {"text": text})
    return value


class Pretrain(Strict):
    """So many epochs without labels, before those with (`kd.training.pretrain`)."""

    method: Annotated[Literal["contrastive"], BeforeValidator(_method)]
    epochs: Positive


class Teachers(Strict):
    """A grid of teachers."""

    arch: Archs
    depth: Ints
    width: Ints
    seeds: Seeds = Field([0])
    pretrain: Pretrain | None = None
    channels: Sensors | None = None


# where pydantic tried which; said nowhere
GRID, BROUGHT = "\0grid", "\0brought"
TeacherEntry = Annotated[
    Annotated[Teachers, Tag(GRID)] | Annotated[Brought, Tag(BROUGHT)],
    Discriminator(lambda v: BROUGHT if isinstance(v, Brought) or kinds_of(v) else GRID),
]


class Students(Strict):
    """A grid of students. strategies, seeds, teachers (ids, or names like resnet1d-8x32): of this block only.

    channels: the sensors they see, by default all that windows have. init: "random", or "pruned" or a variant
    (`kd.models.inits`) from each teacher that can.
    """

    arch: Archs
    depth: Ints
    width: Ints
    init: Names = Field(["random"], validation_alias=AliasChoices("init", "birth"))  # once called birth
    strategies: Strategies | None = None
    seeds: Seeds | None = None
    teachers: Names | None = None
    channels: Sensors | None = None


class Resources(Strict):
    """What one running pack holds. gpus: a number, maybe a fraction; auto: a quarter where there is a GPU."""

    cpus: Annotated[float, Field(ge=0, le=100_000), Number] = 1.0
    gpus: Annotated[float, Field(ge=0, le=100_000), Number] | Literal["auto"] = "auto"
    threads: Positive = 1
    max_failures: Annotated[int, Field(ge=0, le=100_000), Number] = 1

    def slot(self, has_gpu: bool) -> Slot:
        """What one pack holds on a machine with GPUs, or without."""
        gpus = (GPU_SHARE if has_gpu else 0.0) if self.gpus == "auto" else float(self.gpus)
        return Slot(cpus=self.cpus, gpus=gpus, threads=self.threads)


Metric = Literal[
    "by-subject",
    "by-window",
    "p90-subject",
    "tracked-by-subject",
    "tracked-by-window",
    "tracked-p90-subject",
]
assert set(get_args(Metric)) == set(METRICS)


class SearchSpace(Strict):
    """One sweep as a person writes it. `load_space` reads it, `space_text` writes it."""

    # also the sweep directory's name
    name: Annotated[str, Field(pattern=r"^[^./\x00-\x1f-][^/\x00-\x1f]*$", max_length=200)] | None = None
    data: Data = Field(default_factory=Data)
    task: Task = Field(default_factory=Task)
    teachers: Annotated[list[TeacherEntry], BeforeValidator(_listed)] = Field(default_factory=list)
    students: Annotated[list[Students], BeforeValidator(_listed)] = Field(default_factory=list)
    strategies: Strategies = Field(default_factory=lambda: {"scratch": [dict[str, list[float]]()]})
    seeds: Seeds = Field([0])
    metric: Metric | None = None  # by-subject; said, it is also what early stopping goes by
    metric_weights: dict[str, Annotated[float, Field(ge=0, le=1e6), Number]] = Field(default_factory=dict)
    training: Training = Field(default_factory=Training)  # type: ignore[valid-type]
    resources: Resources = Field(default_factory=Resources)

    def data_config(self) -> DataConfig:
        """What `kd.signals.prepare` takes, of folds the first. Raises InputError for values that clash."""
        data, without = self.data, self.data.unlabelled
        return DataConfig(
            source="auto" if data.path and data.source == "synthetic" else data.source,
            path=data.path,
            options=data.options,
            preprocess=_preprocess(data.preprocess),
            split=Split(**data.split.model_dump(exclude={"use"})),  # type: ignore[attr-defined]
            augment=Augment(**data.augment.model_dump()),  # type: ignore[attr-defined]
            unlabelled=Unlabelled(**without.model_dump()) if without else None,
            min_bpm=self.task.min_bpm,
            classes=self.task.classes,
            lead_s=data.lead_s,
        )

    @property
    def grids(self) -> list[Teachers]:
        """The teachers that are trained here."""
        return [block for block in self.teachers if isinstance(block, Teachers)]

    @property
    def brought(self) -> list[Brought]:
        """The teachers that are brought."""
        return [block for block in self.teachers if isinstance(block, Brought)]

    @property
    def headline(self) -> Headline:
        """What the sweep's results are judged by."""
        return Headline(self.metric or DEFAULT, self.metric_weights)

    @property
    def use(self) -> Literal["all"] | list[int]:
        """The folds that are trained; [] where the split is fixed."""
        split: Any = self.data.split
        return [] if split.scheme == "fixed" else split.use

    def seen(self, block: Teachers | Students) -> str:
        """`Recipe.channels` of a block's models: "" where they see all that windows have."""
        there = ["ppg", "acc"] if self.data_config().preprocess.axes else ["ppg"]
        return "" if block.channels in (None, there) else block.channels[0]

    def recipe(self, role: str) -> dict[str, Any]:
        """The training recipe of a "teacher" or "student": `training`, and what its sub-key changes.

        Early stopping goes by the metric and its weights where those are said or there are folds, else by
        window, as before there was a choice; then the recipe doesn't say so, and points keep their ids.
        """
        training: Any = self.training
        changes = getattr(training, f"{role}s").model_dump(exclude_none=True)
        recipe = {**training.model_dump(exclude={"teachers", "students"}), **changes}
        said = self.metric or self.metric_weights or self.use
        stop_on = self.headline.over if said else OLDER
        if stop_on != OLDER:
            recipe["stop_on"] = stop_on
        if (
            recipe["schedule"] == Recipe.schedule
        ):  # recipes of before there was a choice: points keep their ids
            for name in ("schedule", *WSD_ONLY):
                del recipe[name]
        if self.metric_weights:
            recipe["stop_weights"] = dict(sorted(self.metric_weights.items()))
        return recipe


def strategy_points(
    strategies: Mapping[str, Sequence[Mapping[str, list[float]]]], unlabelled: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every strategy with every combination of its arguments, defaults filled in.

    unlabelled: whether there are recordings without labels.
    """
    for name, grids in strategies.items():
        for grid in grids:
            for values in product(*grid.values()):
                yield name, full_args(name, dict(zip(grid, values, strict=True)), unlabelled)


def load_space(path: Path | str, overrides: Sequence[str] = ()) -> SearchSpace:
    """Read a search space. overrides: "key.sub=value", the value in YAML.

    Raises InputError naming file, line and key for anything that isn't as it should be.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such search space: give a YAML file such as search_spaces/quickstart.yaml"
        )
    content, lines = _read(path)
    for override in overrides:
        _override(content, override)
    try:
        space = SearchSpace.model_validate(content)
    except ValidationError as error:
        raise InputError(_explain(path, lines, error.errors())) from None
    if (points := _most_points(space)) > MOST_POINTS:
        raise InputError(
            f"{path}: teachers and students: a grid of up to {points:,} points, more than {MOST_POINTS:,}: "
            "give fewer values"
        )
    for key, strategies in _strategies(space):
        _check_strategies(path, lines, key, strategies, space.data.unlabelled is not None)
        if "schedule" in space.recipe("student"):
            _refuse_ramps(path, lines, key, strategies)
    for i, block in enumerate(space.students):
        for init in block.init:
            if init not in INITS:
                place = _place(path, lines, ("students", i, "init"))
                raise InputError(f"{place}: students.{i}.init: unknown init {init!r}{_hint(init, INITS)}")
    for kind in ("teachers", "students"):
        for i, some in enumerate(getattr(space, kind)):
            seen = getattr(some, "channels", None) or []
            if "acc" in seen and not space.data_config().preprocess.axes:
                raise InputError(
                    f"{_place(path, lines, (kind, i, 'channels'))}: {kind}.{i}.channels: windows have no "
                    "accelerometer: set data.preprocess.channels to {acc: magnitude} or {acc: xyz}"
                )
    try:
        for kind in ("teachers", "students"):
            _check_task(space, kind)
        for role in ("teacher", "student"):
            _check_recipe(space, role)
        check_options(space.data_config())
        _check_folds(space)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return space if space.name else space.model_copy(update={"name": path.stem})


def space_text(space: SearchSpace) -> str:
    """The space as YAML, without what is left at its default; reading it again gives the same space."""
    return yaml.safe_dump(
        space.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )


def _strategies(space: SearchSpace) -> Iterator[tuple[tuple[Any, ...], Strategies]]:
    yield ("strategies",), space.strategies
    for i, block in enumerate(space.students):
        if block.strategies is not None:
            yield ("students", i, "strategies"), block.strategies


def _most_points(space: SearchSpace) -> int:
    """How many points the grids have at most: every student from every teacher. Makes none of them."""

    def sets(strategies: Strategies) -> int:
        return sum(map(_combinations, strategies.values()))

    teachers = sum(len(b.arch) * len(b.depth) * len(b.width) * len(b.seeds) for b in space.grids)
    teachers += len(space.brought)
    students = sum(
        len(b.arch)
        * len(b.depth)
        * len(b.width)
        * len(b.init)
        * len(b.seeds or space.seeds)
        * sets(b.strategies or space.strategies)
        for b in space.students
    )
    return teachers + students * max(teachers, 1)


def _combinations(grids: Sequence[Mapping[str, Sequence[float]]]) -> int:
    return sum(math.prod(map(len, grid.values())) for grid in grids)


def _check_strategies(
    path: Path, lines: Lines, key: tuple[Any, ...], strategies: Strategies, unlabelled: bool
) -> None:
    for name, grids in strategies.items():
        where = f"{_place(path, lines, (*key, name))}: {_dotted((*key, name))}"
        if name not in STRATEGIES:
            raise InputError(f"{where}: unknown strategy{_hint(name, STRATEGIES)}")
        if (sets := _combinations(grids)) > MOST_ARGUMENTS:
            raise InputError(f"{where}: {sets:,} sets of arguments, more than {MOST_ARGUMENTS:,}: give fewer")
        try:
            list(strategy_points({name: grids}, unlabelled))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _refuse_ramps(path: Path, lines: Lines, key: tuple[Any, ...], strategies: Strategies) -> None:
    """Raises InputError for a share of all epochs that is said, which schedule wsd must not know."""
    for name, grids in strategies.items():
        for grid in grids:
            usual = {0.0, defaults(name).get("warmup_fraction", 0.0)}
            if more := sorted(set(grid.get("warmup_fraction", ())) - usual):
                where = f"{_place(path, lines, (*key, name))}: {_dotted((*key, name))}"
                raise InputError(
                    f"{where}: warmup_fraction {more[0]:g} is of the schedule cosine: with wsd its terms "
                    "grow over training.warmup_epochs: leave it out, or write 0 for no ramp"
                )


def _check_recipe(space: SearchSpace, role: str) -> None:
    r = space.recipe(role)
    training: Any = space.training
    said = training.model_fields_set | getattr(training, f"{role}s").model_fields_set
    if "schedule" in r:
        if r["warmup_epochs"] < 0 or not 0 <= r["cooldown_fraction"] <= 1:
            raise InputError(
                "training: cooldown_fraction is a share from 0 to 1; warmup_epochs is not negative"
            )
        if "warmup_fraction" in said:
            raise InputError(
                "training.warmup_fraction is of the schedule cosine: with wsd give warmup_epochs, since no "
                "epoch before the cooldown may depend on max_epochs"
            )
        if r["max_epochs"] > 0 and r["warmup_epochs"] > (begins := Recipe(**r).cooldown_from):
            raise InputError(
                f"training.warmup_epochs is {r['warmup_epochs']:g}, but the cooldown begins after {begins} "
                f"of max_epochs {r['max_epochs']}: lower warmup_epochs, or raise max_epochs"
            )
    elif more := sorted(said & set(WSD_ONLY)):
        raise InputError(f"training.{more[0]} is of the schedule wsd: leave it out, or write schedule: wsd")
    for name, low in (("max_epochs", 1), ("batch_size", 2), ("lr", 0), ("clip_norm", 0), ("patience", 0)):
        if r[name] < low or (name in ("lr", "clip_norm") and r[name] == 0):
            raise InputError(
                f"training.{name} is {r[name]}: it must be {'above 0' if low == 0 else f'{low} or more'}"
            )
    if not 0 <= r["warmup_fraction"] <= 1 or r["label_sigma_bpm"] < 0 or r["weight_decay"] < 0:
        raise InputError(
            "training: warmup_fraction is a share from 0 to 1; "
            "label_sigma_bpm and weight_decay are not negative"
        )


def _check_task(space: SearchSpace, kind: str) -> None:
    """Raises InputError for an architecture that windows or classes don't fit."""
    p, first = space.data_config().preprocess, space.task.min_bpm
    for i, block in enumerate(getattr(space, kind)):
        if "spectra" not in getattr(block, "arch", ()):
            continue
        if (p.fs, first) != (spectra.FS, spectra.MIN_BPM):
            raise InputError(
                f"{kind}.{i}.arch: spectra are of {spectra.FS:g} Hz and classes from {spectra.MIN_BPM} BPM, "
                f"not {p.fs:g} Hz from {first} BPM: leave out data.preprocess.fs and task.min_bpm, or choose "
                "another architecture"
            )
        if p.axes and p.channels == "all":
            raise InputError(
                f"{kind}.{i}.arch: spectra take one channel of PPG beside the accelerometer: set "
                "data.preprocess.channels.ppg to mean or first"
            )


def _check_folds(space: SearchSpace) -> None:
    split: Any = space.data.split
    if split.scheme == "everybody":
        raise InputError("data.split.scheme is 'everybody', which tests nobody: use fixed, kfold or loso")
    if split.scheme == "fixed" and split.use != "all":
        raise InputError("data.split.use chooses folds, but the scheme is fixed: use kfold, loso or lodo")
    if split.scheme == "kfold" and (
        beyond := [k for k in space.use if space.use != "all" and k not in range(split.folds)]
    ):
        raise InputError(f"data.split.use: no fold {beyond[0]}: there are {split.folds}, numbered from 0")
    if space.metric_weights and space.headline.over != "by-subject":
        raise InputError(
            f"metric_weights weigh data sets, but metric is {space.metric}: leave them out, or use by-subject"
        )
    if space.metric_weights and not any(space.metric_weights.values()):
        raise InputError("metric_weights are all 0: give a data set a weight above 0")


def _read(path: Path) -> tuple[dict[str, Any], Lines]:
    """The content, and the line of every key."""
    try:
        content, lines = read_yaml(read_text(path))
    except BadYaml as error:
        raise InputError(error.at(path)) from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: a search space is a mapping with keys such as {', '.join(SearchSpace.model_fields)}"
        )
    return content, lines


def _override(content: dict[str, Any], override: str) -> None:
    """Set one value; a number in the key picks an entry of a list, as in students.0.width=[4,8]."""
    key, sign, text = override.partition("=")
    parts = key.split(".")
    if not sign or not all(parts):
        raise InputError(f"override {override!r}: write key.sub=value, such as training.max_epochs=5")
    try:
        value, _ = read_yaml(text)
    except BadYaml as error:
        raise InputError(f"override {override!r:.200}: the value: {error}") from None
    at: Any = content
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(at, list):
            if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(at):
                raise InputError(
                    f"override {override!r}: {'.'.join(parts[:i])} is a list of {len(at)}: no entry {part}"
                )
            slot: Any = int(part)
        elif isinstance(at, dict):
            slot = part
        else:
            raise InputError(
                f"override {override!r}: {'.'.join(parts[:i])} is a single value, it has no {part}"
            )
        if last:
            at[slot] = value
        else:
            at = at.setdefault(slot, {}) if isinstance(at, dict) else at[slot]


def _explain(path: Path, lines: Lines, errors: Sequence[Any]) -> str:
    """What pydantic found, one line each: file, line, key, and what to do."""
    said = []
    for error in errors:
        key = tuple(part for part in error["loc"] if part not in (GRID, BROUGHT))
        if error["type"] == "extra_forbidden":
            known = _known(key[:-1]) if BROUGHT not in error["loc"] else list(Brought.model_fields)
            text = f"unknown key{_hint(str(key[-1]), known)}"
        else:
            text = f"{error['msg']} (got {error['input']!r:.60})"
            if error["input"] is None:
                text += "; fill it in, or leave the key out"
        line = escaped(f"{_place(path, lines, key)}: {_dotted(key)}: {text}")
        if line not in said:
            said.append(line)
    return "\n".join(said)


def _known(key: tuple[Any, ...]) -> list[str]:
    """The keys that may stand under `key`."""
    if not key:
        return list(SearchSpace.model_fields)
    tables: dict[str, type[BaseModel]] = {
        "data": Data,
        "preprocess": PreprocessModel,
        "channels": Channels,
        "split": SplitModel,
        "augment": AugmentModel,
        "unlabelled": UnlabelledModel,
        "task": Task,
        "teachers": Teachers,
        "pretrain": Pretrain,
        "students": Students,
        "resources": Resources,
        "training": Training,
    }
    name = next((str(part) for part in reversed(key) if not isinstance(part, int)), "")
    return list(tables[name].model_fields) if name in tables else []


def _hint(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(known)}" if known else ""


def _place(path: Path, lines: Lines, key: tuple[Any, ...]) -> str:
    """file:line of a key, or of the nearest one above it."""
    while key and key not in lines:
        key = key[:-1]
    return f"{path}:{lines[key]}" if key else str(path)


def _dotted(key: tuple[Any, ...]) -> str:
    return escaped(".".join(str(part) for part in key))
