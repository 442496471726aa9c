"""What the core knows of runsc's messages is what the catalogue has."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usernsctl import _core
from usernsctl.explain.catalogue import get
from usernsctl.explain.messages import Text, explain, texts

# Those are out of the question where a sandbox's namespace was made (explain/runsc.c).
RULED_OUT = {"in-chroot", "yama-ptrace-scope"}


def expected(message: str) -> list[str]:
    """The causes, by the patterns themselves."""
    found = explain(io.BytesIO(message.encode())).candidates
    return [one.cause.id for one in found if one.cause.id not in RULED_OUT]


def check(message: str, proc: Path) -> None:
    causes, error = expected(message), _core.explain_runsc(message, proc=str(proc))
    if len(causes) == 1:
        assert (error.cause, error.remedy) == (causes[0], get(causes[0]).remedies["host"])
    elif causes:
        told = f"usernsctl doctor tells which it is: {', '.join(causes)}"
        assert (error.cause, error.remedy) == (None, told)
    else:
        assert error.cause is None


@pytest.mark.parametrize("text", texts(), ids=lambda text: text.says[:40])
def test_each_message_has_the_same_causes(text: Text, tmp_path: Path) -> None:
    drawn = random.Random(text.says)
    for says in (text.says, f"x: {text.says}", f"{text.says}\nmore", "a b " * 3000 + text.says):
        check(says, tmp_path)
    for _ in range(100):
        # A change here and there: what is known no more, and what is known all the same.
        changed = [*text.says]
        for _ in range(drawn.randrange(1, 4)):
            at = drawn.randrange(len(changed))
            changed[at : at + drawn.randrange(2)] = drawn.choice(
                ["", " ", "-", "x", "\n", "\xe9", "7"]
            )
        check("".join(changed), tmp_path)


# A line end of other systems is one of ours for usernsctl explain; runsc writes none.
LETTERS = st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])
PARTS = [word for text in texts() for word in text.says.split()]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(texts()), min_size=1, max_size=5), st.text(LETTERS, max_size=20))
def test_several_messages_have_the_causes_of_all(several: list[Text], between: str) -> None:
    check(between.join(text.says for text in several).replace("\0", ""), Path("/nonexistent"))


def test_causes_of_one_rank_stay_in_the_order_in_which_they_were_found() -> None:
    """Whichever of them was found to be likelier by a later message."""
    drawn = random.Random(1)
    for _ in range(1000):
        several = drawn.sample(texts(), 5)
        check("\n".join(text.says for text in several), Path("/nonexistent"))


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PARTS) | st.text(LETTERS, max_size=5), max_size=30))
def test_any_words_have_the_same_causes(words: list[str]) -> None:
    check(" ".join(words).replace("\0", ""), Path("/nonexistent"))
