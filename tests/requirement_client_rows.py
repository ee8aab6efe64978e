"""Rows about being an OAuth client of the servers behind us, and about links people open. As requirement_rows.py."""

from __future__ import annotations

BOTH, NEW = "both", "2026-07-28"

PAGES = {
    "AC26": "2026-07-28 basic/authorization/client-registration",
    "E26": "2026-07-28 client/elicitation",
    "E25": "2025-11-25 client/elicitation",
}

CLIENT = (
    (
        "CLI-01",
        BOTH,
        "A26 AD26 A25",
        "Authorization servers of servers behind us are found by their published metadata.",
    ),
    ("CLI-02", BOTH, "AD26 A25", "The challenge says where that metadata is; else below the path, else at the root."),
    ("CLI-03", BOTH, "AD26 A25", "Both kinds of authorization server metadata are tried, in the given order."),
    ("CLI-04", NEW, "AD26", "Metadata whose issuer is not the one it was looked for is not used."),
    ("CLI-05", NEW, "A26", "The issuer is recorded with state and verifier before the browser leaves."),
    ("CLI-06", NEW, "A26", "`iss` of an authorization response is checked before its code is sent anywhere."),
    ("CLI-07", NEW, "A26", "`iss` is compared as it is, never normalised."),
    ("CLI-08", NEW, "A26", "Errors that come with a foreign `iss` are neither acted on nor shown."),
    ("CLI-09", BOTH, "A26 A25", "`resource` is in authorization and token requests."),
    ("CLI-10", BOTH, "A26 A25", "A token is sent to the server it was asked for, and to no other."),
    ("CLI-11", BOTH, "AS26 A25", "PKCE with S256; without announced support nobody is sent there."),
    ("CLI-12", BOTH, "AS26 A25", "An answer with a wrong state or without one is discarded."),
    ("CLI-13", BOTH, "AS26 A25", "One redirect URI, registered and fixed by configuration."),
    ("CLI-14", NEW, "AC26", "What was registered at one issuer is used at that issuer only."),
    ("CLI-15", NEW, "AC26", "A server that no longer names the operator's authorization server is an error to see."),
    ("CLI-16", NEW, "AC26", "A registration says which type of application it is for."),
    ("CLI-17", BOTH, "AC26 A25", "Our metadata document names itself, us, and where answers go."),
    ("CLI-18", BOTH, "AC26 A25", "Clients written down go before documents, documents before registration."),
    ("CLI-19", BOTH, "A26 A25", "Scopes of the challenge, else of the metadata, else none."),
    ("CLI-20", BOTH, "A26 A25", "Missing scopes are asked for on top of those granted, and not for ever."),
    ("CLI-21", NEW, "A26", "Refresh tokens are asked for where offered, and not assumed."),
    ("CLI-22", BOTH, "B26 B25", "URLs that servers name lead to no internal address."),
    ("CLI-25", BOTH, "B26 B25", "Only https leads to a sign-in, never javascript, data or a file."),
    ("CLI-28", BOTH, "AD26 A25", "Challenges are parsed, whatever else stands in the header."),
    ("CLI-29", BOTH, "A26 A25", "Scopes of a challenge count whether or not the metadata has them."),
    ("ELI-02", BOTH, "E26 E25", "What is sensitive is asked by URL, not by a form."),
    ("ELI-04", BOTH, "E26 E25", "What is asked for is bound to the caller by who they are, not by a session."),
    ("ELI-08", BOTH, "E26 E25", "A URL holds nothing about a person and signs nobody in."),
    ("ELI-10", BOTH, "E26 E25", "Who opens a URL is verified to be the one it was made for."),
)
