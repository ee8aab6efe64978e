"""Whose document or name a person may believe, and what to warn of. Names and hosts are judged as they look."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from limen.core.urls import Url, is_under
from limen.oauth.redirects import host_of, is_loopback
from limen.oauth.settings import DocumentSettings

_WORDS: Final = re.compile(r"[^\W_]+")
_LONG: Final = 6  # letters of a name that is also found at the beginning of a longer word
_TOGETHER: Final = 3  # words that may make up one name


@dataclass(frozen=True, slots=True)
class Letters:
    """How texts look, which another room knows: `key` is the same for texts taken for each other, `plain` replaces
    letters that pose as others, `posing` finds them."""

    key: Callable[[str], str]
    plain: Callable[[str], str]
    posing: Callable[[str], Iterable[object]]


@dataclass(frozen=True, slots=True)
class Maker:
    """A program many people know, the words it is known by, and the hosts that are its makers'."""

    name: str
    words: tuple[str, ...]
    hosts: tuple[str, ...]


MAKERS: Final = (
    Maker("Claude", ("claude", "anthropic"), ("claude.ai", "claude.com", "anthropic.com")),
    Maker("ChatGPT", ("chatgpt", "openai"), ("chatgpt.com", "openai.com")),
    Maker("Visual Studio Code", ("vscode", "visual studio code"), ("vscode.dev", "visualstudio.com", "microsoft.com")),
    Maker("GitHub", ("github", "copilot"), ("github.com", "githubcopilot.com", "microsoft.com", "vscode.dev")),
    Maker("Microsoft", ("microsoft",), ("microsoft.com", "office.com", "vscode.dev", "visualstudio.com", "github.com")),
    Maker("Google", ("google", "gemini"), ("google.com", "gemini.google", "googleapis.com")),
    Maker("Cursor", ("cursor",), ("cursor.com", "cursor.sh")),
    Maker("Windsurf", ("windsurf", "codeium"), ("windsurf.com", "codeium.com")),
    Maker("JetBrains", ("jetbrains",), ("jetbrains.com",)),
    Maker("Zed", ("zed",), ("zed.dev",)),
    Maker("Cline", ("cline",), ("cline.bot",)),
    Maker("LM Studio", ("lm studio",), ("lmstudio.ai",)),
    Maker("Perplexity", ("perplexity",), ("perplexity.ai",)),
    Maker("Mistral", ("mistral",), ("mistral.ai",)),
    Maker("MCP Inspector", ("mcp inspector",), ("modelcontextprotocol.io",)),
)


class Trust:
    """What an operator says about hosts, and what names and hosts say about themselves."""

    def __init__(self, settings: DocumentSettings, letters: Letters) -> None:
        self._settings, self._letters = settings, letters
        self._words = {letters.key(word): maker for maker in MAKERS for word in maker.words}
        known = {host: maker.name for maker in MAKERS for host in maker.hosts}
        known |= {host: host for host in settings.trusted_hosts}
        self._hosts = {letters.key(host): (host, name) for host, name in known.items()}

    def vouched(self, host: str) -> bool:
        """Whether an operator vouches for this very host."""
        return host in self._settings.trusted_hosts

    def refusal(self, url: Url) -> str:
        """Why no document is taken from there, or ""."""
        host = url.host
        if self.vouched(host):
            return ""
        if any(is_under(host, blocked) for blocked in self._settings.blocked_hosts):
            return "the host is blocked"
        if self._settings.only_trusted:
            return "the host is not one of the trusted ones"
        if url.address is not None or "." not in host:
            return "the host is not a public name"
        try:
            shown = _as_shown(host)
        except ValueError:
            return "the host is not a name"
        if shown != host and any(True for _ in self._letters.posing(shown)):
            return "the host is written in letters that pose as others"
        known, _ = self._hosts.get(self._letters.key(_tail(shown)), ("", ""))
        if known and not is_under(host, known) and not self._same_maker(host, known):
            return f"the host looks like {known}"
        return ""

    def owns(self, home: str, host: str) -> bool:
        """Whether a host belongs to whoever has `home`: it is the same, below it, or of the same maker."""
        return is_under(host, home) or self._same_maker(host, home)

    def warnings(self, name: str, disguised: bool, home: str, redirect_uris: tuple[str, ...]) -> Iterator[str]:
        """What a person should know before consenting. `home`: the host of its document, "" of a client without one."""
        if not self.vouched(home):
            yield "unverified"
        if all(is_loopback(uri) for uri in redirect_uris):
            yield "loopback_only"
        elif any(uri.startswith("http://localhost") for uri in redirect_uris):
            yield "localhost"
        outside = {host_of(uri) for uri in redirect_uris if not is_loopback(uri)}
        if home and not self.vouched(home) and not all(self.owns(home, host) for host in outside):
            yield "foreign_redirect"
        if disguised or any(True for _ in self._letters.posing(name)):
            yield "name_disguised"
        if not self.vouched(home):
            places = {home} if home else outside
            found = {maker.name for maker in self._claimed(name, sure=not places) if not _all_of(maker, places)}
            found |= {shown for host in places for shown in self._hinted(host)}
            for one in sorted(found):
                yield f"lookalike:{one}"

    def _claimed(self, name: str, *, sure: bool) -> Iterator[Maker]:
        """Makers whose name this one is taken for. `sure`: only where it is written as if it were not theirs, because
        nothing about the client could tell whether it is."""
        words = _WORDS.findall(self._letters.plain(name).casefold())
        honest = {*_WORDS.findall(name.casefold())}
        for start in range(len(words)):
            for count in range(1, _TOGETHER + 1):
                text = "".join(words[start : start + count])
                key = self._letters.key(text)
                for known, maker in self._words.items():
                    near = key == known or (count == 1 and len(known) >= _LONG and key.startswith(known))
                    if near and not (sure and honest.intersection(" ".join(maker.words).split())):
                        yield maker

    def _hinted(self, host: str) -> Iterator[str]:
        """Makers whose host is a part of another one's name: claude.ai.example.com, claude-ai.example.com."""
        for known, name in self._hosts.values():
            part = any(self._letters.key(label) == self._letters.key(known) for label in host.split("."))
            if (part or f"{known}." in f"{host}.") and not is_under(host, known):
                yield name

    def _same_maker(self, one: str, other: str) -> bool:
        return any(_all_of(maker, {one, other}) for maker in MAKERS)


def _all_of(maker: Maker, hosts: set[str]) -> bool:
    return all(any(is_under(host, domain) for domain in maker.hosts) for host in hosts) and bool(hosts)


def _tail(host: str) -> str:
    """The part that is bought: the last two labels, which is what the hosts of makers here have."""
    return ".".join(host.split(".")[-2:])


def _as_shown(host: str) -> str:
    """As a browser might show it: labels of punycode in their letters (RFC 3492). Raises ValueError."""
    return ".".join(_letters(label[4:]) if label.startswith("xn--") else label for label in host.split("."))


def _letters(coded: str) -> str:
    """The letters of one label. Raises ValueError for what no registry would hand out."""
    label = coded.encode("ascii").decode("punycode")
    if label.isascii() or not all(one == "-" or unicodedata.category(one)[0] in "LMN" for one in label):
        raise ValueError("not letters")
    if label.encode("punycode").decode("ascii") != coded:
        raise ValueError("not the only way to write it")
    return label
