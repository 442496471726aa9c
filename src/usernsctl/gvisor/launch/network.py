"""The options of the program usernsctl-network, which creates the private network of a sandbox."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence

from usernsctl._core.values import find_program
from usernsctl._lean import TYPE_CHECKING, replace
from usernsctl._system.descriptors import above_stdio
from usernsctl._system.paths import PathDescriptor, open_path
from usernsctl.errors import CommandError, RunscError

if TYPE_CHECKING:
    from usernsctl.gvisor.launch.request import Request
    from usernsctl.namespaces.named import NamedNamespace
    from usernsctl.network.proxy_process import ProxyProcess

#: The argument of native programs that precedes the path and the options of usernsctl-network
#: (csrc/programs/shared/shared.h).
NETWORK = "--network"

#: The programs that a private network needs, each with the directories in which usernsctl searches
#: for it. The caller's PATH is not used, because the programs run as root of the sandbox's
#: namespaces.
PROGRAMS: Mapping[str, Sequence[str]] = {
    "pasta": ("/usr/local/bin", "/usr/bin", "/bin"),
    "nft": ("/usr/local/sbin", "/usr/sbin", "/sbin"),
}

#: The network of a sandbox that may connect only to the host names in ``--allow``. The sandbox has
#: only a loopback device, and a proxy listens on an address of that device.
NAMES = "names"
#: The network of a sandbox that has published ports, but can't connect to the outside.
LOOPBACK = "loopback"
#: The network of a sandbox that joins persistent namespaces and uses their private network.
JOINED = "joined"
#: The networks that usernsctl-network creates.
MADE = ("private", NAMES, LOOPBACK)

#: The TCP port of the sandbox's proxy, on 127.0.0.1 in the sandbox.
PROXY_PORT = 3128
# The option with which usernsctl-network creates the listening socket of the proxy. FD is a
# placeholder for the descriptor of the Unix socket over which the proxy receives the listening
# socket.
_LISTEN = f"--listen={PROXY_PORT}:FD"

_RESOLVER = "/etc/resolv.conf"
# Files that replace /etc/resolv.conf in the sandbox. Each file names an address, IPv4 or IPv6, at
# which pasta forwards queries to the host's first name server of the same address family
# (csrc/programs/network/network.h).
_FILES = {family: os.path.join(os.path.dirname(__file__), f"resolv.{family}") for family in "46"}

_RESOLVER_BYTES = 1 << 16


def with_network(request: Request) -> Request:
    """Return `request` with the network that its fields `allow` and `publish` require.

    The proxy's environment variables replace the caller's variables of the same names, because the
    sandbox can reach no other proxy.

    :raises CommandError: the request allows both names and addresses, or names a persistent
        namespace whose network does not support published ports or is not private.
    :raises NamespaceError: no persistent namespace has the requested name.
    """
    ranges = tuple(rule for rule in request.allow if hasattr(rule, "condition"))
    if ranges and len(ranges) < len(request.allow):
        raise CommandError(
            "--allow has names, which need a proxy, and addresses, which need a private network",
            step="network",
            remedy="allow only names, or only addresses",
        )
    if ranges:
        request = replace(request, network="private", allow=(), ranges=ranges)
    is_kept = isinstance(request.kept, str) and (request.network == "private" or request.publish)
    if is_kept and _joins_private(request, str(request.kept)):
        return replace(request, network=JOINED)
    if request.ranges:
        return request
    if not request.allow:
        is_alone = request.publish and request.network == "none"
        return replace(request, network=LOOPBACK) if is_alone else request
    return replace(request, network=NAMES, env={**request.env, **proxy_variables()})


def check_joined(network: str, known: NamedNamespace) -> None:
    """Check that the namespace `known` still has the private network that a sandbox joins.

    Since :func:`with_network` checked the network, another namespace may have got the name.

    :raises CommandError: the namespace has no private network.
    """
    if network == JOINED and known.network != "private":
        raise CommandError(f"the namespace {known.name} has no private network", step="network")


def proxy_variables() -> Mapping[str, str]:
    """Return the environment variables that contain the address of the sandbox's proxy."""
    proxy = f"http://127.0.0.1:{PROXY_PORT}"
    own = "localhost,127.0.0.1,::1"
    # Set each variable in upper and lower case, because some programs read only one of them: curl
    # reads http_proxy and ignores HTTP_PROXY.
    upper = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": own}
    return {**upper, **{name.lower(): value for name, value in upper.items()}}


def options_of(request: Request) -> tuple[str, ...]:
    """Return the options with which usernsctl-network creates the network of a request.

    :raises RunscError: a program that the network needs is missing (causes ``pasta-missing``,
        ``nft-missing``).
    """
    options = []
    if request.network == "private":
        options += _private_options()
        options += [f"--allow={rule.condition}" for rule in request.ranges]
    for port in request.publish:
        ports = f"{port.outside}:{port.inside}{port.suffix}"
        options.append(f"--publish={port.address}/{ports}")
    return (*options, *([_LISTEN] if request.network == NAMES else []))


def _private_options() -> list[str]:
    return [f"--pasta={_find('pasta')}", f"--nft={_find('nft')}"]


def private_command() -> list[str]:
    """Return the arguments with which usernsctl-exec creates a namespace with a private network.

    :raises RunscError: a program that the network needs is missing.
    """
    program = find_program("usernsctl-network", "makes the network of a namespace")
    # "-" takes the place of a command, since the process that holds the namespaces executes none.
    return [NETWORK, program, *_private_options(), "--", "-"]


def _joins_private(request: Request, name: str) -> bool:
    """Return whether a sandbox joins the private network of the persistent namespace `name`.

    :raises NamespaceError: no persistent namespace has this name.
    :raises CommandError: the request publishes ports, but the namespace has its own network; or the
        request needs a private network, but the namespace has a network that is not private.
    """
    # Import the module here, because few sandboxes join persistent namespaces.
    from usernsctl.namespaces.named import find_named

    known = find_named(name)
    if request.publish and "net" in known.namespaces:
        raise CommandError(
            f"--publish: the network of the namespace {name} has no published ports",
            step="network",
            remedy="publish ports of a sandbox with a network of its own: omit --in",
        )
    if request.network == "private" and "net" in known.namespaces and not known.network:
        raise CommandError(
            f"--network private: the namespace {name} was created with --net, not --net private",
            step="network",
            remedy="usernsctl ns create NAME --net private    # and give --in NAME; or omit --in",
        )
    return known.network == "private" and request.network == "private" and not request.ranges


def _find(name: str) -> str:
    for directory in PROGRAMS[name]:
        path = os.path.join(directory, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise RunscError(
        f"--network private needs {name}, which is not installed",
        step="network",
        cause=f"{name}-missing",
    )


def with_handover(words: Sequence[str], handover: int) -> list[str]:
    """Replace the placeholder FD in `words` by `handover`, the descriptor of the proxy's socket.

    :param words: a command line with the path and the options of usernsctl-network.
    """
    return [_LISTEN.replace("FD", str(handover)) if word == _LISTEN else word for word in words]


def hand_over(
    words: Sequence[str],
    proxy: ProxyProcess,
    fds: list[int],
    above: contextlib.ExitStack,
    timeout: float | None,
) -> list[str]:
    """Wait until `proxy` is ready; return `words` with the descriptor of the proxy's Unix socket.

    :param words: as for :func:`with_handover`.
    :param fds: the descriptors that usernsctl-network inherits. This function adds the descriptor
        of the socket.
    :param above: the exit stack that closes duplicates of sockets. A socket with the descriptor 0,
        1 or 2 must be duplicated, because standard streams get these numbers.
    :param timeout: the timeout, in seconds, or ``None``.
    :raises TimeoutExpired: the proxy was not ready in `timeout` seconds.
    :raises CommandError: the proxy did not start.
    """
    proxy.wait_ready(timeout)
    fds.append(above_stdio(proxy.handover.fileno(), above))
    return with_handover(words, fds[-1])


def words_for(network: Sequence[str], programs: str) -> list[str]:
    """Return the command that creates a sandbox's network and then executes the argv that follows.

    :param network: the path and the options of usernsctl-network; empty if the sandbox does not
        need that program.
    :param programs: the directory of usernsctl-network in the sandbox's mount namespace.
    """
    if not network:
        return []
    program, *options = network
    return [NETWORK, f"{programs}/{os.path.basename(program)}", *options, "--"]


def open_resolver() -> PathDescriptor:
    """Open the file that replaces /etc/resolv.conf in a private network."""
    return open_path(_FILES[family_of_name_server()])


def family_of_name_server() -> str:
    """Return the IP version of the host's name server that a private network uses.

    :returns: ``"4"`` if a name server has an IPv4 address or the host has no name server, else
        ``"6"``.
    """
    text = ""
    with contextlib.suppress(OSError), open(_RESOLVER, errors="replace") as file:
        text = file.read(_RESOLVER_BYTES)
    lines = (line.split() for line in text.split("\n"))
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return "6" if servers and all(":" in server for server in servers) else "4"
