"""Where the vault's key-encryption key is kept, and how tokens of ours are signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$"


class Part(BaseModel):
    """Unknown keys are errors, and messages never quote what was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


class FileKeys(Part):
    """A file in a directory that is ours alone; several replicas on one machine, or one file system, share it."""

    kind: Literal["file"] = "file"
    directory: Path | None = Field(default=None, description="default: vault-keys beside the storage")


class KeyringKeys(Part):
    """The keyring of the operating system, for the user who runs Limen. pip install 'limen[keyring]'"""

    kind: Literal["keyring"]
    entry: Annotated[str, Field(pattern=_NAME, description="name of the entry")] = "limen-vault"


class Pkcs11Keys(Part):
    """A hardware security module. The key never leaves it. pip install 'limen[pkcs11]'"""

    kind: Literal["pkcs11"]
    module: Path = Field(description="the vendor's PKCS#11 library")
    token: Annotated[str, Field(min_length=1, max_length=32, description="label of the token")]
    pin: SecretStr = Field(description="of the token's user, by reference")
    key: Annotated[str, Field(pattern=_NAME, description="label of the keys")] = "limen-vault"


class AzureIdentity(Part):
    """Whom Limen is to Azure. Nothing is tried that is not named here."""

    kind: Literal["managed", "workload", "secret"]
    tenant: str | None = Field(default=None, description="of kind secret; of workload, instead of AZURE_TENANT_ID")
    client_id: str | None = Field(default=None, description="of kind secret; of others, which identity")
    client_secret: SecretStr | None = Field(default=None, description="of kind secret, by reference")

    @model_validator(mode="after")
    def _complete(self) -> AzureIdentity:
        given = (self.tenant, self.client_id, self.client_secret)
        if self.kind == "secret" and None in given:
            raise ValueError("kind secret needs tenant, client_id and client_secret")
        if self.kind != "secret" and self.client_secret is not None:
            raise ValueError("client_secret is for kind secret")
        if self.kind == "managed" and self.tenant is not None:
            raise ValueError("a managed identity has the tenant of its machine")
        return self


class AzureKeys(Part):
    """An RSA key in Azure Key Vault that may wrap, unwrap, sign and verify. pip install 'limen[azure]'"""

    kind: Literal["azure_key_vault"]
    vault: str = Field(description="https://NAME.vault.azure.net")
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,127}$", description="name of the key")]
    identity: AzureIdentity
    ca: Path | None = Field(default=None, description="PEM of the authorities to trust; default: the system's")

    @field_validator("vault")
    @classmethod
    def _https(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            raise ValueError("reads https://NAME.vault.azure.net")
        return f"https://{parts.netloc.lower()}"


class SigningSettings(Part):
    """The keys that sign tokens of ours. They are kept in token-keys beside the storage."""

    algorithm: Literal["ES256", "EdDSA", "RS256"] = "ES256"
    days: Annotated[float, Field(ge=1, le=366, description="after which a key makes way for a new one")] = 30.0


class VaultSettings(Part):
    """Secrets at rest, and keys that sign."""

    keys: Annotated[FileKeys | KeyringKeys | Pkcs11Keys | AzureKeys, Field(discriminator="kind")] = FileKeys()
    signing: SigningSettings = SigningSettings()
