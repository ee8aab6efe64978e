"""Callers that do not stop while something is done to the gateway they call."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.running import Running


@dataclass
class Load:
    """What came of the calls: how often each status and outcome."""

    outcomes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def failed(self) -> dict[str, int]:
        """Everything but a result."""
        return {what: count for what, count in self.outcomes.items() if what != "result"}

    def note(self, what: str) -> None:
        """One more of them."""
        with self.lock:
            self.outcomes[what] += 1


@contextlib.contextmanager
def calling(gateway: Running, callers: int = 20) -> Iterator[Load]:
    """Each caller has a token of its own and calls `echo` over and over, on connections of its own."""
    load, stop = Load(), threading.Event()

    def call(number: int) -> None:
        token = gateway.token(f"caller-{number}")
        while not stop.is_set():
            try:
                status, body = gateway.call("echo", token)
                load.note("result" if status == 200 and "result" in body else f"{status} {body.get('error')}")
            except OSError as error:
                load.note(f"{type(error).__name__}: {error}")
            time.sleep(0.02)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        yield load
        time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
