"""What `submit` and `doctor` refuse before Slurm is asked, and how long a sweep is said to take."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from kd.errors import InputError
from orchestrator.commands.doctor import doctor
from orchestrator.commands.submit import submit

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
