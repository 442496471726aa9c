"""From a request to the exec of runsc.

What is to be done is decided first (:mod:`usernsctl.gvisor.decide`); the core does it. Everything
that can fail fails before that exec: the command has not run then, and since all that was mounted
or written lies in a mount namespace that no other process is in, nothing of it is left when this
process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

from usernsctl import _core
from usernsctl._lean import NoReturn
from usernsctl._system.handover import restore_signals
from usernsctl._text import quoted
from usernsctl.gvisor.launch import view
from usernsctl.gvisor.launch.facts import Facts, descriptors, inspect
from usernsctl.gvisor.launch.plan import plan_run
from usernsctl.gvisor.launch.request import Request, search_path
from usernsctl.gvisor.launch.steps import StartValues
from usernsctl.gvisor.launch.view import COMMAND_LINE, View


def run_in_place(
    request: Request,
    environ: Mapping[str, str] | None = None,
    notify: Callable[[str], object] = lambda text: None,
) -> NoReturn:
    """Replace this process by one that waits for runsc, which runs the command in gVisor.

    The command has the standard input, output and error of this process, which ends with its exit
    status: 128+N after signal N, 125 with an explanation if runsc failed and the command did not
    run. Signals to this process are passed on to the command. The process must have one thread
    only.

    :param environ: the environment of the caller, ``os.environ`` by default.
    :param notify: is told what the user should know before the command starts.
    :raises UsernsError: something failed before runsc was started. Where that was past the making
        of the namespace, this process is good for nothing but to say so and exit.
    """
    caller = os.environ if environ is None else environ
    looked = inspect(request, caller, notify=notify)
    launch = plan_run(request, looked.facts)
    directory = _current_directory()
    named = view.files_named(request.args[1:], directory)

    native = _core.NativeLaunch(launch.encode())
    native.open(descriptors(launch, looked.used.files()))
    looked.place.enter(reraise_signal=request.reraise_signal)
    native.build()
    seen = View(native.view())
    moment = launch.moment
    assert moment is not None
    cwd = _start_directory(request, looked.facts, moment, seen, directory)
    view.check(
        moment.args[0],
        seen,
        search=search_path(moment.env),
        cwd=cwd,
        caller=caller,
        tree=request.rootfs or request.bundle,
    )
    _tell_hidden(request, looked.facts, seen, named, directory, cwd, notify)
    restore_signals()
    native.exec(args=moment.args, env=moment.env, cwd=cwd)


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _start_directory(
    request: Request, facts: Facts, moment: StartValues, seen: View, directory: str
) -> str:
    """Where the command starts.

    :param directory: the current one.
    :raises CommandError: the directory asked for can't be used.
    """
    if moment.cwd is None:
        with contextlib.suppress(OSError):
            if seen.has_directory(directory):
                return directory
        return "/"
    if request.cwd is not None:
        exists = facts.tree is None and os.path.isdir(request.cwd)
        remedy = COMMAND_LINE.show(request.cwd) if exists else None
        view.check_directory(seen, request.cwd, f"--wd {request.cwd}", remedy)
    return moment.cwd


def _tell_hidden(
    request: Request,
    facts: Facts,
    seen: View,
    named: list[str],
    directory: str,
    cwd: str,
    notify: Callable[[str], object],
) -> None:
    """Say which argument names a file that is here and not inside; programs tell it badly.

    :param named: those that name a file here.
    """
    found = view.hidden(named, seen, cwd=cwd)
    if not found:
        return
    is_kept = request.cwd is None and facts.tree is None
    remedy = view.how_to_show(found[0], directory=directory, cwd=None if is_kept else cwd)
    if remedy.startswith("--"):
        remedy = f"add {remedy}"
    others = f" and {len(found) - 1} more files that the command names" if found[1:] else ""
    notify(f"the sandbox does not show {quoted(found[0])}{others}; to show it, {remedy}")
