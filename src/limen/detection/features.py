"""Hashed n-grams of a text, computed at array speed: the input of the linear model, in training and in use alike.

A text becomes folded code points (case, digits, quotes, white space). Over them a polynomial hash with prefix
sums gives every n-gram cheaply: characters of 3 and 5, words of 1 to 3, and pairs with one word between.
Han, kana, Hangul and Thai characters are words of their own. Linear in time; memory is bounded by pieces of CHUNK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BITS: Final = 20  # size of the weight table: 2**20 bytes for each head
CHUNK: Final = 4096  # characters handled at once
OVERLAP: Final = 512  # shared by neighbouring chunks, so that no window is lost at a seam
CHARS: Final = (3, 5)

_Array = NDArray[Any]
_BASE: Final = 0x9E3779B97F4A7C15 | 1
# Arrays without dimensions: numpy converts a number anew in every operation.
_MIX: Final = np.array(0xD6E8FEB86659FD93, dtype=np.uint64)
_SALT: Final = [
    np.array(value, dtype=np.uint64) for value in (0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3)
]
_SHIFT: Final = np.array(64 - BITS, dtype=np.uint64)
_HALF: Final = np.array(31, dtype=np.uint64)
_PLACES: Final = np.arange(CHUNK + 1)
_ALONE: Final = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x0E00, 0x0E7F), (0xAC00, 0xD7A3))


@dataclass(frozen=True, slots=True)
class Grams:
    """Features of one chunk. `at[i]` is the folded position feature `index[i]` starts at; `origin` maps folded
    positions to characters of the text."""

    index: _Array
    at: _Array
    length: int
    origin: _Array


@cache
def _tables() -> tuple[_Array, _Array, _Array, _Array, _Array]:
    """Folded code point, class (0 separator, 1 word, 2 word of its own), hash of the basic plane; powers, inverses."""
    fold = np.arange(0x10001, dtype=np.uint32)
    kind = np.zeros(0x10001, dtype=np.uint8)
    for code in range(0x10000):
        if 0xD800 <= code <= 0xDFFF:
            continue
        letter = chr(code)
        if letter.isspace() or code < 32:
            fold[code] = 32
        elif letter.isdigit():
            fold[code], kind[code] = 48, 1
        elif letter.isalpha():
            low = letter.lower()
            fold[code], kind[code] = ord(low[0]), 1
    for quote in "‘’‚‛`´":
        fold[ord(quote)] = ord("'")
    for quote in "“”„«»":
        fold[ord(quote)] = ord('"')
    for dash in "‐‑‒–—―":
        fold[ord(dash)] = ord("-")
    for first, last in _ALONE:
        kind[first : last + 1] = np.where(kind[first : last + 1] > 0, 2, kind[first : last + 1])
    kind[ord("_")] = 1
    powers = np.ones(CHUNK + 1, dtype=np.uint64)
    powers[1:] = _BASE
    inverses = np.ones(CHUNK + 1, dtype=np.uint64)
    inverses[1:] = pow(_BASE, -1, 1 << 64)
    mixed = (np.arange(0x10001, dtype=np.uint64) + _SALT[0]) * _MIX
    return fold, kind, mixed, np.cumprod(powers), np.cumprod(inverses)


@cache
def _ascii_tables() -> tuple[bytes, bytes]:
    """Folded code point and class for `bytes.translate`; what stands above 127 is not used."""
    fold, kind, *_ = _tables()
    return fold[:256].astype(np.uint8).tobytes(), kind[:256].tobytes()


def grams(text: str) -> Grams:
    """Features of at most CHUNK characters. Raises ValueError for more: the caller cuts (see `chunks`)."""
    if len(text) > CHUNK:
        raise ValueError("a chunk is longer than CHUNK characters")
    _, _, mixed, powers, inverses = _tables()
    codes, starts, ends, origin = _ascii(text) if text.isascii() else _unicode(text)
    size, count = len(codes), len(starts)
    sums = np.zeros(size + 1, dtype=np.uint64)
    np.add.accumulate(mixed.take(codes) * powers[:size], out=sums[1:])
    # Calls cost more than sums where texts are short: every kind of feature is made in its place among all the keys.
    lengths = [max(0, size - order + 1) for order in CHARS] + [max(0, count - gap) for gap in (0, 1, 2, 2)]
    keys = np.empty(sum(lengths), dtype=np.uint64)
    parts, done = [], 0
    for length in lengths:
        parts.append(keys[done : done + length])
        done += length
    for order, salt, part in zip(CHARS, (_SALT[1], _SALT[2]), parts[:2], strict=True):
        if len(part):
            np.subtract(sums[order:], sums[:-order], out=part)
            part *= inverses[: len(part)]
            part += salt
    words, pairs, skips, threes = parts[2:]
    np.subtract(sums.take(ends), sums.take(starts), out=words)
    words *= inverses.take(starts)
    words ^= words >> _HALF
    words *= _MIX
    np.multiply(words[:-1], _SALT[0], out=pairs)
    pairs += words[1:]
    if count > 2:
        np.multiply(words[:-2], _SALT[1], out=skips)
        skips += words[2:]
        np.right_shift(pairs[:-1], _HALF, out=threes)
        threes ^= pairs[:-1]
        threes *= _SALT[2]
        threes += words[2:]
    keys ^= keys >> _HALF
    keys *= _MIX
    keys >>= _SHIFT
    at = np.concatenate([*(_PLACES[:length] for length in lengths[:2]), *(starts[:length] for length in lengths[2:])])
    return Grams(keys.view(np.int64), at, size, _PLACES[:size] if origin is None else origin)


def _ascii(text: str) -> tuple[_Array, _Array, _Array, _Array | None]:
    """Folded codes, where words start and end (exclusive), and where each code stood: None where none was left out."""
    fold, kind = _ascii_tables()
    folded = text.encode().translate(fold)
    codes, origin = np.frombuffer(folded, dtype=np.uint8), None
    if b"  " in folded:
        origin = _single(codes)
        codes = codes[origin]
        folded = codes.tobytes()
    classes = np.frombuffer(b"\0%b\0" % folded.translate(kind), dtype=np.uint8)
    edges = (classes[1:] != classes[:-1]).nonzero()[0]  # no ASCII character is a word of its own: in, out, in, out
    return codes, edges[::2], edges[1::2], origin


def _unicode(text: str) -> tuple[_Array, _Array, _Array, _Array]:
    """The same for any text."""
    codes = _folded(text)
    origin = _single(codes)
    codes = codes[origin]
    return codes, *_words(_tables()[1][codes]), origin


def _folded(text: str) -> _Array:
    codes: _Array = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return _tables()[0][np.minimum(codes, 0x10000)]


def _single(codes: _Array, starts: _Array | slice = slice(1)) -> _Array:
    """Places of all but the blanks that follow a blank. `starts`: where a text begins, which no blank follows on."""
    blank = codes == 32
    blank[1:] &= blank[:-1]
    blank[starts] = False
    return np.flatnonzero(~blank)


def _words(classes: _Array, owner: _Array | None = None) -> tuple[_Array, _Array]:
    """Where words start and where they end (exclusive). `owner`: the text each character is of; a word ends with it."""
    if not len(classes):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing
    inside = classes > 0
    change = np.ones(len(classes) + 1, dtype=bool)
    change[1:-1] = (classes[1:] != classes[:-1]) | (classes[1:] == 2)
    if owner is not None:
        change[1:-1] |= owner[1:] != owner[:-1]
    return np.flatnonzero(inside & change[:-1]), np.flatnonzero(inside & change[1:]) + 1


def chunks(text: str) -> list[tuple[int, str]]:
    """Pieces of at most CHUNK characters with where each starts; neighbours share OVERLAP."""
    if len(text) <= CHUNK:
        return [(0, text)]
    step = CHUNK - OVERLAP
    return [(start, text[start : start + CHUNK]) for start in range(0, max(1, len(text) - OVERLAP), step)]


@dataclass(frozen=True, slots=True)
class Several:
    """Features of several texts. `owner[i]` is the number of the text feature `index[i]` is of; of each text its folded
    length, and where in it the last character ends that was not folded away."""

    index: _Array
    owner: _Array
    lengths: _Array
    ends: _Array


def several(texts: Sequence[str]) -> Several:
    """What `grams` finds in each of these texts, which are not empty, at the price of one. Raises ValueError for more
    than CHUNK characters together."""
    text = "".join(texts)
    if len(text) > CHUNK:
        raise ValueError("several texts are longer than CHUNK characters")
    _, kind, mixed, powers, inverses = _tables()
    codes = _folded(text)
    sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    starts = np.cumsum(sizes) - sizes
    origin = _single(codes, starts)
    codes, owner = codes[origin], np.repeat(np.arange(len(texts)), sizes)[origin]
    size = len(codes)
    sums = np.zeros(size + 1, dtype=np.uint64)
    np.cumsum(mixed[codes] * powers[:size], out=sums[1:])
    found: list[_Array] = []
    whose: list[_Array] = []

    def add(keys: _Array, first: _Array, last: _Array) -> None:
        """Those that begin and end in the same text."""
        within = first == last
        found.append(keys[within])
        whose.append(first[within])

    for order, salt in zip(CHARS, (_SALT[1], _SALT[2]), strict=True):
        if size >= order:
            keys = (sums[order:] - sums[:-order]) * inverses[: size - order + 1] + salt
            add(keys, owner[: size - order + 1], owner[order - 1 :])
    begin, end = _words(kind[codes], owner)
    words = (sums[end] - sums[begin]) * inverses[begin]
    words = (words ^ (words >> _HALF)) * _MIX
    of = owner[begin]
    pairs = words[:-1] * _SALT[0] + words[1:]
    add(words, of, of)
    add(pairs, of[:-1], of[1:])
    add(words[:-2] * _SALT[1] + words[2:], of[:-2], of[2:])
    add((pairs[:-1] ^ (pairs[:-1] >> _HALF)) * _SALT[2] + words[2:], of[:-2], of[2:])
    keys = np.concatenate(found)
    index = ((keys ^ (keys >> _HALF)) * _MIX) >> _SHIFT
    lengths = np.bincount(owner, minlength=len(texts))
    ends = origin[np.cumsum(lengths) - 1] + 1 - starts
    return Several(index.view(np.int64), np.concatenate(whose), lengths, ends)
