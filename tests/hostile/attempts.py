"""Start a sandbox COUNT times, each in a new process: ``attempts.py COUNT REQUEST``.

REQUEST is a JSON object with fields of a Request (each bind is a list) and `env_file`. The script
prints one line for each start: the output of the fake runsc, joined by commas, or the error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, NoReturn

from usernsctl.errors import UsernsError
from usernsctl.gvisor.launch.options import read_env_file
from usernsctl.gvisor.launch.perform import run_in_place
from usernsctl.gvisor.launch.request import Bind, Request


def attempt(fields: dict[str, Any]) -> NoReturn:
    try:
        given = dict(fields)
        binds = tuple(Bind(*bind) for bind in given.pop("binds", ()))
        if file := given.pop("env_file", None):
            given["env"] = read_env_file(file, os.environ)
        run_in_place(Request(args=("/bin/true",), binds=binds, verify=False, **given))
    except UsernsError as error:
        print(f"refused: {error}")
    except BaseException:
        print("crashed:", traceback.format_exc().replace("\n", "|"))
    sys.stdout.flush()
    os._exit(1)


def main(count: int, fields: dict[str, Any]) -> None:
    for _ in range(count):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            for fd in (1, 2):
                os.dup2(theirs, fd)
            os.close(theirs)
            attempt(fields)
        os.close(theirs)
        with open(ours, errors="replace") as said:
            answer = said.read()
        os.waitpid(pid, 0)
        print(",".join(answer.split("\n")), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
