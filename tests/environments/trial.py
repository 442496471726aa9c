"""Try usernsctl's commands in one environment: ``python trial.py NAME [COMMAND...]``.

NAME is an environment in table.py, or a pair in the form FIRST+SECOND. The script prints the
commands' results as JSON. The script becomes PID 1 of a new PID namespace, with a new mount
namespace, and so adopts the orphans of the commands.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import sysconfig
import time
import traceback
from pathlib import Path
from typing import Any

import ways
from broken import EARLY, FOR_ROOT, LATE, NOBODY, become_nobody, prepare
from calls import CLONE_NEWPID, check, libc, mount, prctl, unshare
from pairs import find
from table import Environment

SECONDS_TO_GO = 5
# Maximum time in seconds between two searches for orphans.
SECONDS_TO_LOOK = 0.02
SCRIPTS = Path(sysconfig.get_path("scripts"))
USERNSCTL = str(SCRIPTS / "usernsctl")
EXEC = str(SCRIPTS / "usernsctl-exec")
OUTPUT_MAX = 1 << 20

WORDS = {
    "exec": ["-r", "--map-auto", "--", "/bin/echo", "ran"],
    "run": ["run", "--", "/bin/echo", "ran"],
    "auto": ["run", "--map-auto", "--", "/bin/echo", "ran"],
    "doctor": ["doctor", "--json"],
    "range": ["doctor", "--json", "--no-runsc", "--for", "range"],
}


def look_up(way: str | ways.Way) -> ways.Way:
    if not isinstance(way, str):
        return way
    return (FOR_ROOT | EARLY | LATE)[way]


def keep_capabilities(numbers: list[int]) -> None:
    """Drop all capabilities except `numbers`, which are kept across execve(2) (capabilities(7))."""
    bits = sum(1 << number for number in numbers)
    header = struct.pack("Ii", 0x20080522, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    data = struct.pack("6I", low, low, low, high, high, high)
    check(libc.capset(header, data), "capset")
    for number in numbers:
        check(libc.prctl(ways.PR_CAP_AMBIENT, ways.PR_CAP_AMBIENT_RAISE, number, 0, 0), "ambient")


def become(environment: Environment, words: list[str], output: int, errors: int) -> None:
    """Apply the environment's misconfigurations to this child; execute the command `words`."""
    os.setsid()
    nothing, end = os.pipe()
    os.close(end)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, 64)
    kept = [int(word) for word in os.environ.pop("TRIAL_AMBIENT", "").split(",") if word]
    for way in environment.early:
        look_up(way)()
    if environment.user != "root":
        if kept:
            prctl(ways.PR_SET_KEEPCAPS, 1)
        if (environment.uid, environment.gid) == (NOBODY, NOBODY) and not environment.groups:
            become_nobody(NOBODY)
        else:
            os.setgroups(list(environment.groups))
            os.setresgid(environment.gid, environment.gid, environment.gid)
            os.setresuid(environment.uid, environment.uid, environment.uid)
            prctl(4, 1)
    if kept:
        keep_capabilities(kept)
    for way in environment.late:
        look_up(way)()
    os.execv(words[0], words)


def start(environment: Environment, words: list[str]) -> tuple[int, dict[int, bytearray]]:
    pipes = [os.pipe() for _ in range(2)]
    pid = os.fork()
    if pid == 0:
        try:
            become(environment, words, pipes[0][1], pipes[1][1])
        except BaseException:
            os.write(2, b"trial: " + traceback.format_exc().encode())
        finally:
            os._exit(99)
    for _, end in pipes:
        os.close(end)
    return pid, {pipe: bytearray() for pipe, _ in pipes}


def collect_others(pid: int) -> None:
    """Reap exited orphans, as PID 1 must: zombies count towards the limits on processes."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == pid:
            return
        os.waitpid(found.si_pid, 0)


def wait(pid: int, outputs: dict[int, bytearray], seconds: float) -> int | None:
    """Return the exit status of the child, or ``None`` if it does not exit within `seconds`."""
    deadline = time.monotonic() + seconds
    pidfd = os.pidfd_open(pid)
    left = {pidfd, *outputs}
    # Wait until the child has exited; the rest of its output is read below.
    while pidfd in left and time.monotonic() < deadline:
        rest = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(left, [], [], min(rest, SECONDS_TO_LOOK))
        collect_others(pid)
        for one in ready:
            chunk = b"" if one == pidfd else os.read(one, 65536)
            if chunk:
                outputs[one] += chunk[: OUTPUT_MAX - len(outputs[one])]
            else:
                left.remove(one)
    for one, text in outputs.items():
        os.set_blocking(one, False)
        try:
            while chunk := os.read(one, 65536):
                text += chunk
        except BlockingIOError:
            pass
        os.close(one)
    os.close(pidfd)
    found, status = os.waitpid(pid, os.WNOHANG if time.monotonic() >= deadline else 0)
    return os.waitstatus_to_exitcode(status) if found else None


def remaining() -> list[str]:
    """Wait until no process is left; after a grace period, kill the remaining processes.

    Return the command lines of the killed processes.
    """
    deadline = time.monotonic() + SECONDS_TO_GO
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if pid == 0:
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)
    names = []
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        if stat.parent.name != "1":
            names.append(stat.read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
    os.kill(-1, signal.SIGKILL)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return names or ["?"]


def mounts() -> set[str]:
    """Return the lines of /proc/self/mountinfo, or an empty set if it can't be read."""
    try:
        return set(Path("/proc/self/mountinfo").read_text().splitlines())
    except OSError:
        return set()


def try_command(environment: Environment, name: str) -> dict[str, Any]:
    words = [EXEC if name == "exec" else USERNSCTL, *WORDS[name]]
    if name in ("doctor", "range") and environment.within is not None:
        words += ["--within", str(environment.within)]
    before, started = mounts(), time.monotonic()
    pid, outputs = start(environment, words)
    status = wait(pid, outputs, environment.seconds)
    seconds = time.monotonic() - started
    left = remaining()
    output, errors = (bytes(text).decode(errors="replace") for text in outputs.values())
    return {
        "status": status,
        "stdout": output,
        "stderr": errors,
        "seconds": round(seconds, 2),
        "left": left,
        "mounts": mounts() <= before,
    }


def text_of(environment: Environment, words: list[str]) -> str:
    pid, outputs = start(environment, words)
    wait(pid, outputs, environment.seconds)
    remaining()
    return bytes(next(iter(outputs.values()))).decode()


def heal(environment: Environment) -> dict[str, Any]:
    """Apply doctor's remedies and try the command again; return the result."""
    # Mounting may fail if the environment has created a user namespace. The remedies for such an
    # environment need no copy of /etc.
    with contextlib.suppress(PermissionError):
        ways.own_etc()
    purpose = ["--for", "run"] if environment.run else ["--no-runsc", "--for", "range"]
    again = WORDS["run" if environment.run else "auto"]
    report = json.loads(text_of(environment, [USERNSCTL, "doctor", "--json", *purpose]))
    script = text_of(environment, [USERNSCTL, "doctor", "--script", *purpose])
    typed = report["findings"][0]["remedy"]
    words = [USERNSCTL, *again]
    done = None
    if typed.startswith(("ulimit", "export")):
        words = ["/bin/sh", "-c", f'{typed}\nexec "$@"', "sh", *words]
    elif "\nif ask " in script:
        # Answer yes to the question that the script asks before each change. The script's first
        # change removes the cause that blocks first.
        typed = script
        done = subprocess.run(["sh", "-c", script], input="y\n" * 9, capture_output=True, text=True)
    else:
        done = subprocess.run(["sh", "-c", typed], capture_output=True, text=True)
    pid, outputs = start(environment, words)
    status = wait(pid, outputs, environment.seconds)
    output, errors = (bytes(text).decode(errors="replace") for text in outputs.values())
    said = "" if done is None else done.stdout + done.stderr
    return {"status": status, "stdout": output, "stderr": errors, "typed": typed, "said": said}


def try_all(environment: Environment, names: list[str]) -> dict[str, Any]:
    os.umask(0o022)
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    prepare()
    mount("proc", "/proc", "proc", 0)
    for way in environment.root:
        look_up(way)()
    if names == ["heal"]:
        return {"heal": heal(environment)}
    return {name: try_command(environment, name) for name in names}


def main(arguments: list[str]) -> None:
    environment = find(arguments[0])
    unshare(CLONE_NEWPID)
    output, end = os.pipe()
    init = os.fork()
    if init == 0:
        try:
            prctl(1, signal.SIGKILL)
            os.close(output)
            found = try_all(environment, arguments[1:] or list(environment.tried))
            with open(end, "w") as file:
                json.dump(found, file)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(end)
    with open(output) as file:
        text = file.read()
    _, status = os.waitpid(init, 0)
    if status:
        sys.exit(f"trial {environment.name}: could not be made")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
