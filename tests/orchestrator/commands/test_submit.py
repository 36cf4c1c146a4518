"""What `submit` and `doctor` refuse before Slurm is asked, and how long a sweep is said to take."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kd.errors import InputError
from orchestrator.commands.doctor import _seen, doctor
from orchestrator.commands.plan import plan
from orchestrator.commands.submit import submit
from orchestrator.run import submission
from orchestrator.store.store import Store
from slurm import chain
from slurm.site import Site

SPACE = """
name: s
data: {options: {subjects: 6, minutes: 1}}
students: {arch: mlp, depth: 1, width: [4, 8]}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(SPACE, encoding="utf-8")
    path = tmp_path / "site.yaml"
    path.write_text("cpus_per_node: 4\nmemory: 1010M\n", encoding="utf-8")
    return path


def called(command: click.Command, *args: object) -> Result:
    done = CliRunner().invoke(command, [str(arg) for arg in args])
    if isinstance(done.exception, InputError):
        raise done.exception
    return done


def dry_run(site: Path, *more: str) -> Result:
    sweep = site.parent / "sweep"
    return called(submit, site.parent / "s.yaml", "--site", site, "--out", sweep, "--dry-run", *more)


def test_too_little_memory_for_the_slots_is_refused(site: Path) -> None:
    with pytest.raises(InputError, match=r"site.yaml: memory: 1010M is 1010 MB, .* for each of 4 slots"):
        dry_run(site)
    assert not list(site.parent.glob("sweep/slurm/2*"))
    with pytest.raises(InputError, match=r"for each of 1 slots: .* dashboard: false"):
        dry_run(site, "resources.cpus=4")
    with site.open("a", encoding="utf-8") as file:
        file.write("dashboard: false\n")
    one = dry_run(site, "resources.cpus=4")
    assert one.exit_code == 0, one.output


def test_doctor_tells_of_it_without_a_node(site: Path) -> None:
    done = called(doctor, "--site", site, "--no-node", "--shared", site.parent)
    assert done.exit_code == 1
    assert f"FIX  memory: {site}: memory: 1010M is 1010 MB" in done.output
    site.write_text("cpus_per_node: 4\nmemory: 8G\n", encoding="utf-8")
    assert "ok   memory: " in called(doctor, "--site", site, "--no-node", "--shared", site.parent).output


def test_the_time_is_told_with_the_start_of_every_link(site: Path) -> None:
    site.write_text("cpus_per_node: 4\nmemory: 8G\n", encoding="utf-8")
    short = dry_run(site, "training.max_epochs=1").output
    assert "in 4 slots: about 18 s, of which 18 s are start-up, " in short
    assert "(start-up as measured on one node)" in short
    assert "the start of a run" not in short, "starting here is no part of a job"
    hours = json.loads(dry_run(site, "training.max_epochs=1", "--json").stdout)["hours"]
    assert hours["links"] == 1
    assert hours["startup_s"] == submission.START_S
    assert hours["estimated_hours"] == pytest.approx(4 * hours["wall_hours"]), "the node is held meanwhile"


@pytest.mark.parametrize(
    ("train_s", "more", "links"),
    [
        (1.3, {}, 1),
        (462.0, {}, 1),  # 600 s, less 120 of warning and 18 of starting
        (463.0, {}, 2),
        (4620.0, {}, 10),
        (463.0, {"mode": "elastic", "head": {"time": "5"}}, 3),
        (120.0, {"time": "1"}, 2),
    ],
)
def test_every_link_starts_anew(train_s: float, more: dict[str, Any], links: int) -> None:
    site = Site(**{"cpus_per_node": 4, "memory": "8G", "time": "10"} | more)
    assert submission.links_of(train_s, 18.0, site) == links


def test_earlier_jobs_say_how_long_starting_takes(tmp_path: Path) -> None:
    here = tmp_path / "slurm" / "20260101-000000-aaaaaa"
    here.mkdir(parents=True)
    (here / chain.RECORD).touch()
    links = [
        {
            "event": "begin",
            "link": f"{n}-0",
            "job": f"{n}",
            "host": "n",
            "time": 1000.0 * n,
            "progress": [0, 0],
        }
        for n in (1, 2, 3)
    ]
    (here / chain.LINKS).write_text("".join(f"{json.dumps(row)}\n" for row in links), encoding="utf-8")
    store = Store(tmp_path)
    assert submission.startup(store) == (submission.START_S, "as measured on one node")
    used = {"slots": 1, "cpus_per_slot": 1, "gpus_per_slot": 0}
    for first in (3025.0, None):
        store.append_ledger({"event": "end", "time": 3100.0, **used, "first_step": first})
    assert submission.startup(store)[0] == 25.0


def test_plan_tells_the_start_here(site: Path) -> None:
    args = (site.parent / "s.yaml", "training.max_epochs=1", "--out", site.parent / "sweep")
    said = " ".join(called(plan, *args).output.split())  # it is wrapped
    assert "are start-up (as measured on 2 cores)" in said
    store = Store(site.parent / "sweep")
    store.path.mkdir()
    used = {"slots": 1, "cpus_per_slot": 1, "gpus_per_slot": 0}
    store.append_ledger({"event": "end", "time": 1.0, **used, "first_step": 1.0, "startup_s": 12.5})
    told = json.loads(called(plan, *args, "--json").stdout)
    assert (told["startup_s"], told["startup_from"]) == (12.5, "as in 1 earlier runs")


@pytest.mark.parametrize(("memory_mb", "well"), [(2200, True), (2100, False), (0, True)])
def test_doctor_tells_where_the_site_s_own_default_is_too_little(
    site: Path, memory_mb: int, well: bool
) -> None:
    share = {"cpus": 4, "gpus": 0, "memory_mb": memory_mb}
    seen = {"host": "n", "scratch": {"path": "/tmp", "writable": True}, "share": share, "torch": []}
    profile = Site(cpus_per_node=4, memory="none")
    line = next(line for line in _seen(seen, profile, site.parent, True) if line.what == "allocation")
    assert line.ok == well
    assert ("4 slots need 2150 MB: set memory in the profile" in line.text) != well


@pytest.mark.parametrize("mode", ["gang", "elastic"])
def test_a_question_travels_in_the_command_of_every_link(site: Path, mode: str) -> None:
    site.write_text("cpus_per_node: 4\nmemory: 8G\n", encoding="utf-8")
    asked = ("--answer", "max-params=60000 max-macs=1e6", "--until-regret", "0.25", "--gpu-hours", "3")
    done = dry_run(site, f"--{mode}", *asked)
    assert done.exit_code == 0, done.output
    said = "'--answer=max-params=60000 max-macs=1e6' --until-regret=0.25 --gpu-hours=3.0"
    assert said in done.output
    assert "--answer" not in dry_run(site, f"--{mode}").output


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--until-regret", "0.1"), "need --answer"),
        (("--answer", "max-params"), "key=value"),
        (("--answer", "max-latency-ms=3"), "latency isn't known"),
        (("--answer", "max-params=5 precision=int8"), "leave it out"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(site: Path, more: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        dry_run(site, *more)
