"""What is what in csrc/, for setup.py, tools/c_tests.py and tools/c_layers.py.

A directory is a layer, and a program is a directory of programs/. So a new source is built without
an edit, and a new program takes one line in PROGRAMS.
"""

from __future__ import annotations

from pathlib import Path

CSRC = Path(__file__).resolve().parent

# From the bottom to the top: what is in one may call those below it. Everything may include the
# interface, include/usernsctl.h.
LAYERS = ("base", "map", "sys", "child", "facts", "explain", "ns", "launch", "programs")

# The layers that look at nothing and start nothing: the same arguments give the same result.
PURE = ("map",)

# Programs, and what they share with others: sources of programs/shared/.
PROGRAMS = {
    "usernsctl-exec": ("early_signals.c", "report.c"),
    "usernsctl-entrypoint": ("early_signals.c",),
    "usernsctl-build": (),
    "usernsctl-init": ("sandbox_command.c",),
    "usernsctl-detach": ("sandbox_command.c",),
    "usernsctl-watch": ("report.c",),
    "usernsctl-probe": (),
    "usernsctl-child": (),
}

# What runs in any root filesystem, or is started for each command: the smaller, the faster. They
# have no libc. On other machines gVisor does not run, and usernsctl-child is a program like the
# others.
FREESTANDING_MACHINES = ("x86_64", "aarch64")
FREESTANDING_FLAGS = (
    *("-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-nostdlib"),
    *("-fstack-clash-protection", "-fno-lto", "-fno-pie", "-static"),
    *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s"),
)
# The compiler would call functions of its own library for what is atomic.
FREESTANDING_FLAGS_OF = {"aarch64": ("-mno-outline-atomics",)}
# The agent, but for where it begins: what the tests are linked with.
AGENT = (
    "block",
    "caps",
    "idle",
    "keeper",
    "message",
    "serve",
    "start",
    "terminal",
    "tree",
    "wire",
    "words",
)
FREESTANDING = {
    "usernsctl-verify": ("programs/verify/main.c", "programs/shared/proof.c"),
    "usernsctl-child": (
        *("programs/child/main.c", "child/libc.c", "child/enter.c", "child/task.c"),
        *("sys/self.c", "sys/own_maps.c", "sys/namespaces.c", "sys/setup.c", "sys/exec.c"),
        *("sys/clone.c", "sys/fds.c", "sys/message.c", "sys/stdio.c", "base/caps.c"),
        *("base/number.c", "base/error.c", "sys/barrier.c"),
    ),
    "usernsctl-agent": (
        *(f"programs/agent/{name}.c" for name in ("main", "libc", *AGENT)),
        *("programs/shared/proof.c", "child/libc.c", "base/error.c", "base/number.c"),
        *("sys/clone.c", "sys/exec.c", "sys/fds.c"),
    ),
}

# What usernsctl-exec begins with, before its libc is started (programs/exec/first.h): one object,
# that has but one name for others.
FIRST_ENTRY = "un_begin"
FIRST_FLAGS = (
    *("-DUN_BEFORE_LIBC", "-ffreestanding", "-fno-builtin", "-fno-lto", "-U_FORTIFY_SOURCE"),
    *("-fstack-protector-strong", "-mstack-protector-guard=global"),
    *("-fvisibility=hidden", "-ffunction-sections", "-fdata-sections"),
    # Nothing of its own is looked up in a table that libc has not filled yet.
    *("-include", str(CSRC / "programs/exec/first_hidden.h")),
)
# Where the program is a position-independent one.
FIRST_MOVABLE = ("-fPIE", "-DUN_MOVABLE")
FIRST_LDFLAGS = (
    *("-nostdlib", "-r", "-Wl,--gc-sections", f"-Wl,-e,{FIRST_ENTRY}"),
    f"-Wl,-T,{CSRC / 'programs/exec/first.ld'}",
)
FIRST_ONLY = ("programs/exec/first.c", "programs/exec/first_libc.c")
FIRST = (
    *(*FIRST_ONLY, "programs/exec/identity.c", "programs/exec/options.c"),
    *(source for source in FREESTANDING["usernsctl-child"] if source != "programs/child/main.c"),
    *("facts/process.c", "map/plan.c", "map/compose.c", "map/idmap.c", "map/kind.c"),
    "sys/map_files.c",
)

# These stand in for libc, so nothing else is built with them.
OWN_LIBC = ("child/libc.c", "programs/agent/libc.c", "programs/exec/first_libc.c")


def flags(csrc: Path = CSRC) -> list[str]:
    """The language, the include path and the warnings, for every build; clangd reads them too."""
    words = (csrc / "compile_flags.txt").read_text().split()
    return [f"-I{csrc}" if word == "-I." else word for word in words]


def core(csrc: Path = CSRC) -> list[Path]:
    """The sources that the extension and every program that has a libc are built from."""
    found = [file for layer in LAYERS[:-1] for file in (csrc / layer).glob("*.c")]
    return sorted(set(found) - {csrc / source for source in OWN_LIBC})


def program(name: str, csrc: Path = CSRC) -> list[Path]:
    """The sources of a program, but for the core's."""
    programs = csrc / "programs"
    own = set((programs / name.removeprefix("usernsctl-")).glob("*.c"))
    own -= {csrc / source for source in FIRST_ONLY}
    return [*sorted(own), *(programs / "shared" / source for source in PROGRAMS[name])]


def freestanding_flags(machine: str) -> tuple[str, ...]:
    """How a program without libc is built for that processor (platform.machine())."""
    return (*FREESTANDING_FLAGS, *FREESTANDING_FLAGS_OF.get(machine, ()))


def freestanding(name: str, csrc: Path = CSRC) -> list[Path]:
    """All sources of a program that has no libc."""
    return [csrc / source for source in FREESTANDING[name]]


def agent(csrc: Path = CSRC) -> list[Path]:
    """The sources of the agent but for where it begins, its libc and its proof, for tests."""
    return [csrc / "programs" / "agent" / f"{name}.c" for name in AGENT]


def first(csrc: Path = CSRC) -> list[Path]:
    """All sources of what usernsctl-exec begins with."""
    return [csrc / source for source in FIRST]
