"""Formats of credentials that clouds, code hosts, registries and infrastructure issue.

Every expression is written from the issuer's published description of its format. `gate` lists literals of which one
must stand in the text before the expression is tried at all; a gate that starts with (?i) ignores case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

START: Final = r"(?:^|[^A-Za-z0-9])"


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of secret: RE2 `expression` with the secret as group 1.

    `whole`: a letter or digit right after the match means that it is something longer. `random`: how many different
    characters the secret has at least, 0 where any text will do.
    """

    kind: str
    gate: tuple[str, ...]
    expression: str
    confidence: float = 0.97
    whole: bool = False
    random: int = 8


def token(kind: str, *prefixes: str, body: str, confidence: float = 0.97, random: int = 8) -> Format:
    """A prefix no word has, then a body of fixed or least length."""
    choice = "|".join(_literal(prefix) for prefix in prefixes)
    gates = tuple(_literal(prefix) for prefix in prefixes)
    return Format(kind, gates, f"{START}((?:{choice}){body})", confidence, not body.endswith(",}"), random)


def _literal(text: str) -> str:
    return text.replace(".", r"\.").replace("+", r"\+").replace("$", r"\$")


_B64: Final = "[A-Za-z0-9+/]"
_URL64: Final = "[A-Za-z0-9_-]"
_ALNUM: Final = "[A-Za-z0-9]"
_HEX: Final = "[0-9a-f]"
_PEM: Final = r"(?:(?:RSA|EC|DSA|OPENSSH|ENCRYPTED|PGP|SSH2 ENCRYPTED|ANY) )?PRIVATE KEY(?: BLOCK)?-----"
_SCHEMES: Final = (
    "postgres(?:ql)?|mysql|mariadb|mongodb|redis|rediss|amqps?|mssql|sqlserver|oracle|cockroachdb|clickhouse|"
    "cassandra|neo4j|bolt|nats|ldaps?|ftps?|sftp|ssh|smtps?|imaps?|mqtts?|kafka|https?|wss?|git|jdbc|snowflake"
)

CLOUDS: Final = (
    token("aws_key", "AKIA", "ASIA", "ABIA", "ACCA", body="[A-Z2-7]{16}"),
    Format(
        "aws_secret",
        ("(?i)aws", "(?i)secretaccesskey", "(?i)secret_access_key", "(?i)secret access key"),
        rf"(?i:aws|secret_?access_?key|secret access key)[^\n]{{0,40}}?[\s\"':=]({_B64}{{40}})",
        whole=True,
        random=14,
    ),
    token("aws_session", "IQoJb3JpZ2lu", "FwoGZXIvYXdz", body="[A-Za-z0-9+/=_-]{60,}"),
    token("aws_bedrock", "ABSK", body=f"{_B64}{{100,}}", random=20),
    token("gcp_api_key", "AIza", body=f"{_URL64}{{35}}"),
    token("gcp_oauth_secret", "GOCSPX-", body=f"{_URL64}{{28}}"),
    token("gcp_access_token", "ya29.", body=f"{_URL64}{{30,}}"),
    token("gcp_refresh_token", "1//0", body=f"{_URL64}{{40,}}"),
    Format("azure_client_secret", ("[78]Q~",), r"(?:^|[^\w~.-])([\w~.-]{3}[78]Q~[\w~.-]{31,34})", random=14),
    Format("azure_storage_key", ("(?i)accountkey",), rf"(?i:accountkey)\s*[=:]\s*\"?({_B64}{{86}}==)"),
    Format("azure_shared_key", ("(?i)sharedaccesskey=",), rf"(?i:sharedaccesskey)=({_B64}{{43}}=|{_B64}{{86}}==)"),
    Format("azure_sas", ("sig=",), r"(?:^|[?&;])sig=([A-Za-z0-9%+/]{40,}=?)", 0.9, random=14),
    Format("azure_key", ("JQQJ9",), rf"({_ALNUM}{{52}}JQQJ9{_ALNUM}{{27}}(?:==)?)", random=20),
    Format("azure_function_key", ("AzFu",), rf"({_URL64}{{44}}AzFu{_URL64}{{4,8}}={{0,2}})", random=14),
    token("digitalocean_token", "dop_v1_", "doo_v1_", "dor_v1_", body=f"{_HEX}{{64}}"),
    token("alibaba_key", "LTAI", body=f"{_ALNUM}{{17,21}}", confidence=0.9, random=10),
    token("tencent_key", "AKID", body=f"{_ALNUM}{{32,48}}", confidence=0.9, random=10),
    token("yandex_key", "AQVN", body=f"{_URL64}{{35,38}}", confidence=0.9, random=12),
    token("heroku_key", "HRKU-AA", body=f"{_URL64}{{58,64}}"),
    token("fly_token", "fm2_", "fo1_", body=f"{_URL64}{{40,}}"),
    Format("cloudflare_ca_key", (r"v1\.0-",), rf"{START}(v1\.0-{_HEX}{{24}}-{_HEX}{{146}})"),
    token("databricks_token", "dapi", body=f"{_HEX}{{32}}(?:-[0-9])?"),
    token("planetscale_token", "pscale_tkn_", "pscale_pw_", "pscale_oauth_", body=r"[\w.=-]{32,}"),
    token("supabase_key", "sbp_", "sb_secret_", body=f"{_URL64}{{30,}}"),
    token("vercel_token", "vcp_", "vck_", body=f"{_ALNUM}{{24,}}"),
    token("netlify_token", "nfp_", body=f"{_ALNUM}{{36,}}"),
)

CODE: Final = (
    token("github_token", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", body=f"{_ALNUM}{{36,}}"),
    token("github_fine_grained", "github_pat_", body=f"{_ALNUM}{{22}}_{_ALNUM}{{59}}"),
    token(
        "gitlab_token",
        *("glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glimt-", "glsoat-", "glagent-", "gloas-"),
        body=r"[\w.-]{20,}",
    ),
    token("bitbucket_password", "ATBB", body=f"{_ALNUM}{{32}}"),
    token("atlassian_token", "ATATT3", "ATCTT3", body=r"[\w=-]{100,}", random=20),
    token("npm_token", "npm_", body=f"{_ALNUM}{{36}}"),
    token("pypi_token", "pypi-AgEIcHlwaS5vcmc", "pypi-AgENdGVzdC5weXBpLm9yZw", body=f"{_URL64}{{50,}}", random=20),
    token("rubygems_key", "rubygems_", body=f"{_HEX}{{48}}"),
    token("crates_token", "cio", body=f"{_ALNUM}{{32}}", confidence=0.9, random=14),
    token("clojars_token", "CLOJARS_", body=f"{_ALNUM}{{60}}"),
    token("nuget_key", "oy2", body="[a-z0-9]{43}", confidence=0.9, random=12),
    token("docker_token", "dckr_pat_", "dckr_oat_", body=f"{_URL64}{{27,}}"),
    token("sentry_token", "sntrys_", "sntryu_", body=r"[\w+/=-]{60,}"),
    token("sonar_token", "squ_", "sqp_", "sqa_", body=f"{_HEX}{{40}}"),
    token("circleci_token", "CCIPAT_", "CCIPRJ_", body=f"{_ALNUM}{{16,}}_{_HEX}{{40}}"),
    token("buildkite_token", "bkua_", "bkct_", body=f"{_HEX}{{40,}}"),
    token("postman_key", "PMAK-", body=f"{_HEX}{{24}}-{_HEX}{{34}}"),
    token("linear_key", "lin_api_", "lin_oauth_", body=f"{_ALNUM}{{40,}}"),
    token("figma_token", "figd_", body=f"{_URL64}{{40,}}"),
)

KEYS: Final = (
    # Without its end the rest of the text is taken, as far as it looks like a key: a cut key is a key.
    Format(
        "private_key",
        ("PRIVATE KEY",),
        rf"(-----BEGIN {_PEM}(?:[A-Za-z0-9+/=\s\\:,.()]|-[A-Za-z0-9])*(?:-----END {_PEM})?)",
        0.99,
    ),
    Format("putty_key", ("PuTTY-User-Key-File-",), r"(PuTTY-User-Key-File-[\s\S]*?Private-MAC: [0-9a-f]+)", 0.99),
    token("age_key", "AGE-SECRET-KEY-1", body="[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    Format("jwt", ("eyJ",), rf"{START}(eyJ{_URL64}{{10,}}\.eyJ{_URL64}{{10,}}\.{_URL64}{{20,}})", 0.95),
    Format(
        "jwe", ("eyJ",), rf"{START}(eyJ{_URL64}{{10,}}\.{_URL64}*\.{_URL64}{{8,}}\.{_URL64}{{8,}}\.{_URL64}{{8,}})", 0.9
    ),
    Format("jwk_private", ('"kty"', '\\\\"kty'), rf'\\?"(?:d|k)\\?"\s*:\s*\\?"({_URL64}{{32,}})\\?"', 0.9),
    Format("vault_token", (r"hv[sbr]\.",), rf"{START}(hv[sbr]\.{_URL64}{{24,}})"),
    Format("terraform_token", (r"\.atlasv1\.",), rf"{START}({_ALNUM}{{14}}\.atlasv1\.[\w=-]{{60,}})"),
    token("pulumi_token", "pul-", body=f"{_HEX}{{40}}"),
    token("doppler_token", "dp.pt.", "dp.st.", "dp.ct.", "dp.sa.", "dp.scim.", "dp.audit.", body=r"[\w.-]{40,}"),
    token("onepassword_token", "ops_eyJ", body=r"[\w=+/-]{100,}", random=20),
    token("tailscale_key", "tskey-", body=f"(?:auth|api|client|scim|webhook)-{_ALNUM}{{8,}}-{_ALNUM}{{16,}}"),
    token("wireguard_config", "PrivateKey = ", body=f"{_B64}{{43}}="),
    Format("kubeconfig_key", ("client-key-data",), rf"client-key-data:\s*({_B64}{{100,}}=*)"),
    Format("docker_auth", ('"auth"', '\\\\"auth'), rf'\\?"auth\\?"\s*:\s*\\?"({_B64}{{16,}}=*)\\?"', 0.9),
    Format(
        "url_password",
        ("://",),
        rf"(?i:\b(?:{_SCHEMES})(?:\+[a-z0-9]+)*://)[^\s:/@\"'<>]{{0,80}}:([^\s@/\\\"'<>]{{3,200}})@",
        0.93,
        random=0,
    ),
    Format(
        "connection_password",
        ("(?i)pwd=", "(?i)password=", "(?i)password ="),
        r"(?i:(?:server|data source|host|uid|user id|database|initial catalog|driver)\s*=[^;\n]+;"
        r"(?:[^;\n]+;)*?\s*(?:password|pwd)\s*=\s*)(\{[^}\n]{1,128}\}|[^;\s\"']{3,128})",
        0.95,
        random=0,
    ),
    Format(
        "netrc_password",
        ("machine ",),
        r"machine\s+\S{1,200}\s+login\s+\S{1,200}\s+password\s+([^\s\"\']{4,200})",
        0.95,
        random=0,
    ),
    Format("shadow_hash", (r"\$[0-9a-z]{1,2}\$",), r"(\$(?:[156y]|2[abxy])\$[A-Za-z0-9./$=,]{40,130})", 0.95),
)
