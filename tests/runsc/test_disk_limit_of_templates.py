"""Tests of the argument `disk` for pools, templates and detached sandboxes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

import usernsctl as un

pytestmark = pytest.mark.usefixtures("runtime")

PATIENCE = 60
LIMIT = 10 << 20
# Command that tries to write 40 MiB to a file in the root filesystem and to a file in /tmp, and
# prints the sizes of both files.
FILL = [
    *("sh", "-c"),
    "for file in /var/tmp/new /tmp/new; do dd if=/dev/zero of=$file bs=1M count=40 2>/dev/null; "
    "stat -c %s $file; done",
]


def check_disk(box: un.Sandbox, free: int = LIMIT) -> None:
    result = box.run(FILL, capture_output=True, text=True)
    assert result.stdout.split() == [str(free), str(LIMIT)]


@pytest.mark.thorough
def test_a_pool_limits_the_disk_of_each_lease() -> None:
    with un.SandboxHost(disk="10M", writable_root=True) as host:
        for uses in (1, 2):
            with host.pool(1, max_uses=uses) as pool, pool.acquire(PATIENCE) as box:
                check_disk(box)
        with host.start(None, detach=True) as box:
            check_disk(box)


def test_sandboxes_from_templates_keep_files_and_disk_limit(tmp_path: Path) -> None:
    # The command writes 5 MiB to a file before the checkpoint. In each restored sandbox, this file
    # counts towards the disk limit.
    command = ["sh", "-c", "head -c 5M /dev/urandom > /var/tmp/file; echo ready; exec cat"]
    with ExitStack() as stack:
        host = stack.enter_context(un.SandboxHost(disk=LIMIT, writable_root=True))
        template = stack.enter_context(host.template(command, ready="ready"))
        template.save(tmp_path / "saved")
        contents = set()
        for _ in range(2):
            with template.start(stdin=un.PIPE) as box:
                contents.add(box.read_file("/var/tmp/file"))
                check_disk(box, LIMIT // 2)
        assert list(map(len, contents)) == [LIMIT // 2]
        with un.SandboxHost(disk=LIMIT, writable_root=True, ttl=1000, idle_timeout=9) as other:
            un.Template.load(tmp_path / "saved", host=other).close()
    for disk in (None, 2 * LIMIT):
        with un.SandboxHost(disk=disk, writable_root=True) as other:
            with pytest.raises(un.RunscError, match=r"--disk '10485760' \(now ") as caught:
                un.Template.load(tmp_path / "saved", host=other)
            assert caught.value.cause == "template-host-differs"


def test_a_program_of_a_python_template_has_a_disk_limit() -> None:
    script = (
        "try:\n"
        "    with open('/var/tmp/new', 'wb', 0) as file:\n"
        "        for size in range(40): file.write(bytes(1 << 20))\n"
        "except OSError as error: print(size, error.strerror)"
    )
    with (
        un.SandboxHost(disk="10M", writable_root=True) as host,
        host.python_template() as template,
        template.start(["-c", script], stdout=un.PIPE) as box,
    ):
        assert box.communicate(timeout=PATIENCE)[0] == b"10 No space left on device\n"
