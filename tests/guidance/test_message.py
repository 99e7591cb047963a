"""Sentences that the page says in its own language: their English, and what the page gets."""

from __future__ import annotations

import json
import math

import pytest
from lags_pack.guidance import Message

SAID = Message(
    "key", "{name} is {size} of {count}.", {"name": "a", "size": 1.2e-05, "count": 10000}
)


def test_english_is_what_the_log_and_errors_say() -> None:
    assert str(SAID) == "a is 1.2e-05 of 10000."
    assert str(ValueError(SAID)) == str(SAID)


def test_the_page_gets_numbers_as_numbers_and_json_can_hold_them() -> None:
    assert json.loads(json.dumps(SAID.to_json()))["values"] == SAID.values
    endless = Message("key", "{a}", {"a": math.inf}).to_json()
    assert json.loads(json.dumps(endless, allow_nan=False))["values"] == {"a": "inf"}


def test_a_value_that_is_missing_is_no_sentence() -> None:
    with pytest.raises(KeyError):
        str(Message("key", "{a}", {}))
