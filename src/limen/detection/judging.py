"""Which checks a role gets. A judge takes one string and yields (finding id, score, detail)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from limen.detection import burdens, commands, interpreters, sql
from limen.detection.decoded import readings
from limen.detection.hosts import Hosts, host_signs, split_port
from limen.detection.paths import LONGEST, Roots, check_name, check_path
from limen.detection.roles import Role
from limen.detection.rules import Constraint
from limen.detection.urls import check_labels, check_url

Sign = tuple[str, float, str]
Judge = Callable[[str], Iterable[Sign]]

# Nothing any check below looks for can be written in these characters (but see `_harmless`).
_HARMLESS: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_ ,@+-]|[.:](?![.:/\\]))*+\Z")
_SPELLED: Final = ("union", "xp_", "delay", "outfile")
_PACKED: Final = ("gAN", "gAS", "gAJ", "rO0AB", "aced0005", "AAEAAAD", "H4sI", "eJ", "eN", "QlpoO", "UEsDB", "iVBORw0")
_WORDS_OF_PROSE: Final = 12
_LONGEST_OTHER: Final = 65_536
_LONGEST_VALUE: Final = 16_384  # of what is a name, a reference, a header or a list of them
_NEVER_PROSE: Final = frozenset({"argument.deserialisation", "argument.template"})
_LINES_OF_PROSE: Final = 3
_IN_DOCUMENT: Final = 0.5
_IN_PROSE: Final = 0.6  # what is left of a score in a value of unknown use that reads like text
_ADDRESS: Final = re.compile(r"[^\s<>\",;:]{1,320}@([^\s<>\",;]{1,255})")
_DISPLAY: Final = re.compile(r"[^<>]{0,320}@[^<>]{0,255}<[^<>]{0,255}@([^<>]{1,255})>")


def _harmless(text: str) -> bool:
    """Plain characters, and none of the words that matter without any others."""
    if not _HARMLESS.match(text):
        return False
    if len(text) < 5:
        return True
    lower = text.lower()
    return not (any(word in lower for word in _SPELLED) or text.startswith(_PACKED) or lower.rstrip().endswith("--"))


def judge_of(role: Role, constraints: Sequence[Constraint], *, writes: bool, read_only: bool) -> Judge:
    """The checks for a parameter of this role under these rules."""
    judges: list[Judge] = [
        _declared(one, role, writes) for one in constraints if one.roots or one.hosts or one.recipients
    ]
    declared_sql = any(one.read_only for one in constraints)
    if role is Role.SQL:
        judges.append(lambda text: _sql(text, declared=declared_sql, read_only=read_only or declared_sql))
    elif role is Role.COMMAND:
        judges.append(_command)
    elif role in (Role.PATH, Role.FILENAME):
        if not any(one.roots for one in constraints):
            judges.append(lambda text: _path(text, None, writes))
        if role is Role.FILENAME and any(one.role is Role.FILENAME for one in constraints):
            judges.append(lambda text: check_name(text, declared=True))
    elif role in _ADDRESSED:
        if not any(one.hosts for one in constraints):
            judges.append(_bounded(_ADDRESSED[role]))
    elif role in _JUDGES:
        judges.append(_bounded(_JUDGES[role]) if role in _SHORT else _JUDGES[role])
    if len(judges) == 1:
        return judges[0]
    return lambda text: (sign for judge in judges for sign in judge(text))


def _bounded(judge: Judge) -> Judge:
    """What is longer than any value of its kind is reported for that, and not read."""

    def check(text: str) -> Iterable[Sign]:
        if len(text) > _LONGEST_VALUE:
            return (("argument.long", 0.85, f"longer than {_LONGEST_VALUE} characters"),)
        return judge(text)

    return check


def judge_name(name: str) -> Iterator[Sign]:
    """A member name nobody declared: a value like any other."""
    if len(name) > _LONGEST_VALUE:
        yield "argument.long", 0.85, f"a name longer than {_LONGEST_VALUE} characters"
    elif not _HARMLESS.match(name):
        yield from _suite(name, strict=False)


def _declared(constraint: Constraint, role: Role, writes: bool) -> Judge:
    roots, hosts, recipients = constraint.roots, constraint.hosts, constraint.recipients
    if roots is not None:
        return lambda text: _path(text, roots, writes)
    if hosts is not None:
        if role is Role.HOST:
            return lambda text: _declared_host(text, hosts)
        return lambda text: check_url(text, hosts)
    assert recipients is not None

    def allowed(text: str) -> Iterator[Sign]:
        if not recipients.holds(text):
            yield "exfiltration.recipient", 1.0, "not one of the declared recipients"

    return allowed


def _declared_host(text: str, hosts: Hosts) -> Iterator[Sign]:
    host, port = split_port(text)
    if not hosts.holds(host.lower(), port):
        yield "argument.host", 1.0, "not one of the declared hosts"


def _suite(text: str, *, strict: bool) -> Iterator[Sign]:
    """Everything that breaks out of a value which is no shell's, database's or other interpreter's business."""
    forms, deeper = readings(text)
    if deeper:
        yield "argument.encoding", 0.85, "escapes within escapes"
    for number, form in enumerate(forms):
        yield from commands.check_shell(form, strict=strict)
        if form[:1] in "- /eEfF":
            yield from commands.check_option(form, strict=strict)
        yield from sql.check_fragment(form)
        yield from interpreters.check_template(form)
        yield from interpreters.check_serial(form)
        yield from interpreters.check_code(form)
        yield from interpreters.check_markup(form)
        yield from interpreters.check_filters(form)
        yield from interpreters.check_formula(form)
        yield from interpreters.check_line(form, header=False)
        if number and "\x00" in form:
            yield "argument.encoding", 0.9, "an escaped NUL"
    yield from burdens.check_packed(text)


def _identifier(text: str) -> Iterator[Sign]:
    if _harmless(text):
        return
    yield from _suite(text, strict=False)
    yield from _climbing(text)


def _reference(text: str) -> Iterator[Sign]:
    """Revisions, packages, images, repositories: no operator is honest, a slash or a range is."""
    if _harmless(text):
        return
    if text[:2] in ("./", "..") or text[:1] in "/~" or "\\" in text or "://" in text:
        yield from check_url(text, identifier=True) if "://" in text else check_path(text)
    yield from _suite(text, strict=True)
    yield from _climbing(text)


def _climbing(text: str) -> Iterator[Sign]:
    """`../` where a name or number stands: it will become part of a path or of an address."""
    for number, form in enumerate(readings(text)[0]):
        if ".." in form and re.search(r"(?:\A|[/\\])\.\.(?:[/\\;?#]|\Z)", form):
            yield "argument.traversal", 0.95 if number else 0.9, "climbs out of the place it names"
        elif number and "%" in text and re.search(r"[/\\]", form) and not re.search(r"[/\\]", text):
            yield "argument.encoding", 0.7, "an escaped separator"


def _other(text: str) -> Iterator[Sign]:
    """A value of unknown use. What reads like text or a document is doubted less, but not left alone."""
    if _harmless(text):
        return
    if len(text) > _LONGEST_OTHER:  # a document, where the rest would be noted only
        yield "argument.long", 0.3, f"a value of unknown use longer than {_LONGEST_OTHER} characters"
        yield from _text(text)
        return
    lines = text.count("\n")
    prose = text.count(" ") >= _WORDS_OF_PROSE or lines >= _LINES_OF_PROSE
    signs = list(_suite(text, strict=False))
    if not lines and not prose and len(text) <= LONGEST:
        last = readings(text)[0][-1]
        if "://" in text[:40] or last[:2] == "//":
            signs += check_url(text, identifier=True)
        elif ".." in last or last[:1] in ("/", "~", "\\") or "/." in last or last[1:2] == ":":
            signs += check_path(text)
    if not prose:
        yield from signs
        return
    factor = _IN_DOCUMENT if lines >= _LINES_OF_PROSE or "`" in text else _IN_PROSE
    for id_, score, detail in signs:
        yield id_, score if id_ in _NEVER_PROSE else score * factor, detail


def _path(text: str, roots: Roots | None, writes: bool) -> Iterator[Sign]:
    if len(text) > LONGEST:
        yield from check_path(text, roots)  # reported for that, and not read
        return
    if ("://" in text[:32] and roots is None) and text[:5].lower() != "file:":
        yield from check_url(text, identifier=True)
    else:
        yield from check_path(text, roots, writes=writes)
    if not commands.quiet(text):
        for form in readings(text)[0]:
            yield from commands.check_shell(form)
            yield from interpreters.check_template(form)
    if text[:1] in "- eEfF":
        yield from commands.check_option(text, strict=True)


def _url(text: str) -> Iterator[Sign]:
    yield from check_url(text)
    yield from _around_url(text)


def _uri(text: str) -> Iterator[Sign]:
    yield from check_url(text, identifier=True)
    yield from _around_url(text)


def _around_url(text: str) -> Iterator[Sign]:
    # `&` and `;` belong to queries; substitutions and options do not.
    if not commands.quiet_url(text):
        yield from (sign for sign in commands.check_shell(text.replace("&", "?")) if sign[1] > 0.7)
        yield from interpreters.check_template(text)
    if text[:1] in "- eEfF":
        yield from commands.check_option(text, strict=True)


def _destination(text: str) -> Iterator[Sign]:
    """The server will send there what it holds: a place nobody declared is worth a note even if public."""
    yield "exfiltration.destination", 0.3, "the destination is chosen in the call and no hosts are declared"
    yield from _url(text) if "/" in text else _host(text)


def _host(text: str) -> Iterator[Sign]:
    if "/" in text or "@" in text or "\\" in text:
        yield from check_url(text if "://" in text else "//" + text)
    else:
        forms, deeper = readings(text)
        if deeper or (len(forms) > 1 and "%" in text and ":" not in text):
            yield "argument.host_disguised", 0.9, "a host with escapes"
        for form in forms:
            yield from host_signs(split_port(form.strip())[0])
        yield from check_labels(text.lower())
    for form in readings(text)[0]:
        yield from commands.check_shell(form, strict=True)
    if text[:1] in "- ":
        yield from commands.check_option(text, strict=True)


def _recipient(text: str) -> Iterator[Sign]:
    for form in readings(text)[0]:
        yield from interpreters.check_line(form, header=True)
        if "<" in form and _DISPLAY.match(form):
            shown = form.partition("@")[2].partition("<")[0].strip(" \"'").lower()
            real = form.rpartition("@")[2].rstrip("> ").lower()
            if shown != real:
                yield "exfiltration.recipient", 0.82, "shows one address and uses another"
    if "=?" in text and "?=" in text:
        yield "exfiltration.recipient", 0.7, "a recipient in encoded words"
    if not commands.quiet(text):
        yield from commands.check_shell(text.replace(";", ",").replace("<", "").replace(">", ""))
    yield from commands.check_option(text, strict=True)


def added_recipients(arguments: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[str, float, str, int, str]]:
    """Blind and other copies to a domain that neither the recipient nor the sender is of."""
    known = {
        domain.lower()
        for key in arguments
        if key.lower() in ("to", "from", "recipient", "recipients", "sender", "reply_to")
        for domain in _domains(arguments[key])
    }
    for name in names:
        strange = known and any(domain.lower() not in known for domain in _domains(arguments.get(name)))
        if strange:
            score = 0.6 if name.lower() == "bcc" else 0.3
            yield "exfiltration.recipient", score, f"/{name}", 0, "a copy to a domain the mail does not otherwise go to"


def _domains(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [domain for item in items[:1000] if isinstance(item, str) for domain in _ADDRESS.findall(item[:20_000])]


def _header(text: str) -> Iterator[Sign]:
    for form in readings(text)[0]:
        yield from interpreters.check_line(form, header=True)
    yield from interpreters.check_lookup(text)


def _shell(text: str) -> Iterator[Sign]:
    yield from commands.check_destructive(text)


def _args(text: str) -> Iterator[Sign]:
    yield from commands.check_destructive(text)
    yield from commands.check_shell(text)
    if text[:1] in "-eEfF ":
        # A dash is ordinary among options; one that runs or writes something else is worth asking about.
        yield from (
            (id_, score * 0.5, detail)
            for id_, score, detail in commands.check_option(text, strict=False)
            if score > 0.9
        )


def _command(text: str) -> Iterator[Sign]:
    yield from commands.check_operators(text)
    yield from commands.check_destructive(text)


def _sql(text: str, *, declared: bool, read_only: bool) -> Iterator[Sign]:
    yield from sql.check_sql(text, read_only=read_only, declared=declared)


def _template(text: str) -> Iterator[Sign]:
    yield from interpreters.check_template(text, expected=True)


def _blob(text: str) -> Iterator[Sign]:
    yield from burdens.check_packed(text)
    yield from interpreters.check_serial(text)
    yield from interpreters.check_lookup(text)


def _text(text: str) -> Iterator[Sign]:
    if "${" in text:
        yield from interpreters.check_lookup(text)
    if "!!" in text or "rO0AB" in text:
        yield from interpreters.check_serial(text, prose=True)
    if "<!" in text:
        yield from interpreters.check_entities(text)
    yield from burdens.check_packed(text)


def _cell(text: str) -> Iterator[Sign]:
    yield from interpreters.check_formula(text)
    yield from _text(text)


def _filter(text: str) -> Iterator[Sign]:
    yield from sql.check_fragment(text)
    yield from interpreters.check_template(text)
    if "$where" in text or "$function" in text:
        yield "argument.nosql", 0.85, "a script in a filter"


_SHORT: Final = frozenset({Role.ARGS, Role.HEADER, Role.RECIPIENT, Role.REF, Role.IDENTIFIER, Role.FILTER, Role.REGEX})
_ADDRESSED: Final[Mapping[Role, Judge]] = {
    Role.URL: _url,
    Role.URI: _uri,
    Role.HOST: _host,
    Role.DESTINATION: _destination,
}
_JUDGES: Final[Mapping[Role, Judge]] = {
    Role.SHELL: _shell,
    Role.ARGS: _args,
    Role.TEMPLATE: _template,
    Role.HEADER: _header,
    Role.RECIPIENT: _recipient,
    Role.REGEX: burdens.check_regex,
    Role.REF: _reference,
    Role.IDENTIFIER: _identifier,
    Role.FILTER: _filter,
    Role.GRAPHQL: burdens.check_graphql,
    Role.CELL: _cell,
    Role.BLOB: _blob,
    Role.TEXT: _text,
    Role.CODE: _text,
    Role.OTHER: _other,
}
