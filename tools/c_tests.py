"""Build csrc/ and all of tests/c under ASan and UBSan, with each compiler, and run the tests.

A test is a program of its own, linked with the core; it fails by exiting nonzero. The native
programs are built too, so that both compilers have checked every line. What reads bytes of others'
making, ``fuzz_*.c``, gets bytes from clang's libFuzzer for a while, beginning with the seeds in the
directory beside it.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path("csrc")
sys.path.insert(0, str(CSRC.resolve()))
import layout  # noqa: E402

COMPILERS = ("gcc", "clang")
TESTS = Path("tests/c")
BUILD = Path("build/c")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = [*layout.flags(CSRC), "-Werror", "-g", "-O1", f"-I{TESTS}", *SANITIZE]
# So that libFuzzer sees which lines are reached.
COVERAGE = {"gcc": [], "clang": ["-fsanitize=fuzzer-no-link"]}
TEST_SECONDS = 120
FUZZ_SECONDS = 5


def compile_to_object(compiler: str, source: Path, version: str) -> Path:
    target = BUILD / compiler / source.with_suffix(".o")
    target.parent.mkdir(parents=True, exist_ok=True)
    define = f'-DUSERNSCTL_VERSION="{version}"'
    run([compiler, *FLAGS, *COVERAGE[compiler], define, "-c", source, "-o", target])
    return target


def run(command: list[str | Path], **environment: str) -> None:
    """Raises CalledProcessError if the command fails, TimeoutExpired if it hangs."""
    subprocess.run(command, check=True, timeout=TEST_SECONDS, env=os.environ | environment)


def build(compiler: str, pool: ThreadPoolExecutor) -> list[list[Path | str]]:
    """Build everything with this compiler; the commands that test it."""
    version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]

    def compile_all(sources: list[Path]) -> dict[Path, Path]:
        done = pool.map(lambda source: compile_to_object(compiler, source, version), sources)
        return dict(zip(sources, done, strict=True))

    def link(inputs: list[Path], target: Path, *flags: str) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        run([compiler, *SANITIZE, *flags, *inputs, *core.values(), "-o", target])
        return target

    build_freestanding(compiler)
    programs = {name: layout.program(name, CSRC) for name in layout.PROGRAMS}
    core = compile_all(layout.core(CSRC))
    objects = compile_all(sorted({file for files in programs.values() for file in files}))
    for name, files in programs.items():
        link([objects[file] for file in files], BUILD / compiler / name)
    tests = compile_all(sorted(TESTS.rglob("test_*.c")))
    agent = compile_all(layout.agent(CSRC))

    def parts(source: Path) -> list[Path]:
        """What a test of a program is linked with besides the core."""
        return list(agent.values()) if source.parent.name == "agent" else []

    # Beside usernsctl-child, which they look for there.
    commands: list[list[Path | str]] = [
        [link([made, *parts(source)], BUILD / compiler / made.stem).absolute()]
        for source, made in tests.items()
    ]
    if compiler == "clang":
        fuzzers = compile_all(sorted(TESTS.rglob("fuzz_*.c")))
        for source, made in fuzzers.items():
            inputs = [made, *parts(source)]
            program = link(inputs, BUILD / compiler / made.stem, "-fsanitize=fuzzer")
            commands.append(fuzz_command(source, program))
    return commands


def fuzz_command(source: Path, program: Path) -> list[Path | str]:
    """Have a program be called with bytes for a while; what it finds goes beside it."""
    found = program.with_suffix(".corpus")
    found.mkdir(exist_ok=True)
    options = ["-close_fd_mask=1", "-verbosity=0", "-max_len=4096", f"-artifact_prefix={program}-"]
    options.append(f"-max_total_time={FUZZ_SECONDS}")
    return [program.absolute(), *options, found, source.parent / "seeds"]


def build_freestanding(compiler: str) -> None:
    """Build what is linked with nothing, sanitizers included.

    The tests use the programs that are linked with all that.
    """
    if platform.machine() not in layout.FREESTANDING_MACHINES:
        return
    for name in layout.FREESTANDING:
        target = BUILD / compiler / "freestanding" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = [*layout.flags(CSRC), "-Werror", "-O2", *layout.FREESTANDING_FLAGS]
        run([compiler, *flags, *layout.freestanding(name, CSRC), "-o", target])
    flags = [*layout.flags(CSRC), "-Werror", "-O2", *layout.FIRST_FLAGS, "-fno-pie"]
    target = BUILD / compiler / "freestanding" / "first.o"
    run([compiler, *flags, *layout.FIRST_LDFLAGS, *layout.first(CSRC), "-o", target])
    # It needs nothing but what libc is begun with; what it does not use may be missing.
    given = [f"-Wl,--defsym={name}=0" for name in ("_start", "un_first_failure")]
    entry = ["-Wl,--gc-sections", f"-Wl,-e,{layout.FIRST_ENTRY}"]
    run([compiler, "-nostdlib", "-static", *entry, *given, target, "-o", target.with_suffix("")])


def main() -> int:
    failed = []
    total = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for compiler in COMPILERS:
            for command in build(compiler, pool):
                total += 1
                program = Path(command[0]).relative_to(Path.cwd())
                print(f"--- {program}", flush=True)
                try:
                    run(command, UBSAN_OPTIONS="print_stacktrace=1")
                except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
                    print(failure, file=sys.stderr)
                    failed.append(str(program))
    print(f"C tests: {total} run, {len(failed)} failed", *failed)
    return 1 if failed or not total else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failure:
        sys.exit(f"the build failed: {failure}")
