"""Fuzz for as long as told: `make fuzz SECONDS_OF_FUZZ=3600`. Prints the seed of whatever it finds."""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import time
import traceback
from collections.abc import Sequence

from tests.fuzz.targets import TARGETS
from tests.records import Choices

HANGS_AFTER_S = 120


def run_once(target: str, seed: str) -> bool:
    """Run one example and tell whether all was well."""
    print_on_crash = f"{target} {seed}"
    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True, file=sys.__stderr__)  # Also where only C is running.
    try:
        TARGETS[target](Choices(random.Random(f"{target} {seed}").randrange))
    except Exception:
        traceback.print_exc(file=sys.stdout)
        print(f"FOUND {print_on_crash}; again with: python -m tests.fuzz --target {target} --once {seed}", flush=True)
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if nothing was found, else 1."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long, for all targets together")
    parser.add_argument("--target", choices=sorted(TARGETS), help="only this one")
    parser.add_argument("--seed", type=int, help="where to begin; by default something new each time")
    parser.add_argument("--once", help="one example, by the seed that was printed")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at what is found")
    options = parser.parse_args(arguments)
    targets = [options.target] if options.target else list(TARGETS)
    if options.once is not None:
        return 0 if all(run_once(target, options.once) for target in targets) else 1
    base = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    print(f"seed {base}", flush=True)
    found = 0
    for target in targets:
        began, examples = time.monotonic(), 0
        while time.monotonic() - began < options.seconds / len(targets):
            found += not run_once(target, f"{base}.{examples}")
            examples += 1
            if found and not options.keep_going:
                return 1
        print(f"{target}: {examples} examples, {found} found so far", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
