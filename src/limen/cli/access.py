"""`limen access`: who can reach what, what of it was used, what would be enough, and who looked at it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, load, user
from limen.cli.reviews import attest, kept
from limen.cli.survey import Evidence, Rules, evidence_of, moment, rules_of, shown
from limen.cli.terminal import block, complain, emit, line, table

if TYPE_CHECKING:
    from limen.config.load import Loaded
    from limen.core.call import Approved, Caller

app = group("Who can reach what, and who did.")
Strings = list[str]
SinceOption = Annotated[str, typer.Option(help="Start of the period: 90d, 12h, 6w ago, or a date (UTC).")]
KeyOption = Annotated[str, typer.Option(help="Verifier key of the log, or @FILE; default: beside the signing key.")]
_CLAIMS: Final = {
    "issuer": ("iss", "issuer"),
    "subject": ("sub", "subject"),
    "client": ("client_id", "azp", "client"),
    "scopes": ("scope", "scp", "scopes"),
    "roles": ("roles",),
    "groups": ("groups",),
    "amr": ("amr",),
    "acr": ("acr",),
}
_NAMES: Final = frozenset({"issuer", "subject", "client", "acr"})


@app.command()
def review(
    context: typer.Context,
    since: SinceOption = "90d",
    by_caller: Annotated[
        bool, typer.Option("--by-caller", help="Propose users in place of anyone where few came.")
    ] = False,
    diff: Annotated[Path | None, typer.Option(help="Write the proposal to this file, for `patch`.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the report to this file; its SHA-256 is attested.")] = None,
    attested: Annotated[bool, typer.Option("--attest", help="Sign that you looked at this report.")] = False,
    by: ByOption = "",
    reason: ReasonOption = "",
    key: KeyOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report who can reach what and what was used, and propose a narrower policy.

    Nothing is changed: the proposal is a diff to read. Status 1 when the log is not what was signed.
    Example: limen access review --since 90d --attest --by ann --reason "quarterly review"
    """
    from limen.cli.proposal import proposal
    from limen.policy.review import build
    from limen.protocol.jsonrpc import canonical

    if attested and not reason.strip():
        raise Misused("--attest needs --reason: what was looked at, and what follows from it")
    if not all(text.isprintable() for text in (by, reason)):
        raise Misused("--by and --reason are plain text on one line")
    loaded, until = load(context, config), time.time()
    begin = moment(since, until)
    rules = rules_of(loaded)
    evidence = evidence_of(loaded, rules, begin, until, key)
    found = {
        "period": _period(evidence, rules),
        "policy": rules.policy.digest,
        "catalog": rules.catalog.version,
        **build(rules.policy, loaded.config.policy, rules.items, evidence.usage),
        "proposal": proposal(loaded, rules, evidence.usage, by_caller=by_caller),
    }
    data = canonical(found)
    digest = sha256(data).hexdigest()
    if diff is not None:
        _write(diff, found["proposal"]["diff"].encode())
    if save is not None:
        _write(save, data)
    if attested:
        attest(loaded.config, _attestation(found, evidence, digest, user(by), reason.strip()))
    if as_json:
        emit({**found, "report": digest, "attested": attested})
        return
    _print_review(found)
    line(f"report {digest}{f', attested by {user(by)}' if attested else ''}")


def _attestation(found: dict[str, Any], evidence: Evidence, digest: str, by: str, reason: str) -> Any:
    from limen.audit.attestation import Attestation

    period, changes = found["period"], len(found["proposal"]["changes"])
    return Attestation(
        by, time.time(), reason, found["policy"], found["catalog"], digest, evidence.size, evidence.root,
        period["since"], period["until"], changes,
    )  # fmt: skip


def _period(evidence: Evidence, rules: Rules) -> dict[str, Any]:
    """What the numbers are drawn from, and what makes them less than they seem."""
    usage = evidence.usage
    doubts = []
    if usage.begins is None or usage.begins > usage.since:
        doubts.append(f"the log begins {shown(usage.begins) or 'nowhere'}, after the period asked for does")
    if usage.policy_since is not None and usage.policy_since > usage.since:
        doubts.append(f"this policy decides since {shown(usage.policy_since)}: younger rules look unused")
    if usage.unreadable:
        doubts.append(f"{usage.unreadable} records could not be read")
    if usage.overflow:
        doubts.append("more callers and definitions than can be counted: some are missing")
    if evidence.later:
        doubts.append(f"{evidence.later} newest records are not signed yet and not counted")
    if rules.policy.warnings:
        doubts.append(f"the policy has {len(rules.policy.warnings)} warnings; see `limen policy check`")
    return {
        "since": usage.since,
        "until": usage.until,
        "log_begins": usage.begins,
        "records": usage.records,
        "signed": evidence.size,
        "root": evidence.root,
        "unsigned": evidence.later,
        "unreadable": usage.unreadable,
        "doubts": doubts,
    }


@app.command("who-can")
def who_can(
    context: typer.Context,
    tool: Annotated[str, typer.Argument(help="server/name; prompt:, resource: or template: in front for others.")],
    since: SinceOption = "90d",
    no_log: Annotated[bool, typer.Option("--no-log", help="Only the rules; no callers.")] = False,
    key: KeyOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which rules let whom reach a definition, which known callers can, and who did; status 1 if it is unknown.

    Example: limen access who-can files/read_file
    """
    from limen.policy.review import holders, ways

    loaded, until = load(context, config), time.time()
    begin = moment(since, until)
    rules = rules_of(loaded)
    approved = _named(rules, tool)
    found = [asdict(way) for way in ways(rules.policy, loaded.config.policy, approved)]
    callers: list[dict[str, Any]] = []
    if not no_log:
        callers = holders(rules.policy, evidence_of(loaded, rules, begin, until, key).usage, approved)
    withheld = rules.catalog.withheld(approved.server, approved.kind, approved.name)
    if as_json:
        emit({"definition": tool, "effect": approved.effect, "withheld": withheld, "rules": found, "callers": callers})
        return
    line(f"{tool}: effect {approved.effect}{f', withheld now: {withheld}' if withheld else ''}")
    _print_ways(found)
    if callers:
        rows = [{**row, "last used": shown(row["last"])} for row in callers]
        table(("subject", "issuer", "client", "reaches", "rules", "used", "refused", "last used", "standing"), rows)
    elif not no_log:
        line("no caller known from the log can reach it")


@app.command("what-can")
def what_can(
    context: typer.Context,
    caller: Annotated[str, typer.Argument(help="Subject of the caller.")] = "",
    subject: Annotated[str, typer.Option(help="The same.")] = "",
    issuer: Annotated[str, typer.Option(help="Issuer; default: the first configured.")] = "",
    client: Annotated[str, typer.Option(help="Client id.")] = "",
    group_: Annotated[Strings | None, typer.Option("--group", help="Group; may be repeated.")] = None,
    role: Annotated[Strings | None, typer.Option(help="Role; may be repeated.")] = None,
    scope: Annotated[Strings | None, typer.Option(help="Scope; may be repeated.")] = None,
    mfa: Annotated[bool, typer.Option("--mfa", help="Signed in with more than one factor.")] = False,
    claims: Annotated[str, typer.Option(help="Claims instead, a JSON object or @FILE.")] = "",
    last_seen: Annotated[
        bool, typer.Option("--last-seen", help="With what the log recorded of the caller last.")
    ] = False,
    key: KeyOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what a caller can reach, through which rules and under which conditions.

    Example: limen access what-can ann --group dev --scope files.read
    """
    from limen.policy.review import label, place_of, reachable, ways

    if caller and subject and caller != subject:
        raise Misused("name the caller once")
    loaded = load(context, config)
    rules = rules_of(loaded)
    given = {"issuer": issuer, "subject": subject or caller, "client": client}
    sets = {"groups": group_ or [], "roles": role or [], "scopes": scope or [], "amr": ["mfa"] if mfa else []}
    if claims and (any(given.values()) or any(sets.values()) or last_seen):
        raise Misused("--claims says everything about the caller; give nothing else")
    if last_seen:
        who = _last_seen(loaded, rules, given, any(sets.values()), key)
    else:
        who = _caller(loaded, _claims(claims) if claims else {**given, **sets})
    rows = []
    for item, by in reachable(rules.policy, who, rules.items):
        applied = [way for way in ways(rules.policy, loaded.config.policy, item) if way.id in by]
        requires = sorted({one for way in applied for one in way.requires})
        denied = [w for w in ways(rules.policy, loaded.config.policy, item) if w.effect == "deny"]
        rows.append(
            {
                "definition": label(place_of(item)),
                "effect": item.effect,
                "rules": list(by),
                "requires": requires,
                "conditions": [text for way in applied for text in _conditions(way.when, way.unless)],
                "unless denied by": [way.id for way in denied],
            }
        )
    about = {name: getattr(who, name) for name in ("issuer", "subject", "client")}
    if as_json:
        standing = {name: sorted(getattr(who, name)) for name in ("scopes", "roles", "groups", "amr")}
        emit({"caller": {**about, **standing, "acr": who.acr}, "policy": rules.policy.digest, "reaches": rows})
        return
    line(f"{who.subject} of {who.issuer}: {len(rows)} of {len(rules.items)} definitions")
    if rows:
        table(("definition", "effect", "rules", "requires", "conditions", "unless denied by"), rows)


@app.command()
def reviews(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List attested reviews; status 1 if one is not authentic. Example: limen access reviews"""
    rows = kept(load(context, config).config)
    if as_json:
        emit(rows)
    elif not rows:
        line("no review was attested yet")
    else:
        shown_rows = [
            {**row, "when": shown(row.get("at")), "from": shown(row.get("since")), "forged": not row["authentic"]}
            for row in rows
        ]
        table(
            ("when", "by", "reason", "from", "changes", "policy", "report", "authentic", "problem"),
            shown_rows,
            red="forged",
        )
    if not all(row["authentic"] for row in rows):
        complain("a stored review was not signed by this gateway's key")
        raise typer.Exit(1)


def _named(rules: Rules, text: str) -> Approved:
    """The approved definition meant by `server/name`, `prompt:server/name` and so on. Raises Misused, Refused."""
    kind, rest = "tool", text
    for one in ("tool", "prompt", "resource", "template"):
        if text.startswith(f"{one}:"):
            kind, rest = one, text[len(one) + 1 :]
    server, slash, name = rest.partition("/")
    if not slash or not name:
        raise Misused(f"{text!r} is not of the form server/name")
    approved = rules.catalog.find(server, kind, name)
    if approved is None:
        raise Refused(f"{text}: not approved; it is {rules.catalog.state(server, kind, name)}")
    return approved


def _claims(text: str) -> dict[str, Any]:
    """Our names for a token's claims; what no rule can read is left out. Raises Misused."""
    from limen.cli.audit import key_text

    try:
        claims = json.loads(key_text(text))
    except ValueError:
        raise Misused("--claims is not JSON") from None
    if not isinstance(claims, dict):
        raise Misused("--claims is a JSON object")
    found: dict[str, Any] = {}
    for ours, theirs in _CLAIMS.items():
        value = next((claims[name] for name in theirs if name in claims), "" if ours in _NAMES else [])
        if ours not in _NAMES and isinstance(value, str):
            value = value.split()
        fits = isinstance(value, str) if ours in _NAMES else isinstance(value, list)
        if not fits or not all(isinstance(one, str) for one in value):
            raise Misused(f"--claims: {theirs[0]} is not text, or not a list of texts")
        found[ours] = value
    return found


def _caller(loaded: Loaded, known: dict[str, Any]) -> Caller:
    from limen.core.call import Caller

    issuers = loaded.config.issuers
    scopes, roles, groups, amr = (frozenset(known.get(name, ())) for name in ("scopes", "roles", "groups", "amr"))
    return Caller(
        known.get("issuer") or (issuers[0] if issuers else "local"),
        known.get("subject") or "someone",
        known.get("client", ""),
        scopes,
        roles,
        groups,
        amr,
        known.get("acr", ""),
    )


def _last_seen(loaded: Loaded, rules: Rules, given: dict[str, str], more: bool, key: str) -> Caller:
    """The one known caller that fits. Raises Misused, Refused."""
    if more or not given["subject"]:
        raise Misused("--last-seen takes a subject (and issuer, client), and the rest from the log")
    usage = evidence_of(loaded, rules, 0, time.time(), key).usage
    wanted = tuple(given.values())
    fitting = [one for one in usage.callers if all(w in ("", have) for w, have in zip(wanted, one, strict=True))]
    if len(fitting) != 1:
        names = "; ".join(f"{issuer} {client}" for issuer, _, client in sorted(fitting)[:5])
        raise Refused(f"{given['subject']}: {f'more than one: {names}' if fitting else 'the log does not know it'}")
    known = usage.callers[fitting[0]]
    if known is None:
        raise Refused(f"{given['subject']}: what it was judged by was too long to be recorded")
    return known


def _conditions(when: str, unless: str) -> list[str]:
    return [*([f"when {when}"] if when else []), *([f"unless {unless}"] if unless else [])]


def _print_ways(found: list[dict[str, Any]]) -> None:
    if not found:
        line("no rule speaks of it, so nobody can")
        return
    rows = [
        {**one, "who": one["who"] or "see its Cedar text", "conditions": _conditions(one["when"], one["unless"])}
        for one in found
    ]
    table(("id", "effect", "who", "call", "scopes", "conditions", "requires"), rows)
    for one in found:
        if one["whole"]:
            line(f"{one['id']} denies it to everybody", red=True)
        elif not one["who"]:
            block(one["text"])


def _print_review(found: dict[str, Any]) -> None:
    period = found["period"]
    line(f"{shown(period['since'])} to {shown(period['until'])} UTC: {period['records']} signed records")
    for doubt in period["doubts"]:
        line(f"note: {doubt}", red=True)
    rows = [{**row, "last used": shown(row["last"])} for row in found["rules"]]
    if rows:
        table(("id", "effect", "who", "call", "calls", "perhaps", "callers", "definitions", "last used"), rows)
    if found["callers"]:
        table(("subject", "issuer", "client", "calls", "refused", "used"), found["callers"])
    for title, key in (("never used", "never_used"), ("used, and not there any more", "used_but_gone")):
        if found[key]:
            line(f"{title}: {', '.join(found[key])}")
    offer = found["proposal"]
    for change in offer["changes"]:
        line(f"rule {change['rule']}: {change['act']}: {change['why']}")
    for left in offer["left"]:
        line(f"left as it is: {left['where']}: {left['why']}")
    if offer["why_not"]:
        line(f"no proposal: {offer['why_not']}")
    block(offer["diff"])


def _write(path: Path, data: bytes) -> None:
    """A new file that only its owner reads. Raises Refused."""
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
            stream.write(data)
    except OSError as fault:
        raise Refused(f"{path}: {fault.strerror or fault}") from None
