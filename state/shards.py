"""Which shard a user belongs to, which one a source's dead letters go through, and whose a shard's store is."""

from __future__ import annotations

from zlib import crc32


def shard_of(user_id: str | bytes, shards: int) -> int:
    """Return the number of the shard that a user belongs to; the id as text, or in UTF-8 as in the keys of a store."""
    return crc32(user_id if isinstance(user_id, bytes) else user_id.encode()) % shards


def dead_shard(source: int, shards: int) -> int:
    """Return the one shard through which the dead letters of a source partition go, so that they stay in order."""
    return source % shards


def owner_of(job: str, shard: int, shards: int) -> str:
    """Return what a shard's store says it belongs to."""
    return f"shard {shard} of {shards} of job {job}"
