"""The registration of Limen at Microsoft Entra ID, as a script for the Azure CLI that an administrator reads first."""

from __future__ import annotations

import json
import shlex
import uuid
from typing import Any, Final

_SCOPE, _ROLE = "access_as_user", "limen.user"
_SCRIPT: Final = """\
#!/bin/sh
# Registers Limen at Microsoft Entra ID. Needs: az (signed in with `az login --tenant TENANT`), the role Application
# Administrator. Read it before you run it. Nothing secret is printed: the client secret goes into a file of yours.
set -eu
umask 077
NAME={name}
CALLBACK={callback}

# The registration: one tenant, a web application, one address to come back to, no implicit flow.
APP=$(az ad app create --display-name "$NAME" --sign-in-audience AzureADMyOrg --web-redirect-uris "$CALLBACK" \\
  --enable-id-token-issuance false --enable-access-token-issuance false --query appId --output tsv)
OBJECT=$(az ad app show --id "$APP" --query id --output tsv)

# What it offers (scope, role), and what its tokens say (version 2.0, groups assigned to it, time of the sign-in).
BODY=$(sed "s/@APP@/$APP/g" <<'JSON'
{body}
JSON
)
az rest --method PATCH --url "https://graph.microsoft.com/v1.0/applications/$OBJECT" \\
  --headers Content-Type=application/json --body "$BODY"

# In this tenant, and only for people and groups somebody assigns (Enterprise applications, Users and groups).
az ad sp create --id "$APP" --output none
PRINCIPAL=$(az ad sp show --id "$APP" --query id --output tsv)
az rest --method PATCH --url "https://graph.microsoft.com/v1.0/servicePrincipals/$PRINCIPAL" \\
  --headers Content-Type=application/json --body '{{"appRoleAssignmentRequired": true}}'

# A secret for a year. Better: a certificate (az ad app credential reset --cert).
az ad app credential reset --id "$APP" --display-name limen --years 1 --query password --output tsv > limen-entra.secret

TENANT=$(az account show --query tenantId --output tsv)
cat <<YAML
oauth:
  provider:
    issuer: https://login.microsoftonline.com/$TENANT/v2.0
    kind: entra
    client_id: $APP
    client_secret: \\${{file:limen-entra.secret}}
    scopes: [openid, profile]           # and, for on-behalf-of: offline_access, {scope}
YAML
"""


def registration(callback: str) -> dict[str, Any]:
    """The Graph document of the application; `@APP@` stands for its client id."""
    words = "Use the MCP servers behind Limen"
    return {
        "identifierUris": ["api://@APP@"],
        "api": {
            "requestedAccessTokenVersion": 2,
            "oauth2PermissionScopes": [
                {
                    "id": _id(callback, _SCOPE), "value": _SCOPE, "type": "User", "isEnabled": True,
                    "adminConsentDisplayName": words, "userConsentDisplayName": words,
                    "adminConsentDescription": f"{words} in the name of the person who signed in.",
                    "userConsentDescription": f"{words} in your name.",
                }
            ],
        },
        "appRoles": [
            {
                "id": _id(callback, _ROLE), "value": _ROLE, "isEnabled": True, "allowedMemberTypes": ["User"],
                "displayName": "Limen user", "description": "May sign in to Limen. What for is up to Limen's policy.",
            }
        ],
        "groupMembershipClaims": "ApplicationGroup",
        "optionalClaims": {"idToken": [{"name": "auth_time", "essential": False}]},
        "web": {
            "redirectUris": [callback],
            "implicitGrantSettings": {"enableIdTokenIssuance": False, "enableAccessTokenIssuance": False},
        },
    }  # fmt: skip


def script(callback: str, name: str = "Limen") -> str:
    """The whole script. The same gateway gets the same ids of scope and role every time."""
    body = json.dumps(registration(callback), indent=2)
    return _SCRIPT.format(name=shlex.quote(name), callback=shlex.quote(callback), body=body, scope=_SCOPE)


def _id(callback: str, what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{callback}#{what}"))
