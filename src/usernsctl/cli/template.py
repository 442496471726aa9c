"""``usernsctl template``: checkpoint programs, and start sandboxes from the checkpoints."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from usernsctl._lean import asdict, fields
from usernsctl._lean import replace as replace_fields
from usernsctl._text import quoted
from usernsctl.cli import call_for_each, print_error, print_or_drop, run, terminal
from usernsctl.cli.parser import Parser, UsageError
from usernsctl.cli.waiting import exit_status
from usernsctl.commands.popen import TimeoutExpired
from usernsctl.errors import LimitError, UsernsError
from usernsctl.gvisor.checks import NamedUser
from usernsctl.gvisor.launch.limits import parse_duration
from usernsctl.gvisor.launch.options import PROCESS, parse_path, read_settings
from usernsctl.gvisor.launch.request import Request
from usernsctl.gvisor.launch.view import COMMAND_LINE
from usernsctl.gvisor.runsc.command import TIME_IS_OVER
from usernsctl.gvisor.sandbox.sandbox import Sandbox
from usernsctl.gvisor.template.image import not_ready
from usernsctl.gvisor.template.record import shown_args
from usernsctl.gvisor.template.template import RestoreOptions, TemplateOptions

if TYPE_CHECKING:
    from usernsctl.gvisor.template.record import TemplateRecord

# Options of usernsctl run that templates do not support.
_LEFT_OUT = ("terminal", "state", "reraise_signal", "timeout", "log", "publish")

_REMEDY_OF_LATE = """give the command more time: --timeout 10m
check that --ready names what the command does when it is ready; a program that writes a line
must flush its output, as by print('READY', flush=True) in Python"""


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl template``."""
    group = Parser(
        prog, description="Start programs from a checkpoint that was taken when they were ready."
    )
    _add_create(group)
    verb = group.add_verb("list", "List the templates.", list_)
    verb.add_flag("--json", dest="as_json", help="Print JSON, for programs.")
    verb = group.add_verb(
        "run",
        "Start a sandbox from the template NAME, and wait for its end.",
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
        help="Set a variable, as usernsctl run --env does.",
    )
    verb.add_option(
        "--wd",
        "--cwd",
        dest="cwd",
        heading=PROCESS,
        parse=parse_path,
        metavar="DIR",
        help="Start in DIR.",
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
        "Start CMD in gVisor, and save a checkpoint as NAME once CMD is ready.",
        create,
        usage="[OPTIONS] NAME [-- CMD [ARG]...]",
        wants=["environ"],
    )
    add = partial(verb.add_option, heading="The template")
    add(
        "--ready",
        metavar="line:TEXT|file:PATH|port:N",
        help="CMD is ready when it has written the line TEXT, the file PATH exists inside, or TCP "
        "port N has a listener inside.",
    )
    add(
        "--python",
        metavar="FILE",
        help="Save the Python interpreter FILE in place of CMD. usernsctl template run NAME then "
        "takes the arguments of the interpreter.",
    )
    add(
        "--preload",
        metavar="MODULE",
        repeats=True,
        help="Import MODULE into the interpreter before it is saved (repeatable).",
    )
    add(
        "--timeout",
        parse=parse_duration,
        metavar="TIME",
        help="Fail if CMD is not ready after TIME, such as 30s or 2m; 5m by default.",
    )
    add("--replace", action="store_true", help="Replace an existing template of the same name.")
    run.add_options(verb, (one for one in run.request_options() if one[0] not in _LEFT_OUT))
    verb.add_operand("name", "NAME")
    verb.add_words("command", "[CMD [ARG]...]")


def create(name: str, replace: bool, environ: Mapping[str, str], **given: Any) -> None:
    """Start CMD in gVisor, and save a checkpoint as the template NAME once CMD is ready.

    The options for the sandbox are those of usernsctl run.

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
    if replace:
        store.path_of(name)
    else:
        store.check_free(name)
    request = run.request_of({**given, "terminal": False}, environ)
    user = request.user
    options: TemplateOptions = {
        "env": request.env,
        "cwd": request.cwd,
        "user": str(user) if isinstance(user, NamedUser) else user,
        "timeout": own["timeout"],
    }
    what = "the interpreter" if own["python"] is not None else "the command"
    with SandboxHost(**_host_arguments(request)) as host, terminal.progress() as report:
        host.prepared.remedies = COMMAND_LINE

        def make() -> Template:
            try:
                with _wrong_values():
                    if own["python"] is None:
                        return host.template(request.args, ready=own["ready"], **options)
                    names = own["preload"]
                    return host.python_template(python=own["python"], preload=names, **options)
            except TimeoutExpired as late:
                why = f"{what} was not ready within {late.timeout:g} s"
                raise not_ready(why, _REMEDY_OF_LATE) from None

        report(f"{name}: starting {what}, and waiting until it is ready")
        with make() as template:
            report(f"{name}: writing the template to the disk")
            store.keep(template.save, name, replace=replace)


@contextlib.contextmanager
def _wrong_values() -> Iterator[None]:
    """Convert the ValueError that functions of Template raise for a wrong argument.

    :raises UsageError: an option or argument of the command line has a wrong value.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, UsernsError):
            raise
        raise UsageError(str(error)) from error


def _host_arguments(request: Request) -> dict[str, Any]:
    """Return the arguments of :class:`usernsctl.SandboxHost` that correspond to a request."""
    arguments = {
        argument.name: getattr(request, field.name)
        for field in fields(Request)
        if (argument := field.metadata.get("argument")) is not None
    }
    # SandboxHost rejects an idmap together with a named namespace, because the namespace has its
    # own maps.
    return arguments if request.kept is None else {**arguments, "idmap": None}


def _check(given: dict[str, Any], own: dict[str, Any]) -> None:
    """Check that no option of ``template create`` excludes another, and no required one is missing.

    :raises UsageError: options exclude each other, or an option is missing or invalid.
    """
    if own["python"] is not None:
        if given["command"] or own["ready"] is not None:
            raise UsageError("--python can't be combined with CMD or --ready")
    elif own["preload"]:
        raise UsageError("--preload needs --python")
    elif own["ready"] is None:
        raise UsageError(
            "no --ready: give a line, file or port that shows that CMD is ready, such as port:80"
        )
    command = given["command"] or (("python3",) if own["python"] is not None else ())
    example = "usernsctl template create NAME --ready READY -- CMD"
    if not command:
        raise UsageError(f"no command: give a command, as in: {example}")
    run.check_combination({**given, "command": command, "state": None})
    if own["ready"] is not None:
        from usernsctl.gvisor.template.checkpoint import Ready

        try:
            Ready.of(own["ready"])
        except ValueError as error:
            raise UsageError(f"--{error}") from None


def list_(as_json: bool) -> None:
    """List the templates: name, kind, size, age and command."""
    from usernsctl.gvisor.template import store

    found = [
        replace_fields(template, args=shown_args(template.kind, template.args))
        for template in store.list_all()
    ]
    if as_json:
        print(json.dumps([asdict(template) for template in found], indent=2))
        return
    if not found:
        return
    rows = [("NAME", "KIND", "SIZE", "AGE", "COMMAND")]
    for template in found:
        size = f"{template.size / (1 << 20):.1f}M"
        age = f"{int(time.time() - template.created)}s" if template.created else "-"
        rows.append((template.name, template.kind or "damaged", size, age, " ".join(template.args)))
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
    """Start a sandbox from the template NAME, and wait for its end.

    The options for files, isolation and runsc must be the same as for template create. usernsctl
    uses the options that you give here, and only compares them with those in the template.

    If the template was created with --python, the ARGs are those that would follow python3 on a
    command line, and --env and --wd apply to the Python program.

    The exit status is that of the command, or 128+N if signal N killed it. 124: --timeout ended the
    sandbox. 137: another limit ended the sandbox. 125: the command was not restored.
    """
    from usernsctl.gvisor.host import SandboxHost
    from usernsctl.gvisor.template import store
    from usernsctl.gvisor.template.python import PythonTemplate
    from usernsctl.gvisor.template.template import Template

    streams: RestoreOptions = {"stdin": None, "stdout": None, "stderr": None}
    arguments = _host_arguments(_host_request(given))
    path, record = store.find(name)
    remedy = _creation(name, record)
    if record.kind == "python":
        env = read_settings(settings, environ)
        with (
            SandboxHost(**arguments) as host,
            PythonTemplate.load(path, host=host, remedy=remedy) as python,
            _wrong_values(),
        ):
            return _wait(lambda: python.start(args, env=env, cwd=cwd, **streams))
    elif args or settings or cwd is not None:
        raise UsageError(
            f"ARG, --env and --wd do not apply to the template {name!r}: its command already runs"
        )
    else:
        with (
            SandboxHost(**arguments) as host,
            Template.load(path, host=host, remedy=remedy) as template,
        ):
            return _wait(lambda: template.start(**streams))


def _host_request(given: dict[str, Any]) -> Request:
    """Return the request for the options of ``template run``.

    :raises UsageError: options exclude each other.
    """
    command = {"command": ("true",), "cwd": None, "user": None, "terminal": False, "state": None}
    environment = {"settings": (), "env_files": (), "env_all": False}
    run.check_combination({**given, **command})
    return run.request_of({**given, **command, **environment}, {})


def _creation(name: str, record: TemplateRecord) -> str:
    """Return a shell command that creates a template again, for use in remedies.

    The command omits the options for the sandbox. A user may copy the command, and an attacker who
    has written `record` could choose options that weaken the sandbox.
    """
    argv = ["usernsctl", "template", "create", "--replace"]
    if record.kind == "python":
        return " ".join(map(quoted, [*argv, "--python", record.args[0], name])) + " ..."
    shown = " ".join(map(quoted, [*argv, name]))
    return f"{shown} --ready ... -- {' '.join(map(quoted, record.args))}"


def _wait(start: Callable[[], Sandbox]) -> int:
    with contextlib.ExitStack() as boxes:
        try:
            return exit_status(lambda: boxes.enter_context(start()))
        except LimitError as error:
            print_or_drop(print_error, error)
            return TIME_IS_OVER if error.cause == "timeout" else 128 + signal.SIGKILL


def remove(names: Sequence[str]) -> int:
    """Remove templates and their checkpoints."""
    from usernsctl.gvisor.template import store

    return call_for_each(store.remove, names)
