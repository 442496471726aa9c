"""Templates, as the package's users have them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn, Self, TypedDict, Unpack

from usernsctl._lean import dataclass, replace
from usernsctl._system.descriptors import socket_pair
from usernsctl._system.records import Directory
from usernsctl.commands.arguments import Args, Stream, StrOrBytesPath
from usernsctl.commands.keywords import check_keywords, check_timeout
from usernsctl.errors import NamespaceError
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent.protocol import Agent
from usernsctl.gvisor.launch.steps import AGENT_INSIDE
from usernsctl.gvisor.sandbox.async_start import AsyncStart, AsyncStartMixin, start_in_executor
from usernsctl.gvisor.sandbox.host_namespace import HostBase
from usernsctl.gvisor.sandbox.sandbox import Sandbox, check_no_command
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
from usernsctl.gvisor.template.record import TemplateRecord
from usernsctl.gvisor.template.store import RECORD, read, use


class TemplateOptions(TypedDict, total=False):
    """Arguments of :meth:`usernsctl.SandboxHost.template` besides its own."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: tuple[int, int] | None
    timeout: float | None


class RestoreOptions(TypedDict, total=False):
    """Arguments of :meth:`usernsctl.Template.start`."""

    id: str | None
    stdin: Stream
    stdout: Stream
    stderr: Stream
    detach: bool
    in_cgroup: StrOrBytesPath | int | None
    timeout: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a template consists of.

    :ivar config: the config.json of its sandboxes.
    :ivar is_own_host: whether the host was made for this template alone.
    :ivar remedy: the command that makes it anew.
    """

    host: HostBase
    record: TemplateRecord
    image: Image
    config: dict[str, Any]
    is_own_host: bool = False
    remedy: str | None = None


class Template(AsyncStartMixin):
    """A command that was saved when it was ready, and is started from there any number of times.

    :meth:`usernsctl.SandboxHost.template` makes one. What is saved lies in the memory of the host,
    and is gone with this object or the host, however this process ends, unless :meth:`save` has
    copied it.

    It is a context manager, also an asynchronous one, that closes it at its end. Where an event
    loop of asyncio runs in this thread, another thread makes it, and the loop goes on: ``async
    with`` waits for the end of it, and so does whatever is called before that.
    """

    _what = "a template"
    _kinds: tuple[str, ...] = ("command", "agent")

    def __init__(self, begun: AsyncStart[Parts]) -> None:
        """Take over what was made, or will be."""
        self._begun: AsyncStart[Parts] = begun

    @classmethod
    def _make(
        cls,
        host: HostBase,
        args: Args | None,
        *,
        ready: AnyReady | None = None,
        env: Mapping[str, str] | None = None,
        cwd: StrOrBytesPath | None = None,
        user: tuple[int, int] | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Make one: see :meth:`usernsctl.SandboxHost.template`.

        :raises ValueError: an argument can't have this value.
        :raises TypeError: an argument is of the wrong type.
        :raises UsernsError: as that does.
        """
        words = () if args is None else checks.argv(args)
        if args is not None and not words:
            raise ValueError("args is empty: it must hold a command, or be None")
        checks.variables(env)
        checks.directory_inside(cwd)
        check_timeout(timeout)
        when = None if ready is None else Ready.of(ready)
        if words and when is None:
            raise ValueError("ready: a command needs something that tells when it is ready")
        if not words:
            check_no_command(cwd=cwd, user=user)

        def work() -> Parts:
            given: dict[str, Any] = {"env": env, "cwd": cwd, "user": user, "timeout": timeout}
            if words:
                assert when is not None
                wanted = Wanted(kind="command", args=words, wait=for_command(when), **given)
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
            return Parts(host=host, record=made, image=image, config=made.config)

        return cls(AsyncStart(work))

    @property
    def args(self) -> tuple[str, ...]:
        """The command."""
        return self._parts.record.args

    @property
    def host(self) -> HostBase:
        """Where its sandboxes are started."""
        return self._parts.host

    @property
    def _parts(self) -> Parts:
        parts = self._begun.get()
        if self._is_closed:
            raise ValueError("the template is closed")
        return parts

    def start(self, **options: Unpack[RestoreOptions]) -> Sandbox:
        """Start the command where it was saved, and return when it goes on.

        It has the environment, the working directory, the ids and the files that it had; what it
        wrote to its own files is there. What was saved is not changed: any number may be started,
        also at once.

        :param options: `id`, `stdin`, `stdout`, `stderr`, `detach`, `in_cgroup` and `timeout`, as
            for :class:`usernsctl.Sandbox`. An agent's sandbox takes no `stdin`.
        :raises ValueError: the template or its host is closed, or an option can't be had.
        :raises TimeoutExpired: it took more than `timeout` seconds.
        :raises RunscError: runsc failed, or is another one than that which has saved it (cause
            ``"template-outdated"``).
        :raises UsernsError: as :class:`usernsctl.Sandbox` does.
        """
        check_keywords("start", options, RestoreOptions.__annotations__)
        return self._restored(**options).__enter__()

    async def start_async(self, **options: Unpack[RestoreOptions]) -> Sandbox:
        """The same from asyncio; if this is cancelled, the sandbox is closed."""
        return await start_in_executor(lambda: self.start(**options), Sandbox.close)

    def _restored(self, **options: Unpack[RestoreOptions]) -> TemplateSandbox:
        source = self._source()
        if self._parts.record.kind != "agent":
            return TemplateSandbox(source, **options)
        check_no_command(stdin=options.get("stdin"))
        return TemplateSandbox(
            source, connect=lambda box, ours: box.adopt(Agent(ours, 1)), **options
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
        """Copy what was saved into a directory, which is made, and which only this user may read.

        Whatever the command had in its memory is in there, such as secrets of its environment.

        :param directory: it must not exist, or be empty.
        :raises ValueError: the template is closed.
        :raises NamespaceError: the directory can't be written to.
        :raises RunscError: others could change it (cause ``"template-untrusted"``).
        """
        parts = self._parts
        path = _absolute(directory)
        with NamespaceError.instead(path, step=STEP), store.made(path) as made:
            try:
                images = parts.image.save(made.fd)
                made.write(RECORD, replace(parts.record, images=images).to_json())
            except BaseException:
                for name in os.listdir(made.fd):
                    os.unlink(name, dir_fd=made.fd)
                raise

    @classmethod
    def load(
        cls,
        directory: StrOrBytesPath,
        *,
        host: HostBase | None = None,
        remedy: str | None = None,
    ) -> Self:
        """Have a template that was saved.

        :param directory: as :meth:`save` was given it.
        :param SandboxHost host: where its sandboxes are started; by default a host of its own,
            ``SandboxHost()``. It must be made of the arguments that the first one was made of, but
            for `runsc`, which must be the same release, and `debug_log`.
        :param str remedy: the command that makes the template anew, for the error that it is
            outdated.
        :raises RunscError: there is none (cause ``"no-such-template"``), it was made in a host with
            other arguments (``"template-host-differs"``), with another runsc, for other files or by
            another version of usernsctl (``"template-outdated"``), is not whole
            (``"template-damaged"``), or others could have written it (``"template-untrusted"``).
        :raises UsernsError: as :class:`usernsctl.SandboxHost` does.
        """
        path = _absolute(directory)
        return cls(AsyncStart(lambda: _load(path, host, cls._kinds, remedy)))

    def close(self) -> None:
        """Remove what was saved in memory. Sandboxes that were started from it go on.

        In a fork of the process that has made it, this closes descriptors and no more.
        """
        self._is_closed = True
        if not self._begun.settle():
            return
        parts = self._begun.get()
        if os.getpid() == self._creator:
            parts.image.close()
        else:
            parts.image.let_go()
        if parts.is_own_host:
            parts.host.close()

    def __repr__(self) -> str:
        if not self._begun.is_there():
            return "<Template: not made>"
        args = list(self._begun.get().record.args)
        return f"<Template {args}{': closed' if self._is_closed else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Template can't be copied or pickled: it holds descriptors; save it, and load it in "
            "the other process"
        )


def _absolute(directory: StrOrBytesPath) -> str:
    found = checks.path("directory", directory)
    if found is None:
        raise TypeError("directory must be a path, not None")
    return os.path.abspath(found)


def _load(path: str, host: HostBase | None, kinds: tuple[str, ...], remedy: str | None) -> Parts:
    return use(path, lambda directory: _load_from(directory, host, kinds, remedy))


def _load_from(
    directory: Directory, host: HostBase | None, kinds: tuple[str, ...], remedy: str | None
) -> Parts:
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
