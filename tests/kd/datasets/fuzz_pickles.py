"""Random pickle programs: whatever they are, reading them gives a value or an InputError, in bounded memory.

    python tests/kd/datasets/fuzz_pickles.py 1000000 0

Programs are ordinary pickles with opcodes and bytes changed, or opcodes with fitting arguments in any order.
Prints how many were read, refused and unreadable; any other exception, or a crash, ends it.
"""

import pickle
import pickletools
import random
import resource
import sys
import tempfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np

from kd.datasets.pickles import OPERATIONS, read_pickle
from kd.errors import InputError

MEMORY = 3 * 2**30
NAMES = (
    (b"numpy", b"ndarray"),
    (b"numpy", b"dtype"),
    (b"numpy.core.multiarray", b"_reconstruct"),
    (b"numpy._core.multiarray", b"scalar"),
    (b"numpy._core.numeric", b"_frombuffer"),
    (b"_codecs", b"encode"),
    (b"builtins", b"set"),
    (b"builtins", b"bytearray"),
    (b"collections", b"OrderedDict"),
    (b"os", b"system"),
)
VALUES = {
    "signal": {"wrist": {"BVP": np.arange(4.0)[:, None], "ACC": np.ones((2, 3), np.float32)}},
    "label": np.array([60.5, 61.25]),
    "text": np.array(["ab", "c"]),
    "scalars": [np.float64(1.5), True, 10**30, b"y", (1,), {2}, frozenset({3}), 1j, bytearray(b"z")],
    "ordered": OrderedDict(b=1, a=2),
}
PLAIN = [pickle.dumps(VALUES, protocol=p) for p in range(6)]
CODES = [op.code.encode("latin1") for op in pickletools.opcodes]


def piece(dice: random.Random) -> bytes:
    """An opcode, mostly with an argument that fits it."""
    kind = dice.randrange(8)
    if kind == 0:
        return b"c" + b"\n".join(dice.choice(NAMES)) + b"\n"
    if kind == 1:
        text = dice.choice([b"f8", b"O", b"S1", b"U2", b"|", b"<", b"b", b"A" * 8, b"latin1", b"C"])
        return b"U" + bytes([len(text)]) + text
    if kind == 2:
        return b"K" + bytes([dice.choice([0, 1, 2, 3, 8, 255])])
    if kind == 3:
        return dice.choice([b"q", b"h"]) + bytes([dice.randrange(8)])
    if kind == 4:
        return dice.choice([b"(", b")", b"]", b"}", b"N", b"\x88", b"\x89", b"\x8f", b"2", b"\x94"])
    if kind == 5:
        return dice.choice([b"R", b"b", b"R", b"b", b"s", b"u", b"a", b"e", b"\x90", b"\x93"])
    if kind == 6:
        return dice.choice([b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"\x91", b"0", b"1"])
    return dice.choice([*OPERATIONS, *CODES]) + dice.randbytes(dice.randrange(5))


def program(dice: random.Random) -> bytes:
    """A pickle with a few changes, or pieces in any order."""
    if dice.random() < 0.5:
        return b"\x80\x02" + b"".join(piece(dice) for _ in range(dice.randrange(1, 30))) + b"."
    data = bytearray(dice.choice(PLAIN))
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(data))
        change = dice.randrange(4)
        if change == 0:
            data[at] = dice.randrange(256)
        elif change == 1:
            data[at:at] = piece(dice)
        elif change == 2:
            del data[at : at + dice.randrange(1, 9)]
        else:
            data[at : at + 1] = dice.choice(CODES)
    return bytes(data)


def main(programs: int, seed: int) -> None:
    """Read that many programs, from this seed on."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    dice, ended = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # a disk would take most of the time
        path = Path(folder) / "S1.pkl"
        for n in range(programs):
            content = program(dice)
            path.write_bytes(content)
            try:
                read_pickle(path)
                ended["read"] += 1
            except InputError as error:
                ended["refused" if "refused" in str(error) else "unreadable"] += 1
            except BaseException:
                print(f"program {n} of seed {seed}: {content!r}", file=sys.stderr)
                raise
    print(f"{programs} programs: {dict(ended)}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
