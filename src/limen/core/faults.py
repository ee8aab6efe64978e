"""What went wrong, as opposed to what was refused. A denial is a value; a fault is an exception."""

from __future__ import annotations


class Fault(Exception):
    """Base of every fault. The message is for the operator and never reaches a client."""


class ConfigFault(Fault):
    """The operator's configuration cannot be used. `where` names file, line and key as far as known."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.message, self.where = message, where


class DependencyFault(Fault):
    """A port's other side (disk, identity provider, database) did not do its part. `retry_after`: seconds it asked us
    to stay away; 0: it did not say."""

    def __init__(self, port: str, message: str, *, retryable: bool = True, retry_after: float = 0.0) -> None:
        super().__init__(f"{port}: {message}")
        self.port, self.retryable, self.retry_after = port, retryable, retry_after


class UpstreamFault(Fault):
    """An MCP server behind us is unreachable, too slow, or does not speak the protocol."""

    def __init__(
        self, server: str, message: str, *, timeout: bool = False, status: int = 0, challenge: str = ""
    ) -> None:
        super().__init__(f"{server}: {message}")
        self.server, self.timeout = server, timeout
        self.status, self.challenge = status, challenge  # of its HTTP answer: WWW-Authenticate of a 401 or 403


class UpstreamError(Fault):
    """An MCP server answered with a JSON-RPC error. `text` is the server's own and stays in the audit."""

    def __init__(self, server: str, code: int, text: str, data: object = None) -> None:
        super().__init__(f"{server}: error {code}")
        self.server, self.code, self.text, self.data = server, code, text, data


class InvariantFault(Fault):
    """Our own bug: something the code relies on does not hold."""
