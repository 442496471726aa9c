"""Tests of usernsctl.enter and usernsctl.exec.

Each test uses a new Python process, because a process can't leave a namespace that it has entered.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import Any

import pytest
from callers import as_root
from inside import PATIENCE, namespace
from processes import capture

pytestmark = pytest.mark.also_root

PREPARE = """
import json, os, signal, sys, threading
import usernsctl as un

def facts():
    names = ("user", "mnt", "net", "ipc", "uts", "cgroup")
    return {
        "pid": os.getpid(),
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "maps": [open(f"/proc/self/{kind}_map").read().split() for kind in ("uid", "gid")],
        "links": {name: os.readlink(f"/proc/self/ns/{name}") for name in names},
        "descriptors": len(os.listdir("/proc/self/fd")),
    }
"""
UID, GID = os.geteuid(), os.getegid()


def in_python(script: str, *, status: int = 0, pass_fds: tuple[int, ...] = ()) -> str:
    done = capture([sys.executable, "-c", PREPARE + script], timeout=PATIENCE, pass_fds=pass_fds)
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout


def facts(script: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(in_python(script + "\nprint(json.dumps(facts()))"))
    return result


def new_namespaces(links: dict[str, str]) -> set[str]:
    return {name for name, link in links.items() if link != namespace(name)}


def test_entering_moves_this_process() -> None:
    seen = facts("before = os.getpid(); un.enter(un.IdMap.root()); assert os.getpid() == before")
    assert (seen["uid"], seen["gid"]) == (0, 0)
    assert seen["maps"] == [["0", str(UID), "1"], ["0", str(GID), "1"]]
    assert new_namespaces(seen["links"]) == {"user"}


@pytest.mark.parametrize(
    ("argument", "link"),
    [("mount", "mnt"), ("net", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")],
)
def test_further_namespaces_are_new(argument: str, link: str) -> None:
    seen = facts(f"un.enter(un.IdMap.current(), {argument}=True)")
    assert new_namespaces(seen["links"]) == {"user", link}
    assert (seen["uid"], seen["gid"]) == (UID, GID)


@as_root
def test_a_wide_map_is_written_from_outside() -> None:
    seen = facts(
        "fds = facts()['descriptors']\n"
        "un.enter(un.IdMap.extents(['0:100000:9'], ['0:200000:9']), uts=True)\n"
        "assert facts()['descriptors'] == fds\n"
        "try:\n"
        "    os.waitpid(-1, 0)\n"
        "except ChildProcessError:\n"
        "    pass\n"
        "else:\n"
        "    sys.exit('a child was left')\n"
    )
    assert seen["maps"] == [["0", "100000", "9"], ["0", "200000", "9"]]
    assert (seen["uid"], seen["gid"]) == (0, 0)
    assert new_namespaces(seen["links"]) == {"user", "uts"}


def test_entering_twice_nests() -> None:
    seen = facts("un.enter(un.IdMap.root()); un.enter(un.IdMap(map_user=5, map_group=6))")
    assert seen["maps"] == [["5", "0", "1"], ["6", "0", "1"]]


# Skip with ThreadSanitizer, which adds a thread: the error message must contain "2 threads".
@pytest.mark.unsanitized
@pytest.mark.parametrize("call", ["un.enter(un.IdMap.root())", "un.exec(['echo', 'ran'])"])
def test_enter_and_exec_refuse_a_process_with_threads(call: str) -> None:
    output = in_python(
        "stop = threading.Event()\n"
        "thread = threading.Thread(target=stop.wait)\n"
        "thread.start()\n"
        "before = facts()\n"
        "try:\n"
        f"    {call}\n"
        "except un.NamespaceError as error:\n"
        "    print(error.cause, error.errno, error.step, '2 threads' in str(error))\n"
        "    print(error.remedy)\n"
        "assert facts() == before\n"
        "stop.set()\n"
        "thread.join()\n"
    )
    first, remedy, *_ = output.splitlines()
    assert first == "multithreaded 22 unshare True"
    assert "usernsctl.run" in remedy


def test_exec_becomes_the_command() -> None:
    output = in_python(
        "print(os.getpid(), flush=True)\n"
        "un.exec(['sh', '-c', 'echo $$; id -u; id -g; echo $GIVEN; pwd; cat /proc/self/uid_map'],"
        " cwd='/usr', env={'GIVEN': 'x', 'PATH': os.environ['PATH']})"
    )
    before, after, uid, gid, given, cwd, uid_map = output.splitlines()
    assert before == after
    assert (uid, gid, given, cwd) == ("0", "0", "x", "/usr")
    assert uid_map.split() == ["0", str(UID), "1"]


def test_exec_flushes_standard_output_and_error() -> None:
    script = (
        "print('first'); sys.stderr.reconfigure(line_buffering=False, write_through=False)\n"
        "sys.stderr.write('also'); un.exec(['sh', '-c', 'echo; echo second; echo >&2'])"
    )
    done = capture([sys.executable, "-c", PREPARE + script], timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("first\n\nsecond\n", "also\n")


def test_exec_works_without_standard_streams() -> None:
    assert in_python("sys.stdout.close(); sys.stderr = None; un.exec(['true'])") == ""


@pytest.mark.parametrize("call", ["un.exec(['true'], pid=True)", "un.enter('root', moutn=True)"])
def test_exec_and_enter_refuse_unknown_arguments(call: str) -> None:
    output = in_python(f"try:\n    {call}\nexcept TypeError as error:\n    print(error)")
    assert re.fullmatch(r"(exec|enter)\(\) got an unexpected keyword argument '.*'.*\n", output)


def test_exec_gives_the_status_of_the_command() -> None:
    assert in_python("un.exec(['sh', '-c', 'exit 7'])", status=7) == ""
    assert in_python("un.exec(['sh', '-c', 'kill -TERM $$'])", status=-15) == ""


def test_exec_passes_only_named_descriptors() -> None:
    first, second = os.pipe()
    try:
        output = in_python(
            f"un.exec(['ls', '/proc/self/fd'], pass_fds=[{second}])", pass_fds=(first, second)
        )
    finally:
        os.close(first)
        os.close(second)
    assert set(output.split()) == {"0", "1", "2", "3", str(second)}


def test_exec_restores_signals_that_python_ignores() -> None:
    output = in_python("un.exec(['grep', '^SigIgn', '/proc/self/status'])")
    ignored = int(output.split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << number - 1


@pytest.mark.parametrize(
    ("command", "kind", "step"),
    [
        ("no-such-tool", "CommandNotFoundError", "lookup"),
        ("/etc", "CommandNotExecutableError", "exec"),
    ],
)
def test_exec_of_a_missing_or_unusable_program_raises(command: str, kind: str, step: str) -> None:
    output = in_python(
        "try:\n"
        f"    un.exec([{command!r}])\n"
        "except un.UsernsError as error:\n"
        "    print(type(error).__name__, error.step, error.filename)\n"
    )
    assert output.split() == [kind, step, command]


def test_enter_with_an_invalid_map_changes_nothing() -> None:
    output = in_python(
        "before = facts()\n"
        "for extents in (['0:0:1', '0:1:1'], ['0:4294967295:1']):\n"
        "    try:\n"
        "        un.enter(un.IdMap.extents(extents, []))\n"
        "    except un.MapError as error:\n"
        "        print(error.cause)\n"
        "assert facts() == before\n"
    )
    assert output.split() == ["map-invalid", "map-invalid"]
