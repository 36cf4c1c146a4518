"""`kdsweep doctor [--site SITE]`: can this machine, and a Slurm site, run sweeps? ok, or a remedy."""

import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import click

from orchestrator.commands.arguments import SITE
from orchestrator.commands.echo import echo
from orchestrator.commands.hosted import Hosted
from orchestrator.space.schema import Resources
from orchestrator.words import escaped
from slurm.check import partitions, refusals
from slurm.command import Slurm
from slurm.errors import Away, Refused, SiteError
from slurm.memory import floor_mb, too_little
from slurm.site import LONGEST_SCRATCH, Site, load_site

PACKAGES = ("torch", "ray", "mlflow", "torch-pruning", "numpy", "scipy", "pydantic")
LEAST_PYTHON = (3, 11)
LEAST_FREE_GB = 2
OLDEST_SLURM = (20, 11)  # srun --overlap


class Line(NamedTuple):
    """One finding: what was looked at, whether it is well, and what was seen or is to be done."""

    what: str
    ok: bool
    text: str


@click.command(cls=Hosted)
@click.option("--site", "site_name", type=SITE, help="Site profile: a YAML file, or the name of an example.")
@click.option(
    "--shared",
    default="sweeps",
    show_default=True,
    help="Directory for sweeps; must be visible to all nodes.",
)
@click.option("--node/--no-node", default=True, help="Run a short test job on a node (needs --site).")
@click.option("--wait", "wait_s", default=120, show_default=True, help="Seconds to wait for the test job.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(site_name: str | None, shared: str, node: bool, wait_s: int, as_json: bool) -> None:
    """Check this machine; with --site also Slurm, the site profile, and one compute node."""
    lines = []
    for line in _check(site_name, Path(shared), node, wait_s):
        lines.append(line)
        if not as_json:
            echo(escaped(f"{'ok  ' if line.ok else 'FIX '} {line.what}: {line.text}"))
    if as_json:
        click.echo(json.dumps([line._asdict() for line in lines]))
    sys.exit(0 if all(line.ok for line in lines) else 1)


def _check(site_name: str | None, shared: Path, node: bool, wait_s: int) -> Iterator[Line]:
    yield from _machine(shared)
    if site_name is None:
        return
    try:
        site = load_site(site_name)
    except SiteError as error:
        yield Line("profile", False, str(error))
        return
    yield Line(
        "profile", True, f"{site_name}: {site.mode}, {site.nodes} nodes of {site.cpus} CPUs, {site.gpus} GPUs"
    )
    slots = _slots(site)
    lacking = too_little(site, slots)
    yield Line("memory", not lacking, "; ".join(lacking) or f"enough for {slots} slots of small students")
    slurm = Slurm(patience_s=0, cluster=site.clusters)
    reachable = False
    for line in _slurm(slurm, site):
        yield line
        reachable = reachable or line.what == "Slurm"
    if reachable and node:
        yield from _node(slurm, site, shared, wait_s)


def _slots(site: Site) -> int:
    """Packs that a node runs at once, with the resources that a search space has if it says nothing."""
    slot = Resources().slot(site.gpus > 0)
    return slot.fit_in({"CPU": site.cpus, "GPU": site.gpus})


def _machine(shared: Path) -> Iterator[Line]:
    """Versions, space."""
    found = ".".join(map(str, sys.version_info[:3]))
    yield Line("Python", sys.version_info >= LEAST_PYTHON, f"{found} at {sys.executable}")
    lacking, there = [], []
    for name in PACKAGES:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lacking.append(name)
    remedy = f"missing {', '.join(lacking)}: pip install -c constraints.txt -e ."
    yield Line("packages", not lacking, remedy if lacking else ", ".join(there))
    at = next(p for p in (shared.absolute(), *shared.absolute().parents) if p.exists())
    free = shutil.disk_usage(at).free / 1e9
    enough = free >= LEAST_FREE_GB
    text = f"{free:.0f} GB free at {at}"
    yield Line("space", enough, text if enough else f"{text}: free some space or use another directory")


def _slurm(slurm: Slurm, site: Site) -> Iterator[Line]:
    """Reachable, partitions there, scripts accepted."""
    try:
        said = slurm.run("scontrol", "--version").split()[-1]
        slurm.run("scontrol", "show", "config")
    except (Away, Refused) as error:
        yield Line("Slurm reachable", False, f"{error}; check that this is a login node and slurmctld is up")
        return
    new = tuple(int(part) for part in said.split(".")[:2]) >= OLDEST_SLURM
    yield Line("Slurm", new, said if new else f"{said} is older than 20.11, which has no srun --overlap")
    try:
        for name, trouble in partitions(slurm, site).items():
            yield Line(f"partition {name}", not trouble, trouble or "up, and long enough")
        for name, trouble in refusals(slurm, site).items():
            text = (
                f"{trouble}; correct the profile" if trouble else "accepted: account, partition, qos, limits"
            )
            yield Line(f"sbatch --test-only {name}", not trouble, text)
    except Away as error:
        yield Line("Slurm answers", False, f"{error}; try again later")


def _node(slurm: Slurm, site: Site, shared: Path, wait_s: int) -> Iterator[Line]:
    """What a node sees."""
    from slurm.job import Job, gang_options

    nodes = min(site.nodes, 2)  # the second calls the first, as Ray will
    shared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shared, prefix=".doctor-") as folder:
        word = secrets.token_hex(8)
        at = Path(folder).absolute()
        (at / "word").write_text(word, encoding="utf-8")
        asked = site.model_copy(update={"nodes": nodes})
        job = Job(id="doctor", sweep="doctor", here=at, site=asked, driver=())
        wanted = SRUN | site.options.keys()
        options = [
            f"--{name}{f'={value}' if value else ''}" for name, value in gang_options(job) if name in wanted
        ]
        command = [*job.python, "-P", "-m", "slurm.probe", str(at), word, site.scratch]
        command += [site.interface or "", site.address or ""]
        patient = Slurm(patience_s=0, limit_s=wait_s + 60, cluster=site.clusters)
        try:
            text = patient.run(
                "srun",
                "--quiet",
                f"--immediate={wait_s}",
                f"--ntasks={nodes}",
                "--time=5",
                *options,
                *command,
            )
            seen = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            if len(seen) != nodes:
                raise ValueError(f"{len(seen)} answers")
        except (Away, Refused) as error:
            yield Line("a node", False, f"{error}; wait longer with --wait, or skip this with --no-node")
            return
        except ValueError:
            yield Line("a node", False, f"answered {text!r}; check `python` and `setup` in the profile")
            return
        if nodes > 1:
            bad = next((s for s in seen if s.get("peer", s.get("ports_error"))), None)
            text = ", ".join(f"{s['host']} at {s.get('ip')}" for s in seen)
            why = bad and (bad.get("peer") or bad.get("ports_error"))
            remedy = f"{why} ({text}): set interface or address in the profile to the nodes' common network"
            yield Line("two nodes reach each other", bad is None, remedy if bad else text)
        for one in seen:
            back = at / f"answer-{one['rank']}"
            yield from _seen(one, site, at, back.exists() and back.read_text(encoding="utf-8") == word)


SRUN = {"account", "partition", "qos", "nodes", "cpus-per-task", "gres", "gpus-per-node", "mem"}


def _seen(seen: dict[str, Any], site: Site, folder: Path, back: bool) -> Iterator[Line]:
    host = seen["host"]
    shared = bool(seen.get("read") and seen.get("written") and back)
    why = seen.get("shared_error", "files written on one side are not visible on the other")
    text = f"{host} reads and writes {folder.parent}"
    yield Line(
        "shared folder",
        shared,
        text if shared else f"{host}: {why}: put sweeps on a file system that all nodes mount",
    )
    path, writable = seen["scratch"]["path"], seen["scratch"]["writable"]
    fits = writable and len(path.encode()) <= LONGEST_SCRATCH
    remedy = f"{path}: not writable, or longer than {LONGEST_SCRATCH} bytes (sockets): set scratch"
    yield Line("scratch and socket paths", fits, f"{path} on {host}" if fits else remedy)
    ports = "ports_error" not in seen
    text = f"free from {seen.get('first_port')} at {seen.get('ip')}"
    yield Line("ports", ports, text if ports else f"{seen['ports_error']}: ask your site")
    share = seen["share"]
    given = share["cpus"] >= site.cpus and share["gpus"] == site.gpus
    memory = f"{share['memory_mb']} MB" if share["memory_mb"] else "memory not limited by Slurm"
    text = f"{share['cpus']} CPUs, {share['gpus']} GPUs, {memory}"
    remedy = f"{text}: the profile says {site.cpus} and {site.gpus}"
    slots, head = _slots(site), site.mode == "gang"
    floor = floor_mb(slots, head=head, dashboard=site.dashboard and head)
    if given and 0 < share["memory_mb"] < floor:  # the site's own default, where the profile asks for none
        given, remedy = False, f"{text}: {slots} slots need {floor} MB: set memory in the profile"
    yield Line("allocation", given, text if given else remedy)
    torch = seen["torch"]
    if len(torch) != 3:
        yield Line("torch on a node", False, f"{' '.join(torch)}: check `python` and `setup` in the profile")
        return
    sees = torch[1] == "True" and int(torch[2]) >= site.gpus if site.gpus else True
    text = f"{torch[0]}, {torch[2]} GPUs"
    remedy = (
        f"{text}, of {site.gpus} given: install torch for this GPU's driver, or load the CUDA module in setup"
    )
    yield Line("torch on a node", sees, text if sees else remedy)
