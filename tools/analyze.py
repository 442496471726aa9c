"""Check csrc/ with clang-tidy and gcc -fanalyzer: analyze.py CLANG_TIDY [SOURCE...].

Fails if either tool reports a finding. .clang-tidy lists the checks of clang-tidy. The comment
NOLINTNEXTLINE(CHECK) suppresses a check's findings in the next line. For gcc, CHECK is the name of
a warning without -W, such as analyzer-fd-leak.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path("csrc")
sys.path.insert(0, str(CSRC.resolve()))
import layout  # noqa: E402

# The gcc of Debian 13 (tools/analyze.apt). Other releases report other findings.
GCC = ["gcc-14", "-O1", "-fanalyzer", "-fdiagnostics-plain-output", "-o/dev/null", "-c"]
GCC_FINDING = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):\d+: warning: .*\[-W(?P<check>\S+)\]$")


def is_suppressed(finding: re.Match[str]) -> bool:
    lines = Path(finding["file"]).read_text(encoding="utf-8").splitlines()
    before = lines[int(finding["line"]) - 2]
    return f"NOLINTNEXTLINE({finding['check']})" in before


def run_gcc(flags: list[str], source: Path) -> str:
    """Return gcc's warnings that are not suppressed, or all of gcc's output if gcc fails."""
    done = subprocess.run([*GCC, *flags, source], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return done.stderr
    found = map(GCC_FINDING.match, done.stderr.splitlines())
    return "".join(f"{one[0]}\n" for one in found if one and not is_suppressed(one))


def run_clang_tidy(program: str, flags: list[str], source: Path) -> str:
    command = [program, "--quiet", source, "--", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def analyze(clang_tidy: str, source: Path) -> str:
    """Return the findings of clang-tidy and gcc in a source file."""
    flags = [*layout.flags(CSRC), '-DUSERNSCTL_VERSION="0"']
    if source.relative_to(CSRC).as_posix() == layout.AGENT_LIBC:
        # With -ffreestanding, gcc does not assume that functions with names of libc behave like
        # libc's.
        flags += ["-ffreestanding", "-fno-builtin"]
    return run_clang_tidy(clang_tidy, flags, source) + run_gcc(flags, source)


def main(clang_tidy: str, names: list[str]) -> int:
    # Generate csrc/explain/texts.c, which is analyzed, too.
    layout.core(CSRC)
    sources = [Path(name) for name in names] or sorted(CSRC.rglob("*.c"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = list(pool.map(lambda source: analyze(clang_tidy, source), sources))
    print("".join(findings), end="")
    count = sum(map(bool, findings))
    print(f"C analysis: {len(sources)} sources, {count} of them with findings")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
