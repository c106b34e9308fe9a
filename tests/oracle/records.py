"""Lines of an events file: which are records, which are dead letters, and the stream time of each."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.values import parse_time

LINE_BYTES_MAX = 1_048_576  # T9: "1 048 576 bytes without the line end pass."
LEVELS_MAX = 64  # T9: "The outermost object is level 1; 64 levels pass."
RAW_BYTES_MAX = 16 * 1024

OWN_FIELDS = {
    "receipt": ("action_id", "status", "code", "detail"),
    "membership": ("audience", "member", "row"),
    "completion": ("audience",),
}
# T5: "`properties`, `traits`, `row` that are not objects, `message_id`, .. that are not text, `member` .. no boolean".
TYPES: list[tuple[str, tuple[str, ...], type]] = [
    ("message_id", ("event", "identify", "receipt", "membership", "completion"), str),
    ("action_id", ("receipt",), str),
    ("status", ("receipt",), str),
    ("audience", ("membership", "completion"), str),
    ("member", ("membership",), bool),
    ("row", ("membership",), dict),
    ("properties", ("event",), dict),
    ("traits", ("event", "identify"), dict),
]


class Dead(Exception):
    """A record that cannot be read; the message is the reason."""


@dataclass
class Record:
    """What was taken from one line, or what an audience run brings to a member."""

    kind: str  # T7: receipt, membership, completion, identify or event; or run, which no line has.
    user_id: str  # "" for a completion.
    event: str | None  # None: no event.
    message_id: str
    message_id_sent: bool
    own_time_ms: int | None
    received_ms: int | None
    properties: dict[str, Any]
    traits: dict[str, Any]
    fields: dict[str, Any] = field(default_factory=dict)  # What a receipt, membership or completion says.
    now: int = -1  # Stream time.

    @property
    def at(self) -> int:
        """records.md: "`timestamp` defaults to stream time"."""
        return self.now if self.own_time_ms is None else self.own_time_ms

    @property
    def stands_at(self) -> int:
        """Trigger: "In every window an event stands at its own `timestamp`, or at its stream time if
        earlier".
        """
        return min(self.at, self.now)


@dataclass
class ReadFile:
    records: list[Record] = field(default_factory=list)
    dead_letters: list[dict[str, Any]] = field(default_factory=list)


def read_lines(lines: list[bytes], name: str) -> ReadFile:
    """Read all lines in file order; T4: lines count from 1, blank and malformed ones included."""
    read = ReadFile()
    for number, whole_line in enumerate(lines, start=1):
        line = whole_line.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # T8
        if not line.strip():
            continue  # T8
        try:
            read.records.append(read_record(line, f"{name}-{number}"))
        except Dead as dead:
            # C5: "`partition` 0, `offset` the line, `topic` the file's name".
            raw = base64.b64encode(line[:RAW_BYTES_MAX]).decode()
            letter = {
                "topic": name,
                "partition": 0,
                "offset": number,
                "reason": str(dead),
                "detail": "",
                "raw": raw,
            }
            read.dead_letters.append(letter)
    give_stream_times(read.records)
    return read


def give_stream_times(records: list[Record]) -> None:
    """records.md: "in files `received_at` if present, else `timestamp`"; cli.md: "stream time never goes
    back"; T1.
    """
    sent = [r.own_time_ms if r.received_ms is None else r.received_ms for r in records]
    latest = next((ms for ms in sent if ms is not None), 0)
    for record, ms in zip(records, sent, strict=True):
        latest = max(latest, ms) if ms is not None else latest
        record.now = latest


def read_record(line: bytes, default_id: str) -> Record:
    """T5: the reasons in their order; raise `Dead` with the first that applies."""
    if len(line) > LINE_BYTES_MAX:
        raise Dead("too_large")
    value = parse_json(line)
    if levels(line) > LEVELS_MAX:
        raise Dead("too_deep")
    if not isinstance(value, dict):
        raise Dead("not_an_object")
    raw = {name: given for name, given in value.items() if given is not None}  # "null .. is as absent"
    kind = kind_of(raw)
    user_id = "" if kind == "completion" else required_text(raw.get("user_id"), "no_user", 256)
    if kind == "event":
        required_text(raw.get("event"), "no_event", 128)
    check_types(raw, kind)
    times: dict[str, int | None] = {}
    for name in ("timestamp", "received_at"):
        times[name] = parse_time(raw.get(name))
        if times[name] is None and name in raw:
            raise Dead("bad_time")
    return Record(
        kind=kind,
        user_id=user_id,
        event=raw["event"] if kind == "event" else None,
        message_id=raw.get("message_id", default_id),
        message_id_sent="message_id" in raw,
        own_time_ms=times["timestamp"],
        received_ms=times["received_at"],
        properties=raw.get("properties", {}) if kind == "event" else {},
        traits=raw.get("traits", {}) if kind in ("event", "identify") else {},
        fields={name: raw[name] for name in OWN_FIELDS.get(kind, ()) if name in raw},
    )


def kind_of(raw: dict[str, Any]) -> str:
    """T7: "Kind of a record, first wins"."""
    if "action_id" in raw and "status" in raw:
        return "receipt"
    if "audience" in raw and "member" in raw:
        return "membership"
    if "audience" in raw and raw.get("updated") is True:
        return "completion"
    return "identify" if raw.get("type") == "identify" else "event"


def required_text(value: Any, missing: str, length_max: int) -> str:
    """T5: "missing, null or "" is `no_user` / `no_event`; of another type or too long, `bad_type`"."""
    if value is None or value == "":
        raise Dead(missing)
    if not isinstance(value, str) or len(value) > length_max:
        raise Dead("bad_type")
    return value


def check_types(raw: dict[str, Any], kind: str) -> None:
    for name, kinds, of_type in TYPES:
        if kind in kinds and name in raw and not isinstance(raw[name], of_type):
            raise Dead("bad_type")


def parse_json(line: bytes) -> Any:
    """T5: `not_json` is "also invalid UTF-8, NaN, Infinity, lone surrogates"; T8."""

    def refuse(_: str) -> Any:
        raise ValueError("no number of JSON")

    def integer(digits: str) -> int | float:
        """T8: "integers beyond 64 bit become doubles"."""
        if len(digits) > 21:
            return double(digits)
        return int(digits) if -(2**63) <= int(digits) < 2**64 else double(digits)

    def double(digits: str) -> float:
        number = float(digits)
        return number if abs(number) != float("inf") else refuse(digits)

    try:
        value = json.loads(
            line.decode("utf-8"),
            parse_constant=refuse,
            parse_int=integer,
            parse_float=double,
            object_pairs_hook=checked,
        )
        check_text(value)
    except ValueError as error:  # Covers UnicodeError and JSONDecodeError.
        raise Dead("not_json") from error
    except RecursionError as error:
        raise NotImplementedError("nested too deeply for this reader") from error
    return value


def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, value in pairs:  # Also those that a later duplicate key hides.
        check_text(name)
        check_text(value)
    return dict(pairs)


def check_text(value: Any) -> None:
    """Raise UnicodeEncodeError on a lone surrogate."""
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, list):
        for one in value:
            check_text(one)


def levels(line: bytes) -> int:
    """How deep objects and lists nest in a valid JSON text."""
    deepest = depth = 0
    in_text = escaped = False
    for byte in line:
        if in_text:
            if escaped:
                escaped = False
            elif byte == ord("\\"):
                escaped = True
            elif byte == ord('"'):
                in_text = False
        elif byte == ord('"'):
            in_text = True
        elif byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest
