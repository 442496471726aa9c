"""Launches, which are lists of records that describe the steps of a run in gVisor.

:mod:`usernsctl.gvisor.launch.plan` creates a launch. The C core (csrc/launch/) reads the records,
which consist of NUL-terminated strings, and performs them. A launch can also be printed and
compared. ``usernsctl freeze`` writes a launch to a launch file; such a launch is called frozen.

Paths of the run's own files contain placeholders for values that are known only when the launch is
performed. :data:`SCRATCH` stands for the path of the run's tmpfs, :data:`ID` for a random id,
:data:`STAMP` for the start time. ``@@`` stands for a single ``@``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from usernsctl._lean import Any, dataclass
from usernsctl.errors import CommandError

SCRATCH, ID, STAMP = "@s", "@i", "@t"

#: Name of an empty directory among the run's own files.
EMPTY_DIRECTORY = "empty"

# The maximum number of strings in a launch. It must equal UN_LAUNCH_WORDS_MAX in the C core.
WORDS_MAX = 1 << 18
# The maximum size of an encoded launch, in bytes. It must equal UN_LAUNCH_MAX in the C core.
BYTES_MAX = 32 << 20
_HEADER = ("usernsctl-launch", "2")


def literal(word: str) -> str:
    """Escape each ``@`` in an argument of a record, so that it does not begin a placeholder."""
    return word.replace("@", "@@")


#: The verbs of records, each with the names of its arguments and with a description that --dry-run
#: prints.
VERBS: Mapping[str, tuple[tuple[str, ...], str]] = {
    # The record with the remedy that is printed if an assumption of a frozen launch no longer
    # holds.
    "remedy": (("command",), "if the launch is outdated: {command}"),
    # Records with the id maps, and with the command's uid, gid, groups and oom_score_adj
    # (proc_pid_oom_score_adj(5)).
    "idmap": (("option",), "{option}"),
    "user": (("uid", "gid"), "run the command as uid {uid} and gid {gid}"),
    "group": (("gid",), "run the command with the supplementary group {gid}"),
    "oom-score": (("score",), "set the oom score to {score}"),
    # The record that names a file of the host, which the core opens.
    "source": (("how", "path"), "open {path}"),
    # The record with an assumption that the core checks when it performs a frozen launch.
    "assume": (
        ("source", "size", "mode", "sum"),
        "{source} still has {size} bytes, the mode {mode} and the checksum {sum}",
    ),
    "scratch": (("path",), "mount the run's own tmpfs on {path}"),
    # Records of the steps that create the sandbox's root filesystem.
    "machine": (("name",), "show this machine's /{name}, read-only"),
    "snapshot": (("name",), "copy the files of /{name} that everybody may read"),
    "guarded": (("name",), "show the files of /{name} that everybody may read"),
    "hide-private": (("inside",), "hide the files in {inside} that not everybody may read"),
    "directory": (("inside", "mode"), "make the directory {inside}, mode {mode}"),
    "link": (("inside", "target"), "make the link {inside} to {target}"),
    "tree": (("source",), "show {source} as /, without its dev, proc and sys"),
    "home": (("inside",), "hide the home directory {inside}"),
    "home-moment": ((), "hide the home directories of the user who starts the launch"),
    "file": (("source", "inside"), "show {source} as {inside}, read-only"),
    "resolver": ((), "copy the file that /etc/resolv.conf links to, if that is in /run"),
    "bind": (("source", "inside", "access"), "bind {source} on {inside}, {access}"),
    "mount": (("inside", "shows"), "let gVisor mount a filesystem of its own on {inside}"),
    "read-only": ((), "make the root filesystem read-only"),
    # Records of the steps that create the run's own files, outside of the root filesystem.
    "make": (("name", "mode"), "make the directory {name}, mode {mode}"),
    "tmpfs": (("name", "size"), "mount a tmpfs of {size} bytes on {name}"),
    "limits": (
        ("memory", "processors", "groups"),
        "show at most the memory and processors of the control group, {memory} bytes and "
        "{processors} processors (0: no limit)",
    ),
    "discard": (("name",), "discard writes to {name}"),
    "touch": (("name",), "make the empty file {name}"),
    "debug-log": (("source",), "show {source} as debug-log"),
    "program": (("source",), "show {source} in programs"),
    "program-link": (("source", "name"), "make the link {name} to {source}"),
    "program-path": (("source",), "execute {source} by its path"),
    # Records with fragments of config.json.
    "json": (("text",), ""),
    "json-several": (("text",), ""),
    "json-args": ((), ""),
    "json-env": ((), ""),
    "json-cwd": ((), ""),
    "json-hostname": ((), ""),
    "json-open-files": ((), ""),
    "json-terminal": ((), ""),
    "json-user": ((), ""),
    "json-uid-map": ((), ""),
    "json-gid-map": ((), ""),
    "json-root": ((), ""),
    "json-bind-source": (("bind",), ""),
    "json-bind-destination": (("bind",), ""),
    # Records with the environment, working directory, arguments and terminal of a frozen launch's
    # command.
    "env-all": ((), "all variables"),
    "env-name": (("name",), "the variable {name}, if it is set"),
    "env-need": (("name",), "the variable {name}"),
    "env-set": (("setting",), "{setting}"),
    "cwd": (("path",), "start in {path}"),
    "cwd-moment": ((), "start in the current directory, which must be inside"),
    "arg": (("word",), "{word}"),
    "terminal-moment": ((), "give the command a terminal if the standard streams are one"),
    "terminal-need": ((), "give the command a terminal; the standard streams must be one"),
    # Records with the privileges that are dropped before runsc is executed.
    "no-new-privs": ((), "gain no more privileges (no_new_privs)"),
    "no-membarrier": ((), "make membarrier(2), which runsc does not need, a no-op"),
    "drop-bounding": ((), "drop all capabilities that runsc does not need"),
    "private-network": (
        (),
        "keep CAP_NET_ADMIN and CAP_SETPCAP until the network of the sandbox is made",
    ),
    # Records with the argv and the environment of the program that is executed.
    "watch": (("word",), "{word}"),
    "runsc-env": (("setting",), "{setting}"),
    "end": ((), ""),
}


@dataclass(frozen=True, slots=True)
class Record:
    """A step of a launch: a verb from :data:`VERBS`, and the verb's arguments."""

    verb: str
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names, _ = VERBS[self.verb]
        assert len(names) == len(self.words), self

    @property
    def named(self) -> dict[str, str]:
        """The arguments, keyed by their names in :data:`VERBS`."""
        return dict(zip(VERBS[self.verb][0], self.words, strict=True))


def record(verb: str, *words: object) -> Record:
    """Return the record of a verb and its arguments; numbers become decimal strings."""
    return Record(verb, tuple(map(str, words)))


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the host that is opened before the process enters the sandbox's namespaces.

    :ivar how: the rule for symbolic links: ``"own"`` follows all, ``"follow"`` those that root or
        the caller owns, ``"exact"`` none.
    :ivar path: the file's absolute path.
    """

    how: str
    path: str


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A value in config.json that is known only when the launch is performed.

    A placeholder in a list may be replaced by any number of elements.

    :ivar record: the record that the core replaces by the value.
    """

    record: Record


@dataclass(frozen=True, slots=True)
class IfSeveralIds:
    """A member of config.json that the core writes only if several ids are mapped."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StartValues:
    """The values of a run that depend on the process that starts it.

    :ivar args: the command and its arguments.
    :ivar env: the command's environment, as ``NAME=VALUE`` entries.
    :ivar cwd: the working directory of the command, or ``None`` for the current directory if it
        exists in the sandbox, else /.
    :ivar hostname: the hostname in the sandbox, or ``None`` for runsc's default.
    :ivar user: the uid and gid of the command.
    :ivar groups: the supplementary groups of the command, in effect only if several ids are mapped.
    :ivar terminal: whether the command has a terminal.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str | None = None
    hostname: str | None = None
    user: tuple[int, int] = (0, 0)
    groups: tuple[int, ...] = ()
    terminal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All steps of a run. The core performs them in the order of the fields.

    Only frozen launches have `remedy`, `assumptions`, `ids`, `user`, `groups` and `policy`.

    :ivar version: the version of this package.
    :ivar remedy: the shell command that writes an outdated launch file again, or ``None``.
    :ivar ids: options of ``usernsctl-exec`` that create the user namespace.
    :ivar user: the uid and gid of the command; both must be mapped.
    :ivar groups: the supplementary groups of the command.
    :ivar oom_score: the oom_score_adj of the process and its descendants (proc(5)), or ``None``.
    :ivar sources: the files of the host; records refer to a file by its index.
    :ivar assumptions: records by which the core checks that programs among `sources` are unchanged.
    :ivar scratch: candidate mount points for the run's tmpfs; the first existing one is used.
    :ivar steps: records that create the root filesystem.
    :ivar files: records that create the run's own files.
    :ivar config: config.json, with a :class:`Placeholder` for each value that is known only when
        the launch is performed, or ``None`` if the launch has no command.
    :ivar start_values: the values for the placeholders, or ``None`` if `policy` determines them.
    :ivar policy: records that set the command's environment, working directory, arguments and
        terminal, some of them to values of the process that performs the launch.
    :ivar given_up: records that drop privileges before the watcher is executed.
    :ivar watcher: the argv to execute: the watcher and its arguments, followed by runsc's argv.
    :ivar runsc: the argv of runsc.
    :ivar runsc_env: the environment of the watcher and runsc, as ``NAME=VALUE`` entries.
    """

    version: str
    remedy: str | None = None
    ids: tuple[str, ...] = ()
    user: tuple[int, int] | None = None
    groups: tuple[int, ...] = ()
    oom_score: int | None = None
    sources: tuple[Source, ...]
    assumptions: tuple[Record, ...] = ()
    scratch: tuple[str, ...]
    steps: tuple[Record, ...]
    files: tuple[Record, ...]
    config: Mapping[str, Any] | None = None
    start_values: StartValues | None = None
    policy: tuple[Record, ...] = ()
    given_up: tuple[Record, ...] = ()
    watcher: tuple[str, ...] = ()
    runsc: tuple[str, ...] = ()
    runsc_env: tuple[str, ...] = ()

    def records(self) -> Iterator[Record]:
        """Yield all records in the order that the core expects."""
        if self.remedy is not None:
            yield record("remedy", self.remedy)
        yield from (record("idmap", word) for word in self.ids)
        if self.user is not None:
            yield record("user", *self.user)
        yield from (record("group", gid) for gid in self.groups)
        if self.oom_score is not None:
            yield record("oom-score", self.oom_score)
        yield from (record("source", source.how, source.path) for source in self.sources)
        yield from self.assumptions
        yield from (record("scratch", path) for path in self.scratch)
        yield from self.steps
        yield from self.files
        if self.config is not None:
            yield from pieces(self.config)
        yield from self.policy
        yield from self.given_up
        yield from (record("watch", word) for word in self.watcher)
        yield from (record("runsc-env", setting) for setting in self.runsc_env)
        yield record("end")

    def encode(self) -> bytes:
        """Encode the launch as NUL-terminated strings, for the C core or for a file.

        :raises CommandError: a string has a NUL character, or the launch exceeds the core's limits.
        """
        words = [*_HEADER, self.version]
        for one in self.records():
            words += (one.verb, *one.words)
        for word in words:
            if "\0" in word:
                before = word.partition("\0")[0]
                reason = f"a path or an argument has a NUL character after {before!r}"
                raise CommandError(
                    reason, step="launch", remedy="remove the NUL: no system call accepts one"
                )
        encoded = b"".join(os.fsencode(word) + b"\0" for word in words)
        if len(words) > WORDS_MAX or len(encoded) > BYTES_MAX:
            raise CommandError(
                f"the launch has {len(words)} strings and {len(encoded)} bytes; "
                f"the limits are {WORDS_MAX} and {BYTES_MAX}",
                step="launch",
                remedy="bind one directory in place of many files, or shorten the config.json",
            )
        return encoded


def pieces(config: Mapping[str, Any]) -> list[Record]:
    """Convert a config.json to records: records with literal text, and records of placeholders."""
    found: list[Record] = []
    texts: list[str] = []
    for piece in _pieces(config):
        if isinstance(piece, str):
            texts.append(piece)
            continue
        if texts:
            found.append(record("json", "".join(texts)))
            texts = []
        found.append(piece)
    return [*found, record("json", "".join([*texts, "\n"]))]


def _pieces(value: Any) -> Iterator[str | Record]:
    if isinstance(value, Placeholder):
        yield value.record
    elif isinstance(value, Mapping):
        yield "{"
        for number, (name, member) in enumerate(value.items()):
            yield from _member(name, member, is_first=number == 0)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for number, element in enumerate(value):
            if number:
                yield ", "
            yield from _pieces(element)
        yield "]"
    else:
        yield dumps(value)


def _member(name: str, value: Any, *, is_first: bool) -> Iterator[str | Record]:
    start = f"{'' if is_first else ', '}{dumps(name)}: "
    if isinstance(value, IfSeveralIds):
        assert not is_first, name
        yield record("json-several", start + dumps(value.value))
    else:
        yield start
        yield from _pieces(value)


def completed(config: Mapping[str, Any], values: Mapping[Record, Any], *, several: bool) -> Any:
    """Return `config` with values in place of its placeholders.

    :param values: a mapping from the record of each placeholder to its value. The value of a
        placeholder in a list is a list of elements.
    :param several: whether more than one uid or gid is mapped.
    """

    def complete(value: Any) -> Any:
        if isinstance(value, Placeholder):
            return values[value.record]
        if isinstance(value, Mapping):
            return {
                name: complete(member.value if isinstance(member, IfSeveralIds) else member)
                for name, member in value.items()
                if several or not isinstance(member, IfSeveralIds)
            }
        if isinstance(value, list | tuple):
            found: list[Any] = []
            for one in value:
                if isinstance(one, Placeholder):
                    found.extend(values[one.record])
                else:
                    found.append(complete(one))
            return found
        return value

    return complete(config)


try:
    # Import json's string encoder directly, because importing json takes longer.
    from _json import encode_basestring
except ImportError:
    from json.encoder import encode_basestring

_CONSTANTS = {True: "true", False: "false", None: "null"}


def dumps(value: Any) -> str:
    """Return ``json.dumps(value, ensure_ascii=False)``, but import json only for complex values.

    :raises TypeError: `value` can't be encoded as JSON.
    """
    if type(value) is str:
        return encode_basestring(value)
    if value is None or type(value) is bool:
        return _CONSTANTS[value]
    if type(value) is int:
        return str(value)
    import json

    return json.dumps(value, ensure_ascii=False)


#: The verifier's path in the sandbox. The verifier checks that the kernel is gVisor.
VERIFIER_INSIDE = "/.usernsctl-verify"
#: The verifier's option that runs the command as the uid and the gid that follow, in a nested user
#: namespace.
VERIFY_AS = "--as"
#: The verifier's option that makes the command ignore the signals in the mask that follows.
VERIFY_IGNORE = "--ignore="
#: The agent's path in sandboxes of a SandboxHost. The agent starts commands in the sandbox.
#: Sandboxes of ``usernsctl run`` have no agent.
AGENT_INSIDE = "/.usernsctl-agent"

#: The directory in a SandboxHost's tmpfs that contains a directory for each sandbox, named by the
#: sandbox's id.
BOXES = "boxes"
#: The directory in BOXES for the crash reports of all sandboxes, a tmpfs of limited size with no
#: other files.
CRASH_DIRECTORY = ".crash"
CRASHES = f"{BOXES}/{CRASH_DIRECTORY}"
