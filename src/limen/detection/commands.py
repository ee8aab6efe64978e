"""Shell syntax and options hidden in arguments that are not meant to hold any, and destructive lines in those that are.

Expressions are anchored at an operator and bounded, so a scan is linear. POSIX shells, cmd and PowerShell together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

Sign = tuple[str, float, str]

_SURE: Final = (
    r"rm|curl|wget|bash|sh|zsh|dash|ksh|nc|ncat|netcat|socat|telnet|chmod|chown|whoami|uname|ifconfig|ipconfig"
    r"|nslookup|dig"
    r"|python[23]?(?:\.\d{1,2})?|perl|ruby|node|php|powershell(?:\.exe)?|pwsh|cmd(?:\.exe)?|certutil|bitsadmin|mshta"
    r"|rundll32"
    r"|regsvr32|wscript|cscript|crontab|sudo|su|useradd|passwd|ssh|scp|rsync|tftp|mkfifo|mknod|mkfs|dd|eval|exec"
    r"|printenv"
    r"|base64|xxd|openssl|awk|gawk|sed|xargs|nohup|setsid|iptables|systemctl|kubectl|docker|aws|gcloud|az|reboot"
    r"|shutdown"
    r"|netstat|pkill|killall|halt|poweroff|Invoke-Expression|Invoke-WebRequest|iex|iwr|tasklist|net\s{1,4}user"
    r"|busybox|tee"
)
_MAYBE: Final = (
    r"id|ls|cat|env|ps|pwd|dir|type|echo|printf|touch|sleep|ping|find|grep|head|tail|less|more|cp|mv|ln|kill|test"
    r"|true|false"
    r"|date|w|who|history|export|set|source|read|host|ip|tar|git|npm|npx|pip|make|vi|vim|nano|timeout|yes|seq|sort"
    r"|cut|tr|ftp"
    r"|copy|move|del|start|ver|time|open|calc|notepad|hostname|mount|df|du|file|strings|tac|nl|rev|od|java|gcc|go"
    r"|mysql|psql"
)
_OPERATOR: Final = (
    r"(?:;|\|\|?|&&?|\r?\n|\r|^\s{0,8}!)[ \t]{0,16}(?:(?:sudo|env|exec|nohup|command|then|do|time)[ \t]{1,8})?"
)
_PLACE: Final = r"(?:/[A-Za-z0-9_.-]{1,40}){0,6}/?"
_CHAINED: Final = re.compile(_OPERATOR + _PLACE + r"(?:" + _SURE + r")(?=[\s;|&<>)'\"`$/]|\Z)", re.IGNORECASE)
_CHAINED_MAYBE: Final = re.compile(
    _OPERATOR
    + _PLACE
    + r"(?:"
    + _MAYBE
    + r")(?:[ \t]{0,8}(?:[;|&<>#)'\"`]|\Z|\n)|[ \t]{1,8}(?:[-/~.$\"'*>|;&{]|\d{1,6}(?:\s|;|\Z)"
    r"|[A-Za-z0-9_-]{1,40}[/.]))",
)
_SUBSTITUTED: Final = re.compile(
    r"\$\((?!\()\s{0,8}(?:"
    + _PLACE
    + r"(?:"
    + _SURE
    + r"|"
    + _MAYBE
    + r")\b|[/<{$'\"\\.])|\$\{?IFS\b|[<>]\(\s{0,8}[a-z/]|\$\{[A-Za-z_]{1,40}[:@#%/^,][^}\n]{0,80}\}|\$'\\x"
)
_BACKTICK: Final = re.compile(
    r"`\s{0,8}" + _PLACE + r"(?:(?:" + _SURE + r"|" + _MAYBE + r")(?=[\s`;|&<>$/'\"])|\$|[a-z]{1,20}\s{1,4}[-/~$])"
)
_BRACED: Final = re.compile(
    r"(?:[;|&\n`]|\$\()\s{0,8}(?:\{[A-Za-z/]{1,40},|[/?*\[\]a-z]{0,40}/\?{1,20}[/?a-z]|\$[{(@A-Za-z_*])"
)
_REDIRECTED: Final = re.compile(r"(?<![-=<>])>{1,2}\s{0,4}(?:/(?!>)[a-z]|~/|\.\.?/|[A-Z]:\\|&\d)")
_ANY: Final = re.compile(r"[;|&`\r\n<>]|\$[({]")
_NEVER: Final = re.compile(r"[;|&`\r\n]|\$[({]")  # `>=` belongs to versions
_GATE: Final = re.compile(r"[;|&`\r\n<>$]")
_QUIET: Final = re.compile(r"[A-Za-z0-9 _./:@+,=~()\[\]-]*+\Z")
_QUIET_URL: Final = re.compile(r"[A-Za-z0-9 _./:@+,=~()\[\]?&%#*!'-]*+\Z")
_LOUD: Final = re.compile(r"[;|&`\r\n<>${%#\\]|[^\x00-\x7f]")
_LOUD_URL: Final = re.compile(r"[;|`\r\n<>${]")
_NOISE: Final = str.maketrans("", "", "'\"\\^")

_OPTION: Final = re.compile(
    r"\s{0,8}(?:--[A-Za-z][A-Za-z0-9_-]{0,60}(?:=|\s|\Z)|-[A-Za-z](?:[A-Za-z0-9=/.:]|\s|\Z)|/[A-Za-z]:)"
)
_OPTION_ACTS: Final = re.compile(
    r"\s{0,8}(?:--(?:output|upload-pack|receive-pack|exec|exec-path|config|config-env|open-files-in-pager|ext-diff"
    r"|textconv"
    r"|use-compress-program|checkpoint-action|to-command|rsh|rsh-command|init-command|require|eval|import|proxy"
    r"|git-dir|work-tree"
    r"|post-file|use-askpass|load|plugin|preload|template|renderer-cmd-prefix|gpu-launcher|no-sandbox|index-url"
    r"|extra-index-url"
    r"|registry|kubeconfig|from-file|privileged|volume|mount|pre|hostname-bin|logfile|load-extension"
    r"|remote-debugging-port"
    r")(?:[=\s]|\Z)|-o\s{0,4}ProxyCommand|-oProxyCommand|-c\s{0,4}[a-z.]{1,30}=|-exec\b|-fls\b|-fprint"
    r"|-u\S{0,20}pack|-I\S|-e\s{0,2}sh)",
    re.IGNORECASE,
)
_TRANSPORT: Final = re.compile(r"\s{0,8}(?:ext|fd)::", re.IGNORECASE)

# Lines that destroy, open a shell to elsewhere, or hide what they run: also where commands are expected.
_DESTRUCTIVE: Final = (
    (0.92, "deletes from the root or a home", re.compile(
        r"\brm[ \t]{1,8}(?:-{1,2}[A-Za-z-]{1,20}[ \t]{1,8}){1,5}(?:/|/\*|~/?|\$HOME/?|/(?:etc|usr|var|bin|home|boot"
        r"|lib)/?\*?)(?=[\s;|&\"']|\Z)")),
    (0.95, "removes the guard of the root", re.compile(r"--no-preserve-root")),
    (0.95, "overwrites a disk", re.compile(
        r"\b(?:mkfs(?:\.[a-z0-9]{1,8})?[ \t]{1,8}[^\n]{0,40}/dev/|dd[ \t][^\n;|]{0,200}\bof=/dev/(?:sd|hd|nvme|vd"
        r"|mmc))|>\s{0,4}/dev/sd[a-z]")),
    (0.97, "a fork bomb", re.compile(r":\s{0,2}\(\)\s{0,2}\{\s{0,2}:\s{0,2}\|\s{0,2}:\s{0,2}&")),
    (0.97, "a shell that connects out", re.compile(
        r"/dev/(?:tcp|udp)/|\bn(?:c|cat|etcat)\b[^\n;]{0,120}\s-(?:[a-z]{0,4}e|-exec)\s|\bsocat\b[^\n]{0,200}\bexec:"
        r"|\bmkfifo\b[^\n]{0,200}\bnc\b"
        r"|socket\.socket\([^\n]{0,300}(?:dup2|pty\.spawn)|fsockopen\([^\n]{0,200}exec\(", re.IGNORECASE)),
    (0.8, "runs what it downloads", re.compile(
        r"\b(?:curl|wget|iwr|Invoke-WebRequest)\b[^\n;|]{0,400}\|\s{0,8}(?:sudo\s{1,4})?(?:ba|z|da|k)?(?:sh|iex"
        r"|python3?|perl|node)\b"
        r"|\b(?:ba|z)?sh\s{1,4}(?:-c\s{1,4})?[\"']?(?:<\(|\$\()\s{0,4}(?:curl|wget)|\biex\s{0,4}\(", re.IGNORECASE)),
    (0.95, "runs what it decodes", re.compile(
        r"\bbase64\s{1,4}(?:-d|-D|--decode)[^\n;|]{0,80}\|\s{0,8}(?:ba|z|da)?sh\b|-e(?:nc"
        r"|ncodedcommand)?\s{1,4}[A-Za-z0-9+/=]{60,}",
        re.IGNORECASE)),
    (0.95, "sends credentials away", re.compile(
        r"(?:\.ssh/|\.aws/|id_rsa|id_ed25519|/etc/shadow|\.env\b|\bprintenv\b"
        r"|\benv\b)[^\n]{0,200}\|[^\n]{0,80}\b(?:curl|wget|nc|ncat)\b"
        r"|\bcurl\b[^\n]{0,300}(?:@|<\s{0,2})\S{0,80}(?:\.ssh/|\.aws/|id_rsa|/etc/(?:passwd|shadow)|\.env\b)")),
    (0.9, "writes a file that is run later", re.compile(
        r">{1,2}\s{0,4}\S{0,80}(?:authorized_keys|\.bashrc|\.zshrc|\.profile|/etc/(?:cron|passwd|sudoers|ld\.so))"
        r"|\|\s{0,4}crontab\b")),
    (0.85, "stops the machine",
    re.compile(r"(?:\A|[;&|\n]\s{0,4})(?:sudo\s{1,4})?(?:shutdown|reboot|halt|poweroff)\b")),
    (0.8, "opens permissions of the root", re.compile(r"\bch(?:mod|own)\s{1,4}-R\s{1,4}\S{1,40}\s{1,4}/(?=\s|\Z)")),
    (0.9, "deletes recovery data", re.compile(
        r"vssadmin\s{1,4}delete|wbadmin\s{1,4}delete|Remove-Item\s[^\n]{0,80}-Recurse[^\n]{0,40}\s[A-Z]:\\(?:\s|\Z)"
        r"|format\s{1,4}[a-z]:(?:\s|\Z)"
        r"|\b(?:rd|rmdir)\s{1,4}/s[^\n]{0,20}\s[A-Z]:\\(?:\s|\Z)", re.IGNORECASE)),
)  # fmt: skip
_DESTRUCTIVE_GATE: Final = re.compile(
    r"rm[ \t]|preserve-root|/dev/|\(\)|\bn(?:c|cat|etcat)\b|socat|mkfifo|socket|fsockopen|curl|wget|iwr|iex|base64"
    r"|-e|\.ssh|\.aws|id_rsa|id_ed"
    r"|shadow|env\b|authorized_keys|rc\b|\.profile|/etc/|crontab|shutdown|reboot|halt|poweroff|chmod|chown|delete"
    r"|remove-item|format"
    r"|r(?:m)?d(?:ir)?\s|webrequest",
    re.IGNORECASE,
)


def quiet(text: str) -> bool:
    """Is there no character a shell or a template would act on, nor an escape that could become one?"""
    return _QUIET.match(text) is not None or not _LOUD.search(text)


def quiet_url(text: str) -> bool:
    """As `quiet`, for a URL, where `&`, `;` and escapes are ordinary."""
    return _QUIET_URL.match(text) is not None or not _LOUD_URL.search(text)


def check_shell(text: str, *, strict: bool = False) -> Iterator[Sign]:
    """Shell syntax in a value that is no command. `strict`: a host, revision or package; no operator is honest."""
    if not _GATE.search(text):
        return
    score, detail = 0.0, ""
    if _CHAINED.search(text) or _CHAINED.search(text.translate(_NOISE)):
        score, detail = 0.93, "an operator followed by a command"
    elif _BRACED.search(text) or _CHAINED_MAYBE.search(text) or _CHAINED_MAYBE.search(text.translate(_NOISE)):
        score, detail = 0.88, "an operator followed by a command"
    elif _SUBSTITUTED.search(text):
        score, detail = 0.85, "a substitution a shell would run"
    elif _BACKTICK.search(text):
        score, detail = 0.88, "a substitution a shell would run"
    elif _REDIRECTED.search(text):
        score, detail = 0.65, "a redirection"
    if strict and score < 0.9 and _NEVER.search(text):
        score, detail = 0.9, "a character no such value holds"
    if score:
        yield "argument.command", score, detail


def check_operators(text: str) -> Iterator[Sign]:
    """For an argument declared to be one command: any operator, substitution or redirection refuses."""
    if _ANY.search(text) or "$" in text:
        yield "argument.command", 1.0, "more than one simple command"


def check_destructive(text: str) -> Iterator[Sign]:
    """Lines nobody runs by mistake, in a value that is meant to be a command or script."""
    if not _DESTRUCTIVE_GATE.search(text):
        return
    for score, detail, pattern in _DESTRUCTIVE:
        if pattern.search(text):
            yield "argument.destructive_command", score, detail


def check_option(text: str, *, strict: bool) -> Iterator[Sign]:
    """A value that a program would take for an option. `strict`: it is an operand (revision, path, host)."""
    if _TRANSPORT.match(text):
        yield "argument.option", 0.98, "a transport that runs commands"
    elif _OPTION_ACTS.match(text):
        yield "argument.option", 0.95, "an option that writes or runs something"
    elif _OPTION.match(text):
        # Prose may begin with a dash; an operand does not.
        single = " " not in text.strip()
        yield "argument.option", (0.9 if strict else 0.6) if single else (0.8 if strict else 0.3), "reads as an option"
