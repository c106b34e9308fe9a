"""A token says what it was made for, and nobody else can make one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.tokens import OPEN, UNSUBSCRIBE, Token, make_token, read_token

KEY = "a key of the gateway"
LINA = Token("9f0c" * 8, "lina", "email", "marketing")


@given(st.text(max_size=256), st.binary(min_size=16, max_size=16))
def test_a_token_gives_what_it_was_made_of(user_id: str, action_id: bytes) -> None:
    token = Token(action_id.hex(), user_id, "email", "marketing")
    text = make_token(KEY, UNSUBSCRIBE, token)
    assert text.isascii()
    assert all(one.isalnum() or one in "-_" for one in text)
    assert read_token([KEY], UNSUBSCRIBE, text) == token


def test_a_changed_token_is_none() -> None:
    text = make_token(KEY, UNSUBSCRIBE, LINA)
    raw = base64.urlsafe_b64decode(text + "==")
    for place in range(len(raw)):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        assert read_token([KEY], UNSUBSCRIBE, base64.urlsafe_b64encode(changed).decode().rstrip("=")) is None
    for cut in range(len(text)):
        assert read_token([KEY], UNSUBSCRIBE, text[:cut]) is None


@pytest.mark.parametrize("text", ["", "a", "=", "....", "ü" * 8, "A" * 43, "A" * 5000, "../../etc", "a b"])
def test_any_other_text_is_none(text: str) -> None:
    assert read_token([KEY], UNSUBSCRIBE, text) is None


def test_a_token_is_good_for_one_kind_of_link_and_for_keys_that_are_known() -> None:
    text = make_token(KEY, UNSUBSCRIBE, LINA)
    assert read_token([KEY], OPEN, text) is None
    assert read_token(["another key, as long"], UNSUBSCRIBE, text) is None
    assert read_token([], UNSUBSCRIBE, text) is None
    assert read_token(["the new key, as long", KEY], UNSUBSCRIBE, text) == LINA


def test_tokens_stay_as_they_are_for_links_in_mails_of_years_ago() -> None:
    assert (
        make_token(KEY, UNSUBSCRIBE, LINA) == "nwyfDJ8MnwyfDJ8MnwyfDGVtYWlsAG1hcmtldGluZwBsaW5hELFM6MsJQJc9E5VP3wqj4A"
    )
