"""Secrets and numbers made at run time. Nothing here is, or looks like, a credential as it stands."""

from __future__ import annotations

import base64
import json
import random
import re
import string

UPPER, LOWER, DIGITS = string.ascii_uppercase, string.ascii_lowercase, string.digits
SIGNS = {
    "a": UPPER + LOWER + DIGITS,
    "b": UPPER + LOWER + DIGITS + "+/",
    "w": UPPER + LOWER + DIGITS + "_-",
    "h": DIGITS + "abcdef",
    "u": UPPER + "234567",
    "U": UPPER + DIGITS,
    "l": LOWER + DIGITS,
    "d": "123456789",
    "q": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
}

# kind -> how it is built: {h40} is forty random hex digits, {uuid} a UUID; the rest stands as it is
TEMPLATES = {
    "aws_key": "AKIA{u16}",
    "aws_secret": "aws_secret_access_key = {b40}",
    "gcp_api_key": "AIza{w35}",
    "gcp_oauth_secret": "GOCSPX-{w28}",
    "gcp_access_token": "ya29.{w60}",
    "azure_client_secret": "{a3}8Q~{a34}",
    "azure_storage_key": "AccountName=shop;AccountKey={b86}==;EndpointSuffix=core.windows.net",
    "azure_shared_key": "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={b43}=",
    "azure_sas": "https://shop.blob.core.windows.net/c/f?sv=2024-01-01&sr=b&sig={a43}%3D&se=2030",
    "azure_key": "{a52}JQQJ99{a18}AZDO{a4}",
    "github_token": "ghp_{a36}",
    "github_fine_grained": "github_pat_{a22}_{a59}",
    "gitlab_token": "glpat-{w20}",
    "atlassian_token": "ATATT3{w180}={h8}",
    "npm_token": "npm_{a36}",
    "pypi_token": "pypi-AgEIcHlwaS5vcmc{w150}",
    "rubygems_key": "rubygems_{h48}",
    "docker_token": "dckr_pat_{w27}",
    "sentry_token": "sntryu_{h64}",
    "postman_key": "PMAK-{h24}-{h34}",
    "linear_key": "lin_api_{a40}",
    "digitalocean_token": "dop_v1_{h64}",
    "databricks_token": "dapi{h32}",
    "vault_token": "hvs.{w90}",
    "terraform_token": "{a14}.atlasv1.{w67}",
    "pulumi_token": "pul-{h40}",
    "doppler_token": "dp.pt.{a43}",
    "tailscale_key": "tskey-auth-{a12}-{a32}",
    "age_key": "AGE-SECRET-KEY-1{q58}",
    "openai_key": "sk-{a20}T3BlbkFJ{a20}",
    "openai_project_key": "sk-proj-{w120}",
    "anthropic_key": "sk-ant-api03-{w93}AA",
    "huggingface_token": "hf_{a34}",
    "replicate_token": "r8_{a37}",
    "groq_key": "gsk_{a52}",
    "slack_token": "xoxb-{d12}-{d12}-{a24}",
    "slack_app_token": "xapp-1-A{U10}-{d13}-{h64}",
    "slack_webhook": "https://hooks.slack.com/services/T{U9}/B{U9}/{a24}",
    "discord_webhook": "https://discord.com/api/webhooks/{d18}/{w68}",
    "discord_token": "discord bot M{a23}.{w6}.{w38}",
    "telegram_token": "{d10}:AA{w33}",
    "teams_webhook": "https://x.webhook.office.com/webhookb2/{uuid}@{uuid}/IncomingWebhook/{h32}/{uuid}",
    "twilio_key": "SK{h32}",
    "sendgrid_key": "SG.{w22}.{w43}",
    "mailgun_key": "key-{h32}",
    "mailchimp_key": "{h32}-us12",
    "stripe_key": "sk_live_{a24}",
    "stripe_webhook": "whsec_{a32}",
    "square_token": "sq0atp-{w22}",
    "shopify_token": "shpat_{h32}",
    "plaid_token": "access-production-{uuid}",
    "grafana_token": "glsa_{a32}_{h8}",
    "newrelic_key": "NRAK-{U27}",
    "notion_token": "ntn_{a46}",
    "airtable_token": "pat{a14}.{h64}",
    "figma_token": "figd_{w40}",
    "url_password": "postgresql://shop:{a18}@db.internal:5432/orders",
    "connection_password": "Server=db;Database=shop;User Id=sa;Password={a16};Encrypt=true",
    "netrc_password": "machine git.internal login bot password {a20}",
    "command_password": "curl -u deploy:{a20} https://ci.internal/job",
    "authorization": "Authorization: Bearer {a40}",
    "password": "DB_PASSWORD={a8}!{a6}",
    "generic_secret": 'client_secret: "{a40}"',
    "shadow_hash": "root:$6${a16}${a86}:19000:0:99999:7:::",
    "limen_key": "limen_{h12}_{h72}",
}


def build(template: str, dice: random.Random) -> str:
    def part(match: re.Match[str]) -> str:
        if match[0] == "{uuid}":
            return "-".join("".join(dice.choices(SIGNS["h"], k=size)) for size in (8, 4, 4, 4, 12))
        return "".join(dice.choices(SIGNS[match[1]], k=int(match[2])))

    return re.sub(r"\{uuid\}|\{([a-zA-Z])(\d+)\}", part, template)


def jwt(dice: random.Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    head, body = part({"alg": "ES256", "typ": "JWT"}), part({"sub": dice.randrange(10**9), "aud": "shop"})
    return f"{head}.{body}.{build('{w86}', dice)}"


def pem(dice: random.Random, name: str = "RSA PRIVATE KEY") -> str:
    lines = "\n".join(build("{b64}", dice) for _ in range(12))
    return f"-----BEGIN {name}-----\n{lines}\n-----END {name}-----"


def secrets(seed: int) -> list[tuple[str, str]]:
    """(kind, text that holds one) of every kind."""
    dice = random.Random(seed)
    made = [(kind, build(template, dice)) for kind, template in TEMPLATES.items()]
    return [*made, ("jwt", jwt(dice)), ("private_key", pem(dice)), ("private_key", pem(dice, "OPENSSH PRIVATE KEY"))]


def digits(dice: random.Random, size: int) -> str:
    return "".join(dice.choices("0123456789", k=size))


def with_luhn(body: str) -> str:
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(body)))
    return body + str(-total % 10)


def iban(country: str, body: str) -> str:
    number = int("".join(str(int(sign, 36)) for sign in body + country + "00"))
    return f"{country}{98 - number % 97:02}{body}"


def rrn(dice: random.Random, *, old: bool) -> str:
    day = f"{dice.randrange(50, 99)}{dice.randrange(1, 13):02}{dice.randrange(1, 29):02}"
    body = f"{day}{dice.choice('12')}{digits(dice, 5)}"
    check = (11 - sum(int(d) * w for d, w in zip(body, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=True)) % 11) % 10
    return f"{body[:6]}-{body[6:]}{check if old else (check + 3) % 10}"
