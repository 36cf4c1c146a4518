"""What a report is made from: one sweep directory, read once. Knows files; draws and words nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import read_json, read_text
from kd.models.architectures import ARCHITECTURES
from orchestrator.answers.candidates import LIMITS
from orchestrator.answers.claims import claims, dataset_weights
from orchestrator.laws.arms import strategy_label
from orchestrator.laws.document import read_document, results_digest
from orchestrator.report.fronts import predicted
from orchestrator.space.plan import trained_members
from orchestrator.space.spaces import space_files
from orchestrator.store.metric import headline, headline_in
from orchestrator.store.store import Store
from orchestrator.words import model_name, pretrained, seeing
from slurm.bounded_yaml import BadYaml, read_yaml

KEPT_HISTORY = ("epoch", "val_mae_bpm", "train_seconds")


@dataclass(frozen=True)
class Planned:
    """A point of plan.json. needs: as of `Point`."""

    id: str
    role: str
    arch: str
    depth: int
    width: int
    strategy: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep as its directory shows it. document: laws.json; plan: points of plan.json, by id.

    decisions: of a run for one question, as decisions.jsonl has them; paused: where points stand that wait.
    """

    folder: Path
    document: dict[str, Any]
    results: list[dict[str, Any]]
    errors: dict[str, dict[str, Any]]
    plan: dict[str, Planned]
    space: str  # the latest
    spaces: dict[str, str] = field(
        default_factory=dict
    )  # file in the sweep's directory -> text, in the order given
    decisions: list[dict[str, Any]] = field(default_factory=list)
    paused: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path, device: str | None = None, recipe: str | None = None) -> "Sweep":
        """Raises InputError when laws.json is missing, or a file is damaged.

        device: whose latencies are shown; None = the only one profiled on. recipe: that the laws must be of.
        """
        store = Store(folder)
        judge = headline(folder)
        results = [judge.both(r) for r in store.results()]  # mae_bpm is the error by the sweep's metric
        return Sweep(
            folder,
            read_document(folder / "laws.json", device, recipe),
            results,
            store.failures(),
            _plan(folder / "plan.json"),
            _text(folder / "space.yaml"),
            {str(file.relative_to(folder)): _text(file) for file in space_files(folder)},
            [entry for entry in store.decisions() if entry["event"] == "decision"],
            store.paused(),
        )

    @property
    def metric(self) -> str:
        """What its errors are: "mean over subjects"."""
        return str(headline_in(self.document))

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.document["sweep"])

    @cached_property
    def teachers(self) -> dict[str, str]:
        """Id -> a readable name for each teacher, all different."""
        found = [r for r in self.results if r["role"] == "teacher"]
        names = {
            r["id"]: model_name(r["arch"], r["depth"], r["width"], "{} {}×{}")
            + pretrained(r.get("strategy_args") or {}, ", pretrained {}")
            + seeing(r.get("recipe") or {}, ", seeing {}")
            for r in found
        }
        groups = {r["teacher"]: r["teacher_group"] for r in self.results if r.get("teacher_group")}
        one = {groups.get(id, id): name for id, name in names.items()}  # teachers of several folds are one
        twice = {n for n in one.values() if list(one.values()).count(n) > 1}
        one |= {id: name for id, name in names.items() if id in groups}
        return {
            id: f"{name} ({groups.get(id, id)[:6]})" if name in twice else name for id, name in one.items()
        }

    def teacher(self, id: str | None) -> str:
        """A teacher's name, its id when it is not known."""
        return self.teachers.get(id, id) if id else ""

    @cached_property
    def settings(self) -> dict[str, int]:
        """Strategy -> how many sets of arguments it was tried with."""
        found: dict[str, set[str]] = {}
        for arm in self.document["arms"]:
            found.setdefault(arm["strategy"], set()).add(full_label(arm))
        return {strategy: len(labels) for strategy, labels in found.items()}

    def label(self, arm: dict[str, Any]) -> str:
        """Strategy of an arm or a run, with its unusual arguments where the sweep has it with others too."""
        return full_label(arm) if self.settings.get(arm["strategy"], 1) > 1 else str(arm["strategy"])

    @cached_property
    def trained(self) -> set[tuple[str, int, int]]:
        """Architecture, depth and width of every trained student."""
        return {(r["arch"], r["depth"], r["width"]) for r in self.results if r["role"] == "student"}

    @cached_property
    def claims(self) -> list[dict[str, Any]]:
        """Claims judged in pairs, of the students whose laws are shown; [] where nothing is paired."""
        group = self.document.get("group") or {}
        recipe = group["hash"] if group.get("others") else None
        found = claims(self.results, recipe, dataset_weights(self.folder))["claims"]
        return list(found)

    @property
    def stale(self) -> bool:
        """Whether the results changed since the laws were fitted."""
        return bool(self.document["made"]["results_digest"] != results_digest(self.results))

    @cached_property
    def source(self) -> str:
        """Where the recordings came from, "synthetic" when they were generated; "" when unknown."""
        try:
            data = (read_yaml(self.space)[0] or {}).get("data") or {}
        except (BadYaml, AttributeError):
            return ""
        if not self.space or not isinstance(data, dict):
            return ""
        return str(data.get("path") or data.get("source") or "synthetic")  # synthetic is a space's default

    @property
    def synthetic(self) -> bool:
        """Whether the recordings were generated."""
        return self.source == "synthetic"

    @cached_property
    def blocked(self) -> list[Planned]:
        """Points of the plan that can't be trained because their teacher failed, or one of a mean."""
        out: dict[str, Planned] = {}
        for p in self._open:  # means follow their members, and students their teachers
            if p.id not in self.errors and (self.errors.keys() | out.keys()) & set(p.needs):
                out[p.id] = p
        return list(out.values())

    @cached_property
    def waiting(self) -> list[Planned]:
        """Points of the plan not tried yet."""
        blocked = {p.id for p in self.blocked}
        return [p for p in self._open if p.id not in self.errors and p.id not in blocked]

    @property
    def _open(self) -> list[Planned]:
        done = {r["id"] for r in self.results}
        return [p for id, p in self.plan.items() if id not in done]

    @cached_property
    def fronts(self) -> dict[str, list[dict[str, Any]]]:
        """Limit -> the predicted front against it; flash is 4 bytes a parameter, so one will do."""
        return {
            limit: predicted(self.document, self.results, limit)
            for limit in LIMITS
            if limit != "max_flash_kb"
        }

    def history(self, id: str) -> list[dict[str, float]]:
        """Epoch, validation error and seconds of every epoch of a trained point; [] when it wasn't kept."""
        return [{key: row[key] for key in KEPT_HISTORY} for row in Store(self.folder).history(id)]

    def groups(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The laws' arms by what may be drawn into one panel: "resnet1d", "resnet1d, pruned", ..."""
        found: dict[str, list[dict[str, Any]]] = {}
        for arm in self.document["arms"]:
            found.setdefault(group_name(arm), []).append(arm)
        yield from sorted(found.items(), key=lambda item: group_order(item[0]))


def group_order(name: str) -> tuple[bool, int, str]:
    """Sort key of groups: random inits first, architectures in the order of their registry."""
    known, (arch, _, init) = list(ARCHITECTURES), name.partition(", ")
    return (bool(init), known.index(arch) if arch in known else len(known), name)


def group_name(arm: dict[str, Any]) -> str:
    """Architecture, and init unless it is the usual one."""
    return str(arm["arch"]) + (f", {arm['init']}" if arm["init"] != "random" else "")


def full_label(arm: dict[str, Any]) -> str:
    """Strategy of an arm or a run, with the arguments that differ from its defaults."""
    return strategy_label(arm["strategy"], arm.get("strategy_args") or {})


def _plan(path: Path) -> dict[str, Planned]:
    """Points by id. Only what a report shows of them, so that plans of other versions can be read too."""
    try:
        content = read_json(path, "run the search space again")
        columns = {name: k for k, name in enumerate(content["columns"])}
        places = {field.name: columns[field.name] for field in fields(Planned) if field.name != "needs"}
        members = [trained_members(brought) for brought in content.get("brought", [{}])]
        kind = columns.get("brought")  # plans of versions before have none
        found = {}
        for row in content["points"]:
            teacher = row[columns["teacher"]]
            needs = (teacher,) if teacher else members[0 if kind is None else row[kind]]
            found[row[columns["id"]]] = Planned(**{name: row[i] for name, i in places.items()}, needs=needs)
        return found
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: not a plan ({error!r}): run the search space again") from error


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        return ""
