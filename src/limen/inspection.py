"""The second half of the composition root: everything that looks at content, built for one configuration."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from limen.adapters.azure_content_safety import MAX_ANSWER, PromptShields, TextAnalyze
from limen.adapters.datakeys import FileKeyStore
from limen.adapters.http import HttpFetch
from limen.adapters.secret_file import secret_file
from limen.catalog.decoys import Decoy
from limen.catalog.findings import Finding as Concern
from limen.catalog.snapshot import Catalog
from limen.config.document import read_file
from limen.core.call import Cleared, Context, Inspected
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Fetch, Kept, Table
from limen.core.verdict import Permit
from limen.detection import sensitive
from limen.detection.arguments import ArgumentRules
from limen.detection.canaries import Canaries
from limen.detection.dataflow import Labels
from limen.detection.detectors import (
    ArgumentDetector,
    DisguiseDetector,
    SensitiveDetector,
    TextDetector,
    WordDetector,
    redactor,
)
from limen.detection.feeds import MAX_SIZE, Feed, FeedRefused
from limen.detection.flow import CheckFlow, ReadFlow, RecordFlow, Watch
from limen.detection.fuse import Limits
from limen.detection.injection import Injection
from limen.detection.inspect import InspectArguments, InspectMessages, InspectResult, Judge, inspect_definition
from limen.detection.neutralise import Neutralise
from limen.detection.protect import Protector
from limen.detection.quarantine import Quarantine
from limen.detection.remote import Remote
from limen.detection.scanner import Detector, Scanner
from limen.detection.sensitive_hit import Hit
from limen.detection.settings import RemoteSettings
from limen.detection.tokenise import Protect, Reveal
from limen.policy.approval import RequireApproval

if TYPE_CHECKING:
    from limen.config.model import Config

FEEDS: Final = 60.0  # seconds between looks at files of indicators
FETCH: Final = 900.0  # and at those elsewhere
_SENSITIVE: Final = frozenset({"secret", "pii"})


def known_secrets(config: Config) -> sensitive.KnownSecrets:
    """The secrets this configuration holds, to be found by heart wherever they turn up."""
    known = sensitive.KnownSecrets()
    for server in config.servers.values():
        given = [*server.headers.values(), *server.env.values()]
        for value in (*given, *(one for one in server.args if not isinstance(one, str))):
            secret = value.get_secret_value().encode()
            if sensitive.memorable(secret):  # others are too short to be told from ordinary words
                known.add(secret)
    for credential in (given for one in config.content.remote for given in (one.key, one.token) if given is not None):
        if sensitive.memorable(secret := credential.get_secret_value().encode()):
            known.add(secret)
    return known


def remote(settings: RemoteSettings) -> Remote:
    """A service elsewhere, as it is asked."""
    fetch = HttpFetch(timeout=settings.seconds, max_size=MAX_ANSWER)
    kinds: dict[str, type[PromptShields] | type[TextAnalyze]] = {
        "azure_prompt_shields": PromptShields,
        "azure_text_analyze": TextAnalyze,
    }
    return Remote(kinds[settings.kind](settings, fetch), settings)


def open_quarantine(config: Config, table: Table) -> Quarantine:
    """What was withheld, under a key of its own beside the database."""
    return Quarantine(table, secret_file(config.storage.path.with_name("quarantine.key")))


def open_protector(config: Config) -> Protector:
    """What turns texts into tokens and back, with its keys beside the database. Raises ConfigFault."""
    return Protector(FileKeyStore(config.storage.path.with_name("datakeys")))


class Inspection:
    """Detectors, feeds, labels and quarantine of one configuration, and the guards made of them.

    `seen` carries what was found to the engine's records and outlives a change of configuration.
    """

    def __init__(
        self,
        config: Config,
        labels: Kept,
        quarantine: Table,
        marks: Table,
        seen: MutableMapping[str, Inspected],
        planted: Table | None = None,
        emit: Callable[[Mapping[str, Any]], None] = lambda event: None,
    ) -> None:
        self._settings, self._marks, self._seen = config.content, marks, seen
        known, self._decoys, self._emit = known_secrets(config), config.decoys, emit
        self.canaries = Canaries(planted, config.decoys.canary_values)

        def by_heart(text: str) -> list[Hit]:
            return [*known.find(text), *self.canaries.find(text)]

        self._redact = redactor(by_heart)
        self.feeds = {one.source: Feed(base64.b64decode(one.key)) for one in config.content.feeds}
        self.scanner = Scanner(
            list(self._detectors(config, by_heart)), remotes=list(map(remote, config.content.remote))
        )
        self._labels = Labels(labels, labels.change_token, ttl=config.content.flow.ttl)
        self._quarantine = open_quarantine(config, quarantine)
        self._asks = {Inspected, Cleared} <= set(RequireApproval.needs)
        self._feed_states: dict[str, str] = {}
        self._watch = Watch(config.content, self._labels)
        covers = any(one.protect or one.reveal for one in config.content.servers.values())
        protector = open_protector(config) if covers else None
        self.fixed: Mapping[type, Any] = {
            CheckFlow: CheckFlow(self._watch, seen, asks=self._asks),
            Protect: Protect(config.content, protector, seen),
            Reveal: Reveal(config.content, protector),
            Neutralise: Neutralise(config.content, seen),
        }

    def _detectors(self, config: Config, known: Callable[[str], Sequence[Hit]]) -> Iterator[Detector]:
        """Every detector of this release, cheap ones first."""
        for feed in self.feeds.values():
            yield TextDetector("feed", feed.scan)
        yield DisguiseDetector()
        yield ArgumentDetector(ArgumentRules(config.content.arguments))
        yield SensitiveDetector(known)
        yield WordDetector(Injection.load())

    def guards(self, catalog: Catalog, *, flow_asked: bool = False) -> dict[type, Any]:
        """Those that judge by this catalog. `flow_asked`: the policy asks what callers have read."""
        judge = Judge(self.scanner, self._settings, catalog)
        return {
            **self.fixed,
            Decoy: Decoy(self._decoys, catalog, self._emit),
            ReadFlow: ReadFlow(self._watch, asked=flow_asked),
            RecordFlow: RecordFlow(self._watch, asked=flow_asked),
            InspectArguments: InspectArguments(judge, self._seen, asks=self._asks),
            InspectResult: InspectResult(judge, self._seen, self._redact, self._quarantine),
            InspectMessages: InspectMessages(judge, self._seen, self._redact),
        }

    def refused(self, reason: str, facts: Context | Permit) -> None:
        """A call was refused: who presents as a credential what was planted for thieves is on record. Raises
        DependencyFault."""
        if reason != "identity.invalid" or not len(self.canaries) or not isinstance(facts, Context):
            return
        given = [*facts.presented.authorization, *facts.presented.api_keys]
        if any(self.canaries.find(one.decode("latin-1")) for one in given):
            about = {"where": "credential", "peer": facts.call.peer.address, "ref": facts.reference}
            self._emit({"t": "security", "event": "decoy.canary", "severity": "critical", **about})

    async def read_canaries(self) -> None:
        """Those issued meanwhile; texts judged before are judged anew. Raises DependencyFault."""
        if await asyncio.to_thread(self.canaries.refresh):
            self.scanner.forget()

    def marks(self, server: str) -> bool:
        """Whether texts of this server reach clients marked as data: they are told then what the marks mean."""
        return self._settings.marks(server)

    def own_limits(self, server: str, name: str) -> Limits:
        """By which the arguments of this tool are judged. Where that is only recorded, nothing follows from it."""
        content = self._settings
        return Limits(1.0, 1.0, 1.0) if "arguments" in content.unsafe_observe else content.limits(server, name)

    def scrub(self, text: str) -> str:
        """The text without secrets and personal data."""
        return self._redact(text, "", _SENSITIVE)

    def redacted(self, text: str, name: str) -> str:
        """The same for the value of a member of this name."""
        return self._redact(text, name, _SENSITIVE)

    def kept_feeds(self) -> dict[str, str]:
        """Put the last good copies in force, which survive restarts. What to say of those that are not used."""
        told: dict[str, str] = {}
        for source, feed in self.feeds.items():
            if (kept := self._marks.get(f"feed/{source}")) is not None:
                try:
                    feed.offer(kept)
                except FeedRefused as fault:
                    told[source] = f"the copy kept is not used: {fault}"
        return told

    def read_feeds(self) -> dict[str, str]:
        """Put newer files in force. What to say of each, where that is new."""
        return self._offered(
            (str(one.path), partial(read_file, one.path, "the feed", limit=MAX_SIZE, follow=True))
            for one in self._settings.feeds
            if one.path is not None
        )

    async def fetch_feeds(self, fetch: Fetch) -> dict[str, str]:
        """The same for addresses."""
        answers: list[tuple[str, Callable[[], bytes]]] = []
        for one in self._settings.feeds:
            if one.url is not None:
                try:
                    answers.append((one.url, partial(bytes, await fetch.get_json(one.url))))
                except DependencyFault as fault:
                    answers.append((one.url, partial(_unread, fault)))
        return self._offered(answers)

    def _offered(self, sources: Iterable[tuple[str, Callable[[], bytes]]]) -> dict[str, str]:
        told: dict[str, str] = {}
        for source, read in sources:
            feed = self.feeds[source]
            try:
                data = read()
                if feed.offer(data):
                    self._marks.put(f"feed/{source}", data)
                    self.scanner.forget()
                told[source] = f"version {feed.current.version} in force" if feed.current else "nothing in force"
            except (ConfigFault, FeedRefused) as fault:
                held = f"version {feed.current.version} stays in force" if feed.current else "no version is in force"
                told[source] = f"refused, {held}: {fault}"
        fresh = {source: text for source, text in told.items() if self._feed_states.get(source) != text}
        self._feed_states.update(fresh)
        return fresh

    def retire(self) -> None:
        """Another configuration is in force. Calls in flight are still judged by this one, so its threads go on; they
        end when nobody holds it any more."""
        self._labels.flush()

    def close(self) -> None:
        """Stop the scanning threads and write what is still to be written of labels."""
        self.scanner.close()
        self._labels.flush()


def _unread(fault: DependencyFault) -> bytes:
    raise FeedRefused(str(fault))


class Reviewer:
    """What detectors say of a definition, as concerns of the catalog's assessment. Detectors are loaded when first
    needed: most commands never look at a definition."""

    def __init__(self, config: Config, now: Callable[[], float]) -> None:
        self._config, self._now = config, now
        self._scanner: Scanner | None = None

    def __call__(self, kind: str, definition: Mapping[str, Any]) -> Iterable[Concern]:
        """One concern for each id found, with the heaviest score. Raises what detectors raise: the judge counts that
        as critical."""
        if kind in ("server", "set"):
            return []
        if self._scanner is None:
            self._scanner = Scanner([DisguiseDetector(), WordDetector(Injection.load())])
        judged = inspect_definition(self._scanner, self._config.content, "", kind, definition, self._now())
        if not judged.findings and judged.risk.score:
            return [Concern("text.too_large", 1.0, "", "more text than can be inspected")]
        heaviest: dict[str, Concern] = {}
        for one in judged.findings:
            known = heaviest.get(one.id)
            if known is None or known.weight < one.score:
                heaviest[one.id] = Concern(one.id, one.score, one.path, one.detail or f"looks like {one.family}")
        return heaviest.values()


class Feeding:
    """Newer indicators for whatever inspects at the time, each change of one told and put on record."""

    def __init__(self, fetch: Fetch, event: Callable[..., None], say: Callable[[str], None]) -> None:
        self._fetch, self._event, self._say = fetch, event, say

    def first(self, inspection: Inspection) -> None:
        """What was kept of the last time, and the files as they are."""
        self._record(inspection.kept_feeds())
        self._record(inspection.read_feeds())

    async def run(self, current: Callable[[], Inspection]) -> None:
        """Runs until cancelled."""
        asked: Inspection | None = None
        due = 0.0
        while True:
            inspection = current()
            if inspection is not asked or due <= time.monotonic():
                asked, due = inspection, time.monotonic() + FETCH
                self._record(await inspection.fetch_feeds(self._fetch))
            await asyncio.sleep(FEEDS)
            self._record(current().read_feeds())

    def _record(self, told: Mapping[str, str]) -> None:
        for source, text in told.items():
            self._event("feed", source=source, state=text)
            self._say(f"feed {source}: {text}")
