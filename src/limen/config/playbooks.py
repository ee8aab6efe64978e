"""Playbook files -> playbooks, with file, line and column of what is wrong."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from limen.config.document import parse, read_file
from limen.config.load import explained
from limen.core.faults import ConfigFault
from limen.incidents.playbooks import Loaded, Playbook, digest_of
from limen.incidents.response_settings import ResponseSettings

SHIPPED = "shipped:"
_LARGEST = 256 << 10
_NAME = re.compile(r"[a-z0-9-]{1,64}")


def read_playbook(data: bytes, name: str) -> Playbook:
    """Raises ConfigFault with the place of the first thing that is wrong."""
    document = parse(data, name)
    if not isinstance(document.value, dict):
        raise ConfigFault("a playbook is a mapping: playbook, title, on, then", document.where(()))
    try:
        return Playbook.model_validate(document.value)
    except ValidationError as error:
        raise explained(error, document, lambda name: "")[0] from None


def shipped() -> list[str]:
    """Names of the playbooks that come with us. None is in force before it is named and approved."""
    folder = resources.files("limen.incidents") / "data" / "playbooks"
    return sorted(one.name.removesuffix(".yaml") for one in folder.iterdir() if one.name.endswith(".yaml"))


def playbook_text(source: str) -> bytes:
    """Of a file, or of one of ours (`shipped:NAME`). Raises ConfigFault."""
    if not source.startswith(SHIPPED):
        return read_file(Path(source), "the playbook", limit=_LARGEST, follow=True)
    name = source.removeprefix(SHIPPED)
    if not _NAME.fullmatch(name) or name not in shipped():
        raise ConfigFault(f"no such playbook; there are {', '.join(shipped())}", source)
    return (resources.files("limen.incidents") / "data" / "playbooks" / f"{name}.yaml").read_bytes()


def load_playbooks(settings: ResponseSettings) -> list[Loaded]:
    """All that the configuration names. What is wrong with one stands in it; two of one name are both wrong."""
    found: list[Loaded] = []
    for source in settings.playbooks:
        digest = ""
        try:
            text = playbook_text(source)
            digest = digest_of(text)
            found.append(Loaded(source, digest, read_playbook(text, source)))
        except ConfigFault as fault:
            found.append(Loaded(source, digest, None, str(fault)))
    names = [one.playbook.playbook for one in found if one.playbook]
    twice = {name for name in names if names.count(name) > 1}
    wrong = "two playbooks have this name"
    return [
        Loaded(one.source, one.digest, None, wrong) if one.playbook and one.playbook.playbook in twice else one
        for one in found
    ]
