"""Run a Python program in a frame so big that CPython's data stack does not thrash.

    python -m usernsctl.bigframe [-m MODULE | -c CODE | SCRIPT | -] [ARG...]
    python /path/bigframe.py [-m MODULE | -c CODE | SCRIPT | -] [ARG...]

CPython keeps the frames of a thread in chunks of 16 KiB. Many releases unmap a chunk as soon as its
last frame returns. If a chunk has no room for the frame of a function that a loop calls, each
iteration maps and unmaps a chunk ("thrashes"), which takes 0.1 ms or more in gVisor. A frame of
more than a megabyte gets a chunk of 2 MiB, whose free rest suffices for the program's frames.

This file imports no other module of usernsctl, so that it can be copied alone into an image. It
also works with interpreters that usernsctl itself does not support. docs/bigframe.md describes the
effects on the program.
"""

from __future__ import annotations

import builtins
import os
import sys
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader

# False at run time: the imports for type checkers would take longer than the rest of this program.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn

# The size, in pointers, of the frame in which thrashes() calls functions. CPython rounds the chunk
# of this frame up to a power of two, 128 KiB, which is more than a page on all architectures.
PROBE = 10_000
# The size, in pointers, of the frame in which the program runs. The frame's chunk takes 2 MiB of
# address space. The pages of the frame itself are never touched, so they use no memory.
BIG = 140_000

USAGE = "usage: bigframe [-m MODULE | -c CODE | SCRIPT | -] [ARG...]"


def main() -> None:
    """Run the program that this process's arguments select, as the module ``__main__``.

    :raises SystemExit: the arguments select no program. Exceptions of the program are not caught.
    """
    run, program = _parse(sys.argv[1:])
    if not _safe_path():
        # Python has inserted the directory of this file into sys.path. Remove it, because the
        # program's own directory takes its place.
        del sys.path[0]
    sys.modules["__main__"] = module = type(sys)("__main__")
    # Set the attributes of __main__ that a new module object lacks.
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    module.__dict__.update(__loader__=BuiltinImporter, __builtins__=builtins)
    _call_in_frame(BIG if thrashes() else 0, run, program, module.__dict__)


def thrashes() -> bool:
    """Return whether the interpreter unmaps a chunk of frames as soon as its last frame returns.

    In that case, the process has less memory mapped after a call than during the call.
    """
    try:
        # Measure during the second call, because the interpreter keeps some memory that the first
        # call has allocated.
        _call_in_frame(PROBE, _mapped_pages)
        within: int = _call_in_frame(PROBE, _mapped_pages)
        return within > _mapped_pages()
    except OSError:
        # Return true if /proc can't be read, because a big frame does no harm.
        return True


def _mapped_pages() -> int:
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(descriptor, 4096).split()[0])
    finally:
        os.close(descriptor)


def _call_in_frame(pointers: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` from a Python frame with the size of `pointers` pointers or more."""

    def call() -> Any:
        return function(*arguments)

    code = call.__code__
    call.__code__ = code.replace(co_stacksize=max(pointers, code.co_stacksize))
    return call()


def _parse(words: list[str]) -> tuple[Callable[[str, dict[str, Any]], None], str]:
    """Parse the arguments; return a function that runs the program, and the program's name.

    The program's own arguments are stored in sys.argv.
    """
    first, *rest = words or ["-"]
    option, value = first[:2], first[2:]
    if option in ("-c", "-m"):
        if not value and not rest:
            _refuse(f"{option} needs an argument")
        value = value or rest.pop(0)
        sys.argv[:] = [option, *rest]
        return (_command if option == "-c" else _module), value
    sys.argv[:] = words or [""]
    if first == "-":
        if sys.stdin is not None and sys.stdin.isatty():
            _refuse("standard input is a terminal, so there is no program to read")
        return _standard_input, "<stdin>"
    if first.startswith("-"):
        _refuse(f"{first} is not an option of bigframe; Python's options go before bigframe")
    return _script, first


def _refuse(reason: str) -> NoReturn:
    print(f"{USAGE}\nbigframe: {reason}", file=sys.stderr)
    sys.exit(2)


def _command(source: str, namespace: dict[str, Any]) -> None:
    _add_path("")
    exec(compile(source, "<string>", "exec", dont_inherit=True), namespace)  # noqa: S102


def _standard_input(name: str, namespace: dict[str, Any]) -> None:
    _add_path("")
    source = sys.stdin.buffer.read() if sys.stdin else b""
    namespace.update(__file__=name, __cached__=None)
    exec(compile(source, name, "exec", dont_inherit=True), namespace)  # noqa: S102


def _module(name: str, _: dict[str, Any]) -> None:
    import runpy

    _add_path(_absolute(""))
    # Python implements -m with this private function of runpy, too.
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _script(path: str, namespace: dict[str, Any]) -> None:
    """Run a file of source code or bytecode, or the __main__.py of a directory or archive."""
    absolute = _absolute(path)
    if _holds_modules(absolute):
        import runpy

        sys.path.insert(0, absolute)
        return runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined, no-any-return]
    _add_path(os.path.dirname(os.path.realpath(path)))
    try:
        loader, code = _load(absolute)
    except OSError as error:
        reason = f"can't open file {absolute!r}: [Errno {error.errno}] {error.strerror}"
        print(f"{sys.executable}: {reason}", file=sys.stderr)
        sys.exit(2)
    namespace.update(__file__=absolute, __cached__=None, __loader__=loader)
    exec(code, namespace)  # noqa: S102


def _holds_modules(path: str) -> bool:
    for hook in sys.path_hooks:
        try:
            hook(path)
        except ImportError:
            continue
        return True
    return False


def _load(path: str) -> tuple[SourceFileLoader | SourcelessFileLoader, Any]:
    if path.endswith(".pyc"):
        bytecode = SourcelessFileLoader("__main__", path)
        return bytecode, bytecode.get_code("__main__")
    with open(path, "rb") as file:
        source = file.read()
    loader = SourceFileLoader("__main__", path)
    return loader, compile(source, path, "exec", dont_inherit=True)


def _absolute(path: str) -> str:
    """Make a path absolute, but keep ``.`` and ``..``, as Python does for ``__file__``."""
    try:
        return os.path.join(os.getcwd(), path) if path else os.getcwd()
    except FileNotFoundError:
        return path


def _add_path(entry: str) -> None:
    if not _safe_path():
        sys.path.insert(0, entry)


def _safe_path() -> bool:
    """Return whether -P or -I keeps the program's directory out of sys.path."""
    return bool(getattr(sys.flags, "safe_path", sys.flags.isolated))


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_globals is globals():
        traceback = traceback.tb_next
    return traceback


if __name__ == "__main__":
    try:
        main()
    except BaseException as _error:
        # Re-raise with a bare `raise`, because `raise _error` would add this frame to the traceback
        # again.
        _error.__traceback__ = _without_ours(_error.__traceback__)
        raise
