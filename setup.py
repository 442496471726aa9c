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
from concurrent.futures import ThreadPoolExecutor
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


def runs_here(program: Path) -> bool:
    """Whether a program works; of one for another processor it can't be told here."""
    if processor() != platform.machine():
        return True
    return subprocess.run([program], stdout=subprocess.DEVNULL).returncode == 0


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
EXTENSION_FLAGS = [*RELEASE, "-fvisibility=hidden"]
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
LINK_MODES = [["-fPIE", "-static-pie"], ["-static"], ["-fPIE", "-pie"]]

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
    # BuildExtension adds the core. The binding that cffi generates is built without warnings: they
    # could not be mended here.
    ffi.set_source(
        "usernsctl._native",
        f'#include "{INTERFACE}"',
        depends=[str(path) for path in sorted(CSRC.rglob("*.[ch]"))],
        include_dirs=[str(CSRC)],
        extra_compile_args=[*libc, *EXTENSION_FLAGS],
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


class ProgramBuilder:
    """Builds the native programs, and compiles the core once for all of them.

    :param scratch: an empty directory, for objects.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._compiler = program_compiler(scratch)
        self._mode = link_mode(self._compiler)

    @functools.cached_property
    def _core(self) -> list[Path]:
        return self._compile(layout.core(CSRC))

    def _compile(self, sources: list[Path]) -> list[Path]:
        return compile_all([*self._compiler, *PROGRAM_FLAGS, *self._mode], sources, self._scratch)

    def build(self, program: Path) -> None:
        """Build the program of that name, one of layout.PROGRAMS."""
        objects = [*self._compile(layout.program(program.name, CSRC)), *self._core]
        flags = [*RELEASE, *self._mode, *PROGRAM_LDFLAGS, *own_flags()]
        link(program, [*self._compiler, *flags], objects)


@functools.cache
def program_builder(build_temp: str) -> ProgramBuilder:
    """Return the builder that all of setuptools' commands share."""
    return ProgramBuilder(empty_directory(Path(build_temp, "programs")))


def program_compiler(scratch: Path) -> list[str]:
    """Return the compiler of the programs: musl-gcc where there is one, since musl starts faster.

    A program that is linked with glibc works as well, and starts in twice the time: glibc asks the
    processor for its features, which a virtual machine answers one after the other.
    """
    if chosen := os.environ.get("USERNSCTL_PROGRAM_CC"):
        return shlex.split(chosen)
    if processor() != platform.machine() or not shutil.which("musl-gcc"):
        return compiler()
    return ["musl-gcc", *layout.musl_flags(scratch / "kernel-headers")]


def build_freestanding(program: Path) -> None:
    # What a program without libc can't do without comes last, such as -fno-stack-protector.
    flags = [*FLAGS, "-O2", *own_flags(), *layout.freestanding_flags(processor())]
    sources = layout.freestanding(program.name, CSRC)
    link(program, [*compiler(), *flags], sources)


def own_flags() -> list[str]:
    """What the caller wants besides, as make has it; for the extension setuptools adds it."""
    names = ("CPPFLAGS", "CFLAGS", "LDFLAGS")
    return [flag for name in names for flag in shlex.split(os.environ.get(name, ""))]


def empty_directory(directory: Path) -> Path:
    """Make a directory anew: objects of an earlier build may be older than their sources."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def compile_all(compiler: list[str], sources: list[Path], scratch: Path) -> list[Path]:
    """Compile sources side by side.

    :returns: their objects, in the same order, in the directory ``scratch``.
    :raises CompileError: one can't be compiled; the compiler has said why.
    """
    flags = [f"-D{name}={value}" for name, value in DEFINES] + own_flags()

    def compile_one(source: Path) -> Path:
        target = scratch / source.with_suffix(".o")
        target.parent.mkdir(parents=True, exist_ok=True)
        run_compiler([*compiler, *flags, "-c", str(source), "-o", str(target)], source.name)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def link(program: Path, compiler: list[str], inputs: list[Path]) -> None:
    """Link objects, or compile sources, into an executable program.

    :raises CompileError: that is not possible; the compiler has said why.
    """
    program.parent.mkdir(parents=True, exist_ok=True)
    words = [*compiler, *map(str, inputs), "-o", str(program)]
    run_compiler(words, program.name)
    program.chmod(0o755)


def run_compiler(command: list[str], name: str) -> None:
    print(shlex.join(command), flush=True)
    if subprocess.run(command).returncode != 0:
        raise CompileError(f"{name} could not be built")


class BuildExtension(build_ext):
    """Also makes the programs that the package carries as data, and starts by their path."""

    def build_extension(self, ext: Any) -> None:
        """Compile the core, side by side, which setuptools would do one file after the other."""
        words = [*compiler(), *older_libc(), *FLAGS, *EXTENSION_FLAGS, "-fPIC"]
        scratch = empty_directory(Path(self.build_temp, "core"))
        ext.extra_objects = [str(path) for path in compile_all(words, layout.core(CSRC), scratch)]
        super().build_extension(ext)

    def run(self) -> None:
        if processor() not in layout.FREESTANDING_MACHINES:
            raise CompileError(
                "usernsctl supports x86-64 and AArch64 only; "
                f"{shlex.join(compiler())} compiles for {processor()}"
            )
        super().run()
        programs = self._package() / "_bin"
        for name in layout.FREESTANDING:
            build_freestanding(programs / name)
        # Also a copy of usernsctl-exec: where scripts are installed, the package can't always tell.
        for name in layout.PROGRAMS.keys() - {"usernsctl-entrypoint"}:
            program_builder(self.build_temp).build(programs / name)

    def _package(self) -> Path:
        """Where the package will be imported from: the tree itself, if it is installed editable."""
        if self.inplace or self.editable_mode:
            return Path(self.get_finalized_command("build_py").get_package_dir("usernsctl"))
        return Path(self.build_lib, "usernsctl")


class BuildScripts(build_scripts):
    """Compiles the scripts: setuptools would take them for text and rewrite their first lines."""

    def run(self) -> None:
        build_temp = self.get_finalized_command("build").build_temp
        for name in SCRIPTS:
            program_builder(build_temp).build(Path(self.build_dir, name))


setup(
    ext_modules=[extension()],
    scripts=[str(layout.program(name, CSRC)[0]) for name in SCRIPTS],
    cmdclass={"build_ext": BuildExtension, "build_scripts": BuildScripts},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
