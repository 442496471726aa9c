"""Functions that plan a launch from a request and from facts about the host.

The functions themselves do not access the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from usernsctl._lean import Any, dataclass, replace
from usernsctl.gvisor import oci
from usernsctl.gvisor.launch import facts as launch_facts
from usernsctl.gvisor.launch.facts import Facts
from usernsctl.gvisor.launch.options import default_home
from usernsctl.gvisor.launch.request import SHOWN, Bind, Request
from usernsctl.gvisor.launch.steps import (
    AGENT_INSIDE,
    BOXES,
    CRASHES,
    EMPTY_DIRECTORY,
    SCRATCH,
    STAMP,
    VERIFIER_INSIDE,
    IfSeveralIds,
    Launch,
    Placeholder,
    Record,
    Source,
    StartValues,
    literal,
    record,
)
from usernsctl.gvisor.runsc.command import (
    CRASH_BYTES,
    DISCARDED_LOGS,
    RunOptions,
    command_line,
    debug_log_files,
    debug_log_paths,
    kill_command,
    private_log_paths,
    raise_command,
)
from usernsctl.maps import MappedIds

# Directories that programs expect in a root filesystem, with their modes. They are created empty.
EMPTY = {
    "dev": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
}
LINKS = {"var/run": "/run", "var/lock": "/run/lock"}


# Capabilities that root in the sandbox needs to use several ids, and to write to files of other
# users. They apply only in gVisor's kernel, not in the host's.
_ROOT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
)


def for_command(
    request: Request, ids: MappedIds, rootfs: str, binds: tuple[Bind, ...], env: Mapping[str, str]
) -> dict[str, Any]:
    """Build the config.json for a command, with ``cwd`` set to ``/``.

    :param binds: the bind mounts of the request, with real paths as sources.
    :raises BundleError: config.json can't hold a value, such as a string that is not UTF-8.
    """
    uid, gid = launch_facts.ids_of(request)
    return oci.build(
        oci.BuildOptions(
            args=request.args,
            rootfs=rootfs,
            uid_map=ids.uid,
            gid_map=ids.gid,
            env=env,
            # Do not declare the root read-only, because runsc creates no overlay over such a root.
            # Writes go to the overlay; the root itself is protected by a read-only mount.
            read_only=False,
            uid=uid,
            gid=gid,
            hostname=request.hostname,
            mounts=[_mount(bind) for bind in binds],
            terminal=request.terminal,
            rlimits=request.rlimits,
            capabilities=_ROOT_CAPABILITIES if ids.count > 1 or request.writable_root else (),
            no_new_privileges=request.no_new_privs,
        )
    )


def apply_request(
    config: dict[str, Any], request: Request, rootfs: str, binds: tuple[Bind, ...]
) -> None:
    """Change the config.json of a bundle, in place, as the options of a request require.

    :param config: the result of :func:`read_bundle`.
    :param rootfs: the path of the root filesystem, for the member ``root``.
    """
    config["root"]["path"] = rootfs
    process = config["process"]
    if request.args:
        process["args"] = list(request.args)
    kept = [e for e in process.get("env") or () if e.partition("=")[0] not in request.env]
    process["env"] = [*kept, *(f"{name}={value}" for name, value in request.env.items())]
    if request.user is not None:
        uid, gid = launch_facts.ids_of(request)
        process["user"] = {"uid": uid, "gid": gid}
    if request.groups:
        process["user"] = {**process["user"], "additionalGids": list(request.groups)}
    process["terminal"] = request.terminal
    if request.rlimits:
        process["rlimits"] = [
            {"type": limit.type, "soft": limit.soft, "hard": limit.hard}
            for limit in request.rlimits
        ]
    if request.writable_root:
        given = process.get("capabilities") or {}
        process["capabilities"] = {
            kind: sorted({*(given.get(kind) or ()), *_ROOT_CAPABILITIES})
            for kind in ("bounding", "effective", "permitted")
        }
    if request.hostname is not None:
        config["hostname"] = request.hostname
    added = [
        {
            "destination": mount.destination,
            "type": mount.type,
            "source": mount.source,
            "options": list(mount.options),
        }
        for mount in map(_mount, binds)
    ]
    config["mounts"] = [*(config.get("mounts") or ()), *added]
    oci.validate(config)


def _mount(bind: Bind) -> oci.Mount:
    return oci.Mount.bind(bind.source, bind.destination, read_only=bind.read_only)


#: The value of --wd for the current directory. In a launch file, the value means the current
#: directory of the process that performs the launch, not that of the file's creator.
HERE = "."

# The command in the config.json of a launch whose command is known only when the launch is
# performed: a config.json without a command is invalid.
_NO_COMMAND = ("true",)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeOptions:
    """The attributes that only a frozen launch (a launch that is written to a file) has.

    :ivar programs: runsc and programs of this package. Each has a path, and the arguments of the
        ``assume`` record by which the core checks that the program is unchanged.
    :ivar remedy: the shell command that writes the launch file again, or ``None``.
    :ivar ids: options of ``usernsctl-exec`` that create the user namespace.
    :ivar env: records for environment variables of the command, in addition to the variables that a
        bundle sets.
    :ivar terminal: whether the command needs a terminal; ``None`` for a command that uses a
        terminal if one is available.
    """

    programs: tuple[tuple[str, tuple[object, ...]], ...] = ()
    remedy: str | None = None
    ids: tuple[str, ...] = ()
    env: tuple[Record, ...] = ()
    terminal: bool | None = None


def plan_run(request: Request, facts: Facts, frozen: FreezeOptions | None = None) -> Launch:
    """Plan the launch of a command.

    :param frozen: the options of a frozen launch, or ``None`` if the launch is not frozen.
    :raises PlanError: an id that the run needs is not mapped.
    :raises BundleError: config.json can't hold a value, such as a string that is not UTF-8.
    """
    launch_facts.check_ids(
        facts.ids, launch_facts.ids_of(request), nests=facts.verifier is not None
    )
    programs = filter(
        None, (facts.runsc_file, facts.watcher, facts.verifier, *facts.network_command[:1])
    )
    sources = _Sources(facts, programs, is_frozen=frozen is not None)
    wanted = make_config(request, facts)
    score = wanted["process"].pop("oomScoreAdj", None)
    steps = tuple(root_steps(request, facts, wanted, sources))
    files = tuple(_files(facts, sources))
    values = _start_values(request, facts, wanted)
    run, watcher = _commands(request, facts)
    launch = Launch(
        version=facts.version,
        oom_score=score,
        sources=tuple(sources.all),
        scratch=facts.scratch,
        steps=steps,
        files=files,
        config=_with_placeholders(wanted, request, facts),
        start_values=values,
        given_up=tuple(_given_up(request, facts)),
        watcher=watcher,
        runsc=run,
        runsc_env=tuple(f"{name}={value}" for name, value in facts.runsc_env.items()),
    )
    return launch if frozen is None else _freeze(launch, request, facts, frozen)


def plan_host(
    request: Request, facts: Facts, programs: Sequence[str], agent: str
) -> tuple[Launch, dict[str, Any]]:
    """Plan the root filesystem and the files that all sandboxes of a SandboxHost share.

    :param programs: paths of those programs of this package that are mounted in the directory
        ``programs``.
    :param agent: the path of the agent, the program that starts commands in a running sandbox.
    :returns: a launch without a command, and the config.json for a sandbox, with a
        :class:`Placeholder` for each value that is known only when the launch is performed.
    :raises PlanError: an id that the run needs is not mapped.
    :raises BundleError: config.json can't hold a value, such as a string that is not UTF-8.
    """
    launch_facts.check_ids(facts.ids, (0, 0))
    sources = _Sources(facts, [*programs, agent])
    wanted = make_config(request, facts)
    wanted["root"]["path"] = Placeholder(record("json-root"))
    # Mount the agent read-only. Root in the sandbox may write to the root directory, and could
    # otherwise replace the agent by a program that would run with the agent's privileges.
    shown = oci.mount_entry(oci.Mount.bind(agent, AGENT_INSIDE))
    wanted["mounts"] = [*(wanted.get("mounts") or ()), shown]
    steps = tuple(root_steps(request, facts, wanted, sources, agent))
    files = tuple(_host_files(facts, programs, sources))
    launch = Launch(
        version=facts.version,
        sources=tuple(sources.all),
        scratch=facts.scratch,
        steps=steps,
        files=files,
    )
    return launch, wanted


def _host_files(facts: Facts, programs: Sequence[str], sources: _Sources) -> Iterable[Record]:
    for name in (BOXES, "programs", EMPTY_DIRECTORY, CRASHES):
        yield record("make", name, "700")
    yield record("tmpfs", CRASHES, CRASH_BYTES)
    if facts.debug_log is not None:
        yield record("debug-log", sources.user_file(facts.debug_log))
    for path in programs:
        yield record("program", sources.own(path))
    # Execute runsc by its path, because runsc searches its own directory for sidecar programs.
    yield record("program-path", sources.own(facts.runsc_file))


class _Sources:
    """The list of the files that a launch opens. Records refer to a file by its index."""

    def __init__(self, facts: Facts, programs: Iterable[str], *, is_frozen: bool = False) -> None:
        # Paths in a launch file contain no symbolic links. When the launch is performed, a symbolic
        # link in a path is rejected, because a program in a sandbox may have planted the link in a
        # writable directory.
        self._follow_rule = "exact" if is_frozen else "follow"
        self.all: list[Source] = []
        for path in programs:
            self.own(path)
        for path in filter(None, (facts.state, facts.debug_log)):
            self.user_file(path)

    def own(self, path: str) -> int:
        """Return the index of runsc or of a program of this package; add the file if necessary."""
        return self._index(Source("own", path))

    def user_file(self, path: str) -> int:
        """Return the index of a file that the user has named; add the file if necessary."""
        return self._index(Source(self._follow_rule, path))

    def _index(self, source: Source) -> int:
        if source not in self.all:
            self.all.append(source)
        return self.all.index(source)


def make_config(request: Request, facts: Facts) -> dict[str, Any]:
    """Return a config.json for a request, in which sources of bind mounts are paths on the host."""
    if facts.bundle is not None:
        import copy

        wanted = copy.deepcopy(dict(facts.bundle))
        apply_request(wanted, request, "/", facts.binds)
    else:
        uid, _ = launch_facts.ids_of(request)
        env = {"HOME": default_home(uid), **request.env}
        named = replace(request, args=request.args or _NO_COMMAND)
        wanted = for_command(named, facts.ids, "/", facts.binds, env)
    # Sort the mounts as gVisor does, parent directories first, so that runsc keeps the order. A
    # mount over a parent directory would hide earlier mounts below it.
    limit_tmpfs(wanted, facts.disk)
    mounted = wanted.get("mounts") or []
    mounted.sort(key=lambda mount: os.path.normpath(mount["destination"]).count("/"))
    return wanted


def root_steps(
    request: Request,
    facts: Facts,
    wanted: dict[str, Any],
    sources: _Sources,
    agent: str | None = None,
) -> Iterable[Record]:
    """Yield the records that create the root filesystem, and put placeholders in `wanted`.

    :param wanted: the config.json, in which the paths of bind mounts become placeholders.
    :param agent: the path of the agent if `wanted` contains a bind mount of the agent.
    """
    if facts.tree is None:
        yield from _machine(facts)
    else:
        yield record("tree", sources.user_file(facts.tree))
    if facts.verifier is not None:
        yield record("file", sources.own(facts.verifier), VERIFIER_INSIDE)
    if request.network == "host":
        yield record("resolver")
    binds = oci.bind_mounts(wanted)
    for number, mount in enumerate(binds):
        if agent is not None and mount["source"] == agent:
            source = sources.own(agent)
        else:
            source = sources.user_file(facts.sources[mount["source"]])
        access = "ro" if oci.is_read_only(mount) else "rw"
        yield record("bind", source, mount["destination"], access)
        mount["source"] = Placeholder(record("json-bind-source", number))
        mount["destination"] = Placeholder(record("json-bind-destination", number))
    for mount in wanted.get("mounts") or ():
        if not any(mount is bind for bind in binds):
            shows = "empty" if mount.get("type") == "tmpfs" else "other"
            yield record("mount", mount["destination"], shows)
    yield record("read-only")


def _machine(facts: Facts) -> Iterable[Record]:
    """Yield the records for a root filesystem with the host's programs, but no private files."""
    for name in SHOWN:
        if name != "etc":
            yield record("machine", name)
        elif facts.homes is None:
            # The user who will perform a frozen launch is not known yet. When the launch is
            # performed, the record "guarded" acts as "snapshot" if that user is root, otherwise as
            # the records in the else clause.
            yield record("guarded", name)
        elif facts.is_root:
            # Copy those files of /etc that every user may read. In a bind mount of /etc, runsc as
            # root could read private files that are created later.
            yield record("snapshot", name)
        else:
            yield record("machine", name)
            # Hide private files, because the caller's groups may be allowed to read more than
            # programs in the sandbox should read.
            yield record("hide-private", "/etc")
    for path, mode in EMPTY.items():
        yield record("directory", f"/{path}", f"{mode:o}")
    for path, target in LINKS.items():
        yield record("link", f"/{path}", target)
    if facts.homes is None:
        yield record("home-moment")
    for home in sorted(facts.homes or ()):
        yield record("home", home)


def limit_tmpfs(config: dict[str, Any], size: int) -> None:
    """Set the size limit of each tmpfs in a config.json, which is changed in place.

    :param size: the limit in bytes; 0 changes nothing.
    """
    for mount in config.get("mounts") or ():
        if size and mount.get("type") == "tmpfs":
            options = mount.get("options") or ()
            kept = [option for option in options if not option.startswith("size=")]
            mount["options"] = [*kept, f"size={size}"]


def _files(facts: Facts, sources: _Sources) -> Iterable[Record]:
    """Yield the records for the run's own files, such as runsc's state and logs."""
    limits = facts.enforced
    numbers = (limits.memory, limits.processors, limits.groups) if limits else (0, 0, 0)
    yield record("limits", *numbers)
    if facts.disk:
        yield record("make", "disk", "700")
        yield record("tmpfs", "disk", facts.disk)
    for name in ("bundle", "state", "log", "programs", EMPTY_DIRECTORY):
        yield record("make", name, "700")
    if facts.debug_log is not None:
        yield record("debug-log", sources.user_file(facts.debug_log))
        for name in debug_log_files(STAMP):
            yield record("touch", f"debug-log/{name}")
    else:
        yield record("make", "log/crash", "755")
        yield record("tmpfs", "log/crash", CRASH_BYTES)
        for name in DISCARDED_LOGS:
            yield record("discard", f"log/{name}")
    yield record("program", sources.own(facts.watcher))
    if facts.network_command:
        yield record("program", sources.own(facts.network_command[0]))
    number = sources.own(facts.runsc_file)
    if facts.runsc_is_script:
        yield record("program-path", number)
    else:
        # Create a symbolic link, not a bind mount, because runsc searches for sidecar programs in
        # the directory of its real path. The link has the file name of runsc, which becomes the
        # name of the process.
        yield record("program-link", number, f"programs/{literal(os.path.basename(facts.runsc))}")


def _commands(request: Request, facts: Facts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the argv of runsc, and the argv of the watcher (csrc/programs/watch/main.c)."""
    own = f"{SCRATCH}/log"
    if facts.debug_log is not None:
        written = debug_log_paths(f"{SCRATCH}/debug-log", own, STAMP)
    else:
        written = private_log_paths(own, f"{own}/crash/report")
    options = RunOptions(
        state=literal(facts.state) if facts.state is not None else f"{SCRATCH}/state",
        logs=written,
        bundle=f"{SCRATCH}/bundle",
        # The id must be unique: a second container with the same id would delete the first
        # container's state.
        container_id="usernsctl-@i",
        network=request.network,
        platform=request.platform,
        debug=facts.debug_log is not None,
        disk=f"{SCRATCH}/disk" if facts.disk else None,
    )
    name = literal(facts.runsc)
    programs = f"{SCRATCH}/programs"
    watcher = f"{programs}/{literal(os.path.basename(facts.watcher))}"
    program = literal(facts.runsc_file)
    if not facts.runsc_is_script:
        program = f"{programs}/{os.path.basename(name)}"
    kill = kill_command(name, options)
    has_verifier = facts.verifier is not None
    realtime = raise_command(name, options, VERIFIER_INSIDE) if has_verifier else []
    run = [*_network_words(facts, programs), *command_line(name, options)]
    watched = [
        *(["--reraise-signal"] if request.reraise_signal else []),
        *(["--log=json"] if request.log == "json" else []),
        *([] if request.start_timeout is None else [f"--start-timeout={request.start_timeout}"]),
        *([f"--limits={facts.enforced.words}"] if facts.enforced is not None else []),
        *(program, written.errors, written.crash, written.debug, options.bundle),
    ]
    return tuple(run), (watcher, *watched, "--", *kill, "--", *realtime, "--", *run)


def _network_words(facts: Facts, programs: str) -> list[str]:
    if not facts.network_command:
        return []
    # Import the module here, because few runs have a network.
    from usernsctl.gvisor.launch.network import words_for

    return words_for([*map(literal, facts.network_command)], programs)


def skips_membarrier(request: Request, *, is_script: bool) -> bool:
    """Return whether runsc's registrations for membarrier(2) are suppressed by a seccomp filter.

    A registration delays the start of each process of runsc, and only the platform kvm uses
    membarrier(2). The filter (csrc/sys/membarrier_filter.c) makes a registration succeed without
    effect.

    The filter is installed only if no other program inherits it, because other programs may depend
    on the registration. Without no_new_privs, set-user-id programs could inherit the filter.

    :param is_script: whether an interpreter executes runsc.
    """
    others = is_script or request.allow_hooks or not request.no_new_privs
    return not others and request.platform != "kvm"


def _given_up(request: Request, facts: Facts) -> Iterable[Record]:
    if request.no_new_privs:
        yield record("no-new-privs")
    if request.drop_bounding:
        yield record("drop-bounding")
    if facts.network_command:
        yield record("private-network")
    if skips_membarrier(request, is_script=facts.runsc_is_script):
        yield record("no-membarrier")


def _start_values(request: Request, facts: Facts, wanted: Mapping[str, Any]) -> StartValues:
    process = wanted["process"]
    cwd = request.cwd
    if cwd is None and facts.bundle is not None:
        cwd = process.get("cwd") or "/"
    if cwd is None and facts.tree not in (None, "/"):
        # Start in /: the path of the caller's current directory would name another directory in
        # this root filesystem.
        cwd = "/"
    return StartValues(
        args=tuple(process["args"]),
        env=tuple(process.get("env") or ()),
        cwd=cwd,
        user=launch_facts.ids_of(request),
        groups=request.groups,
        terminal=request.terminal,
    )


def _with_placeholders(wanted: dict[str, Any], request: Request, facts: Facts) -> dict[str, Any]:
    """Put placeholders in `wanted` for values that are known only at launch; return `wanted`."""
    process = wanted["process"]
    verifier = [] if facts.verifier is None else [VERIFIER_INSIDE]
    if verifier and request.log == "json":
        verifier.append("--log=json")
    process["args"] = [*verifier, Placeholder(record("json-args"))]
    process["env"] = [Placeholder(record("json-env"))]
    process["cwd"] = Placeholder(record("json-cwd"))
    process["terminal"] = Placeholder(record("json-terminal"))
    if request.user is not None or facts.bundle is None:
        process["user"] = Placeholder(record("json-user"))
    limits = process.get("rlimits") or []
    if not any(limit["type"] == "RLIMIT_NOFILE" for limit in limits):
        process["rlimits"] = [*limits, Placeholder(record("json-open-files"))]
    wanted["root"]["path"] = Placeholder(record("json-root"))
    for kind, extents in (("uid", facts.ids.uid), ("gid", facts.ids.gid)):
        if wanted["linux"][f"{kind}Mappings"] == oci.identity_mappings(extents):
            wanted["linux"][f"{kind}Mappings"] = [Placeholder(record(f"json-{kind}-map"))]
    return wanted


def _freeze(launch: Launch, request: Request, facts: Facts, frozen: FreezeOptions) -> Launch:
    """Convert `launch` to a frozen launch, without the values of the process that performs it."""
    assert launch.config is not None
    assert launch.start_values is not None
    import copy

    given = copy.deepcopy(dict(launch.config))
    has_some = facts.bundle is None and not request.writable_root
    if has_some and "capabilities" in given["process"]:
        given["process"]["capabilities"] = IfSeveralIds(given["process"]["capabilities"])
    if given.get("hostname") is None:
        given["hostname"] = Placeholder(record("json-hostname"))
    policy = [*(record("env-set", setting) for setting in launch.start_values.env), *frozen.env]
    if request.cwd == HERE:
        policy.append(record("cwd-moment"))
    elif launch.start_values.cwd is not None:
        policy.append(record("cwd", launch.start_values.cwd))
    if frozen.terminal is not False:
        policy.append(record("terminal-need" if frozen.terminal else "terminal-moment"))
    if request.args or facts.bundle is not None:
        policy += [record("arg", word) for word in launch.start_values.args]
    user = launch_facts.ids_of(request)
    programs = [Source("own", path) for path, _ in frozen.programs]
    # Add the sidecar programs, which are not in launch.sources: runsc executes them itself, so no
    # step of the launch refers to them.
    sources = [*launch.sources, *(one for one in programs if one not in launch.sources)]
    return replace(
        launch,
        remedy=frozen.remedy,
        sources=tuple(sources),
        assumptions=tuple(
            record("assume", sources.index(Source("own", path)), *words)
            for path, words in frozen.programs
        ),
        ids=frozen.ids,
        user=user,
        groups=request.groups,
        config=given,
        start_values=None,
        policy=tuple(policy),
    )
