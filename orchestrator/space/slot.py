"""What one running pack holds of a machine: CPUs, a share of a GPU, threads. Knows neither Ray nor Slurm."""

from dataclasses import dataclass

GPU_SHARE = 0.25  # of a GPU for one pack under gpus: auto; ours, for small students, not measured


@dataclass(frozen=True)
class Slot:
    """What one running pack holds. gpus may be a fraction; threads bounds torch and BLAS in the worker."""

    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1

    def fit_in(self, resources: dict[str, float]) -> int:
        """How many slots a node's resources hold."""
        fits = [resources.get("CPU", 0.0) / self.cpus] if self.cpus else []
        fits += [resources.get("GPU", 0.0) / self.gpus] if self.gpus else []
        return int(min(fits, default=0.0) + 1e-9)
