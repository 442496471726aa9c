"""``usernsctl run``: run a command in gVisor without root."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module

from usernsctl._lean import TYPE_CHECKING, Any, fields
from usernsctl._text import say
from usernsctl.cli.parser import Parser, UsageError
from usernsctl.gvisor.launch.options import LIMITS, PROCESS, Option, one_of, parse_path
from usernsctl.gvisor.launch.request import Request

if TYPE_CHECKING:
    from usernsctl.gvisor.launch.result_file import ResultFile
    from usernsctl.maps import Fill, IdMap


def request_options(*, of_host: bool = False) -> Iterator[tuple[str, Option, Any]]:
    """Yield the name, the Option and the default for each option of a Request.

    :param of_host: whether to yield only the options that are also arguments of SandboxHost.
    """
    for field in fields(Request):
        if of_host and field.metadata.get("argument") is None:
            continue
        for option in field.metadata.get("options", ()):
            yield option.name or field.name, option, field.default


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl run``."""
    parser = Parser(
        prog, run, usage="[OPTIONS] -- CMD [ARG]...", options_first=True, wants=["environ"]
    )
    add_options(parser, request_options())
    parser.add_option(
        "--max-output",
        heading=LIMITS,
        parse=_max_output,
        metavar="SIZE",
        help="Pass on at most SIZE, such as 1M, of standard output, and as much of standard error. "
        "usernsctl keeps the beginning and the end, and drops the middle. CMD gets no terminal.",
    )
    parser.add_option(
        "--on-overflow",
        heading=LIMITS,
        parse=one_of("truncate", "kill"),
        metavar="truncate|kill",
        help="If CMD writes more than --max-output: drop the middle (truncate, the default), or "
        "end the sandbox (kill).",
    )
    parser.add_option(
        "--result",
        heading=PROCESS,
        parse=parse_path,
        metavar="FILE",
        help="Write the exit status of CMD, and the reason of its end, to FILE, as JSON. "
        "usernsctl creates FILE when CMD has ended.",
    )
    parser.add_flag(
        "--dry-run",
        heading="Dry run",
        help="Print the steps of the run, with the values of all variables, and don't start CMD.",
    )
    parser.add_flag(
        "--json",
        dest="as_json",
        heading="Dry run",
        help="Print the steps as JSON.",
    )
    parser.add_words("command", "CMD [ARG]...")
    return parser


def add_options(parser: Parser, options: Iterable[tuple[str, Option, Any]]) -> None:
    """Add the options of :func:`request_options` to a parser."""
    for name, option, default in options:
        about: dict[str, Any] = {"dest": name, "heading": option.heading, "help": option.help}
        if option.shows_default:
            about["default"] = default
        if option.metavar is not None:
            about |= {"metavar": option.metavar, "parse": option.parse, "repeats": option.multiple}
        elif "/" not in option.flags[0]:
            about |= {"action": "store_true", "default": False}
        parser.add_option(*option.flags, **about)


def file_parser(prog: str, write: Callable[..., int | None], heading: str, what: str) -> Parser:
    """Return the parser of a subcommand that saves a ``usernsctl run`` in a file.

    The caller must add the options of ``usernsctl run``.

    :param heading: the heading of ``--output`` in ``--help``.
    :param what: the noun for the written file, in the help text.
    """
    usage = "[OPTIONS] -o FILE [--] [CMD [ARG]...]"
    parser = Parser(prog, write, usage=usage, options_first=True, wants=["environ", "words"])
    parser.add_option(
        "-o",
        "--output",
        heading=heading,
        required=True,
        parse=parse_path,
        metavar="FILE",
        help=f"Write the {what} to FILE, replacing an existing FILE (required).",
    )
    parser.add_words("command", "[CMD [ARG]...]")
    return parser


# Maximum value of --max-output, in bytes: MAX_OUTPUT_MAX in csrc/programs/watch/watch.h.
_OUTPUT_MAX = 1 << 30


def _max_output(text: str) -> int:
    """Parse the value of ``--max-output``.

    :raises ValueError: `text` is not a size from 1 byte to 1 GiB.
    """
    from usernsctl.gvisor.launch.limits import parse_size

    size = parse_size(text)
    if size > _OUTPUT_MAX:
        raise ValueError(
            f"{text!r} is more than 1G, the limit: usernsctl keeps the output in memory"
        )
    return size


def run(*, dry_run: bool, as_json: bool, environ: Mapping[str, str], **given: Any) -> int:
    """Run CMD in gVisor: on a kernel of its own, without root.

    CMD sees /usr, /bin, /sbin, /lib*, /etc and /opt of this machine. Home directories, /tmp, /run,
    /var, /mnt, /media and /srv are empty; use --bind for files of yours. Writes of CMD stay in
    memory, and are gone when CMD ends. CMD gets only PATH, LANG and TERM of your environment. If
    CMD is in your active virtual environment, CMD sees that environment, too.

    The exit status is that of CMD, or 128+N if signal N killed CMD. 124: --timeout ended the
    sandbox. 137: another limit ended the sandbox. 125: CMD did not run, or runsc failed. 126: CMD
    can't be executed. 127: CMD does not exist.

        usernsctl run -- cat /proc/version
        usernsctl run --bind ~/venv --bind . -- ~/venv/bin/python job.py
        usernsctl run --bind ~/data:/data:rw -- touch /data/file
        usernsctl run --network host --env TOKEN -- curl https://example.org
    """
    if given["log"] == "json":
        from usernsctl.cli import json_log

        return json_log.reporting(
            lambda: _run(given, environ, json_log.notice, dry_run=dry_run, as_json=as_json)
        )
    _run(given, environ, _notify, dry_run=dry_run, as_json=as_json)
    return 0


def _run(
    given: dict[str, Any],
    environ: Mapping[str, str],
    notify: Callable[[str], None],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    if as_json and not dry_run:
        raise UsageError("--json needs --dry-run")
    check_combination(given)
    max_output = _output_limit(given)
    path = given.pop("result")
    if given["terminal"] is None:
        from usernsctl import _core

        # Request a terminal only if standard input, output and error are the same terminal, because
        # gVisor otherwise often hangs before the command starts.
        given["terminal"] = _core.stdio_is_terminal()
    given["virtual_env"] = environ.get("VIRTUAL_ENV")
    request = request_of(given, environ)
    if dry_run:
        from usernsctl.cli.dry_run import show

        show(request, notify, as_json=as_json)
    else:
        from usernsctl import _core
        from usernsctl.gvisor.launch.perform import run_in_place

        # Open missing standard streams before files that usernsctl-watch inherits, such as the
        # result file. Such a file would otherwise become the command's standard stream.
        _core.open_missing_stdio()
        _import_the_rest(joins_namespace=given["kept"] is not None)
        with _result_file(path) as result:
            run_in_place(request, notify=notify, result=result, max_output=max_output)


@contextmanager
def _result_file(path: str | None) -> Iterator[ResultFile | None]:
    """Yield the result file, opened; ``None`` if `path` is None.

    If the body of the ``with`` statement raises an OSError, the failure is written to the file.

    :raises CommandError: the file can't be opened.
    """
    if path is None:
        yield None
        return
    from usernsctl.gvisor.launch.result_file import ResultFile

    file = ResultFile(path)
    try:
        yield file
    except OSError as error:
        with suppress(OSError):
            file.write_failure(getattr(error, "exit_status", 125))
        raise
    finally:
        file.discard()


def _output_limit(given: dict[str, Any]) -> str | None:
    """Remove the options for the output limit from `given`; return the limit for usernsctl-watch.

    :returns: the number of bytes, followed by ``,kill`` for ``--on-overflow kill``; ``None`` for no
        limit.

    :raises UsageError: --max-output excludes --terminal, or --on-overflow lacks --max-output.
    """
    limit, on_overflow = given.pop("max_output"), given.pop("on_overflow")
    if limit is None:
        if on_overflow is not None:
            raise UsageError("--on-overflow needs --max-output")
        return None
    if given["terminal"]:
        raise UsageError("--max-output and --terminal exclude each other: a limit needs pipes")
    given["terminal"] = False
    return f"{limit},kill" if on_overflow == "kill" else str(limit)


def request_of(given: dict[str, Any], environ: Mapping[str, str]) -> Request:
    """Return the request for the options in `given`; remove the options that were converted.

    :param environ: the environment variables that the command may receive.
    """
    env, idmap = _environment(given, environ), _idmap(given)
    return Request(args=given.pop("command"), env=env, idmap=idmap, **given)


def _notify(text: str) -> None:
    say(f"usernsctl: {text}")


def _import_the_rest(*, joins_namespace: bool) -> None:
    """Import modules that are needed after this process has entered the namespace.

    :param joins_namespace: whether the namespace exists already. Root inside could have mounted
        other files over usernsctl's modules, so no module may be imported inside, not even to
        report an error.
    """
    # Look up the codec now, because Python imports encodings.ascii at the first look-up.
    codecs.lookup("ascii")
    if joins_namespace:
        # The search for a missing command, and tracebacks, need these modules.
        for module in ("shutil", "usernsctl.gvisor.launch.view", "traceback"):
            import_module(module)


def _idmap(given: dict[str, Any]) -> IdMap:
    """Remove the options for ids from `given`; return the id map that they request."""
    from usernsctl.maps import IdMap

    fill: Fill = "auto" if given.pop("map_auto") else "none"
    return IdMap(
        map_user=0,
        map_group=0,
        map_users=given.pop("map_users"),
        map_groups=given.pop("map_groups"),
        fill_users=fill,
        fill_groups=fill,
        allow_single_id=given.pop("allow_single_id"),
    )


def check_combination(
    given: dict[str, Any], example: str = "usernsctl run -- cat /proc/version"
) -> None:
    """Check that no option excludes another, and that no required option is missing.

    :param example: the command line with a CMD that the error for a missing CMD shows.
    :raises UsageError: options exclude each other, an option is missing, or a value is empty.
    """
    roots = {
        "--rootfs": given["rootfs"],
        "--bundle": given["bundle"],
        "--expose-root": given["expose_root"],
    }
    chosen = [name for name, value in roots.items() if value]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} exclude each other")
    if given["kept"] is not None and (
        given["map_users"] or given["map_groups"] or given["map_auto"]
    ):
        raise UsageError("--in and the --map options exclude each other: NAME has its own map")
    _check_network(given)
    for name in ("trust_bundle", "allow_hooks"):
        if given[name] and not given["bundle"]:
            raise UsageError(f"--{name.replace('_', '-')} needs --bundle")
    if not given["command"] and not given["bundle"]:
        raise UsageError(f"no command: give a command, as in: {example}")
    if given["command"] and not given["command"][0]:
        raise UsageError("the command is an empty string")


def _check_network(given: dict[str, Any]) -> None:
    """Check the options for the network.

    :raises UsageError: options exclude each other, or too many ports are published.
    """
    # Templates have no published ports, so their options do not include `publish`.
    network, ports = given["network"], given.get("publish", ())
    if ports and network == "host":
        raise UsageError("--publish and --network host exclude each other")
    if ports:
        from usernsctl.network.ports import MAX_PORTS

        if len(ports) > MAX_PORTS:
            raise UsageError(f"{len(ports)} published ports are more than {MAX_PORTS}")
    names = [rule for rule in given["allow"] if not hasattr(rule, "condition")]
    if (given["allow"] and network == "host") or (names and network != "none"):
        raise UsageError(f"--allow and --network {network} exclude each other: omit --network")


def _environment(given: dict[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    """Remove the options for environment variables from `given`; return the environment."""
    from usernsctl.gvisor.launch.options import base_environment, read_env_file, read_settings

    everything, files, settings = (given.pop(n) for n in ("env_all", "env_files", "settings"))
    # The command of a bundle gets the bundle's environment instead of the default variables.
    bare = given["bundle"] and not everything
    env = {} if bare else base_environment(variables, everything=everything)
    for path in files:
        env.update(read_env_file(path, variables))
    env.update(read_settings(settings, variables))
    return env
