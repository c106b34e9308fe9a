"""Whatever dies, hangs, lies or moves: an action has one outcome, and is not called again once that is known."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from state.delivery import ACCEPTED, REJECTED, UNKNOWN
from tests.delivery.world import World

SEEDS = int(os.environ.get("NUDGE_DELIVERY_SEEDS", "2000"))
GROUPS = 4


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_action_has_one_outcome(group: int) -> None:
    for seed in range(group, SEEDS, GROUPS):
        world = World(seed)
        world.run()
        check(world)


def check(world: World) -> None:
    policy, sent = world.policy, Counter(world.provider.sent)
    for records in world.partitions.values():
        for action in records:
            one = action.action_id
            statuses = [outcome.status for outcome in world.told[one]]
            final = {status for status in statuses if status != UNKNOWN}
            assert statuses, (world.seed, one, "nothing is told")
            assert len(final) <= 1, (world.seed, one, statuses)
            noted = world.entries[one].outcome
            assert noted is not None, (world.seed, one, "nothing is noted")
            assert (*final, UNKNOWN)[0] == noted.status, (world.seed, one, statuses, noted)
            if ACCEPTED in final:
                assert sent[one], (world.seed, one, "accepted, and nobody has it")
            if not policy.may_call_again(0, 0):
                assert sent[one] <= 1, (world.seed, one, "sent twice")
                assert not (REJECTED in final and sent[one]), (world.seed, one, "rejected, and somebody has it")
            if policy.drops_repeats:
                assert sent[one] <= 1, (world.seed, one)
    _check_order(world)


def _check_order(world: World) -> None:
    """What a user gets comes in the order of the actions."""
    for records in world.partitions.values():
        places = {}
        for action in records:
            places.setdefault(action.action_id, action.place.offset)
        users = {action.action_id: action.user_id for action in records}
        last: dict[str, int] = {}
        for one in dict.fromkeys(world.provider.sent):
            if one in places:
                assert last.get(users[one], -1) < places[one], (world.seed, one, "out of order")
                last[users[one]] = places[one]
