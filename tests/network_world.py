"""Virtual network of three network namespaces for tests: a machine, an internet and a sandbox.

- *machine*, the simulated host, has a default route to the internet, resolvers that ask the
  internet's name server, and a public address of its own.
- *internet* has public, private and metadata addresses on its loopback device.
- *sandbox* has only its loopback device.

This file is also the program that creates the namespaces in a new user namespace, and then creates
sockets and starts processes there for the test. A socket stays in the namespace in which it was
created, so the test's own threads can be servers and clients. No packet can leave the virtual
network, because it has no real device.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000

PUBLIC = "93.184.215.14"
OTHER_PUBLIC = "93.184.215.15"
PUBLIC6 = "2606:2800::1"
# Public address of the simulated host.
MACHINE = "93.184.216.200"
# Second address of the simulated host in the same network. A connection of the host to this address
# has MACHINE as its source address.
MACHINE_SECONDARY = "93.184.216.3"
# Addresses in networks whose every address is local to the simulated host (AnyIP).
MACHINE_ANY = "93.184.218.7"
MACHINE_ANY6 = "2606:2802::7"
# Broadcast address of the simulated host's network.
MACHINE_BROADCAST = "93.184.216.255"
NAME_SERVER = "93.184.215.53"
PRIVATE = (
    "10.0.0.5",
    "100.64.0.5",
    "169.254.169.254",
    "172.16.0.5",
    "192.168.0.5",
    "168.63.129.16",
)
PRIVATE6 = ("fd00:ec2::254", "64:ff9b::7f00:1")

_SETUP = f"""
machine link set lo up
internet link set lo up
sandbox link set lo up
machine link add wan type veth peer name inside
machine address add 93.184.216.1/24 dev wan
machine address add {MACHINE}/32 dev lo
machine address add {MACHINE_SECONDARY}/24 dev wan
machine address add 2606:2801::2/64 dev wan nodad
machine link set wan up
internet address add 93.184.216.2/24 dev inside
internet address add 2606:2801::1/64 dev inside nodad
internet link set inside up
machine route add default via 93.184.216.2
machine route add default via 2606:2801::1
machine route add local 93.184.218.0/24 dev lo
machine route add local 2606:2802::/64 dev lo
"""


class World:
    """Client of the helper program that creates and serves the virtual network."""

    def __init__(self, directory: Path) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._program = subprocess.Popen(
                ["unshare", "-Urnm", sys.executable, __file__, str(theirs.fileno()), directory],
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        self._ours.close()
        self._program.wait(60)

    def _ask(self, fds: Sequence[int] = (), **request: Any) -> tuple[dict[str, Any], list[int]]:
        with self._lock:
            socket.send_fds(self._ours, [json.dumps(request).encode()], list(fds))
            text, received, _, _ = socket.recv_fds(self._ours, 65536, 1)
        answer = json.loads(text)
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return answer, received

    def listen(self, where: str, host: str, port: int, *, backlog: int = 128) -> socket.socket:
        """Return a listening socket in the namespace `where`."""
        _, (fd,) = self._ask(op="listen", where=where, to=[host, port], backlog=backlog)
        return socket.socket(fileno=fd)

    def bind(self, where: str, host: str, port: int) -> socket.socket:
        """Return a bound datagram socket in the namespace `where`."""
        _, (fd,) = self._ask(op="bind", where=where, to=[host, port])
        return socket.socket(fileno=fd)

    def connect(self, where: str, host: str, port: int) -> socket.socket:
        """Return a connected socket in the namespace `where`.

        :raises OSError: the connection failed.
        """
        _, (fd,) = self._ask(op="connect", where=where, to=[host, port])
        return socket.socket(fileno=fd)

    def start(
        self, where: str, command: Sequence[str | Path], fds: Sequence[int], **env: str
    ) -> int:
        """Start a process in the network namespace `where`; return its pid.

        :param command: argv, in which ``{N}`` stands for the number that the descriptor
            ``fds[N]`` has in the process.
        :param fds: descriptors for the process. The first three become standard input, output and
            error.
        """
        answer, _ = self._ask(fds, op="start", where=where, command=[*map(str, command)], env=env)
        pid: int = answer["pid"]
        return pid

    def wait(self, pid: int) -> int:
        """Wait for a process; return its exit status, or -N if signal N killed it."""
        answer, _ = self._ask(op="wait", pid=pid)
        code: int = answer["code"]
        return code

    def run(self, where: str, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace `where`; return the result, with the output as text."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(os.memfd_create(name), "w+b")) for name in "ioe"]
            pid = self.start(where, command, [file.fileno() for file in files], **env)
            code = self.wait(pid)
            texts = []
            for file in files[1:]:
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        return subprocess.CompletedProcess(command, code, *texts)


class NameServer:
    """DNS server of the internet, in a thread of the test.

    :ivar names: the addresses of each name, or a function that returns them.
    :ivar asked: the names in the received queries, in order.
    """

    def __init__(self, world: World) -> None:
        self.names: dict[str, Sequence[str] | Callable[[], Sequence[str]]] = {}
        self.asked: list[str] = []
        self._socket = world.bind("internet", NAME_SERVER, 53)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        # Wake the thread's recvfrom(), which then returns 0 bytes. shutdown(2) does this
        # although it reports an error for an unconnected datagram socket.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if len(query) < 12:
                return
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while size := query[at]:
            labels.append(query[at + 1 : at + 1 + size].decode())
            at += 1 + size
        name = ".".join(labels)
        kind = int.from_bytes(query[at + 1 : at + 3])
        self.asked.append(name)
        family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
        known = self.names.get(name)
        found = known() if callable(known) else known or ()
        records = [
            socket.inet_pton(family, address)
            for address in found
            if family is not None and (":" in address) == (family == socket.AF_INET6)
        ]
        flags = 0x8180 if known is not None else 0x8183
        head = query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
        body = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(data)) + data for data in records
        )
        return head + query[12 : at + 5] + body


@contextlib.contextmanager
def made(directory: Path, names: Mapping[str, Sequence[str]] | None = None) -> Iterator[World]:
    """Create a virtual network; yield its client.

    The files that the simulated host sees in /etc are written to `directory`.

    :param names: addresses by name for the internet's name server, or None if there is no name
        server.
    """
    with contextlib.closing(World(directory)) as world:
        if names is None:
            yield world
            return
        with contextlib.closing(NameServer(world)) as server:
            server.names.update(names)
            yield world


class _Program:
    """Helper program in the user namespace, which serves the requests of :class:`World`."""

    def __init__(self, directory: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._namespaces: dict[str, int] = {}
        for name in ("internet", "sandbox", "machine"):
            if self._libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            self._namespaces[name] = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._enter("internet")
        internet = subprocess.Popen(["sleep", "60"])
        for line in _SETUP.strip().splitlines():
            where, _, words = line.partition(" ")
            if words.endswith("peer name inside"):
                words += f" netns {internet.pid}"
            self._ip(where, *words.split())
        internet.kill()
        internet.wait()
        for address in (PUBLIC, OTHER_PUBLIC, NAME_SERVER, *PRIVATE):
            self._ip("internet", "address", "add", f"{address}/32", "dev", "lo")
        for address in (PUBLIC6, *PRIVATE6):
            self._ip("internet", "address", "add", f"{address}/128", "dev", "lo", "nodad")
        files = {
            "resolv.conf": f"nameserver {NAME_SERVER}\nsearch search.example\noptions ndots:5\n",
            "nsswitch.conf": "hosts: files dns\n",
            "hosts": "127.0.0.1 localhost\n127.0.0.1 hosts.example\n",
        }
        for name, text in files.items():
            path = directory / name
            path.write_text(text)
            subprocess.run(["mount", "--bind", path, f"/etc/{name}"], check=True)
        # Hide the sockets in /run: libc would use them to query the real host's resolver or cache.
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)

    def _enter(self, where: str) -> None:
        if self._libc.setns(self._namespaces[where], CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def _ip(self, where: str, *words: str) -> None:
        self._enter(where)
        subprocess.run(["ip", *words], check=True)

    def serve(self, channel: socket.socket) -> None:
        while True:
            text, fds, _, _ = socket.recv_fds(channel, 65536, 16)
            if not text:
                break
            reply: list[int] = []
            request = json.loads(text)
            try:
                if "where" in request:
                    self._enter(request["where"])
                answer, reply = getattr(self, f"_{request.pop('op')}")(fds, **request)
            except OSError as error:
                answer = {"errno": error.errno}
            socket.send_fds(channel, [json.dumps(answer).encode()], reply)
            for fd in (*fds, *reply):
                os.close(fd)
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _socket(self, kind: int, host: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock

    def _listen(
        self, _fds: list[int], where: str, to: list[Any], backlog: int
    ) -> tuple[dict[str, Any], list[int]]:
        with self._socket(socket.SOCK_STREAM, to[0]) as sock:
            sock.bind(tuple(to))
            sock.listen(backlog)
            return {}, [sock.detach()]

    def _bind(self, _fds: list[int], where: str, to: list[Any]) -> tuple[dict[str, Any], list[int]]:
        with self._socket(socket.SOCK_DGRAM, to[0]) as sock:
            sock.bind(tuple(to))
            return {}, [sock.detach()]

    def _connect(
        self, _fds: list[int], where: str, to: list[Any]
    ) -> tuple[dict[str, Any], list[int]]:
        with self._socket(socket.SOCK_STREAM, to[0]) as sock:
            sock.connect(tuple(to))
            return {}, [sock.detach()]

    def _start(
        self, fds: list[int], where: str, command: list[str], env: dict[str, str]
    ) -> tuple[dict[str, Any], list[int]]:
        for number, fd in enumerate(fds):
            command = [word.replace(f"{{{number}}}", str(fd)) for word in command]
        process = subprocess.Popen(
            command,
            stdin=fds[0],
            stdout=fds[1],
            stderr=fds[2],
            pass_fds=fds[3:],
            env={"PATH": os.environ["PATH"], **env},
        )
        self._processes[process.pid] = process
        return {"pid": process.pid}, []

    def _wait(self, _fds: list[int], pid: int) -> tuple[dict[str, Any], list[int]]:
        return {"code": self._processes.pop(pid).wait()}, []


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _channel:
        _Program(Path(sys.argv[2])).serve(_channel)
