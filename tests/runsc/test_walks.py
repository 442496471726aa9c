"""Tests that limit the number of usernsctl's source files that a single call executes.

The limits keep call chains short enough to read. A commit that raises a limit must give the reason,
and a commit that shortens a chain lowers the limit.
"""

from __future__ import annotations

import json
import sys

from processes import capture

# Program that prints the package's Python files that `usernsctl run` has loaded when it executes
# runsc.
RUN = """
import json, os, sys, usernsctl

package = os.path.dirname(usernsctl.__file__)

def follow(frame, event, argument):
    if event == "call" and frame.f_code.co_qualname == "NativeLaunch.exec":
        files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
        ours = sorted(f for f in files if f.startswith(package) and f.endswith(".py"))
        os.write(1, json.dumps(ours).encode())
        os._exit(0)

sys.setprofile(follow)
sys.argv = ["usernsctl", "run", "--", "true"]
from usernsctl.__main__ import main
main()
"""

# Program that prints the package's files whose functions host.start() and box.run() call. Earlier
# calls have already imported all modules.
CALL = """
import gc, json, os, sys, threading, usernsctl as un

package = os.path.dirname(un.__file__)

def files_of(call):
    files = set()
    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            files.add(frame.f_code.co_filename)
    # Collect garbage first, because finalizers of earlier calls' objects would add their files.
    gc.collect()
    gc.disable()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        return call(), files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        gc.enable()

with un.SandboxHost() as host:
    host.start(["sleep", "1000"]).close()
    box, start = files_of(lambda: host.start(["sleep", "1000"]))
    with box:
        box.run(["true"])
        _, run = files_of(lambda: box.run(["true"]))
print(json.dumps({
    "host.start": sorted(start), "box.run": sorted(run), "asyncio": "asyncio" in sys.modules
}))
"""


def json_output(code: str) -> object:
    done = capture([sys.executable, "-c", code], timeout=100, check=True)
    return json.loads(done.stdout)


def test_run_loads_at_most_29_files() -> None:
    files = json_output(RUN)
    assert isinstance(files, list)
    assert 20 < len(files) <= 29, files


def test_sandbox_calls_execute_at_most_21_files() -> None:
    files = json_output(CALL)
    assert isinstance(files, dict)
    assert 10 < len(files["host.start"]) <= 21, files["host.start"]
    assert 5 < len(files["box.run"]) <= 10, files["box.run"]
    # Programs without an event loop must not import asyncio, which takes time.
    assert not files["asyncio"]
