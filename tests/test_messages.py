"""Messages that stand in files: what they see, what they may do, and how they are checked and shown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from connectors.channels.base import Content, Unfit
from dataflow.cli import main
from dataflow.messages import Messages
from operators.templates.body import OUTPUT_MAX_BYTES, Given, parse_body
from operators.templates.missing import MISSING

NOW = 1_795_420_800_000


def given(unsubscribe_url: str | None = None, **variables: Any) -> Given:
    return Given(variables, unsubscribe_url, NOW)


def messages(folder: Path, **files: str) -> Messages:
    """Return the messages of *files*; `__` in a name stands for a dot."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return Messages(folder)


def rendered(text: str, *, is_html: bool = True, **variables: Any) -> object:
    return parse_body(text, is_html=is_html).render(given(**variables))


def test_a_message_has_the_parts_that_there_are_files_for(tmp_path: Path) -> None:
    found = messages(
        tmp_path, a__subject__liquid="To {{ vars.name }}", a__html__liquid="<p>{{ vars.name }}", b__txt="plain",
        c__css="p {}", b__txt__orig="old",
    )  # fmt: skip
    assert found.problems == []
    assert found.names == ["a", "b"]
    assert found.render("a", given(name="Tom & Jo")) == Content("To Tom & Jo", "", "<p>Tom &amp; Jo")
    assert found.render("b", given()) == Content("", "plain", "")


def test_without_a_folder_there_are_no_messages(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="no_template"):
        Messages(tmp_path / "templates").render("a", given())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a.txt", ".hidden", ""])
def test_no_name_leads_to_another_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / ".hidden.txt").write_text("hidden")
    with pytest.raises(Unfit, match="no_template"):
        messages(folder, a__txt="x").render(name, given())


def test_a_subject_is_one_line_whatever_the_values(tmp_path: Path) -> None:
    found = messages(tmp_path, a__subject__liquid="Hi {{ vars.name }}\n")
    assert found.render("a", given(name="Lina\r\nBcc: all@example.com")).subject == "Hi Lina Bcc: all@example.com"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{{ vars.x }}", "&lt;b&gt;&amp;"),
        ("{{ vars.x | upcase }}", "&lt;B&gt;&amp;"),
        ("{{ vars.x | safe }}", "<b>&"),
        ("{{ vars.x | escape }}", "&lt;b&gt;&amp;"),
        ("{{ vars.x | escape | newline_to_br }}", "&lt;b&gt;&amp;"),
        ("{{ vars.lines | escape | newline_to_br }}", "1<br />\n2"),
        ("{{ vars.lines | newline_to_br }}", "1&lt;br /&gt;\n2"),
        ("{% capture c %}<i>{{ vars.x }}</i>{% endcapture %}{{ c }}", "<i>&lt;b&gt;&amp;</i>"),
        ("{% assign c = vars.x %}{{ c }}", "&lt;b&gt;&amp;"),
        ("{% echo vars.x %}", "&lt;b&gt;&amp;"),
        ("{% cycle vars.x %}", "&lt;b&gt;&amp;"),
        ("{% for one in vars.list %}{{ one }}{% endfor %}", "&lt;b&gt;&amp;"),
        ("{{ vars.x | append: '<br>' | prepend: vars.x }}", "&lt;b&gt;&amp;&lt;b&gt;&amp;<br>"),
        ("{{ vars.none | default: '<i>friend</i>' }}", "<i>friend</i>"),
        ("{% if vars.x == '<b>&' %}same{% endif %}", "same"),
        ("{{ vars.list }}", "&lt;b&gt;&amp;"),
        ("{{ vars.object }}", "{&#34;a&#34;:&#34;&lt;b&gt;&#34;}"),
        ("{{ vars.number }}", "3"),
    ],
)
def test_in_html_values_are_escaped_once(text: str, wanted: str) -> None:
    values = {"x": "<b>&", "list": ["<b>&"], "object": {"a": "<b>"}, "lines": "1\n2", "number": 3}
    assert rendered(text, **values) == wanted


def test_in_a_subject_and_in_plain_text_nothing_is_escaped() -> None:
    assert rendered("{{ vars.x }}", is_html=False, x="<b>&") == "<b>&"


def test_now_is_when_the_action_was_sent_and_so_the_same_on_every_attempt() -> None:
    assert rendered("{{ 'now' | date: '%Y-%m-%d' }}") == "2026-11-23"


@pytest.mark.parametrize("text", ["{{ vars.name }}", "{{ unsubscribe_url }}", "{% for x in vars.name %}{% endfor %}"])
def test_what_is_missing_makes_a_message_unfit_and_is_named(tmp_path: Path, text: str) -> None:
    assert rendered(text) is MISSING
    with pytest.raises(Unfit) as refused:
        messages(tmp_path, a__txt=text).render("a", given(other="secret value"))
    assert refused.value.code == "missing_variable"
    assert ("vars.name" in refused.value.detail) != ("unsubscribe_url" in refused.value.detail)
    assert "secret" not in refused.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "{{ vars.x | times: 'a' | divided_by: 0 }}",
        "{% for a in (1..9999) %}{% for b in (1..9999) %}x{% endfor %}{% endfor %}",
        "{% for a in (1..9000) %}" + "x" * 100 + "{% endfor %}",
    ],
)
def test_what_would_take_or_write_too_much_is_unfit_and_no_value_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(Unfit) as refused:
        messages(tmp_path, a__txt=text).render("a", given(x="secret"))
    assert refused.value.code == "template_error"
    assert "secret" not in refused.value.detail


def test_a_mail_may_be_longer_than_a_text_in_a_flow() -> None:
    long = "{{ vars.x }}" + "<p>words</p>" * 10_000
    assert len(str(rendered(long, x=1))) > 100_000
    assert len(str(rendered("{{ vars.x }}", x="y" * (OUTPUT_MAX_BYTES - 1)))) == OUTPUT_MAX_BYTES - 1


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("plain", set()),
        ("{{ vars.a.b }}{{ vars['c d'] }}", {("a", "b"), ("c d",)}),
        ("{{ vars.a | default: vars.b }}", {("b",)}),
        ("{{ vars.a | upcase | default: 'x' }}", {("a",)}),
        ("{% if vars.a %}{{ vars.a.b }}{{ vars.c }}{% endif %}", {("c",)}),
        ("{% unless vars.a.b == 1 %}{{ vars.a.c }}{% endunless %}", {("a", "c")}),
        ("{% case vars.a %}{% when vars.b %}{% endcase %}{{ vars.a }}", set()),
        ("{% for x in vars.a %}{{ x.y }}{% endfor %}", {("a",)}),
        ("{% assign y = vars.a %}{{ y }}", {("a",)}),
        ("{% if vars.a contains vars.b and vars.c %}{% elsif vars.d %}{% endif %}", set()),
    ],
)
def test_what_a_message_needs_is_what_it_does_not_ask_for(tmp_path: Path, text: str, needs: set[Any]) -> None:
    found = parse_body(text, is_html=True).needs
    assert {path[1:] for path in found} == needs


# ---- nudge check ---------------------------------------------------------------------------------------------------

FLOW = """\
flow: cart
trigger: {event: add_to_cart}
steps:
  - {send: email, template: cart, vars: {nmae: "{{ profile.name }}", item: {sku: X}, list: "{{ entry.list }}"}}
"""


def checked(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, list[dict[str, Any]]]:
    status = main(["check", str(folder), "--json", *more])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "cart.yaml").write_text(FLOW)
    (tmp_path / "templates").mkdir()
    return tmp_path


def test_check_warns_of_what_a_message_needs_and_a_flow_does_not_give(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "{{ vars.name }} {{ vars.item.sku }} {{ vars.item.price }} {{ vars.list[0].x }} {{ vars.gift | default: 1 }}"
    messages(shop / "templates", cart__html=text)
    status, found = checked(shop, capsys)
    assert status == 0
    assert [(one["code"], one["severity"], one["path"]) for one in found] == [
        ("missing-variable", "warning", "steps.0.vars")
    ] * 2
    assert "vars.item.price" in found[0]["message"]
    assert "vars.name" in found[1]["message"]
    assert found[1]["hint"] == "did you mean 'nmae'?"
    assert (found[1]["line"], found[1]["column"]) == (4, 41)
    assert checked(shop, capsys, "--strict")[0] == 2


def test_check_says_nothing_where_everything_is_given(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages(shop / "templates", cart__html="{{ vars.nmae }} {{ vars.item.sku }} {{ vars.list.first }}")
    assert checked(shop, capsys) == (0, [])


@pytest.mark.parametrize(
    ("deliver", "codes"),
    [
        ("{provider: smtp}", ["no-message"]),
        ("{provider: sendgrid}", ["no-message"]),
        ("{provider: webhook}", []),
        ("null", []),
    ],
)
def test_check_warns_of_a_message_without_files_where_the_channel_takes_them_from_there(
    shop: Path, capsys: pytest.CaptureFixture[str], deliver: str, codes: list[str]
) -> None:
    messages(shop / "templates", cartt__html="x")
    (shop / "nudge.yaml").write_text(f"channels: {{email: {{deliver: {deliver}}}}}")
    _, found = checked(shop, capsys)
    assert [one["code"] for one in found] == codes
    assert all(one["hint"] == "did you mean 'cartt'?" for one in found)


def test_files_are_not_compared_where_the_provider_has_the_messages(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages(shop / "templates", cart__html="{{ vars.other }}")
    (shop / "nudge.yaml").write_text("channels: {email: {deliver: {provider: alibaba_sms}}}")
    assert checked(shop, capsys) == (0, [])


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        (b"<p>\n {{ name }}", "bad-template", (2, 5)), (b"{% include 'x' %}", "bad-template", (1, 4)),
        (b"{{ vars.x | nope }}", "bad-template", (1, 13)), (b"a\n\xff", "bad-encoding", (2, 1)),
        (b"{{ vars.x }}" + b"x" * 300_000, "bad-template", (1, 1)),
    ],
)  # fmt: skip
def test_check_tells_what_is_wrong_with_a_file_and_where(
    shop: Path, capsys: pytest.CaptureFixture[str], text: bytes, code: str, place: tuple[int, int]
) -> None:
    (shop / "templates" / "a.html.liquid").write_bytes(text)
    status, found = checked(shop, capsys)
    assert status == 2
    (problem,) = found
    assert (problem["code"], (problem["line"], problem["column"])) == (code, place), problem
    assert problem["file"] == str(shop / "templates" / "a.html.liquid")


def test_two_files_for_one_part_are_an_error(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages(shop / "templates", a__html="x", a__html__liquid="y")
    status, (problem,) = checked(shop, capsys)
    assert (status, problem["code"]) == (2, "duplicate-part")


# ---- nudge preview -------------------------------------------------------------------------------------------------


def test_preview_prints_a_message_with_the_variables_of_a_file(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages(
        shop / "templates", cart__subject="Hi {{ vars.name }}", cart__txt="{{ unsubscribe_url }}",
        cart__html="<p>{{ vars.name }}",
    )  # fmt: skip
    (shop / "nudge.yaml").write_text("")
    (shop / "vars.json").write_text('{"name": "Tom & Jo"}')
    monkeypatch.chdir(shop)
    assert main(["preview", "cart", "--vars", "vars.json"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Subject: Hi Tom & Jo\n\n--- txt ---\nhttps://unsubscribe.example/u/preview\n")
    assert said.endswith("--- html ---\n<p>Tom &amp; Jo\n")
    assert main(["preview", "cart", "--vars", "vars.json", "--part", "html"]) == 0
    assert capsys.readouterr().out == "<p>Tom &amp; Jo\n"
    monkeypatch.chdir("/")
    file = os.fspath(shop / "templates" / "cart.html")
    assert main(["preview", file, "--vars", str(shop / "vars.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["subject"] == "Hi Tom & Jo"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["crt"], "did you mean 'cart'?"),
        (["cart"], "cart.txt needs vars.name (missing_variable)"),
        (["cart", "--part", "css"], "there are subject, txt, html"),
        (["cart", "--vars", "list.yaml"], "the variables are an object"),
        (["cart", "--vars", "none.yaml"], "no such file"),
        (["bad"], "bad-template"),
    ],
)
def test_preview_says_what_is_wrong(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    messages(shop / "templates", cart__txt="{{ vars.name }}", bad__txt="{{ nobody }}")
    (shop / "nudge.yaml").write_text("")
    (shop / "list.yaml").write_text("[1]")
    monkeypatch.chdir(shop)
    assert main(["preview", *arguments]) == 2
    assert said in capsys.readouterr().err
