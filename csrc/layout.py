"""The layers and programs of csrc/, for setup.py, tools/c_tests.py and tools/c_layers.py.

Each directory is a layer, and each directory of programs/ is a program. So a new source needs no
edit here, and a new program one line in PROGRAMS.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parent
sys.path.insert(0, str(CSRC / "explain"))
import texts  # noqa: E402

# Layers from the bottom to the top. Each may call functions of the layers below it. All layers may
# include the interface, include/usernsctl.h.
LAYERS = ("base", "map", "sys", "child", "facts", "explain", "ns", "launch", "programs")

# Layers without side effects: the same arguments always give the same result.
PURE = ("map",)

# Sources of programs/shared/ for programs that watch a sandbox, and that start one for Python.
WATCHED = (
    *("descendants.c", "limit_watch.c", "limits.c", "oom_watch.c", "sandbox_end.c"),
    "sandbox_group.c",
)
SANDBOX_SOURCES = (
    *WATCHED,
    *("error_fields.c", "network.c", "sandbox_command.c", "sandbox_limits.c", "sandbox_wait.c"),
)

# Programs, with the sources of programs/shared/ that each needs.
PROGRAMS = {
    "usernsctl-exec": (
        *("early_signals.c", "error_fields.c", "network.c", "report.c", "stay_outside.c"),
    ),
    "usernsctl-entrypoint": ("early_signals.c", "report.c", "stay_outside.c"),
    "usernsctl-build": (),
    "usernsctl-init": SANDBOX_SOURCES,
    "usernsctl-detach": SANDBOX_SOURCES,
    "usernsctl-watch": (*WATCHED, "early_signals.c", "error_fields.c", "network.c", "report.c"),
    "usernsctl-network": ("error_fields.c", "sandbox_command.c", "sandbox_group.c"),
    "usernsctl-probe": (),
    "usernsctl-child": (),
}

# Processors that gVisor supports, and flags for programs without libc: these run in gVisor in any
# root filesystem, and small programs start faster.
FREESTANDING_MACHINES = ("x86_64", "aarch64")
FREESTANDING_FLAGS = (
    *("-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-nostdlib"),
    *("-fstack-clash-protection", "-fno-lto", "-fno-pie", "-fno-sanitize=all", "-static"),
    *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s"),
)
# Without this flag the compiler calls library functions for atomic operations.
FREESTANDING_FLAGS_OF = {"aarch64": ("-mno-outline-atomics",)}
# Sources of the agent that are also linked into the C tests, so without the agent's entry point.
AGENT = (
    "block",
    "caps",
    "copy_in",
    "copy_out",
    "entries",
    "files",
    "idle",
    "keeper",
    "load",
    "message",
    "serve",
    "start",
    "terminal",
    "tree",
    "wire",
)
FREESTANDING = {
    "usernsctl-verify": ("programs/verify/main.c", "programs/shared/proof.c", "base/number.c"),
    "usernsctl-agent": (
        *(f"programs/agent/{name}.c" for name in ("main", "libc", "leftovers", *AGENT)),
        *("programs/shared/proof.c", "base/caps.c", "base/error.c", "base/number.c"),
        *("sys/clone.c", "sys/exec.c", "sys/fds.c"),
    ),
}

# The agent's own libc. No other program is built with this file.
AGENT_LIBC = "programs/agent/libc.c"


def flags(csrc: Path = CSRC) -> list[str]:
    """Return the flags of every build: language, include path, warnings. clangd reads them too."""
    words = (csrc / "compile_flags.txt").read_text().split()
    return [f"-I{csrc}" if word == "-I." else word for word in words]


def musl_flags(headers: Path, system: Path = Path("/usr/include")) -> list[str]:
    """Return flags for musl-gcc: add kernel headers, and disable warnings that musl's macros cause.

    :param headers: the directory in which to create links to the kernel headers in ``system``,
        but not to the libc headers there.
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
    """Return the sources of the core, for the extension and every program with a libc.

    Generates one of the sources, explain/texts.c, with texts.py first.
    """
    causes = csrc.resolve().parent / "src" / "usernsctl" / "explain" / "causes"
    if causes.is_dir():
        explain = csrc / "explain"
        texts.generate(explain / "messages", causes, explain / "texts.c")
    found = [file for layer in LAYERS[:-1] for file in (csrc / layer).glob("*.c")]
    return sorted(found)


def program(name: str, csrc: Path = CSRC) -> list[Path]:
    """Return the sources of a program that do not belong to the core."""
    programs = csrc / "programs"
    own = set((programs / name.removeprefix("usernsctl-")).glob("*.c"))
    return [*sorted(own), *(programs / "shared" / source for source in PROGRAMS[name])]


def freestanding_flags(machine: str) -> tuple[str, ...]:
    """Return the flags of a program without libc, for a processor (platform.machine())."""
    return (*FREESTANDING_FLAGS, *FREESTANDING_FLAGS_OF.get(machine, ()))


def freestanding(name: str, csrc: Path = CSRC) -> list[Path]:
    """Return all sources of a program without libc."""
    return [csrc / source for source in FREESTANDING[name]]


def agent(csrc: Path = CSRC) -> list[Path]:
    """Return the sources of the agent without entry point, libc and proof.c, for tests."""
    return [csrc / "programs" / "agent" / f"{name}.c" for name in AGENT]
