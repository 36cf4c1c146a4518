"""Ports and addresses of one Ray node, its own also beside other jobs. Standard library only."""

import socket
from dataclasses import dataclass

# Ports of one Ray node: nine for its services, the rest for its workers. Below Linux's ephemeral ports.
FIRST_PORT, LAST_PORT, PORT_UNIT, SERVICES = 20000, 32700, 20, 9


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


def own_ip(peer: str | None) -> str:
    """This node's address: the one that reaches `peer` (IP:PORT), or the one its name stands for."""
    if peer:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            host, _, port = peer.rpartition(":")
            probe.connect((host, int(port)))  # sends nothing
            return str(probe.getsockname()[0])
    found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    return next((a for a in addresses if not a.startswith("127.")), addresses[0])
