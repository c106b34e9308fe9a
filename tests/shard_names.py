"""Finds the names of shards that the engine spreads evenly over processes: `python -m tests.shard_names`, some minutes.

The engine places a key on worker SipHash-1-3(key) modulo the number of workers, as Rust's default hasher with the keys
0 and 0 computes it: of the bytes of the text and of 0xFF. So the name of shard n is the first one whose hash leaves the
remainder n modulo `MODULUS`. Then the shards 0, 1, 2, .. go to the workers 0, 1, 2, .. in turn for every number of
workers that divides `MODULUS`, which all up to 16 do, and so do the first few of them in a state that has fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import lcm
from string import ascii_lowercase, digits
from typing import Final

SHARDS: Final = 64
MODULUS: Final = lcm(*range(1, 17), SHARDS)

_WORD: Final = 2**64 - 1


def place_of(key: str, workers: int) -> int:
    """Return the worker on which the engine places *key*."""
    return siphash13(key.encode() + b"\xff") % workers


def siphash13(message: bytes, k0: int = 0, k1: int = 0) -> int:
    """Return the SipHash-1-3 of *message*: one round for every 8 bytes, three at the end.

    Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", 2012, which has 2 and 4 rounds.
    """
    return siphash(message, k0, k1, 1, 3)


def siphash(message: bytes, k0: int, k1: int, each: int, last: int) -> int:
    """Return the SipHash of *message* with *each* rounds for every 8 bytes and *last* rounds at the end."""
    state = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v0, v1, v2, v3 = state
        v0, v1, v2, v3 = _rounds(v0, v1, v2, v3 ^ word, each)
        state = (v0 ^ word, v1, v2, v3)
    v0, v1, v2, v3 = state
    v0, v1, v2, v3 = _rounds(v0, v1, v2 ^ 0xFF, v3, last)
    return v0 ^ v1 ^ v2 ^ v3


def _rounds(v0: int, v1: int, v2: int, v3: int, times: int) -> tuple[int, int, int, int]:
    for _ in range(times):
        v0 = (v0 + v1) & _WORD
        v1 = (v1 << 13 & _WORD | v1 >> 51) ^ v0
        v0 = v0 << 32 & _WORD | v0 >> 32
        v2 = (v2 + v3) & _WORD
        v3 = (v3 << 16 & _WORD | v3 >> 48) ^ v2
        v0 = (v0 + v3) & _WORD
        v3 = (v3 << 21 & _WORD | v3 >> 43) ^ v0
        v2 = (v2 + v1) & _WORD
        v1 = (v1 << 17 & _WORD | v1 >> 47) ^ v2
        v2 = v2 << 32 & _WORD | v2 >> 32
    return v0, v1, v2, v3


def names() -> Iterator[str]:
    """Yield short names, none of which is a number: a letter, then letters and digits."""
    length = 0
    while True:
        for first, *rest in product(ascii_lowercase, *[ascii_lowercase + digits] * length):
            yield first + "".join(rest)
        length += 1


def table() -> list[str]:
    """Return the names of the shards."""
    found: dict[int, str] = {}
    for name in names():
        rest = siphash13(name.encode() + b"\xff") % MODULUS
        if rest < SHARDS and rest not in found:
            found[rest] = name
            if len(found) == SHARDS:
                return [found[number] for number in range(SHARDS)]
    raise AssertionError("there is no end of names")


if __name__ == "__main__":
    print("\n".join(table()))
