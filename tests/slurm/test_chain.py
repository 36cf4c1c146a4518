"""When a chain goes on and when it stops, from what its links recorded."""

import json
import os
import time
from pathlib import Path

import pytest

from slurm import chain
from slurm.head import read_head, write_head


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "slurm" / "1"
    folder.mkdir(parents=True)
    (folder / chain.RECORD).write_text(json.dumps({"max_links": 4}))
    return folder


def train(here: Path, point: str, epochs: int, done: bool = False, checkpoint: bool = True) -> None:
    folder = here.parent.parent / "points" / point
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.jsonl").write_text("{}\n" * epochs)
    if checkpoint:
        (folder / "checkpoint.pt").touch()
        os.utime(folder / "checkpoint.pt", (epochs, epochs))  # a later epoch, a later time
    if done:
        (folder / "result.json").write_text("{}")


def link(here: Path, name: str, code: int, signal: str = "") -> str:
    assert chain.begin(here, name) == chain.GO
    return chain.end(here, name, code, signal)


def test_progress_counts_points_before_checkpoints(here: Path) -> None:
    sweep = here.parent.parent
    assert chain.progress(sweep) == [0, 0]
    train(here, "a", 30)
    before = chain.progress(sweep)
    train(here, "a", 40, done=True)
    train(here, "b", 1)
    assert before == [0, 30] < chain.progress(sweep) == [1, 1]


def test_counting_looks_once_at_a_trained_point(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(20):
        train(here, f"done{n}", 1, done=True)
    train(here, "open", 7)
    looks: list[str] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: looks.append(str(path)) or stat(path, **more))
    assert chain.progress(here.parent.parent) == [20, 7]
    assert len([path for path in looks if "/points/" in path]) == 20 + 2


def beat(here: Path, done: int, checkpointed: float | None, at: float | None = None) -> None:
    """The driver's heartbeat."""
    told = {"done": done, "checkpointed": checkpointed, "time": time.time() + 1 if at is None else at}
    (here.parent.parent / "progress.json").write_text(json.dumps(told))


def test_a_gain_that_the_driver_tells_of_is_not_counted_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(here, "a", 5)
    assert chain.begin(here, "1-0") == chain.GO
    counted: list[Path] = []
    monkeypatch.setattr(chain, "_counted", lambda sweep: counted.append(sweep) or [0, 5])
    beat(here, 3, None)
    assert chain.end(here, "1-0", 75, "USR1") == "again"
    assert chain.read_links(here)[-1]["progress_after"] == [3, 5]
    assert not counted
    assert chain.begin(here, "1-1") == chain.GO
    assert counted, "nothing new was told"


def test_what_a_killed_driver_could_not_tell_is_counted(here: Path) -> None:
    """Its heartbeat is older than what its workers finished, or than the link."""
    train(here, "a", 5, done=True)
    assert chain.begin(here, "1-0") == chain.GO
    beat(here, 1, None)
    train(here, "b", 5, done=True)
    assert chain.end(here, "1-0", 137) == "again"
    assert chain.begin(here, "1-1") == chain.GO
    train(here, "c", 5, done=True)
    assert chain.end(here, "1-1", 137) == "again"
    assert chain.read_links(here)[-1]["progress_after"] == [3, 0]


def test_a_heartbeat_of_before_a_retry_is_no_gain(here: Path) -> None:
    beat(here, 9, 1e9, at=1.0)
    train(here, "a", 5, done=True)
    assert link(here, "1-0", 75) == "again"
    assert link(here, "1-1", 75) == "stop"
    assert chain.read_links(here)[-1]["progress_after"] == [1, 0]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"done": 9}', '{"done": null, "checkpointed": 1, "time": 1e99}', "x"]
)
def test_a_heartbeat_that_does_not_tell_is_left_out(here: Path, text: str) -> None:
    train(here, "a", 5, done=True)
    assert chain.begin(here, "1-0") == chain.GO
    (here.parent.parent / "progress.json").write_text(text)
    assert chain.end(here, "1-0", 75) == "again"
    assert chain.read_links(here)[-1]["progress_after"] == [1, 0]


@pytest.mark.parametrize(
    ("code", "expected"), [(0, "done"), (3, "done"), (1, "stop"), (2, "stop"), (75, "again")]
)
@pytest.mark.parametrize("epochs", [5])
def test_verdicts(here: Path, code: int, expected: str, epochs: int) -> None:
    assert chain.begin(here, "1-0") == chain.GO
    train(here, "a", epochs)
    assert chain.end(here, "1-0", code) == expected


@pytest.mark.parametrize("code", [137, 138, 143, 130])
def test_a_killed_driver_is_followed(here: Path, code: int) -> None:
    assert link(here, "1-0", code) == "again"


def test_a_driver_that_is_killed_again_and_again_may_have_too_little_memory(here: Path) -> None:
    link(here, "1-0", 137)
    assert link(here, "1-1", 137) == "stop"
    assert "killed (signal 9), perhaps out of memory: ask for more" in chain.read_links(here)[-1]["why"]


def test_nothing_follows_what_is_done(here: Path) -> None:
    train(here, "a", 5, done=True)
    assert link(here, "1-0", 0) == "done"
    assert chain.begin(here, "2-0") == chain.OVER


def test_two_links_without_progress_end_the_chain(here: Path) -> None:
    assert link(here, "1-0", 75) == "again"
    assert link(here, "1-1", 75) == "stop"


def test_training_that_is_always_lost_is_no_progress(here: Path) -> None:
    """Points trained, never far enough for a checkpoint, start anew each time."""
    for epochs, name, expected in ((7, "1-0", "again"), (9, "1-1", "stop")):
        assert chain.begin(here, name) == chain.GO
        train(here, "a", epochs, checkpoint=False)
        assert chain.end(here, name, 75, "USR1") == expected


def test_a_history_that_a_resume_cut_back_is_no_lack_of_progress(here: Path) -> None:
    train(here, "a", 56)
    for checkpointed in (57, 58, 59):
        assert chain.begin(here, f"1-{checkpointed}") == chain.GO
        train(here, "a", 44)
        path = here.parent.parent / "points" / "a" / "checkpoint.pt"
        os.utime(path, (checkpointed, checkpointed))
        assert chain.end(here, f"1-{checkpointed}", 75, "USR1") == "again"


def test_links_without_time_to_work_do_not_count(here: Path) -> None:
    """Node failures end a link without a word, preemption with TERM; only max_links bounds them."""
    assert chain.begin(here, "1-0") == chain.GO
    assert chain.begin(here, "1-1") == chain.GO
    assert chain.begin(here, "1-2") == chain.GO
    assert chain.end(here, "1-2", 75, "TERM") == "again"
    assert chain.begin(here, "1-3") == chain.GO
    assert chain.end(here, "1-3", 75, "USR1") == "stop", "as many as max_links"


def test_an_idle_link_and_a_node_failure_do_not_end_a_chain(here: Path) -> None:
    assert link(here, "1-0", 75) == "again"
    assert chain.begin(here, "1-1") == chain.GO  # and its node fails
    assert chain.begin(here, "1-2") == chain.GO
    assert chain.end(here, "1-2", 75, "USR1") == "stop", "two that had time"


def test_kills_of_ray_end_a_chain_later_than_links_that_had_time(here: Path) -> None:
    """Two in a row are bad luck; where every one of them is killed, Ray can't live."""
    (here / chain.RECORD).write_text(json.dumps({"max_links": 20}))
    for n in range(chain.LOST_LINKS - 1):
        assert link(here, f"1-{n}", 75, "LOST") == "again"
    assert link(here, "1-9", 75, "LOST") == "stop"


def test_kills_of_ray_do_not_excuse_links_that_had_time(here: Path) -> None:
    assert link(here, "1-0", 75) == "again"
    assert link(here, "1-1", 75, "LOST") == "again"
    assert link(here, "1-2", 75) == "stop"


def test_max_links(here: Path) -> None:
    for n in range(3):
        train(here, "a", n + 1)
        assert chain.begin(here, f"1-{n}") == chain.GO
        train(here, "a", n + 2)
        assert chain.end(here, f"1-{n}", 75) == "again"
    assert chain.begin(here, "1-3") == chain.GO
    train(here, "a", 9)
    assert chain.end(here, "1-3", 75) == "stop"


def test_cancelled(here: Path) -> None:
    assert chain.begin(here, "1-0") == chain.GO
    train(here, "a", 3)
    (here / chain.CANCELLED).touch()
    assert chain.end(here, "1-0", 75) == "stop"
    assert chain.begin(here, "1-1") == chain.OVER
    assert not chain.worker_goes_on(here, 0)


def test_workers_are_told(here: Path) -> None:
    assert chain.begin(here, "1-0") == chain.GO
    train(here, "a", 3)
    write_head(here, {"link": "1-0", "state": "up", "address": "10.0.0.1:1", "token": "t"})
    assert chain.worker_goes_on(here, 0)
    assert not chain.worker_goes_on(here, 3), "as often as max_links"
    assert chain.end(here, "1-0", 75) == "again"
    assert (read_head(here) or {})["state"] == "gone"
    assert chain.begin(here, "1-1") == chain.GO
    write_head(here, {"link": "1-1", "state": "up", "address": "10.0.0.1:1", "token": "t"})
    train(here, "a", 4, done=True)
    assert chain.end(here, "1-1", 0) == "done"
    assert (read_head(here) or {})["state"] == "over"
    assert not chain.worker_goes_on(here, 0)


def test_half_a_line_is_left_out(here: Path) -> None:
    assert chain.begin(here, "1-0") == chain.GO
    with (here / chain.LINKS).open("a") as file:
        file.write('{"event": "end", "li')
    assert [entry["link"] for entry in chain.read_links(here)] == ["1-0"]
    assert chain.begin(here, "1-1") == chain.GO
    assert [entry["link"] for entry in chain.read_links(here)] == ["1-0", "1-1"]


def test_a_successor_is_remembered(here: Path) -> None:
    assert chain.main(["successor", str(here), "17"]) == 0
    assert chain.successors(here) == ["17"]
