"""Formats of credentials that messaging, payment, model and monitoring services issue, and of their webhooks."""

from __future__ import annotations

from typing import Final

from limen.detection.secrets_formats import START, Format, token

_URL64: Final = "[A-Za-z0-9_-]"
_ALNUM: Final = "[A-Za-z0-9]"
_HEX: Final = "[0-9a-f]"
_UUID: Final = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"

MODELS: Final = (
    Format("openai_key", ("T3BlbkFJ",), rf"{START}(sk-(?:[a-z]{{2,12}}-)?{_URL64}{{16,}}T3BlbkFJ{_URL64}{{16,}})"),
    token("openai_project_key", "sk-proj-", "sk-svcacct-", "sk-admin-", body=f"{_URL64}{{40,}}"),
    token("anthropic_key", "sk-ant-", body=f"(?:[a-z]{{3,8}}[0-9]{{2}}-)?{_URL64}{{60,}}"),
    token("openrouter_key", "sk-or-v1-", body=f"{_HEX}{{64}}"),
    token("limen_key", "limen_", body=f"{_HEX}{{12}}_{_HEX}{{72}}"),
    token("huggingface_token", "hf_", body="[A-Za-z0-9]{34,}", random=12),
    token("replicate_token", "r8_", body=f"{_ALNUM}{{37}}"),
    token("groq_key", "gsk_", body=f"{_ALNUM}{{50,}}"),
    token("perplexity_key", "pplx-", body=f"{_ALNUM}{{40,}}"),
    token("xai_key", "xai-", body=f"{_ALNUM}{{70,}}"),
    token("langsmith_key", "lsv2_pt_", "lsv2_sk_", body=f"{_HEX}{{32}}_{_HEX}{{10}}"),
    token("langfuse_key", "sk-lf-", body=_UUID),
    token("pinecone_key", "pcsk_", body=f"{_ALNUM}{{5,}}_{_ALNUM}{{40,}}"),
    token("nvidia_key", "nvapi-", body=f"{_URL64}{{60,}}"),
    # The shape many providers share; a body without hyphens and with digits keeps names like sk-learn-... out.
    Format("api_key", ("sk-",), rf"{START}(sk-{_ALNUM}{{32,}})", 0.85, True, 14),
)

MESSAGING: Final = (
    token("slack_token", "xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xoxo-", body=f"{_URL64}{{20,}}"),
    token("slack_app_token", "xapp-", body=f"[0-9]-{_ALNUM}{{8,}}-[0-9]{{8,}}-{_ALNUM}{{40,}}"),
    Format(
        "slack_webhook",
        (r"hooks\.slack\.com",),
        r"(hooks\.slack\.com/(?:services|workflows|triggers)/[A-Z0-9]{8,}/[A-Za-z0-9/]{16,})",
    ),
    Format(
        "discord_webhook", ("api/webhooks/",), rf"(discord(?:app)?\.com/api/webhooks/[0-9]{{15,20}}/{_URL64}{{60,}})"
    ),
    Format(
        "discord_token",
        ("(?i)discord", "(?i)bot"),
        rf"{START}([MNO]{_ALNUM}{{23,27}}\.{_URL64}{{6}}\.{_URL64}{{27,40}})",
        0.95,
        random=16,
    ),
    Format("telegram_token", (":AA",), rf"(?:^|[^0-9A-Za-z])(?:bot)?([0-9]{{8,10}}:AA{_URL64}{{33}})", 0.97, random=14),
    Format(
        "teams_webhook", (r"webhook\.office\.com",), rf"(webhook\.office\.com/webhookb2/{_UUID}@{_UUID}/[\w/]{{40,}})"
    ),
    Format(
        "webhook_url",
        (r"hooks\.zapier\.com", r"maker\.ifttt\.com", r"hook\.[a-z0-9]{2,4}\.make\.com"),
        r"((?:hooks\.zapier\.com/hooks/catch/[0-9]+/[a-z0-9]{5,}|maker\.ifttt\.com/trigger/[\w-]+/(?:json/)?with/key/[\w-]{20,}"
        r"|hook\.[a-z0-9]{2,4}\.make\.com/[a-z0-9]{20,}))",
        0.9,
        random=6,
    ),
    Format("twilio_key", (f"SK{_HEX}{{6}}",), rf"{START}(SK{_HEX}{{32}})", 0.95, True),
    Format("twilio_auth", ("(?i)twilio",), rf"(?i:twilio)[^\n]{{0,40}}?[\s\"':=]({_HEX}{{32}})", 0.9, True),
    Format("sendgrid_key", (r"SG\.",), rf"{START}(SG\.{_URL64}{{22}}\.{_URL64}{{43}})"),
    Format("mailgun_key", (f"key-{_HEX}{{6}}",), rf"{START}(key-{_HEX}{{32}})", 0.95, True),
    Format("mailchimp_key", ("-us[0-9]",), rf"{START}({_HEX}{{32}}-us[0-9]{{1,2}})", 0.95, True),
    token("brevo_key", "xkeysib-", "xsmtpsib-", body=f"{_HEX}{{64}}-{_ALNUM}{{16}}"),
    token("resend_key", "re_", body=f"{_ALNUM}{{8}}_{_ALNUM}{{24}}", confidence=0.9, random=14),
)

PAYMENT: Final = (
    token("stripe_key", "sk_live_", "rk_live_", "sk_test_", "rk_test_", body=f"{_ALNUM}{{20,}}"),
    token("stripe_webhook", "whsec_", body="[A-Za-z0-9+/=]{24,}", confidence=0.95),
    token("square_token", "sq0atp-", "sq0csp-", body=f"{_URL64}{{22,}}"),
    token("square_access_token", "EAAA", body=f"{_URL64}{{60}}", confidence=0.9, random=16),
    token("shopify_token", "shpat_", "shpca_", "shppa_", "shpss_", body="[0-9a-fA-F]{32}"),
    Format(
        "braintree_token",
        (r"access_token\$",),
        rf"(access_token\$(?:production|sandbox)\$[0-9a-z]{{16}}\${_HEX}{{32}})",
    ),
    token("plaid_token", "access-sandbox-", "access-development-", "access-production-", body=_UUID),
    token("easypost_key", "EZAK", "EZTK", body=f"{_ALNUM}{{54}}"),
    token("flutterwave_key", "FLWSECK-", "FLWSECK_TEST-", body=f"{_ALNUM}{{12,}}(?:-X)?", random=6),
    token("shippo_token", "shippo_live_", "shippo_test_", body=f"{_HEX}{{40}}"),
    token("paystack_key", "sk_live_", body=f"{_HEX}{{40}}"),
    token("adyen_key", "AQE", body="[A-Za-z0-9+/=]{60,}-[A-Za-z0-9+/=]{20,}", random=20, confidence=0.9),
)

OPERATIONS: Final = (
    token("grafana_token", "glsa_", "glc_", body=r"[\w=+/]{32,}"),
    token("newrelic_key", "NRAK-", "NRII-", "NRJS-", "NRAL-", body=f"{_URL64}{{19,}}"),
    token("dynatrace_token", "dt0c01.", "dt0s16.", body=r"[A-Z0-9]{24}\.[A-Z0-9]{64}"),
    token("notion_token", "ntn_", body=f"{_ALNUM}{{40,}}"),
    Format("notion_secret", ("secret_",), rf"{START}(secret_{_ALNUM}{{43}})", 0.95, True, 14),
    Format("airtable_token", (rf"pat{_ALNUM}{{6}}",), rf"{START}(pat{_ALNUM}{{14}}\.{_HEX}{{64}})", 0.97, True),
    token("dropbox_token", "sl.", body=f"(?:u\\.)?{_URL64}{{120,}}", random=20),
    token("facebook_token", "EAA", body=f"{_ALNUM}{{120,}}", random=20, confidence=0.95),
    token("twitter_bearer", "AAAAAAAAAAAAAAAAAAAA", body="[A-Za-z0-9%]{60,}", random=20),
    token("mapbox_token", "sk.eyJ", body=r"[\w-]{40,}\.[\w-]{20,}", random=16),
    token("typeform_token", "tfp_", body=r"[\w.=-]{40,}"),
    token("adafruit_key", "aio_", body=f"{_ALNUM}{{28}}", confidence=0.9, random=12),
    token("duffel_token", "duffel_live_", "duffel_test_", body=r"[\w=-]{43}"),
    token("frameio_token", "fio-u-", body=r"[\w=-]{60,}"),
    token("hubspot_token", "pat-na1-", "pat-eu1-", "pat-na2-", body=_UUID),
    token("lob_key", "live_pub_", "live_", body=f"{_HEX}{{35}}", confidence=0.9),
    token("okta_token", "SSWS ", body=f"{_URL64}{{40,}}", confidence=0.95),
    token("contentful_token", "CFPAT-", body=f"{_URL64}{{43}}"),
    token("prefect_key", "pnu_", "pnb_", body=f"{_ALNUM}{{36}}"),
    token("readme_key", "rdme_", body="[a-z0-9]{70}"),
    token("zendesk_oauth", "zdo_", body=f"{_ALNUM}{{40,}}", confidence=0.9),
)
