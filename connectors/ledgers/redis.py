"""The ledger in Redis: for several processes, and with one rate for all of them.

    <name>:a:<action id>              what has begun and what became of it, as JSON
    <name>:p:<channel>:<provider id>  the action that a provider calls so
    <name>:o:<channel>                what is open, by when it began
    <name>:u:<channel>                what is unknown, likewise
    <name>:t:<channel>                what has an outcome that may have no receipt, likewise
    <name>:r:<account>                the rate: how many calls may be made now, and as of when

The rules are those of `state/ledger.py`, here in Python: a note is written if what it was made of is still there, all
of a batch in one script, and what has changed meanwhile is read again. Redis has to write its append-only file
(`appendonly yes`); with `appendfsync everysec` two seconds of notes can be lost with it or its machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from connectors.ledgers.base import (
    KEPT_MS,
    LedgerAway,
    LedgerRefuses,
    Note,
    Noted,
    ToBegin,
    ToLook,
    Unsettled,
    made_of,
)
from state.delivery import UNKNOWN, Entry

PATIENCE_S: Final = 5.0
TRIES: Final = 20
HOLDS_S: Final = 0.1

# KEYS: what is open, what is unknown, what is untold, and of each note its action and what its provider calls it, or
# the first key. ARGV: of each note the old value, the new one, how long to keep it in ms (0: for ever), the id, when it
# began, and the letters of where it belongs: o, u, t. The new value is written if the old one is still there.
_WRITE: Final = """
local written = {}
for i = 1, (#KEYS - 3) / 2 do
  local key, called, at = KEYS[2 * i + 2], KEYS[2 * i + 3], 6 * i - 5
  local old, new, kept, id, since, where = unpack(ARGV, at, at + 5)
  if (redis.call('GET', key) or '') == old then
    if kept == '0' then redis.call('SET', key, new) else redis.call('SET', key, new, 'PX', kept) end
    if called ~= KEYS[1] then redis.call('SET', called, id, 'PX', kept) end
    for place, letter in ipairs({'o', 'u', 't'}) do
if string.find(where, letter, 1, true) then
  redis.call('ZADD', KEYS[place], since, id)
else
  redis.call('ZREM', KEYS[place], id)
end
    end
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

_AWAY: Final = (RedisError, OSError, TimeoutError)
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
        self._open, self._unknown, self._untold = (f"{name}:{letter}:{channel}" for letter in "out")
        self._account, self._rate = account or channel, rate
        self._write: Any = client.register_script(_WRITE)
        self._take: Any = client.register_script(_TAKE)

    async def note(self, notes: Sequence[Note], now: int) -> list[Noted]:
        """Make *notes*; see `Ledger`. Of one action there is at most one note among them."""
        try:
            return await self._note(notes, now)
        except _AWAY as error:
            raise _away(error) from error

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
            made = made_of(entry, notes[place], self._owner, now)
            if made is None:
                found[place] = Noted(entry, isinstance(notes[place], ToLook))
            else:
                writes.append((place, key, old or b"", made))
        if not writes:
            return []
        written_to = [self._open, self._unknown, self._untold]
        arguments: list[bytes | str | int] = []
        for place, key, old, made in writes:
            outcome = made.outcome
            provider_id = "" if outcome is None else outcome.provider_id
            written_to += [key, self._called(provider_id) if provider_id else self._open]
            kept_ms = 0 if outcome is None else KEPT_MS
            arguments += [old, _dump(made), kept_ms, notes[place].action_id, made.since_ms, _belongs(made)]
        written = await self._write(keys=written_to, args=arguments)
        again = []
        for (place, _, _, made), is_written in zip(writes, written, strict=True):
            if is_written:
                found[place] = Noted(made, True)
            else:
                again.append(place)
        return again

    def _called(self, provider_id: str) -> str:
        return f"{self._name}:p:{self._channel}:{provider_id}"

    async def _tokens(self, wanted: int) -> tuple[int, int]:
        assert self._rate is not None
        most = max(1.0, self._rate * HOLDS_S)
        taken, wait_ms = await self._take(keys=[f"{self._name}:r:{self._account}"], args=[self._rate, most, wanted])
        return int(taken), int(wait_ms)

    async def find(self, provider_id: str) -> tuple[str, Entry] | None:
        """Return what the provider calls so; see `Ledger`."""
        try:
            action_id: Any = await self._client.get(self._called(provider_id))
            raw: Any = None if action_id is None else await self._client.get(f"{self._name}:a:{action_id.decode()}")
        except _AWAY as error:
            raise _away(error) from error
        return None if action_id is None or raw is None else (action_id.decode(), _load(raw))

    async def unsettled(self, most: int) -> Unsettled:
        """Return what has no final outcome; see `Ledger`. What Redis has forgotten meanwhile is left out."""
        client = self._client
        try:
            open_now, unknown = await client.zcard(self._open), await client.zcard(self._unknown)
            ids: list[Any] = []
            for key in (self._open, self._unknown):
                ids += await client.zrange(key, 0, most - 1)
            raws: list[Any] = await client.mget([f"{self._name}:a:{one.decode()}" for one in ids]) if ids else []
        except _AWAY as error:
            raise _away(error) from error
        found = [(one.decode(), _load(raw)) for one, raw in zip(ids, raws, strict=True) if raw is not None]
        found.sort(key=lambda one: one[1].since_ms)
        return Unsettled(open_now, unknown, found[:most])

    async def untold(self, most: int) -> list[tuple[str, Entry]]:
        """Return what may have no receipt; see `Ledger`. What Redis has forgotten meanwhile is forgotten here, too."""
        try:
            ids: list[Any] = await self._client.zrange(self._untold, 0, most - 1)
            raws: list[Any] = await self._client.mget([f"{self._name}:a:{one.decode()}" for one in ids]) if ids else []
            if gone := [one for one, raw in zip(ids, raws, strict=True) if raw is None]:
                await self._client.zrem(self._untold, *gone)
        except _AWAY as error:
            raise _away(error) from error
        return [(one.decode(), _load(raw)) for one, raw in zip(ids, raws, strict=True) if raw is not None]

    async def concerns(self) -> list[str]:
        """Return which settings can lose notes; see `Ledger`. What Redis does not tell is left out."""
        try:
            known: Any = {**await self._client.info("persistence"), **await self._client.info("memory")}
        except ResponseError:
            return []  # It is not for this user to know.
        except _AWAY as error:
            raise _away(error) from error
        found = []
        if not known.get("aof_enabled", 1):
            found.append("appendonly is no, so a restart of Redis forgets what was sent: set appendonly yes")
        policy = known.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            found.append(f"maxmemory-policy is {policy}, so a full Redis forgets what was sent: set noeviction")
        return found

    async def forget(self, before_ms: int) -> int:
        """Forget which actions before *before_ms* were unknown or untold; everything else Redis forgets by itself."""
        try:
            await self._client.zremrangebyscore(self._untold, "-inf", f"({before_ms}")
            return int(await self._client.zremrangebyscore(self._unknown, "-inf", f"({before_ms}"))
        except _AWAY as error:
            raise _away(error) from error

    async def close(self) -> None:
        """Let go of it; see `Ledger`."""
        await self._client.aclose()


def _belongs(entry: Entry) -> str:
    """Return the letters of where it is looked for: among what is open, unknown, or untold."""
    if entry.outcome is None:
        return "o"
    return ("u" if entry.outcome.status == UNKNOWN else "") + ("t" if entry.is_untold else "")


# What stands in an error, what to check then, and whether it goes away by itself.
_HINTS: Final = (
    ("mismatch", "the certificate is for another host: write the host in --ledger as the certificate has it", False),
    ("certificate verify failed", "check ssl_ca_certs in --ledger, and that it signed what Redis shows", False),
    ("WRONG_VERSION_NUMBER", "this port seems to have no TLS: check the port, or write redis:// in --ledger", False),
    ("RECORD_LAYER_FAILURE", "this port seems to have no TLS: check the port, or write redis:// in --ledger", False),
    ("AuthenticationError", "check NUDGE_REDIS_USER and NUDGE_REDIS_PASSWORD", False),
    ("AuthenticationWrongNumber", "this Redis has no users: name none, or check host and port in --ledger", False),
    ("NoPermission", "give the user of Redis the rights in docs/delivery.md; its keys begin with --group", False),
    ("ReadOnly", "this is a replica: write into --ledger where the primary is", True),
    ("OutOfMemory", "Redis is full: give it more memory (maxmemory)", True),
    ("onnection closed", "check that Redis is up, and write rediss:// in --ledger if this port has TLS", True),
    ("onnection reset", "check that Redis is up, and write rediss:// in --ledger if this port has TLS", True),
)


def _away(error: BaseException) -> LedgerAway:
    said = f"{type(error).__name__} {error}"
    for words, hint, passes in _HINTS:
        if words in said:
            return (LedgerAway if passes else LedgerRefuses)(f"the ledger in Redis: {said}; {hint}")
    return LedgerAway(f"the ledger in Redis: {said}; check host and port in --ledger, and that Redis is up")
