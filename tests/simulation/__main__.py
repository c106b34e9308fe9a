"""Simulate as many seeds as you like: `python -m tests.simulation --seeds 100000`."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulation.audit import run_seed


def main() -> int:
    """Run seeds and say which ones break a promise; 1 if any does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--stop-at", type=int, default=10, help="stop after so many that failed")
    options = parser.parse_args()
    began, failed = time.process_time(), []
    for seed in range(options.first, options.first + options.seeds):
        try:
            run_seed(seed)
        except Exception as error:
            failed.append(seed)
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:300]} ({where.name}:{where.lineno})", flush=True)
            if len(failed) >= options.stop_at:
                break
    seconds = time.process_time() - began
    print(f"{seed - options.first + 1} seeds in {seconds:.1f} CPU s; failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
