"""The simulation notices when the protocol is broken: else its silence would mean nothing."""

from __future__ import annotations

import pytest

from state.errors import StoreError
from tests.simulation.audit import run_asking, run_changing_rules, run_receipts, run_seed, run_two_builds
from tests.simulation.mutations import (
    MUTATIONS,
    OF_CHANGING_RULES,
    OF_RECEIPTS,
    OF_THE_REGISTER,
    OF_TWO_BUILDS,
    Mutation,
)
from tests.simulation.oracle import Violation
from tests.simulation.test_simulation import NAMED

SEEDS_MAX = 1000


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[one.__name__ for one in MUTATIONS])
def test_is_noticed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a rare coincidence has a seed with its name; the rest is found within the first few hundred."""
    named = NAMED.get(mutation.__name__)
    mutation(monkeypatch)
    run = run_two_builds if mutation in OF_TWO_BUILDS else run_asking if mutation in OF_THE_REGISTER else run_seed
    run = run_receipts if mutation in OF_RECEIPTS else run
    run = run_changing_rules if mutation in OF_CHANGING_RULES else run
    for seed in [*([named["seed"]] if named else []), *range(SEEDS_MAX)]:
        try:
            run(seed)
        except Violation:  # A promise was broken.
            return
        except StoreError:  # The product itself noticed. Whatever else is raised is a fault of the mutation.
            return
    pytest.fail("nobody noticed")
