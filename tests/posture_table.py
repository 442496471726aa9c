"""How each process that runs a sandbox is meant to stand on the machine.

A row for each kind of process, a column for each property; whoever changes a posture has to change
it here as well, and so to say that it is meant. What is worse than it could be says so.
`posture.py` has the meaning of the columns and of the words in them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from posture import Posture, words

ONE_ID = words("uid 0 is caller, gid 0 is caller, setgroups deny")
SEVERAL_IDS = words("uid 0 is caller of several, gid 0 is caller of several")
PATH = frozenset({"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
# Over the namespace that is prepared for runsc: to make mounts and the nested one.
PREPARED = words("setfcap, setgid, setuid, sys_admin, sys_chroot")
# Over files, in the nested namespaces that runsc makes.
FILES = words("chown, dac_override, dac_read_search, fowner, fsetid")
STREAMS = words("stdin, stdout, stderr")
# Newer releases of runsc pass capabilities on to what they execute as ambient ones.
INHERITED = frozenset(f"?{name}" for name in FILES)
# What all of runsc has for its own use; some only now and then, or in some releases.
GO = words("eventfd, eventpoll, pipe, socket, ?io_uring, ?memfd, ?limit of processors r")
# The log of the process that was called, and the errors that others end of; a crash has a file of
# its own, in a file system of 1 MiB.
LOG = frozenset({"scratch w"})
CRASH = frozenset({"log/crash w"})
# The root filesystem that the command sees: nothing in it can be written on the machine.
ROOT = words("root ro nosuid nodev, programs ro, ?hidden ro nosuid nodev, /.usernsctl-verify ro")
# What the prepared mount namespace has. All of the machine is still there and as writable as it is
# for the caller, though nobody here needs more of it than runsc's own file.
# "machine ro" is the watcher's file, shown where nothing can cover it.
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
    # Of ours, about memory barriers alone (csrc/sys/membarrier_filter.c).
    seccomp=True,
    # In a namespace of its own there is nobody to do so. In a kept one there may be.
    traceable=True,
    namespaces=words("user own, mnt own"),
    mounts=PLACE,
    # "caller's path" is runsc, which it executes by that.
    descriptors=STREAMS | words("pidfd, caller's path"),
    environment=PATH,
)
RUNSC = replace(
    WATCHER,
    parent="watcher",
    namespaces=words("user of watcher, mnt of watcher"),
    # "null path" has it get a large table of descriptors; what it starts closes it.
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
    # Its /proc is nowhere mounted any more. "scratch r" is config.json.
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
    # Since it has CAP_SYS_PTRACE itself, only who has that too may look into it.
    traceable=False,
    # Debian's runsc leaves it in the caller's PID namespace, with the caller's /proc in its root:
    # who has broken gVisor sees the caller's processes, as far as the filter lets him.
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
    """What runs the command's code: a copy of the sandbox, whose memory is the command's."""
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

# With several ids, the gofer must act on files of any of them, and the sandbox start as any.
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
    """The table of sandboxes that see more of the machine, such as ``/data ro``."""
    mounts = words(shown)
    opened = {f"?{word.split()[0]} {how}" for word in mounts for how in ("r", "path")}
    table = dict(sandboxes)
    table["gofer"] = replace(table["gofer"], mounts=table["gofer"].mounts | mounts)
    for kind in ("gofer", "sandbox", "stub"):
        table[kind] = replace(table[kind], descriptors=table[kind].descriptors | opened)
    return table


# What `--bind` shows read-only is so on the machine, too.
BINDS = "/shown ro, /open rw"
# Where it is bound from for them, by a descriptor.
OPEN = words("machine rw")
RUN_WITH_BINDS = showing(RUN, BINDS) | {
    "watcher": replace(WATCHER, mounts=PLACE | OPEN),
    "runsc": replace(RUNSC, mounts=PLACE | OPEN),
}
RUN_WITH_EXPOSED_ROOT = showing(RUN, "machine ro")
NETWORK = words("?net_admin, ?net_bind_service")
# hostinet reads what the kernel says of its networks.
RUN_WITH_NETWORK = table(
    watcher=WATCHER,
    runsc=RUNSC,
    gofer=GOFER,
    sandbox=replace(
        SANDBOX,
        # In newer releases over its own user namespace, which that network does not belong to.
        effective=SANDBOX.effective | NETWORK,
        permitted=SANDBOX.permitted | NETWORK,
        bounding=SANDBOX.bounding | NETWORK,
        namespaces=SANDBOX.namespaces - {"net own"},
        descriptors=SANDBOX.descriptors | words("?/proc r"),
    ),
)

# What starts further commands in the sandboxes of a SandboxHost, for which runsc mounts it.
AGENT = words("/.usernsctl-agent ro")
# A sandbox of a SandboxHost. Nothing of runsc waits, and process 1 is ours.
INIT = replace(
    WATCHER,
    namespaces=words("user own, mnt own, pid own"),
    mounts=PLACE - {"log/crash rw nosuid nodev"}
    | words("boxes/.crash rw nosuid nodev, proc at /proc rw nosuid nodev noexec"),
    # "null rw" stands where descriptors 0 to 2 were, so that nothing else comes there.
    descriptors=words("pidfd, signalfd, null rw"),
)
# Where the reports of crashes of all sandboxes of a host are.
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
# One that waits in a pool: no stream is the caller's. The agent has the other end of a socket.
POOLED = table(
    init=INIT,
    gofer=replace(
        HELD["gofer"], descriptors=HELD["gofer"].descriptors | words("?/.usernsctl-agent r")
    ),
    sandbox=replace(
        HELD["sandbox"],
        # The agent proves by itself that the kernel is gVisor's.
        descriptors=HELD["sandbox"].descriptors - STREAMS - words("/.usernsctl-verify r")
        | words("null rw, socket"),
    ),
)
# A detached one: the same without process 1, and so in the PID namespace of the caller.
DETACHED = table(
    gofer=replace(HELD["gofer"], parent="caller"),
    sandbox=replace(SANDBOX, parent="caller", descriptors=HELD["sandbox"].descriptors),
)


def restored(sandbox: Posture) -> Posture:
    """What goes on from a template: it has fewer files open, and no /proc. The image is closed."""
    start = words("root path, programs path, /.usernsctl-verify r")
    return replace(
        sandbox,
        mounts=words("runsc-root at / ro, ?proc at /proc/sandbox-proc ro nosuid nodev noexec"),
        descriptors=sandbox.descriptors - start | {f"?{word}" for word in start},
    )


def serving(gofer: Posture) -> Posture:
    """What serves files to that: it opens those again that were open, before anybody asks."""
    return replace(gofer, descriptors=gofer.descriptors | {"?/.usernsctl-agent r"})


RESTORED = table(init=HELD["init"], gofer=serving(HELD["gofer"]), sandbox=restored(HELD["sandbox"]))
RESTORED_DETACHED = table(gofer=serving(DETACHED["gofer"]), sandbox=restored(DETACHED["sandbox"]))

# `usernsctl ns create`: who enters the namespace must be able to open it, and has all of the
# holder's capabilities there anyway.
HOLDER = replace(
    WATCHER,
    session="own",
    effective=words("all"),
    permitted=words("all"),
    bounding=words("all"),
    no_new_privs=False,
    seccomp=False,
    # It has CAP_SYS_PTRACE.
    traceable=False,
    namespaces=words("user own"),
    mounts=words("caller's"),
    descriptors=frozenset(),
    # To find newuidmap by.
    environment=frozenset({f"PATH={os.environ['PATH']}"}),
)

RUN_IN_KEPT = RUN | {
    "holder": HOLDER,
    "watcher": replace(WATCHER, namespaces=words("user of holder, mnt own")),
    "runsc": replace(RUNSC, namespaces=words("user of holder, mnt of watcher")),
}


def in_container(sandboxes: Mapping[str, Posture]) -> dict[str, Posture]:
    """The table where the watcher is process 1 of a container, whose own filter binds all."""
    filtered = {kind: replace(row, seccomp=True) for kind, row in sandboxes.items()}
    # Docker hides parts of /proc, and makes others read-only.
    masked = {
        kind: replace(filtered[kind], mounts=filtered[kind].mounts | words("?/proc ro"))
        for kind in ("sandbox", "stub")
    }
    return filtered | masked | {"watcher": replace(filtered["watcher"], parent="outside")}


def in_remapped(sandboxes: Mapping[str, Posture]) -> dict[str, Posture]:
    """The same where the container has a user namespace of its own.

    Who is not in that one can't become one of those that it maps.
    """
    return {kind: replace(row, traceable=None) for kind, row in in_container(sandboxes).items()}


RUN_IN_CONTAINER = in_container(RUN)
RUN_IN_REMAPPED = in_remapped(RUN)
# The launches of the images show all files of the container.
LAUNCH_IN_CONTAINER = in_container(RUN_WITH_EXPOSED_ROOT)
LAUNCH_IN_REMAPPED = in_remapped(RUN_WITH_EXPOSED_ROOT)
