"""Texts made for training, from phrases of our own: composites of an override and a (often harmless) task in nineteen
languages, attacks inside documents and structures, poisoned tool descriptions, and the honest twins of all of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import forms
import lookalikes
from english import ENGLISH, FILL
from phrases import LANGUAGES
from variety import jailbreak, poison, role

WRAPS: Sequence[str] = (
    "{}",
    "{}",
    "{}",
    "<!-- {} -->",
    "[{}]",
    "*** {} ***",
    "### New instruction\n{}",
    "<system>{}</system>",
    "[INST] {} [/INST]",
    "<|im_start|>system\n{}<|im_end|>",
    "TODO: {}",
    "# {}",
    "<INFORMATION> {} </INFORMATION>",
    '<div style="display:none">{}</div>',
    "Answer: task complete.\n{}",
    "---END OF DOCUMENT---\n{}",
    '"{}"',
    "// {}",
    "```\n{}\n```",
    "<IMPORTANT>{}</IMPORTANT>",
)


@dataclass(frozen=True)
class Made:
    """One generated text. `part`: the generator, which serves as its source."""

    text: str
    label: str
    kind: str
    lang: str
    part: str


class Generator:
    """Makes rows; the same seed makes the same rows. `documents` are benign texts that attacks are put into."""

    def __init__(self, seed: int, documents: Sequence[str], descriptions: Sequence[str]) -> None:
        self.random = random.Random(seed)
        self.documents, self.descriptions = documents, descriptions

    def rows(self, count: int) -> list[Made]:
        """About `count` rows of every recipe."""
        recipes: dict[str, tuple[str, str, Callable[[], tuple[str, str]]]] = {
            "made-composite": ("injection", "user_prompt", self._composite),
            "made-result": ("injection", "tool_result", self._addressed),
            "made-document": ("injection", "document", self._inside),
            "made-structure": ("injection", "tool_result", self._structure),
            "made-poison": ("poisoned_tool", "tool_description", self._poison),
            "made-jailbreak": (
                "injection",
                "user_prompt",
                lambda: (self._cased(self._fill(jailbreak(self.random))), "en"),
            ),
            "made-role": ("benign", "user_prompt", lambda: (self._fill(role(self.random)), "en")),
            "made-short": ("benign", "user_prompt", self._short),
            "made-mail": ("benign", "tool_result", self._mail),
            "made-security": ("benign", "document", self._security),
            "made-agents": ("benign", "document", self._agents),
            "made-data": ("benign", "tool_result", self._data),
            "made-honest": ("benign", "tool_description", self._honest),
            "made-strict": ("benign", "tool_description", self._strict),
            "made-about": ("benign", "tool_result", self._about),
            "made-sections": ("benign", "document", lambda: (self._fill(lookalikes.sections(self.random)), "en")),
            "made-hijack": (
                "injection",
                "tool_result",
                lambda: (self._cased(self._fill(self._placed(forms.hijack(self.random)))), "en"),
            ),
            "made-unruly": (
                "injection",
                "user_prompt",
                lambda: (self._cased(self._fill(forms.unruly(self.random))), "en"),
            ),
            "made-extract": ("injection", "user_prompt", self._extract),
            "made-manual": ("benign", "document", lambda: (self._fill(forms.manual(self.random)), "en")),
            "made-asia": ("benign", "document", self._asia),
            "made-tool-order": ("poisoned_tool", "tool_description", self._tool_order),
        }
        made: dict[str, Made] = {}
        for part, (label, kind, recipe) in recipes.items():
            for _ in range(count):
                text, lang = recipe()
                made.setdefault(text, Made(text, label, kind, lang, part))
        return list(made.values())

    def _pick(self, *keys: str, lang: str = "en") -> list[str]:
        slots = ENGLISH if lang == "en" else LANGUAGES[lang]
        return [self._fill(self.random.choice(slots[key])) for key in keys]

    def _fill(self, text: str) -> str:
        while "{" in text and "}" in text:
            for name, values in FILL.items():
                text = text.replace("{" + name + "}", self.random.choice(values), 1)
            for name in ("over", "task"):
                if "{" + name + "}" in text:
                    text = text.replace("{" + name + "}", self.random.choice(ENGLISH[name]), 1)
            if not any("{" + name + "}" in text for name in (*FILL, "over", "task")):
                break
        return text

    def _lang(self) -> str:
        return "en" if self.random.random() < 0.4 else self.random.choice(list(LANGUAGES))

    def _joined(self, *parts: str) -> str:
        parts = tuple(part for part in parts if part)
        text = self.random.choice([" ", ". ", ", ", "\n", ": "]).join(parts)
        return text.replace("..", ".").replace("。.", "。")

    def _cased(self, text: str) -> str:
        chance = self.random.random()
        return text.upper() if chance < 0.06 else text.lower() if chance < 0.2 else text

    def _composite(self) -> tuple[str, str]:
        lang = self._lang()
        lead, over, task, hush = self._pick("ask", "over", "task", "hush", lang=lang)
        shape = self.random.random()
        if shape < 0.35:
            text = self._joined(over, task)
        elif shape < 0.65:
            text = f"{lead} {self._joined(over, task)}"
        elif shape < 0.8:
            text = self._joined(task, over)
        else:
            text = self._joined(over, task, hush)
        if self.random.random() < 0.1 and lang != "en":
            text = f"{lead} {self._joined(*self._pick('over', 'task'))}"
        return self._cased(text), lang

    def _order(self, lang: str) -> str:
        who, over, task, hush = self._pick("who", "over", "task", "hush", lang=lang)
        pressure = self._pick("pressure")[0] if lang == "en" else ""
        shape = self.random.random()
        if shape < 0.4:
            text = f"{who} {self._joined(task, hush, pressure)}"
        elif shape < 0.75:
            text = f"{who} {self._joined(over, task, hush)}"
        else:
            text = self._joined(over, task, hush, pressure)
        return self._cased(text)

    def _addressed(self) -> tuple[str, str]:
        lang = self._lang()
        return self.random.choice(WRAPS).format(self._order(lang)), lang

    def _inside(self) -> tuple[str, str]:
        lang = self._lang()
        document = self.random.choice(self.documents)[: self.random.choice((300, 900, 2500))]
        lines = document.split("\n") if "\n" in document else document.split(". ")
        lines.insert(self.random.randrange(len(lines) + 1), self.random.choice(WRAPS).format(self._order(lang)))
        return ("\n" if "\n" in document else ". ").join(lines), lang

    def _structure(self) -> tuple[str, str]:
        lang = self._lang()
        record: dict[str, Any] = {
            "id": self.random.randrange(9999),
            "title": self._pick("ask")[0],
            "body": self._pick("mail")[0],
        }
        record[self.random.choice(["body", "note", "title", "error"])] = self._order(lang)
        if self.random.random() < 0.4:
            mail = self._pick("mail", lang=lang)[0]
            return (
                f"Subject: {self._pick('ask', lang=lang)[0]}\n\n{mail}\n\n{self._order(lang)}",
                lang,
            )
        return json.dumps(record, ensure_ascii=False), lang

    def _poison(self) -> tuple[str, str]:
        base = self.random.choice(self.descriptions)[:700]
        shape, lang = self.random.random(), "en"
        if shape < 0.55:
            added = self._fill(poison(self.random))
        elif shape < 0.8:
            added = self._pick("poison")[0]
        else:
            lang = self._lang()
            added = self._order(lang)
        added = self.random.choice((*WRAPS[:8], "<HIDDEN>{}</HIDDEN>", "<IMPORTANT>{}</IMPORTANT>", "\n\n{}")).format(
            added
        )
        return (f"{base} {added}" if self.random.random() < 0.75 else f"{added} {base}"), lang

    def _short(self) -> tuple[str, str]:
        lang = self._lang()
        count = self.random.choice((1, 1, 2, 3))
        asks = [self._pick("ask", lang=lang)[0] for _ in range(count)]
        if self.random.random() < 0.3:
            asks.insert(0, self._pick("mail", lang=lang)[0])
        return self._cased(" ".join(asks)), lang

    def _mail(self) -> tuple[str, str]:
        lang = self._lang()
        mails = [self._pick("mail", lang=lang)[0] for _ in range(self.random.choice((0, 1, 2, 3)))]
        if lang == "en":
            mails += [self._pick("order")[0] for _ in range(self.random.choice((0, 1, 2)))]
        mails = mails or [self._pick("order")[0]] if lang == "en" else mails or [self._pick("mail", lang=lang)[0]]
        if lang == "en" and self.random.random() < 0.5:
            mails.append(self._pick("prose")[0])
        self.random.shuffle(mails)
        if self.random.random() < 0.3:
            return json.dumps({"from": self._fill("{mail}"), "body": " ".join(mails)}, ensure_ascii=False), lang
        head = f"Subject: {self._pick('ask', lang=lang)[0]}\n\n" if self.random.random() < 0.5 else ""
        return head + "\n".join(mails), lang

    def _security(self) -> tuple[str, str]:
        parts = [self._pick(self.random.choice(["security", "security", "prose"]))[0] for _ in range(3)]
        return " ".join([self._pick("security")[0], *parts]), "en"

    def _agents(self) -> tuple[str, str]:
        parts = [
            self._pick(self.random.choice(["agents", "agents", "prose", "ask"]))[0]
            for _ in range(self.random.choice((1, 2, 4)))
        ]
        return "\n".join(parts), "en"

    def _data(self) -> tuple[str, str]:
        rows = [
            {"id": self.random.randrange(9999), "text": self._pick(self.random.choice(["prose", "mail", "ask"]))[0]}
            for _ in range(self.random.choice((1, 3)))
        ]
        return (json.dumps(rows) if self.random.random() < 0.5 else "\n".join(str(row["text"]) for row in rows)), "en"

    def _honest(self) -> tuple[str, str]:
        base = self.random.choice(self.descriptions)[:500]
        lines = [self._pick("honest")[0] for _ in range(self.random.choice((1, 2, 3)))]
        return base + " " + " ".join(lines), "en"

    def _strict(self) -> tuple[str, str]:
        base = self.random.choice(self.descriptions)[:500]
        lines = [self._fill(self.random.choice(lookalikes.STRICT)) for _ in range(self.random.choice((1, 2)))]
        return "\n".join((base, *lines)) if self.random.random() < 0.7 else "\n".join((*lines, base)), "en"

    def _about(self) -> tuple[str, str]:
        text, lang = lookalikes.about(self.random)
        return self._fill(text), lang

    def _placed(self, order: str) -> str:
        """An order alone, or at the beginning, in the middle or at the end of part of a document."""
        if self.random.random() < 0.5:
            return order
        document = self.random.choice(self.documents)[: self.random.choice((150, 400, 1200))]
        cut = self.random.choice((0, document.rfind(" ") + 1, len(document)))
        return f"{document[:cut]}\n{order}\n{document[cut:]}".strip()

    def _extract(self) -> tuple[str, str]:
        text, lang = forms.extract(self.random)
        if self.random.random() < 0.3 and lang in (*LANGUAGES, "en"):
            lead = self._pick("ask", lang=lang)[0]
            text = f"{lead} {text}"
        return self._cased(self._fill(text)), lang

    def _asia(self) -> tuple[str, str]:
        text, lang = forms.asia(self.random)
        return self._fill(text), lang

    def _tool_order(self) -> tuple[str, str]:
        base = self.random.choice(self.descriptions)[:700]
        if self.random.random() < 0.65:
            added, lang = lookalikes.order(self.random), "en"
        else:
            added, lang = lookalikes.foreign(self.random)
        added = self.random.choice(
            ("{}", "{}", "\n\n{}", "\n{}", "<IMPORTANT>{}</IMPORTANT>", "[{}]", "<!-- {} -->")
        ).format(self._fill(added))
        return (f"{base} {added}" if self.random.random() < 0.75 else f"{added} {base}"), lang
