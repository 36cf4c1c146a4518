"""On PYTHONPATH of the sweeps under test: a ResNet's epoch takes PACE_S longer, on any machine, at no CPU.

So a point lasts long enough to be interrupted where it should be, and what is trained stays the same. The
cluster's GPUs are pretended: what they are granted to trains on a CPU. No worker starts on the node that the
file BROKEN_NODE names, which is the first one where a worker tries to.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import sys
import time
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Pace(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Wraps `kd.training.train` when somebody imports it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Only kd.training.train is ours."""
        if name != "kd.training.train":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        self.real = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The ordinary one."""
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run it, then wrap the epoch."""
        if (path := os.environ.get("BROKEN_NODE")) and "worker" in sys.argv[0]:
            here = os.environ["SLURMD_NODENAME"]
            with open(f"{path}-{here}-{os.getpid()}", "w", encoding="utf-8") as file:
                file.write(here)
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
            with open(path, encoding="utf-8") as file:
                if file.read() == here:
                    raise RuntimeError("no torch")
        self.real.exec_module(module)
        step = module.Runs.step

        def paced(runs: Any) -> Any:
            slow = sum(point.spec.arch == "resnet1d" for point in runs.members)
            time.sleep(slow * float(os.environ.get("PACE_S", "0")))
            return step(runs)

        module.Runs.step = paced
        if worker := sys.modules.get("orchestrator.run.worker"):
            worker.device_of = lambda gpu: "cpu"


sys.meta_path.insert(0, Pace())
