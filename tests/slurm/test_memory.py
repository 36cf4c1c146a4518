"""The least memory of a job's nodes, and profiles that ask for less."""

from typing import Any

import pytest

from slurm.memory import DASHBOARD_MB, SLOT_MB, floor_mb, too_little
from slurm.site import Site

GANG, HEAD = floor_mb(2, head=True, dashboard=True), floor_mb(0, head=True, dashboard=True)
WORKER = floor_mb(2, head=False, dashboard=False)


def site(**content: Any) -> Site:
    return Site(**{"cpus_per_node": 2} | content)


def elastic(**content: Any) -> Site:
    return site(mode="elastic", **content)


@pytest.mark.parametrize(
    "enough",
    [
        site(memory=f"{GANG}M"),
        site(memory=f"{GANG - DASHBOARD_MB}M", dashboard=False),
        site(memory_per_cpu=f"{-(-GANG // 2)}M"),
        site(memory="none"),
        elastic(memory=f"{WORKER}M"),
        elastic(memory="none"),
        elastic(memory="none", head={"memory": f"{HEAD}M"}),
        elastic(memory_per_cpu=f"{-(-WORKER // 2)}M", head={"cpus": 4}),
    ],
)
def test_enough_or_not_known(enough: Site) -> None:
    assert too_little(enough, 2) == []


@pytest.mark.parametrize(
    ("short", "says"),
    [
        (site(memory=f"{GANG - 1}M"), [f"memory: {GANG - 1}M is {GANG - 1} MB", f"ask for {GANG}M"]),
        (site(memory=f"{GANG - SLOT_MB}M"), ["or for 1 slots"]),
        (site(memory=f"{GANG - 1}M"), ["or set dashboard: false"]),
        (site(memory="1M", dashboard=False), [f"{SLOT_MB} MB for each of 2 slots: ask for"]),
        (site(memory_per_cpu="1M"), ["memory_per_cpu: 1M for 2 CPUs is 2 MB", f"ask for {-(-GANG // 2)}M"]),
        (elastic(memory=f"{WORKER - 1}M"), [f"a node needs {WORKER} MB"]),
        (elastic(memory="8G", head={"memory": f"{HEAD - 1}M"}), ["head.memory", f"needs {HEAD} MB"]),
        (
            elastic(memory_per_cpu=f"{HEAD - 1}M", head={"cpus": 1}),
            [f"memory_per_cpu: {HEAD - 1}M for 1 CPUs", "a node of the head"],
        ),
    ],
)
def test_too_little_is_said_with_key_numbers_and_remedy(short: Site, says: list[str]) -> None:
    (text,) = too_little(short, 2)
    for part in says:
        assert part in text
    assert text.startswith("the site profile: ")


def test_head_and_workers_are_told_apart() -> None:
    found = too_little(elastic(memory="100M", head={"memory": "100M"}), 2)
    assert [text.split(": ")[1] for text in found] == ["memory", "head.memory"]
    assert "dashboard" not in found[0], "a worker has none"


def test_the_dashboard_does_not_help_where_it_is_not_enough() -> None:
    assert "dashboard: false" not in too_little(site(memory="1M"), 2)[0]
    assert "or for" not in too_little(site(memory="1M"), 2)[0]
