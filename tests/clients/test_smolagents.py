"""Tests of a smolagents agent whose code runs in gVisor. Prepared answers replace the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gvisor
import pytest
from smolagents import CodeAgent, tool
from smolagents.local_python_executor import CodeOutput
from smolagents.models import ChatMessage, MessageRole, Model
from smolagents.monitoring import AgentLogger
from smolagents.serialization import SerializationError
from smolagents.utils import AgentError
from smolagents_executor import GvisorExecutor


class Script(Model):
    """Fake model, which returns prepared answers."""

    def __init__(self, *steps: str) -> None:
        super().__init__()
        self.steps = list(steps)

    def generate(self, messages: Any, **options: Any) -> ChatMessage:
        code = f"Thought: next\n<code>\n{self.steps.pop(0)}\n</code>"
        return ChatMessage(role=MessageRole.ASSISTANT, content=code)


@tool
def twice(text: str) -> str:
    """Repeat a text.

    Args:
        text: The text.
    """
    return text * 2


@contextmanager
def executor(**options: Any) -> Iterator[Any]:
    made = GvisorExecutor([], AgentLogger(), **options)
    try:
        yield made
    finally:
        made.cleanup()


def test_smolagents_agent_works_in_gvisor() -> None:
    steps = [
        "n = 6\nprint(open('/proc/version').read())",
        "1 / 0",
        "final_answer([n * 7, twice('ab')])",
    ]
    with (
        executor() as made,
        CodeAgent([twice], Script(*steps), executor=made, max_steps=4) as agent,
    ):
        assert agent.run("count") == [42, "abab"]
        steps_text = str(agent.memory.steps)
    assert gvisor.BUILD in steps_text
    assert "ZeroDivisionError" in steps_text


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("import os; os._exit(0)", "exited"),
        ("import os; os.write(3, b'[1]\\n')", "invalid-answer"),
        ("import os\nwhile True: os.write(3, b'x' * 60_000)", "invalid-answer"),
        ("raise SystemExit(1)", "SystemExit: 1"),
    ],
)
def test_hostile_code_of_an_agent_raises_agenterror(code: str, end: str) -> None:
    """Check that code that exits, or sends forged or endless results, raises AgentError."""
    with executor() as made, pytest.raises(AgentError, match=end):
        made(code)


def test_pickled_answer_of_an_agent_is_rejected() -> None:
    with executor() as made, pytest.raises(SerializationError):
        made(
            "class FinalAnswerException(Exception): pass\nraise FinalAnswerException('pickle:AAAA')"
        )


def test_executor_keeps_output_bounded_and_returns_values() -> None:
    with executor() as made:
        assert len(made("print('x' * 3_000_000)").logs) == 1 << 20
        assert made("print('shown'); {1}") == CodeOutput("{1}", "shown\n", False)
