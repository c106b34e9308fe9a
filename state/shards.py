"""Which shard a user belongs to, what the engine calls a shard, and whose a shard's store is.

The engine places a key on worker SipHash-1-3(key) modulo the number of workers. Plain numbers fall as they like: of the
64 from 0 to 63, 13 came to one of 8 workers. So shards are called by names from a table which fall evenly on up to 16
workers, and on 18, 20, 24, 32 and others up to 64; `tests/shard_names.py` has found them, and the first few of them do
the same. What a state calls its shards stays as it is: the engine keeps their snapshots under these keys.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, Literal
from zlib import crc32

_EVEN: Final = (
    "a3oys", "bs31c", "bet5r", "enf0m", "agztn", "akr6y", "brybc", "a5ecx",
    "cvwjb", "ayesx", "arrsr", "bk96u", "qx15", "n61e", "gmnnd", "wf77",
    "aepn9", "d90q8", "njx", "gfm2", "fbqq", "bn67x", "dekh3", "boeqo",
    "zf91", "wfjk", "zp5m", "aqjog", "czn80", "cu3fn", "babz", "cqwm",
    "adna", "bnn3a", "qocz", "djkp2", "bnf8g", "y3co", "xtfw", "oved",
    "ae891", "digs", "blwxx", "bfhkf", "jrg", "bip1v", "ap5mr", "wq9m",
    "f8pd9", "albfr", "gnru4", "b84fv", "a2l47", "albbd", "khpk", "c01ao",
    "bn5gf", "ncmf", "aubke", "spul", "cext5", "hwq1", "qbal", "blgdg",
)  # fmt: skip
"""By the number of the shard. Never to be changed: states have them."""


class ShardKeys:
    """The engine's keys of all shards of a state.

    Args:
        made: `even`: from the table, beyond its end the number. `numbers`: the number, as in states of format 1.
        shards: how many shards there are.
    """

    def __init__(self, made: Literal["numbers", "even"], shards: int) -> None:
        self._table = _EVEN if made == "even" else ()
        self._shards = shards

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The keys, by the number of the shard."""
        table = self._table[: self._shards]
        return (*table, *map(str, range(len(table), self._shards)))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The numbers of the shards, by their keys."""
        return {name: number for number, name in enumerate(self.names)}


def shard_of(user_id: str | bytes, shards: int) -> int:
    """Return the number of the shard that a user belongs to; the id as text, or in UTF-8 as in the keys of a store."""
    return crc32(user_id if isinstance(user_id, bytes) else user_id.encode()) % shards


def dead_shard(source: int, shards: int) -> int:
    """Return the one shard through which the dead letters of a source partition go, so that they stay in order."""
    return source % shards


def owner_of(job: str, shard: int, shards: int) -> str:
    """Return what a shard's store says it belongs to."""
    return f"shard {shard} of {shards} of job {job}"
