"""Start commands while an attacker runs: ``caller.py KIND ROUNDS ATTACKER DIRECTORY``.

This process, the victim, has a marker in its memory, a descriptor of a file, and a variable in its
environment. Commands inherit none of these items. The victim prints each item that the attacker has
obtained, one per line, and then the number of processes that the attacker has inspected.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import usernsctl as un
from usernsctl import _core
from usernsctl._core.values import program_path
from usernsctl.namespaces.named import remove_named

KIND, ROUNDS, ATTACKER, DIRECTORY = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
MARKER = ctypes.create_string_buffer(os.urandom(32), 32)
# Inheritable descriptor. No command may have the descriptor, neither before nor after execve(2).
SECRET = os.open(f"{DIRECTORY}/secret/file", os.O_RDONLY)
os.set_inheritable(SECRET, True)
TRUE = f"{DIRECTORY}/true"
# Value of an environment variable of the commands. Other users must not be able to read it.
OWN = os.urandom(16).hex()
ENV = {"OWN": OWN}
OTHER = {"user": 1, "group": 1}


def inverted(data: bytes) -> str:
    return bytes(byte ^ 0xFF for byte in data).hex()


def attacker_words(how: str, outside: str = "") -> list[str]:
    file = os.fstat(SECRET)
    return [
        *(ATTACKER, how, str(ctypes.addressof(MARKER)), inverted(MARKER.raw)),
        *(str(file.st_dev), str(file.st_ino), inverted(os.environb[b"SECRET"]), outside),
        inverted(OWN.encode()),
    ]


@contextlib.contextmanager
def attacked(popen: Callable[..., Any], how: str, outside: str = "", **arguments: Any) -> Any:
    attacker = popen(
        attacker_words(how, outside),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={},
        **arguments,
    )
    assert attacker.stdout.readline() == "ready\n"
    yield
    print(attacker.communicate()[0], end="")
    assert attacker.returncode == 0, attacker.returncode


def again(call: Callable[[], Any]) -> None:
    for _ in range(ROUNDS):
        call()


def kept(idmap: un.IdMap | None = None, **options: Any) -> None:
    """Run commands in a namespace while root of the namespace attacks them.

    A tmpfs hides the secret directory from the attacker, but not from the host.
    """
    time = options.pop("time_namespace", False)
    with un.Namespace.create(idmap, mount=True, time=time) as ns:
        ns.run(["mount", "-t", "tmpfs", "none", f"{DIRECTORY}/secret"], check=True)
        with attacked(ns.popen, "keep", f"{DIRECTORY}/secret/file"):
            again(lambda: ns.run([TRUE], env=ENV, check=True, **options))


def fresh(**options: Any) -> None:
    """Run commands with capabilities; the attacker has the same uid, but no capabilities."""
    with attacked(subprocess.Popen, "drop"):
        again(lambda: un.run([TRUE], env=ENV, check=True, **options))


def stranger(*, inside: bool) -> None:
    """Run commands as root of a namespace while an attacker inspects them.

    :param inside: whether the attacker is root in the namespace. Otherwise, the attacker is the
        host user to whom the namespace's root is mapped.
    """
    idmap = un.IdMap.extents(["0:100000:9"], ["0:100000:9"])
    with un.Namespace.create(idmap) as ns:
        if not inside:
            with attacked(subprocess.Popen, "keep", user=100000, group=100000, extra_groups=[]):
                again(lambda: ns.run([TRUE], env=ENV, check=True))
            return
        command = _core.Command(file=TRUE.encode(), argv=[b"true"], env={b"OWN": OWN.encode()})

        def once() -> None:
            pid, pidfd = _core.spawn(_core.Spawn(command=command, join=ns.target().join))
            os.close(pidfd)
            assert os.waitpid(pid, 0)[1] == 0

        with attacked(ns.popen, "keep"):
            again(once)


def executed() -> None:
    """Let forks of this process execute commands in a namespace, as ``usernsctl ns exec`` does."""
    with un.Namespace.create(mount=True) as ns:
        ns.run(["mount", "-t", "tmpfs", "none", f"{DIRECTORY}/secret"], check=True)

        def once() -> None:
            pid = os.fork()
            if pid == 0:
                try:
                    ns.exec([TRUE], env=ENV)
                finally:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0

        with attacked(ns.popen, "keep", f"{DIRECTORY}/secret/file"):
            again(once)


def entered() -> None:
    """Let this process enter namespaces, as ``usernsctl run`` and usernsctl.enter() do."""
    with attacked(subprocess.Popen, "drop"):

        def once() -> None:
            pid = os.fork()
            if pid == 0:
                try:
                    un.enter(un.IdMap.root(), mount=True)
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0

        again(once)


def named() -> None:
    """Create a named namespace, whose holder has the victim's environment and stays inside."""
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp()

    def once() -> None:
        un.Namespace.open_or_create("attacked").close()
        remove_named("attacked")

    with attacked(subprocess.Popen, "drop"):
        again(once)
    shutil.rmtree(os.environ["XDG_RUNTIME_DIR"])


def prelude(*options: str) -> None:
    """Run commands with usernsctl-exec, which must not pass the secret descriptor to them."""
    with attacked(subprocess.Popen, "drop"):
        command = [program_path("usernsctl-exec"), *options, "--", TRUE]
        again(lambda: subprocess.run(command, env=ENV, check=True, pass_fds=[SECRET]))


def sandbox() -> None:
    """Run commands in a sandbox, while an attacker runs in the SandboxHost's user namespace.

    The attacker is root there, as is a payload that has escaped from gVisor.
    """
    with (
        un.SandboxHost() as host,
        host.start(["sleep", "1000000"]) as box,
        attacked(host.namespace.popen, "look"),
    ):
        again(lambda: box.run(["true"], check=True))


def unguarded() -> None:
    """Enter a namespace without protection, to show that the attacks can succeed."""
    with un.Namespace.create(mount=True) as ns:
        ns.run(["mount", "-t", "tmpfs", "none", f"{DIRECTORY}/secret"], check=True)
        with attacked(ns.popen, "keep", f"{DIRECTORY}/secret/file"):
            for _ in range(ROUNDS):
                pid = os.fork()
                if pid == 0:
                    libc = ctypes.CDLL(None)
                    ok = libc.setns(ns.fileno(), 0) == 0
                    libc.usleep(20000)
                    os._exit(not ok)
                assert os.waitpid(pid, 0)[1] == 0


# Map of the ids 0 to 99 to themselves, for root of the host or of a namespace with many ids.
SEVERAL = un.IdMap.extents(["0:0:100"], ["0:0:100"])
AUTO = SEVERAL if os.geteuid() == 0 else un.IdMap.auto()
KINDS: dict[str, Callable[[], None]] = {
    "kept": kept,
    "kept-pid": lambda: kept(pid=True),
    "kept-init": lambda: kept(pid=True, init=True),
    "kept-time": lambda: kept(time_namespace=True),
    "kept-new-time": lambda: kept(time=True),
    "kept-other-ids": lambda: kept(AUTO, **OTHER),
    "fresh": fresh,
    "fresh-pid": lambda: fresh(pid=True, mount=True),
    "fresh-init": lambda: fresh(pid=True, init=True),
    "fresh-time": lambda: fresh(time=True),
    "fresh-several": lambda: fresh(idmap=SEVERAL),
    "fresh-newuidmap": lambda: fresh(idmap=un.IdMap.auto()),
    "stranger": lambda: stranger(inside=False),
    "stranger-inside": lambda: stranger(inside=True),
    "exec": executed,
    "enter": entered,
    "named": named,
    "prelude": lambda: prelude("-r"),
    "prelude-fork": lambda: prelude("-r", "-f"),
    "prelude-init": lambda: prelude("-r", "--init"),
    "prelude-newuidmap": lambda: prelude("-r", "--map-auto"),
    "sandbox": sandbox,
    "unguarded": unguarded,
}

KINDS[KIND]()
