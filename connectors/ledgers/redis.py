"""The ledger in Redis: for several processes, and with one rate for all of them.

    <name>:a:<action id>              what has begun and what became of it, as JSON
    <name>:p:<channel>:<provider id>  the action that a provider calls so
    <name>:r:<account>                the rate: how many calls may be made now, and as of when

The rules are those of `state/ledger.py`, here in Python: a note is written if what it was made of is still there, all
of a batch in one script, and what has changed meanwhile is read again. Redis has to write its append-only file
(`appendonly yes`); with `appendfsync everysec` a second of notes can be lost with its machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from connectors.ledgers.base import KEPT_MS, LedgerAway, Note, Noted, ToBegin, ToFree, ToLook, ToSettle
from state import ledger
from state.delivery import Entry

PATIENCE_S: Final = 5.0
TRIES: Final = 20
HOLDS_S: Final = 0.1

# Of each key: writes the new value if the old one is still there; `KEPT` ms are given to a value that has an outcome.
_WRITE: Final = """
local written = {}
for i, key in ipairs(KEYS) do
  local old, new, kept = ARGV[3 * i - 2], ARGV[3 * i - 1], tonumber(ARGV[3 * i])
  local now = redis.call('GET', key) or ''
  if now == old then
    if kept > 0 then redis.call('SET', key, new, 'PX', kept) else redis.call('SET', key, new) end
    written[i] = 1
  else
    written[i] = 0
  end
end
return written
"""

# Takes up to ARGV[3] tokens and returns how many; 0 and the ms to the next one where there is none.
_TAKE: Final = """
local rate, most, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local known = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(known[1] or 0), tonumber(known[2] or now)
tokens = math.min(most, tokens + math.max(0, now - at) * rate / 1000)
local taken = math.min(wanted, math.floor(tokens))
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens - taken), 'at', tostring(math.max(now, at)))
redis.call('PEXPIRE', KEYS[1], 3600000)
if taken > 0 then return {taken, 0} end
return {0, math.ceil((1 - tokens) * 1000 / rate)}
"""

_dump = msgspec.json.Encoder().encode
_load = msgspec.json.Decoder(Entry).decode


class RedisLedger:
    """The ledger of one channel in Redis.

    Args:
        client: bytes come back from it.
        name: what all keys begin with.
        channel: whose actions they are.
        owner: who begins attempts, another name for each start of a process.
        account: who shares the rate.
        rate: calls per second over all processes, None for no limit.
    """

    def __init__(
        self, client: Redis, name: str, channel: str, owner: str, account: str = "", rate: float | None = None
    ) -> None:
        self._client, self._name, self._channel, self._owner = client, name, channel, owner
        self._account, self._rate = account or channel, rate
        self._write: Any = client.register_script(_WRITE)
        self._take: Any = client.register_script(_TAKE)

    async def note(self, notes: Sequence[Note], now: int) -> list[Noted]:
        """Make *notes*; see `Ledger`. Of one action there is at most one note among them."""
        try:
            return await self._note(notes, now)
        except (RedisError, OSError, TimeoutError) as error:
            raise LedgerAway(f"the ledger in Redis: {type(error).__name__} {error}") from error

    async def _note(self, notes: Sequence[Note], now: int) -> list[Noted]:
        found: dict[int, Noted] = {}
        left = list(range(len(notes)))
        begins = [place for place in left if isinstance(notes[place], ToBegin)]
        if self._rate is not None and begins:
            taken, wait_ms = await self._tokens(len(begins))
            for place in begins[taken:]:
                found[place] = Noted(None, False, max(1, wait_ms))
            left = [place for place in left if place not in found]
        for _ in range(TRIES):
            left = await self._try(notes, left, found, now)
            if not left:
                return [found[place] for place in range(len(notes))]
        raise LedgerAway(f"the ledger in Redis: {len(left)} notes changed under our hands {TRIES} times")

    async def _try(self, notes: Sequence[Note], places: list[int], found: dict[int, Noted], now: int) -> list[int]:
        """Make the notes at *places*, and return those that have to be made again."""
        if not places:
            return []
        keys = [f"{self._name}:a:{notes[place].action_id}" for place in places]
        olds: list[Any] = await self._client.mget(keys)
        writes: list[tuple[int, str, bytes, Entry]] = []
        for place, key, old in zip(places, keys, olds, strict=True):
            entry = None if old is None else _load(old)
            made = self._made(notes[place], entry, now)
            if made is None:
                found[place] = Noted(entry, isinstance(notes[place], ToLook))
            else:
                writes.append((place, key, old or b"", made))
        if not writes:
            return []
        arguments: list[bytes | int] = []
        for _, _, old, made in writes:
            arguments += [old, _dump(made), KEPT_MS if made.outcome is not None else 0]
        written = await self._write(keys=[key for _, key, _, _ in writes], args=arguments)
        again = []
        for (place, _, _, made), is_written in zip(writes, written, strict=True):
            if is_written:
                found[place] = Noted(made, True)
                await self._index(notes[place].action_id, made)
            else:
                again.append(place)
        return again

    def _made(self, note: Note, entry: Entry | None, now: int) -> Entry | None:
        match note:
            case ToBegin(_, attempt, user_id, lease_ms):
                return ledger.begin(entry, attempt, user_id, self._owner, lease_ms, now)
            case ToFree(_, attempt):
                return ledger.free(entry, attempt, self._owner)
            case ToSettle(_, attempt, user_id, outcome):
                return ledger.settle(entry, attempt, user_id, self._owner, outcome, now)
            case _:
                return None

    async def _index(self, action_id: str, entry: Entry) -> None:
        if entry.outcome is not None and entry.outcome.provider_id:
            key = f"{self._name}:p:{self._channel}:{entry.outcome.provider_id}"
            await self._client.set(key, action_id, px=KEPT_MS)

    async def _tokens(self, wanted: int) -> tuple[int, int]:
        assert self._rate is not None
        most = max(1.0, self._rate * HOLDS_S)
        taken, wait_ms = await self._take(keys=[f"{self._name}:r:{self._account}"], args=[self._rate, most, wanted])
        return int(taken), int(wait_ms)

    async def find(self, provider_id: str) -> tuple[str, Entry] | None:
        """Return what the provider calls so; see `Ledger`."""
        try:
            action_id: Any = await self._client.get(f"{self._name}:p:{self._channel}:{provider_id}")
            raw: Any = None if action_id is None else await self._client.get(f"{self._name}:a:{action_id.decode()}")
        except (RedisError, OSError, TimeoutError) as error:
            raise LedgerAway(f"the ledger in Redis: {type(error).__name__} {error}") from error
        return None if action_id is None or raw is None else (action_id.decode(), _load(raw))

    async def forget(self, before_ms: int) -> int:
        """Redis forgets by itself."""
        return 0

    async def close(self) -> None:
        """Let go of it; see `Ledger`."""
        await self._client.aclose()
