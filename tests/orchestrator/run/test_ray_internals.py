"""Parts of Ray that aren't public: they are there in the Ray that is installed, and nothing needs them."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from orchestrator.run import ray_internals
from orchestrator.run.progress import Display
from orchestrator.run.ray_dashboard import Dashboard

FIGURES: dict[str, Any] = dict.fromkeys(("done", "failed", "blocked", "total", "slots"), 0) | {
    "running": [],
    "eta_s": None,
}


@pytest.mark.parametrize("name", ray_internals.NAMES)
def test_the_installed_ray_has_it(name: str) -> None:
    module, _, path = name.partition(":")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)


def test_no_other_module_uses_private_parts_of_ray() -> None:
    here = Path(ray_internals.__file__).parents[1]
    private = ("ray._", "internal_kv", "ray.dashboard.", "from ray import _")
    users = {p.name for p in here.rglob("*.py") if any(word in p.read_text("utf-8") for word in private)}
    assert users == {"ray_internals.py"}


def test_a_dashboard_that_fails_is_told_once_and_ends_nothing() -> None:
    said: list[str] = []
    dashboard = Dashboard("x", "kdsweep run", said.append)  # there is no Ray: every part of it fails
    for _ in range(3):
        dashboard.publish("1/2 done", FIGURES)
        dashboard.write("a line")
    (only,) = said
    assert "training goes on" in only
    assert dashboard.logs is None


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    class Gone:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

    display = Display(Gone())  # type: ignore[arg-type]
    display.say("a line")
    display.say("another")
    display.close()
