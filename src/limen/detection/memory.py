"""Which tools keep what they are told for a model to read again: memories, knowledge graphs, vector stores.

What is written there comes back later as a result, by then as something the model said itself, often to somebody else
and in another session. So orders in the arguments of such a tool weigh like orders in a result, or nearly.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from limen.core.call import Approved

_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_KEPT: Final = frozenset(
    {
        "memory", "memories", "memorize", "memorise", "remember", "knowledge", "observation", "observations",
        "entities", "recollection", "lesson", "lessons", "embed", "embedding", "embeddings", "upsert", "ingest",
        "vector",
    }
)  # fmt: skip
_LOOKS: Final = frozenset(
    {"search", "get", "read", "list", "find", "query", "recall", "retrieve", "open", "delete", "forget", "remove"}
)
_SAYS: Final = re.compile(
    r"\b(?:remembers?|memori[sz]es?|(?:long[- ]term|persistent|agent|assistant|shared|semantic) memory|"
    r"knowledge (?:graph|base)|vector (?:store|database|index)|(?:future|later) (?:sessions?|conversations?|chats?))\b",
    re.IGNORECASE,
)


def keeps(approved: Approved) -> bool:
    """Whether what this tool is told may be read by a model again. By its name and description; not where the operator
    says that it only reads."""
    return approved.effect != "read" and approved.kind == "tool" and _keeps(approved.name, approved.definition)


@lru_cache(maxsize=1024)
def _keeps(name: str, definition: bytes) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if words and words[0] in _LOOKS:
        return False
    if not _KEPT.isdisjoint(words):
        return True
    description = Approved("", "tool", name, "", definition).read().get("description")
    return type(description) is str and _SAYS.search(description[:4000]) is not None
