"""Build the cffi extension and the native programs from csrc/.

csrc/layout.py says what is built from which sources. The declarations that cffi needs come from the
interface itself, csrc/include/usernsctl.h.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from cffi import FFI
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# setuptools brings this module, and has no other name for the command.
from distutils.command.build_scripts import build_scripts  # isort: skip

# setuptools wants paths that begin here.
CSRC = Path("csrc")
sys.path.insert(0, str(CSRC.resolve()))
import layout  # noqa: E402

PYPROJECT = tomllib.loads(Path("pyproject.toml").read_text())
# What users call; the others are data of the package.
SCRIPTS = ["usernsctl-exec", "usernsctl-entrypoint"]
# An older libc for the extension to be linked with, so that it works with that and all later ones
# (tools/dist/sysroot.py). The programs are static, and take this machine's.
SYSROOT = os.environ.get("USERNSCTL_SYSROOT")
INTERFACE = "include/usernsctl.h"
DEFINES = [("USERNSCTL_VERSION", '"{}"'.format(PYPROJECT["project"]["version"]))]


@functools.cache
def processor() -> str:
    """The processor that is built for, as platform.machine() calls it: the compiler's own target.

    Without a compiler nothing is built, but what the package is can be asked for.
    """
    try:
        told = subprocess.run([*compiler(), "-dumpmachine"], capture_output=True, text=True)
    except OSError:
        return platform.machine()
    return told.stdout.partition("-")[0].strip() or platform.machine()


def runs_here(program: Path, *words: str) -> bool:
    """Whether a program works; of one for another processor it can't be told here."""
    if processor() != platform.machine():
        return True
    return subprocess.run([program, *words], stdout=subprocess.DEVNULL).returncode == 0


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


FLAGS = layout.flags(CSRC)
# Against forged returns and jumps, where the processor can tell them.
BRANCHES = {"x86_64": ["-fcf-protection=full"], "aarch64": ["-mbranch-protection=standard"]}
# -U first: some distributions' compilers define FORTIFY themselves, at another level.
RELEASE = [
    *("-O2", "-fstack-protector-strong", "-fstack-clash-protection"),
    *("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"),
    *BRANCHES.get(processor(), ()),
]
FULL_RELRO = ["-Wl,-z,relro,-z,now"]
# The binding that cffi generates is not ours to mend, so the extension is built without warnings.
EXTENSION_FLAGS = [flag for flag in FLAGS if not flag.startswith("-W")] + RELEASE
PROGRAM_FLAGS = [*FLAGS, *RELEASE, "-ffunction-sections", "-fdata-sections"]
PROGRAM_LDFLAGS = [
    "-Wl,--gc-sections",
    *FULL_RELRO,
    "-Wl,-z,noexecstack",
    "-pthread",
    "-s",
]

# Best first. A static program starts in less than half the time, and runs in an image that has
# no libc or another one.
STATIC_MODES = [["-fPIE", "-static-pie"], ["-static"]]
LINK_MODES = [*STATIC_MODES, ["-fPIE", "-pie"]]
OBJCOPY = os.environ.get("OBJCOPY", "objcopy")

# The types of <sys/types.h> that the header uses; the compiler fills in the dots.
SYSTEM_TYPES = "typedef int... pid_t; typedef int... uid_t; typedef int... gid_t;"


def declarations(header: str) -> str:
    """What cffi can parse of a C header: no preprocessor save ``#define NAME number``."""
    header = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL).replace("\\\n", " ")
    header = re.sub(r"_Static_assert\s*\(.*?\)\s*;", "", header, flags=re.DOTALL)
    header = re.sub(r"__attribute__\s*\(\(.*?\)\)", "", header, flags=re.DOTALL)
    number = re.compile(r"\s*#\s*define\s+\w+\s+-?(0[xX][0-9a-fA-F]+|\d+)\s*")
    lines = header.splitlines()
    return "\n".join(ln for ln in lines if not ln.lstrip().startswith("#") or number.fullmatch(ln))


def older_libc() -> list[str]:
    """What has the compiler take the libc in SYSROOT, even a cross compiler, which has its own."""
    if not SYSROOT:
        return []
    headers, system = f"{SYSROOT}/usr/include", f"{processor()}-linux-gnu"
    libraries = [f"-L{SYSROOT}/usr/lib/{system}", f"-L{SYSROOT}/lib/{system}"]
    first = [*("-isystem", f"{headers}/{system}", "-isystem", headers), *libraries]
    return [f"--sysroot={SYSROOT}", *(first if processor() != platform.machine() else ())]


def extension() -> Any:
    libc = older_libc()
    ffi = FFI()
    ffi.cdef(SYSTEM_TYPES + declarations((CSRC / INTERFACE).read_text()))
    ffi.set_source(
        "usernsctl._native",
        f'#include "{INTERFACE}"',
        sources=[str(path) for path in layout.core(CSRC)],
        depends=[str(path) for path in sorted(CSRC.rglob("*.h"))],
        include_dirs=[str(CSRC)],
        define_macros=DEFINES,
        extra_compile_args=[*libc, *EXTENSION_FLAGS, "-fvisibility=hidden"],
        extra_link_args=[*libc, *FULL_RELRO],
        py_limited_api=True,
    )
    return ffi.distutils_extension("build")


def link_mode(compiler: list[str]) -> list[str]:
    """The first of LINK_MODES that makes a program which also runs."""
    with tempfile.TemporaryDirectory() as scratch:
        source, program = Path(scratch, "probe.c"), Path(scratch, "probe")
        source.write_text("int main(void) { return 0; }\n")
        for mode in LINK_MODES:
            built = subprocess.run(
                [*compiler, *mode, str(source), "-o", str(program)], capture_output=True
            )
            if built.returncode == 0 and runs_here(program):
                return mode
    raise CompileError(f"{shlex.join(compiler)} can't make a working program")


def build_program(program: Path) -> None:
    defines = [f"-D{name}={value}" for name, value in DEFINES]
    mode = link_mode(compiler())
    flags = [*PROGRAM_FLAGS, *defines, *own_flags(), *mode, *PROGRAM_LDFLAGS]
    sources = [*layout.program(program.name, CSRC), *layout.core(CSRC)]
    if program.name != "usernsctl-exec" or not build_with_first(flags, mode, sources, program):
        compile_program(flags, sources, program)


def build_with_first(flags: list[str], mode: list[str], sources: list[Path], program: Path) -> bool:
    """Build the program so that it begins before its libc; false where the tools can't."""
    if not has_first(mode):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch, "first.o")
        try:
            build_first(first, mode)
            entry = f"-Wl,-e,{layout.FIRST_ENTRY}"
            compile_program([*flags, entry], [*sources, first], program)
        except CompileError as error:
            print(f"{error}: it begins with libc, and starts later for that", flush=True)
            return False
    return runs_here(program, "--version")


def has_first(mode: list[str]) -> bool:
    """Whether a program can begin before its libc does; if the dynamic loader starts it, no."""
    known = processor() in layout.FREESTANDING_MACHINES
    return known and mode in STATIC_MODES and shutil.which(OBJCOPY) is not None


def build_first(target: Path, mode: list[str]) -> None:
    movable = layout.FIRST_MOVABLE if "-static-pie" in mode else ["-fno-pie"]
    flags = [*FLAGS, "-O2", *own_flags(), *layout.FIRST_FLAGS, *movable, *layout.FIRST_LDFLAGS]
    compile_program(flags, layout.first(CSRC), target)
    # Its libc is nobody else's.
    command = [OBJCOPY, f"--keep-global-symbol={layout.FIRST_ENTRY}", str(target)]
    if subprocess.run(command).returncode != 0:
        raise CompileError(f"{shlex.join(command)} failed")


def build_freestanding(program: Path) -> None:
    flags = [*FLAGS, "-O2", *own_flags(), *layout.freestanding_flags(processor())]
    compile_program(flags, layout.freestanding(program.name, CSRC), program)


def own_flags() -> list[str]:
    """What the caller wants besides, as make has it; for the extension setuptools adds it."""
    names = ("CPPFLAGS", "CFLAGS", "LDFLAGS")
    return [flag for name in names for flag in shlex.split(os.environ.get(name, ""))]


def compile_program(flags: list[str], sources: list[Path], program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    command = [*compiler(), *flags, *map(str, sources), "-o", str(program)]
    print(shlex.join(command), flush=True)
    if subprocess.run(command).returncode != 0:
        raise CompileError(f"{program.name} could not be built")
    program.chmod(0o755)


class BuildExtension(build_ext):
    """Also makes the programs that the package carries as data, and starts by their path."""

    def run(self) -> None:
        super().run()
        programs = self._package() / "_bin"
        has_freestanding = processor() in layout.FREESTANDING_MACHINES
        freestanding = layout.FREESTANDING.keys() if has_freestanding else set()
        for name in freestanding:
            build_freestanding(programs / name)
        # Also a copy of usernsctl-exec: where scripts are installed, the package can't always tell.
        for name in layout.PROGRAMS.keys() - {"usernsctl-entrypoint", *freestanding}:
            build_program(programs / name)

    def _package(self) -> Path:
        """Where the package will be imported from: the tree itself, if it is installed editable."""
        if self.inplace or self.editable_mode:
            return Path(self.get_finalized_command("build_py").get_package_dir("usernsctl"))
        return Path(self.build_lib, "usernsctl")


class BuildScripts(build_scripts):
    """Compiles the scripts: setuptools would take them for text and rewrite their first lines."""

    def run(self) -> None:
        for name in SCRIPTS:
            build_program(Path(self.build_dir, name))


setup(
    ext_modules=[extension()],
    scripts=[str(layout.program(name, CSRC)[0]) for name in SCRIPTS],
    cmdclass={"build_ext": BuildExtension, "build_scripts": BuildScripts},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
