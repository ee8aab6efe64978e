"""What an operator chooses about the authorization server. Durations in seconds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Seconds = Annotated[int, Field(strict=True, ge=1)]


class Part(BaseModel):
    """Unknown keys are errors, and messages never quote what was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ProviderSettings(Part):
    """Who signs people in, and which client of theirs we are."""

    issuer: str
    kind: Literal["generic", "entra"] = "generic"
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    client_secret: SecretStr | None = Field(
        default=None, description="by reference; without one we are a public client"
    )
    scopes: tuple[str, ...] = Field(default=("openid", "profile"), description="asked of the provider")


class TokenSettings(Part):
    """How long what we issue is good for."""

    access: Annotated[Seconds, Field(le=900, description="an access token")] = 600
    code: Annotated[Seconds, Field(le=60, description="an authorization code")] = 60
    refresh: Annotated[Seconds, Field(le=31_536_000, description="a refresh token that is not used")] = 1_209_600
    grant: Annotated[
        Seconds, Field(le=31_536_000, description="what began with one sign-in, however often refreshed")
    ] = 7_776_000
    retry: Annotated[int, Field(strict=True, ge=0, le=10, description="in which a client may repeat a refresh")] = 10
    device: bool = Field(default=False, description="the device authorization grant (RFC 8628), open to phishing")


class ClientSettings(Part):
    """Who may ask for tokens."""

    registration: bool = Field(default=False, description="dynamic registration (RFC 7591), for older clients")


class ConsentSettings(Part):
    """What people are asked, and how long their answer holds."""

    expires: Annotated[Seconds, Field(le=31_536_000, description="consent is asked again after")] = 7_776_000


class RecorderSettings(Part):
    """What is kept of attempts to sign in. Never a token, code or secret."""

    days: Annotated[int, Field(strict=True, ge=1, le=90, description="an attempt is kept after its last step")] = 14
    attempts: Annotated[
        int, Field(strict=True, ge=50, le=100_000, description="kept of people who signed in; as many of nobody known")
    ] = 2000
    people: Literal["shown", "hidden"] = Field(
        default="shown", description="hidden: pseudonyms instead of names and e-mail addresses, networks of addresses"
    )


class OAuthSettings(Part):
    """The authorization server in front of the provider."""

    provider: ProviderSettings
    tokens: TokenSettings = TokenSettings()
    clients: ClientSettings = ClientSettings()
    consent: ConsentSettings = ConsentSettings()
    attempts: RecorderSettings = RecorderSettings()
