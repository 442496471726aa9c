"""Build csrc/ and tests/c with each toolchain, and run the tests: c_tests.py [TOOLCHAIN...].

A test is a program that is linked with the core. It fails by an exit status other than 0. The
native programs are built, too, so that the compiler checks every line.

By default, the script builds the tests by gcc with ASan and UBSan, runs them, and checks that clang
has no warnings. If ``$USERNSCTL_TEST_ALL`` is set, the script also builds and runs the tests by
clang with ASan and UBSan, and by gcc with musl, the libc of the released programs. The toolchain
``aarch64`` cross-compiles the tests, and runs in an emulator those that start no other program; it
needs the packages in tools/dist/packages.apt. If ``$ONLY`` is set, the script uses only gcc, and
only for tests whose names contain the value of the variable.

If clang is used, its libFuzzer runs each ``fuzz_*.c`` for FUZZ_SECONDS seconds, with the seeds in
the directory ``seeds`` beside that file.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CSRC = Path("csrc")
sys.path.insert(0, str(CSRC.resolve()))
import layout  # noqa: E402

TESTS = Path("tests/c")
CALL_FAULTS = TESTS / "call_faults.c"
BUILD = Path("build/c")
DEFAULT_SIGNALS = Path(__file__).with_name("default-signals")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Directory of coverage profiles.
PROFILES = BUILD.absolute() / "coverage" / "profiles"
# Compiler option with the pattern of the profiles' names. With %m, each program has its own file.
# With %c (LLVM's continuous mode), each process counts in a shared mapping of its program's file,
# so that the counts of processes that are killed or execute another program are not lost.
COUNTED = (f"-fprofile-instr-generate={PROFILES}/%m%c.profraw",)
FLAGS = [*layout.flags(CSRC), "-Werror", "-g1", "-O1", f"-I{TESTS}"]
ONLY = os.environ.get("ONLY", "")
TEST_SECONDS = 120
FUZZ_SECONDS = 2


@dataclass(frozen=True)
class Toolchain:
    """A compiler with its options, and how the host runs the programs that it builds.

    :ivar links: linker options for programs and tests.
    :ivar fuzzes: compiler options for fuzz targets; none if the compiler has no libFuzzer.
    :ivar runner: the command, such as an emulator, that precedes the path of a program to run it.
    :ivar fails: whether tools/c_faults.py can make libc calls fail in programs that this toolchain
        builds.
    """

    name: str
    compiler: str
    flags: tuple[str, ...] = SANITIZE
    links: tuple[str, ...] = SANITIZE
    fuzzes: tuple[str, ...] = ()
    machine: str = platform.machine()
    runner: tuple[str, ...] = ()
    fails: bool = False

    def runs(self, test: Path) -> bool:
        """Return whether a test can be built and run with this toolchain.

        Tests of the agent can't be linked with musl: the agent's processes share memory, including
        musl's errno, so one process could read the errno of another.
        """
        if self.name == "musl" and test.parent.name == "agent":
            return False
        return not self.runner or test.relative_to(TESTS).parts[0] in ALONE


# Layers whose tests neither start programs nor create namespaces. Both fail in the emulator, whose
# additional thread makes each process multithreaded.
ALONE = ("base", "map", "child", "facts", "explain")
TOOLCHAINS = {
    made.name: made
    for made in (
        Toolchain("gcc", "gcc"),
        Toolchain("clang", "clang", fuzzes=("-fsanitize=fuzzer-no-link",)),
        Toolchain(
            "aarch64",
            "aarch64-linux-gnu-gcc",
            flags=("-fPIE",),
            links=("-static-pie",),
            machine="aarch64",
            runner=("qemu-aarch64",),
        ),
        # setup.py links the released programs with the same options.
        Toolchain(
            "musl",
            "musl-gcc",
            flags=("-fPIE", *layout.musl_flags(BUILD / "kernel-headers")),
            links=("-static-pie",),
        ),
        # This toolchain is for tools/c_faults.py, which identifies a call site by its return
        # address. gcc must not turn calls into jumps (tail calls), which store no return address.
        Toolchain("faults", "gcc", (*SANITIZE, "-fno-optimize-sibling-calls"), fails=True),
        # This toolchain instruments the programs for tools/coverage.py.
        Toolchain(
            "coverage",
            "clang",
            (*COUNTED, *("-mllvm", "-runtime-counter-relocation", "-fno-optimize-sibling-calls")),
            links=COUNTED,
            fuzzes=("-fcoverage-mapping",),
            fails=True,
        ),
    )
}
USUAL = ("gcc", "clang", "musl") if os.environ.get("USERNSCTL_TEST_ALL") else ("gcc",)


def sources_of_tests(kind: str) -> list[Path]:
    return sorted(path for path in TESTS.rglob(f"{kind}_*.c") if ONLY in path.stem)


def compile_to_object(toolchain: Toolchain, source: Path, version: str) -> Path:
    target = BUILD / toolchain.name / source.with_suffix(".o")
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS, *toolchain.flags, *toolchain.fuzzes, f'-DUSERNSCTL_VERSION="{version}"']
    run([toolchain.compiler, *flags, "-c", source, "-o", target])
    if toolchain.fails and source.is_relative_to(CSRC):
        run(["objcopy", *(f"--redefine-sym={name}=faulty_{name}" for name in failing()), target])
    return target


@functools.cache
def failing() -> list[str]:
    """Return the names of the libc functions for which tests/c/call_faults.c has wrappers."""
    return re.findall(r"^ {4}X\((\w+),", CALL_FAULTS.read_text(), re.MULTILINE)


def run(command: list[str | Path], **environment: str) -> None:
    """Run a command with a timeout.

    :raises subprocess.CalledProcessError: the exit status is not 0.
    :raises subprocess.TimeoutExpired: the timeout expires before the command exits.
    """
    subprocess.run(command, check=True, timeout=TEST_SECONDS, env=os.environ | environment)


def build(toolchain: Toolchain, pool: ThreadPoolExecutor) -> list[list[Path | str]]:
    """Build all tests with a toolchain, and return the commands that run them."""
    version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    directory = BUILD / toolchain.name

    def compile_all(sources: list[Path]) -> dict[Path, Path]:
        done = pool.map(lambda source: compile_to_object(toolchain, source, version), sources)
        return dict(zip(sources, done, strict=True))

    def link(inputs: list[Path], target: Path, *flags: str) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        words = [*toolchain.links, *flags, *inputs, *core.values(), *faults.values()]
        run([toolchain.compiler, *words, "-o", target])
        return target

    build_freestanding(toolchain)
    programs = {name: layout.program(name, CSRC) for name in layout.PROGRAMS}
    core = compile_all(layout.core(CSRC))
    faults = compile_all([CALL_FAULTS] if toolchain.fails else [])
    objects = compile_all(sorted({file for files in programs.values() for file in files}))
    for name, files in programs.items():
        link([objects[file] for file in files], directory / name)
    tests = compile_all(sources_of_tests("test"))
    agent = compile_all(layout.agent(CSRC))

    def parts(source: Path) -> list[Path]:
        """Return the object files, besides the core, with which a program's test is linked."""
        if source.parent.name == "agent":
            return list(agent.values())
        own = programs.get(f"usernsctl-{source.parent.name}", [])
        return [objects[file] for file in own if file.name != "main.c"]

    # Link usernsctl-child into the directory of each test, where the tests search for it.
    linked = {
        source: link([made, *parts(source)], directory / made.stem)
        for source, made in tests.items()
    }
    commands: list[list[Path | str]] = [
        [*toolchain.runner, program.absolute()]
        for source, program in linked.items()
        if toolchain.runs(source)
    ]
    if toolchain.fuzzes:
        fuzzers = compile_all(sources_of_tests("fuzz"))
        for source, made in fuzzers.items():
            inputs = [made, *parts(source)]
            program = link(inputs, directory / made.stem, "-fsanitize=fuzzer")
            if toolchain.links == COUNTED:
                seeds = (path for path in (source.parent / "seeds").rglob("*") if path.is_file())
                commands.append([program.absolute(), *seeds])
            else:
                commands.append(fuzz_command(source, program))
    return commands


def fuzz_command(source: Path, program: Path) -> list[Path | str]:
    """Return a command that fuzzes a target for FUZZ_SECONDS and adds inputs to its corpus."""
    found = program.with_suffix(".corpus")
    found.mkdir(exist_ok=True)
    options = ["-close_fd_mask=1", "-verbosity=0", "-max_len=4096", f"-artifact_prefix={program}-"]
    options.append(f"-max_total_time={FUZZ_SECONDS}")
    return [program.absolute(), *options, found, source.parent / "seeds"]


def check_with_clang() -> None:
    """Check that clang has no warnings; generate no code, which takes most of a build's time."""
    sources = [*CSRC.rglob("*.c"), *sources_of_tests("test"), *sources_of_tests("fuzz")]
    command = ["clang", *FLAGS, '-DUSERNSCTL_VERSION=""', "-fsyntax-only"]
    directories = [
        [source for source in sources if source.parent == parent]
        for parent in sorted({source.parent for source in sources})
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda files: run([*command, *files]), directories))


def build_fuzzers() -> dict[str, list[Path | str]]:
    """Build all fuzz targets; return a dict that maps their names to the commands that run them."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = build(TOOLCHAINS["clang"], pool)
    found = {Path(command[0]).name: command for command in commands}
    return {name: command for name, command in found.items() if name.startswith("fuzz_")}


def build_freestanding(toolchain: Toolchain) -> None:
    """Build the programs that use no library, and therefore no sanitizer.

    For the tests, the same sources are built with libc and sanitizers.
    """
    if toolchain.machine not in layout.FREESTANDING_MACHINES:
        return
    kernel = [flag for flag in toolchain.flags if flag.startswith(("-W", "-isystem"))]
    for name in layout.FREESTANDING:
        target = BUILD / toolchain.name / "freestanding" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = [*layout.flags(CSRC), "-Werror", "-O2", *kernel]
        flags += layout.freestanding_flags(toolchain.machine)
        run([toolchain.compiler, *flags, *layout.freestanding(name, CSRC), "-o", target])


def main(names: list[str]) -> int:
    unknown = set(names) - TOOLCHAINS.keys()
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; the toolchains are {', '.join(TOOLCHAINS)}")
    if ONLY:
        names = ["gcc"] if sources_of_tests("test") else []
    failed = []
    total = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in names:
            toolchain = TOOLCHAINS[name]
            for command in build(toolchain, pool):
                total += 1
                program = Path(command[len(toolchain.runner)]).relative_to(Path.cwd())
                print(f"--- {program}", flush=True)
                try:
                    run([DEFAULT_SIGNALS, *command], UBSAN_OPTIONS="print_stacktrace=1")
                except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
                    print(failure, file=sys.stderr)
                    failed.append(str(program))
    print(f"C tests: {total} run, {len(failed)} failed", *failed)
    return 1 if failed or not (total or ONLY) else 0


if __name__ == "__main__":
    try:
        if not (sys.argv[1:] or ONLY or "clang" in USUAL):
            check_with_clang()
        sys.exit(main(sys.argv[1:] or list(USUAL)))
    except subprocess.CalledProcessError as failure:
        sys.exit(f"the build failed: {failure}")
