"""The private network of a sandbox: what usernsctl-network (csrc/programs/network/) needs."""

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

#: The word before the path and the options of usernsctl-network (csrc/programs/shared/shared.h).
NETWORK = "--network"

#: The programs that a private network needs, each with the directories in which it is looked for.
#: The caller's PATH is not used: the programs run as root of the sandbox's namespaces.
PROGRAMS: Mapping[str, Sequence[str]] = {
    "pasta": ("/usr/local/bin", "/usr/bin", "/bin"),
    "nft": ("/usr/local/sbin", "/usr/sbin", "/sbin"),
}

#: The network of a sandbox that reaches allowed names: a loopback device, and a proxy on that.
NAMES = "names"
#: The network of a sandbox that reaches nothing, and whose ports are published.
LOOPBACK = "loopback"
#: The private network of persistent namespaces, when a sandbox joins it.
JOINED = "joined"
#: The networks that usernsctl-network makes.
MADE = ("private", NAMES, LOOPBACK)

#: The port of the proxy for allowed names, on 127.0.0.1 inside.
PROXY_PORT = 3128
# The option of usernsctl-network for the listening socket of the proxy. Until the proxy runs, FD
# stands for the descriptor of the Unix socket over which the proxy gets the listening socket.
_LISTEN = f"--listen={PROXY_PORT}:FD"

_RESOLVER = "/etc/resolv.conf"
# Files that replace /etc/resolv.conf inside. They name the address for which pasta asks the first
# name server of this machine of the same family (csrc/programs/network/network.h).
_FILES = {family: os.path.join(os.path.dirname(__file__), f"resolv.{family}") for family in "46"}

_RESOLVER_BYTES = 1 << 16


def with_network(request: Request) -> Request:
    """Return a request with the network that its allowed names or addresses, and its ports, need.

    The proxy's variables replace those of the caller with the same names: the sandbox reaches no
    other proxy.

    :raises CommandError: the request allows both names and addresses, or names persistent
        namespaces whose network can't have its ports, or can't contain its private network.
    :raises NamespaceError: no persistent namespaces have the name.
    """
    ranges = tuple(rule for rule in request.allow if hasattr(rule, "condition"))
    if ranges and len(ranges) < len(request.allow):
        raise CommandError(
            "--allow has names and addresses: a proxy reaches names, and a private network "
            "addresses, and no sandbox has both",
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
    """Check that namespaces to join have a private network, if the sandbox is to use that.

    Since :func:`with_network`, the name may have been given to other namespaces.

    :raises CommandError: the namespaces have no private network.
    """
    if network == JOINED and known.network != "private":
        raise CommandError(f"the namespace {known.name} has no private network", step="network")


def proxy_variables() -> Mapping[str, str]:
    """Return the variables by which programs find the proxy for allowed names."""
    proxy = f"http://127.0.0.1:{PROXY_PORT}"
    own = "localhost,127.0.0.1,::1"
    # Programs differ in the case of the names. curl reads only the lower case of HTTP_PROXY.
    upper = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": own}
    return {**upper, **{name.lower(): value for name, value in upper.items()}}


def options_of(request: Request) -> tuple[str, ...]:
    """Return the options of usernsctl-network for the network of a request.

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
    """Return the arguments of usernsctl-exec for a private network of persistent namespaces.

    :raises RunscError: a program that the network needs is missing.
    """
    program = find_program("usernsctl-network", "makes the network of a namespace")
    # The command after the network is not used: the holder executes nothing.
    return [NETWORK, program, *_private_options(), "--", "-"]


def _joins_private(request: Request, name: str) -> bool:
    """Return whether a sandbox joins the private network of the namespaces `name`.

    :raises NamespaceError: no namespaces have the name.
    :raises CommandError: the ports would be those of the namespaces instead of this machine, or the
        addresses of this machine, which a private network denies, can't be read there.
    """
    # Imported here, since few sandboxes join namespaces.
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
            f"--network private: the namespace {name} has a network of its own, not a private one",
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
    """Return words with the descriptor of the Unix socket of a running proxy.

    :param words: the path and the options of usernsctl-network, or words that contain them.
    """
    return [_LISTEN.replace("FD", str(handover)) if word == _LISTEN else word for word in words]


def hand_over(
    words: Sequence[str],
    proxy: ProxyProcess,
    fds: list[int],
    above: contextlib.ExitStack,
    timeout: float | None,
) -> list[str]:
    """Wait until a proxy is ready, and return :func:`with_handover` of its Unix socket.

    :param fds: a list to which the descriptor is added that the command has to inherit.
    :param above: closes the duplicate that replaces descriptors 0 to 2.
    :param timeout: the time limit, in seconds, or ``None``.
    :raises TimeoutExpired: the proxy was not ready in `timeout` seconds.
    :raises CommandError: the proxy did not start.
    """
    proxy.wait_ready(timeout)
    fds.append(above_stdio(proxy.handover.fileno(), above))
    return with_handover(words, fds[-1])


def words_for(network: Sequence[str], programs: str) -> list[str]:
    """Return the words before the command line of runsc that make the network of a sandbox.

    :param network: the path and the options of usernsctl-network, or nothing.
    :param programs: the directory of that program inside the sandbox's mount namespace.
    """
    if not network:
        return []
    program, *options = network
    return [NETWORK, f"{programs}/{os.path.basename(program)}", *options, "--"]


def open_resolver() -> PathDescriptor:
    """Open the file that replaces /etc/resolv.conf in a private network."""
    return open_path(_FILES[family_of_name_server()])


def family_of_name_server() -> str:
    """Return the IP version by which a private network reaches a name server of this machine.

    :returns: ``"4"`` if a name server has an IPv4 address, or there is none, else ``"6"``.
    """
    text = ""
    with contextlib.suppress(OSError), open(_RESOLVER, errors="replace") as file:
        text = file.read(_RESOLVER_BYTES)
    lines = (line.split() for line in text.split("\n"))
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return "6" if servers and all(":" in server for server in servers) else "4"
