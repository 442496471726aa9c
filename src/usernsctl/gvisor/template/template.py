"""Templates: checkpoints of a command or of the agent, from which sandboxes are started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn, Self, TypedDict, Unpack

from usernsctl._lean import dataclass, replace
from usernsctl._system.descriptors import socket_pair
from usernsctl._system.paths import check_path
from usernsctl._system.records import RECORD, Directory
from usernsctl.commands.arguments import Args, Stream, StrOrBytesPath, check_keywords, check_timeout
from usernsctl.commands.async_start import ClosingMixin, start_in_executor
from usernsctl.errors import NamespaceError
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent.protocol import Agent
from usernsctl.gvisor.launch.steps import AGENT_INSIDE
from usernsctl.gvisor.sandbox.host_namespace import HostBase, check_host
from usernsctl.gvisor.sandbox.sandbox import Sandbox
from usernsctl.gvisor.template import store
from usernsctl.gvisor.template.checkpoint import (
    AnyReady,
    Ready,
    Source,
    TemplateSandbox,
    Wanted,
    create,
    for_agent,
    for_command,
)
from usernsctl.gvisor.template.image import STEP, Image, wrong_kind
from usernsctl.gvisor.template.record import TemplateRecord, shown_args
from usernsctl.gvisor.template.store import read, use


class TemplateOptions(TypedDict, total=False):
    """Keyword arguments of :meth:`usernsctl.SandboxHost.template`, except `ready`."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: str | tuple[int, int] | None
    timeout: float | None


class RestoreOptions(TypedDict, total=False):
    """Keyword arguments of :meth:`usernsctl.Template.start`."""

    id: str | None
    stdin: Stream
    stdout: Stream
    stderr: Stream
    detach: bool
    in_cgroup: StrOrBytesPath | int | None
    timeout: float | None
    ttl: float | str | None
    idle_timeout: float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The objects of which a template consists.

    :ivar config: the config.json of the template's sandboxes.
    :ivar is_own_host: whether the template created the host, and must therefore close it.
    :ivar remedy: the shell command that recreates the template, or ``None``.
    """

    host: HostBase
    record: TemplateRecord
    image: Image
    config: dict[str, Any]
    is_own_host: bool = False
    remedy: str | None = None


class Template(ClosingMixin):
    """A checkpoint of a command that is ready, from which any number of sandboxes can be started.

    :meth:`usernsctl.SandboxHost.template` creates a template. The checkpoint is in a tmpfs of the
    SandboxHost, and is removed when this object or the SandboxHost is closed. :meth:`save` copies
    the checkpoint to a directory.

    A Template is a context manager, also an asynchronous one, that closes the template on exit.
    """

    _what = "a template"
    _kinds: tuple[str, ...] = ("command", "agent")

    def __init__(self, made: Parts) -> None:
        """Take ownership of `made`, the objects of which the template consists."""
        self._made: Parts = made

    def _holds(self) -> bool:
        # _made does not exist if a signal handler raised an exception during the constructor.
        return hasattr(self, "_made") and not self._is_closed

    @classmethod
    def _make(
        cls,
        host: HostBase,
        args: Args | None,
        *,
        ready: AnyReady | None = None,
        env: Mapping[str, str] | None = None,
        cwd: StrOrBytesPath | None = None,
        user: str | tuple[int, int] | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Create a template: see :meth:`usernsctl.SandboxHost.template`.

        :raises ValueError: an argument has a wrong value.
        :raises TypeError: an argument has the wrong type.
        :raises UsernsError: as :meth:`usernsctl.SandboxHost.template` does.
        """
        argv = () if args is None else checks.argv(args)
        if args is not None and not argv:
            raise ValueError("args is empty: args must contain a command, or be None")
        checks.variables(env)
        checks.directory_inside(cwd)
        check_timeout(timeout)
        when = None if ready is None else Ready.of(ready)
        if argv and when is None:
            raise ValueError("ready: a template of a command needs a condition, such as a line")
        if not argv:
            checks.check_no_command(cwd=cwd, user=user)

        given: dict[str, Any] = {"env": env, "cwd": cwd, "user": user, "timeout": timeout}
        if argv:
            assert when is not None
            wanted = Wanted(kind="command", args=argv, wait=for_command(when), **given)
            made, image = create(host, wanted)
        else:
            ours, theirs = socket_pair()
            with ours, theirs:
                wanted = Wanted(
                    kind="agent",
                    args=(AGENT_INSIDE,),
                    stdin=theirs,
                    wait=for_agent(ours, when),
                    **given,
                )
                made, image = create(host, wanted)
        return cls(Parts(host=host, record=made, image=image, config=made.config))

    @property
    def args(self) -> tuple[str, ...]:
        """The command of the template and its arguments."""
        return self._parts.record.args

    @property
    def host(self) -> HostBase:
        """The SandboxHost in which the template's sandboxes are started."""
        return self._parts.host

    @property
    def _parts(self) -> Parts:
        if self._is_closed:
            raise ValueError("the template is closed")
        return self._made

    def start(self, **options: Unpack[RestoreOptions]) -> Sandbox:
        """Start a sandbox from the checkpoint, and return when the command runs again.

        The command has the environment, working directory, ids and files that it had at the
        checkpoint. Sandboxes do not change the checkpoint, and several may start at the same time.

        :param options: `id`, `stdin`, `stdout`, `stderr`, `detach`, `in_cgroup`, `timeout`, `ttl`
            and `idle_timeout`, as for :class:`usernsctl.Sandbox`. A template without a command
            accepts no `stdin`, and only such a template accepts `idle_timeout`.
        :raises ValueError: the template or its host is closed, or an option has a wrong value.
        :raises TypeError: an option has the wrong type, or is unknown.
        :raises TimeoutExpired: the start took more than `timeout` seconds.
        :raises RunscError: runsc failed, or is not the program that created the checkpoint (cause
            ``"template-outdated"``).
        :raises UsernsError: as :class:`usernsctl.Sandbox` does.
        """
        check_keywords("start", options, RestoreOptions.__annotations__)
        return self._restored(**options).__enter__()

    async def start_async(self, **options: Unpack[RestoreOptions]) -> Sandbox:
        """Start a sandbox, without blocking the event loop: see :meth:`start`.

        If this call is cancelled, the sandbox is closed.
        """
        return await start_in_executor(lambda: self.start(**options), Sandbox.close)

    def _restored(
        self, *, ttl: Any = None, idle_timeout: Any = None, **options: Any
    ) -> TemplateSandbox:
        source = self._source()
        options["limits"] = {"ttl": ttl, "idle_timeout": idle_timeout}
        if self._parts.record.kind != "agent":
            return TemplateSandbox(source, **options)
        checks.check_no_command(stdin=options.get("stdin"))
        return TemplateSandbox(
            source,
            is_agent_first=True,
            connect=lambda box, ours: box.adopt(Agent(ours, 1)),
            **options,
        )

    def _source(self) -> Source:
        parts = self._parts
        prepared = parts.host.prepared
        parts.record.check_runsc(prepared.runsc, parts.remedy)
        return Source(
            host=prepared,
            args=parts.record.args,
            config=parts.config,
            image=parts.image.inside,
        )

    def save(self, directory: StrOrBytesPath) -> None:
        """Copy the checkpoint to a directory that only this user may read.

        The checkpoint contains the whole memory of the command, including secrets such as those in
        its environment.

        :param directory: the path of a directory that does not exist or is empty.
        :raises ValueError: the template is closed.
        :raises NamespaceError: the directory can't be created or written.
        :raises RunscError: other users may write to the directory (cause
            ``"template-untrusted"``).
        """
        parts = self._parts
        path = _absolute(directory)
        with NamespaceError.instead(path, step=STEP), store.filled_directory(path) as made:
            images = parts.image.save(made.fd)
            made.write(RECORD, replace(parts.record, images=images).to_json())

    @classmethod
    def load(
        cls,
        directory: StrOrBytesPath,
        *,
        host: HostBase | None = None,
        remedy: str | None = None,
    ) -> Self:
        """Load a template from a directory to which :meth:`save` has copied it.

        :param directory: the path of the directory.
        :param SandboxHost host: the host in which the sandboxes are started; by default a new
            ``SandboxHost()``. Its arguments must be the same as those of the host in which the
            template was created, except for `debug_log`, the limits (but not `disk`), and the path
            `runsc`, if the program is the same.
        :param str remedy: the shell command that recreates the template, for errors about an
            outdated template.
        :raises RunscError: the template can't be used. Its causes: the template does not exist
            (``"no-such-template"``); it was created in a host with other arguments
            (``"template-host-differs"``); runsc, usernsctl or a file in the root filesystem has
            changed since the template was created (``"template-outdated"``); the template is
            incomplete (``"template-damaged"``), or other users may have modified it
            (``"template-untrusted"``).
        :raises UsernsError: as :class:`usernsctl.SandboxHost` does.
        """
        path = _absolute(directory)
        return cls(_load(path, host, cls._kinds, remedy))

    @classmethod
    async def load_async(
        cls,
        directory: StrOrBytesPath,
        *,
        host: HostBase | None = None,
        remedy: str | None = None,
    ) -> Self:
        """Load a template, without blocking the event loop: see :meth:`load`.

        If this call is cancelled, the template is closed.
        """
        return await start_in_executor(
            lambda: cls.load(directory, host=host, remedy=remedy), cls.close
        )

    def close(self) -> None:
        """Remove the checkpoint from the SandboxHost. Running sandboxes are not affected.

        In a forked child of the process that created the template, this method only closes
        descriptors.
        """
        self._is_closed = True
        parts = self._made
        if os.getpid() == self._creator:
            parts.image.close()
        else:
            parts.image.release()
        if parts.is_own_host:
            parts.host.close()

    def __repr__(self) -> str:
        made = self._made.record
        args = list(shown_args(made.kind, made.args))
        return f"<{type(self).__name__} {args}{': closed' if self._is_closed else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Template can't be copied or pickled; save the template, "
            "and load it in the other process"
        )


def _absolute(directory: StrOrBytesPath) -> str:
    found = check_path("directory", directory)
    if found is None:
        raise TypeError("directory must be a path, not None")
    return os.path.abspath(found)


def _load(path: str, host: HostBase | None, kinds: tuple[str, ...], remedy: str | None) -> Parts:
    return use(path, lambda directory: _load_from(directory, host, kinds, remedy))


def _load_from(
    directory: Directory, host: HostBase | None, kinds: tuple[str, ...], remedy: str | None
) -> Parts:
    if host is not None:
        check_host(host)
    path = directory.path
    made = read(directory)
    if made.kind not in kinds:
        raise wrong_kind(path, made.kind)
    own = None
    if host is None:
        host = own = HostBase()
    try:
        config = made.check(host, remedy)
        image = Image(host.prepared)
        try:
            assert made.images is not None
            image.load(directory.fd, path, made.images)
        except BaseException:
            image.close()
            raise
    except BaseException:
        if own is not None:
            own.close()
        raise
    return Parts(
        host=host,
        record=made,
        image=image,
        config=config,
        is_own_host=own is not None,
        remedy=remedy,
    )
