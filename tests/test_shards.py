"""The shards fall evenly on processes: where the engine places their names, and what states call them."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, TestingSource, cluster_main

from dataflow.keep.files import DiskFolder
from dataflow.keep.statedir import STATE_FILE, RunNote, StateFile, read_state_file, write_state_file
from state.shards import ShardKeys
from tests.shard_names import MODULUS, place_of, siphash, siphash13

NAMES = ShardKeys("even", 64).names


def loads(shards: int, workers: int) -> list[int]:
    found = Counter(place_of(name, workers) for name in NAMES[:shards])
    return [found[worker] for worker in range(workers)]


@pytest.mark.parametrize("workers", [*range(1, 17), 18, 20, 21, 22, 24, 26, 28, 30, 32, 33, 36, 40, 48, 64])
def test_every_process_has_as_many_shards_as_any_other_or_one_more(workers: int) -> None:
    for shards in range(workers, 65):
        assert max(loads(shards, workers)) - min(loads(shards, workers)) <= 1, shards


def test_the_numbers_that_states_had_before_do_not_fall_evenly() -> None:
    """So the test above can fail."""
    found = Counter(place_of(name, 8) for name in ShardKeys("numbers", 64).names)
    assert max(found.values()) == 13


def test_names_are_short_texts_that_are_no_numbers_each_at_its_place() -> None:
    assert len(set(NAMES)) == 64
    assert all(name.isascii() and name.isalnum() and name[0].isalpha() and len(name) <= 6 for name in NAMES)
    assert [siphash13(name.encode() + b"\xff") % MODULUS for name in NAMES] == list(range(64))


def test_siphash_gives_what_its_authors_published() -> None:
    """SipHash-2-4 of 00 01 .. 0e under the key 00 01 .. 0f: appendix A of the paper. Ours has fewer rounds."""
    k0, k1 = (int.from_bytes(bytes(range(start, start + 8)), "little") for start in (0, 8))
    assert siphash(bytes(range(15)), k0, k1, 2, 4) == 0xA129CA6149BE45E5


class Placed(StatefulBatchLogic[Any, Any, Any]):
    """Notes on which thread, that is on which worker, a key is."""

    def __init__(self, found: dict[int, set[str]]) -> None:
        self._found = found

    def on_batch(self, values: list[str]) -> tuple[list[Any], bool]:
        self._found.setdefault(threading.get_ident(), set()).update(values)
        return [], False

    def snapshot(self) -> None:
        return None


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_the_engine_places_keys_as_it_is_computed_here(workers: int) -> None:
    keys = [*NAMES, *ShardKeys("numbers", 64).names, "a key of more than eight bytes", "ü"]
    found: dict[int, set[str]] = {}
    flow = Dataflow("places")
    stream = op.input("read", flow, TestingSource([(key, key) for key in keys]))
    op.output("out", op.stateful_batch("place", stream, lambda _: Placed(found)), TestingSink([]))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
    expected = [{key for key in keys if place_of(key, workers) == worker} for worker in range(workers)]
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected))


@pytest.mark.parametrize("made", ["numbers", "even"])
@pytest.mark.parametrize("shards", [1, 2, 63, 64, 65, 1000])
def test_every_shard_has_one_key_and_every_key_one_shard(made: Any, shards: int) -> None:
    keys = ShardKeys(made, shards)
    assert len(keys.names) == len(keys.numbers) == shards
    assert [keys.numbers[name] for name in keys.names] == list(range(shards))


def test_keys_beyond_the_table_are_numbers_and_those_of_fewer_shards_are_the_first() -> None:
    assert ShardKeys("even", 66).names == (*NAMES, "64", "65")
    assert ShardKeys("even", 3).names == NAMES[:3]
    assert ShardKeys("numbers", 3).names == ("0", "1", "2")


def note(folder: Path, **changed: Any) -> None:
    file = StateFile(2, "j", 4, [], [], "", 1, {}, [], "", RunNote(True), shard_keys="even")
    write_state_file(DiskFolder(folder), file)
    written = json.loads((folder / STATE_FILE).read_text())
    written.update(changed)
    (folder / STATE_FILE).write_text(json.dumps({key: value for key, value in written.items() if value is not None}))


def test_a_state_that_says_nothing_of_keys_has_numbers_and_keeps_them(tmp_path: Path) -> None:
    for shard_keys, names in ((None, ("0", "1", "2", "3")), ("even", NAMES[:4])):
        note(tmp_path, shard_keys=shard_keys)
        for _ in range(2):
            file = read_state_file(DiskFolder(tmp_path))
            assert file is not None
            assert file.keys.names == names
            write_state_file(DiskFolder(tmp_path), file)
