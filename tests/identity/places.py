"""Writes a small MaxMind DB (format 2.0): a binary tree over IPv6, 24-bit records, one map per network."""

import struct
from ipaddress import ip_network
from pathlib import Path

_MARK = b"\xab\xcd\xefMaxMind.com"


def _text(value: str) -> bytes:
    return bytes([0x40 | len(value)]) + value.encode()


def _whole(value: int, kind: int, size: int) -> bytes:
    data = value.to_bytes(size, "big")
    return (bytes([kind << 5 | size]) if kind < 8 else bytes([size, kind - 7])) + data


def _map(pairs: dict[str, bytes]) -> bytes:
    return bytes([0xE0 | len(pairs)]) + b"".join(_text(key) + value for key, value in pairs.items())


def _point(value: float) -> bytes:
    return bytes([0x68]) + struct.pack(">d", value)


def write_places(path: Path, where: dict[str, tuple[float, float]]) -> None:
    """A city database: network -> latitude and longitude."""
    tree: list[list[int | None]] = [[None, None]]
    data, offsets = b"", []
    for prefix, (latitude, longitude) in where.items():
        net = ip_network(prefix)
        bits = f"{int(net.network_address):0{net.max_prefixlen}b}"[: net.prefixlen]
        bits = "0" * (128 - net.max_prefixlen) + bits
        node = 0
        for bit in map(int, bits[:-1]):
            if tree[node][bit] is None:
                tree.append([None, None])
                tree[node][bit] = len(tree) - 1
            node = int(tree[node][bit] or 0)
        tree[node][int(bits[-1])] = -1 - len(offsets)
        offsets.append(len(data))
        data += _map({"location": _map({"latitude": _point(latitude), "longitude": _point(longitude)})})
    count = len(tree)
    records = b""
    for pair in tree:
        for child in pair:
            value = count if child is None else child if child >= 0 else count + 16 + offsets[-1 - child]
            records += value.to_bytes(3, "big")
    about = {
        "node_count": _whole(count, 6, 4), "record_size": _whole(24, 5, 2), "ip_version": _whole(6, 5, 2),
        "database_type": _text("Test-City"), "binary_format_major_version": _whole(2, 5, 2),
        "binary_format_minor_version": _whole(0, 5, 2), "build_epoch": _whole(1, 9, 8),
    }  # fmt: skip
    about["languages"] = bytes([0x00, 11 - 7])  # an empty array
    about["description"] = _map({})
    path.write_bytes(records + bytes(16) + data + _MARK + _map(about))
