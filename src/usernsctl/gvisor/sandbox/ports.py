"""Published ports: ports of the host that are forwarded to a sandbox."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence

from usernsctl._lean import replace
from usernsctl._system.descriptors import above_stdio
from usernsctl.errors import RunscError
from usernsctl.gvisor.launch.network import JOINED
from usernsctl.gvisor.launch.options import iterable, parse_argument
from usernsctl.network.ports import MAX_PORTS, PublishedPort

_BACKLOG = 128

# The cause ids for errors of bind(2) and listen(2), as in csrc/programs/network/bind.c.
_CAUSES = {
    errno.EADDRINUSE: "port-taken",
    errno.EACCES: "port-privileged",
    errno.EADDRNOTAVAIL: "port-address-missing",
}


def parse_ports(given: Iterable[str | int]) -> tuple[PublishedPort, ...]:
    """Parse the argument `publish` of a sandbox.

    :param given: an iterable of strings ``[ADDR:]HOST:INSIDE[/udp]`` and of numbers. The HOST 0
        means any free port. A number is a TCP port in the sandbox, to which any free port of
        127.0.0.1 is forwarded.
    :raises TypeError: `given` is not an iterable of strings and numbers.
    :raises ValueError: a string has the wrong format, a number is not a port, or there are too many
        ports.
    """
    ports = []
    for one in iterable("publish", given):
        if isinstance(one, bool) or not isinstance(one, str | int):
            raise TypeError(f"publish must be a list of [ADDR:]HOST:INSIDE or ports, not {one!r}")
        text = one if isinstance(one, str) else f"0:{one}"
        ports.append(parse_argument("publish", PublishedPort.parse_free, text))
    if len(ports) > MAX_PORTS:
        raise ValueError(f"publish: {len(ports)} ports are more than {MAX_PORTS}")
    return tuple(ports)


def check_network(ports: Sequence[PublishedPort], network: str) -> None:
    """Check that sandboxes with the network `network` can publish `ports`.

    :raises ValueError: the network belongs to the host or to a persistent namespace.
    """
    if ports and network == "host":
        raise ValueError("publish and network='host' exclude each other")
    if ports and network == JOINED:
        raise ValueError(
            "publish: the SandboxHost joins a namespace's network, which has no published ports"
        )


def bind_ports(ports: Sequence[PublishedPort], network: str) -> BoundPorts:
    """Create the sockets of published ports, in the network namespace of the caller.

    :param network: the network of the sandbox's SandboxHost.
    :raises ValueError: the sandbox uses the network of the host or of a persistent namespace.
    :raises RunscError: a port can't be bound, because it is in use (cause ``port-taken``), requires
        a privilege (``port-privileged``), or no network device has the address
        (``port-address-missing``).
    """
    check_network(ports, network)
    with contextlib.ExitStack() as undo:
        sockets = [undo.enter_context(_bind(port)) for port in ports]
        return BoundPorts(ports, sockets, undo.pop_all())


class BoundPorts(contextlib.AbstractContextManager["BoundPorts"]):
    """This process's sockets for the published ports of a sandbox.

    :ivar published: the ports, with each HOST of 0 replaced by the port that the kernel has chosen.
    """

    def __init__(
        self,
        ports: Sequence[PublishedPort],
        sockets: Sequence[socket.socket],
        undo: contextlib.ExitStack,
    ) -> None:
        self._sockets = sockets
        self._undo = undo
        self.published: tuple[PublishedPort, ...] = tuple(
            replace(port, outside=one.getsockname()[1])
            for port, one in zip(ports, sockets, strict=True)
        )

    def options(self, fds: list[int], above: contextlib.ExitStack) -> list[str]:
        """Return the options with which usernsctl-network accepts connections on the sockets.

        :param fds: the list of the descriptors that the command inherits. This method adds the
            sockets to the list.
        :param above: the exit stack that closes duplicates. Sockets with the numbers 0, 1 and 2 are
            duplicated, since the command's standard streams get these numbers.
        """
        words = []
        for port, one in zip(self.published, self._sockets, strict=True):
            fds.append(above_stdio(one.fileno(), above))
            words.append(f"--accept={port.inside}:{fds[-1]}{port.suffix}")
        return words

    def close(self) -> None:
        """Close this process's sockets, so that the end of the sandbox frees the ports."""
        self._undo.close()

    def __exit__(self, *exception: object) -> None:
        self.close()


def addresses_of(
    ports: Iterable[PublishedPort], *, is_udp: bool = False
) -> dict[int, tuple[str, int]]:
    """Return the host's address and port for each published port in the sandbox.

    For a port that is published several times, the first address and port are returned.

    :param is_udp: whether to return UDP ports instead of TCP ports.
    """
    found: dict[int, tuple[str, int]] = {}
    for port in ports:
        if port.is_udp == is_udp:
            found.setdefault(port.inside, (port.address, port.outside))
    return found


def _bind(port: PublishedPort) -> socket.socket:
    """Create the socket of a published port, as bind_port() of csrc/programs/network/bind.c does.

    :raises RunscError: the port can't be bound.
    """
    is_6 = ipaddress.ip_address(port.address).version == 6
    kind = socket.SOCK_DGRAM if port.is_udp else socket.SOCK_STREAM
    with contextlib.ExitStack() as undo:
        try:
            bound = undo.enter_context(
                socket.socket(socket.AF_INET6 if is_6 else socket.AF_INET, kind)
            )
            bound.setblocking(False)
            if is_6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if not port.is_udp:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((port.address, port.outside))
            if not port.is_udp:
                bound.listen(_BACKLOG)
        except OSError as error:
            name = f"{'UDP ' if port.is_udp else ''}port {port.outside} of {port.address}"
            raise RunscError(
                f"{name}: {error.strerror}",
                step="network",
                errno=error.errno or 0,
                cause=_CAUSES.get(error.errno or 0),
            ) from error
        undo.pop_all()
    return bound
