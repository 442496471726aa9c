"""From a request to the exec of runsc.

Everything that can fail fails before that exec: the command has not run then, and since all that
was mounted or written lies in a mount namespace that no other process is in, nothing of it is left
when this process ends, however it ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from usernsctl import _core, hardening
from usernsctl._system import isolated, mounts, opened
from usernsctl._system.opened import Opened
from usernsctl._system.state import state_directory
from usernsctl._text import quoted
from usernsctl.commands.popen import pass_only, restore_signals
from usernsctl.errors import CommandError, NamespaceError, RunscError, UsernsError
from usernsctl.gvisor import config, environment, logs, oci, paths, runsc, view
from usernsctl.gvisor.config import OpenBundle, open_bundle
from usernsctl.gvisor.place import Place
from usernsctl.gvisor.request import Request
from usernsctl.gvisor.rootfs import Rootfs, refuse_state
from usernsctl.gvisor.runsc import PRIVATE_UMASK
from usernsctl.gvisor.stdio import append_at_end

VERIFIER_INSIDE = "/.usernsctl-verify"

_RESOLVER = "/etc/resolv.conf"
_RESOLVER_BYTES = 1 << 16

# What a sandbox must see, whosever home it is.
_PROGRAM_DIRECTORIES = (
    *environment.DEFAULT_PATH.split(":"),
    *("/etc", "/lib", "/lib32", "/lib64", "/opt", "/usr/lib", "/usr/share"),
)


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
    program = runsc.find(caller, request.program)
    assert request.kept is None or isinstance(request.kept, str)
    place = Place.kept(request.kept) if request.kept is not None else Place.new(request.idmap)
    if place.single_id_reason is not None:
        notify(f"going on with one id, as --allow-single-id allows: {place.single_id_reason}")
    config.check_ids(place, request.user or (0, 0))
    opened_bundle = open_bundle(request, request.bundle, place) if request.bundle else None
    bundle = opened_bundle.config if opened_bundle is not None else None
    used = resolve(request, program, opened_bundle)
    own = (one.path for one in (used.state, used.debug_log) if one is not None)
    for directory in (state_directory(), *own):
        refuse_state(used.sources, directory)
    outside = _look_outside(request, caller, used, program)

    if bundle is not None:
        _take_oom_score(bundle["process"])

    place.enter()
    # What is made here is seen inside, by other users too.
    os.umask(0o022)
    try:
        # Before the first mount, which could cover them.
        used = used.here()
        arguments = _build(request, place, used, outside, bundle, notify)
    except UsernsError:
        raise
    except OSError as error:
        raise _failure(error) from error
    _give_up(request, place)
    # What runsc writes is for the caller alone. The command has a umask of its own.
    os.umask(PRIVATE_UMASK)
    _hand_over(arguments, used, environment.for_runsc(is_named=request.program is not None))


def _take_oom_score(process: dict[str, Any]) -> None:
    """Give this process, and so all that come from it, the ``oomScoreAdj`` of a bundle.

    runsc would set it once the command runs, and fail where that has ended by then. That it is not
    below our own, which would be refused, was seen to (oci/check.py).

    :raises NamespaceError: it can't be set.
    """
    score = process.pop("oomScoreAdj", None)
    if score is None:
        return
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError as error:
        raise _failure(error) from error


def _failure(error: OSError) -> NamespaceError:
    return NamespaceError(
        f"{error.filename or 'the root filesystem'}: {error.strerror}",
        step="sandbox",
        errno=error.errno or 0,
        filename=error.filename,
    )


@dataclass(frozen=True, slots=True)
class _Outside:
    """What must be known of the caller before the namespace is entered."""

    caller: Mapping[str, str]
    homes: set[str]
    directory: str
    named: list[str]
    program: str
    scratch_place: str
    is_root: bool


def _look_outside(
    request: Request, caller: Mapping[str, str], used: paths.Paths, program: str
) -> _Outside:
    directory = _current_directory()
    return _Outside(
        caller=caller,
        homes=paths.home_directories(caller),
        directory=directory,
        named=view.files_named(request.args[1:], directory),
        program=program,
        scratch_place=used.scratch_place(),
        is_root=os.geteuid() == 0,
    )


def _build(
    request: Request,
    place: Place,
    used: paths.Paths,
    outside: _Outside,
    bundle: dict[str, Any] | None,
    notify: Callable[[str], object],
) -> list[str]:
    """Make the root filesystem and the bundle.

    :param notify: is told which files the command names and will not find.
    :returns: the arguments that start runsc on them, under a watcher (csrc/programs/watch/main.c).
    """
    scratch = mounts.mount_scratch(outside.scratch_place)
    root, wanted = make_root(
        request, place, used, scratch, bundle, homes=outside.homes, is_root=outside.is_root
    )
    process = wanted["process"]
    if request.cwd is not None or bundle is None:
        process["cwd"] = _start_directory(request, root, outside.directory, used)
    view.check(
        process["args"][0],
        root.view,
        search=config.environment_of(wanted).get("PATH", environment.DEFAULT_PATH),
        cwd=process.get("cwd") or "/",
        caller=outside.caller,
        tree=request.rootfs or request.bundle,
    )
    _tell_hidden(request, root, used, outside, process.get("cwd") or "/", notify)
    if used.verifier is not None:
        process["args"] = [VERIFIER_INSIDE, *process["args"]]
    options = _write_bundle(request, used, wanted, scratch)
    watcher, program = _show_programs(used, outside.program, scratch)
    written = options.logs
    explain = isolated.command(
        "usernsctl.gvisor.failure",
        *(written.errors, written.crash, written.debug, options.bundle),
    )
    # With a terminal, runsc passes signals on itself.
    kill = [] if request.terminal else runsc.kill_command(outside.program, options)
    run = runsc.command_line(outside.program, options)
    statuses = f"{runsc.FAILED},{runsc.CRASHED}"
    return [watcher, statuses, program, *explain, "--", *kill, "--", *run]


def _tell_hidden(
    request: Request,
    root: Rootfs,
    used: paths.Paths,
    outside: _Outside,
    cwd: str,
    notify: Callable[[str], object],
) -> None:
    """Say which argument names a file that is here and not inside; programs tell it badly."""
    found = view.hidden(outside.named, root.view, cwd=cwd)
    if not found:
        return
    is_kept = request.cwd is None and used.tree is None
    remedy = view.how_to_show(found[0], directory=outside.directory, cwd=None if is_kept else cwd)
    if remedy.startswith("--"):
        remedy = f"add {remedy}"
    others = f" and {len(found) - 1} more files that the command names" if found[1:] else ""
    notify(f"the sandbox does not show {quoted(found[0])}{others}; to show it, {remedy}")


def _show_programs(used: paths.Paths, runsc_path: str, scratch: Opened) -> tuple[str, str]:
    """The paths to execute the watcher and runsc by: nothing that is mounted can cover them."""
    os.mkdir("programs", 0o700, dir_fd=scratch.fd)
    directory = scratch.child("programs")
    watcher = show_program(used.watcher, directory)
    if is_script(used.runsc):
        return watcher, used.runsc.path
    # No mount, since runsc looks for files of its own beside its real path. And a link, since
    # processes are known by the name of what was executed.
    name = os.path.basename(runsc_path)
    os.symlink(f"/proc/self/fd/{used.runsc.fd}", name, dir_fd=directory.fd)
    return watcher, f"{directory.path}/{name}"


def show_program(program: Opened, directory: Opened) -> str:
    """Show a program in a directory of ours; returns its path there."""
    name = os.path.basename(program.path)
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=directory.fd))
    mounts.bind(program, directory.child(name), mounts.ATTR_RDONLY)
    return f"{directory.path}/{name}"


def is_script(program: Opened) -> bool:
    """Whether it is executed by an interpreter, which needs a path to read it by."""
    try:
        with open(program.open(), "rb") as file:
            return file.read(2) == b"#!"
    except PermissionError:
        return False


def resolve(request: Request, program: str, bundle: OpenBundle | None) -> paths.Paths:
    """Open what a request names besides its bundle.

    :raises UsernsError: something of it can't be had.
    """
    if bundle is not None:
        return paths.resolve(request, program, bundle.tree, bundle.sources)
    return paths.resolve(request, program, "/" if request.expose_root else request.rootfs)


def make_root(
    request: Request,
    place: Place,
    used: paths.Paths,
    scratch: Opened,
    bundle: dict[str, Any] | None,
    *,
    homes: set[str],
    is_root: bool,
) -> tuple[Rootfs, dict[str, Any]]:
    """Make the root filesystem in the empty directory `scratch`, and a config.json for it.

    :param bundle: the config.json of a bundle as :func:`config.read_bundle` gave it, or ``None``.
    :param homes: the home directories of the caller, which stay hidden.
    :param is_root: whether the caller is root, who may read more than programs inside should.
    """
    root = Rootfs(scratch)
    if used.tree is None:
        _show_machine(root, homes, is_root=is_root)
    else:
        root.show_tree(used.tree)
    wanted = _make_config(request, place, root, used, bundle)
    _complete(root, wanted, used, request)
    return root, wanted


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _show_machine(root: Rootfs, homes: set[str], *, is_root: bool) -> None:
    """The programs of this machine, without what is private in the directories shown."""
    root.show_programs(is_root=is_root)
    for home in sorted(homes):
        _hide_home(root, home)


def _hide_home(root: Rootfs, home: str) -> None:
    """Have an empty directory in place of a home.

    :raises CommandError: it is where the programs are.
    """
    try:
        walk = root.view.walk(home)
    except PermissionError:
        # Whoever can't look into a directory on the way can't inside, either.
        return
    kept = [name for name in _PROGRAM_DIRECTORIES if f"{name}/".startswith(f"{walk.inside}/")]
    if walk.complete and kept and walk.file is not None:
        # Some users of services have such a home in the user database, but it is not theirs.
        if walk.file.status.st_uid == 0:
            raise CommandError(
                f"{home} is a home directory, which a sandbox must not see, "
                f"but it has {kept[0]}, which it needs",
                step="home",
                filename=home,
                remedy="set HOME to a directory with nothing but your own files",
            )
    elif not root.is_shown(walk):
        root.add_directory(home)
    elif walk.complete and walk.file is not None and walk.file.is_directory:
        root.hide(walk.file)


def _make_config(
    request: Request,
    place: Place,
    root: Rootfs,
    used: paths.Paths,
    bundle: dict[str, Any] | None,
) -> dict[str, Any]:
    if bundle is not None:
        config.apply_request(bundle, request, root.top.path, used.binds)
        return bundle
    uid = request.user[0] if request.user is not None else 0
    env = {"HOME": environment.home(uid), **request.env}
    return config.for_command(request, place, root.top.path, used.binds, env)


def _complete(root: Rootfs, wanted: dict[str, Any], used: paths.Paths, request: Request) -> None:
    """All else that must be in the root filesystem, before it is made read-only."""
    if used.verifier is not None:
        root.show_file(used.verifier, VERIFIER_INSIDE)
    if request.network == "host":
        _show_resolver(root)
    mounted = wanted.get("mounts") or []
    # gVisor mounts what is above first, and runsc must do so too, or it would show what is below
    # the mount that covers it.
    mounted.sort(key=lambda mount: os.path.normpath(mount["destination"]).count("/"))
    binds = config.bind_mounts(wanted)
    for mount in binds:
        mount["source"], mount["destination"] = root.expect_bind(
            used.sources[mount["source"]],
            mount["destination"],
            read_only=config.is_read_only(mount),
        )
    for mount in mounted:
        if mount not in binds:
            root.expect_mount(mount["destination"], is_empty=mount.get("type") == "tmpfs")
    root.finish()


def _show_resolver(root: Rootfs) -> None:
    """Where resolv.conf links to a file in /run, as it often does, have a copy of it there."""
    try:
        found = opened.follow(_RESOLVER)
        if root.view.walk(_RESOLVER).complete or not stat.S_ISREG(found.status.st_mode):
            return
        with open(found.open(), "rb") as file:
            content = file.read(_RESOLVER_BYTES)
    except (FileNotFoundError, PermissionError):
        return
    root.add_file(_RESOLVER, content)


def _start_directory(request: Request, root: Rootfs, start: str, used: paths.Paths) -> str:
    """Where the command starts.

    :raises CommandError: the directory asked for is not there.
    """
    if request.cwd is None:
        is_machine = used.tree is None or used.tree.path == "/"
        if not is_machine or not root.has_directory(start):
            return "/"
        return start
    exists = used.tree is None and os.path.isdir(request.cwd)
    remedy = view.show_remedy(request.cwd) if exists else None
    view.check_directory(root.view, request.cwd, f"--wd {request.cwd}", remedy)
    return request.cwd


def _write_bundle(
    request: Request, used: paths.Paths, wanted: dict[str, Any], scratch: Opened
) -> runsc.RunOptions:
    for name in ("bundle", "state", "log"):
        os.mkdir(name, 0o700, dir_fd=scratch.fd)
    with open(f"{scratch.path}/bundle/config.json", "wb") as file:
        file.write(oci.serialise(wanted))
    return runsc.RunOptions(
        state=used.state.path if used.state is not None else f"{scratch.path}/state",
        logs=_make_logs(used.debug_log, scratch),
        bundle=f"{scratch.path}/bundle",
        # A second container of the same name would take the first one's state with it.
        container_id=f"usernsctl-{os.urandom(8).hex()}",
        network=request.network,
        platform=request.platform,
        debug=used.debug_log is not None,
    )


def _make_logs(debug_log: Opened | None, scratch: Opened) -> runsc.Logs:
    own = f"{scratch.path}/log"
    if debug_log is not None:
        return logs.kept(show_debug_log(debug_log, scratch), own)
    crash = f"{own}/crash"
    os.mkdir(crash)
    mounts.mount_tmpfs(crash, logs.CRASH_BYTES)
    logs.prepare(own)
    return logs.quiet(own, f"{crash}/report")


def show_debug_log(directory: Opened, scratch: Opened) -> str:
    """Show the directory for debug logs where nobody can have its path lead elsewhere.

    :returns: its path there.
    """
    os.mkdir("debug-log", 0o700, dir_fd=scratch.fd)
    shown = scratch.child("debug-log")
    mounts.bind(directory, shown, mounts.ATTR_NOSUID | mounts.ATTR_NODEV)
    return shown.path


def _give_up(request: Request, place: Place) -> None:
    hardening.for_run(
        no_new_privs=request.no_new_privs, drop_bounding=request.drop_bounding, ids=place.id_count
    ).apply()


def _hand_over(arguments: list[str], used: paths.Paths, environ: dict[str, str]) -> NoReturn:
    """Execute the watcher, with standard input, output and error, and the program that is runsc.

    :raises RunscError: the kernel refused.
    """
    _prepare_standard()
    # The watcher passes it on to nobody (csrc/programs/watch/main.c).
    pass_only([used.runsc.fd])
    restore_signals()
    # The directory we were in may lie under the tmpfs.
    os.chdir("/")
    try:
        # A script is executed by its path.
        used.runsc.here()
        os.execve(arguments[0], arguments, environ)
    except OSError as error:
        raise RunscError(
            f"{error.filename or arguments[0]}: {error.strerror}",
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
    # What gVisor does to their flags is not done to the caller's (see Confined).
    _core.apply_setup(_core.Setup(own_stdio=True))
