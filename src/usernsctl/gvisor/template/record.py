"""Template records, which list the requirements for starting sandboxes from a template."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from usernsctl import _core
from usernsctl._lean import TYPE_CHECKING, asdict, dataclass, fields
from usernsctl.gvisor import oci
from usernsctl.gvisor.agent.start import COMMANDS_ANNOTATION, ProcessDefaults
from usernsctl.gvisor.launch.request import Request
from usernsctl.gvisor.launch.view import View
from usernsctl.gvisor.runsc.find import find_runsc
from usernsctl.gvisor.runsc.releases import release_of
from usernsctl.gvisor.template.image import Sums, other_host, outdated, sums_from_json
from usernsctl.maps import IdMap

if TYPE_CHECKING:
    from usernsctl.gvisor.sandbox.host_namespace import HostBase, HostNamespace

_VERSION = 1

#: The kinds of templates, in which PID 1 is a command, the agent, or a Python interpreter.
KINDS = ("command", "agent", "python")


def shown_args(kind: str | None, args: tuple[str, ...]) -> tuple[str, ...]:
    """Return those arguments of a template's command that a list of templates shows.

    A Python template shows only the path of its interpreter: the other arguments are usernsctl's
    own program.
    """
    return args[:1] if kind == "python" else args


# The directories of programs and libraries. Their modification times are compared at a restore,
# because they change when a package manager replaces a file.
_LIBRARIES = ("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/local/bin", "/usr/local/lib")

# The maximum number of files in a record. An interpreter maps fewer files.
_FILES_MAX = 4096

# The members of ``process`` in config.json that sandboxes take from the record, because they have
# no effect outside of the sandbox.
_OF_PROCESS = ("args", "env", "cwd", "user")
_ANY_COMMAND = ("true",)

# The maximum length of an option's value in an error message, in characters.
_VALUE_MAX = 200

# The Request fields whose values at a restore may differ from those at the checkpoint. The path of
# runsc (program) may differ, because runsc's release, file size and modification time are compared
# instead.
_INDIFFERENT = (
    *("program", "debug_log"),
    *("memory", "pids", "cpus", "timeout", "idle_timeout", "limits"),
)

#: A path in the sandbox, and the size and modification time of the file; -1 and 0 if the file does
#: not exist.
Stamp = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRecord:
    """The record of a template; the record is not trusted.

    A program that can write the record, for example in a sandbox with a bind mount of the file,
    must not gain privileges outside of its sandbox. Therefore, the caller chooses the runsc and the
    host for a template, and usernsctl only compares both with the record. From the record,
    sandboxes take only the settings in `_OF_PROCESS`.

    :ivar kind: one of :data:`KINDS`.
    :ivar args: the command.
    :ivar version: the version of this package.
    :ivar runsc: the label of runsc's release, and the size and modification time of the program
        file.
    :ivar flags: the network and the platform of the host: see :func:`flags_of`.
    :ivar scratch: the directory of the host's files in its mount namespace.
    :ivar config: the config.json of the sandbox.
    :ivar files: the files of the root filesystem that must be unchanged at a restore.
    :ivar options: the options of ``usernsctl run`` that correspond to the arguments of the host,
        with their values as text, for messages.
    :ivar images: the files of the checkpoint; ``None`` if the checkpoint was not saved.
    """

    kind: str
    args: tuple[str, ...]
    version: str
    runsc: tuple[str, int, int]
    flags: tuple[str, str]
    scratch: str
    config: dict[str, Any]
    files: tuple[Stamp, ...]
    options: dict[str, str]
    images: Sums | None = None

    def check_runsc(self, path: str, remedy: str | None = None) -> None:
        """Check that the file `path` is the runsc that saved the template.

        :param remedy: the shell command that recreates the template, or ``None``.
        :raises RunscError: the file is another runsc (cause ``"template-outdated"``), or is
            missing.
        """
        label, *rest = self.runsc
        try:
            found = _stat_of(path)
        except OSError:
            # Let find_runsc() raise the error for a missing runsc. If find_runsc() raises no error,
            # the file exists again.
            find_runsc({}, path)
            found = _stat_of(path)
        if found != tuple(rest):
            now = release_of(path).label
            other = f", and is {now} now" if now != label else ", and is another build now"
            raise outdated(f"{path} was {label} when the template was created{other}", remedy)

    def check(self, host: HostBase, remedy: str | None = None) -> dict[str, Any]:
        """Check that `host` can start sandboxes from the template.

        :param remedy: the shell command that recreates the template, or ``None``.
        :returns: the config.json for these sandboxes: that of the host, with the process from the
            record.
        :raises RunscError: the host was created with other options (cause
            ``"template-host-differs"``), or runsc, usernsctl or a file has changed
            (``"template-outdated"``).
        """
        prepared = host.prepared
        if self.version != _core.version():
            raise outdated(
                f"usernsctl {self.version} created the template; this is {_core.version()}",
                remedy,
            )
        self.check_runsc(prepared.runsc, remedy)
        config = self._config_in(prepared)
        if changed := self._changes(prepared, config):
            if options := _differences(self.options, options_of(host.request)):
                raise other_host(options, remedy)
            raise outdated(changed, remedy)
        found = stamps(prepared, [path for path, *_ in self.files])
        for before, after in zip(self.files, found, strict=True):
            if before != after:
                raise outdated(f"{before[0]} in the root filesystem has changed", remedy)
        return config

    def _changes(self, host: HostNamespace, config: Mapping[str, Any]) -> str | None:
        """Return a description of the first difference between `host` and the record, or ``None``.

        :param config: the config.json with which `host` would start a sandbox from the template.
        """
        if self.flags != flags_of(host):
            return "created with network {} and platform {}".format(*self.flags)
        then = dict(self.config)
        _move(then, self.scratch, host.prepared.scratch)
        for name in sorted({*config, *then}):
            if config.get(name) != then.get(name):
                return f"{name!r} has changed in the host's config.json"
        return None

    def _config_in(self, host: HostNamespace) -> dict[str, Any]:
        """Return the config.json of a sandbox in `host`, with the process from this record."""
        is_agent = self.kind == "agent"
        args = None if is_agent else _ANY_COMMAND
        given = host.config_for(args, env=None, cwd=None, user=None, outlives=True)
        found: dict[str, Any] = json.loads(given)
        if is_agent:
            kept = json.loads(found["annotations"][COMMANDS_ANNOTATION])
            kept["env"] = list(ProcessDefaults.of_config(self.config).env)
            found["annotations"][COMMANDS_ANNOTATION] = json.dumps(kept)
        else:
            process = self.config["process"]
            found["process"] |= {name: process[name] for name in _OF_PROCESS if name in process}
        return found

    def to_json(self) -> dict[str, Any]:
        """Convert the record to a JSON object, which :meth:`from_json` parses."""
        return {"format": _VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> TemplateRecord:
        """Parse a record from the JSON object that :meth:`to_json` returned.

        :raises ValueError: the record is malformed. Any exception in the tuple ``NONSENSE`` has
            this meaning.
        """
        if given["format"] != _VERSION or given["kind"] not in KINDS:
            raise ValueError("the version is unknown")
        args = tuple(map(str, given["args"]))
        if not args:
            raise ValueError("there is no command")
        label, size, time = given["runsc"]
        network, platform = given["flags"]
        return cls(
            kind=str(given["kind"]),
            args=args,
            version=str(given["version"]),
            runsc=(str(label), int(size), int(time)),
            flags=(str(network), str(platform)),
            scratch=str(given["scratch"]),
            config=_config(given["config"]),
            files=tuple((str(p), int(s), int(t)) for p, s, t in given["files"][:_FILES_MAX]),
            options={str(name): str(value) for name, value in given["options"].items()},
            images=None if given["images"] is None else sums_from_json(given["images"]),
        )


def runsc_of(host: HostNamespace) -> tuple[str, int, int]:
    """Return the release of a host's runsc, and the size and modification time of its file."""
    return (release_of(host.runsc).label, *_stat_of(host.runsc))


def _stat_of(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def flags_of(host: HostNamespace) -> tuple[str, str]:
    """Return the network of a host, such as ``"private"``, and its platform or ``"default"``."""
    return host.request.network, host.request.platform or "default"


def _config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the config.json of a record.

    :raises ValueError: the config.json is invalid, or has no command or no root filesystem.
    """
    found = dict(given)
    oci.validate(found)
    if not found["process"]["args"] or not found["root"]["path"]:
        raise ValueError("there is no command")
    # Also parse the annotation that contains the settings of an agent's commands, because
    # validate() does not check the annotation.
    ProcessDefaults.of_config(found)
    return found


def _move(config: dict[str, Any], before: str, now: str) -> None:
    """Replace the directory `before` by `now` in the paths of a config.json, in place."""

    def moved(path: str) -> str:
        return now + path.removeprefix(before) if path.startswith(f"{before}/") else path

    config["root"] = {**config["root"], "path": moved(config["root"]["path"])}
    config["mounts"] = [
        {**mount, "source": moved(mount["source"])} if mount.get("source") else mount
        for mount in config.get("mounts") or ()
    ]


def deciding_files(config: Mapping[str, Any]) -> list[str]:
    """Return the paths in the sandbox of the files that must be unchanged at a restore.

    Files in bind mounts are not included, because they are usually data that may change.

    :param config: the config.json of the template's sandbox.
    """
    machine = f"/usr/lib/{os.uname().machine}-linux-gnu"
    process = config["process"]
    path = next((e[5:] for e in process["env"] if e.startswith("PATH=")), "")
    # Skip usernsctl-verify, a program of this package: TemplateRecord.check() compares the version
    # of the package instead.
    argv = [word for word in process["args"] if not word.startswith("/.usernsctl-")]
    named = [word for word in argv if word.startswith("/")]
    if argv and "/" not in argv[0]:
        named += [f"{directory}/{argv[0]}" for directory in path.split(":") if directory]
    return list(dict.fromkeys([*_LIBRARIES, machine, *named]))


def stamps(host: HostNamespace, paths: Iterable[str]) -> tuple[Stamp, ...]:
    """Return each of `paths` in the sandbox with its file's size and modification time."""
    with host.view() as seen:
        return tuple(_stamp(seen, path) for path in list(paths)[:_FILES_MAX])


def _stamp(seen: View, path: str) -> Stamp:
    try:
        walk = seen.walk(path)
        if walk.complete and walk.file is not None and not walk.is_unknown:
            status = walk.file.status
            return path, 0 if walk.is_directory else status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        pass
    return path, -1, 0


def _host_fields() -> dict[str, str]:
    """Return a mapping from options to the Request fields that must be the same at a restore."""
    return {
        ", ".join(option.flags[0].partition("/")[0] for option in one.metadata["options"]): one.name
        for one in fields(Request)
        if one.metadata.get("argument") is not None and one.name not in _INDIFFERENT
    }


def options_of(request: Request) -> dict[str, str]:
    """Return the options of ``usernsctl run`` for the arguments of a host, with values as text.

    Arguments with their default values are omitted.
    """
    plain = Request()
    return {
        flags: _text_of(name, getattr(request, name))
        for flags, name in _host_fields().items()
        if getattr(request, name) != getattr(plain, name)
    }


def _text_of(name: str, value: Any) -> str:
    """Format the value of an option for messages."""
    if name == "binds":
        return ", ".join(
            f"{os.path.abspath(bind.source)}:{bind.destination}:{'ro' if bind.read_only else 'rw'}"
            for bind in value
        )
    if name == "rlimits":
        return ", ".join(f"{limit.type}={limit.soft}:{limit.hard}" for limit in value)
    if isinstance(value, IdMap):
        given = [field.name for field in fields(IdMap)]
        given = [name for name in given if getattr(value, name) != getattr(IdMap(), name)]
        return ", ".join(f"{name}={_text_of(name, getattr(value, name))}" for name in given)
    if name in ("map_users", "map_groups"):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return os.path.abspath(value) if name in ("rootfs", "bundle") else str(value)


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a description of each option that differs; ignore unknown options of the record."""

    def quote(value: str | None) -> str:
        return "left out" if value is None else repr(value[:_VALUE_MAX])

    return [
        f"{name} {quote(then.get(name))} (now {quote(now.get(name))})"
        for name in sorted(_host_fields())
        if then.get(name) != now.get(name)
    ]
