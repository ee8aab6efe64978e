"""What a detector says about one piece of content, and through which channel that content came."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Channel(Enum):
    """Who wrote the text, and who is going to read it."""

    ARGUMENT = "argument"  # a model wrote it, a server will execute it
    MEMORY = "memory"  # a model wrote it, a server will keep it, and a model will read it again
    RESULT = "result"
    ERROR = "error"
    RESOURCE = "resource"
    PROMPT = "prompt"
    DEFINITION = "definition"
    INSTRUCTIONS = "instructions"
    NOTIFICATION = "notification"
    COMPLETION = "completion"
    ELICITATION = "elicitation"


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation. `score`: probability, 0 to 1, that it is what `id` says.

    `path` is a JSON pointer into the message, `span` characters of the named `view` of the text there. `detail` is for
    operators and never holds the matched text.
    """

    id: str
    family: str  # injection, poisoning, secret, pii, argument, exfiltration, hidden, flow, feed, harm or remote
    score: float
    path: str = ""
    span: tuple[int, int] = (0, 0)
    view: str = "plain"
    detail: str = ""
