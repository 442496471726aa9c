"""What can be wrong with a template."""

from __future__ import annotations

from collections.abc import Sequence

from usernsctl._text import quoted
from usernsctl.errors import RunscError

#: The step that these errors are of.
STEP = "template"


def not_ready(why: str, remedy: str | None = None) -> RunscError:
    """The error that a command did not get to where it is ready."""
    return RunscError(why, step=STEP, cause="template-not-ready", remedy=remedy)


def unsavable(why: str, remedy: str | None = None) -> RunscError:
    """The error that what runs can't be saved, or not so that it goes on afterwards."""
    return RunscError(why, step=STEP, cause="template-unsavable", remedy=remedy)


def outdated(what: str, remedy: str | None) -> RunscError:
    """The error that a template was made for something else than is there now.

    :param what: is another one than then.
    :param remedy: the command that makes the template anew.
    """
    return RunscError(
        f"the template was made when {what}",
        step=STEP,
        cause="template-outdated",
        remedy=remedy or "make the template anew",
    )


def other_host(options: Sequence[str], remedy: str | None) -> RunscError:
    """The error that a template is to be started in a host unlike the one that it was made in.

    :param options: in words, which options were others then.
    :param remedy: the command that makes the template anew.
    """
    return RunscError(
        f"the template was made in another host: {'; '.join(options)}",
        step=STEP,
        cause="template-host-differs",
        remedy="give the options that you made the template with, to usernsctl template run or "
        f"SandboxHost(); or {remedy or 'make the template anew'}",
    )


def wrong_kind(path: str, kind: str) -> RunscError:
    """The error that a saved template is to be loaded as one of another kind.

    :param kind: that it is of.
    """
    name = "PythonTemplate" if kind == "python" else "Template"
    return RunscError(
        f"{path} is the template of {'an interpreter' if kind == 'python' else 'a command'}",
        step=STEP,
        filename=path,
        remedy=f"usernsctl.{name}.load(directory)",
    )


def damaged(path: str, why: str) -> RunscError:
    """The error that a saved template is not what was saved.

    :param path: its directory.
    """
    return RunscError(
        f"{path} is no whole template: {why}",
        step=STEP,
        filename=path,
        cause="template-damaged",
        remedy=f"make it anew; what is left of this one: rm -r {quoted(path)}",
    )


def untrusted(path: str, why: str) -> RunscError:
    """The error that others could have written a template."""
    return RunscError(
        f"{path} is not believed: {why}",
        step=STEP,
        filename=path,
        cause="template-untrusted",
        remedy=f"if nobody else has changed it: chmod -R go= {quoted(path)}; "
        "a directory above it must not be writable by others, either",
    )
