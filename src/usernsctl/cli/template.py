"""``usernsctl template``: programs that are saved where they are ready, and started from there."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from usernsctl._lean import asdict, fields
from usernsctl._text import quoted
from usernsctl.cli import run, terminal
from usernsctl.cli.parser import Parser, UsageError
from usernsctl.cli.waiting import exit_status
from usernsctl.gvisor.launch.request import PROCESS, Request, read_settings
from usernsctl.gvisor.sandbox.sandbox import Sandbox
from usernsctl.gvisor.template.template import RestoreOptions, TemplateOptions

if TYPE_CHECKING:
    from usernsctl.gvisor.template.record import TemplateRecord

# What is of each sandbox's own, or of a run that nobody else has a part in.
_LEFT_OUT = ("terminal", "state", "reraise_signal")


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl template``."""
    group = Parser(
        prog, description="Save programs where they are ready, and start them from there."
    )
    _add_create(group)
    verb = group.add_verb("list", "List the templates.", list_)
    verb.add_flag("--json", dest="as_json", help="Print JSON, for programs.")
    verb = group.add_verb(
        "run",
        "Start a sandbox of the template NAME, and wait for its end.",
        run_,
        options_first=True,
        wants=["environ"],
    )
    verb.add_option(
        "--env",
        dest="settings",
        heading=PROCESS,
        repeats=True,
        metavar="NAME[=VALUE]",
        help="As for run.",
    )
    verb.add_option(
        "--wd", "--cwd", dest="cwd", heading=PROCESS, metavar="DIR", help="Start in DIR."
    )
    run.add_options(verb, run.request_options(of_host=True))
    verb.add_operand("name", "NAME")
    verb.add_words("args", "[ARG]...")
    verb = group.add_verb("remove", "Remove templates.", remove)
    verb.add_operand("names", "NAME...", nargs="+")
    return group


def _add_create(group: Parser) -> None:
    verb = group.add_verb(
        "create",
        "Start CMD in gVisor, and save it under NAME once it is ready.",
        create,
        usage="[OPTIONS] NAME [-- CMD [ARG]...]",
        wants=["environ"],
    )
    add = partial(verb.add_option, heading="The template")
    add(
        "--ready",
        metavar="line:TEXT|file:PATH|port:N",
        help="When CMD is ready: it has written this line, there is this file inside, or something "
        "inside listens on this TCP port.",
    )
    add(
        "--python",
        metavar="FILE",
        help="Save this Python interpreter, in place of CMD. usernsctl template run NAME then "
        "takes the words of a program.",
    )
    add(
        "--preload",
        metavar="MODULE",
        repeats=True,
        help="Have it import MODULE before. It may be given several times.",
    )
    add("--timeout", parse=float, metavar="SECONDS", help="300 unless given.")
    add("--replace", action="store_true", help="Take the place of another template of that name.")
    run.add_options(verb, (one for one in run.request_options() if one[0] not in _LEFT_OUT))
    verb.add_operand("name", "NAME")
    verb.add_words("command", "[CMD [ARG]...]")


def create(name: str, replace: bool, environ: Mapping[str, str], **given: Any) -> None:
    """Start CMD in gVisor, and save it under NAME once it is ready.

    The other options are those of usernsctl run.

        usernsctl template create answer --ready line:READY -- python3 answer.py
        usernsctl template run answer <question
        usernsctl template create numbers --python python3 --preload decimal
        usernsctl template run numbers -- -c 'import decimal; print(decimal.MAX_PREC)'
    """
    from usernsctl.gvisor.host import SandboxHost
    from usernsctl.gvisor.template import store
    from usernsctl.gvisor.template.template import Template

    own = {option: given.pop(option) for option in ("ready", "python", "preload", "timeout")}
    _check(given, own)
    try:
        store.path_of(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not replace:
        store.check_free(name)
    request = run.request_of({**given, "terminal": False}, environ)
    options: TemplateOptions = {
        "env": request.env,
        "cwd": request.cwd,
        "user": request.user,
        "timeout": own["timeout"],
    }
    what = "the interpreter" if own["python"] is not None else "the command"
    with SandboxHost(**_host_arguments(request)) as host, terminal.progress() as tell:

        def make() -> Template:
            if own["python"] is None:
                return host.template(request.args, ready=own["ready"], **options)
            names = own["preload"]
            return host.python_template(python=own["python"], preload=names, **options)

        tell(f"{name}: starting {what}, to save it when it is ready")
        with make() as template:
            tell(f"{name}: keeping what was saved on the disk")
            store.keep(template.save, name, replace=replace)


def _host_arguments(request: Request) -> dict[str, Any]:
    """Return the arguments of a :class:`usernsctl.SandboxHost` that a request stands for."""
    found = {
        argument.name: getattr(request, one.name)
        for one in fields(Request)
        if (argument := one.metadata.get("argument")) is not None
    }
    # A kept namespace has a map of its own.
    return found if request.kept is None else {**found, "idmap": None}


def _check(given: dict[str, Any], own: dict[str, Any]) -> None:
    """Look whether options go together.

    :raises UsageError: they do not.
    """
    if own["python"] is not None:
        if given["command"] or own["ready"] is not None:
            raise UsageError("--python is in place of CMD and --ready")
    elif own["preload"]:
        raise UsageError("--preload is about an interpreter: give --python")
    elif own["ready"] is None:
        raise UsageError("--ready has to say when CMD is ready")
    command = given["command"] or (("python3",) if own["python"] is not None else ())
    run.check_combination({**given, "command": command, "state": None})
    if own["ready"] is not None:
        from usernsctl.gvisor.template.checkpoint import Ready

        try:
            Ready.of(own["ready"])
        except ValueError as error:
            raise UsageError(str(error)) from None


def list_(as_json: bool) -> None:
    """List the templates: name, kind, size, age and command."""
    from usernsctl.gvisor.template import store

    found = store.list_all()
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    if not found:
        return
    rows = [("NAME", "KIND", "SIZE", "AGE", "COMMAND")]
    for one in found:
        # The text that an interpreter is given is ours.
        args = one.args[:1] if one.kind == "python" else one.args
        size = f"{one.size / (1 << 20):.1f}M"
        age = f"{int(time.time() - one.created)}s" if one.created else "-"
        rows.append((one.name, one.kind or "damaged", size, age, " ".join(args)))
    for line in terminal.table(rows):
        print(line)


def run_(
    name: str,
    settings: Sequence[str],
    cwd: str | None,
    args: Sequence[str],
    environ: Mapping[str, str],
    **given: Any,
) -> int:
    """Start a sandbox of the template NAME, and wait for its end.

    The options about files, isolation and runsc must be those that the template was created with:
    what the files of the template say is not done, only compared.

    If it is the template of an interpreter, ARG are what would follow python3 on a command line,
    and --env and --wd are of the program's own.

    The exit status is that of the command, or 128+N if signal N killed it. 125: it did not go on.
    """
    from usernsctl.gvisor.host import SandboxHost
    from usernsctl.gvisor.template import store
    from usernsctl.gvisor.template.python import PythonTemplate
    from usernsctl.gvisor.template.template import Template

    streams: RestoreOptions = {"stdin": None, "stdout": None, "stderr": None}
    arguments = _host_arguments(_host_request(given))
    try:
        path, record = store.find(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    remedy = _creation(name, record)
    if record.kind == "python":
        env = read_settings(settings, environ)
        with (
            SandboxHost(**arguments) as host,
            PythonTemplate.load(path, host=host, remedy=remedy) as python,
        ):
            return _wait(lambda: python.start(args, env=env, cwd=cwd, **streams))
    elif args or settings or cwd is not None:
        raise UsageError(
            f"the command of the template {name!r} was started already: it takes no words, "
            "--env or --wd"
        )
    else:
        with (
            SandboxHost(**arguments) as host,
            Template.load(path, host=host, remedy=remedy) as template,
        ):
            return _wait(lambda: template.start(**streams))


def _host_request(given: dict[str, Any]) -> Request:
    """Return the request that options about a host stand for.

    :raises UsageError: they do not go together.
    """
    command = {"command": ("true",), "cwd": None, "user": None, "terminal": False, "state": None}
    environment = {"settings": (), "env_files": (), "env_all": False}
    run.check_combination({**given, **command})
    return run.request_of({**given, **command, **environment}, {})


def _creation(name: str, record: TemplateRecord) -> str:
    """Return the command that creates a template anew, as far as the record may say.

    Options about the host are left to whoever types it: somebody could have written the record who
    would like to have other ones.
    """
    words = ["usernsctl", "template", "create", "--replace"]
    if record.kind == "python":
        return " ".join(map(quoted, [*words, "--python", record.args[0], name])) + " ..."
    shown = " ".join(map(quoted, [*words, name]))
    return f"{shown} --ready ... -- {' '.join(map(quoted, record.args))}"


def _wait(start: Callable[[], Sandbox]) -> int:
    with contextlib.ExitStack() as boxes:
        return exit_status(lambda: boxes.enter_context(start()), may_be_long=True)


def remove(names: Sequence[str]) -> None:
    """Remove templates."""
    from usernsctl.gvisor.template import store

    for name in names:
        try:
            store.remove(name)
        except ValueError as error:
            raise UsageError(str(error)) from None
