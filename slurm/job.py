"""A sweep's job scripts: values in, text out. Nothing here talks to Slurm or reads a file but the templates.

Two kinds of submission: `gang`, one job of N nodes with the driver on the first; `elastic`, a head job with
the driver and arrays of one-node worker jobs.
"""

import re
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from slurm.command import TRANSIENT
from slurm.errors import SiteError
from slurm.site import MANAGED, Head, Site, seconds

MARGIN_S = 15.0  # a worker is gone so long before its time limit
# sbatch option -> the profile's key, where it is called otherwise
PROFILE_KEYS = {
    "mem": "memory",
    "mem-per-cpu": "memory_per_cpu",
    "cpus-per-task": "cpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "mail-user": "mail_user",
    "mail-type": "mail_type",
    "signal": "warn_s",
    "requeue": "preempt",
    "no-requeue": "preempt",
}
Options = list[tuple[str, str]]


@dataclass(frozen=True)
class Job:
    """One submission of a sweep.

    id: [0-9a-z-]+, unique. here: the submission's folder. driver: the command that runs the driver, without
    --address. Folders are absolute.
    """

    id: str
    sweep: str
    here: Path
    site: Site
    driver: tuple[str, ...]

    @property
    def python(self) -> tuple[str, ...]:
        """The command that runs Python on a node."""
        return (*self.site.container, self.site.python or sys.executable)

    @property
    def name(self) -> str:
        """Name of the job with the driver."""
        return f"kds-{slug(self.sweep)}"

    @property
    def worker_name(self) -> str:
        """Name of this submission's worker jobs, and of no other job."""
        return f"kds-worker-{self.id}"

    @property
    def comment(self) -> str:
        """What every job of this submission carries; its role follows after a slash."""
        return f"kdsweep/{self.id}"


@dataclass(frozen=True)
class Request:
    """One call of sbatch: role (gang, head, workers), script's file name, further arguments."""

    role: str
    script: str
    args: tuple[str, ...] = ()


def slug(name: str) -> str:
    """A name as job names may have it: ASCII letters, digits, dots, dashes, at most 40."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9.-]+", "-", plain).strip(".-")[:40] or "sweep"


def scripts(job: Job, max_array: int = 1001) -> dict[str, str]:
    """The scripts of a submission, by file name. max_array: MaxArraySize."""
    if job.site.mode == "gang":
        return {"gang.sbatch": gang_script(job)}
    return {"head.sbatch": head_script(job, max_array), "worker.sbatch": worker_script(job)}


def requests(job: Job, max_array: int) -> list[Request]:
    """The calls of sbatch, in order. max_array: MaxArraySize, one more than the largest task index."""
    if job.site.mode == "gang":
        return [Request("gang", "gang.sbatch")]
    return [Request("head", "head.sbatch"), *workers(job, job.site.nodes, max_array)]


def workers(job: Job, tasks: int, max_array: int, first: int = 0) -> list[Request]:
    """The calls of sbatch that submit so many workers; first: number of the first array."""
    return [
        Request(f"workers-{i}", "worker.sbatch", (*array_output(job), f"--array=0-{n - 1}{throttle(job)}"))
        for i, n in enumerate(split_array(tasks, max_array), first)
    ]


def throttle(job: Job) -> str:
    """The end of --array that bounds how many of its tasks run at once."""
    return f"%{job.site.max_running}" if job.site.max_running else ""


def array_output(job: Job) -> tuple[str, ...]:
    """Has the outputs of an array's tasks named as squeue names the tasks."""
    return () if _unfit_for_output(job.here) else ("--output=%x-%A_%a.out",)


def split_array(tasks: int, max_array: int) -> list[int]:
    """Sizes of the arrays that hold so many tasks.

    >>> split_array(2500, 1001)
    [1000, 1000, 500]
    """
    most = max(max_array - 1, 1)
    full, rest = divmod(tasks, most)
    return [most] * full + ([rest] if rest else [])


def gang_script(job: Job) -> str:
    """One job that holds everything."""
    site = job.site
    return _render(
        "driver.sbatch.j2",
        job,
        options=gang_options(job),
        script="gang.sbatch",
        own_exclude=site.options.get("exclude", ""),
        comment=f"{job.comment}/gang",
        requeue=site.preempt == "requeue",
        gang=True,
        nodes=site.nodes,
    )


def gang_options(job: Job) -> Options:
    """What a gang asks of Slurm."""
    more = [("no-kill", "")] if job.site.nodes > 1 else []
    return _options(job, job.name, job.site.nodes, more)


def head_script(job: Job, max_array: int = 1001) -> str:
    """The head job of an elastic sweep, which replaces workers that it lacks when it begins again."""
    site, head = job.site, job.site.head
    return _render(
        "driver.sbatch.j2",
        job,
        options=_head_options(job, head),
        script="head.sbatch",
        own_exclude=head.options.get("exclude", ""),
        worker_exclude=site.options.get("exclude", ""),
        comment=f"{job.comment}/head",
        requeue=(head.preempt or site.preempt) == "requeue",
        gang=False,
        nodes=1,
        workers=site.nodes,
        most=max(max_array - 1, 1),
        worker_comment=f"{job.comment}/worker",
        array_output=array_output(job),
        throttle=throttle(job),
    )


def worker_script(job: Job) -> str:
    """A worker job of an elastic sweep, for arrays and single ones."""
    return _render(
        "worker.sbatch.j2",
        job,
        options=_options(job, job.worker_name, 1, []),
        script="worker.sbatch",
        own_exclude=job.site.options.get("exclude", ""),
        comment=f"{job.comment}/worker",
        requeue=job.site.preempt == "requeue",
    )


def _options(job: Job, name: str, nodes: int, more: Options) -> Options:
    site = job.site
    gpus: Options = []
    if site.gres:
        gpus = [("gres", site.gres)]
    elif site.gpus_per_node:
        gpus = [("gpus-per-node", str(site.gpus_per_node))]
    return [
        ("job-name", name),
        *_where(site.account, site.partition, site.qos),
        ("nodes", str(nodes)),
        ("ntasks-per-node", "1"),
        ("cpus-per-task", str(site.cpus)),
        *gpus,
        *_memory(site.memory, site.memory_per_cpu),
        ("time", site.time),
        *_fate(job, site.preempt),
        *more,
        *site.options.items(),
    ]


def _head_options(job: Job, head: Head) -> Options:
    site = job.site
    own = head.partition is not None
    return [
        ("job-name", job.name),
        *_where(
            head.account or site.account, head.partition or site.partition, head.qos if own else site.qos
        ),
        ("nodes", "1"),
        ("ntasks-per-node", "1"),
        ("cpus-per-task", str(head.cpus)),
        *_memory(site.head_memory, site.memory_per_cpu),
        ("time", head.time or site.time),
        *_fate(job, head.preempt or site.preempt),
        *head.options.items(),
    ]


def _memory(of_node: str | None, of_cpu: str | None) -> Options:
    """What is asked for; nothing where the site wants no request."""
    if of_node and of_node != "none":
        return [("mem", of_node)]
    return [("mem-per-cpu", of_cpu)] if of_cpu else []


def _where(account: str | None, partition: str | None, qos: str | None) -> Iterator[tuple[str, str]]:
    for name, value in (("account", account), ("partition", partition), ("qos", qos)):
        if value:
            yield name, value


def _fate(job: Job, preempt: str) -> Options:
    """How a job ends, and where it says so."""
    site = job.site
    mail = [("mail-user", site.mail_user), ("mail-type", site.mail_type)] if site.mail_user else []
    return [
        ("signal", f"B:USR1@{site.warn_s}"),
        ("requeue" if preempt == "requeue" else "no-requeue", ""),
        ("open-mode", "append"),
        ("output", "/dev/null" if _unfit_for_output(job.here) else "%x-%j.out"),
        *mail,
    ]


def _unfit_for_output(here: Path) -> bool:
    """Slurm puts the folder before the output's name and replaces %j and backslashes in all of it."""
    return "%" in str(here) or "\\" in str(here)


def _render(template: str, job: Job, options: Options, **values: object) -> str:
    import jinja2

    for text in (str(job.here), *job.python, *job.driver):
        # sbatch ends its options at the first command, so text in commands can't become one; but a script
        # with line breaks and control characters in its words is no script an administrator can read.
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
            raise SiteError(f"{text!r}: control characters in a path or argument: rename it")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("slurm"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{##",  # bash has its own {#
        comment_end_string="##}",
        autoescape=False,  # it is shell: `q` quotes
    )
    environment.filters["q"] = lambda word: shlex.quote(str(word))
    site = job.site
    flags = [f"--scratch={site.scratch}"]
    if template == "worker.sbatch.j2":
        flags.append(f"--grace={max(site.warn_s - MARGIN_S, site.warn_s / 2):g}")
    flags += ["--dashboard"] if site.dashboard else []
    flags += [f"--login={site.login}"] if site.login else []
    flags += [f"--interface={site.interface}"] if site.interface else []
    flags += [f"--network={site.address}"] if site.address else []
    text = environment.get_template(template).render(
        job=job,
        node_flags=flags,
        driver=job.driver,
        transient="|".join(TRANSIENT),
        worker_name=job.worker_name,
        here_only=' ${clusters:+"$clusters"}' if site.clusters else "",
        own_output=_unfit_for_output(job.here),
        options=options,
        **values,
    )
    check_script(text, options, site.file)
    return text


def check_script(text: str, options: Options, profile: str) -> None:
    """Read a script's options as sbatch does and compare them with what was meant.

    Raises SiteError naming profile and key for any difference: an option more, less, or of another value.
    """
    read = parsed_options(text)
    for meant, found in zip_longest([f"--{n}={v}" if v else f"--{n}" for n, v in options], read):
        if meant != found:
            name = str(meant or found).removeprefix("--").partition("=")[0]
            key = PROFILE_KEYS.get(name, name if name in MANAGED else f"options.{name}")
            raise SiteError(
                f"{profile}: {key!r:.80}: sbatch would read {found!r:.80} where {meant!r:.80} is meant: "
                "write its name and value in letters, digits and dashes"
            )


def parsed_options(text: str) -> list[str]:
    """The words of the #SBATCH lines, and other schedulers' lines; all end at the first command."""
    words: list[str] = []
    for line in text.split("\n"):
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith("#SBATCH"):
            try:
                words += shlex.split(line.removeprefix("#SBATCH"), comments=True)
            except ValueError:  # an open quote
                words.append(line)
        elif line.strip() not in ("", "#", "#!/bin/bash") and not line.startswith("# "):
            words.append(line)  # of another scheduler, which sbatch reads as well: #PBS, #BSUB
    return words


def node_hours(site: Site) -> float:
    """Hours of nodes that a submission asks for at most in one go, without the head."""
    return site.nodes * seconds(site.time) / 3600
