"""The network of a cell, made from inside, before the cell itself is: a namespace in which every address is ours.

`enter` runs in the child, single-threaded, before bubblewrap, with the standard library and nothing else (the child
has no other path). It needs no privilege: a user namespace of its own owns the network namespace. Every address, v4
and v6, is made local to it (`ip route add local default dev lo`, Linux "AnyIP"), so a connect to any address on an
allowed port arrives at the listeners made here, whose `getsockname` is the address that was meant. They are passed to
the gateway (SCM_RIGHTS), which decides; nothing else leads out: other ports refuse, there is no other interface, and
the program, in a user namespace below this one, cannot change the routes.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

MAX_PORTS = 60  # listeners for two address families, within the 253 descriptors one message may carry
DNS = 53
_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_DUMPABLE = 0x10000000, 0x40000000, 4
_RTM_NEWLINK, _RTM_NEWROUTE, _NLMSG_ERROR = 16, 24, 2
_REQUEST_ACK, _CREATE_EXCL = 0x5, 0x600
_IFF_UP, _LOOPBACK = 1, 1
_TABLE_LOCAL, _PROTOCOL_BOOT, _SCOPE_HOST, _TYPE_LOCAL, _RTA_OIF = 255, 3, 254, 2, 4
_TCP4, _TCP6 = (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_STREAM)
_UDP4, _UDP6 = (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_DGRAM)


def enter(ports: tuple[int, ...]) -> list[socket.socket]:
    """Move this process into a network of its own and listen there: TCP on `ports` and 53, UDP on 53.

    Raises OSError, which says what failed; then the program must not be started.
    """
    if len(ports) > MAX_PORTS or not all(0 < port < 65536 and port != DNS for port in ports):
        raise OSError(f"network: at most {MAX_PORTS} ports from 1 to 65535, without {DNS}")
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # after a change of user /proc/self would be root's
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"network: no namespace of its own: {os.strerror(number)}")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.settimeout(5)
        _ask(netlink, _RTM_NEWLINK, 0, struct.pack("=BBHiII", 0, 0, 0, _LOOPBACK, _IFF_UP, _IFF_UP))
        _ask(netlink, _RTM_NEWROUTE, _CREATE_EXCL, _everything(socket.AF_INET))
        try:
            _ask(netlink, _RTM_NEWROUTE, _CREATE_EXCL, _everything(socket.AF_INET6))
            families = [socket.AF_INET, socket.AF_INET6]
        except OSError:
            families = [socket.AF_INET]  # a kernel without IPv6: it stays unreachable
    made: list[socket.socket] = []
    for family in families:
        made.extend(_open(family, socket.SOCK_STREAM, port) for port in (*ports, DNS))
        made.append(_open(family, socket.SOCK_DGRAM, DNS))
    return made


class Opened:
    """What the parent has of a cell's network: its listeners. Close it when the cell has ended: the listeners are what
    keeps the network alive."""

    __slots__ = ("tcp", "udp")

    def __init__(self, tcp: tuple[socket.socket, ...], udp: tuple[socket.socket, ...]) -> None:
        self.tcp, self.udp = tcp, udp

    def close(self) -> None:
        """Close every listener."""
        for one in (*self.tcp, *self.udp):
            one.close()


def checked(sockets: list[socket.socket]) -> Opened:
    """These as the listeners of a cell, each looked at. Raises OSError, and closes them, when one is something else."""
    opened = Opened(
        tuple(one for one in sockets if _shape(one) in (_TCP4, _TCP6)),
        tuple(one for one in sockets if _shape(one) in (_UDP4, _UDP6)),
    )
    listening = all(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in opened.tcp)
    if not opened.tcp or not opened.udp or not listening or len(opened.tcp) + len(opened.udp) != len(sockets):
        for one in sockets:
            one.close()
        raise OSError("network: the stage sent something that is not a listener")
    for one in sockets:
        one.setblocking(False)
    return opened


def _shape(one: socket.socket) -> tuple[int, int]:
    return one.family, one.type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _open(family: int, kind: int, port: int) -> socket.socket:
    one = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - all of a network of its own
        if kind == socket.SOCK_STREAM:
            one.listen(128)
    except OSError as error:
        one.close()
        raise OSError(error.errno, f"network: port {port}: {error.strerror}") from None
    return one


def _write(path: str, text: str) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(number, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"network: {path}: {error.strerror}") from None
    finally:
        os.close(number)


def _everything(family: int) -> bytes:
    """rtmsg and RTA_OIF of `local default dev lo` (rtnetlink(7))."""
    scope = _SCOPE_HOST if family == socket.AF_INET else 0
    head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _TABLE_LOCAL, _PROTOCOL_BOOT, scope, _TYPE_LOCAL, 0)
    return head + struct.pack("=HHI", 8, _RTA_OIF, _LOOPBACK)


def _ask(netlink: socket.socket, kind: int, flags: int, body: bytes) -> None:
    """One request, and its acknowledgement (netlink(7)). Raises OSError."""
    netlink.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK | flags, 1, 0) + body)
    answer = netlink.recv(4096)
    if len(answer) < 20 or struct.unpack_from("=H", answer, 4)[0] != _NLMSG_ERROR:
        raise OSError("network: the kernel's answer cannot be read")
    if code := -struct.unpack_from("=i", answer, 16)[0]:
        raise OSError(code, f"network: {'loopback' if kind == _RTM_NEWLINK else 'route'}: {os.strerror(code)}")
