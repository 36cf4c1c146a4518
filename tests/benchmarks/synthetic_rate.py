"""How many synthetic windows a second? Wanted: 10,000 or more, from nothing to normalised windows, one core.

    python tests/benchmarks/synthetic_rate.py --subjects 64

Measured in seconds of CPU, so that a busy machine doesn't change the answer.
"""

import argparse
import time

from kd.signals.preprocess import Preprocess
from kd.signals.synthetic import Synthetic, recordings
from kd.signals.windows import make_windows

WANTED = 10_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subjects", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=8.0)
    args = parser.parse_args()
    make_windows(recordings(Synthetic(subjects=1)), Preprocess())  # scipy's imports are not what is measured

    start = time.process_time()
    made = recordings(Synthetic(subjects=args.subjects, minutes=args.minutes))
    generated = time.process_time()
    windows, _ = make_windows(made, Preprocess())
    cut = time.process_time()

    n, whole = len(windows), cut - start
    print(f"{n:,} synthetic windows of {args.subjects} subjects in {whole:.2f} s of CPU")
    print(f"  generated  {n / (generated - start):>9,.0f} windows/s")
    print(f"  cut        {n / (cut - generated):>9,.0f} windows/s")
    verdict = "enough" if n / whole >= WANTED else f"TOO FEW, {WANTED:,} wanted"
    print(f"  both       {n / whole:>9,.0f} windows/s: {verdict}")


if __name__ == "__main__":
    main()
