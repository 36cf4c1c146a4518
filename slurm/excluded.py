"""Nodes that the next jobs of a submission shall not start on: `python -P -m slurm.excluded HERE`.

Two write them down: the driver, as `shut_out` in the sweep's ledger, and the script of a job on a node that
can't run it, in HERE/unfit. A new submission knows none of them. Standard library only.
"""

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.errors import Away, Refused

if TYPE_CHECKING:
    from slurm.command import Slurm

UNFIT, LEDGER, RECORD = "unfit", "ledger.jsonl", "submission.json"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def excluded(here: Path) -> dict[str, str]:
    """Slurm's names of the nodes, each with the reason; what was found first comes first."""
    nodes: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in (here / UNFIT).read_text(encoding="utf-8", errors="replace").split():
            nodes.setdefault(name, "no Python, or no Ray, could be started there")
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        since = float(json.loads((here / RECORD).read_text(encoding="utf-8"))["created"])
        with (here.parent.parent / LEDGER).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if '"shut_out"' in line:  # few are; the others are not parsed
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        entry = json.loads(line)
                        if entry["event"] == "shut_out" and entry["time"] >= since:
                            nodes.setdefault(str(entry["node"]), str(entry["why"]))
    return {name: why for name, why in nodes.items() if NAME.fullmatch(name)}


def exclude_option(slurm: "Slurm", here: Path, script: str, own: str | None) -> list[str]:
    """The sbatch option that keeps a script off those nodes; own: what the profile excludes anyway.

    Fewer nodes, the last found, where Slurm says that without all of them the job could never start.
    The job scripts do the same: a container with Python in it has no sbatch.
    """
    nodes = list(excluded(here))
    while nodes:
        option = f"--exclude={','.join([*nodes, *([own] if own else [])])}"
        try:
            slurm.run("sbatch", "--test-only", option, script, cwd=here, retry=False)
        except Away:
            return [option]
        except Refused as error:
            if "node" in str(error).lower():
                nodes.pop(0)
                continue
        return [option]
    return []


if __name__ == "__main__":
    print(",".join(excluded(Path(sys.argv[1]))))
