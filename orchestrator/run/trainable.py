"""Ray Tune's view of a worker: the shell round `PackTrainer`. Knows Tune and nothing of training."""

import os
import socket
from pathlib import Path
from typing import Any

import ray
from ray import tune

from orchestrator.run.out_of_memory import read_memory
from orchestrator.run.worker import Broken, PackTrainer, Setup


class Leaving(RuntimeError):
    """This node's time is over: its points are checkpointed and go on elsewhere."""

    leaving = True  # how the driver tells it from a failure, through Ray's wrapping


class Trainable(tune.Trainable):
    """Tune's view of a worker: one step is one slice of time, one trial is one pack.

    config: {"pack": ...}; `setup` comes by tune.with_parameters. Results name the node.
    """

    def setup(self, config: dict[str, Any], setup: Setup) -> None:  # type: ignore[override]  # with_parameters
        """Load torch and data, once for the life of this process."""
        self.node: str = ray.get_runtime_context().get_node_id()
        node = os.environ.get("KDSWEEP_NODE_DIR")  # of this node, not of the sweep: see slurm/node.py
        memory = read_memory()
        self.oom_kills = memory.kills if memory else None  # before this worker
        self.trainer = PackTrainer(setup, Path(node) if node else None)
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack, warm."""
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self.trainer.take(config["pack"])
        self.config = {}  # Tune sends it back with every result

    def step(self) -> dict[str, Any]:
        """Train for a slice of time. Raises Leaving, once all is reported, when this node must go."""
        if self.trainer.must_leave:
            self.trainer.pause()
            raise Leaving(f"{socket.gethostname()}: this node's time is over")
        try:
            slice_ = self.trainer.advance(self.trainer.pace.slice_s)
        except Broken as broken:
            broken.event["node"] = self.node
            raise
        return {**slice_, "node": self.node, "oom_kills": self.oom_kills, "done": slice_["left"] == 0}

    def cleanup(self) -> None:
        """Checkpoint before the process goes."""
        self.trainer.pause()
