"""What is what in csrc/, for setup.py, tools/c_tests.py and tools/c_layers.py.

A directory is a layer, and a program is a directory of programs/. So a new source is built without
an edit, and a new program takes one line in PROGRAMS.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parent
sys.path.insert(0, str(CSRC / "explain"))
import texts  # noqa: E402

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

# Programs without libc, which run in gVisor, in any root filesystem: the smaller, the faster.
# gVisor runs on no other processors.
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
    "entries",
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
    "usernsctl-agent": (
        *(f"programs/agent/{name}.c" for name in ("main", "libc", "leftovers", *AGENT)),
        *("programs/shared/proof.c", "base/caps.c", "base/error.c", "base/number.c"),
        *("sys/clone.c", "sys/exec.c", "sys/fds.c"),
    ),
}

# The functions of libc that the agent needs. No other program is built with this file.
AGENT_LIBC = "programs/agent/libc.c"


def flags(csrc: Path = CSRC) -> list[str]:
    """The language, the include path and the warnings, for every build; clangd reads them too."""
    words = (csrc / "compile_flags.txt").read_text().split()
    return [f"-I{csrc}" if word == "-I." else word for word in words]


def musl_flags(headers: Path, system: Path = Path("/usr/include")) -> list[str]:
    """Return flags for musl-gcc: musl has no headers of the kernel, and its macros convert.

    :param headers: the directory in which to make links to the kernel's headers in ``system``, and
        to nothing of its libc.
    """
    machine = [system / "asm", *system.glob(f"{platform.machine()}-linux-gnu/asm")]
    asm = next(directory for directory in machine if directory.is_dir())
    headers.mkdir(parents=True, exist_ok=True)
    for directory in (system / "linux", system / "asm-generic", asm):
        link = headers / directory.name
        if not link.is_symlink():
            link.symlink_to(directory)
    return ["-Wno-conversion", "-Wno-sign-conversion", f"-isystem{headers.resolve()}"]


def core(csrc: Path = CSRC) -> list[Path]:
    """The sources that the extension and every program that has a libc are built from.

    texts.py makes one of them, explain/texts.c, first.
    """
    causes = csrc.resolve().parent / "src" / "usernsctl" / "explain" / "causes"
    if causes.is_dir():
        explain = csrc / "explain"
        texts.generate(explain / "messages", causes, explain / "texts.c")
    found = [file for layer in LAYERS[:-1] for file in (csrc / layer).glob("*.c")]
    return sorted(found)


def program(name: str, csrc: Path = CSRC) -> list[Path]:
    """The sources of a program, but for the core's."""
    programs = csrc / "programs"
    own = set((programs / name.removeprefix("usernsctl-")).glob("*.c"))
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
