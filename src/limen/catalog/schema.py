"""Do the arguments fit the approved definition, and does the answer? Judged by what was approved, never by what the
server says now."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import jiter

from limen.catalog.asks import judge_requests
from limen.catalog.blocks import Rebuild, Unacceptable
from limen.catalog.bounds import Compiled, compile_schema
from limen.catalog.headers import disagreement, param_headers
from limen.catalog.snapshot import Catalog
from limen.catalog.templates import variables
from limen.core.call import Approved, Call, Context, Era, Grant
from limen.core.verdict import Pass, Permit, Replace, ResultVerdict, Verdict, refuse

__all__ = ["ValidateArguments", "ValidateResult", "param_headers"]

MAX_STATE: Final = 64 << 10
MAX_VALUES: Final = 100
_PASS: Final = Pass()


@lru_cache(maxsize=8192)
def _compiled(definition: bytes, member: str) -> Compiled | None:
    """Compiled once per definition; equal bytes have equal digests. Raises UnsafeSchema, which the chain refuses."""
    schema = jiter.from_json(definition)
    return compile_schema(schema[member]) if member in schema else None


@lru_cache(maxsize=8192)
def _prompt_arguments(definition: bytes) -> tuple[frozenset[str], frozenset[str]]:
    listed = jiter.from_json(definition).get("arguments", [])
    return frozenset(one["name"] for one in listed), frozenset(one["name"] for one in listed if one.get("required"))


class ValidateArguments:
    """Guard. Refuses catalog.arguments (detail: a path, never a value) and wire.header_mismatch.

    It stands below Authorize: who may not call a tool learns nothing about its schema.
    """

    needs = (Approved, Grant)
    gives = ()

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def check(self, context: Context) -> Verdict:
        """Tools: JSON Schema and mirrored headers. Prompts: declared texts. Completions: a declared argument."""
        call, approved = context.call, context.get(Approved)
        if not _in_force(self._catalog, approved):
            return refuse("catalog.drifted", "not a definition of the catalog in force")
        if call.method == "tools/call":
            return _tool_arguments(call, approved)
        if call.method == "prompts/get":
            return _prompt(call, approved)
        if call.method == "completion/complete":
            return _completion(call, approved)
        return _PASS if not call.arguments else refuse("catalog.arguments", "takes no arguments")


def _in_force(catalog: Catalog, approved: Approved) -> bool:
    """A fact of another snapshot is not proof under this one."""
    found = catalog.find(approved.server, approved.kind, approved.name)
    return found is approved or (found is not None and found.digest == approved.digest)


def _tool_arguments(call: Call, approved: Approved) -> Verdict:
    compiled = _compiled(approved.definition, "inputSchema")
    if compiled is None:
        return refuse("catalog.arguments", "the approved definition has no input schema")
    arguments = call.read_arguments()
    if not compiled.accepts(arguments):
        return refuse("catalog.arguments", compiled.first_error(arguments))
    if call.era is Era.MODERN and call.peer.transport == "http" and (why := disagreement(approved, call, arguments)):
        return refuse("wire.header_mismatch", why)
    return _PASS


def _prompt(call: Call, approved: Approved) -> Verdict:
    declared, required = _prompt_arguments(approved.definition)
    arguments = call.read_arguments()
    if not arguments.keys() <= declared:
        return refuse("catalog.arguments", "an argument the prompt does not have")
    if not required <= arguments.keys():
        return refuse("catalog.arguments", "a required argument is missing")
    if any(type(value) is not str for value in arguments.values()):
        return refuse("catalog.arguments", "an argument that is not text")
    return _PASS


def _completion(call: Call, approved: Approved) -> Verdict:
    argument = call.read_rest().get("argument")
    if type(argument) is not dict or type(argument.get("name")) is not str or type(argument.get("value")) is not str:
        return refuse("catalog.arguments", "argument is not a name and a value")
    if approved.kind == "prompt":
        known = argument["name"] in _prompt_arguments(approved.definition)[0]
    else:
        known = argument["name"] in variables(approved.name)
    return _PASS if known else refuse("catalog.arguments", "an argument the reference does not have")


class ValidateResult:
    """Result guard. What a client gets is built again from members the protocol knows; refuses catalog.result.

    Texts lose escape sequences, control characters and direction overrides. `structuredContent` is passed on only
    where the approved definition has a schema for it, and only when it fits.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def check_result(self, permit: Permit, result: dict[str, Any]) -> ResultVerdict:
        """Pass when nothing had to go, Replace when something had, Refuse when nothing useful is left."""
        call, approved, rebuild = permit.call, permit.get(Approved), Rebuild()
        if type(result) is not dict or not _in_force(self._catalog, approved):
            return refuse("catalog.result", "not an object, or not judged by the catalog that let the call through")
        kind = result.get("resultType", "complete")
        try:
            if kind == "input_required":
                if "inputRequests" in result and not _may_be_asked(call):
                    return refuse("wire.capability", "input asked for", requiredCapabilities={"elicitation": {}})
                built = _input_required(call, result, rebuild)
            elif kind != "complete":
                return refuse("catalog.result", "an unknown resultType")
            else:
                built = _COMPLETE[call.method](call, approved, result, rebuild)
        except Unacceptable as error:
            return refuse("catalog.result", str(error))
        if "resultType" in result:
            built["resultType"] = kind
        return Replace(built, f"left out: {rebuild.notes}") if rebuild.notes else _PASS


def _may_be_asked(call: Call) -> bool:
    """2026-07-28: nobody is asked who did not say that they can be. Older clients are asked by the bridge, or not."""
    return call.era is not Era.MODERN or type(call.read_capabilities().get("elicitation")) is dict


def _input_required(call: Call, result: dict[str, Any], rebuild: Rebuild) -> dict[str, Any]:
    if call.method == "completion/complete":
        raise Unacceptable("input asked for by a method that cannot be resumed")
    rebuild.only(result, "resultType", "inputRequests", "requestState")
    built: dict[str, Any] = {}
    if "inputRequests" in result:
        built["inputRequests"] = judge_requests(result["inputRequests"], rebuild)
    if "requestState" in result:
        state = result["requestState"]
        if type(state) is not str or len(state) > MAX_STATE:
            raise Unacceptable(f"requestState is not text of at most {MAX_STATE} characters")
        built["requestState"] = state
    if not built:
        raise Unacceptable("input asked for without saying which")
    return built


def _tool_result(call: Call, approved: Approved, result: dict[str, Any], rebuild: Rebuild) -> dict[str, Any]:
    content, failed = result.get("content"), result.get("isError", False)
    if type(content) is not list or type(failed) is not bool:
        raise Unacceptable("content is not a list, or isError not a boolean")
    rebuild.only(result, "resultType", "content", "isError", "structuredContent")
    built: dict[str, Any] = {"content": [block for one in content if (block := rebuild.block(one)) is not None]}
    if "isError" in result:
        built["isError"] = failed
    compiled = _compiled(approved.definition, "outputSchema")
    if compiled is None:
        if "structuredContent" in result:
            rebuild.note("structured content without an approved schema")
        return built
    if "structuredContent" in result:
        structured = rebuild.json(result["structuredContent"])
        if compiled.accepts(structured):
            built["structuredContent"] = structured
            return built
        if not failed:
            raise Unacceptable(f"structuredContent {compiled.first_error(structured)}")
        rebuild.note("structured content that does not fit the approved schema")
    elif not failed:
        raise Unacceptable("structuredContent is missing although the approved definition has an output schema")
    return built


def _read_result(call: Call, approved: Approved, result: dict[str, Any], rebuild: Rebuild) -> dict[str, Any]:
    contents = result.get("contents")
    if type(contents) is not list:
        raise Unacceptable("contents is not a list")
    rebuild.only(result, "resultType", "contents", "ttlMs", "cacheScope")  # caching members are set by us
    built = []
    for one in contents:
        item = rebuild.contents(one)
        if item is None:
            raise Unacceptable("contents that are not well-formed")
        if item["uri"] != call.name:
            if item["uri"].rstrip("/") != call.name.rstrip("/"):
                raise Unacceptable("contents of another resource than the one asked for")
            rebuild.note("another spelling of the URI")
            item["uri"] = call.name
        built.append(item)
    kept: dict[str, Any] = {"contents": built}
    if type(ttl := result.get("ttlMs")) is int and ttl >= 0:
        kept["ttlMs"] = ttl
    return kept


def _prompt_result(call: Call, approved: Approved, result: dict[str, Any], rebuild: Rebuild) -> dict[str, Any]:
    messages = result.get("messages")
    if type(messages) is not list:
        raise Unacceptable("messages is not a list")
    rebuild.only(result, "resultType", "messages", "description")
    built: dict[str, Any] = {"messages": []}
    if type(description := result.get("description")) is str:
        built["description"] = rebuild.text(description)
    elif "description" in result:
        rebuild.note("a member of the wrong type")
    for one in messages:
        if type(one) is not dict or one.get("role") not in ("user", "assistant"):
            raise Unacceptable("a message without a role")
        rebuild.only(one, "role", "content")
        block = rebuild.block(one.get("content"))
        if block is None:
            raise Unacceptable("a message whose content is not well-formed")
        built["messages"].append({"role": one["role"], "content": block})
    return built


def _completion_result(call: Call, approved: Approved, result: dict[str, Any], rebuild: Rebuild) -> dict[str, Any]:
    completion = result.get("completion")
    values = completion.get("values") if type(completion) is dict else None
    if type(completion) is not dict or type(values) is not list or any(type(value) is not str for value in values):
        raise Unacceptable("completion is not a list of texts")
    rebuild.only(result, "resultType", "completion")
    rebuild.only(completion, "values", "total", "hasMore")
    if len(values) > MAX_VALUES:
        rebuild.note("values beyond the hundredth")
    built: dict[str, Any] = {"values": [rebuild.text(value) for value in values[:MAX_VALUES]]}
    for member, type_ in (("total", int), ("hasMore", bool)):
        if type(completion.get(member)) is type_:
            built[member] = completion[member]
        elif member in completion:
            rebuild.note("a member of the wrong type")
    return {"completion": built}


_COMPLETE: Final = {
    "tools/call": _tool_result,
    "resources/read": _read_result,
    "prompts/get": _prompt_result,
    "completion/complete": _completion_result,
}
