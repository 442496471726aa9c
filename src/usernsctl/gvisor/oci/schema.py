"""The types of a config.json's values, a strict parser and validator, and a serialiser."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field

from usernsctl._lean import dataclass
from usernsctl.errors import BundleError
from usernsctl.gvisor.checks import HOSTNAME_MAX, fits_hostname

MAX_ID = 2**32 - 1

Id = Annotated[int, Meta(ge=0, le=MAX_ID, description=f"a whole number from 0 to {MAX_ID}")]
Size = Annotated[int, Meta(ge=1, le=MAX_ID, description=f"a whole number from 1 to {MAX_ID}")]
Umask = Annotated[int, Meta(ge=0, le=0o777, description="a whole number from 0 to 511 (0777)")]
WholeNumber = Annotated[
    int, Meta(ge=-(2**31), le=2**31 - 1, description="a whole number of 32 bits, with a sign")
]
Limit = Annotated[int, Meta(ge=0, description="a whole number, 0 or more")]
Flag = Annotated[bool, Meta(description="true or false")]
# A pattern for characters that runsc accepts in JSON: all but surrogates, which UTF-8 can't encode.
# Python decodes invalid bytes to surrogates.
_CHARACTER = r"[^\0\ud800-\udfff]"
_UTF8 = "UTF-8, without NUL characters"

Text = Annotated[str, Meta(pattern=rf"^{_CHARACTER}*\Z", description=f"a string in {_UTF8}")]
NonEmptyText = Annotated[
    str, Meta(pattern=rf"^{_CHARACTER}+\Z", description=f"a string, not empty, in {_UTF8}")
]
Hostname = Annotated[
    str,
    Meta(
        pattern=rf"^{_CHARACTER}*\Z",
        description=f"a string of at most {HOSTNAME_MAX} bytes in {_UTF8}",
    ),
]
AbsolutePath = Annotated[
    str, Meta(pattern=rf"^/{_CHARACTER}*\Z", description=f"an absolute path in {_UTF8}")
]
EnvEntry = Annotated[
    str,
    Meta(pattern=rf"^(?!=){_CHARACTER}+?={_CHARACTER}*\Z", description=f"NAME=VALUE in {_UTF8}"),
]
RlimitName = Annotated[
    str,
    Meta(
        pattern=r"^RLIMIT_(AS|CORE|CPU|DATA|FSIZE|LOCKS|MEMLOCK|MSGQUEUE|NICE|NOFILE|NPROC|RSS"
        r"|RTPRIO|RTTIME|SIGPENDING|STACK)\Z",
        description='a limit of setrlimit(2) in capitals, such as "RLIMIT_NOFILE"',
    ),
]
Capability = Annotated[
    str,
    Meta(
        pattern=r"^CAP_[A-Z_]+\Z",
        description='a capability in capitals, such as "CAP_CHOWN"',
    ),
]
Arguments = Annotated[
    list[Text], Meta(min_length=1, description="an array that starts with the command")
]
Strings = Annotated[dict[str, Text], Meta(description="an object whose values are strings")]

#: The type of values that may contain secrets. Error messages don't quote these values.
SECRET = EnvEntry

#: The type of values that usernsctl does not pass to runsc, and therefore does not check.
Withheld = Annotated[Any, Meta(extra={"withheld": True})]
WithheldText = Annotated[
    str,
    Meta(
        pattern=rf"^{_CHARACTER}*\Z",
        description=f"a string in {_UTF8}",
        extra={"withheld": True},
    ),
]


Kind = Literal["uid", "gid"]
KINDS: tuple[Kind, ...] = ("uid", "gid")


class User(Struct, rename="camel"):
    """``process.user``: the ids of the command in the container."""

    uid: Id | None = None
    gid: Id | None = None
    umask: Umask | None = None
    additional_gids: list[Id] | None = None
    username: Withheld = None


class Rlimit(Struct, rename="camel"):
    """Element of ``process.rlimits``, in the units of setrlimit(2)."""

    type: RlimitName
    soft: Limit
    hard: Limit


class Capabilities(Struct, rename="camel"):
    """``process.capabilities``: the five capability sets (capabilities(7))."""

    bounding: list[Capability] | None = None
    effective: list[Capability] | None = None
    inheritable: list[Capability] | None = None
    permitted: list[Capability] | None = None
    ambient: list[Capability] | None = None

    def names(self) -> set[str]:
        """Return the names of the capabilities that are in at least one of the sets."""
        sets = (self.bounding, self.effective, self.inheritable, self.permitted, self.ambient)
        return {name for capabilities in sets for name in capabilities or ()}


class Process(Struct, rename="camel"):
    """``process``: the command, its environment, ids, limits and capabilities."""

    args: Arguments
    cwd: AbsolutePath | None = None
    env: list[EnvEntry] | None = None
    user: User | None = None
    terminal: Flag | None = None
    rlimits: list[Rlimit] | None = None
    capabilities: Capabilities | None = None
    no_new_privileges: Flag | None = None
    oom_score_adj: WholeNumber | None = None
    selinux_label: WithheldText | None = None
    apparmor_profile: Withheld = None
    command_line: Withheld = None
    console_size: Withheld = None
    exec_cpu_affinity: Withheld = field(default=None, name="execCPUAffinity")
    io_priority: Withheld = None
    scheduler: Withheld = None


class Root(Struct, rename="camel"):
    """``root``: the root filesystem, by a path that is absolute or relative to the bundle."""

    path: NonEmptyText
    readonly: Flag | None = None


class MountEntry(Struct, rename="camel"):
    """Element of ``mounts``: a filesystem or bind mount of the container."""

    destination: AbsolutePath
    type: Text | None = None
    source: Text | None = None
    options: list[Text] | None = None
    uid_mappings: Withheld = None
    gid_mappings: Withheld = None


class Hook(Struct, rename="camel"):
    """Element of ``hooks``: a program that runsc runs as the caller, on the host's kernel."""

    path: AbsolutePath
    args: list[Text] | None = None
    env: list[EnvEntry] | None = None
    timeout: WholeNumber | None = None


class Hooks(Struct, rename="camel"):
    """``hooks``: one list of programs for each stage of the container's life."""

    prestart: list[Hook] | None = None
    create_runtime: list[Hook] | None = None
    create_container: list[Hook] | None = None
    start_container: list[Hook] | None = None
    poststart: list[Hook] | None = None
    poststop: list[Hook] | None = None


class NamespaceEntry(Struct, rename="camel"):
    """Element of ``linux.namespaces``: a namespace to create, or to join by its path."""

    type: NonEmptyText
    path: WithheldText | None = None


class IdMapping(Struct, rename="camel"):
    """Element of ``linux.uidMappings`` or ``linux.gidMappings``: an extent.

    ``hostID`` is an id in the user namespace in which runsc is started.
    """

    container_id: Id = field(name="containerID")
    host_id: Id = field(name="hostID")
    size: Size


class SyscallArgument(Struct, rename="camel"):
    """Element of ``linux.seccomp.syscalls[].args``: a condition on an argument of a system call."""

    index: Limit
    value: Limit
    op: NonEmptyText
    value_two: Limit | None = None


class SyscallRule(Struct, rename="camel"):
    """Element of ``linux.seccomp.syscalls``: a rule for system calls."""

    names: list[Text]
    action: NonEmptyText
    errno_ret: Limit | None = None
    args: list[SyscallArgument] | None = None


class Seccomp(Struct, rename="camel"):
    """``linux.seccomp``: a filter for the command; runsc applies it only with ``--oci-seccomp``."""

    default_action: NonEmptyText
    default_errno_ret: Limit | None = None
    architectures: list[Text] | None = None
    flags: list[Text] | None = None
    syscalls: list[SyscallRule] | None = None
    listener_path: Withheld = None
    listener_metadata: Withheld = None


class Linux(Struct, rename="camel"):
    """``linux``: the Linux-specific configuration, such as namespaces and mappings."""

    namespaces: list[NamespaceEntry] | None = None
    uid_mappings: list[IdMapping] | None = None
    gid_mappings: list[IdMapping] | None = None
    rootfs_propagation: Text | None = None
    seccomp: Seccomp | None = None
    sysctl: Strings | None = None
    cgroups_path: WithheldText | None = None
    devices: Withheld = None
    intel_rdt: Withheld = None
    masked_paths: Withheld = None
    memory_policy: Withheld = None
    mount_label: Withheld = None
    net_devices: Withheld = None
    personality: Withheld = None
    readonly_paths: Withheld = None
    resources: Withheld = None
    time_offsets: Withheld = None

    def mappings(self, kind: Kind) -> list[IdMapping] | None:
        """Return the mappings of `kind` (uid or gid), or None if the key is missing."""
        return self.uid_mappings if kind == "uid" else self.gid_mappings


class Config(Struct, rename="camel"):
    """The root object of a config.json."""

    process: Process
    root: Root
    oci_version: NonEmptyText | None = None
    hostname: Hostname | None = None
    domainname: Text | None = None
    mounts: list[MountEntry] | None = None
    hooks: Hooks | None = None
    linux: Linux | None = None
    annotations: Strings | None = None
    freebsd: Withheld = None
    solaris: Withheld = None
    vm: Withheld = None
    windows: Withheld = None
    zos: Withheld = None


def hook_names(hooks: Hooks | None) -> list[str]:
    """Return the names that the OCI specification gives to those hook lists that are not empty."""
    if hooks is None:
        return []
    fields = msgspec.structs.fields(hooks)
    return [field.encode_name for field in fields if getattr(hooks, field.name)]


#: An option of ``usernsctl run`` that allows settings that an untrusted bundle must not have: bind
#: mounts of files outside of the bundle, annotations and capabilities, or hooks.
Permission = Literal["--trust-bundle", "--allow-hooks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A config.json value that runsc refuses or ignores, or that an untrusted bundle must not have.

    :ivar path: the JSON path of the value, such as ``"$.linux.namespaces"``.
    :ivar id: the id of the cause. The id stays the same in all releases of usernsctl.
    :ivar problem: what is wrong with the value.
    :ivar why: why runsc or usernsctl refuses or ignores the value.
    :ivar remedy: the correction, in words or as a shell command.
    :ivar fixable: whether :func:`usernsctl.gvisor.oci.fix` corrects the value.
    :ivar blocks: whether runsc fails because of the value. If not, the command runs, but not
        exactly as configured.
    :ivar outside: whether an untrusted bundle must not have the value, as with a bind mount of a
        file outside of the bundle. ``usernsctl run`` refuses the bundle unless `allowed_by` is
        given.
    :ivar allowed_by: the option of ``usernsctl run`` that allows the value, or ``None``.
    """

    path: str
    id: str
    problem: str
    why: str
    remedy: str
    fixable: bool = False
    blocks: bool = True
    outside: bool = False
    allowed_by: Permission | None = None


STEP = "bundle"


def serialise(config: dict[str, Any]) -> bytes:
    """Encode `config` as the indented text of a config.json, with the keys in the same order."""
    import json

    try:
        text = json.dumps(config, ensure_ascii=False, indent=4)
    except TypeError:
        # Use msgspec, because json can't write a Decimal, which parse() uses to preserve fractions
        # exactly.
        import msgspec

        encoder = msgspec.json.Encoder(decimal_format="number")
        return msgspec.json.format(encoder.encode(config), indent=4) + b"\n"
    return text.encode() + b"\n"


def fault(reason: str, filename: str | None) -> BundleError:
    """Return the error for an invalid config.json; `filename` is None if there is no file."""
    return BundleError(
        f"{filename}: {reason}" if filename else reason, step=STEP, filename=filename
    )


MAX_DEPTH = 100
"""Maximum number of nested objects and arrays; real files have about 6 levels."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_SHOWN_MAX = 60
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def parse(text: bytes, *, filename: str | None = None) -> dict[str, Any]:
    """Parse the text of a config.json.

    :raises BundleError: `text` isn't a JSON object in UTF-8, has two keys that are equal except for
        case, or nests objects and arrays more than :data:`MAX_DEPTH` deep. The message contains the
        line and column, or the JSON path.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8")
        _refuse(f"{_position(before, len(before))}: a byte that is not UTF-8", filename)
    _refuse_deep_nesting(decoded, filename)
    try:
        config = json.loads(
            decoded,
            object_pairs_hook=_unique_keys,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        _refuse(f"{_position(decoded, error.pos)}: broken JSON: {error.msg}", filename)
    _refuse_ambiguous(config, "$", filename)
    if not isinstance(config, dict):
        _refuse(f"$: found {describe(config)}; should be an object", filename)
    return config


def child(path: str, key: str | int) -> str:
    """Return the JSON path of the member or element `key` of the object or array at `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if _PLAIN_KEY.match(key) and len(key) <= _SHOWN_MAX:
        return f"{path}.{key}"
    return f"{path}[{describe(key)}]"


def describe(value: object, *, secret: bool = False) -> str:
    """Describe an object or array by its type, and another value by its shortened JSON.

    :param secret: whether to hide the contents of a string.
    """
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if secret and isinstance(value, str):
        return "a string"
    text = str(value) if isinstance(value, Decimal) else json.dumps(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"


class _Fault:
    """A validation error that takes the place of the invalid value until the JSON path is known."""

    def __init__(self, reason: str, key: str | None = None) -> None:
        self.reason = reason
        self.key = key


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Fault:
    members: dict[str, Any] = {}
    spellings: dict[str, str] = {}
    for key, value in pairs:
        if key in members:
            return _Fault("this key occurs twice; remove one of them", key)
        other = spellings.setdefault(key.casefold(), key)
        if other != key:
            reason = f"runtimes read this key and {describe(other)} as the same; remove one of them"
            return _Fault(reason, key)
        members[key] = value
    return members


def _integer(text: str) -> int | _Fault:
    try:
        return int(text)
    except ValueError:  # the number has too many digits (sys.set_int_max_str_digits())
        return _Fault(f"a number of {len(text)} digits, which no runtime can read")


def _fraction(text: str) -> Decimal | _Fault:
    try:
        return Decimal(text)
    except InvalidOperation:
        return _Fault(f"{text[:40]} has an exponent that no runtime can read")


def _constant(name: str) -> _Fault:
    return _Fault(f"{name} is not JSON")


def _refuse_deep_nesting(text: str, filename: str | None) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        token = found.group()
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            position = _position(text, found.start())
            _refuse(f"{position}: more than {MAX_DEPTH} nested objects and arrays", filename)


def _refuse_ambiguous(value: object, path: str, filename: str | None) -> None:
    """Reject values that a container runtime would read differently from Python."""
    match value:
        case _Fault():
            where = path if value.key is None else child(path, value.key)
            _refuse(f"{where}: {value.reason}", filename)
        case str():
            _refuse_surrogates(value, path, filename)
        case dict():
            for key, member in value.items():
                _refuse_surrogates(key, path, filename)
                _refuse_ambiguous(member, child(path, key), filename)
        case list():
            for index, element in enumerate(value):
                _refuse_ambiguous(element, child(path, index), filename)


def _refuse_surrogates(text: str, path: str, filename: str | None) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        _refuse(f"{path}: an unpaired surrogate, which UTF-8 can't encode", filename)


def _position(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return f"line {line}, column {column}"


def _refuse(reason: str, filename: str | None) -> NoReturn:
    raise fault(reason, filename)


# msgspec collects the types of a class's fields on first use, and would crash if two threads did so
# at the same time. Create a decoder during the import, which only one thread executes.
msgspec.json.Decoder(Config)


_UINT64_MAX = 2**64 - 1  # the greatest number that runsc accepts


def validate(config: dict[str, Any], *, filename: str | None = None) -> Config:
    """Check the values of the keys that runsc reads; return `config` as a typed object.

    :raises BundleError: a value has the wrong type or is out of range, a required key is missing,
        or a key differs from a key of the specification only in case. The message contains the JSON
        path, the value and the expected type, but no values of environment variables.
    """
    _Shape(filename).check(config, Config, "$")
    return msgspec.convert(config, Config)


class _Shape:
    """A validator that visits a value and its type in parallel, so that errors have a JSON path."""

    def __init__(self, filename: str | None) -> None:
        self._filename = filename

    def check(self, value: object, kind: Any, path: str) -> None:
        if type(None) in get_args(kind):
            if value is None:
                return
            kind = get_args(kind)[0]
        bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            self._object(value, bare, path)
            return
        if get_origin(bare) is list and isinstance(value, list):
            for index, element in enumerate(value):
                self.check(element, get_args(bare)[0], child(path, index))
        elif get_origin(bare) is dict and isinstance(value, dict):
            for key, member in value.items():
                self.check(member, get_args(bare)[1], child(path, key))
        try:
            msgspec.convert(value, kind)
            fits = bare is not int or value <= _UINT64_MAX  # type: ignore[operator]
            # Check the length here, because msgspec counts characters, not bytes.
            if kind == Hostname:
                fits = fits_hostname(str(value))
        except msgspec.ValidationError:
            fits = False
        if not fits:
            found = describe(value, secret=SECRET in (bare, kind, *get_args(bare)))
            self._refuse(f"{path}: found {found}; should be {_description(kind)}")

    def _object(self, value: object, kind: type[msgspec.Struct], path: str) -> None:
        if not isinstance(value, dict):
            self._refuse(f"{path}: found {describe(value)}; should be an object")
        fields = msgspec.structs.fields(kind)
        self._refuse_misspelled(value, [member.encode_name for member in fields], path)
        for member in fields:
            where = child(path, member.encode_name)
            if member.encode_name in value:
                self.check(value[member.encode_name], member.type, where)
            elif member.required:
                self._refuse(f"{where}: missing; should be {_description(member.type)}")

    def _refuse_misspelled(self, value: dict[str, Any], names: list[str], path: str) -> None:
        """Reject keys such as ``Process`` for ``process``, which Go's decoder would accept.

        Go compares keys by Unicode's simple folding (encoding/json, foldName), where \u017f equals
        s and the Kelvin sign equals k. casefold() also treats these characters, and others, as
        equal.
        """
        folded = {name.casefold(): name for name in names}
        for key in value:
            meant = folded.get(key.casefold(), key)
            if meant != key:
                where = child(path, key)
                self._refuse(f"{where}: runtimes read this key as {meant!r}; write {meant!r}")

    def _refuse(self, reason: str) -> NoReturn:
        raise fault(reason, self._filename)


def _description(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        meta = get_args(kind)[1]
        return str(meta.description)
    return "an array" if get_origin(kind) is list else "an object"
