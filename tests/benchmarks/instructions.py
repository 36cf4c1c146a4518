"""How far the law of instructions is off on shapes it was not calibrated on: random ones, counted in QEMU.

    python tests/benchmarks/instructions.py --target m4 --shapes 200

Needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. Prints the error of a window's
instructions, all of it and the network's layers, as a share of what was counted.
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from kd.edge import calibrate, emulate
from kd.edge.c import instructions as law
from kd.models.sizes import size
from kd.signals.preprocess import Preprocess

MOST_MACS = 200_000  # so that 200 take minutes on an idle core
PREPROCESSES = (
    Preprocess(),
    Preprocess(fs=32.0, window_s=8.0),
    Preprocess(window_s=6.0, order=3),
    Preprocess(window_s=10.0, normalise="none"),
    Preprocess(fs=20.0, stride_s=1.0, channels="all"),
)


USUAL = ("resnet1d", "mlp", "resnet1d-post")


def shapes(n: int, seed: int = 0, archs: Sequence[str] = ()) -> Iterator[calibrate.Student]:
    """n students of ResNets and MLPs, or of `archs`, none of which was calibrated on."""
    rng = np.random.default_rng(seed)
    known = {student[:4] for student in calibrate.STUDENTS}
    found = 0
    while found < n:
        arch = str(rng.choice(archs)) if archs else USUAL[rng.choice(3, p=(0.5, 0.35, 0.15))]
        depth, most = (int(rng.integers(1, 5)), 128) if arch == "mlp" else (int(rng.integers(1, 11)), 24)
        width = int(np.exp(rng.uniform(0, np.log(most + 1))))
        preprocess = PREPROCESSES[rng.integers(len(PREPROCESSES))]
        inputs = int(rng.integers(1, 4))
        channels = inputs if preprocess.channels == "all" else 1
        macs = size(arch, depth, width, channels=channels, samples=preprocess.samples).macs
        if macs <= MOST_MACS and (arch, depth, width, preprocess) not in known:
            found += 1
            yield arch, depth, width, preprocess, inputs


def error(student: calibrate.Student, target: str) -> tuple[float, int]:
    """Law over count - 1 of a window's instructions, and the count."""
    model, config, inputs = calibrate.student(student)
    counted = emulate.measure(model, student[0], config, inputs, target)["instructions"]
    said = law.per_window(*student[:3], law.Pipeline.of(config, inputs), target)
    return float(said) / counted - 1, counted


def main() -> None:
    """The table of errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=list(emulate.TARGETS), default="m4")
    parser.add_argument("--shapes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--archs", nargs="+", default=[])
    given = parser.parse_args()
    emulate.TOLERANCE = 1e-4  # random weights in deep models round further than trained ones
    errors = []
    for student in shapes(given.shapes, given.seed, given.archs):
        off, counted = error(student, given.target)
        errors.append(abs(off))
        arch, depth, width, preprocess, inputs = student
        print(
            f"{arch} {depth}x{width}, {preprocess.samples} samples, {inputs} channels: {counted:,} counted, "
            f"law {off:+.2%}",
            flush=True,
        )
    found = np.array(errors)
    print(
        f"{given.target}, {len(found)} shapes: mean {found.mean():.2%}, median {np.median(found):.2%}, "
        f"95 % within {np.quantile(found, 0.95):.2%}, most {found.max():.2%}"
    )


if __name__ == "__main__":
    main()
