"""Secrets of many kinds are found and redacted wherever they stand; what only looks like one passes."""

from __future__ import annotations

import random

import pytest
from sensitive_material import TEMPLATES, build, jwt, pem, secrets

from limen.detection.sensitive import FORMATS, find, redact

AROUND = ("", "status: running, config is ", "설정값은 ", "{'env': '", "\n> ")


def kinds(text: str, hint: str = "") -> set[str]:
    return {hit.kind for hit in find(text, hint) if hit.family == "secret"}


@pytest.mark.parametrize(("kind", "text"), secrets(20), ids=lambda value: value if len(value) < 24 else "")
def test_planted_secrets_are_found_and_redacted(kind: str, text: str) -> None:
    for before in AROUND:
        whole = f"{before}{text}\nnext line"
        found = [hit for hit in find(whole) if hit.family == "secret"]
        assert kind in {hit.kind for hit in found}, (before, found)
        assert all(hit.confidence >= 0.5 for hit in found)
        clean = redact(whole, found)
        assert f"[redacted:{kind}]" in clean
        assert clean.startswith(before)
        assert clean.endswith("next line")
        assert not [hit for hit in find(clean) if hit.family == "secret"]


def test_there_are_more_than_forty_kinds_and_each_is_named_once_per_shape() -> None:
    assert len({form.kind for form in FORMATS}) >= 100
    assert len(TEMPLATES) >= 60


@pytest.mark.parametrize("seed", range(8))
def test_recall_holds_for_many_draws(seed: int) -> None:
    made = secrets(1000 + seed)
    missed = [kind for kind, text in made if kind not in kinds(text)]
    assert len(missed) * 100 <= len(made), missed


def test_several_secrets_in_one_text_keep_their_places() -> None:
    dice = random.Random(3)
    first, second = build("ghp_{a36}", dice), build("AKIA{u16}", dice)
    text = f"한국어 {first} und größer {second}, ende"
    hits = find(text)
    assert [text[hit.start : hit.end] for hit in hits] == [first, second]
    assert redact(text, hits) == "한국어 [redacted:github_token] und größer [redacted:aws_key], ende"


def test_two_secrets_with_one_sign_between_them_are_both_found() -> None:
    dice = random.Random(4)
    text = ",".join(build("ghp_{a36}", dice) for _ in range(5))
    assert len(find(text)) == 5


TWINS = (
    "AKIA" + "IOSFODNN7EXAMPLE",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",
    "ghp_" + "x" * 36,
    "GITHUB_TOKEN=<your-token>",
    "Authorization: Bearer YOUR_API_KEY_GOES_HERE_1234",
    "Authorization: Bearer ${GITHUB_TOKEN_V2_FROM_VAULT}",
    "api_key = os.environ['OPENAI_API_KEY_2024']",
    "const token = process.env.SLACK_BOT_TOKEN_2",
    "password: string (required, at least 8 characters)",
    "password = getpass.getpass('Password 1: ')",
    "The token is refreshed every 3600 seconds by the authorization server.",
    "postgresql://user:password@localhost:5432/db",
    "postgres://app:${DB_PASSWORD}@db/app",
    "mysql://root:<password>@host/db",
    "https://example.org:8443/path@2.0",
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ\n-----END CERTIFICATE-----",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "id: 550e8400-e29b-41d4-a716-446655440000",
    "token_id: 550e8400-e29b-41d4-a716-446655440000",
    '"nextPageToken": null, "tokens_used": 1834, "max_tokens": 4096',
    "integrity sha512-Yxk4vYbJh0mGzLq3pS8nT6wRrXcVdEfGh1Jk2Lm3Np4Qr5St6Uv7Wx8Yz9Ab0Cd==",
    "sk-learn-contrib-categorical-encoding-utils-and-more",
    "secretsmanager:GetSecretValue arn:aws:secretsmanager:us-east-1:210987654321:secret:db-a1b2c3",
    "the secret of success: hard_work_and_patience_every_day",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
    "passwordField: document.getElementById('password2')",
    "PublicKeyToken=b77a5c561934e089",
    "x-request-id: 7c1f2e9a4b3d4f5e8a6b7c8d9e0f1a2b",
)


@pytest.mark.parametrize("text", TWINS)
def test_honest_twins_pass(text: str) -> None:
    assert not kinds(text), find(text)


def test_a_parameter_name_tells_what_its_value_is() -> None:
    dice = random.Random(5)
    value = build("{a24}7", dice)
    assert not kinds(value)
    assert kinds(value, "apiKey") == {"generic_secret"}
    assert kinds(value, "client-secret") == {"generic_secret"}
    assert kinds(build("Aa1!{a8}", dice), "db_password") == {"password"}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("550e8400-e29b-41d4-a716-446655440000", "token"),
        ("main-branch-feature-2", "key"),
        ("issue title about a password", "password"),
        ("users/2024/report.pdf", "api_key"),
        ("Jane Doe the 2nd of York", "author"),
        ("12345678901234567890", "token"),
    ],
)
def test_names_alone_do_not_make_secrets(value: str, hint: str) -> None:
    assert not kinds(value, hint)


def test_a_cut_private_key_and_an_escaped_one_are_taken_whole() -> None:
    dice = random.Random(6)
    key = pem(dice)
    cut = key[: len(key) // 2]
    assert redact("x " + cut, find("x " + cut)) == "x [redacted:private_key]"
    escaped = '{"private_key": "' + key.replace("\n", "\\n") + '\\n"}'
    clean = redact(escaped, find(escaped))
    assert "[redacted:private_key]" in clean
    assert not any(line in clean for line in key.split("\n")[1:-1])


def test_broken_text_is_scanned_like_any_other() -> None:
    dice = random.Random(7)
    token = build("ghp_{a36}", dice)
    text = f"\ud800\x00{token}\udfff\ufeff"
    hits = find(text)
    assert [text[hit.start : hit.end] for hit in hits] == [token]


def test_redaction_takes_overlapping_and_unsorted_hits() -> None:
    text = f"a {jwt(random.Random(8))} b 4111-1111-1111-1111"
    hits = find(text)
    assert redact(text, [*reversed(hits), *hits]) == "a [redacted:jwt] b [redacted:card]"


def test_hits_never_show_what_they_found() -> None:
    secret = build("ghp_{a36}", random.Random(9))
    assert secret not in repr(find(secret))
