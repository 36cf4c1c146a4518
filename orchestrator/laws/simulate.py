"""Simulated sweeps with a known truth, for tests and benchmarks: results as a store gives them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kd.models.sizes import size
from orchestrator.laws.forms import Array

Truth = Callable[[Array], Array]  # params (n,) -> mean MAE (n,), BPM


def power(floor: float = 4.0, amplitude: float = 60.0, exponent: float = 0.4) -> Truth:
    """A saturating power law, which is in the fitted family."""
    return lambda n: floor + amplitude * np.asarray(n, float) ** -exponent


def broken(floor: float = 3.0, scale: float = 2e4, first: float = 0.15, second: float = 0.6) -> Truth:
    """A law with one smooth break at `scale` parameters, which is not."""
    return lambda n: (
        floor
        + 12
        * (np.asarray(n, float) / 1e3) ** -first
        * (1 + (np.asarray(n, float) / scale) ** 2) ** ((first - second) / 2)
    )


@dataclass(frozen=True)
class FakeSweep:
    """A grid of students with a truth for every arm. gains: strategy -> factor on the error of scratch."""

    archs: Sequence[str] = ("resnet1d", "mlp")
    depths: dict[str, Sequence[int]] = field(default_factory=lambda: {"resnet1d": (4,), "mlp": (2,)})
    widths: Sequence[int] = (4, 6, 8, 12, 16, 24, 32, 48)
    strategies: Sequence[str] = ("scratch", "hard", "soft", "dkd", "feature")
    teachers: Sequence[str] = ("T1",)
    seeds: int = 3
    noise: float = 0.02
    truth: Truth = field(default_factory=power)
    gains: dict[str, float] = field(
        default_factory=lambda: {"hard": 0.99, "soft": 0.95, "dkd": 0.92, "feature": 0.97}
    )

    tilts: dict[str, float] = field(
        default_factory=dict
    )  # strategy -> exponent that turns its gain with size
    # architecture -> factor on the error, at the same size
    archs_differ: dict[str, float] = field(default_factory=lambda: {"mlp": 1.2})

    def mean(self, arch: str, strategy: str, teacher: str | None, params: Array) -> Array:
        """The true mean MAE of an arm at these sizes, (n,)."""
        gain = self.gains.get(strategy, 1.0) * (params / 2e4) ** self.tilts.get(strategy, 0.0)
        return np.asarray(self.truth(params) * gain * self.archs_differ.get(arch, 1.0))

    def results(self, rng: int = 0) -> list[dict[str, Any]]:
        """result.json dicts of all teachers and students; half of the noise is the configuration's."""
        generator = np.random.default_rng(rng)
        out = [self._teacher(name) for name in self.teachers]
        for arch in self.archs:
            for depth in self.depths[arch]:
                for width in self.widths:
                    shared = generator.standard_normal(self.seeds)
                    for strategy in self.strategies:
                        for teacher in [None] if strategy == "scratch" else self.teachers:
                            own = generator.standard_normal(self.seeds)
                            noise = self.noise * (shared + own) / np.sqrt(2)
                            out += [
                                self.student(arch, depth, width, strategy, teacher, seed, float(noise[seed]))
                                for seed in range(self.seeds)
                            ]
        return out

    def student(
        self, arch: str, depth: int, width: int, strategy: str, teacher: str | None, seed: int, noise: float
    ) -> dict[str, Any]:
        """One result whose ln error is off by `noise`."""
        params = size(arch, depth, width).params
        mae = float(self.mean(arch, strategy, teacher, np.array([float(params)]))[0]) * np.exp(noise)
        return student_result(arch, depth, width, mae, strategy=strategy, teacher=teacher, seed=seed)

    def _teacher(self, name: str) -> dict[str, Any]:
        return {
            **student_result("resnet1d", 8, 32, 4.0, role="teacher", strategy="scratch", seed=0),
            "id": name,
        }


def student_result(arch: str, depth: int, width: int, mae: float, **more: Any) -> dict[str, Any]:
    """One result.json of a student, or of what `more` says; the id follows from what it is."""
    more = {"role": "student"} | more
    s = size(arch, depth, width)
    identity = f"{arch} {depth} {width} {sorted((k, str(v)) for k, v in more.items())}"
    return {
        "id": hashlib.blake2b(identity.encode(), digest_size=6).hexdigest(),
        "arch": arch,
        "depth": depth,
        "width": width,
        "init": "random",
        "strategy_args": {},
        "teacher": None,
        "params": s.params,
        "macs": s.macs,
        "weight_bytes": s.weight_bytes,
        "activation_bytes": s.activation_bytes,
        "mae_bpm": float(mae),
        "train_seconds": 1.0 + s.macs / 1e6,
        "data_fingerprint": "simulated",
        "recipe_version": 1,
        **more,
    }
