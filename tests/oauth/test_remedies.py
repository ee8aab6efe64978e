"""What to do about a failed step: each text says something, and the most specific one is told."""

from __future__ import annotations

from typing import get_args

import pytest

from limen.core.reasons import REASONS
from limen.oauth import remedies
from limen.oauth.recorder import Leg
from limen.oauth.remedies import ENTRA, remedy

TEXTS = remedies._TEXTS


@pytest.mark.parametrize("where", TEXTS, ids="/".join)
def test_every_row_can_be_reached_and_says_something(where: tuple[str, str, str]) -> None:
    leg, outcome, field = where
    assert leg in ("", *get_args(Leg))
    assert not outcome.startswith("identity.") or outcome in REASONS
    text = remedy(leg or "code", outcome or "any_error", field)
    assert text == TEXTS[where] and text.endswith(".") and len(text) > 25


@pytest.mark.parametrize("number", ENTRA)
def test_every_number_of_entra_is_known_wherever_it_stands(number: int) -> None:
    assert remedy("callback", "invalid_grant", "code", f"AADSTS{number}: whatever") == ENTRA[number]
    assert remedy("callback", "access_denied", f"AADSTS{number}") == ENTRA[number]
    assert ENTRA[number].rstrip().endswith(".")


def test_what_goes_well_needs_no_remedy() -> None:
    assert remedy("token", "ok") == remedy("token", "ok", "code", "AADSTS65001") == ""
    assert remedy("authorize", "something_new", "else") == ""


def test_the_loudest_complaints_have_an_answer() -> None:
    """Entra and `resource`, a scope lost on a leg, a final slash, a secret's id instead of its value."""
    assert "kind: entra" in remedy("callback", "invalid_target", detail="AADSTS9010010: ...")
    assert "every leg" in remedy("callback", "invalid_request", detail="AADSTS900144: ... 'scope'")
    assert "final slash" in remedy("authorize", "invalid_target", "resource")
    assert "*Value*" in remedy("provider", "invalid_client", detail="AADSTS7000215")
    assert "final slash" in remedy("resource_metadata", "not_found", "path")
