"""Templates: the rules L1 to L7 of the fine print, one class each, then safety and determinism."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from liquid import Environment

from operators.templates.bounds import LOOP_MAX, OUTPUT_MAX_BYTES, SOURCE_MAX_CHARS
from operators.templates.errors import TemplateFailed, TemplateSyntaxError
from operators.templates.filters import OUR_FILTERS, TEXT_FILTERS
from operators.templates.missing import MISSING
from operators.templates.parse import parse_template
from operators.templates.scope import ROOTS

NOW = int(datetime(2026, 11, 23, 8, 30, tzinfo=UTC).timestamp() * 1000)


class View(NamedTuple):
    profile: dict[str, Any] = {}
    entry: dict[str, Any] = {}
    event: dict[str, Any] = {}
    flow: str = "abandoned-cart"
    now_ms: int = NOW


ANN = View(
    profile={
        "name": "Ann",
        "age": 30,
        "score": 4.5,
        "vip": True,
        "no": False,
        "zero": 0,
        "nothing": None,
        "blank_text": "",
        "tags": ["a", "b"],
        "address": {"city": "Suzhou", "lines": ["x", {"y": 1}]},
        "first name": "Ann Lee",
        "trap": "{{ profile.name }}{% if true %}!{% endif %}",
    },
    entry={
        "sku": "X1",
        "limit": 3,
        "items": [{"sku": "b", "price": 2.5}, {"sku": "a", "price": None}, {"sku": "c", "price": 10}],
        "gaps": [1, None, 2],
        "none": [],
    },
    event={"name": "purchase"},
)


def render(text: str, scope: View = ANN) -> object:
    return parse_template(text).render(scope)


class TestL1SingleReference:
    """Exactly one reference keeps its type, everything else gives text."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("{{ profile.name }}", "Ann"),
            ("{{profile.age}}", 30),
            ("{{\tprofile.age\n}}", 30),
            ("{{- profile.age -}}", 30),
            ("{{ profile.score }}", 4.5),
            ("{{ profile.vip }}", True),
            ("{{ profile.no }}", False),
            ("{{ profile.zero }}", 0),
            ("{{ profile.tags }}", ["a", "b"]),
            ("{{ profile.address }}", {"city": "Suzhou", "lines": ["x", {"y": 1}]}),
            ("{{ profile.address.city }}", "Suzhou"),
            ("{{ profile.address.lines[1].y }}", 1),
            ("{{ profile['address']['city'] }}", "Suzhou"),
            ('{{ profile["first name"] }}', "Ann Lee"),
            ("{{ profile . address . city }}", "Suzhou"),
            ("{{ profile.tags[0] }}", "a"),
            ("{{ profile.tags[-1] }}", "b"),
            ("{{ profile.tags.size }}", 2),
            ("{{ profile.tags.first }}", "a"),
            ("{{ profile.tags.last }}", "b"),
            ("{{ profile.name.size }}", 3),
            ("{{ entry.limit }}", 3),  # A word of the language elsewhere.
            ("{{ entry.items[0].price }}", 2.5),
            ("{{ entry }}", ANN.entry),
            ("{{ event.name }}", "purchase"),
            ("{{ flow }}", "abandoned-cart"),
            ("{{ now }}", "2026-11-23T08:30:00.000Z"),
        ],
    )
    def test_keeps_its_type(self, text: str, value: object) -> None:
        template = parse_template(text)
        assert template.is_reference
        rendered = template.render(ANN)
        assert rendered == value
        assert type(rendered) is type(value)

    def test_also_where_a_part_of_the_path_is_a_reference(self) -> None:
        scope = View(profile={"prices": {"X1": 5}}, entry={"sku": "X1"})
        template = parse_template("{{ profile.prices[entry.sku] }}")
        assert template.is_reference
        assert template.render(scope) == 5
        assert template.render(View()) is MISSING

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("plain", "plain"),
            ("", ""),
            ("100 % } }} {", "100 % } }} {"),
            (" {{ profile.age }}", " 30"),
            ("{{ profile.age }}\n", "30\n"),
            (" {{- profile.age -}} ", "30"),
            ("{{ profile.age }}{{ profile.age }}", "3030"),
            ("{% if true %}{{ profile.age }}{% endif %}", "30"),
            ("{{ profile.age | default: 5 }}", "30"),
            ("{{ profile.age | plus: 5 }}", "35"),
            ("{{ 5 }}", "5"),
            ("{{ true }}", "true"),
            ("{{ 'x' }}", "x"),
            ("{% echo profile.age %}", "30"),
        ],
    )
    def test_everything_else_gives_text(self, text: str, written: str) -> None:
        template = parse_template(text)
        assert not template.is_reference
        assert template.render(ANN) == written

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            ("ä😀", "ä😀"),
            (17, "17"),
            (-0.5, "-0.5"),
            (17.0, "17.0"),
            (True, "true"),
            (False, "false"),
            ([], ""),
            ([1, "a", True, [2.5, ["z"]]], "1atrue2.5z"),
            ({"a": 1, "b": [True, None, "ü"]}, '{"a":1,"b":[true,null,"ü"]}'),
            ([{"a": 1}, 2], '{"a":1}2'),
        ],
    )
    def test_how_values_are_written(self, value: object, written: str) -> None:
        scope = View(entry={"x": value})
        assert render("[{{ entry.x }}]", scope) == f"[{written}]"
        assert render("{{ entry.x | append: '' }}", scope) == written
        assert render("{{ '' | append: entry.x }}", scope) == written

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            max_leaves=12,
        ),
        st.lists(st.sampled_from([".a", ".b", "['c']", "[0]", "[-1]", ".size", ".first", ".last"]), max_size=4),
    )
    def test_the_short_way_and_the_library_find_the_same(self, value: object, path: list[str]) -> None:
        scope = View(entry={"x": value})
        reference = "entry.x" + "".join(path)
        found = render(f"{{{{ {reference} }}}}", scope)
        asked = render(f"{{% if {reference} == nil %}}missing{{% endif %}}", scope)
        assert (found is MISSING) == (asked == "missing")
        if isinstance(found, str | int):
            written = str(found).lower() if isinstance(found, bool) else str(found)
            assert render(f"<{{{{ {reference} }}}}>", scope) == f"<{written}>"


class TestL2Null:
    """null is missing everywhere."""

    @pytest.mark.parametrize(
        "text",
        [
            "{{ profile.nothing }}",
            "{{ profile.nope }}",
            "{{ profile.nope.deeper }}",
            "{{ profile.name.deeper }}",
            "{{ profile.age.size }}",
            "{{ profile.tags[2] }}",
            "{{ profile.tags[-3] }}",
            "{{ profile.tags['a'] }}",
            "{{ profile.tags.a }}",
            "{{ profile.name[0] }}",
            "{{ profile[0] }}",
            "{{ entry.gaps[1] }}",
            "{{ entry.items[1].price }}",
            "{{ entry.none.first }}",
            "{{ flow.x }}",
            "{{ now.x }}",
            "Hi {{ profile.nothing }}",
            "{{ nil }}",
            "{{ entry.none | first }}",
            "{{ entry.items | find: 'sku', 'zzz' }}",
            "{{ entry.gaps }}!",  # null in a list that is written out,
            "{{ entry.gaps | join: ', ' }}",
            "{{ entry.items | map: 'price' | join: ', ' }}",
            "{% for one in entry.gaps %}{{ one }}{% endfor %}",
        ],
    )
    def test_is_missing(self, text: str) -> None:
        assert render(text) is MISSING

    def test_a_list_with_null_is_not(self) -> None:
        assert render("{{ entry.gaps }}") == [1, None, 2]
        assert render("{{ entry.gaps | compact | join: ', ' }}") == "1, 2"
        assert render("{{ entry.gaps | size }}") == "3"

    def test_an_attribute_called_size_or_first_is_only_that(self) -> None:
        """In Liquid `profile.size` is the number of attributes when there is none of that name."""
        assert render("{{ profile.size }}") is MISSING
        assert render("{{ profile.first | default: 'friend' }}") == "friend"
        assert render("{{ profile.size }}", View(profile={"size": "XL"})) == "XL"
        assert render("{{ profile.size }}", View(profile={"size": None})) is MISSING
        assert render("{{ profile.address | size }}") == "2"


class TestL3Missing:
    """Writing, looping over and filtering what is missing makes the variable missing; conditions may ask."""

    @pytest.mark.parametrize(
        "text",
        [
            "Hi {{ profile.nope }}",
            "{{ profile.nope | upcase }}",
            "{{ profile.nope | upcase | default: 'x' }}",
            "{{ profile.nope | date: '%Y' }}",
            "{{ profile.nope | size }}",
            "{{ 'Hi ' | append: profile.nope }}",
            "{{ profile.age | plus: profile.nope }}",
            "{{ entry.items | where: 'sku', profile.nope }}",
            "{{ profile.nope | default: entry.nope }}",
            "{% for one in profile.nope %}{{ one }}{% endfor %}",
            "{% for one in profile.nope %}{{ one }}{% else %}none{% endfor %}",
            "{% for one in (1..profile.nope) %}{{ one }}{% endfor %}",
            "{% for one in profile.tags limit: profile.nope %}{{ one }}{% endfor %}",
            "{% tablerow one in profile.nope %}{{ one }}{% endtablerow %}",
            "{% assign x = profile.nope %}{{ x }}",
            "{% assign x = profile.nope %}{{ x.y.z }}",
            "{% capture x %}{{ profile.nope }}{% endcapture %}Hi",
            "{% echo profile.nope %}",
            "{% cycle profile.nope, 'x' %}",
            "{% liquid echo profile.nope %}",
            "{% if profile.name %}{{ profile.nope }}{% endif %}",
            "{{ profile[profile.nope] }}!",
        ],
    )
    def test_a_use_makes_it_missing(self, text: str) -> None:
        assert render(text) is MISSING

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("{{ profile.nope | default: 'friend' }}", "friend"),
            ("{{ profile.nothing | default: 'friend' }}", "friend"),
            ("{{ profile.nope | default: profile.name }}", "Ann"),
            ("{{ profile.nope | default: entry.nope | default: 'x' }}", "x"),
            ("{{ profile.nope | default: '' }}", ""),
            ("{{ profile.nope | default }}", ""),
            ("{{ nil | default: 3 }}", "3"),
            ("{{ profile.nope | default: 'friend' | upcase }}", "FRIEND"),
            ("{% if profile.nope %}a{% else %}b{% endif %}", "b"),
            ("{% if profile.nothing %}a{% elsif profile.name %}b{% endif %}", "b"),
            ("{% unless profile.nope %}a{% endunless %}", "a"),
            ("{% if profile.nope == nil %}a{% endif %}", "a"),
            ("{% if profile.nope != nil %}a{% else %}b{% endif %}", "b"),
            ("{% if profile.nope == blank %}a{% endif %}", "a"),
            ("{% if profile.nope != blank %}a{% else %}b{% endif %}", "b"),
            ("{% if profile.nope == 'Ann' %}a{% else %}b{% endif %}", "b"),
            ("{% if profile.nope == false %}a{% else %}b{% endif %}", "b"),
            ("{% if profile.nope > 3 or profile.nope <= 3 %}a{% else %}b{% endif %}", "b"),
            ("{% if profile.nope contains 'x' %}a{% else %}b{% endif %}", "b"),
            ("{% if 'xyz' contains profile.nope %}a{% else %}b{% endif %}", "b"),
            ("{% case profile.nope %}{% when 'a' %}a{% else %}b{% endcase %}", "b"),
            ("{% case profile.nope %}{% when nil %}a{% else %}b{% endcase %}", "a"),
            ("{% assign x = profile.nope %}{% if x %}a{% else %}b{% endif %}", "b"),
            ("{% assign x = profile.nope %}{{ x | default: 'friend' }}", "friend"),
            ("{% for one in entry.items %}{{ one.price | default: '-' }} {% endfor %}", "2.5 - 10 "),
            ("{% if entry.items.size > 2 %}{{ entry.items.size }}{% endif %}", "3"),
            ("{% for one in entry.none %}{{ one }}{% else %}none{% endfor %}", "none"),
            ("{% if profile.nope %}{{ profile.nope }}{% endif %}Hi", "Hi"),
        ],
    )
    def test_asking_does_not(self, text: str, written: str) -> None:
        assert render(text) == written

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("{{ profile.blank_text }}", ""),
            ("[{{ profile.blank_text }}]", "[]"),
            ("{{ profile.blank_text | upcase }}", ""),
            ("{{ profile.blank_text | default: 'x' }}", "x"),  # As in Liquid: so it does for false and empty lists.
            ("{{ profile.no | default: 'x' }}", "x"),
            ("{{ profile.no | default: 'x', allow_false: true }}", "false"),
            ("{{ entry.none | default: 'x' }}", "x"),
            ("{{ profile.zero | default: 'x' }}", "0"),
            ("{% if profile.blank_text %}a{% endif %}", "a"),
        ],
    )
    def test_an_empty_text_is_not_missing(self, text: str, written: str) -> None:
        assert render(text) == written


class TestL4Fields:
    def test_now_is_stream_time_as_text(self) -> None:
        assert render("{{ now }}") == "2026-11-23T08:30:00.000Z"
        assert render("at {{ now }}", View(now_ms=NOW + 7)) == "at 2026-11-23T08:30:00.007Z"

    def test_flow_is_the_name(self) -> None:
        assert render("from {{ flow }}") == "from abandoned-cart"

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("{{ user.name }}", "did you mean 'profile.name' or 'entry.name'?"),
            ("{{ name }}", "did you mean 'profile.name' or 'entry.name'?"),
            ("{{ profil.name }}", "did you mean 'profile'?"),
            ("Hi {{ user.name | default: 'x' }}", "did you mean 'profile.name' or 'entry.name'?"),
            ("{% if user.name %}x{% endif %}", "did you mean 'profile.name' or 'entry.name'?"),
            ("{{ today | date: '%Y' }}", "the date is {{ 'now' | date: '%Y-%m-%d' }}"),
            ("{{ profile[name] }}", "did you mean 'profile.name' or 'entry.name'?"),
            ("{% for x in user.tags %}{% endfor %}{{ forloop.index }}", "did you mean 'profile.tags' or 'entry.tags'?"),
        ],
    )
    def test_others_are_errors(self, text: str, hint: str) -> None:
        with pytest.raises(TemplateSyntaxError, match="knows profile, entry, event, flow and now") as caught:
            parse_template(text)
        assert caught.value.hint == hint

    @pytest.mark.parametrize(
        ("text", "roots", "paths"),
        [
            ("plain", set(), set()),
            ("{{ profile.a.b }}", {"profile"}, {("profile", "a", "b")}),
            ("{{ entry.a[0]['b c'] }}", {"entry"}, {("entry", "a", 0, "b c")}),
            ("{{ now }} {{ flow }}", {"now", "flow"}, {("now",), ("flow",)}),
            ("{{ profile.a[entry.b].c }}", {"profile", "entry"}, {("profile", "a"), ("entry", "b")}),
            (
                "{% for x in entry.items %}{% if x.a == event.b %}{{ x.c | append: profile.d }}{% endif %}{% endfor %}",
                {"entry", "event", "profile"},
                {("entry", "items"), ("event", "b"), ("profile", "d")},
            ),
            ("{% assign x = entry.a %}{% capture y %}{{ x }}{% endcapture %}{{ y }}", {"entry"}, {("entry", "a")}),
            ("{% increment n %}{{ n }}{{ 'now' | date: '%Y' }}", set(), set()),
            ("{% case profile.a %}{% when entry.b %}{{ event.c }}{% endcase %}", {"profile", "entry", "event"}, None),
        ],
    )
    def test_what_a_template_refers_to_is_known(self, text: str, roots: set[str], paths: set[Any] | None) -> None:
        template = parse_template(text)
        assert template.roots == roots
        assert paths is None or template.paths == paths
        assert template.source == text
        assert template.is_constant is ("{" not in text)


class TestL5Dates:
    """ "now" and "today" are stream time in UTC."""

    @pytest.mark.parametrize("word", ["now", "today", "Now", " now "])
    def test_now_is_stream_time(self, word: str) -> None:
        template = parse_template(f"{{{{ '{word}' | date: '%Y-%m-%d %H:%M:%S.%L %z' }}}}")
        assert template.render(ANN) == "2026-11-23 08:30:00.000 +0000"
        assert template.render(View(now_ms=5)) == "1970-01-01 00:00:00.005 +0000"

    def test_no_clock_zone_or_language_of_the_machine_plays_a_part(self) -> None:
        code = (
            "from types import SimpleNamespace as S; from operators.templates.parse import parse_template;"
            't = \'{{ "now" | date: "%c %Z %s" }}|{{ 1700000000 | date: "%c" }}|{{ "2026-01-02" | date: "%A %s" }}\';'
            "print(parse_template(t).render(S(profile={}, entry={}, event={}, flow='', now_ms=0)))"
        )
        for machine in ({"TZ": "UTC"}, {"TZ": "Asia/Shanghai", "LC_ALL": "C.UTF-8", "LANG": "de_DE.UTF-8"}):
            ran = subprocess.run([sys.executable, "-c", code], env=machine, capture_output=True, text=True, check=True)
            assert ran.stdout.strip() == ("Thu Jan  1 00:00:00 1970 UTC 0|Tue Nov 14 22:13:20 2023|Friday 1767312000")

    @pytest.mark.parametrize(
        ("value", "layout", "written"),
        [
            ("2026-11-23", "%d.%m.%Y", "23.11.2026"),
            ("2026-11-23T19:30:05+08:00", "%H:%M:%S %z %:z %Z", "19:30:05 +0800 +08:00 +08:00"),
            ("2026-11-23 19:30-0330", "%H:%M %z", "19:30 -0330"),
            ("2026-11-23T19:30:05.123456Z", "%L %N %3N %6N %s", "123 123456000 123 123456 1795462205"),
            ("1965-03-14", "%-d %B", "14 March"),  # A birthday.
            (1_700_000_000, "%F %T", "2023-11-14 22:13:20"),  # Seconds, as in Liquid.
            (1_700_000_000_000, "%F %T", "2023-11-14 22:13:20"),  # Milliseconds, as in records.
            ("1700000000", "%F", "2023-11-14"),
            (1_700_000_000.5, "%L", "500"),
            ("2026-03-05T04:07:09Z", "%-m/%-d/%y %k:%M %l %I %P %p %e", "3/5/26  4:07  4 04 am AM  5"),
            ("2026-03-05T16:07:09Z", "%I:%M %p %r %R %D", "04:07 PM 04:07:09 PM 16:07 03/05/26"),
            ("2026-03-05T16:07:09Z", "%a %^a %A %b %h %^B %#p", "Thu THU Thursday Mar Mar MARCH pm"),
            ("2026-03-05T16:07:09Z", "%j %u %w %U %W %V %G %g %C", "064 4 4 09 09 10 2026 26 20"),
            ("2027-01-01", "%j %u %w %U %W %V %G", "001 5 5 00 00 53 2026"),
            ("2026-03-05", "%010d|%_3m|%-j|%3%|%t|%n|", "0000000005|  3|64|  %|\t|\n|"),
            ("2026-03-05", "%Q %E % %", "%Q %E % %"),
            # What is no date stays as it is.
            ("tomorrow", "%Y", "tomorrow"),
            ("2026-02-30", "%Y", "2026-02-30"),
            ("2026-11-23T25:00", "%Y", "2026-11-23T25:00"),
            ("2026-11-23T10:00+99:00", "%Y", "2026-11-23T10:00+99:00"),
            ("", "%Y", ""),
            ("9" * 30, "%Y", "9" * 30),
            (10**18, "%Y", str(10**18)),
            (True, "%Y", "true"),
            (["a"], "%Y", "a"),
            ("2026-11-23", "", "2026-11-23"),
        ],
    )
    def test_the_date_filter(self, value: object, layout: str, written: str) -> None:
        assert render(f"{{{{ entry.x | date: '{layout}' }}}}", View(entry={"x": value})) == written

    @given(st.datetimes(datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("9998-01-01")))
    def test_writes_numbers_as_the_system_does(self, moment: datetime) -> None:
        layout = "%Y %m %d %H %I %M %S %j %U %W %V %G %u %w %y %A %a %B %b"
        text = moment.isoformat(timespec="milliseconds")
        assert render(f"{{{{ entry.x | date: '{layout}' }}}}", View(entry={"x": text})) == moment.strftime(layout)


class TestL7SyntaxErrors:
    @pytest.mark.parametrize(
        ("text", "message", "hint"),
        [
            ("Hi {{ profile.name", "'{{' is never closed, at character 4", "put '}}' where it ends"),
            ("{{ profile.name }", "'{{' is never closed, at character 1", "put '}}' where it ends"),
            ("a\nb {% if x", "'{%' is never closed, at character 3 of line 2", "put '%}' where it ends"),
            ("{% if profile.x %}a", "'{% if %}' is never closed", "put '{% endif %}' where it ends"),
            ("{% for x in entry.y %}a{% endif %}", "'{% endif %}' has no beginning", ""),
            ("{% endif %}", "'{% endif %}' has no beginning", ""),
            ("{% else %}", "'{% else %}' has no beginning", ""),
            ("{% raw %}{{", "'{% raw %}' is never closed", "put '{% endraw %}' where it ends"),
            ("{{ profile.name | upcas }}", "unknown filter 'upcas', at character 19", "did you mean 'upcase'?"),
            ("{{ profile.name | xyzzy }}", "unknown filter 'xyzzy'", ""),
            ("{% assign x = profile.a | nope %}", "unknown filter 'nope'", ""),
            ("{% fro x in entry.y %}{% endfor %}", "unknown tag 'fro'", "did you mean 'for'?"),
            ("{% if 1 %}{% elseif 2 %}{% endif %}", "unknown tag 'elseif'", "did you mean 'elsif'?"),
            ("{% include 'x' %}", "templates cannot read others", "write its text here"),
            ("{% render 'x' %}", "templates cannot read others", "write its text here"),
            ("{% extends 'x' %}", "templates cannot read others", "write its text here"),
            ("{% liquid include 'x' %}", "templates cannot read others", "write its text here"),
            ("{{ }}", "a value is missing", ""),
            ("{{ profile.a | }}", "expected a name, found nothing more", ""),
            ("{{ profile.a 'x' }}", "a text in quotes is not expected here", "a filter comes after '|'"),
            ("{{ profile.a | default 'x' }}", "a text in quotes is not expected here", "what it takes after ':'"),
            ("{% if profile.a = 1 %}x{% endif %}", "'=' is not expected here", "equal is '=='"),
            ("{% if %}x{% endif %}", "the tag says nothing", ""),
            ("{% for x of entry.y %}{% endfor %}", "expected 'in', found a name", ""),
            ("{{ profile.0 }}", "a number cannot stand after a dot", "[0]"),
            ("{{ entry.limit | plus: 1 }}", "'limit' is a word of the language", "write ['limit'] instead of .limit"),
            ("{{ “x” }}", "unexpected '“'", "use straight quotes"),
            ("{{ [profile.a] }}", "a reference must begin with a name", ""),
            ("{{ profile.a + 1 }}", "unexpected '+'", ""),
            ("{% if profile.a %}" * 40, "tags are nested too deeply", ""),
            ("{{ profile" + "[profile" * 60 + "]" * 60 + " }}", "nested more than 50 deep", ""),
            ("{% if " + "true and " * 100 + "true %}{% endif %}", "nested more than 50 deep", ""),
            ("{{ 1 }}" + "x" * SOURCE_MAX_CHARS, "a template may have 16384 characters", ""),
            ("{{ profile.a | upcase" + " " * 1000 + "}}", "more than 200 blanks in a row", ""),
            ("{{ '" + "x" * 3000 + "' }}", "more than 2000 characters between", ""),
        ],
    )
    def test_say_what_and_where_and_what_next(self, text: str, message: str, hint: str) -> None:
        with pytest.raises(TemplateSyntaxError) as caught:
            parse_template(text)
        assert message in str(caught.value)
        assert hint in caught.value.hint
        assert len(str(caught.value)) < 150

    def test_of_several_the_first_is_reported(self) -> None:
        with pytest.raises(TemplateSyntaxError, match="'uno' is unknown"):
            parse_template("{{ uno }}{{ 1 | dos }}{{ tres }}")

    def test_a_plain_text_may_be_of_any_length(self) -> None:
        assert render("x" * 1_000_000) == "x" * 1_000_000

    @given(st.text(alphabet="{}%|.'\"[]() -:,=<>\n0aprofileendrawcomment", max_size=60))
    @settings(max_examples=500)
    def test_nothing_else_is_raised(self, text: str) -> None:
        for one in (text, f"{{{{{text}}}}}", f"{{%{text}%}}", f"{{% if profile.a {text} %}}{{% endif %}}"):
            with suppress(TemplateSyntaxError):
                parse_template(one)


class TestFilters:
    """Where ours differ from the library's, or the library's from Shopify's."""

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("{{ 2.5 | round }} {{ 3.5 | round }} {{ -2.5 | round }} {{ 2.4 | round }}", "3 4 -3 2"),
            ("{{ 1.005 | round: 2 }} {{ 5 | round: 2 }} {{ 15 | round: -1 }} {{ '2.5' | round }}", "1.01 5 20 3"),
            (
                "{{ 'abc' | truncate: 3 }} {{ 'abcd' | truncate: 3 }} {{ 'abcdef' | truncate: 5, '..' }}",
                "abc ... abc..",
            ),
            ("{{ 'abcdef' | truncate: 1 }} {{ 'abcdef' | truncate: 4, '' }}", "... abcd"),
            ("{{ 'a b c' | truncatewords: 3 }} {{ 'a b c' | truncatewords: 2, '!' }}", "a b c a b!"),
            ("{{ entry.items | sort: 'price' | map: 'sku' | join }}", "b c a"),
            ("{{ 'c,a,b' | split: ',' | sort | join: '' }}", "abc"),
            ("{{ entry.gaps | sort | compact | join: '-' }}", "1-2"),
            ("{{ 'b,a,b,c,a' | split: ',' | uniq | join: '' }}", "bac"),
            (
                "{{ 'abc' | replace: 'b', '-' }} {{ 'ab' | replace: '', '.' }} {{ 'abc' | replace: 'b' }}",
                "a-c .a.b. ac",
            ),
            ("{{ '<p>Hi <b>Ann</b></p><script>x<y</script><!-- no --><style>p{}</STYLE>!' | strip_html }}", "Hi Ann!"),
            ("{{ '3 < 4' | strip_html }} {{ '<a <b> c' | strip_html }} {{ '<!--> x' | strip_html }}", "3 < 4  c  x"),
            ("{{ (1..4) | join: '-' }} {{ (1..4) }} {{ 5 | join: '-' }}", "1-2-3-4 1..4 5"),
            ("{{ profile.vip | append: '!' }} {{ 'is ' | append: profile.vip }}", "true! is true"),
            ("{{ profile.address.lines | first }} {{ entry.items | last | default: 'x' | size }}", "x 2"),
            (
                "{{ 0.1 | plus: 0.2 }} {{ 7 | divided_by: 2 }} {{ 7 | divided_by: 2.0 }} {{ 'x' | plus: 1 }}",
                "0.3 3 3.5 1",
            ),
            (
                "{{ 'new,vip,,' | split: ',' | size }} {{ ',a' | split: ',' | size }} {{ '' | split: ',' | size }}",
                "2 2 0",
            ),
            ("{{ ' a  b ' | split: ' ' | join: '-' }} {{ 'abc' | split: '' | join: '-' }}", "a-b a-b-c"),
            (
                "{{ '12 EUR' | plus: 0 }} {{ '12.50' | times: 2 }} {{ '12.50 EUR' | plus: 1 }} {{ '-3x' | abs }}",
                "12 25.0 13 3",
            ),
            ("{{ 'EUR 12' | plus: 1 }} {{ 5 | at_most: '3 pieces' }} {{ '7 days' | divided_by: '2' }}", "1 3 3"),
            ("{% assign q = \"O'N\" %}{{ q | escape }}{{ ' & <b>' | escape }}", "O&#39;N &amp; &lt;b&gt;"),
            ("{{ '1 < 2 &amp; 3 & &#39; &x' | escape_once }}", "1 &lt; 2 &amp; 3 &amp; &#39; &amp;x"),
            ("{{ 'March 14, 2016' | date: '%b %d, %y' }} {{ '14 Apr 2021' | date: '%F' }}", "Mar 14, 16 2021-04-14"),
            ("{{ 'Wed, 14 Apr 2021 16:49:02 +0200' | date: '%F %T %z' }}", "2021-04-14 16:49:02 +0200"),
            ("{{ 'April 3rd 2021 4:05 PM' | date: '%F %R' }}", "2021-04-03 16:05"),
            (
                "{{ '2021-04-14 16:49:02 +0000' | date: '%F %T' }} {{ '2021-04-14 16:49 UTC' | date: '%R' }}",
                "2021-04-14 16:49:02 16:49",
            ),
            (
                "{{ 'April 31, 2021' | date: '%F' }} {{ 'Smarch 3, 2021' | date: '%F' }}",
                "April 31, 2021 Smarch 3, 2021",
            ),
            ("{{ 'äöü' | upcase | slice: 1, 2 }} {{ 'a b' | url_encode }} {{ '<' | escape }}", "ÖÜ a+b &lt;"),
            ("{% cycle 'a', 'b' %}{% cycle 'a', 'b' %}{% cycle 'a', 'b' %}{% cycle 'g': 'a', 'b' %}", "abaa"),
            ("{% increment n %}{% increment n %}{% decrement m %}", "01-1"),
            ("a{% break %}b", "a"),
            (
                "{% for i in (1..5) %}{% if i == 2 %}{% continue %}{% endif %}"
                "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "13",
            ),
            ("{% raw %}{{ x }}{% endraw %}{% comment %}{{ profile.nope }}{% endcomment %}{% # hi %}", "{{ x }}"),
            ("{% for pair in profile.address %}{{ pair[0] }},{% endfor %}", "city,lines,"),
        ],
    )
    def test_examples(self, text: str, written: str) -> None:
        assert render(text) == written

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{{ 1 | divided_by: 0 }}", "'divided_by' would divide by zero"),
            ("{{ 1.5 | modulo: 0 }}", "'modulo' would divide by zero"),
            ("{{ profile.name | append }}", "'append' takes other arguments"),
            ("{{ profile.name | upcase: 1, 2 }}", "'upcase' takes other arguments"),
            ("{{ profile.name | upcase: context: 1 }}", "'upcase' takes other arguments"),
            ("{{ profile.name | slice: 'x' }}", "'slice' cannot take a text with a text"),
            ("{{ profile.tags | concat: 5 }}", "'concat' cannot take a list with a number"),
            ("{{ profile.tags | map: 'x' }}", "'map' cannot take a list with a text"),
            ("{{ profile.address.lines | sort }}", "'sort' cannot take a list"),
            ("{{ profile.name | base64_decode }}", "'base64_decode' cannot take a text"),
            ("{% if profile.name > 3 %}x{% endif %}", "compares what cannot be compared"),
            ("{% if profile.age contains 3 %}x{% endif %}", "compares what cannot be compared"),
            ("{% for x in profile.tags limit: 'y' %}{% endfor %}", "no whole number"),
            ("{{ 1e300 | times: 1e300 }}".replace("1e300", "1" + "0" * 100), "'times' is too large"),
        ],
    )
    def test_failures_name_no_values(self, text: str, message: str) -> None:
        with pytest.raises(TemplateFailed) as caught:
            render(text)
        assert message in str(caught.value)
        assert "Ann" not in str(caught.value)


def loop(body: str) -> str:
    return f"{{% for i in (1..{LOOP_MAX}) %}}{body}{{% endfor %}}"


BIG = View(
    entry={
        "text": "x" * 500_000,
        "open": "<" * 60_000,
        "texts": [str(number) for number in range(9_000)],
        "rows": [{"sku": f"s{number}", "price": number} for number in range(20_000)],
        "lists": [[1] * 100] * 1_000,
    },
    event={"rows": [{"sku": f"s{number}", "price": number} for number in range(20_000)]},
)


class TestBounds:
    """Whatever the template and the data, rendering ends soon and takes little memory."""

    @pytest.mark.parametrize(
        "text",
        [
            "{% for i in (1..1000000000) %}x{% endfor %}",
            "{% for i in (1..1000000000) reversed %}x{% endfor %}",
            "{% for i in (1..99999999999999999999999) limit: 1 %}x{% endfor %}",
            "{% tablerow i in (1..1000000000) cols: 2 %}x{% endtablerow %}",
            "{{ (1..1000000000) | join: ',' }}",
            "{{ (1..1000000000) | reverse | first }}",
            "{% if (1..99999999999999) contains 'x' %}{% endif %}",
            "{% assign r = (1..99999999999999) %}{% if r contains 1.5 %}{% endif %}",
            loop(loop("x")),
            loop("0123456789"),
            loop("{% if 1 == 1 and 2 == 2 %}{% endif %}" * 300),
            loop("{% assign x = i %}" * 50),
            loop("{% if true %}{% endif %}" * 200),
            "{% for i in (1..100) %}{% for j in (1..100) %}{% endfor %}{% endfor %}" * 50,
            "{% for x in entry.rows %}{{ x.sku }}{% endfor %}",
            "{% for x in entry.texts %}{% for y in forloop %}{% endfor %}{% endfor %}",
            "{% assign s = 'xxxxxxxxxx' %}" + loop("{% assign s = s | append: s %}"),
            "{% assign s = 'xxxxxxxxxx' %}" + loop("{% capture s %}{{ s }}{{ s }}{% endcapture %}"),
            "{% assign s = 'xxxxxxxxxx' %}" + loop("{% assign s = s | replace: 'x', s %}"),
            "{% assign s = entry.text | slice: 0, 60000 %}{{ s | replace: '', s }}",
            "{% assign s = entry.text | slice: 0, 60000 %}{{ s | split: '' | join: s }}",
            "{% assign n = 9 %}" + loop("{% assign n = n | times: n %}"),
            "{% assign n = 9.5 %}" + loop("{% assign n = n | times: n %}"),
            "{% assign l = entry.texts %}" + loop("{% assign l = l | concat: l %}"),
            "{% assign l = entry.lists %}" + loop("{% assign l = l | concat: l | reverse %}"),
            "{{ entry.text | split: '' | uniq | size }}{{ entry.rows | uniq | size }}",
            loop("{% if entry.rows == event.rows %}{% endif %}"),
            loop("{% case entry.rows %}{% when event.rows %}{% endcase %}"),
            loop("{% if entry.texts contains 'zz' %}{% endif %}"),
            loop("{% if entry.text contains 'zz' %}{% endif %}"),
            loop("{% assign x = entry.rows | where: 'sku', 's1' %}"),
            loop("{% assign x = entry.texts | sort %}"),
            loop("{% assign x = entry.open | escape | escape_once %}"),
            loop("{% assign x = entry.text | url_encode %}"),
            loop("{{ entry.lists | join: '' | truncate: 1 }}"),
            loop("{% cycle entry.rows, entry.rows %}"),
            loop("{{ 'now' | date: '" + "%c" * 900 + "' }}"),
            "{{ entry.text }}",
            "{{ entry.text | base64_encode }}",
            "{{ entry.text | replace: 'x', '9' | plus: 1 }}",
            "{{ 1.5 | round: 999999999 }}",
            "{{ 1.5 | round: -999999999 }}",
            "{% for i in (1..1) %}" * 29 + "{{ i }}" + "{% endfor %}" * 29,
        ],
    )
    def test_the_unbounded_fails(self, text: str) -> None:
        scope = BIG if text != "{{ entry.text }}" else View(entry={"text": "x" * (OUTPUT_MAX_BYTES + 1)})
        template = parse_template("-" + text)
        with pytest.raises(TemplateFailed) as caught:
            template.render(scope)
        assert len(str(caught.value)) < 120

    @pytest.mark.parametrize(
        "text",
        [
            "{% assign s = 'xxxxxxxxxx' %}" + loop("{% assign s = s | append: s %}"),
            "{% assign s = 'xxxxxxxxxx' %}" + loop("{% capture s %}{{ s }}{{ s }}{% endcapture %}"),
            "{% assign s = entry.text | slice: 0, 60000 %}{{ s | replace: '', s }}",
            "{% assign s = entry.text | slice: 0, 60000 %}{{ s | split: '' | join: s }}",
            "{% assign l = entry.texts %}" + loop("{% assign l = l | concat: l %}"),
            "{{ entry.text | split: '' | size }}",
        ],
    )
    def test_memory_is_bounded(self, text: str) -> None:
        template = parse_template(text)
        tracemalloc.start()
        try:
            with pytest.raises(TemplateFailed):
                template.render(BIG)
            assert tracemalloc.get_traced_memory()[1] < 100_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            (loop("{{ i }}"), "".join(str(number) for number in range(1, LOOP_MAX + 1))),
            ("{% for i in (1..100) %}{% for j in (1..100) %}.{% endfor %}{% endfor %}", "." * 10_000),
            ("{{ entry.text | truncate: 10 }}", "xxxxxxx..."),
            ("{{ entry.open | strip_html | size }}", "60000"),
            ("{{ entry.rows | size }} {{ entry.rows[19999].sku }}", "20000 s19999"),
            ("{% if entry.rows == event.rows %}same{% endif %}", "same"),
            ("{{ 'abc' | truncate: 999999999999999999999 }}", "abc"),
            ("{{ 'abc' | slice: 0, 999999999999999999999 }}", "abc"),
            ("{{ 'now' | date: '%999999999d' }}", "%999999999d"),
        ],
    )
    def test_the_large_succeeds(self, text: str, written: str) -> None:
        assert render(text, BIG) == written

    @pytest.mark.parametrize(
        "text",
        [
            "{{" * 990 + "}}",
            ("{{" + " " * 200 + "}}") * 80,
            "{{" + "(" * 1990 + "}}",
            "{{" + "['" * 990 + "}}",
            "{% raw %}" * 1000,
            "{% comment %}" * 1000,
            "{% doc %}" * 1000,
            "{{" * 8000,
            "{" * 16_000,
            "{{ profile" + "a-" * 8000,
            "{{ profile" + "[ " * 8000,
            "{{" + " " * 16_000,
            "{% liquid\n" + "if true\n" * 200 + "%}",
        ],
    )
    def test_parsing_ends_too(self, text: str) -> None:
        with pytest.raises(TemplateSyntaxError):
            parse_template(text)


class TestSafety:
    def test_values_are_not_templates(self) -> None:
        assert render("{{ profile.trap }}") == ANN.profile["trap"]
        assert render("x{{ profile.trap | append: profile.trap }}") == f"x{ANN.profile['trap'] * 2}"
        assert render("{% assign x = profile.trap %}<{{ x }}>") == f"<{ANN.profile['trap']}>"

    @pytest.mark.parametrize(
        "path",
        [
            "profile.__class__",
            "profile.__class__.__mro__",
            "profile.keys",
            "profile.items",
            "profile.name.upper",
            "profile.name.__len__",
            "profile.tags.append",
            "profile.tags.__class__",
            "profile['__class__']",
            "now.__class__",
            "flow.__init__.__globals__",
            "profile.age.real",
        ],
    )
    def test_paths_reach_data_only(self, path: str) -> None:
        assert render(f"{{{{ {path} }}}}") is MISSING
        assert render(f"{{{{ {path} | default: 'safe' }}}}") == "safe"
        assert render(f"{{% assign x = {path} %}}{{{{ x | default: 'safe' }}}}") == "safe"

    def test_loop_variables_have_no_way_out_either(self) -> None:
        for name in ("__class__", "it", "step", "_keys", "_index", "__init__"):
            text = f"{{{{ forloop.{name} | default: 'safe' }}}}{{% break %}}"
            assert render(f"{{% for x in profile.tags %}}{text}{{% endfor %}}") == "safe"

    def test_rendering_changes_no_data(self) -> None:
        before = copy.deepcopy(ANN)
        for text in (
            "{{ entry.items | sort: 'sku' | reverse | map: 'sku' | join }}",
            "{{ profile.tags | concat: profile.tags | uniq | size }}",
            "{% assign profile = 5 %}{{ profile }}{% capture entry %}x{% endcapture %}{{ entry }}",
            "{% for profile in entry.items %}{{ profile.sku }}{% endfor %}{% increment event %}",
        ):
            assert isinstance(render(text), str)
        assert before == ANN

    def test_renderings_share_nothing(self) -> None:
        template = parse_template("{% increment n %}{% cycle 'a', 'b' %}{% assign x = x | default: 'first' %}{{ x }}")
        assert template.render(ANN) == template.render(ANN) == "0afirst"

    def test_plain_texts_and_references_do_without_the_library(self) -> None:
        code = (
            "import sys; from types import SimpleNamespace as S; from operators.templates.parse import parse_template\n"
            "scope = S(profile={'a': [1]}, entry={}, event={}, flow='f', now_ms=0)\n"
            "for text in ('plain', '{{ profile.a[0] }}', \"{{ entry['x y'] }}\", '{{ now }}', '{{- flow -}}'):\n"
            "    parse_template(text).render(scope)\n"
            "assert 'liquid' not in sys.modules\n"
            "parse_template('{{ profile.a | size }}')\n"
            "assert 'liquid' in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_template_equals_its_like_and_can_be_copied(self) -> None:
        for text in ("plain", "{{ profile.name }}", "Hi {{ profile.name }}"):
            template = parse_template(text)
            for other in (parse_template(text), copy.deepcopy(template), pickle.loads(pickle.dumps(template))):
                assert other == template
                assert hash(other) == hash(template)
                assert other.render(ANN) == template.render(ANN)
            assert template != parse_template(text + "!")
            assert text in repr(template)

    def test_a_year_of_five_digits_is_a_failure_and_no_crash(self) -> None:
        for text in ("{{ now }}", "{{ now }}!"):
            try:
                written = render(text, View(now_ms=10**15))
            except TemplateFailed:
                continue
            assert isinstance(written, str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
FILTERS = sorted(Environment().filters)
PATHS = st.builds(
    "{}{}".format,
    st.sampled_from(["profile", "entry.a", "entry.b", "event.c", "flow", "now", "x"]),
    st.sampled_from(["", ".a", ".b.c", "[0]", "[-1]", "['b']", ".size", ".first", ".last", "[entry.a]", "[x]"]),
)
LITERALS = ["nil", "true", "false", "0", "-1", "7", "2.5", "9" * 20, "''", "'a'", "','", "'%Y'", "'now'", "'<b>'"]
VALUES = PATHS | st.sampled_from([*LITERALS, "(1..3)", "(x..entry.a)"])
FILTER_USES = st.builds(
    lambda name, args: f" | {name}" + (f": {', '.join(args)}" if args else ""),
    st.sampled_from(FILTERS),
    st.lists(VALUES, max_size=2),
)
CONDITIONS = st.builds(
    "{} {} {}".format,
    VALUES,
    st.sampled_from(["==", "!=", "<", ">=", "contains", "and", "or"]),
    VALUES | st.sampled_from(["empty", "blank"]),
)
LEAVES = (
    st.sampled_from(["text", " \n", "{% increment n %}", "{% break %}", "{% continue %}"])
    | st.builds(
        lambda value, filters: f"{{{{ {value}{''.join(filters)} }}}}", VALUES, st.lists(FILTER_USES, max_size=3)
    )
    | st.builds(
        lambda value, filters: f"{{% assign x = {value}{''.join(filters)} %}}",
        VALUES,
        st.lists(FILTER_USES, max_size=2),
    )
    | st.builds("{{% cycle {}, {} %}}".format, VALUES, VALUES)
)


def around(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, CONDITIONS, inner, inner)
        | st.builds("{{% unless {} %}}{}{{% endunless %}}".format, CONDITIONS, inner)
        | st.builds("{{% case {} %}}{{% when {}, {} %}}{}{{% endcase %}}".format, VALUES, VALUES, VALUES, inner)
        | st.builds("{{% for x in {} reversed %}}{}{{% endfor %}}".format, VALUES, inner)
        | st.builds("{{% for y in {} limit: {} offset: {} %}}{}{{% endfor %}}".format, VALUES, VALUES, VALUES, inner)
        | st.builds("{{% tablerow x in {} cols: {} %}}{}{{% endtablerow %}}".format, VALUES, VALUES, inner)
        | st.builds("{{% capture x %}}{}{{% endcapture %}}{{{{ x }}}}".format, inner)
        | st.builds("{{% ifchanged %}}{}{{% endifchanged %}}".format, inner)
    )


PIECES = LEAVES | around(LEAVES) | around(LEAVES | around(LEAVES))


class TestAnyTemplateAndData:
    @given(st.lists(PIECES, min_size=1, max_size=3), JSON, JSON, st.dictionaries(st.sampled_from("abc"), JSON))
    @settings(max_examples=300)
    def test_gives_text_or_missing_or_fails_and_twice_the_same(
        self, pieces: list[str], first: object, second: object, event: dict[str, Any]
    ) -> None:
        text = "{% assign x = entry.b %}" + "".join(pieces)
        template = parse_template(text)
        scope = View(profile={"a": first, "b": {"c": second}}, entry={"a": first, "b": second}, event=event)
        before = json.dumps(scope)
        outcomes: list[object] = []
        for _ in range(2):
            try:
                outcomes.append(template.render(scope))
            except TemplateFailed as failure:
                outcomes.append(f"failed: {failure}")
        assert outcomes[0] == outcomes[1]
        assert isinstance(outcomes[0], str) or outcomes[0] is MISSING
        assert "an unexpected" not in str(outcomes[0])
        assert json.dumps(scope) == before
        assert template.roots <= set(ROOTS)

    def test_the_filters_of_the_library_are_those_we_have_looked_at(self) -> None:
        """A new one must be looked at before it is in: is it bounded, does it read a clock, does it take text?"""
        digest = hashlib.sha256(" ".join(FILTERS).encode()).hexdigest()
        assert (len(FILTERS), digest[:16]) == (62, "ef7270e97b6f9681")
        assert OUR_FILTERS.keys() | TEXT_FILTERS <= set(FILTERS)
