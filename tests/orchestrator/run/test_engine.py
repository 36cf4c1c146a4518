"""What trains a sweep on CPUs is chosen once, and said where it is not the compiled engine."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kd.training import compiled
from kd.training.compiled import Unavailable
from orchestrator.run import driver
from orchestrator.run.worker import compiled_engine
from orchestrator.store.mixed import mixed
from orchestrator.store.store import Store


def absent() -> Any:
    raise Unavailable("no C++ compiler (g++ or clang++) was found")


def chosen(store: Store, gpus: float = 0.0) -> tuple[str, list[str]]:
    """What the driver of this sweep chooses, and what it says."""
    said: list[str] = []
    training: Any = SimpleNamespace(
        slot=SimpleNamespace(gpus=gpus), store=store, engine="torch", display=SimpleNamespace(say=said.append)
    )
    driver.Training._choose_engine(training)
    return training.engine, said


def test_the_engine_is_chosen_once_for_a_sweep(tmp_path: Path, whole_result, monkeypatch) -> None:
    store = Store(tmp_path)
    assert chosen(store) == ("fused", [])
    assert chosen(store, gpus=0.25) == ("torch", [])
    monkeypatch.setattr(driver, "library", absent)
    engine, (said,) = chosen(store)
    assert engine == "torch"
    assert said.startswith("no C++ compiler (g++ or clang++) was found: torch trains")
    monkeypatch.undo()
    store.write_result("a", whole_result("a"))  # of a version without the compiled engine
    assert chosen(store) == ("torch", [])
    store.write_result("a", whole_result("a", engine="fused"))
    assert chosen(store) == ("fused", [])


def test_a_node_without_a_compiler_trains_by_torch_and_the_mixture_is_told(
    whole_result, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "library", absent)
    assert compiled_engine() is None
    assert "install g++ on the nodes" in "".join(capsys.readouterr())
    (line,) = mixed([whole_result("a", engine="fused"), whole_result("b")])
    assert "by the engines fused (1 students), torch (1)" in line
