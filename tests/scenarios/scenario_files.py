"""Scenario files: their compact notation, and the records it stands for. See README.md."""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
DAY = "2026-11-23"  # A Monday. A time without a date means this day.
EVENTS = "events.jsonl"  # Default message ids are `events.jsonl-<line>`.
MIB = 1024 * 1024

ABSENT = "<absent>"
ANY = "<any>"

SCENARIO_KEYS = {"name", "spec", "flows", "config", "events", "until", "expect", "run", "subprocess", "format"}
TABLE_KEYS = {"name", "spec", "where", "holds", "fails", "places"}
DEPLOYMENT_KEYS = {"name", "spec", "phases", "expect"}
PHASE_KEYS = {"flows", "config", "events", "until", "refuses"}
EXPECT_KEYS = {"actions", "journal", "journal_kinds", "dead_letters", "check", "totals", "topics"}
EVENT_KEYS = {
    "audience", "member", "row", "updated",
    "at", "user", "event", "id", "own", "traits", "identify", "context", "properties",
    "joins", "leaves", "raw", "raw_parts", "raw_hex", "bom", "pad_to", "nest_to", "raised", "receipt", "of",
}  # fmt: skip

JOURNAL_KINDS = {
    "entered", "refused", "sent", "suppressed", "postponed", "waiting", "moved", "receipt", "set", "audience",
    "converted", "exited", "ended", "failed", "migrated",
}  # fmt: skip
JOURNAL_FIELDS = {"at", "user_id", "seq", "flow", "version", "journey_id", "kind"}
JOURNAL_OPTIONAL = {"step", "reason", "detail", "cause", "job"}
ACTION_FIELDS = {
    "action_id", "channel", "user_id", "to", "flow", "version", "journey_id", "step", "visit", "template",
    "vars", "category", "at", "expires_at", "seq", "cause",
}  # fmt: skip
DEAD_LETTER_FIELDS = {"topic", "partition", "offset", "raw", "reason", "detail", "raw_bytes", "raw_text"}

BALANCE = {"entered": 1, "ended": -1, "exited": -1, "failed": -1}


class CoreLoader(yaml.SafeLoader):
    """YAML 1.2 core schema: a date or a time of day is text, and so are `yes` and `on`."""


CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in [
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
]:
    CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(rf"^(?:{_pattern})$"),
        [c if c != "\0" else "" for c in _first],
    )


def _int(loader: CoreLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


CoreLoader.add_constructor("tag:yaml.org,2002:int", _int)


def _float(loader: CoreLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


CoreLoader.add_constructor("tag:yaml.org,2002:float", _float)


@dataclass(frozen=True)
class Scenario:
    """One row of the table: what goes in, and what must come out."""

    topic: str
    name: str
    spec: tuple[str, ...]
    flows: tuple[Any, ...]
    config: Any = None
    events: tuple[Any, ...] = ()
    until: str | None = None
    expect: dict[str, Any] = field(default_factory=dict)
    run: bool = False
    subprocess: bool = False
    phases: tuple[dict[str, Any], ...] = ()
    format: str = "native"

    @property
    def format_options(self) -> list[str]:
        """The options of `simulate` for the format of the events."""
        name, _, query = self.format.partition("?")
        given = [part.partition("=") for part in query.split("&") if part]
        return ["--format", name, *(text for key, _, value in given for text in (f"--{key.replace('_', '-')}", value))]

    @property
    def format_query(self) -> str:
        """The parameters of a source for the format of the events."""
        return "?format=" + self.format.replace("?", "&")

    @property
    def checks(self) -> bool:
        """Whether the flows are bad on purpose."""
        return "check" in self.expect


# --- Times ----------------------------------------------------------------------------------------

_TIME = re.compile(r"(?:(?:(\d{4})-)?(\d\d-\d\d)[ T])?(\d\d:\d\d)(?::(\d\d)(?:\.(\d{3}))?)?")


def instant(text: str) -> str:
    """Return `08:00`, `08:00:30.500`, `11-24 08:00` or `2027-01-01 08:00` (all UTC), written out."""
    found = _TIME.fullmatch(text)
    assert found, f"not a time of a scenario: {text!r}"
    year, day, minute, second, milli = found.groups()
    date = f"{year or DAY[:4]}-{day}" if day else DAY
    return f"{date}T{minute}:{second or '00'}.{milli or '000'}Z"


# --- Events ---------------------------------------------------------------------------------------


def line_of(row: Any) -> bytes:
    """Return the line of the events file, without its end, that *row* stands for."""
    if isinstance(row, str):
        return row.encode()
    if "raw_hex" in row:
        return bytes.fromhex(row["raw_hex"])
    if "raw_parts" in row:
        return "".join(text * times for text, times in row["raw_parts"]).encode()
    if "raw" in row:
        raw = row["raw"]
        line = raw.encode() if isinstance(raw, str) else _dump(raw)
    else:
        line = _dump(_record(row))
    return (b"\xef\xbb\xbf" if row.get("bom") else b"") + line


def _record(row: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if "id" in row:
        record["message_id"] = row["id"]
    if "updated" not in row or "user" in row:
        record["user_id"] = row.get("user", "u1")
    if "receipt" in row:
        *journey, step, visit = row["of"]
        action_id = digest(digest(*journey), step, str(visit))
        return record | _times(row) | {"action_id": action_id, "status": row["receipt"]} | _rest(row)
    if "updated" in row:
        record |= {"audience": row["updated"], "updated": True}
    elif "joins" in row or "leaves" in row:
        record |= {"audience": row["joins" if "joins" in row else "leaves"], "member": "joins" in row}
        record |= {"row": row["row"]} if "row" in row else {}
    elif "identify" in row:
        record |= {"type": "identify", "traits": row["identify"]}
    elif "audience" in row:
        record |= {key: row[key] for key in ("audience", "member", "row", "updated") if key in row}
        if "updated" in row:
            del record["user_id"]
    else:
        record["event"] = row["event"]
    record |= _times(row)
    properties = _rest(row) | row.get("properties", {})
    if "nest_to" in row:  # Levels 1 and 2 are the record and its properties.
        deep: Any = 1
        for _ in range(row["nest_to"] - 2):
            deep = {"d": deep}
        properties["deep"] = deep
    if properties:
        record["properties"] = properties
    for name in ("traits", "context"):
        if name in row:
            record[name] = row[name]
    if "pad_to" in row:
        record.setdefault("properties", {})["pad"] = ""
        record["properties"]["pad"] = "x" * (row["pad_to"] - len(_dump(record)))
    return record


def _times(row: dict[str, Any]) -> dict[str, Any]:
    if "own" in row:
        return {"timestamp": instant(row["own"])} | ({"received_at": instant(row["at"])} if "at" in row else {})
    return {"timestamp": instant(row["at"])} if "at" in row else {}


def _rest(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in EVENT_KEYS}


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --- Files ----------------------------------------------------------------------------------------


def write(scenario: Scenario, folder: Path) -> Path:
    """Write the flows, `nudge.yaml` and the events into *folder*; return the folder of the flows."""
    flows = write_flows(scenario.flows, folder)
    if scenario.config is not None:
        write_config(scenario.config, flows)
    (folder / EVENTS).write_bytes(b"".join(line_of(row) + b"\n" for row in scenario.events))
    return flows


def write_config(config: Any, flows: Path) -> None:
    """Write `nudge.yaml` beside the flows."""
    text = config if isinstance(config, str) else _dump(config).decode()
    (flows / "nudge.yaml").write_text(text, encoding="utf-8")


def write_flows(of: Iterable[Any], folder: Path) -> Path:
    """Write the flows into a new folder `flows` of *folder*, and return it."""
    flows = folder / "flows"
    flows.mkdir()
    for number, flow in enumerate(of, start=1):
        if isinstance(flow, str):
            (flows / f"flow-{number}.yaml").write_text(flow, encoding="utf-8")
        else:
            (flows / f"flow-{number}.json").write_bytes(_dump(flow))
    return flows


MARK = re.compile(r"#\s*problem(?::\s*([a-z-]+))?\s*$")


def marked_lines(scenario: Scenario) -> dict[tuple[str, int], str | None]:
    """Return (file, line) -> code, or None for any code, of the lines that end in `# problem`."""
    texts = {f"flow-{n}.yaml": f for n, f in enumerate(scenario.flows, start=1) if isinstance(f, str)}
    if isinstance(scenario.config, str):
        texts["nudge.yaml"] = scenario.config
    return {
        (name, line): mark.group(1)
        for name, text in texts.items()
        for line, content in enumerate(text.splitlines(), start=1)
        if (mark := MARK.search(content))
    }


# --- Expectations ---------------------------------------------------------------------------------


def digest(*fields: str) -> str:
    """Return the id that records.md derives from *fields*."""
    return blake2b("\x1f".join(fields).encode(), digest_size=16).hexdigest()


def wanted(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields, as records have them, that an expected *row* asks for."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        if key == "user":
            out["user_id"] = value
        elif key == "by":
            out["cause.message_id"] = value
        elif key == "journey_of":
            out["journey_id"] = digest(*value)
        elif key == "action_of":
            *journey, step, visit = value
            out["action_id"] = digest(digest(*journey), step, str(visit))
        elif key in ("at", "expires_at") and value not in (None, ABSENT, ANY):
            out[key] = instant(value)
        elif key == "detail" and isinstance(value, dict):
            out |= {f"detail.{k}": instant(v) if k == "until" else v for k, v in value.items()}
        else:
            out[key] = value
    return {key: strict(value) for key, value in out.items()}


def seen(record: dict[str, Any], want: dict[str, Any]) -> dict[str, Any]:
    """Return of *record* what *want* asks for."""
    out: dict[str, Any] = {}
    for key, value in want.items():
        at: Any = record
        for part in key.split("."):
            at = at.get(part, ABSENT) if isinstance(at, dict) else ABSENT
        out[key] = ANY if value == ANY and at != ABSENT else strict(at)
    return out


def strict(value: Any) -> Any:
    """Return *value* so that `true` differs from 1, which Python does not see."""
    if isinstance(value, bool):
        return "<true>" if value else "<false>"
    if isinstance(value, list):
        return [strict(one) for one in value]
    return {key: strict(one) for key, one in value.items()} if isinstance(value, dict) else value


def assert_rows(expected: list[Any], got: list[dict[str, Any]], what: str) -> None:
    """Fail unless *got* are the *expected* rows: their number, their order, and the fields that are named."""
    wants = [wanted(row) for row in expected]
    shown = [seen(record, want) for record, want in zip(got, wants, strict=False)]
    shown += [_brief(record) for record in got[len(wants) :]]
    rows = zip_longest(wants, shown)
    wrong = [f"row {n}: expected {want}, got {one}" for n, (want, one) in enumerate(rows) if want != one]
    assert not wrong, "\n".join([f"{what} are not what the specification says", *wrong])


def _brief(record: dict[str, Any]) -> dict[str, Any]:
    names = ("at", "user_id", "flow", "kind", "channel", "step", "reason", "offset", "detail")
    return {"not expected": True} | {name: record[name] for name in names if name in record}


def readable_dead_letter(record: dict[str, Any]) -> dict[str, Any]:
    """Return *record* with the bytes and the text of `raw` beside it."""
    raw = base64.b64decode(record["raw"], validate=True)
    return record | {"raw_bytes": len(raw), "raw_text": raw.decode(errors="replace")}


# --- What holds for every run ---------------------------------------------------------------------


def assert_sound(actions: list[dict[str, Any]], journal: list[dict[str, Any]]) -> None:
    """Fail where records break a promise that records.md makes of all of them."""
    last: Counter[str] = Counter()
    balance: Counter[str] = Counter()
    sent = {}
    for record in journal:
        assert record.keys() >= JOURNAL_FIELDS, f"a journal record lacks {JOURNAL_FIELDS - record.keys()}"
        assert record.keys() <= JOURNAL_FIELDS | JOURNAL_OPTIONAL, f"a journal record has more: {record}"
        assert record["kind"] in JOURNAL_KINDS
        last[record["user_id"]] += 1
        assert record["seq"] == last[record["user_id"]], f"seq has a gap or a repeat at {record}"
        if record["kind"] == "sent":
            sent[record["user_id"], record["seq"]] = record
        balance[record["flow"]] += BALANCE.get(record["kind"], 0)
        assert balance[record["flow"]] >= 0, f"more journeys left than entered at {record}"
        assert (record["journey_id"] is None) == (record["kind"] == "refused")
        if record.get("reason") == "condition":
            detail = record["detail"]
            assert _names_what_was_compared(detail), f"no path, test and value in the detail of {record}"
        for absent in JOURNAL_OPTIONAL & record.keys():
            assert record[absent] is not None, f"an absent field is written as null in {record}"
    for action in actions:
        assert action.keys() - {"job"} == ACTION_FIELDS
        record = sent.pop((action["user_id"], action["seq"]), None)
        assert record is not None, f"no `sent` record for {action}"
        for name in ("at", "flow", "version", "journey_id", "step"):
            assert record[name] == action[name]
        assert action["action_id"] == digest(action["journey_id"], action["step"], str(action["visit"]))
        assert action["cause"].keys() == {"message_id", "event"}
    assert not sent, f"`sent` without an action: {list(sent.values())}"


def _names_what_was_compared(detail: Any) -> bool:
    if isinstance(detail, list):
        return any(_names_what_was_compared(one) for one in detail)
    if not isinstance(detail, dict):
        return False
    return detail.keys() >= {"path", "test", "value"} or _names_what_was_compared(list(detail.values()))


# --- Loading --------------------------------------------------------------------------------------


def load() -> list[Scenario]:
    """Return the scenarios of all files, tables written out."""
    found: list[Scenario] = []
    for path in sorted(HERE.glob("*.yaml")):
        rows = yaml.load(path.read_text(encoding="utf-8"), Loader=CoreLoader)
        for row in rows:
            spec = row["spec"] if isinstance(row["spec"], list) else [row["spec"]]
            common = {"topic": path.stem, "name": row["name"], "spec": tuple(spec)}
            if "where" in row:
                assert row.keys() <= TABLE_KEYS, f"{path.name}: {row['name']}: {row.keys() - TABLE_KEYS}"
                found += _written_out(row, common)
                continue
            if "phases" in row:
                assert row.keys() <= DEPLOYMENT_KEYS, f"{path.name}: {row['name']}"
                assert all(phase.keys() <= PHASE_KEYS for phase in row["phases"]), row["name"]
                assert_in_order([event for phase in row["phases"] for event in phase["events"]], row["name"])
                phases = tuple(row["phases"])
                assert_is_compared(row["expect"], row["name"], runs=True)
                found.append(Scenario(**common, flows=(), phases=phases, expect=row["expect"]))
                continue
            assert row.keys() <= SCENARIO_KEYS, f"{path.name}: {row['name']}: {row.keys() - SCENARIO_KEYS}"
            assert_is_compared(row["expect"], row["name"], runs=row.get("run", False))
            assert_in_order(row.get("events", []), row["name"])
            rest = {k: row[k] for k in row.keys() - {"name", "spec", "flows", "events"}}
            flows, events = tuple(row["flows"]), tuple(row.get("events", ()))
            found.append(Scenario(**common, flows=flows, events=events, **rest))
    return found


def assert_is_compared(expect: dict[str, Any], name: str, *, runs: bool) -> None:
    """Fail where *expect* has something that nothing is compared with, or nothing that could differ."""
    assert expect.keys() <= EXPECT_KEYS, f"{name}: {expect.keys() - EXPECT_KEYS}"
    if "check" in expect:
        assert expect.keys() == {"check"}, f"{name}: what is only checked does not run"
        return
    assert expect.keys() & {"actions", "journal"}, f"{name}: neither actions nor journal"
    assert "journal" in expect or "journal_kinds" not in expect, f"{name}: kinds of a journal that is not compared"
    assert runs or "topics" not in expect, f"{name}: topics are compared with `run: true` only"
    kinds = {*expect.get("journal_kinds", ()), *expect.get("totals", ())}
    assert kinds <= JOURNAL_KINDS, f"{name}: {kinds - JOURNAL_KINDS}"
    for what, fields in (
        ("actions", ACTION_FIELDS),
        ("journal", JOURNAL_FIELDS | JOURNAL_OPTIONAL),
        ("dead_letters", DEAD_LETTER_FIELDS),
    ):
        for row in expect.get(what, ()):  # A field that never is there is absent, whatever the product does.
            assert row, f"{name}: a row that asks for nothing"
            asked = {key.partition(".")[0] for key in wanted(row)}
            assert asked <= fields, f"{name}: {asked - fields} is in no record of {what}"


def assert_in_order(events: list[Any], name: str) -> None:
    """Fail where time goes back in a scenario by mistake: on purpose it says `raised: true`."""
    latest = ""
    for row in events:
        if isinstance(row, dict) and "at" in row and not row.get("raised"):
            at = instant(row["at"])
            assert at >= latest, f"{name}: {row} is earlier than the record before it; mark it `raised: true`"
            latest = at


PLACES = ("trigger", "wait_for", "exit", "did", "when entry", "when profile")


def _written_out(table: dict[str, Any], common: dict[str, Any]) -> list[Scenario]:
    """Write a table of properties that satisfy `where` (or not) out for each place in which it may stand."""
    rows = [(row, True) for row in table.get("holds", [])] + [(row, False) for row in table.get("fails", [])]
    users = [(f"u{number:02}", row, holds) for number, (row, holds) in enumerate(rows, start=1)]
    passed = [user for user, _, holds in users if holds]
    scenarios = []
    for place in table.get("places", PLACES):
        judged = [{"at": "09:00", "user": user, "event": "a", "properties": row} for user, row, _ in users]
        if place == "when profile":
            judged = [{"at": "09:00", "user": user, "event": "a", "traits": row} for user, row, _ in users]
        if place in ("wait_for", "exit", "did"):
            judged = [{"at": "08:00", "user": user, "event": "start"} for user, _, _ in users] + judged
        expect: dict[str, Any] = {"actions": [{"user": user} for user in passed]}
        if place == "exit":
            expect = {"journal_kinds": ["exited"], "journal": [{"user": user} for user in passed]}
        flow = {"flow": "f"} | _flow_with(place, table["where"])
        name = f"{common['name']} [{place}]"
        named = common | {"name": name}
        scenarios.append(Scenario(**named, flows=(flow,), events=tuple(judged), expect=expect))
    return scenarios


def _flow_with(place: str, where: dict[str, Any]) -> dict[str, Any]:
    send = {"send": "webhook", "template": "t"}
    start = {"trigger": {"event": "start"}}
    match place:
        case "trigger":
            return {"trigger": {"event": "a", "where": where}, "steps": [send]}
        case "wait_for":
            hit = {"hit": {"event": "a", "where": where}}
            return start | {"steps": [{"wait_for": hit, "timeout": "2h", "then": {"hit": [send]}}]}
        case "exit":
            return start | {"exit": [{"event": "a", "where": where}], "steps": [{"wait": "2h"}]}
        case "did":
            did = {"did": {"event": "a", "where": where}}
            return start | {"steps": [{"wait": "2h"}, {"branch": [{"when": did, "steps": [send]}]}]}
        case _:
            when = _prefixed(where, place.removeprefix("when "))
            return {"trigger": {"event": "a"}, "steps": [{"branch": [{"when": when, "steps": [send]}]}]}


def _prefixed(where: dict[str, Any], prefix: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in where.items():
        if key in ("any", "all"):
            out[key] = [_prefixed(one, prefix) for one in value]
        elif key == "not":
            out[key] = _prefixed(value, prefix)
        else:
            out[f"{prefix}.{key.removeprefix('properties.')}"] = value
    return out
