"""The history of the configuration holds no secret that the configuration holds."""

from limen.history import redacted


def test_secrets_of_routes_and_followers_are_left_out() -> None:
    text = b"""alerts:
  routes:
    - {kind: webhook, name: siem, url: "https://hooks.example/T0/secret-part", secret: a key of at least 24 characters}
    - {kind: slack, name: chat, url: "${env:HOOK}"}
audit: {key: /var/limen/audit.key}
"""
    kept, hidden = redacted(text, "limen.yaml")
    assert b"secret-part" not in kept
    assert b"24 characters" not in kept
    assert b"${env:HOOK}" in kept
    assert b"/var/limen/audit.key" in kept
    assert len(hidden) == 2
