"""Paths and file names in arguments: do they leave their roots, and do they name what no tool should touch?

Judged on the string alone: links and races are the sandbox's business. POSIX and Windows rules are applied together,
because the gateway does not know where the server runs. Linear in the length; longer than `LONGEST` is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from limen.detection.decoded import readings

LONGEST: Final = 8192
Sign = tuple[str, float, str]  # finding id, score, detail

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,30}:(?=//)")
_VARIABLE: Final = re.compile(r"\$\{?[A-Za-z_]|%[A-Za-z_][A-Za-z_0-9()]{1,40}%")
_UP: Final = re.compile(r"\s{0,8}\.\.\s{0,8}(?:;[^/]{0,200})?\Z")
_ORDINARY: Final = re.compile(r"[A-Za-z0-9_ /@+,=()\[\]-]+(?:\.[A-Za-z0-9_ /@+,=()\[\]-]+)*\Z")

# What holds secrets or the machine itself (matched on the normalised path in lower case), and how sure we are.
_SECRETS: Final = re.compile(
    r"(?:^|/)(?:etc/(?:g?shadow-?|sudoers(?:\.d)?|krb5\.keytab|master\.passwd)(?:/|$)"
    r"|etc/(?:passwd-?$|ssh/ssh_host)|proc/(?:self|thread-self|\d{1,10})(?:/|$)|proc/k(?:core|msg)|dev/(?:tcp|udp"
    r"|k?mem)"
    r"|\.ssh(?:/|$)|id_(?:rsa|dsa|ecdsa|ed25519)$|\.aws(?:/|$)|\.azure(?:/|$)|\.config/gcloud|\.kube/config"
    r"|\.docker/config\.json|\.netrc$|\.pgpass$|\.git-credentials$|\.pypirc$|\.gnupg(?:/|$)|\.vault-token$|\.npmrc$"
    r"|\.(?:bash|zsh|mysql|psql|python)_history$|\.password-store|wallet\.dat$|login data$|cookies\.sqlite$"
    r"|(?:var/)?run/docker\.sock|(?:var/)?run/secrets/kubernetes\.io|windows/system32/config|windows/ntds"
    r"|ntds\.dit$|library/keychains|microsoft/(?:credentials|protect)(?:/|$)|win\.ini$)"
)
_PRIVATE: Final = re.compile(
    r"(?:^|/)(?:\.env(?:\.(?!example|sample|template|dist)[\w.-]+)?$|\.git/config$|credentials\.json$)"
)
_EXECUTED: Final = re.compile(
    r"(?:^|/)(?:etc/(?:cron[\w.]*|profile|ld\.so\.preload|rc\.local|systemd|init\.d|pam\.d)(?:/|$)|var/spool/cron"
    r"|authorized_keys2?$|\.(?:bash(?:rc|_profile|_login|_logout)|profile|zsh(?:rc|env)|zprofile)$|\.git/hooks(?:/|$)"
    r"|\.config/(?:autostart|systemd)|library/launch(?:agents|daemons)|start menu/programs/startup|\.envrc$"
    r"|\.?mcp\.json$|claude_desktop_config\.json$|\.(?:cursor|claude|codeium|continue)/|sitecustomize\.py$|\.pth$)"
)
_PIPELINE: Final = re.compile(
    r"(?:^|/)(?:\.github/workflows/|\.gitlab-ci\.yml$|\.circleci/|jenkinsfile$|\.vscode/(?:tasks|settings"
    r"|launch)\.json$)"
)
# One of these components, or a dot file, is in every path the expressions above can match.
_MARKS: Final = frozenset(
    {
        "etc", "proc", "dev", "run", "windows", "library", "microsoft", "var", "jenkinsfile", "mcp.json", "win.ini",
        "credentials.json", "wallet.dat", "ntds.dit", "cookies.sqlite", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519",
        "claude_desktop_config.json", "sitecustomize.py", "login data", "start menu",
    }
)  # fmt: skip
_SYSTEM: Final = re.compile(r"/(?:etc|boot|sys|dev|usr/s?bin|s?bin|lib|root)(?:/|$)|[a-z]:/windows(?:/|$)")


@dataclass(frozen=True, slots=True)
class Spot:
    """A path taken apart. `parts` are normalised components; `above`: how far it climbs out of its start."""

    anchor: str  # "" relative, "/" absolute, "c:" a drive, "~" a home, "//" another machine
    parts: tuple[str, ...]
    above: int
    climbs: bool  # some component is `..`
    named: bool  # a name stands before the component that climbs out


def locate(text: str) -> Spot:
    """Separators of both systems, `.` and `..` resolved component by component, never as text."""
    path = text.strip(" ").replace("\\", "/")
    anchor = ""
    if path.startswith(("//?/", "//./")) and _DRIVE.match(path[4:]):
        path = path[4:]  # the long form of a Windows path; elsewhere it is an absolute path
    if path.startswith("//") and not path.startswith("///"):
        anchor = "//"
    elif path.startswith("/"):
        anchor = "/"
    elif path.startswith("~"):
        anchor, path = "~", path.partition("/")[2]
    elif _DRIVE.match(path):
        # `C:name` is relative to that drive's own directory, which nobody here knows.
        anchor, path = path[:2].lower() + ("" if path[2:3] == "/" else "?"), path[2:]
    parts: list[str] = []
    above, climbs, named = 0, False, False
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part[0] not in ". \t\r\n\x0b\x0c" or not _UP.match(part):
            parts.append(part.rstrip(" .") or part)  # Windows drops trailing dots and spaces
            named = named or not climbs
            continue
        climbs = True
        if parts:
            parts.pop()
        else:
            above += 1
    return Spot(anchor, tuple(parts), above, climbs, named)


class Roots:
    """Declared directories, compared component-wise; a Windows root without regard to case."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = [locate(root) for root in roots]
        self._text = ["/".join((spot.anchor.rstrip("/"), *spot.parts)).lower() for spot in self._roots]

    def holds(self, text: str) -> bool:
        """Is it inside a root? A relative path is inside when it does not climb out of where it starts."""
        if _CONTROL.search(text) or _VARIABLE.search(text):
            return False
        if match := _SCHEME.match(text):
            rest = text[match.end() + 2 :]
            if match[0].lower() != "file:" or not rest.startswith("/"):
                return False
            text = rest[1:] if _DRIVE.match(rest[1:]) else rest
        spot = locate(text)
        if "::$" in text or any(":" in part for part in spot.parts):
            return False  # a stream of another file, or a second drive
        if spot.anchor == "":
            return spot.above == 0
        return spot.above == 0 and any(self._under(spot, root) for root in self._roots)

    def _under(self, spot: Spot, root: Spot) -> bool:
        mine, theirs = spot.parts[: len(root.parts)], root.parts
        if root.anchor[1:2] == ":":
            mine, theirs = tuple(p.lower() for p in mine), tuple(p.lower() for p in theirs)
        return spot.anchor == root.anchor and mine == theirs

    def names(self, pattern: re.Pattern[str]) -> bool:
        """Did the operator name such a place in a root?"""
        return any(pattern.search(text) for text in self._text)


def check_path(text: str, roots: Roots | None = None, *, writes: bool = False) -> Iterator[Sign]:
    """What is wrong with a path. With roots a violation is certain (1.0); without, it is a probability."""
    if len(text) > LONGEST:
        yield "argument.path_long", 1.0 if roots else 0.9, f"longer than {LONGEST} characters"
        return
    forms, deeper = readings(text, backslash=not _DRIVE.match(text))
    if deeper:
        yield "argument.encoding", 1.0 if roots else 0.95, "escapes within escapes"
    if roots is not None and not all(roots.holds(form) for form in forms):
        yield "argument.roots", 1.0, "outside the declared roots"
    for number, form in enumerate(forms):
        if roots is None:
            yield from _escapes(form, hidden=number > 0)
        yield from _forbidden(form, roots, writes)


def _escapes(form: str, *, hidden: bool) -> Iterator[Sign]:
    """Signs of leaving without a declared root; what only decoding brought to light was meant not to be seen."""
    if not hidden and ".." not in form and _ORDINARY.match(form) and form[:2] != "//":
        return
    if _CONTROL.search(form):
        yield "argument.path_control", 0.95, "a control character"
    if _SCHEME.match(form):
        form = form.partition("://")[2] if form[:5].lower() == "file:" else ""
    spot = locate(form)
    if spot.above:
        prefixed = spot.named or spot.anchor not in ("", "~")
        score = 0.97 if hidden else 0.92 if prefixed else {1: 0.4, 2: 0.6}.get(spot.above, 0.85)
        yield "argument.traversal", score, f"climbs {spot.above} above where it starts"
    elif spot.climbs:
        score = 0.9 if hidden else 0.7 if spot.anchor else 0.2
        yield "argument.traversal", score, "holds .. components"
    if "...." in form and re.search(r"\.{4,6}[/\\]{2}", form):
        yield "argument.traversal", 0.9, "dots that become .. when filtered once"
    if spot.anchor == "//":
        yield "argument.path_remote", 0.75, "a path on another machine"
    if "::$" in form:
        yield "argument.path_stream", 0.85, "an alternate data stream"
    if form[:1] in ("$", "%") and _VARIABLE.match(form):
        yield "argument.path_variable", 0.4, "begins with an environment variable"


def _forbidden(form: str, roots: Roots | None, writes: bool) -> Iterator[Sign]:
    text = form.lower().replace("\\", "/").strip()
    if ".." in text or "//" in text or "/." in text or " /" in text or text.endswith((".", " ")):
        spot = locate(text.partition("://")[2] if text.startswith("file://") else text)
        text = "/".join((spot.anchor.rstrip("/?"), *spot.parts)) if spot.anchor else "/".join(spot.parts)
    if roots is None and text[:1] in "/cdCD" and _SYSTEM.match(text):
        yield "argument.system_path", 0.75 if writes else 0.3, "a directory of the system"
    if "/." not in text and text[:1] != "." and _MARKS.isdisjoint(text.split("/")) and not text.endswith(".pth"):
        return
    if (match := _SECRETS.search(text)) and not (roots and roots.names(_SECRETS)):
        known = match[0].strip("/")
        yield "argument.sensitive_path", 0.97 if known != "win.ini" else 0.8, "a place of credentials or system state"
    if _PRIVATE.search(text):
        yield "argument.sensitive_path", 0.55, "a file that usually holds credentials"
    if (_EXECUTED.search(text)) and not (roots and roots.names(_EXECUTED)):
        yield "argument.executed_path", 0.93 if writes else 0.4, "a file that is run or steers an agent"
    if writes and _PIPELINE.search(text):
        yield "argument.executed_path", 0.6, "a file that steers a build"


def check_name(text: str, *, declared: bool) -> Iterator[Sign]:
    """A file name: like a path, and one component only where that is declared."""
    if declared:
        forms, deeper = readings(text)
        bad = any("/" in f or "\\" in f or f.strip(" .") == "" or ":" in f or _CONTROL.search(f) for f in forms)
        if bad or deeper or len(text) > 255:
            yield "argument.filename", 1.0, "not a single file name"
    yield from check_path(text)
