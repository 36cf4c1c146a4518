"""What runs in a worker: a pack of points, a slice of time at a time; as stacks on a GPU, else one by one.

`PackTrainer` knows the sweep directory and `kd`, not Ray (`trainable.py` is its Tune shell). A worker stays
warm: torch and the data are loaded once, then pack after pack is trained. It never reads the plan.
"""

import ctypes
import os
import platform
import socket
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd.errors import InputError, out_of_gpu_memory
from kd.files import is_full
from kd.signals.prepare import Data, DataConfig, prepare
from kd.teachers.source import source_of
from kd.training.recipe import RECIPE_VERSION, Recipe, Spec
from orchestrator.run.pace import Pace
from orchestrator.space.folds import of_fold
from orchestrator.space.packs import Pack
from orchestrator.space.plan import Point
from orchestrator.space.stems import stem_of
from orchestrator.store.lock import SweepLock, byte_of
from orchestrator.store.metric import by_metric
from orchestrator.store.store import Store, own_seconds

if TYPE_CHECKING:
    from kd.teachers.bring import Bringing
    from kd.training.probe import Choice
    from kd.training.train import Diverged, Runs

Alike = tuple[object, ...]  # role, data, shape and batches of a point: `kd.training.stack.together`
ORPHAN_PATIENCE_S = 60.0  # how long a point waits for a process of a killed run to let go of it
LOG_LINES = 50
SIZES = ("macs", "activation_bytes", "weight_bytes", "weight_bytes_int8")
HEADLINES = ("mae_bpm", "train_seconds", "epochs")  # figures of a finished point that the driver receives
FOLDS = 2  # so many folds' data stay open: the one of the pack, and the one before it


@dataclass(frozen=True)
class Setup:
    """What every worker of a sweep receives once. Plain data, so that it can be pickled."""

    sweep_dir: str
    pace_dir: str  # see `pace`
    cache_dir: str
    data: DataConfig  # of folds any one
    threads: int
    gpu: bool
    slice_s: float  # a step trains for about this long, until the pace says otherwise
    checkpoint_every_s: float
    git_commit: str | None
    engine: str = "torch"  # "fused": kd.training.compiled, where it can be had


class Broken(RuntimeError):
    """The process is not fit to go on (a CUDA error stays in the context); carries the failed event."""

    def __init__(self, event: dict[str, Any]) -> None:
        super().__init__(event["error"]["message"])
        self.event = event

    def __reduce__(self) -> tuple[type["Broken"], tuple[dict[str, Any]]]:
        return Broken, (self.event,)


class PackTrainer:
    """Trains the points of one pack after another, or several as a stack; what happened comes back as events.

    Events are dicts with `kind` (began, paused, done, failed), `id` and `time`; paused adds how far it is,
    done the headline figures, failed the error and the last log lines. A point's folder is written to only
    while its lock is held.
    """

    def __init__(self, setup: Setup, node_dir: Path | None = None) -> None:
        import torch

        from kd.training.train import Diverged

        self._diverged = Diverged
        torch.set_num_threads(setup.threads)
        self.setup = setup
        self.store = Store(Path(setup.sweep_dir))
        self.points: dict[str, Point] = {}
        self.served: dict[str, int] = {}  # teacher -> how many points of the plan learn from it
        self.until: dict[str, int] = {}  # point -> the epoch after which it is paused
        self.pace = Pace(Path(setup.pace_dir), setup.slice_s)
        self.checkpointed: float | None = None  # Unix time of the last checkpoint of this process
        self._node_dir = node_dir
        self._data: dict[int | None, Data] = {}  # by fold, the one used last at the end
        if setup.data.split.scheme == "fixed":
            self.data_of(None)
        self.device = device_of(setup.gpu)
        self.engine = compiled_engine() if setup.engine == "fused" and self.device == "cpu" else None
        self.lock = SweepLock(self.store.path)
        self.ids: OrderedDict[str, None] = OrderedDict()  # what is left of the pack
        self.stacked: list[str] = []  # the points of `runs`, in its order
        self.runs: Runs | Bringing | None = None
        self._alike: dict[Alike, OrderedDict[str, None]] = {}  # the same, by what can train as one stack
        self._alone: set[str] = set()  # points whose stack could not begin
        self._chosen: dict[Alike, Choice] = {}
        # A node of a Slurm job says in its directory when it must leave, and waits for those entered there.
        self._leave = node_dir / "leave" if node_dir else None
        if node_dir and not self.must_leave:
            (node_dir / "trainers" / str(os.getpid())).touch()

    @property
    def must_leave(self) -> bool:
        """Whether this node is about to go."""
        return self._leave is not None and self._leave.exists()

    def take(self, pack: Pack) -> None:
        """Go on with another pack; points in the middle of training are checkpointed first."""
        self.pause()
        self.points, self.served = {p.id: p for p in pack.points}, dict(pack.served)
        self.until = dict(pack.until)
        self.ids, self._alike = OrderedDict.fromkeys(self.points), {}
        for id in self.ids:
            self._alike.setdefault(self._key(id), OrderedDict())[id] = None

    def data_of(self, fold: int | None) -> Data:
        """The windows of a fold, or of the fixed split (None). Raises InputError, as `prepare`."""
        data = self._data.pop(fold, None)
        if data is None:
            config = of_fold(self.setup.data, fold)
            data = prepare(config, Path(self.setup.cache_dir), _say, self._node_dir)
        self._data[fold] = data
        while len(self._data) > FOLDS:
            self._data.pop(next(iter(self._data)))
        return data

    def advance(self, seconds: float) -> dict[str, Any]:
        """Train for about `seconds` (at least one epoch); {events, left, and where the current point is}.

        Also when this process last wrote a checkpoint. Returns early when this node must leave or all stop.
        """
        deadline = time.monotonic() + seconds
        events: list[dict[str, Any]] = []
        self._row: dict[str, float] = {}
        while self.ids:
            try:
                if self.runs is None and not self._begin(events):
                    continue
                assert self.runs is not None
                held = self._held()
                rows = self.runs.step()
                if self._held() != held:
                    self.checkpointed = time.time()
            except Exception as error:
                self._stack_failed(error, events)
            else:
                for i, row in enumerate(rows):
                    self._hear(i, row, events)
            if time.monotonic() >= deadline or self.must_leave or self.pace.stop:
                break
        where = {}
        if self.runs is not None:
            id = self._current()  # of the stack: the first of `ids` may not be in it
            point = self.runs.members[self.stacked.index(id)]
            where = {"point": id, "epoch": point.epoch, "max_epochs": point.max_epochs}
            where["val_mae_bpm"] = self._row.get("val_mae_bpm")
        return {"events": events, "left": len(self.ids), "checkpointed": self.checkpointed, **where}

    def pause(self) -> None:
        """Checkpoint what is being trained and let go of it."""
        if self.runs is not None:
            if any(point.epoch or point.pretrained for point in self.runs.members):
                self.runs.checkpoint()
                self.checkpointed = time.time()
            self._let_go()

    def _held(self) -> list[int]:
        """The epochs that the checkpoints of the stack's points hold."""
        return [point.checkpointed for point in self.runs.members] if self.runs else []

    def _begin(self, events: list[dict[str, Any]]) -> bool:
        """Begin the next point and those of the pack that train with it; False if it was done already."""
        from kd.training.train import Runs

        id = next(iter(self.ids))
        self.stacked = [id]
        if self.store.is_done(id):  # by a worker that died before it could report
            stored = self.store.result(id)
            events.append(_event("done", id, **_headlines(stored)))
            self._close(id)
            return False
        if not self.lock.take(byte_of(id), ORPHAN_PATIENCE_S):
            raise InputError(
                f"point {id} is being trained by another process, perhaps a worker of a run that was killed: "
                f"stop that process, then run again"
            )
        if self.points[id].brought:
            self._bring(id, events)
            return True
        how = self._how(id)
        for other in self._alike[self._key(id)]:
            if len(self.stacked) >= how.members:
                break
            fits = other != id and other not in self._alone and not self.store.is_done(other)
            if fits and self.lock.take(byte_of(other)):
                self.stacked.append(other)
        points = [self.points[id] for id in self.stacked]
        self.runs = Runs(
            [spec_of(point) for point in points],
            self.data_of(self.points[id].fold),
            [self.store.folder(point.id) for point in points],
            teacher_folders=[self.store.folder(p.teacher) if p.teacher else None for p in points],
            device=self.device,
            checkpoint_every_s=self.setup.checkpoint_every_s,
            convolution=how.convolution,
            engine=self.engine,
            until=[self.until.get(point.id) for point in points],
            stems=[stem_of(point, self.store) for point in points],
        )
        for id, point in zip(self.stacked, self.runs.members, strict=True):
            events.append(_event("began", id, epoch=point.epoch))
            if not point.waits:
                self.store.forget_pause(id)
            if point.set_aside:
                _say(f"{id}: {point.set_aside}")
            _say(f"{id} begins after epoch {point.epoch} of {point.spec.recipe.max_epochs}")
        return True

    def _bring(self, id: str, events: list[dict[str, Any]]) -> None:
        """Begin a teacher that is brought: its outputs are computed, or were by another fold's."""
        from kd.teachers.bring import Bringing

        point = self.points[id]
        config, cache = of_fold(self.setup.data, point.fold), Path(self.setup.cache_dir)
        data, folder = self.data_of(point.fold), self.store.folder(id)
        self.runs = Bringing(
            *(id, source_of(point.brought), data, config, cache, folder, self.device),
            folder_of=self.store.folder,
        )
        events.append(_event("began", id, epoch=0))
        _say(f"{id} begins: outputs of the brought teacher {point.name}")

    def _how(self, id: str) -> "Choice":
        """How to train points like this: on a CPU one by one, independent of other points."""
        from kd.training.probe import Choice, choose

        if self.device == "cpu" or id in self._alone or len(self.ids) == 1:
            return Choice()
        key = self._key(id)
        alike, known = self._alike[key], self._chosen.get(key)
        if known is None or (known.bounded and known.members < len(alike)):
            teachers = dict.fromkeys(teacher for other in alike if (teacher := self.points[other].teacher))
            folders = [self.store.folder(teacher) for teacher in teachers]
            spec = spec_of(self.points[id])
            data = self.data_of(self.points[id].fold)
            known = choose(spec, data, self.device, len(alike), teachers=folders, say=_say)
            self._chosen[key] = known
            _say(f"{self.points[id].name}: {known}")
        return known

    def _key(self, id: str) -> "Alike":
        from kd.training.stack import together

        point = self.points[id]
        return point.role, point.data_fingerprint, *together(spec_of(point))

    def _hear(self, i: int, row: "dict[str, float] | Diverged | None", events: list[dict[str, Any]]) -> None:
        """One point of the stack has trained an epoch (its scalars), left the finite numbers, or is over."""
        id = self.stacked[i]
        if id not in self.ids:  # over for some time
            return
        if isinstance(row, self._diverged):
            self._failed(id, row, events)
        elif row:
            self._row = row
        elif self.runs is not None and self.runs.members[i].waits:
            self._pause(i, events)
        else:
            try:
                figures = self._finish(i)
            except Exception as error:
                self._failed(id, error, events)
            else:
                events.append(_event("done", id, **figures))
                _say(f"{id} done: {figures}")

    def _pause(self, i: int, events: list[dict[str, Any]]) -> None:
        """A point has come as far as it was to be trained for now, and is in its checkpoint."""
        id = self.stacked[i]
        last = self.store.history(id)[-1]
        told = {key: last[key] for key in ("epoch", "val_mae_bpm", "train_seconds")}
        self.store.write_pause(id, {**told, "max_epochs": self.points[id].recipe["max_epochs"]})
        self._close(id)
        events.append(_event("paused", id, **told))
        _say(f"{id} paused after epoch {told['epoch']}")

    def _stack_failed(self, error: Exception, events: list[dict[str, Any]]) -> None:
        """A stack can't begin or go on: its points are retried in smaller stacks, a lone point fails."""
        short = out_of_gpu_memory(error)
        if len(self.stacked) > 1 and (self.runs is None or short):
            _say(f"a stack of {len(self.stacked)} failed; retrying its points in smaller stacks: {error}")
            if short:
                key = self._key(self.stacked[0])
                self._chosen[key] = replace(self._chosen[key], members=len(self.stacked) // 2, bounded=False)
            else:
                self._alone.update(self.stacked)
            self._let_go()
        else:
            self._failed(self._current(), error, events)

    def _current(self) -> str:
        """The first point of the stack that is still in training."""
        return next(id for id in self.stacked if id in self.ids)

    def _failed(self, id: str, error: Exception, events: list[dict[str, Any]]) -> None:
        _say(f"{id} failed: {error}")
        epoch = self.runs.members[self.stacked.index(id)].epoch if self.runs else None
        event = _event("failed", id, error=describe(error, epoch), log=self._log(id))
        self._close(id)
        if self.device != "cpu" and not isinstance(error, (InputError, self._diverged)):
            self._let_go()
            raise Broken(event) from error
        events.append(event)

    def _finish(self, i: int) -> dict[str, Any]:
        assert self.runs is not None
        id, figures = self.stacked[i], self.runs.finish(i)
        point = asdict(self.points[id])
        point.pop("cost_s", None)
        if not point["brought"]:
            del point["brought"]
        else:  # what isn't known of it
            point |= {key: None for key in SIZES if not point[key]}
        self.store.write_result(
            id,
            {
                **point,
                **figures,
                **self.store.continued(id),
                **total_cost(self.points[id], self.served, figures["train_seconds"], self.store),
                "recipe_version": RECIPE_VERSION,
                "versions": versions(),
                "git_commit": self.setup.git_commit,
                "host": socket.gethostname(),
                "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
                "threads": self.setup.threads,
                "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            },
        )
        self.runs.discard_checkpoint(i)
        self._close(id)
        return _headlines({**figures, **self.store.continued(id)})

    def _close(self, id: str) -> None:
        """Leave a point, whatever became of it; with the last one of a stack, the stack."""
        self.lock.free(byte_of(id))
        del self.ids[id], self._alike[self._key(id)][id]
        if not any(other in self.ids for other in self.stacked):
            self.runs = None

    def _let_go(self) -> None:
        """Leave the stack; what is left of its points is still to be trained."""
        for id in self.stacked:
            if id in self.ids:
                self.lock.free(byte_of(id))
        self.runs = None

    def _log(self, id: str) -> str:
        """The last lines this process printed and the point's last epochs."""
        printed = [Path(os.readlink(f"/proc/self/fd/{fd}")) for fd in (1, 2)]
        files = [self.store.folder(id) / "history.jsonl", *printed]
        return "".join(f"--- {path.name} ---\n{tail(path)}" for path in files if path.is_file())


def _headlines(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the driver receives of a result, the means of which it makes the sweep's headline error too.

    train_seconds: of this point alone.
    """
    found = {key: result[key] for key in HEADLINES} | {"train_seconds": own_seconds(result)}
    return {**found, "by_metric": by_metric(result)}


def device_of(gpu: bool) -> str:
    """What a worker trains on. Raises RuntimeError where a GPU was granted and can't be used."""
    import torch

    if not gpu:
        return "cpu"
    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "is not set")
        raise RuntimeError(
            f"{socket.gethostname()}: a GPU was granted, and torch {torch.__version__} can't use it "
            f"(CUDA_VISIBLE_DEVICES={visible}): check nvidia-smi there, install torch for its driver"
        )
    return "cuda"


def versions() -> dict[str, str]:
    """Of what trains, as a result keeps them."""
    found = {name: version(name) for name in ("kdsweep", "torch", "numpy")}
    return {"python": platform.python_version(), **found}


def compiled_engine(say: Callable[[str], None] | None = None) -> ctypes.CDLL | None:
    """The compiled engine for this node's CPU; None, and a line that says why, where torch has to train."""
    from kd.training.compiled import Unavailable, library

    try:
        return library()
    except Unavailable as why:
        (say or _say)(f"{why}: torch trains here, at a fraction of the speed; install g++ on the nodes")
        return None


def total_cost(
    point: Point, served: Mapping[str, int], train_seconds: float, store: Store
) -> dict[str, float | int]:
    """The compute a point really had, its teacher's included: what result.json says beside train_seconds.

    teacher_seconds: what its teacher took to train; teacher_students: how many points of the plan it
    serves, from `served`. Of a mean, and of its students, all members together.
    total_seconds: train_seconds + an equal share of the teacher, what the point cost this sweep.
    alone_seconds: train_seconds + the whole teacher, what it costs whoever wants only this student.
    """
    if not point.needs:
        return {"total_seconds": train_seconds, "alone_seconds": train_seconds}
    known = {id: store.result(id) for id in point.needs}
    share = sum(r.get("total_seconds", r["train_seconds"]) / served[id] for id, r in known.items())
    whole = sum(r.get("alone_seconds", r["train_seconds"]) for r in known.values())
    return {
        "teacher_seconds": round(whole, 3),
        "teacher_students": min(served[id] for id in point.needs),
        "total_seconds": round(train_seconds + share, 3),
        "alone_seconds": round(train_seconds + whole, 3),
    }


def spec_of(point: Point) -> Spec:
    """What `kd` needs to know of a point."""
    return Spec(
        id=point.id,
        role=point.role,
        arch=point.arch,
        depth=point.depth,
        width=point.width,
        init=point.init,
        strategy=point.strategy,
        strategy_args=dict(point.strategy_args),
        teacher=point.teacher,
        seed=point.seed,
        recipe=Recipe(**point.recipe),
    )


def describe(error: BaseException, epoch: int | None = None) -> dict[str, Any]:
    """An exception as error.json has it."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "epoch": getattr(error, "epoch", epoch),
        "traceback": "".join(traceback.format_exception(error)),
        # of a full disk: what the driver ends the run with
        "full_disk": [error.errno, error.strerror, str(error.filename)] if is_full(error) else None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def tail(path: Path, lines: int = LOG_LINES, most_bytes: int = 64 * 1024) -> str:
    """The last lines of a text file, ending with a newline."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - most_bytes, 0))
        text = file.read().decode(errors="replace")
    return "".join(f"{line}\n" for line in text.splitlines()[-lines:])


def _say(text: str) -> None:
    """Into this worker's log, which the dashboard shows."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def _event(kind: str, id: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "id": id, "time": time.time(), **more}
