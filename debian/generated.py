"""generated.py PYTHON PRELUDE: add shell completion and AppArmor profiles to the packages.

PYTHON and PRELUDE are the build directories of the packages python3-usernsctl and
usernsctl-prelude. debian/rules runs this script while the native programs are still in PYTHON.
"""

import os
import subprocess
import sys
from pathlib import Path

python, prelude = map(Path, sys.argv[1:])
(site,) = python.glob("usr/lib/python3*/dist-packages")
sys.path.insert(0, str(site))

from usernsctl import profiles  # noqa: E402

# Path at which each shell looks for a program's completion script; {} stands for the program.
PLACES = {
    "bash": "usr/share/bash-completion/completions/{}",
    "zsh": "usr/share/zsh/vendor-completions/_{}",
    "fish": "usr/share/fish/vendor_completions.d/{}.fish",
}
PACKAGES = {"usernsctl": python, "usernsctl-exec": prelude}
# Programs that get an AppArmor profile. AppArmor chooses the profile of a Python script by the path
# of the script, so python3 itself needs none.
PROGRAMS = [
    *("/usr/bin/usernsctl", "/usr/bin/usernsctl-exec", "/usr/bin/usernsctl-entrypoint"),
    *(f"/usr/lib/usernsctl/usernsctl-{name}" for name in ("child", "init", "probe", "watch")),
    "/usr/bin/runsc",
]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


environ = os.environ | {"PYTHONPATH": str(site)}
for shell, place in PLACES.items():
    for program, package in PACKAGES.items():
        command = [sys.executable, "-m", "usernsctl", "completion", shell, program]
        script = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
        write(package / place.format(program), script.stdout)
write(prelude / "etc/apparmor.d/usernsctl-host", profiles.for_programs(PROGRAMS))
