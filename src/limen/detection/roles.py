"""What a parameter is for: declared by the operator, or read from its name, its schema and its description.

A role decides which checks make sense. Free text has nearly none: a message may quote a command, a review a traversal.
The name counts most, by its last word (`file_content` is content); descriptions only help where the name says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from limen.core.remembered import remembered


class Role(Enum):
    """How the server will use the value."""

    PATH = "path"
    FILENAME = "filename"
    URL = "url"
    URI = "uri"  # identifies a resource: `file:` and schemes of a server's own are ordinary
    HOST = "host"
    DESTINATION = "destination"  # a URL or host the server will send its own credentials to
    COMMAND = "command"  # one simple command: any operator refuses; only ever declared
    SHELL = "shell"  # a script or command line, where operators are ordinary
    ARGS = "args"  # options and operands of a program, where a dash is ordinary
    SQL = "sql"
    TEMPLATE = "template"
    HEADER = "header"
    RECIPIENT = "recipient"
    REGEX = "regex"
    REF = "ref"  # revision, branch, package, image, repository
    IDENTIFIER = "identifier"
    FILTER = "filter"  # a query object of a document store
    GRAPHQL = "graphql"
    CELL = "cell"
    BLOB = "blob"
    TEXT = "text"
    CODE = "code"
    FIXED = "fixed"  # one of listed values: the schema has already decided
    OTHER = "other"


_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_LAST: Final[dict[str, Role]] = {}
for _role, _names in (
    (Role.PATH, "path paths filepath file files dir directory directories dirs folder folders cwd workdir pathname "
                "filespec glob"
                " workspace worktree dest savepath"),
    (Role.FILENAME, "filename filenames basename"),
    (Role.URL, "url urls href link links website webpage site src"),
    (Role.URI, "uri uris iri"),
    (Role.HOST, "host hostname hosts hostnames domain domains fqdn ip ips nameserver ipaddress"),
    (Role.DESTINATION, "endpoint endpoints webhook webhooks callback baseurl proxy issuer authority"),
    (Role.SHELL, "command commands cmd shell bash commandline powershell"),
    (Role.ARGS, "args argv flags switches arguments options opts"),
    (Role.SQL, "sql"),
    (Role.TEMPLATE, "template templates jinja"),
    (Role.HEADER, "header headers cookie cookies referer referrer subject useragent"),
    (Role.RECIPIENT, "cc bcc recipient recipients mailto replyto addressee addressees"),
    (Role.REGEX, "regex regexp re pattern patterns"),
    (Role.REF, "ref refs branch commit revision rev sha refspec remote treeish package packages image module "
               "container pod repo"
               " repository namespace"),
    (Role.IDENTIFIER, "id ids uuid guid key slug name username user login identifier account tag tags label labels "
                      "table column"
                      " bucket project org organization owner state status city country sku"),
    (Role.FILTER, "filter filters selector where pipeline aggregation criteria projection"),
    (Role.GRAPHQL, "graphql gql"),
    (Role.CELL, "cell cells values rows row formula formulas csv"),
    (Role.BLOB, "data blob base64 bytes binary attachment attachments payload archive zip token cursor signature "
                "hash digest"),
    (Role.TEXT, "message messages body content contents text description comment comments note notes summary title "
                "prompt question"
                " query search q input instruction instructions markdown html caption reason details feedback "
                "review answer"
                " thought thoughts snippet excerpt paragraph story bio abstract topic observation observations "
                "keywords keyword"
                " term terms context goal task tasks explanation request response document documents quote transcript"
                " replacement old new string str heading lyrics letter essay"),
    (Role.CODE, "code source script patch diff program javascript js python css json yaml xml latex notebook cypher "
                "expression"
                " formulae function sourcecode newstr oldstr"),
):  # fmt: skip
    for _name in _names.split():
        _LAST[_name] = _role

# Whole names whose last word would mislead.
_WHOLE: Final = {
    "jsonpath": Role.OTHER, "keypath": Role.OTHER, "xpath": Role.OTHER, "classpath": Role.PATH, "newstring": Role.CODE,
    "oldstring": Role.CODE, "newstr": Role.CODE, "oldstr": Role.CODE, "newtext": Role.TEXT, "useragent": Role.HEADER,
    "replyto": Role.RECIPIENT, "sendto": Role.RECIPIENT, "tousers": Role.RECIPIENT, "baseurl": Role.DESTINATION,
    "webhookurl": Role.DESTINATION, "callbackurl": Role.DESTINATION, "endpointurl": Role.DESTINATION,
    "proxyurl": Role.DESTINATION, "issuerurl": Role.DESTINATION, "apiurl": Role.DESTINATION,
    "serverurl": Role.DESTINATION,
    "inputfile": Role.PATH, "searchpath": Role.PATH, "sqlquery": Role.SQL, "querysql": Role.SQL,
    "graphqlquery": Role.GRAPHQL,
    "searchquery": Role.TEXT, "searchstring": Role.TEXT, "filecontent": Role.TEXT, "sourcepath": Role.PATH,
    "shellscript": Role.SHELL, "bashscript": Role.SHELL, "commitmessage": Role.TEXT, "ldapfilter": Role.OTHER,
    "filterpattern": Role.TEXT, "globpattern": Role.PATH, "headers": Role.HEADER, "topath": Role.PATH,
    "linkedin": Role.OTHER, "subjectid": Role.IDENTIFIER, "emailaddress": Role.RECIPIENT, "ipaddress": Role.HOST,
    "startpoint": Role.REF, "baseref": Role.REF, "headref": Role.REF,
}  # fmt: skip
_SCRIPT_TOOL: Final = re.compile(
    r"shell|bash|terminal|powershell|exec(?:ute)?_?(?:command|script)|run_?(?:command|script)", re.IGNORECASE
)
_SQL_TOOL: Final = re.compile(
    r"sql|postgres|sqlite|database|duckdb|snowflake|bigquery|redshift|clickhouse|(?:read|write|run|execute)_?query",
    re.IGNORECASE,
)
_SQL_WORDS: Final = re.compile(r"\bsql\b|\bselect (?:query|statement)", re.IGNORECASE)
_GIT_TOOL: Final = re.compile(r"(?:\A|[/_.-])git(?:[_.-]|\Z)", re.IGNORECASE)
_MAIL: Final = re.compile(r"e-?mail|\bmail\b|recipient|send[_ ]", re.IGNORECASE)
_WRITING: Final = re.compile(
    r"write|save|create|download|upload|export|append|edit|move|copy|rename|put|store|install|extract|unzip|generate"
    r"|set_",
    re.IGNORECASE,
)
_OUTPUT: Final = re.compile(r"out|output|dest|destination|target|save|to", re.IGNORECASE)
_READING: Final = re.compile(
    r"(?:\A|[/_.-])(?:read|select|list|show|describe|explain)(?:[_.-]|\Z)|read[-_ ]?only", re.IGNORECASE
)
_SAYS: Final = (
    (Role.SQL, re.compile(r"\bsql (?:query|statement|to (?:run|execute))", re.IGNORECASE)),
    (Role.SHELL, re.compile(r"\b(?:shell|bash|terminal|command[- ]line) (?:command|script)", re.IGNORECASE)),
    (Role.REGEX, re.compile(r"\bregular expression|\bregex", re.IGNORECASE)),
    (Role.URL, re.compile(r"\bURL (?:of|to|for)\b|\A(?:the )?(?:full |web )?URL\b", re.IGNORECASE)),
    (Role.RECIPIENT, re.compile(r"\be-?mail address(?:es)? (?:of|to|for)\b|\brecipients?\b", re.IGNORECASE)),
    (Role.PATH, re.compile(r"\b(?:absolute|relative|file|directory|full|local|folder) path\b|\bpath (?:to|of) (?:the"
                           r"|a)\b", re.IGNORECASE)),
    (Role.TEXT, re.compile(r"\b(?:free|natural|human|markdown|message|search|body) ?-?(?:text|language|query"
                           r"|readable|content)\b|\bthe (?:text|message|content) ", re.IGNORECASE)),
    (Role.CODE, re.compile(r"\b(?:python|javascript|source|program) code\b|\bcode (?:to|snippet)\b", re.IGNORECASE)),
)  # fmt: skip
_FORMATS: Final = {
    "uri": Role.URL, "url": Role.URL, "uri-reference": Role.URL, "iri": Role.URL, "hostname": Role.HOST,
    "idn-hostname": Role.HOST,
    "ipv4": Role.HOST, "ipv6": Role.HOST, "email": Role.RECIPIENT, "idn-email": Role.RECIPIENT, "regex": Role.REGEX,
    "byte": Role.BLOB, "binary": Role.BLOB, "path": Role.PATH, "file-path": Role.PATH, "sql": Role.SQL,
}  # fmt: skip


@remembered(4096)
def words(name: str) -> tuple[str, ...]:
    """`targetURLs`, `target_urls` and `target-urls` are the words target, urls."""
    return tuple(word.lower() for word in _WORDS.findall(name[:200]))


@remembered(4096)
def _named(name: str) -> Role | None:
    parts = words(name)
    if not parts:
        return None
    whole = _WHOLE.get("".join(parts))
    if whole is not None:
        return whole
    last = parts[-1] if not parts[-1].isdigit() or len(parts) == 1 else parts[-2]
    return _LAST.get(last) or _LAST.get(last.removesuffix("s"))


def infer(tool: str, name: str, schema: Mapping[str, Any]) -> Role:
    """The role of a string parameter. `schema` is its own, resolved; {} where nothing is declared."""
    if "enum" in schema or "const" in schema:
        return Role.FIXED
    described = schema.get("description")
    said = described[:2000] if isinstance(described, str) else ""
    role = _named(name[:200])
    if (
        role is Role.TEXT
        and words(name)[-1:] in (("query",), ("input",))
        and (_SQL_TOOL.search(tool) or _SQL_WORDS.search(said))
    ):
        return Role.SQL if not re.search(r"natural language|search (?:query|term)", said, re.IGNORECASE) else Role.TEXT
    if role is Role.TEXT and words(name)[-1:] == ("query",) and "graphql" in f"{tool} {said}".lower():
        return Role.GRAPHQL
    if role is Role.CODE and words(name)[-1:] == ("script",) and (_SCRIPT_TOOL.search(tool) or "shell" in said.lower()):
        return Role.SHELL
    if name.lower() in ("to", "email", "emails", "to_email", "from_email", "address") and _MAIL.search(
        f"{name} {tool} {said}"
    ):
        return Role.RECIPIENT
    if role in (Role.URL, Role.URI) and re.search(r"webhook|callback|endpoint|proxy", name, re.IGNORECASE):
        return Role.DESTINATION
    form = schema.get("format")
    if (
        isinstance(form, str)
        and form in _FORMATS
        and role in (None, Role.IDENTIFIER, Role.OTHER, Role.TEXT, Role.FILTER)
    ):
        return _FORMATS[form]
    if "contentEncoding" in schema:
        return Role.BLOB
    if role in (None, Role.IDENTIFIER):
        role = next((known for known, pattern in _SAYS if pattern.search(said)), role)
    if role is None and _GIT_TOOL.search(tool):
        return Role.REF
    return role or Role.OTHER


def writes(tool: str, name: str) -> bool:
    """Does the tool write where this parameter points?"""
    return bool(_WRITING.search(tool.rpartition("/")[2])) or any(_OUTPUT.fullmatch(word) for word in words(name))


def reads_only(tool: str, description: str) -> bool:
    """Does the tool say of itself that it only reads?"""
    return bool(_READING.search(tool.rpartition("/")[2]) or _READING.search(description[:2000]))
