"""What a signal is known by under any name: hashes of its stretches. Knows no windows."""

import hashlib

import numpy as np

from kd.recordings import Recording

CHUNK_S = 30.0  # ours: two people's signals don't agree in every digit for so long


def fingerprints(recording: Recording) -> list[str]:
    """Hashes of a signal's whole stretches of CHUNK_S, channel by channel; of a shorter one, of all of it.

    A copy under another name has the same, and one that ends early or has fewer channels shares some. Of
    stretches without change, as of a sensor that is off, there are none.
    """
    size = min(max(int(CHUNK_S * recording.fs), 1), recording.ppg.shape[1])
    found = []
    for channel in np.ascontiguousarray(recording.ppg, np.float32):
        for start in range(0, len(channel) - size + 1, size):
            chunk = channel[start : start + size]
            if np.isfinite(chunk).all() and np.ptp(chunk) > 0:
                found.append(hashlib.sha256(chunk.tobytes()).hexdigest()[:16])
    return found
