"""A made-up shop whose customers behave like customers: the event source of demos, examples and benchmarks.

People visit by the hour of their own day; they look around, come back to what they liked, fill carts, leave
most of them, buy, get parcels, send some back, sign up and rise in tier. What comes out are native records
(see `docs/records.md`), endless, in order of stream time and the same for the same seed. No clock is read:
shop time begins at `start_ms` and moves by itself; whoever takes the records decides how fast that is.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import accumulate, islice, takewhile
from math import log
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, Final, Generic, NamedTuple, TypeAlias, TypeVar

import orjson

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

START_MS: Final = 1_795_435_200_000  # 2026-11-23T12:00:00Z: a Monday, 20:00 in Shanghai, the busiest hour.

EVENT_NAMES: Final = (
    "home_view",
    "search",
    "product_view",
    "add_to_cart",
    "remove_from_cart",
    "begin_checkout",
    "purchase",
    "order_delivered",
    "return_request",
    "review",
    "sign_up",
    "newsletter_subscribe",
)

Properties: TypeAlias = dict[str, Any]


class ShopRecord(NamedTuple):
    """One record as a producer would send it: stream time, Kafka key, value (JSON without a line end)."""

    at_ms: int
    user_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Tracker:
    """What a real tracker does to a stream; `Shop(tracker=None)` has a perfect one.

    Every record gets a `received_at`, some 100 ms after its `timestamp`; it is the stream time.

    Args:
        duplicates: share of the events that are sent twice, under the same `message_id`.
        late: share that comes late, most of them under a minute, none over half an hour.
        broken: share of which an unreadable copy arrives first; the whole one follows.
    """

    duplicates: float = 0.004
    late: float = 0.01
    broken: float = 0.0002


class Shop:
    """An endless, repeatable stream of a shop's events.

    Two iterations of one shop give the same records, and a longer one begins with the shorter one.

    Args:
        seed: the same seed makes the same catalogue, people and events.
        users: how many people there are. A few of them come much more often than most.
        start_ms: shop time of the beginning, ms since 1970 UTC. The shop is empty then; it fills in minutes.
        events_per_s: events per second of shop time, as the mean of a day: evenings see about twice as many,
            nights a tenth. 10 000 users for each event per second means a visit per user and day; with under
            500 the shop cannot be that busy, since nobody is in it twice at once.
        tracker: how the records are sent; None: at once, in order, each exactly once.
    """

    def __init__(
        self,
        *,
        seed: int,
        users: int = 20_000,
        start_ms: int = START_MS,
        events_per_s: float = 10.0,
        tracker: Tracker | None = None,
    ) -> None:
        if users < 1:
            raise ValueError(f"a shop needs at least 1 user, not {users}")
        if not 0 < events_per_s < float("inf"):
            raise ValueError(f"events_per_s must be over 0, not {events_per_s}")
        self.seed = seed
        self.users = users
        self.start_ms = start_ms
        self.events_per_s = events_per_s
        self.tracker = tracker
        self._catalogue = _Catalogue(Random(f"{seed} catalogue"))  # noqa: S311

    def events(self, *, limit: int | None = None, until_ms: int | None = None) -> Iterator[ShopRecord]:
        """Return the records in order of stream time, at most *limit* of them, each before *until_ms*."""
        records = self._sent_perfectly() if self.tracker is None else self._sent_by(self.tracker)
        if until_ms is not None:
            end_ms = until_ms
            records = takewhile(lambda record: record.at_ms < end_ms, records)
        return islice(records, limit)

    def write_jsonl(self, path: Path | str, n_events: int) -> int:
        """Write the first *n_events* records to the file *path*, one per line; return its size in bytes."""
        with Path(path).open("wb") as file:
            return _write_lines(file, self.events(limit=n_events))

    def _sent_perfectly(self) -> Iterator[ShopRecord]:
        prefix = self._id_prefix()
        iso = _iso_writer()
        dumps = orjson.dumps
        for number, (at_ms, user, name, body) in enumerate(_Life(self).moves()):
            record = _native(f"{prefix}{number:x}", user, name, body, iso(at_ms))
            yield ShopRecord(at_ms, user.id, dumps(record))

    def _sent_by(self, tracker: Tracker) -> Iterator[ShopRecord]:
        rng = Random(f"{self.seed} tracker")  # noqa: S311
        prefix = self._id_prefix()
        iso = _iso_writer()
        dumps = orjson.dumps
        random = rng.random
        latencies = _table(rng, lambda: rng.lognormvariate(log(90), 0.5), low=20, high=900)
        mail = _Calendar[ShopRecord](self.start_ms)
        post = mail.put
        for number, (at_ms, user, name, body) in enumerate(_Life(self).moves()):
            if at_ms >= mail.end_ms:  # Whatever comes from now on arrives later than that.
                yield from mail.until(at_ms)
            record = _native(f"{prefix}{number:x}", user, name, body, iso(at_ms))
            arrival = at_ms + latencies[int(random() * _TABLE)]
            if random() < tracker.late:
                arrival += min(int(rng.lognormvariate(log(20 * SECOND), 1.3)), 30 * MINUTE - SECOND)
            if random() < tracker.broken:
                record["received_at"] = iso(arrival)
                post(ShopRecord(arrival, user.id, _broken(record, rng)))
                arrival += int(rng.uniform(200, 3000))
            record["received_at"] = iso(arrival)
            post(ShopRecord(arrival, user.id, dumps(record)))
            if random() < tracker.duplicates:
                arrival += int(rng.uniform(200, 20_000))
                record["received_at"] = iso(arrival)
                post(ShopRecord(arrival, user.id, dumps(record)))

    def _id_prefix(self) -> str:
        """Return what makes the message ids of different shops differ."""
        return f"{self.seed:x}.{self.start_ms // SECOND:x}."


def _write_lines(file: BinaryIO, records: Iterator[ShopRecord]) -> int:
    size = 0
    while lines := [record.value for record in islice(records, 10_000)]:
        size += file.write(b"\n".join(lines) + b"\n")
    return size


# --- What is sold ---------------------------------------------------------------------------------

_BRANDS: Final = (
    *("Aster", "Bramble", "Cirrus", "Dune", "Ember"),
    *("Fjord", "Gale", "Harbor", "Indigo", "Juniper"),
)
_CATEGORIES: Final = (  # Name, letters of its SKUs, median price in CNY, spread of prices, wares, weight.
    ("women", "WOM", 199, 0.6, ("Linen Dress", "Silk Scarf", "Wool Coat", "Blouse"), 16),
    ("men", "MEN", 189, 0.6, ("Oxford Shirt", "Chinos", "Field Jacket", "Polo"), 11),
    ("shoes", "SHO", 329, 0.5, ("Trail Shoes", "Sneakers", "Ankle Boots", "Sandals"), 12),
    ("beauty", "BEA", 119, 0.7, ("Serum", "Lipstick", "Sunscreen", "Face Mask"), 14),
    ("phones", "PHO", 2499, 0.6, ("Smartphone", "Earbuds", "Smartwatch", "Tablet"), 9),
    ("home", "HOM", 139, 0.8, ("Desk Lamp", "Throw", "Cast Iron Pot", "Tea Set"), 9),
    ("sports", "SPO", 219, 0.7, ("Yoga Mat", "Rain Jacket", "Backpack", "Dumbbells"), 8),
    ("baby", "BAB", 149, 0.6, ("Stroller", "Romper", "Building Blocks", "Bottle Set"), 6),
    ("grocery", "GRO", 39, 0.5, ("Oolong Tea", "Coffee Beans", "Walnuts", "Olive Oil"), 10),
    ("books", "BOO", 49, 0.4, ("Novel", "Cookbook", "Travel Guide", "Picture Book"), 5),
)
_PER_CURRENCY: Final = {"CNY": 1.0, "USD": 0.14, "GBP": 0.11, "EUR": 0.13}
_ZIPF: Final = 0.9  # Exponent of popularity: the first of a category is seen 28 times as often as the last.


class _Product(NamedTuple):
    """One thing on sale, and what an event says about it, per currency."""

    category: int
    noun: str
    said: dict[str, Properties]


class _Catalogue:
    """What is on sale, and how popular it is."""

    def __init__(self, rng: Random) -> None:
        self._by_category: list[list[_Product]] = []
        self._popularity: list[list[float]] = []
        for number, (category, letters, median, spread, nouns, _) in enumerate(_CATEGORIES):
            names = [(brand, noun) for brand in _BRANDS for noun in nouns]
            rng.shuffle(names)
            products = []
            for rank, (brand, noun) in enumerate(names):
                price = max(4.9, round(rng.lognormvariate(log(median), spread)) - 0.1)
                said = {
                    currency: {
                        "sku": f"{letters}-{rank + 1:03d}",
                        "name": f"{brand} {noun}",
                        "category": category,
                        "price": round(price * rate, 2),
                        "currency": currency,
                    }
                    for currency, rate in _PER_CURRENCY.items()
                }
                products.append(_Product(number, noun, said))
            self._by_category.append(products)
            self._popularity.append(list(accumulate((rank + 1) ** -_ZIPF for rank in range(len(products)))))
        self._weights = list(accumulate(weight for *_, weight in _CATEGORIES))

    def category(self, draw: float) -> int:
        """Return the category at *draw*, a number from 0 to 1."""
        return bisect(self._weights, draw * self._weights[-1])

    def product(self, category: int, draw: float) -> _Product:
        """Return the product of *category* at *draw*, a number from 0 to 1."""
        popularity = self._popularity[category]
        return self._by_category[category][bisect(popularity, draw * popularity[-1])]


# --- Who comes ------------------------------------------------------------------------------------

_Given: TypeAlias = tuple[str, ...]


class _Place(NamedTuple):
    """Where people live. `offset_h` shapes their day only; summer time is left out of it."""

    city: str
    country: str
    zone: str
    offset_h: int
    currency: str
    weight: float


_PLACES: Final = (
    _Place("Shanghai", "CN", "Asia/Shanghai", 8, "CNY", 20),
    _Place("Beijing", "CN", "Asia/Shanghai", 8, "CNY", 16),
    _Place("Shenzhen", "CN", "Asia/Shanghai", 8, "CNY", 13),
    _Place("Guangzhou", "CN", "Asia/Shanghai", 8, "CNY", 12),
    _Place("Hangzhou", "CN", "Asia/Shanghai", 8, "CNY", 11),
    _Place("Chengdu", "CN", "Asia/Shanghai", 8, "CNY", 9),
    _Place("Wuhan", "CN", "Asia/Shanghai", 8, "CNY", 6),
    _Place("Urumqi", "CN", "Asia/Urumqi", 6, "CNY", 2),
    _Place("London", "GB", "Europe/London", 0, "GBP", 4),
    _Place("Berlin", "DE", "Europe/Berlin", 1, "EUR", 3),
    _Place("New York", "US", "America/New_York", -5, "USD", 2),
    _Place("Los Angeles", "US", "America/Los_Angeles", -8, "USD", 2),
)
_PLACE_WEIGHTS: Final = list(accumulate(place.weight for place in _PLACES))
_FIRST: Final[dict[str, _Given]] = {
    "CN": (
        "Wei",
        "Fang",
        "Na",
        "Jing",
        "Lei",
        "Min",
        "Tao",
        "Yan",
        "Xin",
        "Hui",
        "Jun",
        "Ling",
        "Bo",
        "Qian",
    ),
    "GB": ("Alice", "Harry", "Olivia", "George", "Amelia", "Oscar", "Isla", "Theo"),
    "DE": ("Anna", "Jonas", "Lena", "Paul", "Mia", "Felix", "Clara", "Emil"),
    "US": ("Emma", "Noah", "Ava", "Liam", "Mia", "Ethan", "Zoe", "Lucas"),
}
_LAST: Final[dict[str, _Given]] = {
    "CN": ("Wang", "Li", "Zhang", "Liu", "Chen", "Yang", "Huang", "Zhao", "Wu", "Zhou", "Xu", "Sun"),
    "GB": ("Smith", "Jones", "Taylor", "Brown", "Walker", "Hughes"),
    "DE": ("Schmidt", "Weber", "Fischer", "Wagner", "Becker", "Koch"),
    "US": ("Johnson", "Garcia", "Miller", "Davis", "Lopez", "Clark"),
}
_APPS: Final = (("ios", "8.4.1"), ("android", "8.4.0"), ("web", "2026.11"), ("mini_program", "3.9"))
_APP_WEIGHTS: Final = list(accumulate((36, 34, 18, 12)))
_TIERS: Final = (
    ("gold", 8000),
    ("silver", 2000),
    ("bronze", 0),
)  # Tier, and what it takes to reach it in CNY.
_MAIL_HOSTS: Final = (
    "example.com",
    "example.org",
    "example.net",
)  # Reserved: they belong to nobody (RFC 2606).

# How busy each hour of a person's own day is. The mean is what `events_per_s` means.
_RHYTHM: Final = (
    *(0.45, 0.22, 0.12, 0.08, 0.08, 0.12, 0.30, 0.60, 0.85, 1.00, 1.10, 1.20),
    *(1.45, 1.30, 1.05, 1.00, 1.00, 1.05, 1.20, 1.55, 2.00, 2.20, 1.75, 0.95),
)
_BUSIEST: Final = max(_RHYTHM)
_EVENTS_PER_VISIT: Final = 7.45  # Measured over 4 days; with parcels, reviews and what else visits lead to.


class _User:
    """One person, as far as the shop's life needs to know."""

    __slots__ = (
        "app", "basket", "busy_until_ms", "context", "country", "currency", "id", "is_known", "is_member",
        "last_seen", "likes", "offset_h", "orders", "spent", "subscribed", "tier", "traits",
    )  # fmt: skip

    def __init__(self, number: int, rng: Random, catalogue: _Catalogue, start_ms: int) -> None:
        random = rng.random
        place = _PLACES[bisect(_PLACE_WEIGHTS, random() * _PLACE_WEIGHTS[-1])]
        app, release = _APPS[bisect(_APP_WEIGHTS, random() * _APP_WEIGHTS[-1])]
        self.id = f"u-{number}"
        self.country = place.country
        self.currency = place.currency
        self.offset_h = place.offset_h
        self.app = app
        self.context: Properties = {"app": app, "version": release, "city": place.city}
        self.likes = catalogue.category(random())
        self.last_seen: _Product | None = None
        self.basket: list[tuple[_Product, int]] = []
        self.busy_until_ms = 0
        self.is_member = random() < 0.72
        self.is_known = False  # Whether the stream has had the traits already.
        self.spent = min(rng.lognormvariate(log(900), 1.4), 60_000) if self.is_member else 0.0
        self.orders = int(self.spent / 400)  # What they bought before the stream begins.
        self.tier = _tier(self.spent)
        self.traits = _traits(number, place, app, rng)
        if self.is_member:
            self.traits["tier"] = self.tier
            self.traits["member_since"] = _day(start_ms - int(rng.expovariate(1 / 400) * DAY) - DAY)
        self.subscribed = self.is_member and self.traits["marketing_consent"] is True


def _traits(number: int, place: _Place, app: str, rng: Random) -> Properties:
    """Return what the shop knows of somebody who has signed up."""
    random = rng.random
    first = _FIRST[place.country][int(random() * len(_FIRST[place.country]))]
    last = _LAST[place.country][int(random() * len(_LAST[place.country]))]
    traits: Properties = {"name": f"{first} {last}"}
    if random() < 0.9:
        host = _MAIL_HOSTS[int(random() * len(_MAIL_HOSTS))]
        traits["email"] = f"{first.lower()}.{last.lower()}{number}@{host}"
    if random() < 0.88:
        traits["phone"] = _phone(number, place.country)
    if app in ("ios", "android") and random() < 0.8:
        traits["push_token"] = f"{rng.getrandbits(64):016x}"
    traits["country"] = place.country
    traits["city"] = place.city
    traits["timezone"] = place.zone
    traits["marketing_consent"] = random() < 0.86
    return traits


def _phone(number: int, country: str) -> str:
    """Return a phone number that nobody has.

    Source: the ranges that Ofcom, the Bundesnetzagentur and NANPA keep for drama. China has none; there, no
    number of Beijing (area code 10) begins with 0.
    """
    match country:
        case "GB":
            return f"+447700900{number % 1000:03d}"
        case "DE":
            return f"+493023125{number % 1000:03d}"
        case "US":
            return f"+1{('212', '213', '312', '415')[number % 4]}55501{number // 4 % 100:02d}"
        case _:
            return f"+86100{number % 10_000_000:07d}"


def _tier(spent: float) -> str:
    return next(tier for tier, least in _TIERS if spent >= least)


# --- What they do ---------------------------------------------------------------------------------

_TRAITS: Final = "$traits"  # Under this key an event's traits travel among its properties, in this module.
_IDENTIFY: Final = "identify"  # Stands where an event's name stands: a profile update.
_TABLE: Final = 1024

_SOURCES: Final = ("direct", "direct", "search_ads", "douyin", "wechat", "newsletter", "affiliate")
_PAYMENTS: Final = {"CNY": ("alipay", "wechat_pay", "unionpay")}
_PAYMENTS_ABROAD: Final = ("card", "paypal", "apple_pay")
_REASONS: Final = ("wrong_size", "damaged", "changed_my_mind", "not_as_described", "late")

_Move: TypeAlias = tuple[int, _User, str, Properties]


_Entry = TypeVar("_Entry", bound=tuple[Any, ...])
_due = itemgetter(0)


class _Calendar(Generic[_Entry]):
    """Entries by the second in which they fall due; faster than a heap, as one second at a time is sorted.

    An entry begins with its time in ms; among equal times, what was put first comes first. Time moves by the
    second.
    """

    def __init__(self, start_ms: int) -> None:
        self._second = start_ms // SECOND
        self._by_second: defaultdict[int, list[_Entry]] = defaultdict(list)

    @property
    def end_ms(self) -> int:
        """The end of the second that `until` gives next."""
        return (self._second + 1) * SECOND

    def put(self, entry: _Entry) -> None:
        """Enter *entry*, due in a second that has not been given yet."""
        self._by_second[entry[0] // SECOND].append(entry)

    def until(self, end_ms: int) -> Iterator[_Entry]:
        """Yield, in order, what is due in the full seconds before *end_ms* that were not given yet."""
        while (self._second + 1) * SECOND <= end_ms:
            entries = self._by_second.pop(self._second, None)
            self._second += 1
            if entries:
                entries.sort(key=_due)
                yield from entries


class _Life:
    """One run of the shop: who comes when, and what everybody does.

    A visit is planned as a whole when it begins, with all that it leads to; a calendar puts that in order.
    """

    def __init__(self, shop: Shop) -> None:
        rng = Random(f"{shop.seed} life")  # noqa: S311
        self._rng = rng
        self._random = rng.random
        self._catalogue = shop._catalogue
        self._start_ms = shop.start_ms
        self._users: list[_User | None] = [None] * shop.users
        self._visits_per_ms = shop.events_per_s / _EVENTS_PER_VISIT * _BUSIEST / SECOND
        self._plans = _Calendar[_Move](shop.start_ms)
        self._put = self._plans.put
        self._returns = _Calendar[tuple[int, _User]](shop.start_ms)
        self._orders = 0
        median = log(16 * SECOND)
        self._glances = _table(rng, lambda: rng.lognormvariate(median, 0.9), low=900, high=6 * MINUTE)

    def moves(self) -> Iterator[_Move]:
        """Yield (time in ms, user, event name, properties), in order of time, for ever."""
        plans, returns = self._plans, self._returns
        expovariate = self._rng.expovariate
        per_ms = self._visits_per_ms
        arrival = self._start_ms + expovariate(per_ms)
        while True:
            end_ms = plans.end_ms  # First all that is decided before that, then all that happens before that.
            for at_ms, user in returns.until(end_ms):
                if at_ms >= user.busy_until_ms and user.basket:
                    self._come_back(user, at_ms)
            while arrival < end_ms:
                visitor = self._somebody(int(arrival))
                if visitor is not None:
                    self._visit(visitor, int(arrival))
                arrival += expovariate(per_ms)
            yield from plans.until(end_ms)

    def _somebody(self, now: int) -> _User | None:
        """Return who comes at *now*; None when the one who would is asleep, or everybody asked is inside."""
        users, random = self._users, self._random
        for _ in range(8):
            number = int(len(users) * random() ** 1.7)  # A tenth of the users makes a quarter of the visits.
            user = users[number]
            if user is None:
                user = users[number] = _User(number, self._rng, self._catalogue, self._start_ms)
            if now >= user.busy_until_ms:
                is_awake = random() * _BUSIEST < _RHYTHM[(now // HOUR + user.offset_h) % 24]
                return user if is_awake else None
        return None

    def _plan(self, at_ms: int, user: _User, name: str, body: Properties) -> None:
        self._put((at_ms, user, name, body))

    def _glance(self) -> int:
        return self._glances[int(self._random() * _TABLE)]

    def _visit(self, user: _User, at: int) -> None:
        """Plan a visit that begins at *at*."""
        random, put, glances = self._random, self._put, self._glances  # Most of the stream is made here.
        plan, catalogue, currency = self._plan, self._catalogue, user.currency
        if user.is_member and (not user.is_known or random() < 0.04):  # A log-in tells the traits again.
            user.is_known = True
            plan(at, user, _IDENTIFY, user.traits)
            at += 300
        if random() < 0.7:
            plan(at, user, "home_view", {"source": _SOURCES[int(random() * len(_SOURCES))]})
            at += glances[int(random() * _TABLE)]
        if random() < 0.012 and not user.subscribed:
            at = self._subscribe(user, at)
        seen: list[_Product] = [user.last_seen] if user.last_seen is not None and random() < 0.5 else []
        wanted = user.likes if random() < 0.55 else catalogue.category(random())
        while True:
            draw = random()
            if draw < 0.24 and seen:
                product = seen[int(random() * len(seen))]  # Comes back to something: it is liked.
                likely = 0.17
            else:
                if draw > 0.88:
                    wanted = catalogue.category(random())
                product = catalogue.product(wanted, random())
                seen.append(product)
                likely = 0.055
                if 0.24 <= draw < 0.38:
                    results = 3 + int(random() * 60)
                    plan(at, user, "search", {"query": product.noun.lower(), "results": results})
                    at += self._glance()
            put((at, user, "product_view", product.said[currency]))
            at += glances[int(random() * _TABLE)]
            user.last_seen = product
            if random() < likely:
                quantity = 1 if random() < 0.85 else 2 + int(random() * 2)
                user.basket.append((product, quantity))
                plan(at, user, "add_to_cart", _basket_line(product, quantity, currency))
                at += self._glance() // 2
            if random() < 0.2:
                break
        if user.basket:
            self._leave_with_basket(user, at, decided=0.42)
        else:
            user.busy_until_ms = at if random() > 0.02 or user.is_member else self._sign_up(user, at)

    def _come_back(self, user: _User, at: int) -> None:
        """Plan a visit of somebody who wants what is in the basket."""
        plan, random = self._plan, self._random
        plan(at, user, "home_view", {"source": "direct"})
        at += self._glance() // 2
        plan(at, user, "product_view", user.basket[-1][0].said[user.currency])
        self._leave_with_basket(user, at + self._glance(), decided=0.72 if random() < 0.9 else 0.0)

    def _leave_with_basket(self, user: _User, at: int, *, decided: float) -> None:
        """Plan the end of a visit: with probability *decided* it goes to the checkout."""
        plan, random, basket = self._plan, self._random, user.basket
        if random() < 0.09:
            product, quantity = basket.pop(int(random() * len(basket)))
            plan(at, user, "remove_from_cart", _basket_line(product, quantity, user.currency))
            at += self._glance() // 2
        del basket[:-12]  # What is older has been sold out.
        if basket and random() < decided:
            amount = _amount(basket, user.currency)
            begun = {"amount": amount, "currency": user.currency, "items": len(basket)}
            plan(at, user, "begin_checkout", begun)
            at += self._glance() + 8 * SECOND
            if not user.is_member and random() < 0.55:
                at = self._sign_up(user, at)
            if random() < 0.68:
                at = self._buy(user, at, amount)
        user.busy_until_ms = at
        if user.basket and random() < 0.4:
            away = self._rng.lognormvariate(log(28 * MINUTE), 1.1)
            back = at + min(max(int(away), 4 * MINUTE), 3 * DAY)
            self._returns.put((back, user))

    def _buy(self, user: _User, at: int, amount: float) -> int:
        """Plan a purchase and what follows it; return when the user is done."""
        plan, random, rng = self._plan, self._random, self._rng
        self._orders += 1
        user.orders += 1
        order_id = f"o-{self._start_ms // DAY}-{self._orders}"
        is_express = user.country == "CN" and random() < 0.5
        payments = _PAYMENTS.get(user.currency, _PAYMENTS_ABROAD)
        bought: Properties = {
            "order_id": order_id,
            "amount": amount,
            "currency": user.currency,
            "items": len(user.basket),
            "skus": [product.said[user.currency]["sku"] for product, _ in user.basket],
            "payment": payments[int(random() * len(payments))],
            "delivery": "express" if is_express else "standard",
            "order_number": user.orders,
        }
        if not user.is_member and "email" in user.traits:
            bought[_TRAITS] = {"email": user.traits["email"]}  # A guest leaves an address for the invoice.
        plan(at, user, "purchase", bought)
        user.basket = []
        user.spent += amount / _PER_CURRENCY[user.currency]
        tier = _tier(user.spent)
        if user.is_member and tier != user.tier:
            user.tier = tier
            user.traits = {**user.traits, "tier": tier}
            plan(at + SECOND, user, _IDENTIFY, {"tier": tier})
        taken = rng.uniform(22 * MINUTE, 65 * MINUTE) if is_express else rng.uniform(1 * DAY, 3 * DAY)
        delivered = at + int(taken)
        plan(delivered, user, "order_delivered", {"order_id": order_id, "delivery": bought["delivery"]})
        draw = random()
        if draw < 0.07:
            sent_back = {"order_id": order_id, "amount": amount, "currency": user.currency}
            sent_back["reason"] = _REASONS[int(random() * len(_REASONS))]
            away = min(rng.lognormvariate(log(3 * HOUR), 1.5), 10 * DAY)
            plan(delivered + 5 * MINUTE + int(away), user, "return_request", sent_back)
        elif draw < 0.2:
            away = min(rng.lognormvariate(log(2 * HOUR), 1.3), 10 * DAY)
            rating = (5, 5, 5, 4, 4, 3, 2, 1)[int(random() * 8)]
            plan(delivered + 2 * MINUTE + int(away), user, "review", {"order_id": order_id, "rating": rating})
        return at + self._glance()

    def _sign_up(self, user: _User, at: int) -> int:
        """Plan a sign-up, the traits first; return when the user is done."""
        user.is_member = user.is_known = True
        user.subscribed = user.traits["marketing_consent"] is True
        user.traits = {**user.traits, "tier": user.tier, "member_since": _day(at)}
        self._plan(at, user, _IDENTIFY, user.traits)
        self._plan(at + 250, user, "sign_up", {"method": "phone" if "phone" in user.traits else "email"})
        return at + self._glance()

    def _subscribe(self, user: _User, at: int) -> int:
        """Plan a subscription to the newsletter, which brings traits along; return when it is done."""
        if "email" not in user.traits:
            return at
        user.subscribed = True
        user.traits = {**user.traits, "marketing_consent": True}
        traits = {"email": user.traits["email"], "marketing_consent": True}
        self._plan(at, user, "newsletter_subscribe", {"place": "footer", _TRAITS: traits})
        return at + self._glance()


def _native(message_id: str, user: _User, name: str, body: Properties, timestamp: str) -> Properties:
    """Return the native record of a move."""
    if name == _IDENTIFY:
        return {
            "type": "identify",
            "message_id": message_id,
            "user_id": user.id,
            "timestamp": timestamp,
            "traits": body,
        }
    record: Properties = {
        "message_id": message_id,
        "user_id": user.id,
        "event": name,
        "timestamp": timestamp,
        "properties": body,
        "context": user.context,
    }
    if _TRAITS in body:
        record["properties"] = {key: value for key, value in body.items() if key != _TRAITS}
        record["traits"] = body[_TRAITS]
    return record


def _broken(record: Properties, rng: Random) -> bytes:
    """Return *record* as something that no reader can take."""
    match int(rng.random() * 4):
        case 0:
            value = orjson.dumps(record)
            return value[: len(value) * 2 // 3]  # The upload was cut.
        case 1:
            return orjson.dumps({**record, "user_id": None})
        case 2:
            return orjson.dumps({**record, "timestamp": "just now"})
        case _:
            return orjson.dumps([record])


def _basket_line(product: _Product, quantity: int, currency: str) -> Properties:
    said = product.said[currency]
    return {**said, "quantity": quantity, "amount": round(said["price"] * quantity, 2)}


def _amount(basket: list[tuple[_Product, int]], currency: str) -> float:
    return round(sum(float(product.said[currency]["price"]) * quantity for product, quantity in basket), 2)


def _table(rng: Random, draw: Callable[[], float], *, low: int, high: int) -> list[int]:
    """Return a table of draws to choose from at random, which is faster than drawing each time."""
    return [int(min(max(draw(), low), high)) for _ in range(_TABLE)]


def _day(at_ms: int) -> str:
    return date.fromordinal(719_163 + at_ms // DAY).isoformat()  # 1970-01-01 has the ordinal 719 163.


def _iso_writer() -> Callable[[int], str]:
    """Return a function that writes ms since 1970 as ISO 8601 and remembers the seconds written lately."""
    seconds: dict[int, str] = {}
    endings = [f".{ms:03d}Z" for ms in range(SECOND)]

    def iso(at_ms: int) -> str:
        second, ms = divmod(at_ms, SECOND)
        text = seconds.get(second)
        if text is None:
            if len(seconds) > 10_000:
                seconds.clear()
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            seconds[second] = text
        return text + endings[ms]

    return iso
