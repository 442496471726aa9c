"""Tests of usernsctl.bigframe, which runs programs as Python does, but in a large stack frame."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import capture

from usernsctl import bigframe

CROSSINGS = Path(__file__).parents[1] / "crossings.py"

# Source texts of programs, by file name in the working directory.
FILES = {
    "tell.py": """
import os, sys
here = os.getcwd()
print(sys.argv, [entry.replace(here, "HERE") for entry in sys.path])
for name, value in globals().copy().items():
    if name not in ("__builtins__", "__loader__", "__spec__"):
        print(name, repr(value).replace(here, "HERE") if name[0] == "_" else "")
print(type(__builtins__), getattr(__loader__, "name", __loader__), getattr(__spec__, "name", None))
print(sys.modules["__main__"].__dict__ is globals())
""",
    "fail.py": "def divide(by):\n    return 1 / by\n\n\ndivide(0)\n",
    "cause.py": "try:\n    1 / 0\nexcept ArithmeticError as it:\n    raise OSError(1) from it\n",
    "broken.py": "x = (\n",
    "exit.py": "import sys\nsys.exit(3)\n",
    "words.py": "raise SystemExit('some words')\n",
    "interrupt.py": "raise KeyboardInterrupt\n",
    "killed.py": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "handler.py": """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: print("caught"))
os.kill(os.getpid(), signal.SIGUSR1)
""",
    "hook.py": """
import sys, traceback
def hook(kind, error, tb):
    print(traceback.extract_tb(tb))
sys.excepthook = hook
raise ValueError
""",
    "future.py": "def f(x: 1 + 1): pass\nprint(f.__annotations__)\n",
    "latin.py": "# coding: latin-1\nprint(ascii('\u00e9'))\n",
    "warn.py": """
import warnings
warnings.warn("old", DeprecationWarning)
print("x" is "y")
""",
    "end.py": """
import atexit, sys, threading
class Last:
    def __del__(self):
        print("deleted")
last = Last()
atexit.register(lambda: print("atexit", sys.modules["__main__"].last is last))
def late():
    threading.main_thread().join()
    print("thread", last is not None)
threading.Thread(target=late).start()
""",
    "pickled.py": """
import pickle
class Thing:
    pass
data = pickle.dumps(Thing())
print(data)
import __main__
print(type(pickle.loads(data)) is Thing, __main__.Thing is Thing)
""",
    "spawn.py": """
import multiprocessing, sys
class Thing:
    def __init__(self, number):
        self.number = number
def double(thing):
    return Thing(2 * thing.number), __name__, sys.argv
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            (thing, name, argv), = pool.map(double, [Thing(21)])
            print(type(thing) is Thing, thing.number, name, argv)
""",
    "deep.py": """
def deep(n):
    return 0 if n == 0 else 1 + deep(n - 1)
print(deep(900))
try:
    deep(10_000)
except RecursionError as error:
    print(error)
""",
    "loop.py": "import asyncio\nprint(asyncio.run(asyncio.sleep(0, 'slept')))\n",
    "read.py": "import sys\nprint(sys.stdin.read(), input.__name__)\n",
    "unused.py": "import sys\nprint('runpy' in sys.modules, 'typing' in sys.modules)\n",
    "package/__init__.py": "import sys\nprint('package', sys.argv)\n",
    "package/__main__.py": "from . import part\nfrom .part import name\nprint(name, part)\n",
    "package/part.py": "name = __name__\nif __name__ == '__main__':\n    from . import other\n",
    "package/other.py": "print('other', __package__)\n",
    "package/fail.py": "1 / 0\n",
    "directory/__main__.py": "import near, sys\nprint(sys.argv, __spec__.name, near.number)\n",
    "directory/near.py": "number = 1\n",
    "empty/nothing.txt": "",
    # A console script without a suffix, in the form that pip generates.
    "console-script": "#!/usr/bin/python\nimport sys\nfrom directory.near import number\n"
    "if __name__ == '__main__':\n    sys.exit(number)\n",
}

PROGRAMS = [
    *([name] for name in FILES if "/" not in name),
    ["./tell.py", "a", "-m", "--", ""],
    ["sub/../tell.py"],
    ["sub/link.py", "-x"],
    ["compiled.pyc"],
    ["directory", "-c"],
    ["./directory/"],
    ["archive.pyz", "x"],
    ["empty"],
    ["package/part.py"],
    ["missing.py"],
    [""],
    ["-m", "tell", "a"],
    ["-mtell", "-m", "b"],
    ["-m", "package"],
    ["-m", "package.part", "x"],
    ["-m", "package.fail"],
    ["-m", "missing"],
    ["-m", "spawn", "1"],
    ["-m", "pickled"],
    ["-m", "interrupt"],
    ["-m", "exit"],
    ["-c", FILES["tell.py"], "x", "-c"],
    ["-cimport sys; sys.exit(len(sys.argv))", "a"],
    ["-c", FILES["pickled.py"]],
]


@pytest.fixture
def launcher(tmp_path: Path) -> list[str]:
    """Copy bigframe.py into a new directory; return the arguments that run the copy."""
    copy = tmp_path / "launcher" / "bigframe.py"
    copy.parent.mkdir()
    copy.write_bytes(Path(bigframe.__file__).read_bytes())
    # Put a module near.py beside bigframe.py. Its import would show that the directory of
    # bigframe.py is searched.
    (copy.parent / "near.py").write_text("raise AssertionError\n")
    return [str(copy)]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    here = tmp_path / "programs"
    for name, text in FILES.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text, "latin-1" if name == "latin.py" else "utf-8")
    (here / "sub").mkdir()
    (here / "sub" / "link.py").symlink_to("../tell.py")
    zipapp.create_archive(here / "directory", here / "archive.pyz")
    code = "import py_compile; py_compile.compile('tell.py', 'compiled.pyc')"
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True)
    return here


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(programs: Path) -> Run:
    def python(*words: str, input: str = "") -> tuple[int, str, str]:
        done = capture(
            [sys.executable, "-W", "default", *words],
            cwd=programs,
            input=input,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        return done.returncode, done.stdout, done.stderr

    return python


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
@pytest.mark.sampled
def test_program_behaves_as_in_plain_python(
    run: Run, launcher: list[str], program: list[str]
) -> None:
    assert run(*launcher, *program) == run(*program)


@pytest.mark.parametrize(
    "program",
    [
        *([name] for name in ("tell.py", "fail.py", "broken.py", "exit.py", "words.py", "warn.py")),
        *([name] for name in ("interrupt.py", "killed.py", "end.py", "pickled.py", "spawn.py")),
        ["directory"],
        ["missing.py"],
        ["-m", "package", "x"],
        ["-m", "package.fail"],
        ["-m", "missing"],
        ["-c", FILES["tell.py"], "x"],
    ],
    ids=" ".join,
)
def test_bigframe_as_module_adds_only_runpy_to_tracebacks(run: Run, program: list[str]) -> None:
    status, out, err = run("-m", "usernsctl.bigframe", *program)
    plain = run(*program)
    assert (status, out) == plain[:2]
    assert without_runpy(err) == without_runpy(plain[2])


def without_runpy(text: str) -> list[str]:
    """Return the lines of a traceback without those of runpy.

    The line "Traceback ..." is removed, too, because a SyntaxError without frames has no such line.
    """
    lines = [line for line in text.splitlines() if "<frozen runpy>" not in line]
    return [line for line in lines if line != "Traceback (most recent call last):"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tell.py", []),
        ("tell.py", ["-", "a"]),
        *((name, ["-"]) for name in ("fail.py", "pickled.py", "exit.py", "broken.py")),
    ],
)
def test_program_is_read_from_standard_input(
    run: Run, launcher: list[str], name: str, words: list[str]
) -> None:
    assert run(*launcher, *words, input=FILES[name]) == run(*words, input=FILES[name])


@pytest.mark.parametrize(
    "options", [["-P"], ["-I"], ["-S"], ["-O"], ["-X", "utf8=0"], ["-W", "error"]]
)
@pytest.mark.parametrize("program", [["tell.py"], ["warn.py"], ["-m", "tell"], ["directory"]])
@pytest.mark.sampled
def test_python_options_come_first(
    run: Run, launcher: list[str], options: list[str], program: list[str]
) -> None:
    assert run(*options, *launcher, *program) == run(*options, *program)


def test_inspected_program_keeps_its_names(run: Run, launcher: list[str]) -> None:
    words, typed = ["-i"], "print(divide.__name__, __name__)\n"
    done = run(*words, *launcher, "fail.py", input=typed)
    assert done == run(*words, "fail.py", input=typed)
    assert done[1] == "divide __main__\n"


@pytest.mark.parametrize("words", [["-m"], ["-c"], ["-x"], ["--help"]])
def test_arguments_without_a_program_are_refused(
    run: Run, launcher: list[str], words: list[str]
) -> None:
    status, out, err = run(*launcher, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"{bigframe.USAGE}\nbigframe: {words[0]} ")
    assert len(err.splitlines()) == 2


def test_terminal_as_program_is_refused(launcher: list[str]) -> None:
    controller, terminal = pty.openpty()
    try:
        done = capture([sys.executable, *launcher], stdin=terminal)
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == 2
    assert "standard input is a terminal" in done.stderr


def test_deleted_working_directory_behaves_as_in_plain_python(
    tmp_path: Path, launcher: list[str]
) -> None:
    (tmp_path / "tell.py").write_text("import sys\nprint(sys.argv, __file__, sys.path[0])\n")
    (tmp_path / "gone").mkdir()

    def run(*words: str) -> tuple[int, str, str]:
        script = 'rmdir "$PWD"; exec "$@"'
        (tmp_path / "gone").mkdir(exist_ok=True)
        done = capture(["sh", "-c", script, "sh", sys.executable, *words], cwd=tmp_path / "gone")
        return done.returncode, done.stdout, done.stderr

    for words in ([str(tmp_path / "tell.py")], ["-c", "import sys; print(sys.path[0])"]):
        assert run(*launcher, *words) == run(*words)


def test_no_call_depth_maps_memory(run: Run, launcher: list[str]) -> None:
    plain, ours = run(str(CROSSINGS)), run(*launcher, str(CROSSINGS))
    assert (plain[0], ours) == (0, (0, "0\n", ""))
    # crossings.py counts mmap(2) calls independently; the count must agree with bigframe's own
    # measurement.
    assert (int(plain[1]) > 0) == thrashes(run, launcher)


def thrashes(run: Run, launcher: list[str], *options: str) -> bool:
    code = f"import sys; sys.path.insert(0, {str(Path(launcher[0]).parent)!r})\n"
    status, out, err = run(*options, "-c", code + "import bigframe; print(bigframe.thrashes())")
    assert (status, err) == (0, "")
    return out == "True\n"


def test_program_in_a_big_frame_does_not_thrash(run: Run, launcher: list[str]) -> None:
    assert thrashes(run, launcher, *launcher) is False


def test_thrashing_is_assumed_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(bigframe, "_mapped_pages", refuse)
    assert bigframe.thrashes() is True


@pytest.mark.parametrize("pages", [[5, 9, 5], [5, 9, 9]])
def test_frame_is_big_only_if_chunks_are_unmapped(
    monkeypatch: pytest.MonkeyPatch, pages: list[int]
) -> None:
    found: list[int] = []

    def called(pointers: int, function: Callable[[], int], *arguments: object) -> int | None:
        if not arguments:
            return function()
        found.append(pointers)
        return None

    monkeypatch.setattr(bigframe, "_mapped_pages", iter(pages).__next__)
    monkeypatch.setattr(bigframe, "_call_in_frame", called)
    monkeypatch.setattr(sys, "argv", ["bigframe", "-c", ""])
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    bigframe.main()
    assert found == [bigframe.BIG if pages[1] > pages[2] else 0]
