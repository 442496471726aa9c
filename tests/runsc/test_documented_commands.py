"""Tests of the commands in README and docs, each executed as written in a new home directory.

The commands are in code blocks of `sh`, `console` (after `$ `) and `python`, in README's cheat
sheet, and in the right columns of the tables in docs/migration.md. Blocks that can't run here are
in EXCLUDED, with reasons.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SCRIPTS
from processes import capture

TREE = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *(
        f"docs/{page}.md"
        for page in (
            "run",
            "bigframe",
            "namespaces",
            "maps",
            "bundle",
            "doctor",
            "explain",
            "templates",
            "migration",
        )
    ),
]
# Page of which only the Python blocks are executed.
PYTHON_PAGE = "docs/python.md"
# Pages whose blocks `make test` executes. `make test-all` executes those of all pages.
QUICK_PAGES = ("README.md", PYTHON_PAGE)
LANGUAGES = {"sh", "console", "python", "text", "json", "dockerfile"}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHEAT_SHEET = re.compile(r"^\| .* \| `(.+)` \|$", re.MULTILINE)
# Pages with a cheat sheet, and the prefix of shell commands in it. Cells without the prefix contain
# Python names.
CHEAT_SHEETS = {"README.md": "", "docs/migration.md": "usernsctl"}
SECONDS = 120


@dataclass(frozen=True)
class Block:
    """Code block, or command of a cheat sheet, that is executed as one script.

    :ivar name: the page and the script's first line, without the line's comment.
    :ivar script: the commands, without the output that the page shows.
    """

    page: str
    language: str
    script: str

    @property
    def name(self) -> str:
        return f"{self.page}: {self.script.splitlines()[0].partition('  #')[0].strip()}"


def commands_of(transcript: str) -> str:
    lines = transcript.splitlines(keepends=True)
    return "".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))


def blocks_of(page: str) -> Iterator[Block]:
    text = (TREE / page).read_text()
    for language, content in BLOCK.findall(text):
        if language == "console":
            yield Block(page, "sh", commands_of(content))
        elif language in ("sh", "python"):
            yield Block(page, language, content)
    if page in CHEAT_SHEETS:
        for command in CHEAT_SHEET.findall(text):
            if command.startswith(CHEAT_SHEETS[page]):
                yield Block(page, "sh", command)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
BLOCKS += [block for block in blocks_of(PYTHON_PAGE) if block.language == "python"]

#: Names of blocks that can't be executed here, and the reasons.
EXCLUDED = {
    "README.md: make demo": ("it installs from PyPI; `make test` runs this test"),
    "README.md: docker build -f Dockerfile.gvisor -t connector .": "it takes Docker",
    "README.md: docker build -f Dockerfile.gvisor -t prelude --target prelude .": (
        "it takes Docker; tests/docker builds and runs that image"
    ),
    "README.md: apt-get install gcc libc6-dev musl-tools python3-dev python3-venv runsc": (
        "it takes root, and changes the machine"
    ),
    "README.md: usernsctl run --network host -- curl https://example.org": "it takes the Internet",
    "README.md: usernsctl run --network private -- curl https://example.org": (
        "it takes the Internet"
    ),
    "README.md: usernsctl run --allow pypi.org --allow files.pythonhosted.org -- "
    "pip download requests": "it takes the Internet",
    "README.md: usernsctl run --publish 8080:80 -- python3 -m http.server 80": (
        "it serves until it is stopped"
    ),
    'README.md: ENTRYPOINT ["usernsctl-exec", "-r", "--"]': "it is a line of a Dockerfile",
    "README.md: usernsctl cp script.py box:/tmp/": (
        "it takes a detached sandbox; test_cp.py copies into and out of one"
    ),
    "docs/explain.md: unshare --map-root-user --map-auto true 2>&1 | usernsctl explain": (
        "it shows what is said under no_new_privs"
    ),
    "docs/run.md: systemd-run --user --scope -p MemoryMax=1G usernsctl run -- CMD": (
        "it takes a systemd that manages the user"
    ),
    'docs/python.md: with un.SandboxHost() as host, open("log", "ab") as log:': (
        "my-server stands for the reader's program"
    ),
    'docs/python.md: with un.Sandbox.attach("web") as box:': (
        "it attaches to the sandbox of the block before"
    ),
}

#: Exit statuses of blocks whose pages say that they fail.
STATUS = {
    "docs/run.md: usernsctl run --bind ~/venv -- ~/venv/bin/tool": 126,
    # For root, the plan succeeds, because root may map any id.
    "docs/maps.md: usernsctl plan -r --map-users 1:500:1": 125 if os.geteuid() else 0,
}

BOX = "docs/migration.md: usernsctl ns create box -r -m"

#: Blocks that need a namespace or a template, and the block of the same page that creates it.
AFTER = {
    "README.md: usernsctl ns exec web -- id": "README.md: usernsctl ns create web -r -m",
    "README.md: usernsctl run --in web -- id": "README.md: usernsctl ns create web -r -m",
    "README.md: usernsctl ns remove web": "README.md: usernsctl ns create web -r -m",
    "docs/migration.md: usernsctl ns exec box -- id -u": BOX,
    "docs/migration.md: usernsctl ns remove box": BOX,
    "README.md: usernsctl template run ready <error.txt": (
        "README.md: usernsctl template create ready --ready READY -- "
        "sh -c 'echo READY; read line; echo $line'"
    ),
}

#: Matches blocks that need subordinate id ranges.
NEEDS_RANGES = re.compile(r"--map-auto|IdMap\.auto\(\)")


def make_rootfs(directory: Path) -> None:
    """Create a small root filesystem with some of the host's programs and their libraries."""
    programs = [f"/bin/{name}" for name in ("sh", "id", "sleep", "true")]
    told = capture(["ldd", *programs], check=True).stdout
    for path in {*programs, *re.findall(r"(/\S+) \(0x", told)}:
        target = directory / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


@pytest.fixture(scope="module")
def home_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new home directory with the files that the pages assume, but no config.json."""
    made = tmp_path_factory.mktemp("pattern") / "home"
    for directory in ("data", "results", "venv/bin", ".pyenv/versions/3.12/bin"):
        (made / directory).mkdir(parents=True)
    (made / "data" / "numbers").write_text("1 2 3\n")
    (made / "results" / "sizes").write_text("6 /data/numbers\n")
    (made / "script.py").write_text("print('hello')\n")
    (made / "error.txt").write_text("unshare: unshare failed: Operation not permitted\n")
    shutil.copy("/bin/true", made / ".pyenv" / "versions" / "3.12" / "bin" / "python3.12")
    for bundle in ("web", "bundle"):
        make_rootfs(made / bundle / "rootfs")
    return made


@pytest.fixture(scope="module")
def configs(home_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Create config.json for each bundle in `home_template`; return the paths of the files."""
    found = {}
    for bundle, command in (("web", ["true"]), ("bundle", ["sleep", "100"])):
        found[bundle] = tmp_path_factory.mktemp("configs") / "config.json"
        init = ["bundle", "init", bundle, "--rootfs", f"{bundle}/rootfs", "--", *command]
        done = execute([str(SCRIPTS / "usernsctl"), *init], home_template, dict(os.environ))
        assert done.returncode == 0, done.stderr
        (home_template / bundle / "config.json").rename(found[bundle])
    return found


@pytest.fixture
def home(home_template: Path, tmp_path: Path) -> Path:
    """Return a copy of `home_template` with links and a script of a virtual environment."""
    made = tmp_path / "home"
    shutil.copytree(home_template, made)
    python = made / "venv" / "bin" / "python"
    python.symlink_to(made / ".pyenv" / "versions" / "3.12" / "bin" / "python3.12")
    tool = python.with_name("tool")
    tool.write_text(f"#!{python}\n")
    tool.chmod(0o755)
    return made


@pytest.fixture
def environ(home: Path) -> Iterator[dict[str, str]]:
    """Yield the environment variables for `home`; remove the test's named namespaces afterwards."""
    made = {
        "HOME": str(home),
        # Debian's PATH for users other than root, without sbin directories.
        "PATH": f"{SCRIPTS}:/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": str(home.parent),
        "TOKEN": "secret",
        "LANG": "C.UTF-8",
    }
    yield made
    if next(home.parent.glob("usernsctl-*"), None) is not None:
        left = "usernsctl ns list | sed 1d | cut -d' ' -f1 | xargs -r usernsctl ns remove"
        assert shell(left, home, made).returncode == 0


def shell(script: str, home: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return execute(["sh", "-euc", script], home, environ)


def execute(
    command: list[str], home: Path, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return capture(command, cwd=home, env=environ, timeout=SECONDS)


def cases() -> Iterator[object]:
    for block in BLOCKS:
        if block.name not in EXCLUDED:
            marks = (
                [pytest.mark.userns_requires("subid")] if NEEDS_RANGES.search(block.script) else []
            )
            if block.page not in QUICK_PAGES:
                marks.append(pytest.mark.thorough)
            yield pytest.param(block, id=block.name, marks=marks)


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("block", list(cases()))
def test_documented_block_runs_as_written(
    block: Block, home: Path, environ: dict[str, str], configs: dict[str, Path]
) -> None:
    if "bundle init" not in block.script:
        for bundle, config in configs.items():
            shutil.copy(config, home / bundle)
    if ".venv" in block.script:
        venv = ["/usr/bin/python3", "-m", "venv", "--without-pip", ".venv"]
        assert execute(venv, home, environ).returncode == 0
    if block.name in AFTER:
        (before,) = (each.script for each in BLOCKS if each.name == AFTER[block.name])
        assert shell(before, home, environ).returncode == 0
    if block.language == "python":
        script = f"import usernsctl as un\n{block.script}"
        done = execute([sys.executable, "-c", script], home, environ)
    else:
        done = shell(block.script, home, environ)
    assert done.returncode == STATUS.get(block.name, 0), f"{done.stdout}\n{done.stderr}"


def test_every_exception_names_an_existing_block() -> None:
    names = [block.name for block in BLOCKS]
    assert len(names) == len(set(names)) > 30, (
        "the search finds too little, or a name is there twice"
    )
    for name in (*EXCLUDED, *STATUS, *AFTER, *AFTER.values()):
        assert name in names


@pytest.mark.parametrize("page", PAGES)
def test_every_code_block_has_a_known_language(page: str) -> None:
    """Check that each code block names a known language; other blocks are not executed."""
    for language, content in BLOCK.findall((TREE / page).read_text()):
        assert language in LANGUAGES, content
        assert language == "console" or not re.search(r"^\$ ", content, re.MULTILINE), content
