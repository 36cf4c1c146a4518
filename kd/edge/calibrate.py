"""What a turn of each loop of the generated C costs, counted in QEMU on a few students: instructions.json.

    python -m kd.edge.calibrate [--int8] [TARGET ...]

Some minutes. Needed after a change of student.c.j2 (--int8: network_int8.c.j2, gather_int8.c.j2; into
instructions8.json), and for another compiler. Needs Debian's packages, as `kdsweep profile --target` does.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from kd.edge import emulate
from kd.edge.c import instructions as law
from kd.edge.c import instructions8 as law8
from kd.edge.c.network import network
from kd.edge.export import preprocess_json
from kd.edge.int8.quantise import quantise
from kd.files import write_text
from kd.models.architectures import build
from kd.signals.prepare import DataConfig
from kd.signals.preprocess import Preprocess

# architecture, depth, width, preprocessing, channels of the sensor
STUDENTS: tuple[tuple[str, int, int, Preprocess, int], ...] = (
    ("resnet1d", 1, 1, Preprocess(), 1),
    ("resnet1d", 5, 2, Preprocess(), 1),
    ("resnet1d", 3, 3, Preprocess(window_s=5.08), 1),
    ("resnet1d", 9, 1, Preprocess(), 1),
    ("resnet1d", 2, 4, Preprocess(fs=31.25, window_s=3.2, stride_s=0.7, channels="all"), 3),
    ("resnet1d", 3, 5, Preprocess(window_s=2.0), 1),
    ("resnet1d", 6, 6, Preprocess(window_s=4.0), 1),
    ("resnet1d", 4, 9, Preprocess(window_s=4.0), 1),
    ("resnet1d-post", 6, 3, Preprocess(window_s=4.0), 1),
    ("resnet1d-post", 3, 6, Preprocess(window_s=4.0), 1),
    ("tcn", 3, 1, Preprocess(), 1),
    ("tcn", 5, 2, Preprocess(window_s=4.0), 1),
    ("tcn", 4, 5, Preprocess(window_s=4.0, channels="all"), 2),
    ("tcn", 2, 7, Preprocess(window_s=5.08), 1),
    ("tcn", 1, 12, Preprocess(window_s=3.0), 1),
    ("tcn", 2, 13, Preprocess(window_s=2.0), 1),
    ("dscnn", 3, 1, Preprocess(), 1),
    ("dscnn", 5, 3, Preprocess(window_s=4.0, channels="all"), 2),
    ("dscnn", 2, 9, Preprocess(window_s=5.08), 1),
    ("dscnn", 4, 4, Preprocess(window_s=1.2, order=2), 1),
    ("dscnn", 6, 2, Preprocess(window_s=0.8, order=2), 1),
    ("mlp", 1, 1, Preprocess(), 1),
    ("mlp", 2, 2, Preprocess(normalise="none"), 1),
    ("mlp", 1, 3, Preprocess(order=2), 3),
    ("mlp", 2, 5, Preprocess(fs=31.25, window_s=3.2, stride_s=0.7, channels="all"), 2),
    ("mlp", 1, 8, Preprocess(window_s=4.12), 1),
    ("mlp", 3, 7, Preprocess(window_s=4.04, order=6), 2),
    ("mlp", 1, 26, Preprocess(window_s=6.0, normalise="none", channels="first"), 2),
    ("mlp", 2, 31, Preprocess(window_s=7.0), 1),
)
# As many of each kind of blocks, whose loops are two in 8 bits, and some as wide as those take at a time; and
# of each way to gather a window, which are six.
STUDENTS8 = (
    *(student for student in STUDENTS if student[0] in law8.KNOWN),
    ("resnet1d", 2, 8, Preprocess(window_s=4.0), 1),
    ("resnet1d", 5, 12, Preprocess(window_s=2.0), 1),
    ("resnet1d-post", 1, 1, Preprocess(), 1),
    ("resnet1d-post", 9, 1, Preprocess(), 1),
    ("resnet1d-post", 3, 3, Preprocess(window_s=5.08), 1),
    ("resnet1d-post", 2, 4, Preprocess(fs=31.25, window_s=3.2, stride_s=0.7, channels="all"), 3),
    ("resnet1d-post", 4, 9, Preprocess(window_s=4.0), 1),
    ("resnet1d-post", 5, 12, Preprocess(window_s=2.0), 1),
    ("mlp", 1, 2, Preprocess(), 2),
    ("mlp", 1, 2, Preprocess(window_s=3.0), 3),
    ("mlp", 1, 2, Preprocess(window_s=6.0, normalise="none"), 2),
    ("mlp", 1, 2, Preprocess(window_s=4.0, normalise="none"), 3),
    ("mlp", 1, 2, Preprocess(channels="all"), 2),
    ("mlp", 1, 2, Preprocess(window_s=4.0, channels="first"), 2),
    ("mlp", 1, 2, Preprocess(window_s=3.0, normalise="none", channels="all"), 3),
    ("resnet1d", 1, 19, Preprocess(window_s=2.0), 1),
    ("resnet1d-post", 1, 34, Preprocess(window_s=1.2, order=2), 1),
)
CLASSES = (180, 60)  # of students in turn
Student = tuple[str, int, int, Preprocess, int]


def student(of: Student, classes: int = law.CLASSES) -> tuple[torch.nn.Module, dict[str, Any], int]:
    """A model with random weights and norms, its preprocess.json, and the sensor's channels."""
    arch, depth, width, preprocess, inputs = of
    channels = inputs if preprocess.channels == "all" else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(arch, depth, width, channels=channels, samples=preprocess.samples, classes=classes)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.3)
    config = preprocess_json(DataConfig(preprocess=preprocess, classes=classes), channels)
    return model.eval(), config, inputs


def counted(of: Student, target: str, classes: int) -> list[tuple[str, law.Terms, int]]:
    """Equations of one student: what they are of, turns of loops, and instructions counted."""
    model, config, inputs = student(of, classes)
    record = emulate.measure(model, of[0], config, inputs, target)
    calls = network(model, of[0], *config["input"]["shape"][1:]).calls
    found = [
        (call[0], law.counts(law.numbers(call), pairs_on(target)), layer["instructions"])
        for call, layer in zip(calls, record["layers"], strict=True)
    ]
    return found + _beside(record, law.around(law.Pipeline.of(config, inputs)))


def counted8(of: Student, target: str, classes: int) -> list[tuple[str, law.Terms, int]]:
    """The same of its 8-bit student, whose ranges are of noise: instructions don't depend on them."""
    model, config, inputs = student(of, classes)
    shape = config["input"]["shape"][1:]
    noise = np.random.default_rng(0).standard_normal((16, *shape))
    record = emulate.measure(quantise(model, of[0], noise), of[0], config, inputs, target)
    pipeline = law.Pipeline.of(config, inputs)
    calls = list(law8.calls(*of[:3], pipeline))
    found = [
        (call[0], law8.counts(call, law8.STEPS[target]), layer["instructions"])
        for call, layer in zip(calls, record["layers"], strict=True)
    ]
    return found + _beside(record, law8.around(pipeline))


def _beside(record: dict[str, Any], around: dict[str, law.Terms]) -> list[tuple[str, law.Terms, int]]:
    """Equations of what is done beside the network."""
    parts = {"sample": record["instructions_per_sample"], "decode": record["instructions_decode"]}
    network_alone = sum(layer["instructions"] for layer in record["layers"])
    parts["window"] = record["instructions"] - network_alone - sum(parts.values())
    return [(name, around[name], value) for name, value in parts.items()]


def pairs_on(target: str) -> bool:
    """Whether the C takes two outputs at a time there: not where compilers make vectors."""
    return target != "m55"


def costs_of(equations: Iterable[tuple[str, law.Terms, int]]) -> dict[str, float]:
    """Costs of turns, of least relative error; those of loops that never turned are left out."""
    groups: dict[str, list[tuple[law.Terms, int]]] = {}
    for name, terms, value in equations:
        groups.setdefault(name, []).append((terms, value))
    found: dict[str, float] = {}
    for rows in groups.values():
        names = sorted({name for terms, _ in rows for name, turned in terms.items() if turned})
        values = np.array([value for _, value in rows], float)
        turns = np.array([[terms.get(name, 0) for name in names] for terms, _ in rows], float)
        relative = turns / values[:, None]
        scale = np.linalg.norm(relative, axis=0)
        solved = np.linalg.lstsq(relative / scale, np.ones(len(values)), rcond=1e-9)[0] / scale
        found |= {name: round(float(cost), 3) for name, cost in zip(names, solved, strict=True)}
    return found


def calibrate(target: str, int8: bool = False) -> dict[str, Any]:
    """One target's part of instructions.json, or of instructions8.json."""
    equations: list[tuple[str, law.Terms, int]] = []
    students = STUDENTS8 if int8 else STUDENTS
    for i, of in enumerate(students):
        print(f"{target}: {of[0]} {of[1]}x{of[2]}", file=sys.stderr, flush=True)
        equations += (counted8 if int8 else counted)(of, target, CLASSES[i % len(CLASSES)])
    costs = costs_of(equations)
    chosen = emulate.TARGETS[target]
    return {
        "cpu": chosen.cpu,
        **({} if int8 else {"pairs": pairs_on(target)}),
        "costs": costs,
        "students": len(students),
        "equations": len(equations),
        "flags": " ".join((*emulate.FLAGS, chosen.build)),
        **emulate.versions(),
    }


def main(targets: Iterable[str], int8: bool = False) -> None:
    """Count on these targets, and write the file anew; what others cost is kept."""
    file, shipped = (law8.FILE, law8.shipped) if int8 else (law.FILE, law.shipped)
    document: dict[str, Any] = shipped() if file.exists() else {"targets": {}}
    counted_here: Mapping[str, Any] = {target: calibrate(target, int8) for target in targets}
    kept = {"about": law.ABOUT, "targets": document["targets"] | counted_here}
    write_text(file, json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    named = [word for word in sys.argv[1:] if word != "--int8"]
    main(named or list(emulate.TARGETS), int8="--int8" in sys.argv)
