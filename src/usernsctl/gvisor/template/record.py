"""What is known of a template: what it was made of, and so where it can be started."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from usernsctl import _core
from usernsctl._records import fields
from usernsctl._typing import TYPE_CHECKING
from usernsctl.gvisor import oci
from usernsctl.gvisor.decide import AGENT_INSIDE
from usernsctl.gvisor.inherited import OF_COMMANDS
from usernsctl.gvisor.oci import Rlimit
from usernsctl.gvisor.releases import release_of
from usernsctl.gvisor.request import Bind, Request
from usernsctl.gvisor.runsc import find
from usernsctl.gvisor.template.errors import outdated
from usernsctl.gvisor.template.image import Sums, sums_from_json
from usernsctl.gvisor.view import View, is_unknown
from usernsctl.maps import Extent, IdMap

if TYPE_CHECKING:
    from usernsctl.gvisor.prepared import PreparedNamespace

_VERSION = 1

#: What a template starts: a command of its own, the agent alone, or an interpreter.
KINDS = ("command", "agent", "python")

# Where programs and libraries are taken from. Whoever replaces a file in a directory changes the
# time of that.
_LIBRARIES = ("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/local/bin", "/usr/local/lib")

# More than any interpreter maps.
_FILES_MAX = 4096

#: A path inside, the size, and the time of the last change; -1 and 0 if there is no such file.
Stamp = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRecord:
    """What is known of a template.

    :ivar kind: one of :data:`KINDS`.
    :ivar args: the command.
    :ivar version: that of this package.
    :ivar runsc: the label of the release, and the size and the time of the file.
    :ivar flags: how runsc is called.
    :ivar scratch: where the host had its files.
    :ivar config: the config.json of the sandbox.
    :ivar files: of the root filesystem: those that decide.
    :ivar options: arguments that make such a host; ``None``: that can't be told.
    :ivar images: the files of the image, if it was saved.
    :ivar remedy: the command that makes it anew.
    """

    kind: str
    args: tuple[str, ...]
    version: str
    runsc: tuple[str, int, int]
    flags: tuple[str, str]
    scratch: str
    config: dict[str, Any]
    files: tuple[Stamp, ...]
    options: dict[str, Any] | None = None
    images: Sums | None = None
    remedy: str | None = None

    def config_for(self, scratch: str) -> dict[str, Any]:
        """The config.json for a host that has its files elsewhere."""
        found = dict(self.config)
        _move(found, self.scratch, scratch)
        return found

    def check_runsc(self, path: str) -> None:
        """See that a runsc is the one that has saved it.

        :raises RunscError: it is another one (cause ``"template-outdated"``), or there is none.
        """
        label, *rest = self.runsc
        try:
            found = _stat_of(path)
        except OSError:
            # It says what is wrong with it, unless it has come back meanwhile.
            find({}, path)
            found = _stat_of(path)
        if found != tuple(rest):
            now = release_of(path).label
            other = f", which is {now} now" if now != label else ", another build of which is there"
            raise outdated(f"{path} was {label}{other}", self.remedy)

    def check(self, host: PreparedNamespace) -> None:
        """See that it can be started in a host.

        :raises RunscError: something that decides is another one (cause ``"template-outdated"``).
        """
        if self.version != _core.version():
            raise outdated(
                f"usernsctl was {self.version}, which is {_core.version()} now", self.remedy
            )
        self.check_runsc(host.runsc)
        if self.flags != flags_of(host):
            raise outdated(f"network and platform were {', '.join(self.flags)}", self.remedy)
        is_agent = self.kind == "agent"
        now = _common(host.prepared.config, host.prepared.scratch, is_agent=is_agent)
        then = _common(self.config, self.scratch, is_agent=is_agent)
        for name in sorted({*now, *then}):
            if now.get(name) != then.get(name):
                raise outdated(f"the host had another {name!r} in its config.json", self.remedy)
        found = stamps(host, [path for path, *_ in self.files])
        for before, after in zip(self.files, found, strict=True):
            if before != after:
                raise outdated(f"{before[0]} was another one in the root filesystem", self.remedy)

    def to_json(self) -> dict[str, Any]:
        """What is written down."""
        return {"format": _VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> TemplateRecord:
        """Read what :meth:`to_json` has made.

        :raises ArithmeticError: it has not.
        :raises AttributeError: likewise.
        :raises LookupError: likewise.
        :raises TypeError: likewise.
        :raises ValueError: likewise.
        """
        if given["format"] != _VERSION or given["kind"] not in KINDS:
            raise ValueError("it is of another version")
        label, size, time = given["runsc"]
        network, platform = given["flags"]
        remedy, options = given["remedy"], given["options"]
        return cls(
            kind=str(given["kind"]),
            args=tuple(map(str, given["args"])),
            version=str(given["version"]),
            runsc=(str(label), int(size), int(time)),
            flags=(str(network), str(platform)),
            scratch=str(given["scratch"]),
            config=_config(given["config"]),
            files=tuple((str(p), int(s), int(t)) for p, s, t in given["files"][:_FILES_MAX]),
            options=None if options is None else dict(options),
            images=None if given["images"] is None else sums_from_json(given["images"]),
            remedy=None if remedy is None else str(remedy),
        )


def version() -> str:
    """That of this package."""
    return _core.version()


def runsc_of(host: PreparedNamespace) -> tuple[str, int, int]:
    """The runsc of a host: its release, and the size and the time of its file."""
    return (release_of(host.runsc).label, *_stat_of(host.runsc))


def _stat_of(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def flags_of(host: PreparedNamespace) -> tuple[str, str]:
    """What runsc is told besides the config.json."""
    return host.request.network, host.request.platform or "default"


def _common(given: Mapping[str, Any], scratch: str, *, is_agent: bool) -> dict[str, Any]:
    """What the sandboxes of a host have in common, of a config.json, wherever its files are.

    What is of one sandbox is left out, and so is what the agent makes differ, where it is process 1
    and where it is not: its privileges, and how it is shown.
    """
    found = {**given, "process": dict(given["process"])}
    own = ("args", "env", "cwd", "user", "terminal", "capabilities")
    for name in (*own, *(["rlimits"] if is_agent else [])):
        found["process"].pop(name, None)
    mounts = found.get("mounts") or ()
    found["mounts"] = [one for one in mounts if one.get("destination") != AGENT_INSIDE]
    annotations = found.pop("annotations", None) or {}
    found["annotations"] = {k: v for k, v in annotations.items() if k != OF_COMMANDS}
    _move(found, scratch, "")
    return found


def _config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read a config.json of ours.

    :raises ValueError: it is none.
    """
    found = dict(given)
    oci.validate(found)
    if not found["process"]["args"] or not found["root"]["path"]:
        raise ValueError("there is no command")
    return found


def _move(config: dict[str, Any], before: str, now: str) -> None:
    """Change the paths that lead to a host's files."""

    def moved(path: str) -> str:
        return now + path.removeprefix(before) if path.startswith(f"{before}/") else path

    config["root"] = {**config["root"], "path": moved(config["root"]["path"])}
    config["mounts"] = [
        {**mount, "source": moved(mount["source"])} if mount.get("source") else mount
        for mount in config.get("mounts") or ()
    ]


def deciding_files(config: Mapping[str, Any]) -> list[str]:
    """The paths inside of the files that decide whether a command can go on later.

    What is bound is left out: it is data, as a rule, and meant to change.

    :param config: the config.json of its sandbox.
    """
    machine = f"/usr/lib/{os.uname().machine}-linux-gnu"
    process = config["process"]
    path = next((e[5:] for e in process["env"] if e.startswith("PATH=")), "")
    # Ours, which proves the kernel, and is as new as this package.
    words = [word for word in process["args"] if not word.startswith("/.usernsctl-")]
    named = [word for word in words if word.startswith("/")]
    if words and "/" not in words[0]:
        named += [f"{directory}/{words[0]}" for directory in path.split(":") if directory]
    return list(dict.fromkeys([*_LIBRARIES, machine, *named]))


def stamps(host: PreparedNamespace, paths: Iterable[str]) -> tuple[Stamp, ...]:
    """What these files are, by their paths inside."""
    with host.view() as seen:
        return tuple(_stamp(seen, path) for path in list(paths)[:_FILES_MAX])


def _stamp(seen: View, path: str) -> Stamp:
    try:
        walk = seen.walk(path)
        if walk.complete and walk.file is not None and not is_unknown(walk.wanted):
            status = walk.file.status
            return path, 0 if walk.is_directory else status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        pass
    return path, -1, 0


# The arguments of a host, as JSON.


def host_arguments(request: Request) -> dict[str, Any]:
    """The arguments of a :class:`usernsctl.SandboxHost` that a request stands for."""
    return {
        argument.name: getattr(request, one.name)
        for one in fields(Request)
        if (argument := one.metadata.get("argument")) is not None
    }


def arguments_to_json(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What :func:`host_arguments` has returned; ``None``: it holds a namespace."""
    found = dict(given)
    idmap = found["idmap"]
    if found["namespace"] is not None:
        if not isinstance(found["namespace"], str):
            return None
        found["idmap"] = None
    else:
        found["idmap"] = asdict(idmap)
    found["binds"] = [
        [os.path.abspath(bind.source), bind.destination, bind.read_only] for bind in found["binds"]
    ]
    found["rlimits"] = [[limit.type, limit.soft, limit.hard] for limit in found["rlimits"]]
    for name in ("rootfs", "bundle", "debug_log"):
        found[name] = None if found[name] is None else os.path.abspath(found[name])
    return {name: value for name, value in found.items() if value is not None}


def arguments_from_json(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read what :func:`arguments_to_json` has made.

    :raises LookupError: it has not.
    :raises TypeError: likewise.
    :raises ValueError: likewise.
    """
    found = dict(given)
    if "idmap" in found:
        found["idmap"] = _idmap(found["idmap"])
    found["binds"] = [Bind(str(s), str(d), bool(r)) for s, d, r in found.get("binds", ())]
    found["rlimits"] = [Rlimit(str(n), int(s), int(h)) for n, s, h in found.get("rlimits", ())]
    return found


def _idmap(given: Mapping[str, Any]) -> IdMap:
    def extents(several: Sequence[Any]) -> tuple[Extent, ...]:
        return tuple(
            Extent(int(one["inside"]), int(one["outside"]), int(one["count"])) for one in several
        )

    made = dict(given)
    for name in ("map_users", "map_groups"):
        made[name] = extents(made[name])
    return IdMap(**made)
