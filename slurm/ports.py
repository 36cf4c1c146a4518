"""Ports and addresses of one Ray node, its own also beside other jobs. Standard library only."""

import contextlib
import fcntl
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

# Ports of one Ray node: nine for its services, the rest for its workers. Below Linux's ephemeral ports.
FIRST_PORT, LAST_PORT, PORT_UNIT, SERVICES = 20000, 32700, 20, 9

SIOCGIFADDR = 0x8915  # Linux, netdevice(7): the address of an interface


@dataclass(frozen=True)
class Ports:
    """Consecutive ports."""

    first: int
    count: int

    def flags(self, head: bool) -> list[str]:
        """The ports as options of `ray start`."""
        names = ["node-manager", "object-manager", "dashboard-agent-grpc", "dashboard-agent-listen"]
        names += ["runtime-env-agent", "metrics-export"]
        flags = [f"--{name}-port={self.first + 3 + i}" for i, name in enumerate(names)]
        flags += [
            f"--min-worker-port={self.first + SERVICES}",
            f"--max-worker-port={self.first + self.count - 1}",
        ]
        if head:
            flags += [f"--port={self.first}", f"--dashboard-port={self.first + 1}"]
            flags += [f"--ray-client-server-port={self.first + 2}"]
        return flags


def find_ports(ip: str, count: int, seed: int) -> tuple[Ports, list[socket.socket]]:
    """At least `count` consecutive free ports, and what reserves them until it is closed.

    Between a probe and Ray's bind another job may probe too. So blocks of PORT_UNIT ports are reserved by
    names of abstract sockets, which all users of a node share and which end with the process.
    """
    units = -(-count // PORT_UNIT)
    places = (LAST_PORT - FIRST_PORT) // PORT_UNIT - units + 1
    for i in range(places):
        unit = (seed * 17 + i) % places
        first = FIRST_PORT + unit * PORT_UNIT
        held = [_reserve(first + k * PORT_UNIT) for k in range(units)]
        if all(held) and all(_free(ip, first + k) for k in range(units * PORT_UNIT)):
            return Ports(first, units * PORT_UNIT), [name for name in held if name]
        for name in held:
            if name:
                name.close()
    raise RuntimeError(f"{ip}: no {count} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


def _reserve(port: int) -> socket.socket | None:
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0kdsweep-ports-{port}")
    except OSError:
        name.close()
        return None
    return name


def _free(ip: str, port: int) -> bool:
    for address in (ip, "127.0.0.1"):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def own_ip(peer: str | None = None, interface: str = "", network: str = "") -> str:
    """This node's IPv4 address, as other nodes reach it. Raises OSError when there is no such address.

    interface, network: which one is meant on a node that has several ("ib0", "10.4.0.0/16"). Without them,
    the one that reaches `peer` (IP:PORT); without a peer, the one that the name of the host stands for. If
    that is of the loopback (Debian has 127.0.1.1 in /etc/hosts), the first of another interface.
    """
    if interface or network:
        for name, address in addresses():
            if interface in ("", name) and (not network or ip_address(address) in ip_network(network)):
                return address
        there = ", ".join(f"{name} {address}" for name, address in addresses()) or "none"
        raise OSError(
            f"{socket.gethostname()} has no address on interface {interface or 'any'}, network "
            f"{network or 'any'}: it has {there}: correct interface or address in the site profile"
        )
    if peer:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            host, _, port = peer.rpartition(":")
            probe.connect((host, int(port)))  # sends nothing
            return str(probe.getsockname()[0])
    named: list[str] = []
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM)
        named = [str(entry[4][0]) for entry in found]
    others = [address for _, address in addresses()]
    return next((a for a in [*named, *others] if not ip_address(a).is_loopback), "127.0.0.1")


def addresses() -> list[tuple[str, str]]:
    """(interface, IPv4 address) of every interface that has one, loopback last."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no IPv4 address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
                found.append((name, socket.inet_ntoa(answer[20:24])))
    return sorted(found, key=lambda pair: ip_address(pair[1]).is_loopback)
