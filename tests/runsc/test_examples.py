"""Tests of all programs in examples/."""

from __future__ import annotations

import errno
import importlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gvisor
import pytest
from processes import check_output

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 60


def run(name: str, *arguments: str) -> str:
    return check_output([sys.executable, EXAMPLES / name, *arguments], timeout=SECONDS)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, EXAMPLES / "snippet_server.py", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()
        assert server.wait(SECONDS) == 0


def post(url: str, text: str) -> tuple[str, str]:
    with urllib.request.urlopen(url, text.encode(), SECONDS) as answer:
        return answer.headers["X-Exit-Status"], answer.read().decode()


def test_snippet_server_runs_posted_code(url: str, tmp_path: Path) -> None:
    assert post(url, "print(6 * 7)") == ("0", "42\n")
    assert post(url, "raise SystemExit(3)") == ("3", "")
    status, told = post(url, "print(open('/proc/version').read())\n1 / 0")
    assert status == "1"
    assert gvisor.BUILD in told
    assert "ZeroDivisionError" in told
    # Check that the test's temporary directory on the host is not visible in the sandbox.
    look = f"import os; print(os.path.exists({os.fspath(tmp_path)!r}))"
    assert post(url, look) == ("0", "False\n")


@pytest.mark.thorough
def test_snippet_server_kills_code_after_a_timeout(url: str) -> None:
    assert post(url, "print('early', flush=True)\nwhile True: pass") == ("-9", "early\n")


def test_snippet_server_kills_code_that_prints_too_much(url: str) -> None:
    status, told = post(url, "while True: print('x' * 999)")
    assert status == "-9"
    assert len(told) == 64 * 1024


def test_snippet_server_refuses_memory_above_its_limit(url: str) -> None:
    status, told = post(url, "bytearray(1 << 30)")
    assert (status, told.splitlines()[-1]) == ("1", "MemoryError")


def post_json(url: str, task: object) -> Any:
    headers = {"Content-Type": "application/json"}
    sent = urllib.request.Request(url, json.dumps(task).encode(), headers)
    with urllib.request.urlopen(sent, None, SECONDS) as answer:
        return json.loads(answer.read()), answer.headers["X-Reason"]


@pytest.mark.thorough
def test_snippet_server_takes_and_returns_files(url: str, tmp_path: Path) -> None:
    code = "open('b', 'w').write(open('a').read() * 2); print('ok')"
    task = {"code": code, "files": {"a": "text"}, "results": ["b", "missing"]}
    answer, reason = post_json(url, task)
    assert (answer["output"], answer["files"]["b"], reason) == ("ok\n", "texttext", "exited")
    assert answer["files"]["missing"].startswith("error: ")
    # The sandbox has created a symbolic link to a file of the host. The server must not open that
    # file.
    (tmp_path / "secret").write_text("secret")
    link = f"import os; os.symlink('{tmp_path}/secret', 'b')"
    outside = {"code": link, "results": ["b", f"../../../..{tmp_path}/secret"]}
    for content in post_json(url, outside)[0]["files"].values():
        assert content.startswith("error: ")
    assert post_json(url, {"code": "while True: pass"})[1] == "timeout"
    assert post_json(url, {"code": "while True: print('x' * 999)"})[1] == "output-limit"


@pytest.mark.parametrize("task", [[], {}, {"code": 5}, {"code": "", "files": ["a"]}, "x"])
def test_snippet_server_refuses_invalid_tasks(url: str, task: object) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post_json(url, task)


@pytest.mark.thorough
def test_snippet_server_runs_twenty_snippets_at_once(url: str) -> None:
    with ThreadPoolExecutor(20) as threads:
        codes = [f"print({number} * 2)" for number in range(20)]
        answers = list(threads.map(lambda code: post(url, code), codes))
    assert answers == [("0", f"{number * 2}\n") for number in range(20)]


def test_untrusted_report_counts_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("")
    assert run("untrusted_report.py", str(tmp_path)).strip() == "2"


def test_untrusted_report_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    report = importlib.import_module("untrusted_report")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(report, "PROGRAM", f"ln -s {secret} /results/report")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        report.report_on(str(tmp_path / "data"))
    monkeypatch.setattr(report, "PROGRAM", "mkdir /results/report")
    with pytest.raises(ValueError, match="not a regular file"):
        report.report_on(str(tmp_path / "data"))


@pytest.mark.thorough
def test_worker_pool_runs_all_tasks() -> None:
    results = dict(
        tuple(map(int, line.split())) for line in run("worker_pool.py", "6").splitlines()
    )
    assert results == {n: sum(i * i for i in range(n)) for n in range(6)}


def test_sandbox_executor_runs_tasks_in_gvisor() -> None:
    *roots, release = run("sandbox_executor.py").splitlines()
    assert roots == ["0 2", "1 3", "2 10"]
    assert gvisor.is_release(release)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("connector_server.py", []),
        ("connector_server.py", [sys.prefix, "0", "off"]),
        ("snippet_server.py", ["8000"]),
        ("snippet_server.py", ["127.0.0.1"]),
        ("untrusted_report.py", []),
        ("worker_pool.py", ["many"]),
    ],
)
def test_examples_print_their_usage(name: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"usage: {name} ")


def test_snippet_server_names_the_error_of_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, EXAMPLES / "snippet_server.py", f"127.0.0.1:{taken.getsockname()[1]}"],
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.endswith(f"[Errno {errno.EADDRINUSE}] {os.strerror(errno.EADDRINUSE)}\n")
