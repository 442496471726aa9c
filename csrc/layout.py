"""What is what in csrc/, for setup.py, tools/c_tests.py and tools/c_layers.py.

A directory is a layer, and a program is a directory of programs/. So a new source is built without
an edit, and a new program takes one line in PROGRAMS.
"""

from __future__ import annotations

from pathlib import Path

CSRC = Path(__file__).resolve().parent

# From the bottom to the top: what is in one may call those below it. Everything may include the
# interface, include/usernsctl.h.
LAYERS = ("base", "map", "sys", "child", "facts", "explain", "ns", "programs")

# The layers that look at nothing and start nothing: the same arguments give the same result.
PURE = ("map",)

# Programs, and what they share with others: sources of programs/shared/.
PROGRAMS = {
    "usernsctl-exec": ("report.c",),
    "usernsctl-entrypoint": (),
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
    *("-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-pie", "-nostdlib"),
    *("-static", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s"),
)
FREESTANDING = {
    "usernsctl-verify": ("programs/verify/main.c",),
    "usernsctl-child": (
        *("programs/child/main.c", "child/libc.c", "child/enter.c", "child/task.c"),
        *("sys/self.c", "sys/own_maps.c", "sys/namespaces.c", "sys/setup.c", "sys/exec.c"),
        *("sys/clone.c", "sys/fds.c", "sys/message.c", "base/caps.c"),
        *("base/number.c", "base/error.c"),
    ),
}

# Stands in for libc, so nothing else is built with it.
OWN_LIBC = "child/libc.c"


def flags(csrc: Path = CSRC) -> list[str]:
    """The language, the include path and the warnings, for every build; clangd reads them too."""
    words = (csrc / "compile_flags.txt").read_text().split()
    return [f"-I{csrc}" if word == "-I." else word for word in words]


def core(csrc: Path = CSRC) -> list[Path]:
    """The sources that the extension and every program that has a libc are built from."""
    found = [file for layer in LAYERS[:-1] for file in (csrc / layer).glob("*.c")]
    return sorted(set(found) - {csrc / OWN_LIBC})


def program(name: str, csrc: Path = CSRC) -> list[Path]:
    """The sources of a program, but for the core's."""
    programs = csrc / "programs"
    own = sorted((programs / name.removeprefix("usernsctl-")).glob("*.c"))
    return [*own, *(programs / "shared" / source for source in PROGRAMS[name])]


def freestanding(name: str, csrc: Path = CSRC) -> list[Path]:
    """All sources of a program that has no libc."""
    return [csrc / source for source in FREESTANDING[name]]
