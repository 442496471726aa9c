"""Tests of SandboxHost in a control group with limits: OOM kills, and the limits in sandboxes.

Each test runs a Python program in the control group; the program prints its results as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from callers import as_root
from control_groups import memory_group, processor_group, within
from processes import capture

pytestmark = as_root

MIB = 1 << 20
PATIENCE = 120

PROGRAM = """
import json, sys
import usernsctl as un
from usernsctl import gvisor

GROW = ["python3", "-c", "held = []\\nwhile True: held.append(b'x' * 10**7)"]
SHOW = ["sh", "-c", "head -n 1 /proc/meminfo; nproc; sleep 1"]

def caught(call):
    try:
        return call()
    except un.UsernsError as error:
        return type(error).__name__, error.cause, error.reason
"""


def run(group: Path, script: str) -> list[Any]:
    """Run PROGRAM, then `script`, in a control group; return the JSON values in the output."""
    command = [sys.executable, "-c", PROGRAM + script]
    done = capture(within(group, *command), timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def is_oom(result: object, kind: str = "LimitError") -> bool:
    assert isinstance(result, list)
    name, cause, reason = result
    limit = "the limit of the control group is 250.0 MiB, of which "
    return (name, cause) == (kind, "out-of-memory") and limit in reason


CALLS = {
    "start": "h.start(GROW).wait()",
    "run in a sandbox without a command": "(box := h.start(None)).run(GROW, check=True)",
    "run beside a command": "(box := h.start(['sleep', '1000'])).run(GROW, check=True)",
    "popen": "(box := h.start(None)).popen(GROW, stdout=un.PIPE).communicate()[0].decode()",
    "run": "gvisor.run(GROW, host=h, check=True)",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.sampled(3)
def test_oom_kill_raises_with_the_cause(call: str) -> None:
    script = f"""
with un.SandboxHost() as h:
    print(json.dumps(caught(lambda: {CALLS[call]})))
"""
    with memory_group(250 * MIB) as group:
        (result,) = run(group, script)
    assert is_oom(result, "SandboxEndedError" if "run " in call else "LimitError"), result


@pytest.mark.parametrize(
    "call",
    [
        "(box := h.start(None)).run(GROW)",
        "(box := h.start(['sleep', '1000'])).run(GROW)",
        "(box := h.start(GROW)).result()",
        "gvisor.run(GROW, host=h)",
    ],
)
@pytest.mark.sampled(2)
def test_oom_kill_is_the_reason_of_the_result(call: str) -> None:
    script = f"""
with un.SandboxHost() as h:
    result = {call}
    print(json.dumps([result.returncode != 0, result.reason]))
"""
    with memory_group(250 * MIB) as group:
        assert run(group, script) == [[True, "memory-limit"]]


def test_each_call_after_an_oom_kill_has_the_cause() -> None:
    script = """
with un.SandboxHost() as h, h.start(GROW) as box:
    print(json.dumps(caught(box.wait)))
    print(json.dumps(box.returncode))
    print(json.dumps(caught(lambda: box.run(["true"]).returncode)))
    box.close()
    print(json.dumps(caught(box.wait)))
"""
    with memory_group(250 * MIB) as group:
        first, status, later, closed = run(group, script)
    assert is_oom(first), first
    assert status == -9
    assert is_oom(later, "SandboxEndedError"), later
    assert is_oom(closed), closed


def test_detached_sandbox_reports_an_oom_kill() -> None:
    """Check that the creator's object, an attached object and a later attach() report the cause."""
    script = """
with un.SandboxHost() as h:
    box = h.start(["sleep", "1000"], detach=True)
    other = un.Sandbox.attach(box.id)
    print(json.dumps(caught(lambda: box.run(GROW, check=True))))
    print(json.dumps([caught(box.wait), caught(other.wait)]))
    print(json.dumps([box.returncode, other.poll()]))
    print(json.dumps(caught(lambda: other.run(["true"], check=True))))
    print(json.dumps(caught(lambda: un.Sandbox.attach(box.id))))
    print(json.dumps(caught(lambda: un.Sandbox.attach(box.id))))
"""
    with memory_group(250 * MIB) as group:
        first, (own, attached), statuses, later, again, gone = run(group, script)
    assert is_oom(first, "SandboxEndedError"), first
    for result in (own, attached):
        assert is_oom(result), result
    assert is_oom(again, "RunscError"), again
    assert statuses == [-9, -9]
    assert is_oom(later, "SandboxEndedError"), later
    # A further attach() finds no sandbox, because the first attach() reported the cause and then
    # removed the record.
    assert gone[1] == "no-such-sandbox"


@pytest.mark.thorough
def test_oom_kill_is_reported_after_the_creator_exited() -> None:
    creator = """
with un.SandboxHost() as h:
    print(json.dumps(h.start(GROW, detach=True).id))
"""
    waiter = """
print(json.dumps(caught(lambda: un.Sandbox.attach(ID).wait(60))))
"""
    with memory_group(250 * MIB) as group:
        (id,) = run(group, creator)
        (result,) = run(group, f"ID = {id!r}\n{waiter}")
    # The error comes from attach() or from wait(): the sandbox exits either before attach() or
    # during wait().
    assert is_oom(result, "RunscError") or is_oom(result), result


@pytest.mark.thorough
def test_oom_kill_ends_no_other_sandbox_of_the_host() -> None:
    script = """
with un.SandboxHost() as h, h.start(None) as one, h.start(["sleep", "1000"]) as two:
    one.run(["true"]); two.run(["true"])
    print(json.dumps(caught(lambda: h.start(GROW).wait())))
    try:
        two.wait(3)
    except un.TimeoutExpired:
        pass
    print(json.dumps([box.run(["sh", "-c", "exit 3"]).returncode for box in (one, two)]))
"""
    with memory_group(250 * MIB) as group:
        first, others = run(group, script)
    assert is_oom(first), first
    assert others == [3, 3]


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.sampled(1)
def test_sandboxes_see_the_memory_limit_of_the_caller(detach: bool) -> None:
    script = f"""
with un.SandboxHost() as h:
    with h.start(SHOW, stdout=un.PIPE, detach={detach}) as box:
        print(json.dumps(box.communicate()[0].decode().split()))
    with h.template() as template, template.start() as box:
        print(json.dumps(box.check_output(SHOW, text=True).split()))
print(json.dumps(open("/proc/meminfo").readline().split()))
"""
    with memory_group(100 * MIB) as group:
        started, restored, own = run(group, script)
    assert isinstance(started, list)
    assert started[:3] == ["MemTotal:", str(100 << 10), "kB"]
    assert restored == started
    assert own == Path("/proc/meminfo").read_text().split()[:3]


def test_sandboxes_see_the_cpu_quota_of_the_caller() -> None:
    script = """
with un.SandboxHost() as h, h.start(SHOW, stdout=un.PIPE) as box:
    print(json.dumps(box.communicate()[0].decode().split()[-1]))
"""
    with processor_group(90000, 100000) as group:
        assert run(group, script) == ["1"]


@pytest.mark.parametrize("detach", [False, True])
def test_memory_limit_below_the_needs_of_gvisor_raises(detach: bool) -> None:
    script = f"""
import os
with un.SandboxHost() as h:
    with open(GROUP, "w") as procs:
        procs.write(str(os.getpid()))
    print(json.dumps(caught(lambda: h.start(["true"], detach={detach}).wait())))
"""
    with memory_group(100 * MIB) as group, memory_group(23 * MIB) as small:
        (result,) = run(group, f"GROUP = {str(small / 'cgroup.procs')!r}\n" + script)
    assert isinstance(result, list)
    assert result[1] == "memory-limit-too-low"
    assert "23.0 MiB of memory, and gVisor alone needs 24 MiB" in result[2]
