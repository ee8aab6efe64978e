"""Values that become code in an interpreter other than a shell or a database: templates, serialised objects,
directories, documents, mail and HTTP headers, spreadsheets. Expressions are bounded; a scan is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

Sign = tuple[str, float, str]

_TEMPLATE_GATE: Final = re.compile(r"\{\{|\{%|[$#*@~]\{|<%|<#|#set|T\(|__|jndi", re.IGNORECASE)
_TEMPLATE_PARTS: Final = re.compile(
    r"(?P<opens>\{\{|\{%|[$#*@]\{|<%|<#)"
    r"|__(?:class|mro|base|bases|subclasses|globals|builtins|import|init|dict)__|\.mro\(\)|subclasses\(\)|\bos\.|popen"
    r"|\b(?:system|exec|eval)\s{0,2}\(|getRuntime|ProcessBuilder|getClass\(|forName\(|T\(\s{0,4}java"
    r"|freemarker\.template"
    r"|utility\.Execute|_self\.|constructor\.constructor|process\.(?:mainModule|env|binding)|require\("
    r"|request\.(?:application|environ|__)|config\.(?:items|from_|__)|lipsum|cycler\.|joiner\.|self\._"
    r"|registerUndefinedFilterCallback|\|\s{0,4}(?:attr|filter|map|sort)\s{0,2}\(\s{0,2}['\"]|File\.(?:open|read)"
    r"|Runtime\.|include\s{0,4}['\"]/"
)
_TEMPLATE_SPAN: Final = 400
_LOOKED_UP: Final = re.compile(r"jndi|\$\{(?=(?:lower|upper|env|sys|::-|date)[^}\s]{0,60}\})", re.IGNORECASE)
_LOOK_UP_SPAN: Final = 102
_PROBE: Final = re.compile(
    r"(?:\{\{|[$#*@~]\{|<%=?|\{%\s?print)\s{0,8}['\"(]{0,3}\d{1,10}['\")]{0,3}\s{0,4}[*+-]\s{0,4}['\"(]{0,3}\d{1,10}"
)
_DUNDER: Final = re.compile(r"__(?:class|mro|subclasses|globals|builtins)__\s{0,2}[\[.(]|__import__\s{0,2}\(")

_SERIAL_GATE: Final = re.compile(
    r"!!|!ruby|!<tag|\$type|@type|py/|__reduce|_\$\$ND|rO0AB|aced0005|gAS|gAN|gAJ|AAEAAAD|[OCa]:\d|cos\n|csubprocess"
    r"|c__builtin|c__main|cposix"
)
_SERIAL: Final = (
    (0.93, "a tag that builds objects", re.compile(
        r"!!python/(?:object|name|module|apply)|!!(?:javax?|com|org|sun|net|clojure)\.[a-z]|!ruby/(?:object|hash"
        r"|struct|sym|regexp)|!<tag:yaml\.org,2002:(?:python|java)")),
    (0.9, "a serialised object", re.compile(
        r"(?:^|[\"'=\s,])(?:rO0AB[A-Za-z0-9+/]{10}|aced0005[0-9a-f]{6}|AAEAAAD/{3,5}|gA[NSJ]V?[A-Za-z0-9+/]{16})"
        r"|_\$\$ND_FUNC\$\$_")),
    (0.88, "a serialised object", re.compile(
        r"(?:^|[;{\"'=\s])[OC]:\d{1,4}:\\?\"[A-Za-z_\\][\w\\]{0,100}\\?\":\d{1,4}:\{")),
    (0.9, "a type name that builds objects", re.compile(
        r"\"(?:\$type|@type|@class)\"\s{0,4}:\s{0,4}\"(?:System\.|java\.|javax\.|com\.sun|org\.apache|ch\.qos"
        r"|Microsoft\.)|\"py/(?:object|reduce|function)\"|[\"']__reduce(?:_ex)?__[\"']")),
    (0.9, "a serialised object", re.compile(r"(?:^|\n|\()c(?:os|posix|nt|subprocess|builtins|__builtin__"
                                            r"|__main__)\n\w{1,40}\n")),
)  # fmt: skip
_CODE: Final = re.compile(
    r"\b__import__\s{0,2}\(|\bos\.(?:system|popen|exec[lv]p?e?|spawn\w{0,4})\s{0,2}\(|\bsubprocess\.(?:run|call"
    r"|Popen|check_output|getoutput)\s{0,2}\("
    r"|require\(\s{0,2}['\"](?:node:)?child_process|process\.mainModule|getRuntime\(\)\s{0,2}\.exec"
    r"|\beval\s{0,2}\(\s{0,4}(?:compile|atob|base64|String\.from|['\"(a-z_])"
    r"|\bexec\s{0,2}\(\s{0,4}(?:compile|['\"]|base64|__)|Function\(\s{0,4}['\"][^'\"]{0,200}['\"]\s{0,4}\)\s{0,4}\("
    r"|<\?php\s|\bshell_exec\s{0,2}\(|\bpassthru\s{0,2}\("
)
_CODE_GATE: Final = re.compile(
    r"__import|os\.|subprocess|require\(|process\.|getRuntime|eval|exec|Function\(|<\?php|passthru"
)
_XML: Final = re.compile(
    r"<!(?:ENTITY\s{1,8}(?:%\s{1,8})?[\w.:-]{1,80}\s{1,8}(?:(?:SYSTEM|PUBLIC)\b|[\"'])|DOCTYPE[^>\[]{0,200}\[)"
    r"|<xi:include\b",
    re.IGNORECASE,
)
_MARKUP: Final = re.compile(
    r"<\s{0,2}(?:script|iframe|object|embed|svg|base|form)\b[^>]{0,200}[>/]"
    r"|<[a-z]{1,12}[^>]{0,200}[\s/\"']on[a-z]{3,20}\s{0,4}=|javascript:\s{0,4}[a-z(]",
    re.IGNORECASE,
)
_LDAP: Final = re.compile(
    r"\*\)\s{0,4}\(|\)\s{0,4}\(\s{0,4}[|&!]\s{0,4}[(*]?|\(\s{0,4}[|&]\s{0,4}\(\s{0,4}\w{1,40}="
    r"|\)\s{0,4}\(\w{1,40}=\*|\\2[89a]|\)\s{0,4}%00"
)
_XPATH: Final = re.compile(
    r"['\"]\s{0,4}\]\s{0,4}(?:\||//|/)|\bor\s{1,4}(?:count|string-length|substring|name|contains|starts-with"
    r"|position)\s{0,2}\("
    r"|\|\s{0,4}//[\w*@]|\bdoc(?:-available)?\(\s{0,4}['\"]|\bunparsed-text\("
    r"|['\"]\s{1,4}or\s{1,4}['\"]?\w{0,40}['\"]?\s{0,4}=",
    re.IGNORECASE,
)
_NOSQL: Final = re.compile(
    r"\[\s{0,4}\$(?:ne|gt|gte|lt|lte|regex|where|in|nin|exists|or|and|not|type|expr)\s{0,4}\]"
    r"|\{\s{0,4}[\"']?\$(?:ne|gt|gte|lt|lte|regex|where|in|nin|exists|or|and|not|expr|function)[\"']?\s{0,4}:"
    r"|[\"']\s{0,4}(?:\|\||&&)\s{0,4}[\"'\d]\w{0,20}[\"']?\s{0,4}==?|;\s{0,4}return\s{1,4}(?:true|1)\b"
    r"|\bthis\.\w{1,40}\s{0,4}[!=<>]=?|;\s{0,4}sleep\("
)
_MISC_GATE: Final = re.compile(r"[()*|\]]|<|\$|['\"]|javascript:", re.IGNORECASE)
_FORMULA: Final = re.compile(
    r"[\s\ufeff]{0,8}[=+@-][\s\S]{0,200}?(?:HYPERLINK|IMPORT(?:XML|DATA|HTML|FEED|RANGE)|WEBSERVICE|DDE(?:AUTO)?"
    r"|CALL|EXEC|REGISTER(?:\.ID)?|FILES|RTD|IMAGE|FILTERXML)\s{0,4}\("
    r"|[\s\ufeff]{0,8}[=+@-][^\n]{0,60}(?:cmd|powershell|mshta|rundll32|msexcel|certutil)[^\n|]{0,40}\|",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(r"[\r\n\x0b\x0c\x85\u2028\u2029]{1,4}[ \t]{0,4}[A-Za-z][A-Za-z0-9-]{0,40}[ \t]{0,4}:")
_BREAK: Final = re.compile(r"[\r\n\x00\x0b\x0c\x85\u2028\u2029]")

# Keys of objects that only query languages and prototypes give a meaning.
OPERATORS: Final = frozenset(
    {"$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$regex", "$exists", "$or", "$and", "$not", "$nor", "$expr",
    "$type", "$all",
     "$elemMatch", "$size", "$mod", "$text", "$jsonSchema"})  # fmt: skip
SCRIPTED: Final = frozenset({"$where", "$function", "$accumulator", "mapReduce", "$eval", "$out", "$merge"})
PROTOTYPES: Final = frozenset(
    {"__proto__", "__class__", "__globals__", "__init__", "__builtins__", "py/object", "py/reduce", "__reduce__"}
)
_DOCUMENT_TYPES: Final = re.compile(r"(?:System|java|javax|com\.sun|org\.apache|ch\.qos|Microsoft)\.")


def _looks_up(text: str) -> bool:
    """Does a sign of a look-up elsewhere stand within a look-up: with `${` before it, and no blank or brace between?"""
    for match in _LOOKED_UP.finditer(text):
        before = text[max(0, match.start() - _LOOK_UP_SPAN) : match.start()].rpartition("}")[2]
        if "${" in before and "${" in re.split(r"\s", before)[-1]:
            return True
    return False


def _reaches(text: str) -> bool:
    """Does a word that reaches the host stand shortly behind the opening of an expression? One pass."""
    opened = -_TEMPLATE_SPAN - 1
    for match in _TEMPLATE_PARTS.finditer(text):
        if match["opens"]:
            opened = match.start()
        elif match.start() - opened <= _TEMPLATE_SPAN:
            return True
    return False


def check_template(text: str, *, expected: bool = False) -> Iterator[Sign]:
    """Template expressions that reach the host. `expected`: the argument is a template, so plain ones are ordinary."""
    if not _TEMPLATE_GATE.search(text):
        return
    if _looks_up(text):
        yield "argument.template", 0.97, "a look-up that loads code"
    elif _reaches(text):
        yield "argument.template", 0.85 if expected else 0.95, "an expression that reaches the host"
    elif not expected and _PROBE.search(text):
        yield "argument.template", 0.88, "an expression that tests for evaluation"
    elif not expected and _DUNDER.search(text):
        yield "argument.template", 0.8, "a walk through an interpreter's own objects"


def check_lookup(text: str) -> Iterator[Sign]:
    """What strikes wherever a text is logged or parsed: the only templates that matter in free text."""
    if "${" in text and _looks_up(text):
        yield "argument.template", 0.55, "a look-up that loads code where it is logged"


def check_serial(text: str, *, prose: bool = False) -> Iterator[Sign]:
    """Serialised objects and tags that build some."""
    if _SERIAL_GATE.search(text):
        for score, detail, pattern in _SERIAL:
            if pattern.search(text):
                yield "argument.deserialisation", score * (0.5 if prose else 1.0), detail
                return


def check_code(text: str) -> Iterator[Sign]:
    """Program code in a value that is none."""
    if _CODE_GATE.search(text) and _CODE.search(text):
        yield "argument.code", 0.85, "a call that runs programs or code"


def check_markup(text: str) -> Iterator[Sign]:
    """External entities in XML; active markup in a short value such as a name."""
    if "<" not in text and ":" not in text:
        return
    if _XML.search(text):
        yield "argument.xml", 0.9, "an entity or inclusion"
    if _MARKUP.search(text):
        yield "argument.markup", 0.8, "active markup"


def check_entities(text: str) -> Iterator[Sign]:
    """XML entities in a document or code."""
    if "<!" in text and (match := _XML.search(text)) and match[0][:4].upper() != "<!DO":
        many = text.count("<!ENTITY") >= 5
        yield "argument.xml", 0.9 if many or "SYSTEM" in match[0].upper() else 0.4, "an external or nested entity"


def check_filters(text: str) -> Iterator[Sign]:
    """LDAP, XPath and NoSQL fragments that break out of a value."""
    if not _MISC_GATE.search(text):
        return
    if _LDAP.search(text):
        yield "argument.ldap", 0.85, "a filter within a value"
    if _XPATH.search(text):
        yield "argument.xpath", 0.85, "an expression within a value"
    if _NOSQL.search(text):
        yield "argument.nosql", 0.87, "an operator within a value"


def check_formula(text: str) -> Iterator[Sign]:
    """A cell that runs or fetches something when the sheet is opened. Ordinary formulas pass."""
    if text.lstrip()[:1] in ("=", "+", "-", "@") and _FORMULA.match(text):
        yield "argument.formula", 0.88, "a formula that reaches outside the sheet"


_MEANT: Final = re.compile(
    r"[\r\n\x85\u2028]{1,4}[ \t]{0,4}(?:b?cc|to|from|subject|reply-to|content-(?:type|length|disposition)|set-cookie"
    r"|location|host"
    r"|transfer-encoding|x-[a-z0-9-]{1,40}|authorization|mime-version)[ \t]{0,4}:",
    re.IGNORECASE,
)


def check_line(text: str, *, header: bool) -> Iterator[Sign]:
    """Line breaks where one line is expected. `header`: the value becomes a header, where any break is an attack."""
    if header:
        if _BREAK.search(text):
            yield "argument.crlf", 0.97 if _HEADER.search(text) else 0.93, "a line break in a header"
    elif not text.isprintable() and _MEANT.search(text):
        yield "argument.crlf", 0.85, "a line break followed by a header"


def check_keys(value: dict[str, Any], *, filters: bool) -> Iterator[Sign]:
    """Names of members. `filters`: the argument is a query, where comparing is ordinary and scripts are not."""
    for key in value:
        if key[:1] == "$" and (key in SCRIPTED or (key in OPERATORS and not filters)):
            yield "argument.nosql", 0.93 if key in SCRIPTED else 0.88, "an operator where a value is expected"
        elif key in PROTOTYPES or (key == "constructor" and isinstance(value[key], dict) and "prototype" in value[key]):
            yield "argument.prototype", 0.93, "a name that reaches an interpreter's own objects"
        elif key in ("$type", "@type", "@class") and isinstance(value[key], str) and _DOCUMENT_TYPES.match(value[key]):
            yield "argument.deserialisation", 0.9, "a type name that builds objects"
