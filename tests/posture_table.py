"""Intended postures of all processes that run a sandbox.

Each kind of process has a row, and each property a column; `posture.py` explains the columns and
the words in the cells. A commit that changes a posture must change the table, too, to confirm that
the change is intended. Comments name postures that could be more restrictive.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from posture import Posture, words

ONE_ID = words("uid 0 is caller, gid 0 is caller, setgroups deny")
SEVERAL_IDS = words("uid 0 is caller of several, gid 0 is caller of several")
PATH = frozenset({"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
# Capabilities in the prepared user namespace, for mounting and for creating nested user namespaces.
PREPARED = words("setfcap, setgid, setuid, sys_admin, sys_chroot")
# Capabilities for files, which processes have in the nested user namespaces that runsc creates.
FILES = words("chown, dac_override, dac_read_search, fowner, fsetid")
STREAMS = words("stdin, stdout, stderr")
# Inheritable and ambient capabilities of runsc's child programs. Only newer releases of runsc pass
# ambient capabilities to these programs.
INHERITED = frozenset(f"?{name}" for name in FILES)
# Descriptors of every runsc process; the optional ones exist only briefly or in some releases.
GO = words("eventfd, eventpoll, pipe, socket, ?io_uring, ?memfd, ?limit of processors r")
# Writable descriptor of runsc's error log, in the tmpfs of the launch.
LOG = frozenset({"scratch w"})
# Writable descriptor of the crash report, in another tmpfs, of 1 MiB.
CRASH = frozenset({"log/crash w"})
# Mounts in the command's root filesystem, through which no host file can be written.
ROOT = words("root ro nosuid nodev, programs ro, ?hidden ro nosuid nodev, /.usernsctl-verify ro")
# Mounts of the prepared mount namespace, in which usernsctl-watch and runsc run. The namespace
# still contains all host files, as writable as for the caller, although usernsctl-watch and runsc
# need only runsc's executable. "machine ro" is usernsctl-watch's file, on a mount point over which
# nothing can be mounted.
PLACE = ROOT | words(
    "caller's, scratch rw nosuid nodev, log/crash rw nosuid nodev, machine ro, ?nsfs rw"
)

WATCHER = Posture(
    parent="caller",
    session="caller",
    maps=ONE_ID,
    effective=PREPARED,
    permitted=PREPARED,
    bounding=PREPARED,
    # The seccomp filter restricts only membarrier(2) (csrc/sys/membarrier_filter.c).
    seccomp=True,
    # The watcher is traceable, but only by processes in its user namespace. Other processes can be
    # there only if it belongs to a named namespace (`usernsctl ns create`).
    traceable=True,
    namespaces=words("user own, mnt own"),
    mounts=PLACE,
    # "caller's path" is the O_PATH descriptor with which runsc is executed. "caller's r" is a
    # read-only descriptor of the control group's file that has the number of OOM kills.
    descriptors=STREAMS | words("pidfd, caller's path, ?caller's r"),
    environment=PATH,
)
RUNSC = replace(
    WATCHER,
    parent="watcher",
    namespaces=words("user of watcher, mnt of watcher"),
    # "null path" is a descriptor with a high number, for which the kernel allocates a large
    # descriptor table. runsc's children close this descriptor.
    descriptors=STREAMS | GO | LOG | words("pidfd, null path"),
)
GOFER = Posture(
    parent="runsc",
    session="own",
    maps=ONE_ID,
    effective=FILES | words("sys_chroot"),
    permitted=FILES | words("sys_chroot"),
    bounding=FILES | words("sys_chroot"),
    inheritable=INHERITED | words("?sys_chroot"),
    ambient=INHERITED | words("?sys_chroot"),
    seccomp=True,
    traceable=True,
    namespaces=words("user own, mnt own, pid own, net own, ipc own, uts own"),
    mounts=ROOT,
    # "proc r" is a /proc that has been unmounted. "scratch r" is config.json.
    descriptors=GO | LOG | words("memfd, null r, null w, proc r, root r, scratch r"),
    environment=PATH,
)
SANDBOX = Posture(
    parent="runsc",
    session="own",
    maps=ONE_ID,
    effective=FILES | words("sys_ptrace"),
    permitted=FILES | words("sys_ptrace"),
    bounding=FILES | words("sys_ptrace"),
    seccomp=True,
    # The sandbox process has CAP_SYS_PTRACE, so a tracer needs this capability, too.
    traceable=False,
    # Debian's runsc leaves the sandbox process in the caller's PID namespace, with the caller's
    # /proc. Code that escapes from gVisor can therefore see the caller's processes, as far as the
    # seccomp filter allows.
    namespaces=words("user own, mnt own, net own, ipc own, uts own, ?pid own"),
    mounts=words(
        "runsc-root at / ro, /proc rw|runsc-proc at /proc rw nosuid nodev noexec, "
        "?proc at /proc/sandbox-proc ro nosuid nodev noexec"
    ),
    descriptors=STREAMS
    | GO
    | LOG
    | CRASH
    | words("memfd, null r, null w, root r, root path, programs r, programs path")
    | words("/.usernsctl-verify r, ?seccomp notify"),
    environment=words("?GVISOR_ENFORCE_RELEASE"),
)


def stub_of(sandbox: Posture) -> Posture:
    """Return the row of the stubs: clones of the sandbox process that run the command's code."""
    of_sandbox = {
        word.replace(" own", " of sandbox") if word.endswith(" own") else word
        for word in sandbox.namespaces
    }
    return replace(
        sandbox,
        parent="sandbox|stub",
        session="own|stub",
        namespaces=frozenset(of_sandbox),
        environment=frozenset(),
    )


def table(**kinds: Posture) -> dict[str, Posture]:
    return {**kinds, "stub": stub_of(kinds["sandbox"])}


RUN = table(watcher=WATCHER, runsc=RUNSC, gofer=GOFER, sandbox=SANDBOX)

# With several mapped ids, the gofer needs capabilities to access files of all these ids, and the
# sandbox needs capabilities to change ids.
SEVERAL_PREPARED = {
    "maps": SEVERAL_IDS | words("setgroups allow"),
    "effective": PREPARED | FILES,
    "permitted": PREPARED | FILES,
    "bounding": PREPARED | FILES,
}
SEVERAL_INHERITED = INHERITED | words("?kill, ?setgid, ?setuid")
SEVERAL_SANDBOX = FILES | words("?kill, ?setgid, ?setuid, sys_ptrace")
RUN_WITH_SEVERAL_IDS = table(
    watcher=replace(WATCHER, **SEVERAL_PREPARED),
    runsc=replace(RUNSC, **SEVERAL_PREPARED),
    gofer=replace(GOFER, maps=SEVERAL_IDS | words("setgroups deny")),
    sandbox=replace(
        SANDBOX,
        maps=SEVERAL_IDS | words("setgroups deny"),
        effective=SEVERAL_SANDBOX,
        permitted=SEVERAL_SANDBOX,
        bounding=SEVERAL_SANDBOX,
        inheritable=SEVERAL_INHERITED,
        ambient=SEVERAL_INHERITED,
    ),
)


def showing(sandboxes: Mapping[str, Posture], shown: str) -> dict[str, Posture]:
    """Return the table `sandboxes` with additional mounts of the host, such as ``/data ro``."""
    mounts = words(shown)
    opened = {f"?{word.split()[0]} {how}" for word in mounts for how in ("r", "path")}
    table = dict(sandboxes)
    table["gofer"] = replace(table["gofer"], mounts=table["gofer"].mounts | mounts)
    for kind in ("gofer", "sandbox", "stub"):
        table[kind] = replace(table[kind], descriptors=table[kind].descriptors | opened)
    return table


# A read-only --bind is read-only in runsc's mount namespace, too.
BINDS = "/shown ro, /open rw"
# Additional mount in the prepared mount namespace: the source of runsc's bind mounts, which runsc
# opens by a descriptor.
OPEN = words("machine rw")
RUN_WITH_BINDS = showing(RUN, BINDS) | {
    "watcher": replace(WATCHER, mounts=PLACE | OPEN),
    "runsc": replace(RUNSC, mounts=PLACE | OPEN),
}
RUN_WITH_EXPOSED_ROOT = showing(RUN, "machine ro")
NETWORK = words("?net_admin, ?net_bind_service")
# Sandbox with the host's network. The descriptor "/proc r" is for gVisor's hostinet, which reads
# the state of the network in /proc.
RUN_WITH_NETWORK = table(
    watcher=WATCHER,
    runsc=RUNSC,
    gofer=GOFER,
    sandbox=replace(
        SANDBOX,
        # NETWORK has no effect on the host's network in newer releases of runsc: the sandbox
        # process has these capabilities only in its own user namespace, which does not own the
        # host's network namespace.
        effective=SANDBOX.effective | NETWORK,
        permitted=SANDBOX.permitted | NETWORK,
        bounding=SANDBOX.bounding | NETWORK,
        namespaces=SANDBOX.namespaces - {"net own"},
        descriptors=SANDBOX.descriptors | words("?/proc r"),
    ),
)

# Mount point of the agent's program in sandboxes of a SandboxHost. runsc creates this mount.
AGENT = words("/.usernsctl-agent ro")
# Sandbox of a SandboxHost: no runsc process waits for the sandbox, and PID 1 of the sandbox's PID
# namespace on the host is usernsctl-init.
INIT = replace(
    WATCHER,
    namespaces=words("user own, mnt own, pid own"),
    mounts=PLACE - {"log/crash rw nosuid nodev"}
    | words("boxes/.crash rw nosuid nodev, proc at /proc rw nosuid nodev noexec"),
    # /dev/null takes the place of descriptors 0 to 2 ("null rw"), so that no other file gets these
    # numbers.
    descriptors=words("pidfd, signalfd, null rw, ?caller's r"),
)
# Directory for the crash reports of all sandboxes of a SandboxHost.
IN_BOX = {"boxes/.crash w"}
HELD = table(
    init=INIT,
    gofer=replace(
        GOFER,
        parent="init",
        mounts=GOFER.mounts | AGENT,
        descriptors=GOFER.descriptors | words("/.usernsctl-agent r"),
    ),
    sandbox=replace(
        SANDBOX,
        parent="init",
        namespaces=SANDBOX.namespaces - {"?pid own"} | words("pid of init|pid own"),
        mounts=words(
            "runsc-root at / ro, proc at /proc rw nosuid nodev noexec"
            "|runsc-proc at /proc rw nosuid nodev noexec, "
            "?proc at /proc/sandbox-proc ro nosuid nodev noexec"
        ),
        descriptors=SANDBOX.descriptors - CRASH | IN_BOX | words("?/.usernsctl-agent r"),
    ),
)
HELD_WITH_BINDS = showing(HELD, BINDS) | {"init": replace(INIT, mounts=INIT.mounts | OPEN)}
# Idle sandbox of a pool: none of its descriptors is the caller's, and a socket connects it to the
# agent.
POOLED = table(
    init=INIT,
    gofer=replace(
        HELD["gofer"], descriptors=HELD["gofer"].descriptors | words("?/.usernsctl-agent r")
    ),
    sandbox=replace(
        HELD["sandbox"],
        # No file /.usernsctl-verify is open: the agent itself checks that the kernel is gVisor's.
        descriptors=HELD["sandbox"].descriptors - STREAMS - words("/.usernsctl-verify r")
        | words("null rw, socket"),
    ),
)
# Detached sandbox, which has no PID namespace and therefore no init process.
DETACHED = table(
    keeper=replace(
        INIT,
        # The keeper (csrc/programs/detach/main.c) is in the session of its parent, which has
        # exited.
        session="outside",
        namespaces=words("user own, mnt own"),
        mounts=PLACE - {"log/crash rw nosuid nodev"} | {"boxes/.crash rw nosuid nodev"},
        # "record r" is the directory in which the exit status is written.
        descriptors=words("signalfd, null rw, record r, ?caller's r"),
    ),
    gofer=replace(HELD["gofer"], parent="keeper"),
    sandbox=replace(SANDBOX, parent="keeper", descriptors=HELD["sandbox"].descriptors),
)


def restored(sandbox: Posture) -> Posture:
    """Return the row of a restored sandbox, which has fewer open files and does not see /proc."""
    start = words("root path, programs path, /.usernsctl-verify r")
    return replace(
        sandbox,
        mounts=words("runsc-root at / ro, ?proc at /proc/sandbox-proc ro nosuid nodev noexec"),
        descriptors=sandbox.descriptors - start | {f"?{word}" for word in start},
    )


def serving(gofer: Posture) -> Posture:
    """Return the row of a restored sandbox's gofer, which reopens the checkpoint's open files."""
    return replace(gofer, descriptors=gofer.descriptors | {"?/.usernsctl-agent r"})


RESTORED = table(init=HELD["init"], gofer=serving(HELD["gofer"]), sandbox=restored(HELD["sandbox"]))
RESTORED_DETACHED = table(
    keeper=DETACHED["keeper"],
    gofer=serving(DETACHED["gofer"]),
    sandbox=restored(DETACHED["sandbox"]),
)

# Holder process of `usernsctl ns create`, with all capabilities in its user namespace. Any process
# that may enter this namespace gains the same capabilities there.
HOLDER = replace(
    WATCHER,
    session="own",
    effective=words("all"),
    permitted=words("all"),
    bounding=words("all"),
    no_new_privs=False,
    seccomp=False,
    # The holder has CAP_SYS_PTRACE, so a tracer needs this capability, too.
    traceable=False,
    namespaces=words("user own"),
    mounts=words("caller's"),
    descriptors=frozenset(),
    # The holder has the caller's PATH, in which it searches for newuidmap.
    environment=frozenset({f"PATH={os.environ['PATH']}"}),
)

RUN_IN_KEPT = RUN | {
    "holder": HOLDER,
    "watcher": replace(WATCHER, namespaces=words("user of holder, mnt own")),
    "runsc": replace(RUNSC, namespaces=words("user of holder, mnt of watcher")),
}


def in_container(sandboxes: Mapping[str, Posture]) -> dict[str, Posture]:
    """Return the table for a container whose PID 1 is usernsctl-watch.

    The container's own seccomp filter applies to all of its processes.
    """
    filtered = {kind: replace(row, seccomp=True) for kind, row in sandboxes.items()}
    # Docker masks some files of /proc by mounts, and makes others read-only.
    masked = {
        kind: replace(filtered[kind], mounts=filtered[kind].mounts | words("?/proc ro"))
        for kind in ("sandbox", "stub")
    }
    return filtered | masked | {"watcher": replace(filtered["watcher"], parent="outside")}


def in_remapped(sandboxes: Mapping[str, Posture]) -> dict[str, Posture]:
    """Return the table for a container with a separate user namespace.

    `traceable` can't be tested: the tracer, a process on the host, would have to change to the ids
    of the traced process, but only the container's user namespace maps these ids.
    """
    return {kind: replace(row, traceable=None) for kind, row in in_container(sandboxes).items()}


RUN_IN_CONTAINER = in_container(RUN)
RUN_IN_REMAPPED = in_remapped(RUN)
# The launch files in usernsctl's container images were written with --expose-root.
LAUNCH_IN_CONTAINER = in_container(RUN_WITH_EXPOSED_ROOT)
LAUNCH_IN_REMAPPED = in_remapped(RUN_WITH_EXPOSED_ROOT)
