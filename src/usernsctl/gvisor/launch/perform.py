"""Execution of a request in three steps: inspect the host, plan the launch, perform the launch.

:mod:`usernsctl.gvisor.launch.plan` makes the plan, and the C core performs it up to the execve(2)
of runsc. Errors are raised before that execve(2), so a command whose launch fails has not run. All
mounts and files of a run are in a mount namespace of this process, so the kernel removes them when
the process exits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from usernsctl._core import NativeLaunch, NativeView, check_filter
from usernsctl._lean import TYPE_CHECKING, LateModule, NoReturn, replace
from usernsctl._system.handover import restore_signals
from usernsctl._text import quoted
from usernsctl.gvisor.launch.facts import Facts, descriptors, inspect
from usernsctl.gvisor.launch.plan import plan_run
from usernsctl.gvisor.launch.request import Request
from usernsctl.gvisor.launch.steps import StartValues
from usernsctl.gvisor.runsc.command import search_path

if TYPE_CHECKING:
    from usernsctl.gvisor.launch import network
    from usernsctl.gvisor.launch.result_file import ResultFile
    from usernsctl.network.proxy_process import ProxyProcess
else:
    # Import network on first use, because few runs have a network.
    network = LateModule("usernsctl.gvisor.launch.network")


def run_in_place(
    request: Request,
    environ: Mapping[str, str] | None = None,
    notify: Callable[[str], object] = lambda text: None,
    result: ResultFile | None = None,
    max_output: str | None = None,
) -> NoReturn:
    """Replace this process by a watcher, which runs the command in gVisor and waits for runsc.

    The command inherits this process's standard input, output and error. The process exits with the
    command's exit status, or with 128+N if signal N killed the command. If runsc failed before the
    command ran, the process prints an explanation, and exits with 125. Signals to this process are
    forwarded to the command. The process must be single-threaded.

    :param environ: the environment of the caller, ``os.environ`` by default.
    :param notify: a function that is called with messages for the user before the command starts.
    :param result: the file into which the watcher writes the result.
    :param max_output: the output limit, in the format that csrc/programs/watch/pump.c parses.
    :raises UsernsError: the launch failed. This process may already have entered the sandbox's
        namespaces, so the caller must report the error and exit.
    """
    caller = os.environ if environ is None else environ
    check_filter()
    if request.has_network:
        request = network.with_network(request)
    proxy = _start_proxy(request)
    inspection = inspect(request, caller, notify=notify)
    request = inspection.request
    if result is not None:
        writable = inspection.used.writable_sources()
        sources = inspection.used.sources.items()
        result.prepare({name: source.fd for name, source in sources if name in writable})
    launch = plan_run(request, _with_handover(inspection.facts, proxy))
    directory = _current_directory()
    named = _files_named(request.args[1:], directory)

    native = NativeLaunch(launch.encode())
    native.open(descriptors(launch, inspection.used.files()))
    if proxy is not None:
        proxy.wait_ready()
    inspection.place.enter(reraise_signal=request.reraise_signal)
    native.build()
    inside = native.view()
    values = launch.start_values
    assert values is not None
    cwd = _start_directory(request, inspection.facts, values, inside, directory)
    _check_command(request, values, inside, cwd, caller)
    _notify_hidden(request, inspection.facts, inside, named, directory, cwd, notify)
    restore_signals()
    native.exec(
        args=values.args,
        env=values.env,
        cwd=cwd,
        user=values.user,
        groups=values.groups,
        terminal=values.terminal,
        watch_options=_watch_options(result, proxy, max_output),
        watch_fds=_watch_fds(result, proxy),
    )


def _start_proxy(request: Request) -> ProxyProcess | None:
    """Start the proxy for the names in ``--allow``; return None if no name is allowed.

    The proxy stays in the namespaces of the caller, reports denied requests on standard error, and
    exits when usernsctl-network, the program that created the sandbox's network, exits.

    :raises UsernsError: the proxy could not be started.
    """
    if not request.allow:
        return None
    # Import the module here, because few runs need a proxy.
    from usernsctl.network.proxy_process import ProxyProcess

    return ProxyProcess(request.allow, log=None, is_json=request.log == "json")


def _with_handover(facts: Facts, proxy: ProxyProcess | None) -> Facts:
    """Return `facts` with the descriptor of the proxy's socket inserted into `network_command`."""
    if proxy is None:
        return facts
    words = network.with_handover(facts.network_command, proxy.handover.fileno())
    return replace(facts, network_command=tuple(words))


def _watch_options(
    result: ResultFile | None, proxy: ProxyProcess | None, max_output: str | None
) -> list[str]:
    """Return the options of the watcher that are not part of the planned launch."""
    return [
        *([] if result is None else [result.option]),
        *([] if result is None or proxy is None else [f"--denied={proxy.counts}"]),
        *([] if max_output is None else [f"--max-output={max_output}"]),
    ]


def _watch_fds(result: ResultFile | None, proxy: ProxyProcess | None) -> list[int]:
    """Return the descriptors that the watcher inherits in addition to those of the launch."""
    fds = [] if result is None else [*result.descriptors]
    if proxy is not None:
        fds += [proxy.handover.fileno(), proxy.counts]
        for fd in fds[-2:]:
            os.set_inheritable(fd, True)
    return fds


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _files_named(words: Iterable[str], directory: str) -> list[str]:
    """Return the elements of `words`, a command's arguments, that are paths of files on the host.

    Relative paths are resolved against `directory`.
    """
    return [
        word
        for word in words
        if word and not word.startswith("-") and os.path.lexists(os.path.join(directory, word))
    ]


# The functions below import launch/view only to report a failure. For a persistent namespace,
# cli/run imports the module before the process enters the namespace, because root in the namespace
# may have mounted another file over the module.


def _check_command(
    request: Request, values: StartValues, inside: NativeView, cwd: str, caller: Mapping[str, str]
) -> None:
    """Check that the command can be found and executed in the sandbox.

    :raises CommandError: the command can't be executed.
    """
    search = search_path(values.env)
    if inside.check_command(values.args[0], search, cwd) is None:
        return
    from usernsctl.gvisor.launch import view

    tree = request.rootfs or request.bundle
    seen = view.View(inside)
    view.check(values.args[0], seen, search=search, cwd=cwd, caller=caller, tree=tree)


def _start_directory(
    request: Request, facts: Facts, values: StartValues, inside: NativeView, directory: str
) -> str:
    """Return the working directory for the command, a path in the sandbox.

    :param directory: the current directory of this process.
    :raises CommandError: the directory that the request names is missing or denied.
    """
    if values.cwd is None:
        return directory if inside.has_directory(directory) else "/"
    wanted = request.cwd
    if wanted is not None and not (wanted.startswith("/") and inside.has_directory(wanted)):
        from usernsctl.gvisor.launch import view

        exists = facts.tree is None and os.path.isdir(wanted)
        remedy = view.COMMAND_LINE.show(wanted) if exists else None
        view.check_directory(view.View(inside), wanted, f"--wd {wanted}", remedy)
    return values.cwd


def _notify_hidden(
    request: Request,
    facts: Facts,
    inside: NativeView,
    named: list[str],
    directory: str,
    cwd: str,
    notify: Callable[[str], object],
) -> None:
    """Notify the user if an argument names a file of the host that does not exist in the sandbox.

    The command's own error would only say that the file does not exist.

    :param named: the arguments that name existing files of the host.
    """
    found = [path for path in named if inside.lacks(path, cwd)]
    if not found:
        return
    from usernsctl.gvisor.launch import view

    is_kept = request.cwd is None and facts.tree is None
    remedy = view.how_to_show(found[0], directory=directory, cwd=None if is_kept else cwd)
    others = f" and {len(found) - 1} more files that the command names" if found[1:] else ""
    notify(f"the sandbox lacks {quoted(found[0])}{others}; to mount it, {remedy}")
