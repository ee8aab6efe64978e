"""Which approved definition does this call name? None: the call ends here."""

from __future__ import annotations

from typing import Final

from limen.catalog.snapshot import Catalog
from limen.catalog.templates import uri_fault
from limen.core.call import Approved, Caller, Context
from limen.core.verdict import Pass, Refuse, Verdict, refuse

_KINDS: Final = {"tools/call": "tool", "prompts/get": "prompt"}
_REFERENCES: Final = {"prompt:": "prompt", "template:": "template"}


class Resolve:
    """Guard. Refuses catalog.unknown, catalog.pending (nobody approved it) and catalog.drifted (withheld).

    A definition that drifted stays in service as approved, unless the server dropped it or asks for more now.
    """

    needs = (Caller,)
    gives = (Approved,)

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._served: dict[tuple[str, str, str], Verdict] = {}  # a catalog never changes: what it serves, it serves

    def check(self, context: Context) -> Verdict:
        """Names are compared exactly. A resource URI no resource has may fit one approved template."""
        call = context.call
        if kind := _KINDS.get(call.method):
            return self._named(call.server, kind, call.name)
        if call.method == "resources/read":
            return self._resource(call.server, call.name)
        if call.method == "completion/complete":
            for prefix, kind in _REFERENCES.items():
                if call.name.startswith(prefix):
                    return self._named(call.server, kind, call.name.removeprefix(prefix))
            return refuse("wire.params", "a reference that is neither a prompt nor a template")
        return refuse("fault.bug", f"nothing to resolve for {call.method}")

    def _named(self, server: str, kind: str, name: str) -> Verdict:
        place = (server, kind, name)
        known = self._served.get(place)
        if known is not None:
            return known
        catalog = self._catalog
        approved = catalog.find(server, kind, name)
        if approved is None:
            return _missing(catalog.state(server, kind, name), kind, name)
        if why := catalog.withheld(server, kind, name):
            return refuse("catalog.drifted", why)
        passed = self._served[place] = Pass((approved,))
        return passed

    def _resource(self, server: str, uri: str) -> Verdict:
        # A URI announced as a resource is judged as that resource, whatever template it may fit besides.
        state = self._catalog.state(server, "resource", uri)
        if self._catalog.find(server, "resource", uri) is not None or state not in ("unknown", "gone"):
            return self._named(server, "resource", uri)
        if fault := uri_fault(uri):
            return refuse("catalog.unknown", f"uri: {fault}")
        fitting = self._catalog.fitting(server, uri)
        if len(fitting) != 1:
            return refuse("catalog.unknown", f"{len(fitting)} approved templates fit this URI")
        return self._named(server, "template", fitting[0])


def _missing(state: str, kind: str, name: str) -> Refuse:
    if state in ("pending", "held"):
        return refuse("catalog.pending", f"{kind} {name[:200]!r} is {state}")
    return refuse("catalog.unknown", f"{kind} {name[:200]!r} is {state}")
