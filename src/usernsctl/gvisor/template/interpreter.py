"""The program that a Python template runs: it imports modules, then waits for a user's program.

The interpreter receives the source of this module, and of bigframe (usernsctl's module that runs
Python programs), as the argument of ``-c``. This module imports no other module of usernsctl, since
the interpreter may be another version of Python.

Descriptor 0 is a socket to the host. The interpreter sends a JSON message when it has imported all
modules, or when an error has occurred. After a restore, the host sends four descriptors: the
standard streams of the user's program, and a file that contains the program's arguments,
environment and working directory in JSON.
"""

from __future__ import annotations

import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from socket import socket
    from types import ModuleType, TracebackType
    from typing import Any, NoReturn

# The number of descriptors that come with the message from the host.
_FDS = 4
# The size of the buffer for the message from the host, in bytes.
_MESSAGE_BYTES = 16

# The maximum number of file names in the message to the host.
_FILES_MAX = 1000

_SOCKET = 0


def serve(bigframe_text: str, preload: Iterable[str], code: str | None) -> ModuleType:
    """Import modules, wait for a restore, and fork.

    Return only in the child, with the module bigframe, which runs the user's program.
    """
    import gc
    import json
    import socket

    control = socket.socket(fileno=os.dup(_SOCKET))
    bigframe = _module("usernsctl_bigframe", bigframe_text)
    hello = _load(preload, code)
    # Freeze all objects, so that the garbage collector skips them. The collector would write to
    # their pages, and each page would be copied after a fork.
    gc.collect()
    gc.freeze()
    if "error" not in hello:
        hello.update(threads=_threads(), sockets=_sockets({_SOCKET, control.fileno()}))
        hello.update(files=_files()[:_FILES_MAX])
    control.send(json.dumps(hello).encode())

    fds = _receive(control)
    with open(fds.pop(), "rb") as file:
        wanted = json.loads(file.read())
    _start(control, wanted, fds)
    _forget_our_text()
    _expect_preloaded()
    sys.argv[:] = ["bigframe", *_arguments(wanted["args"])]
    return bigframe


def _forget_our_text() -> None:
    """Clear the cached source lines of this module, which has the file name ``<string>``.

    The user's program may have the same file name. Without this call, tracebacks of the program
    would quote the lines of this module.
    """
    import linecache

    linecache.clearcache()
    getattr(linecache, "_interactive_cache", {}).clear()


def _expect_preloaded() -> None:
    """Suppress the warning of ``python -m`` that a module has already been imported."""
    import warnings

    message = ".* found in sys.modules after import of package"
    warnings.filterwarnings("ignore", message, RuntimeWarning, "runpy")


def _module(name: str, text: str) -> ModuleType:
    module = type(sys)(name)
    exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    return module


def _load(preload: Iterable[str], code: str | None) -> dict[str, Any]:
    """Import modules and run code; return {}, or {"error": TEXT} if an exception was raised.

    TEXT is the last line of the traceback, or the last 1000 characters of that line.
    """
    import importlib
    import traceback

    try:
        for name in preload:
            importlib.import_module(name)
        if code is not None:
            exec(compile(code, "<template>", "exec", dont_inherit=True), {"__name__": "template"})  # noqa: S102
    except BaseException:
        return {"error": traceback.format_exc().strip().rpartition("\n")[2][-1000:]}
    # A template may have only one thread. Fork once, because libraries that use pthread_atfork(3),
    # such as OpenBLAS, stop their threads at a fork.
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        os._exit(0)
    # If the code ignores SIGCHLD, waitpid(2) fails, because the kernel reaps the child (wait(2)).
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)
    return {}


def _threads() -> list[str]:
    """Return the names of all threads except the current thread."""
    import threading

    known: dict[int | None, str] = {one.native_id: one.name for one in threading.enumerate()}
    others = {int(name) for name in os.listdir("/proc/self/task")} - {threading.get_native_id()}
    return [known.get(one, "a thread that is not Python's") for one in sorted(others)]


def _sockets(ours: set[int]) -> list[str]:
    """Return descriptions of all open sockets except the descriptors in `ours`."""
    import socket

    found = []
    for fd in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        try:
            is_socket = os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
            if not is_socket or fd in ours:
                continue
            with socket.socket(fileno=os.dup(fd)) as one:
                found.append(f"descriptor {fd}, {one.family.name} {one.getsockname()!r}")
        except (OSError, AttributeError):
            continue
    return found


def _files() -> list[str]:
    """Return the paths of the files that this process maps, and the absolute paths in sys.path."""
    mapped = set()
    with open("/proc/self/maps", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(None, 5)
            if len(fields) == 6 and fields[5].startswith("/"):
                mapped.add(fields[5])
    return sorted(mapped) + [path for path in sys.path if path.startswith("/")]


def _receive(control: socket) -> list[int]:
    import array
    import socket

    fds = array.array("i")
    room = socket.CMSG_LEN(_FDS * fds.itemsize)
    data, parts, _, _ = control.recvmsg(_MESSAGE_BYTES, room)
    if not data:
        # The host has closed the connection without starting a program.
        os._exit(0)
    for level, kind, content in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content)
    return list(fds)


def _start(control: socket, wanted: dict[str, Any], fds: list[int]) -> None:
    """Fork a child for the user's program, and return in the child.

    The parent waits for the child, and exits with the child's exit status.
    """
    import json

    try:
        os.chdir(wanted["cwd"])
    except OSError as error:
        control.send(json.dumps({"errno": error.errno}).encode())
        os._exit(125)
    os.environ.clear()
    os.environ.update(wanted["env"])
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    import signal

    # Reset SIGCHLD: while it is ignored, the exit status of the program would be lost (wait(2)).
    is_ignored = signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    if is_ignored:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        _close_streams()
        every = _block_signals()
        # Send the message after signals were blocked, since the host may send a signal as soon as
        # it has received the message.
        control.send(b"{}")
        control.close()
        _wait(child, every)
    if is_ignored:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control.close()
    _renew()


def _close_streams() -> None:
    """Replace the standard streams of this process by /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)


def _block_signals() -> set[Any]:
    """Block all signals, so that :func:`_wait` can receive them by sigwait(3); return the set."""
    import signal

    every = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, every)
    return every


def _wait(child: int, every: set[Any]) -> NoReturn:
    """Forward signals to the child until the child exits; then exit with its exit status.

    The signals are received with sigwait(3), not by signal handlers: for a signal that arrived just
    before wait(2), Python would run the handler only after the child's exit.
    """
    import signal

    while True:
        _end_with(child)
        number = signal.sigwait(every)
        if number != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)


def _end_with(child: int) -> None:
    """Reap all children that have exited; if `child` is one of them, exit with its exit status."""
    ended = -1
    while ended:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == child:
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _renew() -> None:
    """Seed random number generators again, because each restore begins with the same state."""
    modules = sys.modules
    if "random" in modules:
        modules["random"].seed()
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "ssl" in modules:
        modules["ssl"].RAND_add(os.urandom(64), 64.0)
    if "multiprocessing.process" in modules:
        modules["multiprocessing.process"].current_process().authkey = os.urandom(32)
    for stream, is_line in ((sys.stdout, os.isatty(1)), (sys.stderr, True)):
        # The template's code may have replaced the stream by an object without reconfigure().
        if hasattr(stream, "reconfigure"):
            through = bool(os.environ.get("PYTHONUNBUFFERED"))
            stream.reconfigure(line_buffering=is_line, write_through=through)


def _arguments(args: list[str]) -> list[str]:
    """Return `args` for bigframe, with the path of a console script in place of its name."""
    first = args[0] if args else "-"
    if first[:1] != "-" and "/" not in first and not os.path.exists(first):
        script = os.path.join(os.path.dirname(sys.executable), first)
        if os.path.isfile(script):
            return [script, *args[1:]]
    return args


def without(traceback: TracebackType | None, *ours: object) -> TracebackType | None:
    """Return `traceback` without the leading frames whose globals are in `ours`."""
    while traceback is not None and any(traceback.tb_frame.f_globals is one for one in ours):
        traceback = traceback.tb_next
    return traceback
