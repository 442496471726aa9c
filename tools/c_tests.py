"""Build csrc/ and every tests/c/*.c under ASan and UBSan, with each compiler, and run the tests.

A test is a program of its own, linked with the core; it fails by exiting nonzero. The native
programs are built too, so that both compilers have checked every line.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

COMPILERS = ("gcc", "clang")
CSRC = Path("csrc")
BUILD = Path("build/c")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = [f"@{CSRC}/compile_flags.txt", "-Werror", "-g", "-O1", f"-I{CSRC}", *SANITIZE]
TEST_SECONDS = 120


def compile_to_object(compiler: str, source: Path, version: str) -> Path:
    target = BUILD / compiler / source.with_suffix(".o")
    target.parent.mkdir(parents=True, exist_ok=True)
    define = f'-DUSERNSCTL_VERSION="{version}"'
    run([compiler, *FLAGS, define, "-c", source, "-o", target])
    return target


def run(command: list[str | Path], **environment: str) -> None:
    """Raises CalledProcessError if the command fails, TimeoutExpired if it hangs."""
    subprocess.run(command, check=True, timeout=TEST_SECONDS, env=os.environ | environment)


def build(compiler: str, pool: ThreadPoolExecutor) -> list[Path]:
    """Build everything with this compiler; the test programs."""
    pyproject = tomllib.loads(Path("pyproject.toml").read_text())
    version = pyproject["project"]["version"]
    objects: dict[Path, Path] = {}

    def compile_all(sources: list[Path]) -> list[Path]:
        done = list(pool.map(lambda source: compile_to_object(compiler, source, version), sources))
        objects.update(zip(sources, done, strict=True))
        return done

    programs = {
        name: [CSRC / file for file in files]
        for name, files in pyproject["tool"]["usernsctl"]["programs"].items()
    }
    own_files = {file for files in programs.values() for file in files}
    freestanding = build_freestanding(compiler, pyproject["tool"]["usernsctl"]["freestanding"])
    others = own_files | freestanding
    core = compile_all([file for file in sorted(CSRC.glob("*.c")) if file not in others])
    compile_all(sorted(own_files))

    def link(inputs: list[Path], target: Path) -> Path:
        run([compiler, *SANITIZE, *inputs, *core, "-o", target])
        return target

    for name, files in programs.items():
        link([objects[file] for file in files], BUILD / compiler / name)
    tests = compile_all(sorted(Path("tests/c").glob("*.c")))
    return [link([test], BUILD / compiler / test.stem) for test in tests]


def build_freestanding(compiler: str, settings: dict[str, Any]) -> set[Path]:
    """Build what is linked with nothing, sanitizers included; the sources that only it has.

    The tests use the programs that are linked with all that.
    """
    if platform.machine() in settings["machines"]:
        for name, files in settings["sources"].items():
            target = BUILD / compiler / "freestanding" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = [f"@{CSRC}/compile_flags.txt", "-Werror", "-O2", *settings["flags"]]
            run([compiler, *flags, *(CSRC / file for file in files), "-o", target])
    return {CSRC / source for source in settings["own"]}


def main() -> int:
    failed = []
    total = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for compiler in COMPILERS:
            for program in build(compiler, pool):
                total += 1
                print(f"--- {program}", flush=True)
                try:
                    run([program.absolute()], UBSAN_OPTIONS="print_stacktrace=1")
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
