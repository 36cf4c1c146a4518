"""A site profile: what a cluster's users write down once, in YAML. Knows the shape, not how it is used.

Values that end up in `#SBATCH` lines are of an alphabet that no shell and no sbatch reads anything into; the
only text that a shell runs as it stands is `setup`, which is the site's own shell.
"""

import difflib
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from slurm.bounded_yaml import BadYaml, Lines, read_yaml
from slurm.errors import SiteError

EXAMPLES = Path(__file__).parent / "sites"
# An AF_UNIX path has at most 107 bytes; Ray appends 64 to its directory, we "/kds1234567-abcdefgh/r".
LONGEST_SCRATCH = 107 - 64 - 22
HEAD_MEMORY = "4G"  # several times what `slurm.memory` says it needs: the plan of a large sweep is in it


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed; YAML reads yes and on as true")
    return value


Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:,@+=\-\[\]&|*/]*$", max_length=200)]
Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}[MGT]$")]
MemoryOrNone = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,8}[MGT]|none)$")]
Number = BeforeValidator(_number)
Count = Annotated[int, Field(ge=1, le=100_000), Number]  # no cluster has more nodes, no node more CPUs
_TIME = re.compile(r"(?:(\d{1,4})-)?(\d{1,3})(?::(\d{2}))?(?::(\d{2}))?", re.ASCII)


def seconds(time: str) -> int:
    """A Slurm time limit in seconds: MM, HH:MM:SS, MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.

    >>> seconds("90"), seconds("1:30:00"), seconds("2-12")
    (5400, 5400, 216000)
    """
    match = _TIME.fullmatch(time)
    if not match:
        raise ValueError(f"{time!r} is not a time limit: write minutes, HH:MM:SS or D-HH:MM:SS")
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        h, m, s = [*parts, 0, 0][:3]
        return int(days) * 86400 + h * 3600 + m * 60 + s
    if len(parts) == 3:
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)


def _time(value: str) -> str:
    if seconds(value) < 60:
        raise ValueError("shorter than a minute, which is Slurm's least")
    return value


Time = Annotated[str, AfterValidator(_time)]


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError as error:
        raise ValueError(f"{error}: write a network such as 10.4.0.0/16") from None


Network = Annotated[str, AfterValidator(_network)]


def _one_cluster(value: Any) -> Any:
    if isinstance(value, list) or (isinstance(value, str) and ("," in value or value == "all")):
        raise ValueError(
            "a sweep lives on one cluster, where its jobs find each other and Ray's head: write one name, "
            "and another profile for another cluster"
        )
    return value


Cluster = Annotated[
    str, BeforeValidator(_one_cluster), Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$", max_length=40)
]

# sbatch options that kdsweep sets itself; a profile's `options` may not say them again
# fmt: off
MANAGED = frozenset({
    "account", "partition", "qos", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task",
    "cpus-per-gpu", "gpus", "gpus-per-node", "gpus-per-task", "gres", "mem", "mem-per-cpu",
    "mem-per-gpu", "time", "signal", "requeue", "no-requeue", "open-mode", "output", "error",
    "job-name", "comment", "array", "dependency", "export", "chdir", "wrap", "parsable", "mail-type",
    "mail-user", "no-kill", "kill-on-invalid-dep", "input", "test-only", "wait", "hold", "uid", "gid",
    "get-user-env", "clusters",
})
# fmt: on


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Head(_Model):
    """What the head job of an elastic sweep asks for: the driver, no GPU. What is None is as for workers."""

    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    cpus: Count = 2
    memory: MemoryOrNone | None = None  # None: HEAD_MEMORY where workers ask by node, else as they do
    time: Time | None = None
    preempt: Literal["requeue", "cancel"] | None = None
    options: dict[str, str] = Field(default_factory=dict)


class Site(_Model):
    """One way of using one cluster. Every key but the first four has a default that asks for nothing."""

    nodes: Count = 1  # gang: of the one job; elastic: how many one-node worker jobs
    time: Time = "04:00:00"
    cpus_per_node: Count | None = None  # or cpus_per_gpu
    # Of a node: Slurm's --mem; `none` where the site wants no request. Or memory_per_cpu: --mem-per-cpu.
    memory: MemoryOrNone | None = None
    memory_per_cpu: Memory | None = None
    cpus_per_gpu: Count | None = None
    gpus_per_node: Annotated[int, Field(ge=0, le=100_000), Number] = 0  # --gpus-per-node
    gres: Word | None = None  # instead of gpus_per_node, where a site wants it: gpu:a100:2
    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    clusters: Cluster | None = None  # the one to submit to, where it isn't the login node's own
    mode: Literal["gang", "elastic"] = "gang"
    # What becomes of a preempted job: Slurm requeues it, or cancels it (so a successor is submitted early)
    preempt: Literal["requeue", "cancel"] = "requeue"
    warn_s: Annotated[int, Field(ge=1, le=65535), Number] = 120  # USR1 comes so long before the time limit
    max_links: Count = 20  # how often a job may run, first time included
    setup: list[str] = Field(
        default_factory=list
    )  # shell lines run first on the job's first node: module load ...
    container: list[str] = Field(
        default_factory=list
    )  # command put before python: [apptainer, exec, --nv, x.sif]
    python: str | None = None  # default: the Python that runs kdsweep now
    scratch: str = "/tmp"  # node-local, for Ray's sockets and logs; may be $TMPDIR and the like
    dashboard: bool = True
    interface: Word | None = None  # nodes with several networks: the interface that the others reach
    address: Network | None = None  # or its network: 10.4.0.0/16
    login: Word | None = None  # host for the ssh -L line
    mail_user: Word | None = None
    mail_type: Word = "END,FAIL"
    max_running: Count | None = None  # elastic: so many tasks of an array of workers at once
    max_array: Count | None = None  # tasks in one array; default: asked of Slurm (MaxArraySize)
    patience_s: Annotated[float, Field(ge=0, le=86_400), Number] = (
        60.0  # how long a busy slurmctld is asked again
    )
    options: dict[str, str] = Field(default_factory=dict)  # more sbatch options: constraint: "a100|h100"
    head: Head = Field(default_factory=Head)
    _file: str = PrivateAttr("the site profile")  # for messages

    @property
    def file(self) -> str:
        """Where it was read."""
        return self._file

    @model_validator(mode="after")
    def _consistent(self) -> "Site":
        if (self.cpus_per_node is None) == (self.cpus_per_gpu is None):
            raise ValueError("give cpus_per_node, or cpus_per_gpu, and not both")
        if (self.memory is None) == (self.memory_per_cpu is None):
            raise ValueError("give memory (16G, or none where the site wants no request) or memory_per_cpu")
        if self.gres and self.gpus_per_node:
            raise ValueError("give gpus_per_node or gres, not both")
        if self.cpus_per_gpu and not self.gpus:
            raise ValueError("cpus_per_gpu needs GPUs: set gpus_per_node or gres")
        if self.gres and not re.fullmatch(
            r"(gpu|shard)(:(?![0-9]+(:|$))[A-Za-z0-9_.\-]+)?(:[1-9][0-9]{0,4})?", self.gres
        ):
            raise ValueError("gres: write gpu:2, gpu:a100:2, gpu:a100_3g.20gb:1 or shard:4")
        for options in (self.options, self.head.options):
            _check_options(options)
        if "\n" in "".join(self.setup) or any(ord(c) < 32 and c != "\t" for c in "".join(self.setup)):
            raise ValueError("setup: one shell line an entry")
        if not self.scratch.startswith(("/", "$")) or re.search(r"[\x00-\x1f]", self.scratch):
            raise ValueError("scratch: an absolute path, or a variable such as $TMPDIR")
        if self.scratch.startswith("/") and len(self.scratch.encode()) > LONGEST_SCRATCH:
            raise ValueError(
                f"scratch: longer than {LONGEST_SCRATCH} bytes, and a socket's path has at most 107 in all: "
                "give a shorter one, such as /tmp"
            )
        return self

    @property
    def gpus(self) -> int:
        """GPUs of a node, as a job sees them; shards are parts of one."""
        if self.gres:
            if self.gres.startswith("shard"):
                return 1
            last = self.gres.rpartition(":")[2]
            return int(last) if last.isdigit() else 1
        return self.gpus_per_node

    @property
    def cpus(self) -> int:
        """CPUs of a node."""
        return self.cpus_per_node or (self.cpus_per_gpu or 1) * self.gpus

    @property
    def head_memory(self) -> str | None:
        """Slurm's --mem of the head job; None where it is as memory_per_cpu says, or not asked for."""
        return self.head.memory or (HEAD_MEMORY if self.memory not in (None, "none") else None)


def _check_options(options: dict[str, str]) -> None:
    for name, value in options.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise ValueError(
                f"options: {name!r}: write an sbatch option without its dashes, such as constraint"
            )
        if name in MANAGED:
            raise ValueError(f"options: kdsweep sets {name} itself: use the profile's own keys")
        if not re.fullmatch(r"[A-Za-z0-9_.:,@+=\-\[\]&|*/]*", value):
            raise ValueError(
                f"options: {name}: {value!r} has characters that sbatch might not take as they stand"
            )


def load_site(name: str, **changes: Any) -> Site:
    """A profile by path, or an example by name; `changes` that aren't None replace values. SiteError."""
    path = Path(name)
    if not path.is_file() and re.fullmatch(r"[A-Za-z0-9_-]+", name):
        path = EXAMPLES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in EXAMPLES.glob("*.yaml")))
        raise SiteError(f"{name}: no such site profile: give a YAML file, or one of the examples: {known}")
    try:
        content, lines = read_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SiteError(
            f"{path} is not UTF-8 text (byte {error.start}): save it with the encoding UTF-8"
        ) from None
    except BadYaml as error:
        raise SiteError(error.at(path)) from None
    if not isinstance(content, dict):
        raise SiteError(f"{path}: a site profile is a mapping with keys such as partition, time, memory")
    try:
        site = Site.model_validate(content | {k: v for k, v in changes.items() if v is not None})
        site._file = str(path)
        return site
    except ValidationError as error:
        raise SiteError("\n".join(_explain(path, lines, e) for e in error.errors())) from None


def _explain(path: Path, lines: Lines, error: Any) -> str:
    """One line: file, line, key, and what to do."""
    key = ".".join(p if (p := str(part)).isprintable() else ascii(p) for part in error["loc"])
    line = next(
        (lines[at] for n in range(len(error["loc"]), 0, -1) if (at := error["loc"][:n]) in lines), None
    )
    place = f"{path}:{line}" if line else str(path)
    if error["type"] == "extra_forbidden":
        known = Head.model_fields if error["loc"][0] == "head" else Site.model_fields
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"{place}: {key}: unknown key; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    got = f" (got {error['input']!r:.60})" if error["loc"] and error["type"] != "missing" else ""
    return f"{place}: {key + ': ' if key else ''}{message}{got}"
