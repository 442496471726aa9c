"""Build the cffi extension and the native programs from csrc/.

csrc/layout.py lists the sources of each program. cffi's declarations are extracted from the
interface of the core, csrc/include/usernsctl.h.
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

# setuptools provides its own distutils in place of Python's, and exports build_scripts under no
# other name.
from distutils.command.build_scripts import build_scripts  # isort: skip

# setuptools rejects absolute paths here.
CSRC = Path("csrc")
sys.path.insert(0, str(CSRC.resolve()))
import layout  # noqa: E402

PYPROJECT = tomllib.loads(Path("pyproject.toml").read_text())
# Programs that users call. The other programs are data files of the package.
SCRIPTS = ["usernsctl-exec", "usernsctl-entrypoint"]
# The directory of an older libc (tools/dist/sysroot.py). If the extension is linked with this libc,
# it also works with all later releases. The programs are static, and contain the libc of the host.
SYSROOT = os.environ.get("USERNSCTL_SYSROOT")
INTERFACE = "include/usernsctl.h"
DEFINES = [("USERNSCTL_VERSION", '"{}"'.format(PYPROJECT["project"]["version"]))]


@functools.cache
def processor() -> str:
    """Return the processor for which the compiler compiles, in the form of platform.machine().

    Without a compiler, return the host's processor, so that the metadata of the package can still
    be read.
    """
    try:
        target = subprocess.run([*compiler(), "-dumpmachine"], capture_output=True, text=True)
    except OSError:
        return platform.machine()
    return target.stdout.partition("-")[0].strip() or platform.machine()


def runs_here(program: Path) -> bool:
    """Return whether a program exits with status 0.

    Return true for a program for another processor, because it can't be executed here.
    """
    if processor() != platform.machine():
        return True
    return subprocess.run([program], stdout=subprocess.DEVNULL).returncode == 0


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


FLAGS = layout.flags(CSRC)
# Compiler flags, keyed by processor, with which the processor detects forged return addresses and
# jump targets.
BRANCHES = {"x86_64": ["-fcf-protection=full"], "aarch64": ["-mbranch-protection=standard"]}
# -U_FORTIFY_SOURCE must precede -D_FORTIFY_SOURCE=3, because the compilers of some distributions
# predefine the macro with a lower level.
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

# The ways to link a program, as compiler flags, in order of preference. A static program starts in
# less than half the time, and also runs in images that have another libc or no libc.
LINK_MODES = [["-fPIE", "-static-pie"], ["-static"], ["-fPIE", "-pie"]]

# The types of <sys/types.h> that the header uses. The "..." lets cffi get the size of each type
# from the compiler.
SYSTEM_TYPES = "typedef int... pid_t; typedef int... uid_t; typedef int... gid_t;"


def declarations(header: str) -> str:
    """Return what remains of a C header without the parts that cffi can't parse.

    The only preprocessor directives that remain are ``#define NAME number``.
    """
    header = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL).replace("\\\n", " ")
    header = re.sub(r"_Static_assert\s*\(.*?\)\s*;", "", header, flags=re.DOTALL)
    header = re.sub(r"__attribute__\s*\(\(.*?\)\)", "", header, flags=re.DOTALL)
    number = re.compile(r"\s*#\s*define\s+\w+\s+-?(0[xX][0-9a-fA-F]+|\d+)\s*")
    lines = header.splitlines()
    return "\n".join(ln for ln in lines if not ln.lstrip().startswith("#") or number.fullmatch(ln))


def older_libc() -> list[str]:
    """Return the compiler and linker flags that select the libc in SYSROOT.

    The flags also take precedence over the libc that a cross compiler has of its own.
    """
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
    # BuildExtension adds the sources of the core. FLAGS is left out, because it enables warnings,
    # and this project can't fix the code that cffi generates.
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
    """Return the first of LINK_MODES with which a test program can be linked and run."""
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
    """Builder of the native programs. Compiles the core only once for all of them.

    :param scratch: an empty directory for object files.
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
        """Build a program.

        :param program: the path of the program; its last component is a name in layout.PROGRAMS.
        """
        objects = [*self._compile(layout.program(program.name, CSRC)), *self._core]
        flags = [*RELEASE, *self._mode, *PROGRAM_LDFLAGS, *own_flags()]
        link(program, [*self._compiler, *flags], objects)


@functools.cache
def program_builder(build_temp: str) -> ProgramBuilder:
    """Return the program builder, which all setuptools commands share."""
    return ProgramBuilder(empty_directory(Path(build_temp, "programs")))


def program_compiler(scratch: Path) -> list[str]:
    """Return the compiler for the programs: musl-gcc if that works, otherwise the default compiler.

    Programs with glibc work, too, but take twice as long to start. glibc queries the processor's
    features by CPUID instructions, each of which traps to the hypervisor in a virtual machine.
    """
    if chosen := os.environ.get("USERNSCTL_PROGRAM_CC"):
        return shlex.split(chosen)
    if processor() != platform.machine() or not shutil.which("musl-gcc"):
        return compiler()
    return ["musl-gcc", *layout.musl_flags(scratch / "kernel-headers")]


def build_freestanding(program: Path) -> None:
    # Put the flags that a program without libc requires last, so that they override earlier flags,
    # such as -fstack-protector-strong.
    flags = [*FLAGS, "-O2", *own_flags(), *layout.freestanding_flags(processor())]
    sources = layout.freestanding(program.name, CSRC)
    chosen = shlex.split(os.environ.get("USERNSCTL_FREESTANDING_CC", ""))
    link(program, [*(chosen or compiler()), *flags], sources)


def own_flags() -> list[str]:
    """Return the flags in the environment variables CPPFLAGS, CFLAGS and LDFLAGS.

    setuptools adds these flags only when it runs a compiler itself.
    """
    names = ("CPPFLAGS", "CFLAGS", "LDFLAGS")
    return [flag for name in names for flag in shlex.split(os.environ.get(name, ""))]


def empty_directory(directory: Path) -> Path:
    """Create an empty directory; first remove the directory's old object files."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def compile_all(compiler: list[str], sources: list[Path], scratch: Path) -> list[Path]:
    """Compile sources in parallel.

    :returns: the paths of the object files in ``scratch``, in the order of the sources.
    :raises CompileError: a source can't be compiled. The compiler has printed the reason.
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
    """Link object files (or compile and link sources) to a program.

    :raises CompileError: linking failed. The compiler has printed the reason.
    """
    program.parent.mkdir(parents=True, exist_ok=True)
    command = [*compiler, *map(str, inputs), "-o", str(program)]
    run_compiler(command, program.name)
    program.chmod(0o755)


def run_compiler(command: list[str], name: str) -> None:
    print(shlex.join(command), flush=True)
    if subprocess.run(command).returncode != 0:
        raise CompileError(f"{name} could not be built")


class BuildExtension(build_ext):
    """The command build_ext. Also builds the programs that are data files of the package."""

    def build_extension(self, ext: Any) -> None:
        """Build the extension; compile the core's sources in parallel, unlike setuptools."""
        command = [*compiler(), *older_libc(), *FLAGS, *EXTENSION_FLAGS, "-fPIC"]
        scratch = empty_directory(Path(self.build_temp, "core"))
        ext.extra_objects = [str(path) for path in compile_all(command, layout.core(CSRC), scratch)]
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
        # usernsctl-exec, which is also installed as a script, is one of these programs, because the
        # package can't always find its installed scripts.
        for name in layout.PROGRAMS.keys() - {"usernsctl-entrypoint"}:
            program_builder(self.build_temp).build(programs / name)

    def _package(self) -> Path:
        """Return the directory to build into: src/usernsctl for an editable install."""
        if self.inplace or self.editable_mode:
            return Path(self.get_finalized_command("build_py").get_package_dir("usernsctl"))
        return Path(self.build_lib, "usernsctl")


class BuildScripts(build_scripts):
    """The setuptools command build_scripts, which here compiles C programs and copies no script."""

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
