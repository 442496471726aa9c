"""The layers and programs of csrc/, for setup.py, tools/c_tests.py and tools/c_layers.py.

Each directory of csrc/ is a layer, and each directory of csrc/programs/ is a program. A new source
file needs no change here; a new program needs a line in PROGRAMS.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parent
sys.path.insert(0, str(CSRC / "explain"))
import texts  # noqa: E402

# Layers from bottom to top. A layer may call functions of lower layers. All layers may include the
# interface, include/usernsctl.h.
LAYERS = ("base", "map", "sys", "child", "facts", "explain", "ns", "launch", "programs")

# Layers of pure functions: they have no side effects, and the same arguments give the same result.
PURE = ("map",)

# Sources in programs/shared/ of the programs that watch a sandbox.
WATCHED = (
    *("descendants.c", "limit_watch.c", "limits.c", "oom_watch.c", "sandbox_end.c"),
    "sandbox_group.c",
)
# Sources in programs/shared/ of the programs that start a sandbox for the Python package.
SANDBOX_SOURCES = (
    *WATCHED,
    *("error_fields.c", "network.c", "sandbox_command.c", "sandbox_limits.c", "sandbox_wait.c"),
)

# Names of the programs, each with its sources in programs/shared/.
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

# The processors that gVisor supports.
FREESTANDING_MACHINES = ("x86_64", "aarch64")
# Compiler flags of programs without libc. Such programs run in gVisor on any root filesystem, and
# start faster, because they are small.
FREESTANDING_FLAGS = (
    *("-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-nostdlib"),
    *("-fstack-clash-protection", "-fno-lto", "-fno-pie", "-fno-sanitize=all", "-static"),
    *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s"),
)
# With outline atomics, gcc would replace atomic operations by calls of library functions.
FREESTANDING_FLAGS_OF = {"aarch64": ("-mno-outline-atomics",)}
# Sources of usernsctl-agent that the C tests link, too. The agent's entry point is not among them.
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

# The libc functions of usernsctl-agent, which is linked without libc.
AGENT_LIBC = "programs/agent/libc.c"


def flags(csrc: Path = CSRC) -> list[str]:
    """Return the compiler flags of all builds: language, include path and warnings.

    The flags come from a file that clangd reads, too.
    """
    words = (csrc / "compile_flags.txt").read_text().split()
    return [f"-I{csrc}" if word == "-I." else word for word in words]


def musl_flags(headers: Path, system: Path = Path("/usr/include")) -> list[str]:
    """Return flags for musl-gcc that add kernel headers and disable warnings about musl's macros.

    :param headers: a directory, in which this function creates links to the kernel headers in
        ``system``, but not to the libc headers there.
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
    """Return the sources of the core, which the extension and every program with a libc contain.

    Generate explain/texts.c, one of these sources, first.
    """
    causes = csrc.resolve().parent / "src" / "usernsctl" / "explain" / "causes"
    if causes.is_dir():
        explain = csrc / "explain"
        texts.generate(explain / "messages", causes, explain / "texts.c")
    found = [file for layer in LAYERS[:-1] for file in (csrc / layer).glob("*.c")]
    return sorted(found)


def program(name: str, csrc: Path = CSRC) -> list[Path]:
    """Return the sources of a program besides those of the core."""
    programs = csrc / "programs"
    own = set((programs / name.removeprefix("usernsctl-")).glob("*.c"))
    return [*sorted(own), *(programs / "shared" / source for source in PROGRAMS[name])]


def freestanding_flags(machine: str) -> tuple[str, ...]:
    """Return the compiler flags for programs without libc, for a processor (platform.machine())."""
    return (*FREESTANDING_FLAGS, *FREESTANDING_FLAGS_OF.get(machine, ()))


def freestanding(name: str, csrc: Path = CSRC) -> list[Path]:
    """Return the sources of a program that is linked without libc."""
    return [csrc / source for source in FREESTANDING[name]]


def agent(csrc: Path = CSRC) -> list[Path]:
    """Return the agent's sources for C tests: all but main.c, its libc functions and proof.c."""
    return [csrc / "programs" / "agent" / f"{name}.c" for name in AGENT]
