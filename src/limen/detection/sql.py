"""SQL in arguments: a strict reader of tokens, and fragments that break out of a value.

The dialect is unknown, so what two dialects split into different tokens (`\\'`, `#`, `--x`, nested comments, dollar
quotes) is *ambiguous*, and ambiguous is not read-only. Reading is linear. A function that writes and is not listed here
is not seen: the role the server connects with has to be read-only as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from limen.detection.decoded import plain

LONGEST: Final = 200_000
Sign = tuple[str, float, str]

_TOKEN: Final = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<line>--[^\n\r]*)"
    r"|(?P<open>/\*)"
    r"|(?P<string>'[^']*+(?:''[^']*+)*+')"
    r"|(?P<quoted>\"[^\"]*+(?:\"\"[^\"]*+)*+\"|`[^`]*+`)"
    r"|(?P<dollar>\$(?:[A-Za-z_]\w{0,30})?\$)"
    r"|(?P<word>[^\W\d]\w*+)"
    r"|(?P<number>\d++(?:\.\d*+)?(?:[eE][+-]?\d++)?)"
    r"|(?P<mark>[^'\"`])"
)
_BLOCK: Final = re.compile(r"\*/|/\*")
_READS: Final = frozenset(
    {"SELECT", "WITH", "VALUES", "TABLE", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "FROM", "SUMMARIZE"}
)
_PRAGMAS: Final = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list", "database_list"}
)
# Reserved nearly everywhere, so they are statements wherever they stand outside quotes and not after a dot.
_WRITES: Final = frozenset(
    {"INSERT", "UPDATE", "DELETE", "DROP", "ALTER", "CREATE", "TRUNCATE", "GRANT", "REVOKE", "INTO", "MERGE", "EXEC",
     "EXECUTE", "SHUTDOWN", "WAITFOR", "OUTFILE", "DUMPFILE", "ATTACH", "DETACH", "BACKUP", "RESTORE", "UPSERT"}
)  # fmt: skip
_STARTS: Final = _WRITES | {
    "REPLACE", "COPY", "CALL", "DO", "LOAD", "VACUUM", "REINDEX", "PRAGMA", "SET", "RESET", "BEGIN", "START", "COMMIT",
    "ROLLBACK", "END", "ABORT", "SAVEPOINT", "RELEASE", "LOCK", "HANDLER", "DECLARE", "PREPARE", "DEALLOCATE", "LISTEN",
    "NOTIFY", "INSTALL", "IMPORT", "EXPORT", "USE", "KILL", "FLUSH", "OPTIMIZE", "REFRESH", "CLUSTER", "COMMENT",
    "DISCARD", "SECURITY", "REASSIGN", "RENAME", "PURGE", "CHECKPOINT", "BULK", "DBCC", "UNLOAD", "PUT",
}  # fmt: skip
_ESCAPES: Final = frozenset({"COMMIT", "ROLLBACK", "END", "ABORT", "BEGIN", "START", "SET", "RESET", "DISCARD"})
_REACHING: Final = re.compile(
    r"(?:pg_(?:read_(?:binary_)?file|ls_\w+|stat_file|write_file|file_\w+|logfile_rotate|terminate_backend"
    r"|cancel_backend|reload_conf"
    r"|sleep\w*|promote|switch_wal|create_\w+|drop_\w+|logical_\w+|execute_server_program|advisory_\w*lock\w*|notify"
    r"|import_system\w*)"
    r"|lo_(?:import|export|put|create|unlink|from_bytea)|dblink\w*|load_(?:file|extension)|xp_\w+|sp_\w+|openrowset"
    r"|opendatasource"
    r"|openquery|readfile|writefile|edit|fts3_tokenizer|sleep|benchmark|utl_(?:http|file|tcp|smtp|inaddr)|dbms_\w+"
    r"|httpuritype"
    r"|sys_(?:exec|eval|get|set)|set_config|setval|nextval|query_to_xml\w*|database_to_xml\w*|table_to_xml\w*"
    r"|cursor_to_xml\w*"
    r"|extractvalue|updatexml|read_(?:csv|csv_auto|parquet|json|json_auto|text|blob|ndjson)|parquet_scan|sniff_csv"
    r"|getenv|system|shell"
    r"|url|s3|remote|remotesecure|executable|hdfs|mysql|postgresql|mongodb|jdbc|odbc|file|import_bytes|copy_to"
    r"|exec_sql|eval)\Z",
    re.IGNORECASE,
)
_FILE_NAME: Final = re.compile(
    r"'[^']{0,400}(?:/|\\|:|\.(?:csv|parquet|json|db|sqlite3?|txt|xlsx|arrow))[^']{0,400}'\Z", re.IGNORECASE
)


@dataclass(slots=True)
class Reading:
    """Statements as lists of (kind, text), words in upper case; `doubts` say why dialects may read it differently."""

    statements: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    doubts: list[str] = field(default_factory=list)
    executable: bool = False  # a comment MySQL and MariaDB run


def read(text: str) -> Reading:
    """All tokens of a text. Never fails: what cannot be read becomes a doubt."""
    reading = Reading()
    at, end, looked = 0, len(text), 0
    if "\x00" in text or "\\'" in text or '\\"' in text:
        reading.doubts.append("a backslash before a quote, or a NUL")
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            reading.doubts.append("a quote without an end")
            break
        kind, piece = match.lastgroup or "mark", match[0]
        at = match.end()
        if kind == "space":
            continue
        if kind == "open":
            at = _comment(text, at, reading)
        elif kind == "line":
            if piece[2:3] not in ("", " ", "\t") and (set(piece) & set("'\"`;") or len(piece.split()) > 1):
                reading.doubts.append("a comment only some dialects see")
        elif kind == "dollar":
            closing = text.find(piece, at)
            body = text[at : closing if closing >= 0 else end]
            if closing < 0 or set(body) & set("'\"`;"):
                reading.doubts.append("a dollar quote only some dialects see")
            at = closing + len(piece) if closing >= 0 else end
            reading.statements[-1].append(("string", "$"))
        elif piece == ";":
            reading.statements.append([])
        else:
            if piece == "#" and at >= looked:  # the rest of a line is looked at once
                looked = text.find("\n", at) + 1 or end + 1
                if set(text[at : looked - 1]) & set("'\"`;/"):
                    reading.doubts.append("a comment only some dialects see")
            if kind == "quoted" and reading.statements[-1][-1:] == [("mark", "&")]:
                reading.doubts.append("a name in escapes")
            reading.statements[-1].append((kind, piece.upper() if kind == "word" else piece))
    reading.statements = [statement for statement in reading.statements if statement]
    return reading


def _comment(text: str, at: int, reading: Reading) -> int:
    """The index after a block comment that starts before `at`."""
    if text[at : at + 1] in ("!", "+") or text[at : at + 2] == "M!":
        reading.executable = reading.executable or text[at] != "+"
    match = _BLOCK.search(text, at)
    if match is None or match[0] == "/*":
        reading.doubts.append("a comment without an end or within another")
    return match.end() if match else len(text)


def check_sql(text: str, *, read_only: bool, declared: bool) -> Iterator[Sign]:
    """One statement or several. `read_only`: anything but one reading statement is reported, at 1.0 when declared."""
    if len(text) > LONGEST:
        yield "argument.sql_long", 1.0 if declared else 0.8, f"longer than {LONGEST} characters"
        return
    sure = 1.0 if declared else 0.9
    folded = plain(text)
    for form in dict.fromkeys((text, folded)):
        reading = read(form)
        if read_only:
            problem = _not_reading(reading)
            if problem:
                yield "argument.sql_write", sure, problem
        yield from _suspicious(reading)


def _not_reading(reading: Reading) -> str:
    """Why this is not exactly one statement that only reads; empty when it is."""
    if reading.doubts:
        return reading.doubts[0]
    if reading.executable:
        return "a comment that is executed"
    if len(reading.statements) != 1:
        return "not exactly one statement"
    tokens = reading.statements[0]
    first = next((piece for kind, piece in tokens if piece != "("), "")
    if first == "PRAGMA" and len(tokens) > 1 and tokens[1][1].lower() in _PRAGMAS and ("mark", "=") not in tokens:
        return ""
    if first not in _READS:
        return "does not begin as a reading statement"
    if any(_acts(tokens, index) for index in range(len(tokens))):
        return "a statement that writes, or reaches outside the database"
    return ""


def _acts(tokens: list[tuple[str, str]], index: int) -> bool:
    """Does the token at `index` begin or make a write, or call what reaches files, hosts or the clock?"""
    kind, piece = tokens[index]
    before = tokens[index - 1][1] if index else ""
    after = tokens[index + 1][1] if index + 1 < len(tokens) else ""
    if kind == "word" and before not in (".", "AS") and piece in _WRITES:
        return not (after == "(" and piece in ("INSERT", "TRUNCATE"))  # functions of these names read
    if kind == "word" and piece in _STARTS and (index == 0 or before in ("(", "ANALYZE", "EXPLAIN", "VERBOSE")):
        return after != "("
    if kind in ("word", "quoted") and after == "(" and _REACHING.match(piece.strip('"`')):
        return True
    if kind == "word" and piece in ("FROM", "JOIN") and before != "DISTINCT" and index + 1 < len(tokens):
        return bool(_FILE_NAME.match(after))
    return kind == "word" and piece == "PROGRAM" and any(word == "COPY" for _, word in tokens[:1])


def _suspicious(reading: Reading) -> Iterator[Sign]:
    """In SQL that may write: what a statement written in good faith does not hold."""
    if reading.executable:
        yield "argument.sql", 0.8, "a comment that is executed"
    starts = [statement[0][1] for statement in reading.statements]
    if len(starts) > 1:
        if any(word in _ESCAPES for word in starts[1:]) and starts[0] not in ("BEGIN", "START", "SET"):
            yield "argument.sql", 0.92, "leaves its transaction"
        elif starts[0] in ("SELECT", "WITH") and any(word not in _READS for word in starts[1:]):
            yield "argument.sql", 0.85, "a writing statement behind a reading one"
        else:
            yield "argument.sql", 0.3, "several statements"
    for tokens in reading.statements:
        words = [piece for _, piece in tokens]
        if words[0] == "COPY" and "PROGRAM" in words:
            yield "argument.sql", 0.97, "runs a program"
        elif words[0] in ("ATTACH", "INSTALL", "LOAD", "SHUTDOWN") or (
            words[0] == "COPY" and any(k == "string" for k, _ in tokens)
        ):
            yield "argument.sql", 0.8, "reaches outside the database"
        for index, (kind, piece) in enumerate(tokens):
            if (
                kind in ("word", "quoted")
                and words[index + 1 : index + 2] == ["("]
                and _REACHING.match(piece.strip('"`'))
            ):
                yield "argument.sql", 0.88 if piece.lower() not in _MILD else 0.2, "calls what reaches outside the data"
                break
        if "OUTFILE" in words or "DUMPFILE" in words:
            yield "argument.sql", 0.95, "writes a file of the database server"
        if _tautology(tokens):
            yield "argument.sql", 0.85, "a condition that is always true"
        yield from _destructive(words)


_MILD: Final = frozenset({"nextval", "setval", "eval", "url", "file", "system", "edit", "remote", "mysql", "shell"})


def _tautology(tokens: list[tuple[str, str]]) -> bool:
    for index in range(len(tokens) - 3):
        if tokens[index][1] != "OR":
            continue
        at = index + 1
        while at < len(tokens) - 2 and at < index + 4 and tokens[at][1] == "(":
            at += 1
        left, sign, right = tokens[at : at + 3]
        if left[0] in ("number", "string") and sign[1] in ("=", "LIKE") and right == left:
            return True
    return False


def _destructive(words: list[str]) -> Iterator[Sign]:
    if words[0] == "DROP" and words[1:2] in (["TABLE"], ["DATABASE"], ["SCHEMA"]):
        yield "argument.sql_destructive", 0.7, "drops what others use"
    elif words[0] == "TRUNCATE":
        yield "argument.sql_destructive", 0.7, "empties a table"
    elif words[0] in ("DELETE", "UPDATE") and "WHERE" not in words:
        yield "argument.sql_destructive", 0.75, "changes every row"


_QUOTE: Final = r"['\"`)]\s{0,8}(?:\)\s{0,4}){0,4}"
_FRAGMENTS: Final = (
    (0.93, "a quote and a condition that is always true", re.compile(
        _QUOTE + r"(?:(?:OR|AND|XOR)\b|\|\|"
                 r"|&&)\s{0,8}(?:NOT\s{1,4})?\(?\s{0,4}['\"(]{0,4}(?:(\w{1,40})['\")]{0,4}\s{0,4}(?:=|<=>|LIKE"
                 r"|REGEXP)\s{0,4}['\"(]{0,4}\1|'\s{0,4}(?:=|LIKE)\s{0,4}'|TRUE\b|1\s{0,4}(?:--|#|/\*|\Z)"
                 r"|\d{1,6}\s{0,4}[<>=])", re.IGNORECASE)),
    (0.9, "a condition that is always true",
    re.compile(r"\bOR\s{1,8}\(?(\d{1,6})\s{0,4}=\s{0,4}\1(?:\s{0,4}(?:--|#|/\*|\)|;)|\s{0,4}\Z)", re.IGNORECASE)),
    (0.93, "a second query", re.compile(r"\bUNION\s{1,8}(?:ALL\s{1,8}|DISTINCT\s{1,8})?\(?\s{0,4}SELECT\s{1,8}\S",
    re.IGNORECASE)),
    (0.95, "a second statement", re.compile(
        r";\s{0,8}(?:DROP\s{1,4}(?:TABLE|DATABASE|SCHEMA|VIEW)|DELETE\s{1,4}FROM|TRUNCATE\s{1,4}\w|INSERT\s{1,4}INTO"
        r"|UPDATE\s{1,4}\S{1,80}\s{1,4}SET|ALTER\s{1,4}(?:TABLE|USER|ROLE)|CREATE\s{1,4}\w{1,20}\s"
        r"|GRANT\s{1,4}\w|COPY\s{1,4}\S{1,80}\s{1,4}(?:FROM|TO)|ATTACH\s{1,4}DATABASE|EXEC(?:UTE)?\s{1,4}\w"
        r"|SHUTDOWN\b|COMMIT\b|ROLLBACK\b|SELECT\s{1,4}\S{1,200}(?:\(|\s{1,4}FROM\b)|PRAGMA\s{1,4}\w)", re.IGNORECASE)),
    (0.9, "a quote that cuts the statement off",
    re.compile(r"['\"]\s{0,8}\)?\s{0,4};?\s{0,4}(?:--[ \t+-]{0,8}|#|/\*)\s{0,4}\Z")),
    (0.93, "a call that waits or reads files", re.compile(
        r"\b(?:pg_sleep|sleep|benchmark|load_file|pg_read_file|xp_cmdshell|extractvalue|updatexml|utl_http\.request"
        r"|load_extension)\s{0,4}\(\s{0,4}['\"\d(@]|\bWAITFOR\s{1,4}DELAY\b|\bINTO\s{1,4}(?:OUT|DUMP)FILE\b"
        r"|\bEXEC\s{1,4}xp_", re.IGNORECASE)),
)  # fmt: skip
_FRAGMENT_GATE: Final = re.compile(
    r"['\"`;]|\bunion\b|\bor\b|\(|\bdelay\b|\boutfile\b|\bdumpfile\b|\bxp_", re.IGNORECASE
)
_INLINE_COMMENT: Final = re.compile(r"/\*!?\d{0,6}|\*/")


def check_fragment(text: str) -> Iterator[Sign]:
    """SQL that breaks out of a value which is no statement (an id, a name, a filter value)."""
    if not _FRAGMENT_GATE.search(text):
        return
    bare = _INLINE_COMMENT.sub(" ", text) if "/*" in text else text
    for score, detail, pattern in _FRAGMENTS:
        if pattern.search(bare) or (bare is not text and pattern.search(text)):
            yield "argument.sql", score, detail
            return
