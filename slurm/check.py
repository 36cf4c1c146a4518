"""What Slurm says of a site profile before anything is submitted: used by `submit` and `doctor`."""

import re
import sys
import tempfile
from pathlib import Path

from slurm.command import Slurm, on_cluster
from slurm.errors import Refused
from slurm.job import Job, scripts
from slurm.site import Site, seconds


def partitions(slurm: Slurm, site: Site) -> dict[str, str]:
    """Each partition that the profile names (or the default one): empty, or what is wrong. Raises Away."""
    wanted: dict[str, str] = {}
    sinfo = " ".join(on_cluster(["sinfo", "-s"], site.clusters))
    times = [(site.partition, site.time)]
    if site.mode == "elastic":
        times.append((site.head.partition or site.partition, site.head.time or site.time))
    for names, time in times:
        for name in (names or "").split(","):
            try:
                found = _shown(slurm, name)
            except Refused as error:
                wanted[name or "(default)"] = f"{error}; `{sinfo}` lists the partitions"
                continue
            if found is None:
                continue
            trouble = "" if found["State"] == "UP" else "not up: ask your site, or choose another partition"
            most = found["MaxTime"]
            if not trouble and most[0].isdigit() and seconds(time) > seconds(most):
                trouble = f"time {time} is above its MaxTime {most}: such a job waits for ever; ask for less"
            wanted[found["PartitionName"]] = wanted.get(found["PartitionName"]) or trouble
    return wanted


def _shown(slurm: Slurm, name: str) -> dict[str, str] | None:
    """One partition; "" is the default one, None if the cluster has none."""
    text = slurm.run("scontrol", "--oneliner", "show", "partition", *([name] if name else []))
    lines = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line.strip()]
    return next((line for line in lines if name or line.get("Default") == "YES"), None)


def refusals(slurm: Slurm, site: Site) -> dict[str, str]:
    """Each script that a sweep would submit: empty, or why `sbatch --test-only` refuses it. Raises Away."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        driver = (site.python or sys.executable, "-c", "pass")
        job = Job(id="check", sweep="check", here=Path(folder), site=site, driver=driver)
        for name, text in scripts(job).items():
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            try:
                slurm.run("sbatch", "--test-only", str(path), cwd=Path(folder))
                found[name] = ""
            except Refused as error:
                found[name] = str(error)
    return found
