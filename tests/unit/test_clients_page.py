"""Tests of the table in docs/clients.md: tested releases and sizes of adapters."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
EXAMPLES = TREE / "examples" / "clients"
ADAPTERS = {
    "inspect_ai": "inspect_provider.py",
    "smolagents": "smolagents_executor.py",
    "llm-sandbox": "llm_sandbox_session.py",
    "Jupyter": "jupyter_kernel.py",
}
PACKAGES = {"Jupyter": "jupyter_client", "PyAirbyte": "airbyte"}
# Statements that don't count, because the client library or Python prescribes them.
_PRESCRIBED = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def rows() -> dict[str, list[str]]:
    """Return the rows of the table in docs/clients.md as lists of cells, by the client's name."""
    text = (TREE / "docs" / "clients.md").read_text()
    lines = re.findall(r"^\| \[(\w+(?:[-_]\w+)*)\]\(.*?\) \| (.*) \|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in lines}


def lines_of_code(source: str) -> int:
    """Return the number of statements and exception handlers in `source`.

    Literals that stand alone and statements in _PRESCRIBED don't count. If a string contains a
    program, count the program's statements, too.
    """
    count = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and "\n    " in str(node.value):
            is_program = "import" in node.value.split(maxsplit=1)[0]
            count += lines_of_code(node.value) if is_program else 0
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_statement = isinstance(node, ast.stmt) and not isinstance(node, _PRESCRIBED)
        count += (is_statement and not is_text) or isinstance(node, ast.ExceptHandler)
    return count


def test_clients_page_lists_tested_releases() -> None:
    pinned = (TREE / "tests" / "clients" / "requirements.txt").read_text()
    releases = dict(re.findall(r"^([\w-]+)==(\S+)$", pinned, re.MULTILINE))
    shown = {PACKAGES.get(name, name): cells[0] for name, cells in rows().items()}
    assert {name: releases.get(name, "2.60") for name in shown} == shown
    assert shown.keys() - {"Ray"} == releases.keys() - {"ipykernel"}


@pytest.mark.parametrize("client", ADAPTERS)
def test_clients_page_has_the_lines_of_code_of_each_adapter(client: str) -> None:
    source = (EXAMPLES / ADAPTERS[client]).read_text()
    assert rows()[client][2] == str(lines_of_code(source))


def test_provider_for_inspect_ai_has_at_most_15_lines() -> None:
    assert int(rows()["inspect_ai"][2]) <= 15
