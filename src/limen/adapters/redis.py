"""`Counter` and `Bus` in Redis: limits that many replicas share, and a way to wake them.

Redis is no record: whoever restarts it empty lets every bucket begin full. Records are in the table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from limen.core.faults import DependencyFault
from limen.core.ports import Quota, Taken

SECONDS: Final = 0.5  # seconds a call may wait for Redis
PAUSE: Final = 0.2  # seconds after a failure in which nothing is tried
_CHANNEL: Final = "limen/bus"
# One clock for all replicas: the server's. Numbers travel as text, or Redis cuts them to integers.
_TAKE: Final = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local want, least, capacity = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local rate, ends = tonumber(ARGV[4]), tonumber(ARGV[5])
local kept = redis.call('HMGET', KEYS[1], 'n', 'at')
local tokens, at = tonumber(kept[1] or capacity), tonumber(kept[2] or now)
tokens = math.min(capacity, tokens + math.max(0, now - at) * rate)
local granted = 0
if want <= 0 then
  granted = want
  tokens = math.min(capacity, tokens - want)
else
  granted = math.min(want, math.floor(tokens + 1e-9))
  if granted < least or granted <= 0 then
    local wait = -1
    if rate > 0 then wait = (least - tokens) / rate elseif ends > 0 then wait = math.max(0, ends - now) end
    return {'0', tostring(tokens), tostring(wait)}
  end
  tokens = tokens - granted
end
redis.call('HSET', KEYS[1], 'n', string.format('%.17g', tokens), 'at', string.format('%.17g', math.max(at, now)))
if rate > 0 then
  redis.call('PEXPIRE', KEYS[1], math.min(1e12, math.ceil(((capacity - tokens) / rate + 1) * 1000)))
elseif ends > 0 then
  redis.call('PEXPIREAT', KEYS[1], math.ceil(ends * 1000))
end
return {tostring(granted), string.format('%.17g', tokens), '0'}
"""
_HOLD: Final = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local holder, want, capacity, seconds = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local all, others, last = redis.call('HGETALL', KEYS[1]), 0, 0
for i = 1, #all, 2 do
  local number, ends = string.match(all[i + 1], '^(%d+) (.+)$')
  if tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= holder then
    others = others + tonumber(number)
    last = math.max(last, tonumber(ends))
  end
end
local got = math.max(0, math.min(want, capacity - others))
if got > 0 then
  redis.call('HSET', KEYS[1], holder, string.format('%d %.17g', got, now + seconds))
  last = math.max(last, now + seconds)
else
  redis.call('HDEL', KEYS[1], holder)
end
if last > now then redis.call('PEXPIRE', KEYS[1], math.ceil((last - now + 1) * 1000)) end
return got
"""


class RedisCounter:
    """Implements `core.ports.Counter`: each step is one script, run whole by the server."""

    def __init__(self, url: str, prefix: str = "limen/") -> None:
        """Connects when first used. Raises DependencyFault for a URL that is not one."""
        try:
            self._redis = redis.asyncio.Redis.from_url(
                url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, retry=AsyncRetry(NoBackoff(), 1)
            )
        except ValueError as error:
            raise DependencyFault("redis", f"not a URL of Redis: {type(error).__name__}", retryable=False) from None
        self._prefix, self._blocked, self._why = prefix, 0.0, ""
        self._take, self._hold = self._redis.register_script(_TAKE), self._redis.register_script(_HOLD)

    async def take(self, key: str, want: float, quota: Quota, least: float | None = None) -> Taken:
        """See `Counter.take`."""
        numbers = [want, want if least is None else least, quota.capacity, quota.rate, quota.ends or 0]
        granted, left, wait = map(float, await self._run(self._take, f"{self._prefix}b/{key}", numbers))
        return Taken(granted, left, wait if wait >= 0 else float("inf"))

    async def hold(self, key: str, holder: str, want: int, capacity: int, seconds: float) -> int:
        """See `Counter.hold`."""
        return int(await self._run(self._hold, f"{self._prefix}h/{key}", [holder, want, capacity, seconds]))

    async def _run(self, script: Any, key: str, values: list[Any]) -> Any:
        if time.monotonic() < self._blocked:
            raise DependencyFault("redis", f"unreachable a moment ago: {self._why}")
        try:
            return await script(keys=[key], args=values)
        except (RedisError, OSError, TimeoutError) as error:
            self._blocked, self._why = time.monotonic() + PAUSE, type(error).__name__
            raise DependencyFault("redis", self._why) from None

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()


class RedisBus:
    """Implements `core.ports.Bus` with PUBLISH and SUBSCRIBE."""

    def __init__(self, url: str) -> None:
        self._url = url

    def publish(self, topic: str) -> None:
        """Raises DependencyFault."""
        try:
            with redis.Redis.from_url(
                self._url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, retry=Retry(NoBackoff(), 1)
            ) as client:
                client.publish(_CHANNEL, topic)
        except (RedisError, OSError, ValueError) as error:
            raise DependencyFault("redis", type(error).__name__) from None

    async def listen(self, heard: Callable[[str], None]) -> None:
        """See `Bus.listen`."""
        try:
            client = redis.asyncio.Redis.from_url(self._url, socket_connect_timeout=SECONDS)
            async with client, client.pubsub() as channel:
                await channel.subscribe(_CHANNEL)
                async for message in channel.listen():
                    heard(message["data"].decode() if message["type"] == "message" else "")
        except (RedisError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise DependencyFault("redis", type(error).__name__) from None
        raise DependencyFault("redis", "the subscription ended")
