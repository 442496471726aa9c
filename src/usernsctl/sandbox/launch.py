"""From a request to the exec of runsc.

Everything that can fail fails before that exec: the command has not run then, and since all that
was mounted or written lies in a mount namespace that no other process is in, nothing of it is left
when this process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from usernsctl import hardening, mounts, oci, runsc
from usernsctl.errors import CommandError, NamespaceError, RunscError, UsernsError
from usernsctl.process import pass_only, restore_signals
from usernsctl.sandbox import command, config, environment, logs, paths
from usernsctl.sandbox.exposed import refuse_state
from usernsctl.sandbox.files import PRIVATE_UMASK
from usernsctl.sandbox.place import Place
from usernsctl.sandbox.request import Request
from usernsctl.sandbox.rootfs import Rootfs, private_files
from usernsctl.sandbox.standard import append_at_end
from usernsctl.state import state_directory

VERIFIER_INSIDE = "/.usernsctl-verify"

_RESOLVER = "/etc/resolv.conf"


def run(
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
    if request.terminal and not os.isatty(0):
        # gVisor would wait for a terminal that isn't there.
        raise CommandError("a terminal was asked for, but standard input is none", step="terminal")
    program = runsc.find(caller)
    place = Place.kept(request.kept) if request.kept else Place.new(request.idmap)
    if place.single_id_reason is not None:
        notify(f"going on with one id, as --allow-single-id allows: {place.single_id_reason}")
    config.check_ids(place, request.user or (0, 0))
    bundle = config.read_bundle(request, request.bundle, place) if request.bundle else None
    used = paths.resolve(request, program, tree_of(request, bundle))
    shown = [mount["source"] for mount in config.bind_mounts(bundle or {})]
    refuse_state([*shown, *(bind.source for bind in used.binds)], state_directory())
    outside = _Outside(
        caller=caller,
        homes=paths.home_directories(caller),
        directory=_current_directory(),
        scratch_place=used.scratch_place(shown),
    )

    place.enter()
    # What is made here is seen inside, by other users too.
    os.umask(0o022)
    try:
        arguments = _build(request, place, used, outside, bundle)
    except UsernsError:
        raise
    except OSError as error:
        raise NamespaceError(
            f"{error.filename or 'the root filesystem'}: {error.strerror}",
            step="sandbox",
            errno=error.errno or 0,
            filename=error.filename,
        ) from error
    _give_up(request, place)
    os.umask(PRIVATE_UMASK)
    _hand_over(arguments)


@dataclass(frozen=True, slots=True)
class _Outside:
    """What must be known of the caller before the namespace is entered."""

    caller: Mapping[str, str]
    homes: set[str]
    directory: str
    scratch_place: str


def _build(
    request: Request,
    place: Place,
    used: paths.Paths,
    outside: _Outside,
    bundle: dict[str, Any] | None,
) -> list[str]:
    """Make the root filesystem and the bundle.

    :returns: the arguments that start runsc on them, under a watcher (csrc/watch.c).
    """
    scratch = mounts.mount_scratch(outside.scratch_place)
    root, wanted = make_root(request, place, used, outside.homes, scratch, bundle)
    process = wanted["process"]
    if request.cwd is not None or bundle is None:
        process["cwd"] = _start_directory(request, root, outside.directory, used)
    command.check(
        process["args"][0],
        root.view,
        search=config.environment_of(wanted).get("PATH", environment.DEFAULT_PATH),
        cwd=process.get("cwd") or "/",
        caller=outside.caller,
    )
    if used.verifier is not None:
        process["args"] = [VERIFIER_INSIDE, *process["args"]]
    options = _write_bundle(request, used, wanted, scratch)
    explain = [sys.executable, "-I", "-m", "usernsctl.sandbox.failure"]
    explain += [options.logs.errors, options.logs.crash, options.logs.debug, options.bundle]
    # With a terminal, runsc passes signals on itself.
    kill = [] if request.terminal else runsc.kill_command(used.runsc, options)
    run = runsc.command_line(used.runsc, options)
    return [used.watcher, f"{runsc.FAILED},{runsc.CRASHED}", *explain, "--", *kill, "--", *run]


def make_root(
    request: Request,
    place: Place,
    used: paths.Paths,
    homes: set[str],
    scratch: str,
    bundle: dict[str, Any] | None,
) -> tuple[Rootfs, dict[str, Any]]:
    """Make the root filesystem in the empty directory `scratch`, and a config.json for it.

    :param homes: the home directories of the caller, which stay hidden.
    :param bundle: the config.json of a bundle as :func:`config.read_bundle` gave it, or ``None``.
    """
    root = Rootfs(scratch)
    if used.tree is None:
        _show_machine(root, homes)
    else:
        root.show_tree(used.tree)
    wanted = _make_config(request, place, root, used, bundle)
    _complete(root, wanted, used, request)
    return root, wanted


def tree_of(request: Request, bundle: dict[str, Any] | None) -> str | None:
    """The directory to be shown as it is, or ``None`` for this machine's programs."""
    if bundle is not None:
        return str(bundle["root"]["path"])
    return "/" if request.expose_root else request.rootfs


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _show_machine(root: Rootfs, homes: set[str]) -> None:
    """The programs of this machine, without what is private in the directories shown."""
    root.show_programs()
    # Root and members of some groups may read more than the programs inside should.
    for path in private_files("/etc"):
        root.hide(path)
    for home in sorted(homes):
        if home.startswith("/opt/"):
            if os.path.isdir(home):
                root.hide(os.path.realpath(home))
        elif not root.is_shown(home):
            root.add_directory(home)


def _make_config(
    request: Request,
    place: Place,
    root: Rootfs,
    used: paths.Paths,
    bundle: dict[str, Any] | None,
) -> dict[str, Any]:
    if bundle is not None:
        config.apply_request(bundle, request, root.top, used.binds)
        return bundle
    uid = request.user[0] if request.user is not None else 0
    env = {"HOME": environment.home(uid), **request.env}
    return config.for_command(request, place, root.top, used.binds, env)


def _complete(root: Rootfs, wanted: dict[str, Any], used: paths.Paths, request: Request) -> None:
    """All else that must be in the root filesystem, before it is made read-only."""
    if used.verifier is not None:
        root.show_file(used.verifier, VERIFIER_INSIDE)
    if request.network == "host":
        _show_resolver(root)
    for mount in config.bind_mounts(wanted):
        root.expect_bind(mount["source"], mount["destination"])
    for destination in config.empty_mounts(wanted):
        root.expect_empty(destination)
    root.finish()


def _show_resolver(root: Rootfs) -> None:
    """Where resolv.conf links to a file in /run, as it often does, have a copy of it there."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        with open(_RESOLVER, "rb") as file:
            content = file.read()
        if not root.view.walk(_RESOLVER).complete:
            root.add_file(_RESOLVER, content)


def _start_directory(request: Request, root: Rootfs, start: str, used: paths.Paths) -> str:
    """Where the command starts.

    :raises CommandError: the directory asked for is not there.
    """
    if request.cwd is None:
        if used.tree not in (None, "/") or not root.has_directory(start):
            return "/"
        return start
    if not request.cwd.startswith("/"):
        raise CommandError(
            f"--wd {request.cwd}: it must be an absolute path", step="chdir", filename=request.cwd
        )
    if not command.is_unknown(request.cwd) and not root.has_directory(request.cwd):
        exists = os.path.isdir(request.cwd) and used.tree is None
        raise CommandError(
            f"--wd {request.cwd}: there is no such directory in the sandbox",
            step="chdir",
            filename=request.cwd,
            remedy=f"--bind {request.cwd}" if exists else None,
        )
    return request.cwd


def _write_bundle(
    request: Request, used: paths.Paths, wanted: dict[str, Any], scratch: str
) -> runsc.RunOptions:
    bundle = f"{scratch}/bundle"
    os.mkdir(bundle)
    with open(f"{bundle}/config.json", "wb") as file:
        file.write(oci.serialise(wanted))
    state = used.state or f"{scratch}/state"
    paths.make_directory(state)
    return runsc.RunOptions(
        state=state,
        logs=_make_logs(used.debug_log, scratch),
        bundle=bundle,
        # A second container of the same name would take the first one's state with it.
        container_id=f"usernsctl-{os.urandom(8).hex()}",
        network=request.network,
        platform=request.platform,
        debug=used.debug_log is not None,
    )


def _make_logs(debug_log: str | None, scratch: str) -> runsc.Logs:
    own = f"{scratch}/log"
    os.mkdir(own)
    if debug_log is not None:
        paths.make_directory(debug_log)
        return logs.kept(debug_log, own)
    crash = f"{own}/crash"
    os.mkdir(crash)
    mounts.mount_tmpfs(crash, logs.CRASH_BYTES)
    logs.prepare(own)
    return logs.quiet(own, f"{crash}/report")


def _give_up(request: Request, place: Place) -> None:
    hardening.for_run(
        no_new_privs=request.no_new_privs, drop_bounding=request.drop_bounding, ids=place.id_count
    ).apply()


def _hand_over(arguments: list[str]) -> NoReturn:
    """Execute the watcher, with nothing of ours but standard input, output and error.

    :raises RunscError: the kernel refused.
    """
    _prepare_standard()
    pass_only(())
    restore_signals()
    # The directory we were in may lie under the tmpfs.
    os.chdir("/")
    try:
        os.execve(arguments[0], arguments, environment.RUNSC)
    except OSError as error:
        raise RunscError(
            f"{arguments[0]}: {error.strerror}",
            step="runsc",
            errno=error.errno or 0,
            filename=arguments[0],
        ) from error


def _prepare_standard() -> None:
    """Make standard input, output and error fit to be shared with runsc."""
    for descriptor in (0, 1, 2):
        try:
            append_at_end(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
