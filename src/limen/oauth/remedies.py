"""What to do about a step that failed: by leg, outcome and field, and by the numbers of Entra ID in what it "
"answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_AADSTS: Final = re.compile(r"AADSTS(\d{4,8})")

# What Entra ID says, by number. The first sentence says which setting of the registration or of ours it is about.
ENTRA: Final[Mapping[int, str]] = MappingProxyType(
    {
        16000: "Several accounts are signed in and the request was silent. Let the person choose: no prompt=none.",
        28000: "`oauth.provider.scopes` names scopes of more than one API. Keep those of one (openid, profile and "
        "offline_access may stand beside them).",
        50011: "`redirect_uri`: add the address shown, byte for byte, to the app registration: Authentication, platform"
        " Web. It is <listen.url>/oauth/callback.",
        50013: "`assertion`: the token to exchange was not issued by this tenant for this app, or was changed. It must "
        "be an access token whose audience is the app that exchanges it.",
        50020: "The account is of another tenant. Invite it as a guest, or choose the tenant in `oauth.provider.issuer`"
        " the person belongs to.",
        50034: "The account does not exist in this tenant: the person signed in with another one than you expect.",
        50055: "The person's password has expired; they have to change it at Microsoft first.",
        50057: "The person's account is disabled in the tenant.",
        50058: "Nobody is signed in, and the request was silent. Nothing is wrong: without prompt=none a page appears.",
        50072: "The person has to register for multi-factor authentication first (interactively, once).",
        50074: "Multi-factor authentication is demanded and was not done: sign in again interactively.",
        50076: "Conditional access demands multi-factor authentication for this API. Sign in again; for an exchange on "
        "behalf of somebody the claims challenge has to reach the client.",
        50079: "The person has to register for multi-factor authentication, because of a policy or a new location.",
        50105: "The app demands an assignment (Enterprise applications, Properties, Assignment required) and the person"
        " or group has none: assign them under Users and groups.",
        50126: "Wrong user name or password.",
        50131: "Conditional access refused the device or place. Look at the sign-in log of the tenant under this "
        "correlation id.",
        50173: "The grant was revoked, by a password change or an administrator: sign in again.",
        50196: "The app asks the same thing in a loop and was stopped. Something before this step fails every time.",
        51004: "The account does not exist in this directory.",
        53000: "Conditional access demands a compliant device; this one is not.",
        53001: "Conditional access demands a device that is joined to the domain.",
        53003: "A conditional access policy blocks this sign-in. The tenant's sign-in log names the policy; exclude the"
        " app, or meet its conditions.",
        54005: "The authorization code was redeemed before. If nobody replayed it, the callback came in twice: look for"
        " a proxy that repeats requests.",
        65001: "Nobody has consented to this scope for this app. API permissions: add the scope, then `Grant admin "
        "consent`; for on-behalf-of also list the client under knownClientApplications of the API.",
        65004: "The person declined Microsoft's consent page.",
        70000: "The code or refresh token is malformed, or belongs to another app or tenant.",
        70001: "`client_id`: no such app in this tenant. Compare it with Application (client) ID of the registration.",
        70003: "`grant_type` is not taken by this endpoint: the v2.0 token endpoint is needed.",
        70008: "The code or refresh token has expired: sign in again.",
        70011: "`scope`: not one this tenant knows. It reads api://<application id>/<scope name>, as under Expose an "
        "API; without api:// it is taken for one of Microsoft Graph.",
        70016: "The person has not finished the device sign-in yet.",
        70043: "The refresh token has expired by a conditional access policy on sign-in frequency: sign in again.",
        70044: "The session has expired by a conditional access policy on sign-in frequency: sign in again.",
        75011: "The way the person signed in is weaker than what was asked: remove acr_values, or sign in again.",
        90002: "`issuer`: no such tenant. `oauth.provider.issuer` reads "
        "https://login.microsoftonline.com/<tenant id>/v2.0.",
        90008: "The app lacks a permission it was asked for: add it under API permissions.",
        90009: "The app asks for a token for itself with its application ID URI: use its client id as the resource.",
        90014: "A required field is missing; the description names it.",
        90023: "The request is malformed; the description names the parameter.",
        90094: "An administrator has to consent: API permissions, `Grant admin consent`.",
        240002: "`assertion`: an ID token was to be exchanged; on-behalf-of needs an access token.",
        500011: "`scope` names an application ID URI no app in this tenant has. Compare it with Expose an API of the "
        "registration, or have an administrator add the app to the tenant.",
        500112: "`redirect_uri` at the token endpoint differs from the one of the authorization: a proxy rewrites one.",
        500113: "`redirect_uri`: the registration has none at all. Add <listen.url>/oauth/callback, platform Web.",
        500131: "`assertion`: the token to exchange was issued for another audience than this app. Its `aud` must be "
        "the client id of the app that exchanges it.",
        500133: "`assertion`: the token to exchange has expired.",
        501051: "App assignment is demanded for the client itself (Enterprise applications, Assignment required).",
        501461: "`acceptMappedClaims` is needed in the manifest, or take the claims mapping off the app.",
        501481: "`code_verifier` does not match: another replica than the one that began answered the callback, or the"
        " request was changed. All replicas need the same storage and keys.",
        530035: "Security defaults or a policy block this sign-in: sign in interactively with multi-factor.",
        650052: "The tenant has no subscription or service principal for an API that is asked for.",
        650053: "`scope` does not exist on the API. Names are those under Expose an API; a bare name is looked for at "
        "Microsoft Graph: write api://<application id>/<name>.",
        650056: "The registration is incomplete: the scope is not among its API permissions, or nobody consented.",
        650057: "`scope`: the API is not among the app's API permissions. Add it there.",
        700016: "`client_id`: no such app in the tenant of `oauth.provider.issuer`. Compare both with the "
        "registration's"
        " overview page.",
        700023: "`client_assertion`: its audience is not the tenant's token endpoint.",
        700024: "`client_assertion` is outside its time: compare the clocks.",
        700025: "The app is registered as a public client and a secret was sent: use platform Web, or no secret.",
        700027: "`client_assertion`: the certificate is not registered on the app. Upload it under Certificates.",
        700030: "`client_assertion`: the certificate's subject is not among those the app trusts.",
        700051: "`response_type`: code is not enabled; the platform of the registration must be Web.",
        700054: "`response_type`: id_token is not enabled. Limen does not ask for it: something else sent the request.",
        700082: "The refresh token was not used for long and has expired: sign in again.",
        700084: "A refresh token of a single-page app ends after a day: register <listen.url>/oauth/callback under "
        "platform Web, not Single-page application.",
        7000112: "The app is disabled in the tenant: Enterprise applications, Properties, Enabled for users.",
        7000114: "The app may not act on behalf of anybody: the token to exchange is not one of a user.",
        7000215: "`client_secret` is wrong. Copy the secret's *Value*, not its *Secret ID*, and look for a line end in "
        "the file or variable it comes from.",
        7000216: "No secret was sent, and none is configured: set `oauth.provider.client_secret`.",
        7000218: "No secret or assertion was sent, and the app is confidential: set `oauth.provider.client_secret`.",
        7000222: "`client_secret` has expired: make another one under Certificates & secrets.",
        900023: "The tenant in `oauth.provider.issuer` is neither a tenant id nor a domain.",
        900144: "A parameter is missing; the description names it. Where it is `scope`: Entra wants it on every leg; "
        "set `oauth.provider.kind: entra` and `oauth.provider.scopes`.",
        900971: "`redirect_uri` is missing.",
        901002: "`resource` was sent: version 2.0 does not take it. Set `oauth.provider.kind: entra`.",
        9002313: "The request is malformed: a code or token that this tenant never issued.",
        9002325: "PKCE is demanded for this platform: register the address under platform Web.",
        9002326: "The address is registered for single-page apps, whose codes are redeemed in browsers: move it to "
        "platform Web.",
        9002346: "The app takes Microsoft accounts only, or only those of work and school: see Supported account "
        "types.",
        9010010: "`resource` and `scope` name different APIs. Set `oauth.provider.kind: entra`, which sends no "
        "`resource`; a client that talks to Entra itself should be pointed at Limen instead.",
        1002012: "`scope` of client credentials must be one API followed by /.default.",
    }
)

_Where = tuple[str, str, str]
# Leg, outcome, field; "" stands for any. The most specific row answers.
_TEXTS: Final[Mapping[_Where, str]] = MappingProxyType(
    {
        # before a client is known
        ("challenge", "identity.invalid", ""): "The client brought a token that is not one of ours, or a broken one. It"
        " usually has an old token of the server behind: remove the server in the client and add it again.",
        ("challenge", "identity.audience", ""): "The token is for another server than the address called. The client "
        "must ask for a token with `resource` equal to the URL it calls, without a final slash.",
        ("challenge", "identity.expired", ""): "The token had expired. The client should refresh it; if it does not, "
        "look whether it asked for a refresh token at all.",
        ("challenge", "identity.revoked", ""): "The token, its grant, client or user was revoked: `limen revoke list`.",
        ("challenge", "identity.scope", ""): "The call needs a scope the token has not. The challenge names it; the "
        "client has to ask for it and the person to agree.",
        (
            "challenge",
            "identity.proof",
            "",
        ): "The DPoP proof was wrong: compare the clocks, and the URL the client signs with `listen.url`.",
        (
            "challenge",
            "identity.nonce",
            "",
        ): "The client has to repeat the request with the nonce it got; an old client that cannot should not use DPoP.",
        ("challenge", "identity.binding", ""): "The token is bound to a key this request did not prove.",
        ("challenge", "identity.step_up", ""): "A rule wants a stronger or fresher sign-in; the client has to sign in "
        "again with what the challenge names.",
        (
            "resource_metadata",
            "not_found",
            "",
        ): "The client looks at an address that is none of ours. It was given a URL "
        "other than <listen.url>/mcp/<server> (a final slash counts), or a proxy changes paths.",
        ("server_metadata", "not_found", ""): "The client looks for the authorization server's metadata under another "
        "path. Limen's issuer has no path: a proxy that puts us under one has to serve /.well-known/ as well.",
        # who asks
        (
            "registration",
            "access_denied",
            "",
        ): "Registration is off. Configure the client under `oauth.clients`, or set "
        "`oauth.clients.registration: true` for clients without a metadata document.",
        ("registration", "invalid_redirect_uri", "redirect_uris"): "An address the client wants to be sent back to is "
        "refused: https, or http on 127.0.0.1, [::1] or localhost; no wildcard, user, fragment or other scheme.",
        ("registration", "invalid_client_metadata", ""): "The client asked for something that is not given (the field "
        "says what). Update the client, or configure it by hand.",
        ("registration", "slow_down", ""): "Too many registrations from this address. A client that registers anew at "
        "every start should keep what it got.",
        ("client", "invalid_client", "client_id"): "No such client. A client that registered before and was removed or "
        "expired has to forget what it stored: remove the server in it and add it again.",
        ("client", "invalid_client", "metadata"): "The client's metadata document cannot be used; the detail says why. "
        "Whoever publishes it has to correct it, or `limen doctor oauth` shows that we cannot reach it from here.",
        (
            "client",
            "invalid_client",
            "client_secret",
        ): "The client's secret is wrong, or it is a public client that sent one.",
        ("client", "invalid_client", ""): "The client is not known or did not prove who it is. Let it register anew.",
        # authorize
        (
            "authorize",
            "",
            "redirect_uri",
        ): "The address is not one this client registered, byte for byte. Only the port "
        "of 127.0.0.1 and [::1] may differ; `localhost` may not.",
        ("authorize", "invalid_target", "resource"): "`resource` is missing or names no server of ours. It is the URL "
        "the client calls: <listen.url>/mcp/<server>, without a final slash. Old clients that send none need updating.",
        ("authorize", "invalid_request", "resource"): "`resource` is missing or given twice; update the client.",
        ("authorize", "invalid_request", "code_challenge"): "The client does not use PKCE, which is required.",
        ("authorize", "invalid_request", "code_challenge_method"): "The client uses PKCE without S256.",
        ("authorize", "invalid_scope", "scope"): "A scope is asked for that this server does not offer. Clients should "
        "take them from the challenge or the metadata, not from their own settings.",
        ("authorize", "unsupported_response_type", ""): "Only response_type=code is given.",
        ("authorize", "invalid_request", "state"): "`state` is too long or malformed.",
        ("authorize", "request_not_supported", ""): "Request objects are not taken: send plain parameters.",
        # consent
        ("consent", "access_denied", ""): "The person said no. If they did not mean to, the client can begin again.",
        ("consent", "", "csrf"): "The form came from another browser or page than it was shown to, or cookies are "
        "blocked. If nobody attacks: the browser must take cookies of `listen.url`, and no proxy may strip them.",
        ("consent", "", "cookie"): "The browser did not bring our cookie back. `__Host-` cookies need https (or "
        "loopback) as the browser sees it: `listen.url` must be what is in the address bar.",
        ("consent", "", "origin"): "The form came from another site. `listen.url` must be the address in the browser.",
        (
            "consent",
            "",
            "transaction",
        ): "The page was open for too long, or was used before: begin again in the client.",
        # the provider
        ("provider", "temporarily_unavailable", ""): "The provider cannot be reached from here: `limen doctor oauth "
        "--provider-only`.",
        ("provider", "", "issuer"): "`oauth.provider.issuer` is not exactly what the provider's metadata says.",
        ("provider", "", "client_secret"): "Our secret at the provider is wrong or expired: renew it and set "
        "`oauth.provider.client_secret`.",
        (
            "callback",
            "access_denied",
            "",
        ): "The provider let the person not in: they declined, or have no access to the app there.",
        ("callback", "invalid_scope", ""): "The provider does not know a scope of `oauth.provider.scopes`.",
        ("callback", "invalid_client", ""): "The provider refused our client id or secret: `limen doctor oauth`.",
        ("callback", "unauthorized_client", ""): "The provider does not let our client use the code flow.",
        ("callback", "invalid_grant", ""): "The provider refused the code: it is used up or expired, `redirect_uri` is "
        "rewritten on the way, or a replica with other keys answered.",
        ("callback", "login_required", ""): "The request was silent and nobody is signed in: without prompt=none.",
        (
            "callback",
            "interaction_required",
            "",
        ): "The provider wants to ask the person something: without prompt=none.",
        ("callback", "consent_required", ""): "Nobody has consented to our app at the provider: grant it there.",
        ("callback", "", "state"): "The way back does not belong to a sign-in of ours: too late (10 minutes), a second "
        "time (reload, back button), or somebody else's. Begin again in the client.",
        ("callback", "", "cookie"): "Another browser came back than the one that left, or it lost our cookie: the "
        "callback must be reached under `listen.url`, the same host the person agreed on.",
        ("callback", "", "browser"): "Another browser came back than the one that agreed: the link was opened "
        "elsewhere,"
        " or somebody sent it to somebody else (an attack: look at both addresses).",
        ("callback", "", "error"): "The provider's answer holds an error and a code: not an honest one.",
        ("callback", "", "code"): "The provider's answer holds no usable code; something on the way cuts long "
        "addresses.",
        ("callback", "", "provider"): "The provider cannot be reached from here: `limen doctor oauth --provider-only`.",
        ("callback", "", "tid"): "The person is of another tenant than `oauth.provider.issuer` names.",
        ("callback", "", "ver"): "The registration gives out tokens of version 1: set requestedAccessTokenVersion to "
        "2.",
        ("callback", "", "groups"): "More groups than fit into a token: assign groups to the app and choose `Groups "
        "assigned to the application`, or use app roles.",
        ("callback", "", "iss"): "The answer names another issuer than the one asked: a mix-up, or "
        "`oauth.provider.issuer` is not what the provider calls itself.",
        ("callback", "", "nonce"): "The ID token is of another sign-in.",
        ("callback", "", "aud"): "The ID token is for another client: `oauth.provider.client_id` is not ours.",
        ("callback", "", "exp"): "The ID token has expired already: the clocks differ (`limen doctor oauth` measures).",
        ("callback", "", "iat"): "The ID token is from the future: the clocks differ (`limen doctor oauth` measures).",
        ("callback", "", "signature"): "No published key of the provider fits the ID token: wrong issuer, or a proxy "
        "answers for its key set.",
        ("callback", "", "id_token"): "The provider sent no usable ID token: `oauth.provider.scopes` needs openid.",
        # tokens
        ("token", "invalid_grant", "code"): "The code is used up, older than a minute, or of another client. Clients "
        "that redeem twice (two windows, a retry) get one token.",
        (
            "token",
            "invalid_grant",
            "code_verifier",
        ): "The verifier is not the one of the challenge: the client mixes up "
        "two sign-ins, or somebody else redeems the code.",
        ("token", "invalid_grant", "redirect_uri"): "`redirect_uri` differs from the one of the authorization.",
        ("token", "invalid_target", "resource"): "`resource` at the token endpoint differs from what the person agreed "
        "to. Some clients send the address without its path: update the client.",
        ("token", "invalid_client", ""): "The client did not prove who it is the way it registered "
        "(`token_endpoint_auth_method`).",
        ("token", "invalid_grant", "client_id"): "The code was made for another client.",
        ("token", "invalid_grant", "client_digest"): "The client's metadata changed since the person agreed: sign in "
        "again.",
        ("token", "invalid_grant", "user"): "The user or the client was revoked: `limen revoke list`.",
        ("token", "invalid_request", "grant_type"): "`grant_type` is missing; the body must be a form, not JSON.",
        ("token", "unsupported_grant_type", ""): "Only authorization_code and refresh_token are given (device_code, if "
        "switched on).",
        ("token", "invalid_scope", "scope"): "More scopes are asked for than the person agreed to.",
        (
            "refresh",
            "invalid_grant",
            "refresh_token",
        ): "The refresh token is used up, expired or revoked. If it was used "
        "twice, all of the grant was revoked: two copies of a client share one, or it was stolen.",
        ("refresh", "invalid_grant", "client_id"): "The refresh token is another client's: two clients share a store.",
        ("refresh", "invalid_grant", "DPoP"): "The grant is bound to a key the client did not prove: it lost its key, "
        "or somebody else has the token.",
        ("refresh", "invalid_grant", "user"): "The user or the client was revoked: `limen revoke list`.",
        ("refresh", "invalid_grant", "consent"): "The person's consent was withdrawn or has expired: sign in again.",
        ("refresh", "invalid_grant", "client_digest"): "The client's metadata changed since the person agreed: sign "
        "in again.",
        ("refresh", "invalid_grant", ""): "The grant is over: sign in again.",
        ("refresh", "invalid_scope", "scope"): "A refresh cannot widen what was agreed to.",
        # others
        ("device", "access_denied", ""): "The person said no on their other device.",
        ("device", "expired_token", ""): "Nobody entered the code in time.",
        ("device", "slow_down", ""): "The client asks too often; it should wait as long as it was told.",
        ("device", "unauthorized_client", ""): "The device grant is off: `oauth.tokens.device`.",
        ("connect", "access_denied", ""): "Somebody else than the caller opened the link, or the person said no at the "
        "upstream.",
        ("connect", "", "issuer"): "The upstream names another authorization server than the one pinned: look at "
        "its metadata before you accept it.",
        ("first_call", "identity.scope", ""): "The token lacks a scope this call needs.",
        # whatever the leg
        ("", "invalid_client", "client_id"): "No such client: let it forget what it stored and register anew.",
        ("", "temporarily_unavailable", ""): "Something we depend on did not answer (storage, provider, keys): "
        "`limen doctor`.",
        ("", "server_error", ""): "The other side failed; its log says more under this time.",
        ("", "slow_down", ""): "Too many requests from this address or client.",
        ("", "invalid_request", ""): "The request is not one of the protocol; the field says which part. Update the "
        "client.",
    }
)


def entra_number(text: str) -> int:
    """The AADSTS number in what Entra ID answered, or 0."""
    found = _AADSTS.search(text)
    return int(found[1]) if found else 0


def remedy(leg: str, outcome: str, field: str = "", detail: str = "") -> str:
    """What an operator should do about it; "" for a step that went well or that nothing is known about."""
    if outcome in ("ok", ""):
        return ""
    if (number := entra_number(f"{field} {detail}")) in ENTRA:
        return ENTRA[number]
    for where in (
        (leg, outcome, field), (leg, "", field), (leg, outcome, ""), ("", outcome, field), ("", outcome, ""),
    ):  # fmt: skip
        if where in _TEXTS and (where[1] or where[2]):
            return _TEXTS[where]
    return ""
