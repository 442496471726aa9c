"""A launch: everything that a run in gVisor will do, as data.

It is decided by :mod:`usernsctl.gvisor.decide` and performed by the core (csrc/launch/), which
reads it as words. It can be printed, compared, and kept in a file.

Words that name files of the run's own have marks in them for what is known at the start only:
:data:`SCRATCH` is the path of the run's tmpfs, :data:`ID` names the start, :data:`STAMP` is when
that is, and ``@@`` is one ``@``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from usernsctl._lean import Any, dataclass
from usernsctl.errors import CommandError

SCRATCH, ID, STAMP = "@s", "@i", "@t"

#: Of the run's own files: a directory that stays empty.
EMPTY_DIRECTORY = "empty"

# As csrc/launch/ has them.
WORDS_MAX = 1 << 18
BYTES_MAX = 32 << 20
_HEADER = ("usernsctl-launch", "1")


def literal(word: str) -> str:
    """A word without marks, for where marks are read."""
    return word.replace("@", "@@")


#: The words of each record, in their order, and what it does, for people.
VERBS: Mapping[str, tuple[tuple[str, ...], str]] = {
    # What must be as it was.
    "assume": (
        ("path", "size", "mtime_ns", "mode"),
        "{path} has {size} bytes, and has not changed",
    ),
    "remedy": (("command",), "otherwise: {command}"),
    # The ids.
    "idmap": (("option",), "{option}"),
    "user": (("uid", "gid"), "run the command as uid {uid} and gid {gid}"),
    "oom-score": (("score",), "set the oom score to {score}"),
    # The files of the machine.
    "source": (("how", "path"), "open {path}"),
    "scratch": (("path",), "mount the run's own tmpfs on {path}"),
    # The root filesystem.
    "machine": (("name",), "show this machine's /{name}, read-only"),
    "snapshot": (("name",), "copy what everybody may read of /{name}"),
    "guarded": (("name",), "show of /{name} what everybody may read"),
    "hide-private": (("inside",), "hide what not everybody may read in {inside}"),
    "directory": (("inside", "mode"), "make the directory {inside}, mode {mode}"),
    "link": (("inside", "target"), "make the link {inside} to {target}"),
    "tree": (("source",), "show {source} as /, without its dev, proc and sys"),
    "home": (("inside",), "have nothing in the home {inside}"),
    "home-moment": ((), "have nothing in the homes of whoever starts it"),
    "file": (("source", "inside"), "show {source} as {inside}, read-only"),
    "resolver": ((), "copy the file that /etc/resolv.conf links to, if that is in /run"),
    "bind": (("source", "inside", "access"), "bind {source} on {inside}, {access}"),
    "mount": (("inside", "shows"), "have gVisor mount its own on {inside}"),
    "read-only": ((), "make all of that read-only"),
    # The run's own files.
    "make": (("name", "mode"), "make the directory {name}, mode {mode}"),
    "tmpfs": (("name", "size"), "mount a tmpfs of {size} bytes on {name}"),
    "discard": (("name",), "throw away what is written to {name}"),
    "touch": (("name",), "make the empty file {name}"),
    "debug-log": (("source",), "show {source} as debug-log"),
    "program": (("source",), "show {source} in programs"),
    "program-link": (("source", "name"), "have {name} lead to {source}"),
    "program-path": (("source",), "execute {source} by its path"),
    # config.json, in pieces.
    "json": (("text",), ""),
    "json-several": (("text",), ""),
    "json-args": ((), ""),
    "json-env": ((), ""),
    "json-cwd": ((), ""),
    "json-hostname": ((), ""),
    "json-uid-map": ((), ""),
    "json-gid-map": ((), ""),
    "json-root": ((), ""),
    "json-bind-source": (("bind",), ""),
    "json-bind-destination": (("bind",), ""),
    # What the command gets of whoever starts it.
    "env-all": ((), "all variables"),
    "env-name": (("name",), "the variable {name}, if there is one"),
    "env-need": (("name",), "the variable {name}"),
    "env-set": (("setting",), "{setting}"),
    "cwd": (("path",), "start in {path}"),
    "cwd-moment": ((), "start in the current directory, which must be inside"),
    "arg": (("word",), "{word}"),
    # What is given up.
    "no-new-privs": ((), "gain no privileges any more (no_new_privs)"),
    "no-membarrier": ((), "do not register for memory barriers, which runsc has no use for"),
    "drop-bounding": ((), "drop all capabilities that runsc does not need"),
    # What is executed.
    "watch": (("word",), "{word}"),
    "runsc-env": (("setting",), "{setting}"),
    "end": ((), ""),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One step: a verb of :data:`VERBS`, and its words."""

    verb: str
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names, _ = VERBS[self.verb]
        assert len(names) == len(self.words), self

    @property
    def named(self) -> dict[str, str]:
        """The words by what they are called."""
        return dict(zip(VERBS[self.verb][0], self.words, strict=True))


def record(verb: str, *words: object) -> Record:
    """The record of these words, numbers in decimal."""
    return Record(verb, tuple(map(str, words)))


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the machine that is opened before the namespace is entered.

    :ivar how: which symbolic links on the way are followed: ``"own"``: all, ``"follow"``: root's
        and the caller's, ``"exact"``: none.
    :ivar path: an absolute path.
    """

    how: str
    path: str


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A place in config.json for what is known at the start only; of a list, for its elements.

    :ivar record: that is written there.
    """

    record: Record


@dataclass(frozen=True, slots=True)
class IfSeveralIds:
    """A member of an object in config.json, which is there only if several ids are mapped."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StartValues:
    """What a run has of whoever starts it.

    :ivar args: the command and its arguments.
    :ivar env: each ``NAME=VALUE``.
    :ivar cwd: where the command starts; ``None``: in the current directory, if that is inside.
    :ivar hostname: the name of the host inside, or ``None`` for runsc's default.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str | None = None
    hostname: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything that a run will do, in the order of these fields.

    :ivar version: of this package.
    :ivar assumptions: what must hold, and what to do if it does not; of frozen ones only.
    :ivar ids: options of ``usernsctl-exec`` that make the user namespace; of frozen ones only.
    :ivar user: the uid and gid of the command, which must be mapped; of frozen ones only.
    :ivar oom_score: what the process sets for itself and all that come from it (proc(5)).
    :ivar sources: the files that records call by their place in here.
    :ivar scratch: directories, the first of which that is there gets the run's tmpfs.
    :ivar steps: what makes the root filesystem.
    :ivar files: what makes the run's own files.
    :ivar config: config.json, with a :class:`Mark` wherever something is known at the start only.
        ``None``: nothing is run, only made.
    :ivar moment: what stands for those marks, or ``None`` if `policy` says what does.
    :ivar policy: which environment, directory, host name and arguments the command gets of the
        process that performs it; of frozen ones only.
    :ivar given_up: what is given up before the exec.
    :ivar watcher: the words to execute: the watcher, and in them those of runsc.
    :ivar runsc: the words of runsc alone.
    :ivar runsc_env: the environment of the watcher and runsc, each ``NAME=VALUE``.
    """

    version: str
    assumptions: tuple[Record, ...] = ()
    ids: tuple[str, ...] = ()
    user: tuple[int, int] | None = None
    oom_score: int | None = None
    sources: tuple[Source, ...]
    scratch: tuple[str, ...]
    steps: tuple[Record, ...]
    files: tuple[Record, ...]
    config: Mapping[str, Any] | None = None
    moment: StartValues | None = None
    policy: tuple[Record, ...] = ()
    given_up: tuple[Record, ...] = ()
    watcher: tuple[str, ...] = ()
    runsc: tuple[str, ...] = ()
    runsc_env: tuple[str, ...] = ()

    def records(self) -> Iterator[Record]:
        """All that the core is told, in its order."""
        yield from self.assumptions
        yield from (record("idmap", word) for word in self.ids)
        if self.user is not None:
            yield record("user", *self.user)
        if self.oom_score is not None:
            yield record("oom-score", self.oom_score)
        yield from (record("source", source.how, source.path) for source in self.sources)
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
        """The words that the core reads (csrc/launch/), each ended by NUL; also a frozen file.

        :raises CommandError: a word has a NUL in it, or there are more than the core takes.
        """
        words = [*_HEADER, self.version]
        for one in self.records():
            words += (one.verb, *one.words)
        for word in words:
            if "\0" in word:
                before = word.partition("\0")[0]
                reason = f"a NUL character in a path or an argument, after {before!r}"
                raise CommandError(
                    reason, step="launch", remedy="leave it out: no system call takes it"
                )
        encoded = b"".join(os.fsencode(word) + b"\0" for word in words)
        if len(words) > WORDS_MAX or len(encoded) > BYTES_MAX:
            raise CommandError(
                f"a launch of {len(words)} words and {len(encoded)} bytes; "
                f"{WORDS_MAX} and {BYTES_MAX} are the most",
                step="launch",
                remedy="show one directory in place of many files, or shorten the config.json",
            )
        return encoded


def pieces(config: Mapping[str, Any]) -> list[Record]:
    """The text of a config.json, as records that write it."""
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
    """The config.json that comes of it.

    :param values: what stands for each mark; for those of lists, the elements.
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
    # What json itself writes texts with.
    from _json import encode_basestring
except ImportError:
    from json.encoder import encode_basestring

_NAMES = {True: "true", False: "false", None: "null"}


def dumps(value: Any) -> str:
    """``json.dumps(value, ensure_ascii=False)``.

    :raises TypeError: there is no JSON for it.
    """
    if type(value) is str:
        return encode_basestring(value)
    if value is None or type(value) is bool:
        return _NAMES[value]
    if type(value) is int:
        return str(value)
    import json

    return json.dumps(value, ensure_ascii=False)


VERIFIER_INSIDE = "/.usernsctl-verify"
#: What further commands in a sandbox are started by; only those of a host have it.
AGENT_INSIDE = "/.usernsctl-agent"

#: Of a host's own files: the directories of its sandboxes, whose names are their ids.
BOXES = "boxes"
#: In there: a file for each one's report of a crash. All together are bounded; what tells of
#: failures is not among them.
CRASH_DIRECTORY = ".crash"
CRASHES = f"{BOXES}/{CRASH_DIRECTORY}"
