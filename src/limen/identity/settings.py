"""What an operator chooses about proofs of possession, introspection and keys of our own. Durations in seconds."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

PROOF_ALGORITHMS: Final = ("ES256", "EdDSA", "Ed25519", "RS256", "PS256")
Constraint = Literal["dpop", "mtls"]


class DpopSettings(BaseModel):
    """How proofs of possession are taken (RFC 9449). They are always checked where a token asks for them."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    nonce: Literal["required", "off"] = Field(
        default="off", description="required: each proof holds a value of ours of the last minutes (section 9)"
    )
    max_age: Annotated[int, Field(strict=True, ge=5, le=300, description="seconds a proof may be old")] = 300
    algorithms: tuple[str, ...] = ("ES256", "EdDSA", "RS256", "PS256")

    @field_validator("algorithms")
    @classmethod
    def _algorithms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= set(PROOF_ALGORITHMS):
            raise ValueError(f"choose from {', '.join(PROOF_ALGORITHMS)}")
        return value


class IntrospectionSettings(BaseModel):
    """Ask the issuer about tokens that are not JWTs (RFC 7662), as this client of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    client_secret: SecretStr
    endpoint: str | None = Field(default=None, description="default: introspection_endpoint of the issuer's metadata")
    cache: Annotated[int, Field(strict=True, ge=0, le=60, description="seconds a yes is good for")] = 60

    @field_validator("client_secret")
    @classmethod
    def _secret(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value():
            raise ValueError("the secret is empty")
        return value
