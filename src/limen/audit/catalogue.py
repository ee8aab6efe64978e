"""The table of events: every type of record the log can hold, what it means, how grave it is, and what it carries.

One word means one thing: a member has the same meaning wherever it stands. `docs/events.md` is made of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from limen.core.events import Category, Severity


@dataclass(frozen=True, slots=True)
class Row:
    """One type. `members`: those of its own, beside the ones any record may have."""

    id: str
    category: Category
    severity: Severity
    text: str
    members: tuple[str, ...] = ()


_CALL: Final = ("method", "name", "args", "in", "revision", "decision", "policy", "catalog")
_JUDGED: Final = ("upstream", "tool", "digest", "rules")
_RISK: Final = ("risk", "findings", "own_risk", "weighed", "because")
_FORWARDED: Final = (*_CALL, *_JUDGED, "drifted", "credential", "approval", "approved_by", *_RISK)
_BURST: Final = ("event", "severity", "network", "count", "held_back")
_DOUBT: Final = ("event", "severity", "score", "signals")
_FORGED: Final = ("event", "severity", "field", "detail", "address", "transaction", "path", "held_back")
_CONNECTION: Final = ("connection", "authorization_server", "scopes", "by", "reason")
_CONSENT: Final = (
    "change", "given", "id", "issuer", "subject", "name", "client_name", "client_digest", "redirect_uri", "resource",
    "route", "scopes", "expires", "by", "reason",
)  # fmt: skip
_CLIENT: Final = ("name", "redirect_uris", "address", "warnings")
_HISTORY: Final = ("change", "sequence", "at", "by", "kind", "name", "digest", "reason", "source", "decision")
_REVOKED: Final = ("id", "kind", "value", "issuer", "reason", "by", "at", "until")
_SEALED: Final = ("act", "by", "reason")
_RELEASED: Final = ("act", "id", "by", "reason", "name")


def _security() -> tuple[Row, ...]:
    return (
        Row("security.token.two_networks", "token", "high", "One token is used from two networks in turn.",
            ("event", "severity", "networks", "held_back")),
        Row("security.token.wrong_audience", "token", "medium", "Many tokens for somebody else, from one network.",
            _BURST),
        Row("security.token.expired_burst", "token", "low", "Many expired tokens, from one network.", _BURST),
        Row("security.token.invalid_burst", "token", "medium", "Many tokens that are not valid, from one network.",
            _BURST),
        Row("security.token.revoked_use", "token", "high", "A revoked token is still tried.", _BURST),
        Row("security.handle.probing", "session", "medium", "Sessions or states of others are tried.", _BURST),
        Row("security.session.hijack", "session", "high", "A session looks like somebody else's; it was ended.",
            (*_DOUBT, "ended")),
        Row("security.session.step_up", "session", "medium", "So much changed that a new sign-in is asked for.",
            _DOUBT),
        Row("security.session.changed", "session", "info", "Something changed around a session or caller.",
            (*_DOUBT, "held_back")),
        Row("security.signin.other_browser", "authentication", "high", "A sign-in came back in another browser.",
            ("event", "severity", "field", "detail", "address", "purpose")),
        Row("security.signin.mix_up", "authentication", "high", "A sign-in was answered by the wrong provider.",
            ("event", "severity", "field", "detail", "address", "purpose")),
        Row("security.consent.forged", "consent", "high", "An answer that no page of ours asked for.", _FORGED),
        Row("security.consent.cookie", "consent", "high", "A cookie of ours was changed.", _FORGED),
        Row("connect_by_another", "consent", "high", "A link to connect an account was opened by somebody else.",
            ("came_iss", "came_sub")),
        Row("connect_mix_up", "consent", "high", "Another authorization server answered than was asked.", ("known",)),
        Row("finding", "catalog", "high", "A server was caught at something a person must look at.", ("detail",)),
    )  # fmt: skip


def _calls() -> tuple[Row, ...]:
    return (
        Row("call.intent", "call", "info", "A call is about to be sent: everything that allowed it.",
            (*_FORWARDED, "flow", "standing", "parameters")),
        Row("call.outcome", "call", "info", "What came of a call that was sent; severity is its reason's.",
            (*_FORWARDED, "reason", "ms", "out", "isError", "resources", "more_resources", "detail")),
        Row("call.local", "call", "info", "A call Limen answered itself: lists, initialize, ping.", _CALL),
        Row("call.refused", "call", "low", "A call was refused; category and severity are its reason's.",
            (*_CALL, *_JUDGED, *_RISK, "reason", "guard", "detail")),
        Row("authenticated", "authentication", "info", "A credential was accepted that this process did not know.",
            ("transport", "amr", "acr", "auth_time", "expires", "key", "machine")),
        Row("session.begun", "session", "info", "A handshake-era session began.", ("act", "revision")),
        Row("session.ended", "session", "info", "It ended; who had it stands where it began.", ("act", "why")),
        Row("session.resumed", "session", "info", "It goes on in a process that did not know it.", ("act", "why")),
    )  # fmt: skip


def _tokens() -> tuple[Row, ...]:
    return (
        Row("signin.granted", "authentication", "info", "A person signed in and agreed.",
            ("event", "user", "issuer", "resource", "scopes", "consent", "address")),
        Row("grant.begun", "token", "info", "A client redeemed its code.", ("state", "grant", "user", "resource",
            "scopes")),
        Row("grant.ended", "token", "medium", "A grant ended, for what its client or somebody else did.",
            ("state", "grant", "user", "why")),
        Row("grant.access_token_revoked", "token", "info", "A client gave an access token back.", ("state", "grant")),
        Row("grant.refresh_token_revoked", "token", "info", "A client gave its grant back.", ("state", "grant")),
        Row("grant.grant_revoked", "token", "low", "A client gave so many tokens back that its grant ended.",
            ("state", "grant")),
        Row("exchange", "token", "info", "A server got a token for another one, for the same person (RFC 8693).",
            ("client_id", "sub", "idp", "aud", "scope", "jti", "of")),
        Row("credential.ok", "token", "info", "A credential for a server was obtained.", ("kind", "outcome", "detail")),
        Row("credential.refused", "token", "low", "There is none, and that is the answer.", ("kind", "outcome",
            "detail")),
        Row("credential.fault", "token", "medium", "It could not be obtained.", ("kind", "outcome", "detail")),
        Row("credential.late", "token", "medium", "It did not come in time.", ("kind", "outcome", "detail")),
        Row("connected", "consent", "info", "A person connected an account at a server.", _CONNECTION),
        Row("disconnected", "consent", "info", "A connection ended.", (*_CONNECTION, "why")),
        Row("connection_failed", "token", "medium", "A connection could not be renewed.", (*_CONNECTION, "error")),
        Row("revocation_told", "token", "info", "The server's sign-in knows that a connection ended.", _CONNECTION),
        Row("revocation_pending", "token", "low", "It could not be told yet.", (*_CONNECTION, "detail")),
        Row("upstream_issuer.ok", "token", "info", "A server's own sign-in was seen for the first time.",
            ("named", "accepted")),
        Row("upstream_issuer.failed", "token", "high", "A server names another sign-in than before; it is not used.",
            ("known", "named", "accepted")),
        Row("consent.give", "consent", "info", "A person agreed to a client.", _CONSENT),
        Row("consent.revoke", "consent", "low", "A consent was taken back.", _CONSENT),
        Row("consent.denied", "consent", "info", "A person did not agree.", ("event", "resource")),
        Row("oauth.client_registered", "administration", "low", "A client registered itself.", _CLIENT),
        Row("oauth.client_updated", "administration", "low", "A client changed what it says of itself.", _CLIENT),
        Row("oauth.client_deleted", "administration", "info", "A client took itself out.", _CLIENT),
        Row("oauth.client_removed", "administration", "low", "An operator took a client out.", ("name", "by")),
        Row("oauth.client_refused", "authorization", "low", "A client of a host that is not accepted.", ("why",)),
        Row("oauth.client_changed", "administration", "medium", "A client's own document changed.", ("before",
            "after")),
        Row("oauth.registrations_full", "administration", "high", "No more clients can register.", ("most",)),
    )  # fmt: skip


def _things() -> tuple[Row, ...]:
    history: tuple[tuple[str, Severity, str], ...] = (
        ("new", "low", "A server announced something new."), ("changed", "medium", "It announced something else."),
        ("returned", "low", "What was gone is announced again."), ("rejected_again", "low",
            "What was rejected is back."),
        ("held", "medium", "It is held until people decide."), ("gone", "low", "It is announced no more."),
        ("finding", "high", "Something is wrong with a definition."), ("approved", "low", "Approved."),
        ("voted", "low", "One of several people approved."), ("rejected", "low", "Rejected."),
        ("rolled_back", "low", "The version before is in service again."), ("dropped", "info", "No longer kept."),
        ("repaired", "medium", "Our records were repaired."), ("tampered", "critical", "Our records were changed."),
    )  # fmt: skip
    return (
        *(Row(f"catalog.{change}", "catalog", severity, text, _HISTORY) for change, severity, text in history),
        Row("swap", "catalog", "info", "Another catalog or policy is in force.", ("catalog", "policy")),
        Row("unreachable", "catalog", "medium", "A server cannot be read.", ("detail",)),
        Row("reachable", "catalog", "info", "It can be read again.", ()),
        Row("lock", "catalog", "info", "A signed lock is what is approved.", ("digest", "key")),
        Row("cell.start", "sandbox", "info", "A local server was started.", ("event", "pid", "restarts")),
        Row("cell.exit", "sandbox", "low", "It ended.", ("event", "status", "reason", "bound", "seconds", "peak")),
        Row("cell.refused", "sandbox", "high", "It was not started.", ("event", "reason")),
        Row(
            "egress.allowed",
            "sandbox",
            "info",
            "A local server connects somewhere.",
            ("cell", "what", "name", "address", "port", "rule"),
        ),
        Row(
            "egress.ended",
            "sandbox",
            "info",
            "That connection is over.",
            ("cell", "what", "name", "address", "port", "sent", "received", "seconds"),
        ),
        Row(
            "egress.refused",
            "sandbox",
            "medium",
            "A local server wanted to connect where it may not.",
            ("cell", "what", "reason", "target", "rule", "detail", "say", "unrecorded"),
        ),
        Row(
            "egress.learned",
            "sandbox",
            "info",
            "The same, while it is being learned what it needs.",
            ("cell", "what", "reason", "target", "rule", "detail", "say", "unrecorded"),
        ),
        Row("egress.summary", "sandbox", "low", "What was not recorded one by one.", ("cell", "what", "unrecorded")),
        Row("feed", "content", "info", "Indicators of a feed are in force, or are not.", ("source", "state")),
        Row("quarantine.released", "content", "medium", "Somebody read what was withheld.", _RELEASED),
        Row("quarantine.discarded", "content", "info", "It was deleted unread.", _RELEASED),
        Row(
            "labels.cleared",
            "content",
            "medium",
            "Somebody vouched for what a caller has read.",
            ("act", "issuer", "subject", "labels", "by", "reason"),
        ),
        Row(
            "protect.rotated", "administration", "low", "New keys for what servers need not know.", (*_SEALED, "tenant")
        ),
        Row("protect.destroyed", "administration", "medium", "Its keys were destroyed.", (*_SEALED, "tenant")),
    )  # fmt: skip


def _house() -> tuple[Row, ...]:
    return (
        Row("start", "administration", "low", "A gateway begins.",
            ("version", "config", "text", "policy", "catalog", "loosened", "pid", "transport")),
        Row("stop", "administration", "low", "It ends.", ("reason",)),
        Row("reload.ok", "administration", "low", "Another configuration is in force.",
            ("ok", "config_before", "config", "text", "policy_before", "policy", "servers", "restart", "loosened")),
        Row("reload.failed", "administration", "medium", "A configuration was not taken over.",
            ("ok", "config", "policy", "detail")),
        Row("keys", "administration", "info", "A key was replaced, as it is now and then.", ("detail",)),
        Row("key.create", "administration", "low", "An API key was made.",
            ("change", "key", "owner", "servers", "scopes", "expires", "by", "at")),
        Row("key.shorten", "administration", "low", "It ends sooner: another one takes its place.",
            ("change", "key", "owner", "servers", "scopes", "expires", "by", "at")),
        Row("key.revoke", "administration", "low", "It was ended.",
            ("change", "key", "owner", "servers", "scopes", "expires", "by", "at")),
        Row("vault.rotated", "administration", "low", "Keys of the vault were replaced.",
            (*_SEALED, "keys", "data", "rewrapped", "retired", "token_key", "distrusted")),
        Row("vault.rewrapped", "administration", "info", "Data keys were wrapped anew.", (*_SEALED, "rewrapped")),
        Row("vault.shredded", "administration", "medium", "A person's data keys were destroyed.",
            (*_SEALED, "issuer", "subject")),
        Row("approval.approved", "administration", "low", "A person said yes to one call.",
            ("act", "id", "by", "reason", "name", "digest", "args", "until", "at")),
        Row("approval.rejected", "administration", "low", "A person said no to one call.",
            ("act", "id", "by", "reason", "name", "digest", "args", "until", "at")),
        Row("revocation.made", "administration", "medium", "An operator revoked something.", ("act", *_REVOKED)),
        Row("revocation.undone", "administration", "medium", "An operator took that back.", ("act", *_REVOKED)),
        Row("revoked", "incident", "medium", "A revocation is in force in this process.", _REVOKED),
        Row("unrevoked", "incident", "low", "It is not any more.", _REVOKED),
        Row("parameters.read", "administration", "medium", "Somebody read the arguments of a call.",
            ("act", "by", "reason", "issuer", "subject", "kind")),
        Row("package.installed", "administration", "low", "The program of a local server was installed.",
            ("act", "packages", "changed", "by")),
        Row("package.deleted", "administration", "info", "Programs nobody wants were deleted.", ("act", "paths", "by")),
        Row("access_review", "administration", "info", "Somebody attested who can reach what.",
            ("by", "at", "reason", "policy", "catalog", "report", "records", "root", "since", "until", "changes")),
        Row("attempts_lost", "administration", "medium", "Steps of sign-ins could not be kept.", ("steps",)),
    )  # fmt: skip


def _kept() -> tuple[Row, ...]:
    """What becomes of the log itself, of keys, servers and the configuration."""
    hold = ("act", "id", "what", "value", "issuer", "by", "reason")
    rows: tuple[Row, ...] = (
        Row("witnessed", "administration", "info", "It was stated, signed, how far all logs are.",
            ("number", "digest", "logs")),
        Row("unwatched", "incident", "critical", "One that watches could not take a record, and passed it over.",
            ("watch", "event", "detail")),
        Row("tampered", "incident", "critical", "A log is not what was witnessed of it.", ("detail", "severity")),
        Row("recovered", "administration", "medium", "The log was cut to its last whole record.", ("detail",)),
        Row("pruned", "administration", "medium", "Old records are being removed on purpose.",
            ("first", "ranges", "records", "by", "reason")),
        Row("prune.asked", "administration", "low", "Somebody wants old records removed; others must agree.",
            ("act", "by", "reason", "ranges")),
        Row("hold.added", "administration", "medium", "Records are kept, whatever their age.", hold),
        Row("hold.lifting", "administration", "medium", "Somebody agreed to end that.", hold),
        Row("hold.lifted", "administration", "medium", "They are not kept any more.", hold),
        Row("restored", "administration", "high", "The gateway was restored from a backup.",
            ("backup", "made", "size", "by", "issued")),
        Row("rotated", "administration", "medium", "Keys were replaced by an operator.",
            ("key", "now", "why", "by", "reason")),
        Row("certificate.ok", "administration", "info", "Another TLS certificate is in use.",
            ("ok", "digest", "begins", "ends", "names")),
        Row("certificate.failed", "administration", "high", "It could not be taken over.", ("ok", "detail")),
        Row("restart.ok", "administration", "low", "A server was started anew by an operator.",
            ("ok", "artifact", "clean", "by", "reason")),
        Row("restart.failed", "administration", "medium", "It could not be.", ("ok", "detail", "clean", "by",
            "reason")),
        Row("config.rollback", "administration", "medium", "An operator put a former configuration back.",
            ("change", "to", "digest", "by", "reason")),
        Row("follower.behind", "administration", "medium", "A follower of the log is too far behind.",
            ("act", "name", "records", "behind_s", "refusing", "severity", "detail")),
        Row("follower.recovered", "administration", "info", "It has caught up.",
            ("act", "name", "records", "behind_s", "refusing", "severity", "detail")),
        Row("follower.dead_letter", "administration", "medium", "It would not take one record, which was put aside.",
            ("act", "name", "event", "why", "severity")),
        Row("follower.rewound", "administration", "high", "The log is shorter than what it had read.",
            ("act", "name", "next", "size", "severity")),
        Row("follower.forgotten", "administration", "medium", "Its place in the log was deleted.",
            ("act", "name", "next", "by", "reason")),
    )  # fmt: skip
    return rows


def _watching() -> tuple[Row, ...]:
    contained = ("id", "action", "value", "issuer", "by", "reason", "incident", "until", "waits")
    quiet = ("act", "id", "rule", "about", "owner", "reason", "until", "by")
    decided = ("act", "id", "playbook", "digest", "by", "reason")
    run = ("act", "id", "playbook", "digest", "trigger", "named", "by", "incident")
    incident = ("act", "id", "by")
    return (
        Row("signal", "incident", "low", "A suspicion of those who watch.",
            ("about", "value", "source", "score", "why", "event", "seconds")),
        Row("risk.cleared", "incident", "medium", "An operator took suspicions back.",
            ("act", "about", "value", "by", "reason", "signals")),
        Row("behavior.forgotten", "incident", "low", "What was usual of somebody is learned anew.",
            ("about", "value", "by", "reason")),
        Row("decoys.planted", "incident", "low", "A canary was issued, to be planted.", ("name", "by")),
        Row("decoys.uprooted", "incident", "low", "It is not looked for any more.", ("name", "by")),
        Row("security.decoy.called", "incident", "critical", "Somebody called a tool that is none.",
            ("event", "severity", "name", "method", "args")),
        Row("security.decoy.canary", "incident", "critical", "A planted value was seen.",
            ("event", "severity", "where", "name")),
        Row("alert", "incident", "medium", "Something a person should look at; severity is its rule's.",
            ("id", "rule", "severity", "title", "about", "group", "count", "events")),
        Row("alert_decided", "incident", "low", "A person decided about an alert.", ("act", "id", "rule", "by",
            "reason")),
        Row("alert_suppression.begun", "incident", "medium", "Such alerts are not raised for a while.", quiet),
        Row("alert_suppression.ended", "incident", "low", "They are raised again.", ("act", "id", "by")),
        Row("alert_suppressed", "incident", "info", "One was not raised.", ("rule", "suppression", "owner", "events")),
        Row("delivery.dead", "incident", "high", "An alert could not be delivered, and was put aside.",
            ("act", "route", "alert", "entry", "detail")),
        Row("delivery.revived", "incident", "low", "It is tried again.", ("act", "route", "alert", "entry", "by")),
        Row("contained", "incident", "high", "An action of containment, in force or waiting for a second person.",
            contained),
        Row("released", "incident", "medium", "It was taken back, or somebody asked for that.",
            (*contained, "break_glass", "severity")),
        Row("containment", "incident", "medium", "This process knows what is contained now.",
            ("added", "gone", "in_force")),
        Row("incident.opened", "incident", "medium", "An incident began.", (*incident, "title", "severity", "group")),
        Row("incident.noted", "incident", "info", "Somebody wrote something down about it.", (*incident, "text")),
        Row("incident.changed", "incident", "low", "Its status or owner changed, or something was linked to it.",
            (*incident, "owner", "status", "reason", "events", "alerts", "containments", "subjects")),
        Row("incident.closed", "incident", "low", "It was closed, with a reason.", (*incident, "status", "reason")),
        Row("incident.evidence", "incident", "medium", "Its evidence was put together.",
            ("act", "id", "records", "redacted")),
        Row("playbook.invalid", "incident", "high", "A playbook cannot be read.",
            ("act", "playbook", "digest", "detail")),
        Row("playbook.unapproved", "incident", "medium", "A playbook nobody approved is not carried out.",
            ("act", "playbook", "digest", "detail")),
        Row("playbook.approved", "incident", "medium", "Somebody approved a playbook.", decided),
        Row("playbook.withdrawn", "incident", "medium", "Its approvals were taken back.", decided),
        Row("playbook.waits", "incident", "high", "It would act, and waits for a person.", (*run, "title")),
        Row("playbook.agreed", "incident", "medium", "A person agreed.", decided),
        Row("playbook.refused", "incident", "medium", "A person did not agree.", decided),
        Row("playbook.expired", "incident", "medium", "Nobody agreed in time.", (*run, "detail")),
        Row("playbook.fired", "incident", "high", "It acted.", (*run, "steps", "applied")),
        Row("playbook.limited", "incident", "critical", "It would have locked out more than it may.",
            (*run, "steps", "applied")),
        Row("playbook.undo", "incident", "medium", "A person wants that taken back.", decided),
        Row("playbook.rolled_back", "incident", "medium", "What it did was taken back.", (*run, "steps")),
    )  # fmt: skip


CATALOGUE: Final = MappingProxyType(
    {row.id: row for row in (*_calls(), *_security(), *_tokens(), *_things(), *_house(), *_kept(), *_watching())}
)


def row_of(type: str) -> Row | None:
    """The row of an event's type, or of the first part of it where the second is open."""
    return CATALOGUE.get(type) or CATALOGUE.get(type.partition(".")[0])
