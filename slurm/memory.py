"""The least memory that a job's nodes need, and whether a site profile asks for it.

In MiB, as Slurm counts: the sum of PSS over a node's processes (/proc/*/smaps_rollup), at its peak. Measured
in November 2026 with Ray 2.60, torch 2.13 for CPUs and Python 3.11, in jobs of a local Slurm and with
`kdsweep run` of the quickstart (1, 2 and 4 slots, with and without dashboard). A floor: what small students
take, their data being mapped. Larger models and batches take more; GPU workers, which were not measured, too.
"""

from slurm.site import Site

NODE_MB = 300  # `ray start` 117, agents 74 + 47, log monitor 45, raylet 18, slurm.node 9
HEAD_MB = 150  # Ray's API server 73, autoscaler's monitor 49, GCS 36
DRIVER_MB = 250  # `kdsweep run`: 229 to 302
DASHBOARD_MB = 250  # its ten modules, a process each
SLOT_MB = 300  # a worker: 292 with its data, 311 to 370 in students, 540 in the quickstart's teacher
_UNIT_MB = {"M": 1, "G": 1024, "T": 1024 * 1024}


def mb(text: str) -> int:
    """What is asked for, in MiB.

    >>> mb("500M"), mb("4G")
    (500, 4096)
    """
    return int(text[:-1]) * _UNIT_MB[text[-1]]


def floor_mb(slots: int, *, head: bool, dashboard: bool) -> int:
    """The least memory of a node that runs so many packs at once; head: with Ray's head and the driver."""
    of_head = HEAD_MB + DRIVER_MB + (DASHBOARD_MB if dashboard else 0)
    return NODE_MB + slots * SLOT_MB + (of_head if head else 0)


def too_little(site: Site, slots: int) -> list[str]:
    """What of the profile's memory is below the floor, with the remedy. slots: packs of a node at once.

    Where the site wants no request nothing is known, and nothing is said.
    """
    elastic = site.mode == "elastic"
    found = [_said(site, "", site.memory, site.cpus, slots, head=not elastic)]
    if elastic:
        found.append(_said(site, "head.", site.head_memory, site.head.cpus, 0, head=True))
    return [text for text in found if text]


def _said(site: Site, of: str, of_node: str | None, cpus: int, slots: int, *, head: bool) -> str:
    """One job's nodes. of: "head." for keys of the head; of_node: `--mem`, else memory_per_cpu is."""
    if of_node == "none" or (of_node is None and site.memory_per_cpu is None):
        return ""
    if of_node:
        key, text, asked = f"{of}memory", of_node, mb(of_node)
    else:
        assert site.memory_per_cpu is not None
        key, asked = "memory_per_cpu", mb(site.memory_per_cpu) * cpus
        text = f"{site.memory_per_cpu} for {cpus} CPUs"
    dashboard = site.dashboard and head
    floor = floor_mb(slots, head=head, dashboard=dashboard)
    if asked >= floor:
        return ""
    parts = [f"{NODE_MB} MB for Ray"]
    parts += [f"{HEAD_MB + DRIVER_MB} MB for its head and the driver"] if head else []
    parts += [f"{DASHBOARD_MB} MB for the dashboard"] if dashboard else []
    parts += [f"{SLOT_MB} MB for each of {slots} slots"] if slots else []
    ways = [f"ask for {floor}M" if of_node else f"ask for {-(-floor // cpus)}M"]
    fit = slots + (asked - floor) // SLOT_MB
    if of_node and 0 < fit < slots:
        ways.append(f"or for {fit} slots (fewer CPUs, or a larger resources.cpus in the search space)")
    if dashboard and asked >= floor - DASHBOARD_MB:
        ways.append("or set dashboard: false")
    return (
        f"{site.file}: {key}: {text} is {asked} MB, and a node{' of the head' if of else ''} needs {floor} MB"
        f": {', '.join(parts)}: {', '.join(ways)}"
    )
