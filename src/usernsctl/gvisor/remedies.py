"""What mends a missing command or directory, as options of ``usernsctl run`` or for Python."""

from __future__ import annotations

import os

from usernsctl._text import quoted
from usernsctl._typing import Protocol
from usernsctl.gvisor.environment import DEFAULT_PATH
from usernsctl.gvisor.request import Bind


class Remedies(Protocol):
    """The words for remedies. The names in them are others' choice."""

    def show(self, source: str, destination: str = "") -> str:
        """Return what shows `source` inside, at `destination` if that is given."""

    def search(self, directory: str) -> str:
        """Return what has commands looked for in `directory`, and in no unusual place else."""

    def name_by_path(self, command: str) -> str:
        """Return what starts the file `command` of the current directory."""

    def separate_words(self, command: str) -> str:
        """Return what starts a command whose words were given as one."""


class CommandLine:
    """Remedies for who calls ``usernsctl run``."""

    def show(self, source: str, destination: str = "") -> str:
        """Return the option that shows `source`.

        A name that ends in ``:rw`` must not have another file be shown, nor be written to. Of a
        path that the option can't name, this says what else there is to do.
        """
        words = [source, destination] if destination else [source]
        if not _is_read_as(":".join(words), Bind.shown(source, destination)):
            return "rename it: --bind would take a part of its path for something else"
        return f"--bind {':'.join(map(quoted, words))}"

    def search(self, directory: str) -> str:
        """Return the option that sets PATH."""
        return f"--env PATH={quoted(directory)}:{DEFAULT_PATH}"

    def name_by_path(self, command: str) -> str:
        """Return the options and the command."""
        by_path = quoted("./" + command)
        return f"name a file of the current directory by a path: --bind . -- {by_path}"

    def separate_words(self, command: str) -> str:
        """Return what to type."""
        return f"give each word as an argument of its own, or: sh -c {quoted(command)}"


class PythonCall:
    """Remedies for who calls the package."""

    def show(self, source: str, destination: str = "") -> str:
        """Return the argument that shows `source`."""
        text = f"{source}:{destination}" if destination else source
        if _is_read_as(text, Bind.shown(source, destination)):
            return f"binds=[{text!r}]"
        words = [source, destination] if destination else [source]
        return f"binds=[usernsctl.Bind.shown({', '.join(map(repr, words))})]"

    def search(self, directory: str) -> str:
        """Return the argument that sets PATH."""
        return f"env={ {'PATH': f'{directory}:{DEFAULT_PATH}'}!r}"

    def name_by_path(self, command: str) -> str:
        """Return the arguments."""
        path = os.path.abspath(command)
        shown = self.show(os.path.dirname(path))
        return f"name a file of the current directory by its path: {shown}, args=[{path!r}]"

    def separate_words(self, command: str) -> str:
        """Return the arguments."""
        return f"give each word as an argument of its own: args={command.split()!r}"


COMMAND_LINE, PYTHON = CommandLine(), PythonCall()


def _is_read_as(text: str, bind: Bind) -> bool:
    try:
        return Bind.parse(text) == bind
    except ValueError:
        return False
