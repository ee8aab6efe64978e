"""Azure AI Content Safety, REST 2024-09-01: Prompt Shields and harm categories, for `detection.remote`.

Field names and limits are those of the published specification. An answer is read strictly: whatever is missing, of
another type or of another length is a DependencyFault, never "nothing found". Faults name the host and what was wrong,
never the text or the credential.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Post
from limen.detection.finding import Finding
from limen.detection.settings import RemoteSettings

VERSION: Final = "2024-09-01"
CATEGORIES: Final = ("Hate", "SelfHarm", "Sexual", "Violence")
MAX_ANSWER: Final = 64 << 10  # bytes
MOST_SEVERE: Final = 7
_PORT: Final = "content safety"
_ATTEMPTS: Final = 2


class _Operation:
    """What both operations share: where, as whom, and when to stay away."""

    operation = ""

    def __init__(self, settings: RemoteSettings, post: Post, now: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._post, self._now = settings, post, now
        self._url = f"{settings.endpoint}/contentsafety/text:{self.operation}?api-version={VERSION}"
        self._away = 0.0  # the service asked us not to come back before this moment

    @property
    def name(self) -> str:
        """Shown to operators."""
        return self._settings.kind

    async def _ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            sent = orjson.dumps(body)
        except TypeError:  # half a surrogate pair
            raise DependencyFault(_PORT, "a text that cannot be sent as UTF-8", retryable=False) from None
        try:
            answer = orjson.loads(await self._sent(sent))
        except ValueError:
            raise _misunderstood() from None
        if not isinstance(answer, dict):
            raise _misunderstood()
        return answer

    async def _sent(self, body: bytes) -> bytes:
        """Once more where the service names a moment within the deadline; until a later one it is left alone."""
        for attempt in range(1, _ATTEMPTS + 1):
            wait = self._away - self._now()
            if wait >= self._settings.seconds:
                raise DependencyFault(_PORT, f"it asked to be left alone for {wait:.0f} s more")
            if wait > 0:
                await asyncio.sleep(wait)
            try:
                return await self._post.post_json(self._url, body, self._headers())
            except DependencyFault as fault:
                if fault.retry_after:
                    self._away = max(self._away, self._now() + fault.retry_after)
                if not fault.retry_after or attempt == _ATTEMPTS:
                    raise
        raise AssertionError(self._url)

    def _headers(self) -> dict[str, str]:
        headers = {"x-ms-client-request-id": str(uuid.uuid4())}
        if self._settings.key is not None:
            return {**headers, "Ocp-Apim-Subscription-Key": self._settings.key.get_secret_value()}
        token = self._settings.token
        return {**headers, "Authorization": f"Bearer {token.get_secret_value() if token else ''}"}


class PromptShields(_Operation):
    """`text:shieldPrompt`: do these documents hold orders to a model? Five documents of 10 000 characters in all."""

    operation = "shieldPrompt"
    window, overlap, texts = 2000, 300, 5  # short documents: an order drowns less in what surrounds it

    async def judge(self, texts: Sequence[str]) -> list[Finding]:
        """Implements `Service`. The service gives no probability, so the settings do."""
        answer = await self._ask({"documents": list(texts)})
        verdicts = answer.get("documentsAnalysis")
        if not isinstance(verdicts, list) or len(verdicts) != len(texts):
            raise _misunderstood()
        detected = [one.get("attackDetected") if isinstance(one, dict) else None for one in verdicts]
        if any(not isinstance(one, bool) for one in detected):
            raise _misunderstood()
        return [Finding("injection.prompt_shield", "injection", self._settings.score)] if any(detected) else []


class TextAnalyze(_Operation):
    """`text:analyze`: how severe is what it says, by category? One text of 10 000 characters."""

    operation = "analyze"
    window, overlap, texts = 10_000, 500, 1

    async def judge(self, texts: Sequence[str]) -> list[Finding]:
        """Implements `Service`. Severities 0 to 7; categories we did not ask for count as well."""
        found: list[Finding] = []
        for text in texts:
            body = {"text": text, "categories": CATEGORIES, "outputType": "EightSeverityLevels"}
            found += self._findings(await self._ask(body))
        return found

    def _findings(self, answer: Mapping[str, Any]) -> Iterator[Finding]:
        rows = answer.get("categoriesAnalysis")
        if not isinstance(rows, list):
            raise _misunderstood()
        severities = dict(map(_rated, rows))
        if len(severities) != len(rows) or not severities.keys() >= set(CATEGORIES):
            raise _misunderstood()
        for category, severity in severities.items():
            if severity >= self._settings.severity:
                known = category.lower() if category in CATEGORIES else "other"
                yield Finding(f"harm.{known}", "harm", severity / MOST_SEVERE, detail=f"severity {severity}")


def _rated(row: Any) -> tuple[str, int]:
    """Category and severity. Raises DependencyFault."""
    if isinstance(row, dict):
        category, severity = row.get("category"), row.get("severity")
        if isinstance(category, str) and type(severity) is int and 0 <= severity <= MOST_SEVERE:
            return category, severity
    raise _misunderstood()


def _misunderstood() -> DependencyFault:
    return DependencyFault(_PORT, f"an answer that is not one of {VERSION}")
