"""What example.py does with files that aren't recordings; its results are tested with the export."""

import json
import random
import zipfile

import numpy as np
import pytest

from kd.shipped import example

CONFIG = {"label_lag_s": {}}


def test_a_file_that_is_damaged_or_unpacks_to_too_much_ends_in_a_line(tmp_path):
    path, dice = tmp_path / "r.npz", random.Random(0)
    meta = json.dumps([{"name": "a", "dataset": "d", "subject": "s", "fs": 25}]).encode()
    arrays = {"meta_json": np.frombuffer(meta, np.uint8), "a/hr": np.zeros(9)}
    np.savez(path, **arrays, **{"a/ppg": np.zeros((1, 600))})
    assert [r["name"] for r in example.recordings(str(path), CONFIG)] == ["a"]
    whole, ended = path.read_bytes(), 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 9)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data)
        try:
            example.recordings(str(path), CONFIG)
        except SystemExit as exit_:
            ended += 1
            said = str(exit_.code)
            assert said.startswith(f"{path}: not a readable .npz of recordings")
            assert "\n" not in said
    assert ended > 100
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/ppg.npy", b"")
        archive.getinfo("a/ppg.npy").file_size = 3 * 2**30  # what the directory says
    with pytest.raises(SystemExit, match=r"would unpack to 3\.0 GiB"):
        example.recordings(str(path), CONFIG)
