"""A kept namespace that has a root filesystem, for any number of sandboxes."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import pickle
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn, Self, Unpack

from usernsctl import hardening
from usernsctl._records import replace
from usernsctl._system import isolated
from usernsctl._system.descriptors import Shared, receive
from usernsctl._system.opened import Opened
from usernsctl._system.state import state_directory
from usernsctl.commands.popen import DEVNULL, PIPE
from usernsctl.commands.target import Target
from usernsctl.errors import NamespaceError
from usernsctl.gvisor import checks, config, environment, launch, oci, paths, runsc, view
from usernsctl.gvisor.arguments import NamedHostOptions
from usernsctl.gvisor.begun import Begun, BegunClosing
from usernsctl.gvisor.config import open_bundle
from usernsctl.gvisor.place import Place
from usernsctl.gvisor.prepare import Order, Prepared
from usernsctl.gvisor.request import Request
from usernsctl.gvisor.view import View
from usernsctl.maps import AnyIdMap, IdMap, plan
from usernsctl.namespaces.holder import read_map
from usernsctl.namespaces.namespace import Namespace

# Until a sandbox says what it runs; a config.json must have a command.
_NO_COMMAND = ("true",)


class PreparedNamespace:
    """What sandboxes share: namespaces with a root filesystem in them.

    :ivar request: what its sandboxes have in common.
    :ivar runsc: the path of runsc.
    :ivar environ: the environment of runsc.
    :ivar restrictions: what runsc gives up.
    :ivar namespace: where it runs.
    :ivar prepared: what is there.
    :ivar directory: a descriptor of the directory for the files of the sandboxes.
    :ivar left: the ids of sandboxes that have ended, and whose files could not be removed then.
    """

    def __init__(self, request: Request) -> None:
        """Make the namespaces and the root filesystem.

        :raises UsernsError: the reasons are those of ``usernsctl run``.
        :raises ValueError: the kept namespaces are closed, or have a PID namespace.
        """
        self.left: set[str] = set()
        with NamespaceError.instead("the host of sandboxes", step="sandbox"):
            self._make(request)

    def _make(self, request: Request) -> None:
        if request.bundle is None:
            base = environment.base(os.environ, everything=False)
            request = replace(request, args=_NO_COMMAND, env=base)
        with contextlib.ExitStack() as undo:
            if request.kept is None:
                joined, self._place = None, _new_place(request.idmap)
            else:
                joined, self._place = _join(request.kept)
                undo.callback(joined.close)
            # An order for another process has no use for descriptors of ours.
            self.request = request = replace(request, kept=None)
            self.runsc = runsc.find(os.environ, request.program)
            self.environ = environment.for_runsc(is_named=request.program is not None)
            self.restrictions = hardening.for_run(
                no_new_privs=request.no_new_privs,
                drop_bounding=request.drop_bounding,
                ids=self._place.id_count,
            )
            order = _make_order(request, self._place, self.runsc)
            with contextlib.closing(order.used):
                self.namespace = joined or Namespace.create(request.idmap, mount=True)
                undo.callback(self.namespace.close)
                self.prepared, self.directory = _prepare(self.namespace, order)
            undo.pop_all()
        self._shared = Shared("the host", [self.directory])

    def config_for(
        self,
        args: Iterable[str],
        *,
        env: Mapping[str, str] | None,
        cwd: str | None,
        user: tuple[int, int] | None,
        terminal: bool = False,
    ) -> bytes:
        """The config.json of one sandbox.

        :raises PlanError: `user` is not mapped.
        :raises CommandError: there is no directory `cwd` inside.
        :raises BundleError: something can't be in a config.json, such as text that is not UTF-8.
        """
        variables = checks.variables(env)
        if user is not None:
            user = checks.user_ids(user)
            config.check_ids(self._place, user)
            if self.request.bundle is None:
                variables.setdefault("HOME", environment.home(user[0]))
        wanted = copy.deepcopy(self.prepared.config)
        request = replace(
            self.request,
            args=tuple(args),
            env=variables,
            user=user,
            terminal=terminal,
            binds=(),
        )
        config.apply_request(wanted, request, wanted["root"]["path"], ())
        process = wanted["process"]
        if cwd is not None:
            self._check_directory(cwd)
            process["cwd"] = cwd
        if self.request.verify:
            process["args"] = [launch.VERIFIER_INSIDE, *process["args"]]
        oci.validate(wanted)
        return oci.serialise(wanted)

    def open_directory(self) -> int:
        """A descriptor of the directory for the files of the sandboxes; the caller's to close.

        :raises ValueError: the host is closed.
        """
        with self._shared.use() as (directory,):
            return fcntl.fcntl(directory, fcntl.F_DUPFD_CLOEXEC, 3)

    def _check_directory(self, cwd: str) -> None:
        """Check that a sandbox has a directory, as it is before its first command runs.

        :raises CommandError: it has none.
        """
        is_machine = not (self.request.bundle or self.request.rootfs or self.request.expose_root)
        # As an object: of text, a part might be taken for something else.
        bind = f"usernsctl.Bind.shown({cwd!r})" if ":" in cwd else f"{cwd!r}"
        remedy = f"binds=[{bind}]" if is_machine and os.path.isdir(cwd) else None
        with contextlib.suppress(PermissionError), self._view() as seen:
            view.check_directory(seen, cwd, f"cwd={cwd!r}", remedy)

    @contextlib.contextmanager
    def _view(self) -> Iterator[View]:
        """What a sandbox sees, for a block: by descriptors, since it is in another namespace.

        :raises ValueError: the host is closed.
        """
        with self._shared.use() as (directory,), contextlib.ExitStack() as held:

            def opened(path: str) -> Opened:
                flags = os.O_PATH | os.O_CLOEXEC
                below = path.removeprefix(self.prepared.scratch)
                found = Opened(os.open(f"..{below}", flags, dir_fd=directory), path)
                return held.enter_context(found)

            wanted = self.prepared.config
            seen = View(opened(wanted["root"]["path"]))
            binds = config.bind_mounts(wanted)
            for mount in wanted.get("mounts") or ():
                if mount in binds:
                    seen.add_bind(mount["destination"], opened(mount["source"]))
                elif mount.get("type") == "tmpfs":
                    place = seen.walk(mount["destination"]).wanted
                    seen.add_bind(place, opened(self.prepared.empty))
            yield seen

    def close(self) -> None:
        """Let go of the namespace. Sandboxes that still run keep what they need of it."""
        self.namespace.close()
        self.directory = -1
        self._shared.close()

    def __del__(self) -> None:
        if hasattr(self, "_shared"):
            self.close()


class HostBase(BegunClosing):
    """:class:`SandboxHost`, but for what starts sandboxes."""

    _what = "a SandboxHost"

    def __init__(  # noqa: DOC102 - the options are those of NamedHostOptions
        self, idmap: AnyIdMap | None = None, **options: Unpack[NamedHostOptions]
    ) -> None:
        """Make the namespace and the root filesystem, as ``usernsctl run`` does.

        Where an event loop of asyncio runs in this thread, another thread does that, and the loop
        goes on: ``async with`` waits for the end of it, and so does whatever is called before that.
        Only a wrong argument is told at once there, as TypeError or ValueError.

        :param idmap: the ids inside, as :func:`usernsctl.run` takes them; by default there is one,
            the caller's, which is root there.
        :param namespace: a kept :class:`usernsctl.Namespace`, or the name of one, to have the
            sandboxes in, in place of `idmap`. It stays the caller's, and may be closed.
        :param bundle: the directory of an OCI bundle, whose config.json then decides all that is
            left open; without it, `rootfs` or `expose_root`, sandboxes see the machine's programs.
        :param bool trust: whether the bundle's bind mounts and annotations are taken as they are
            written. Otherwise it is a stranger's data, and may show nothing but its own files.
        :param bool allow_hooks: whether the bundle's hooks are run: programs that runsc starts for
            each sandbox OUTSIDE gVisor, on this machine's kernel, as you.
        :param rootfs: the directory of a root filesystem to show.
        :param bool expose_root: whether all of this machine's files are shown, read-only.
        :param binds: what else of this machine is shown: each a path, a text
            ``"SRC[:DST][:ro|rw]"`` as ``--bind`` takes it, or a :class:`usernsctl.Bind`.
        :param str hostname: the name of the host inside.
        :param rlimits: limits of each process inside, kept by gVisor: each a text
            ``"NAME=SOFT[:HARD]"`` as ``--rlimit`` takes it, in the units of setrlimit(2), or a
            :class:`usernsctl.Rlimit`.
        :param str network: ``"none"`` or ``"host"``.
        :param str platform: runsc's, such as ``"systrap"``; by default runsc chooses.
        :param debug_log: a directory that runsc writes debug logs to, without a limit; it is made
            if need be.
        :param runsc: the absolute path of runsc; by default what ``USERNSCTL_RUNSC`` names, else
            the first along PATH.
        :param bool verify: whether it is proven that the kernel is gVisor's before a command
            starts.
        :param bool no_new_privs: whether runsc and all it starts, and the commands inside, are kept
            from gaining privileges by set-user-id programs.
        :param bool drop_bounding: whether runsc is left no more capabilities than it needs.
        :raises ValueError: an argument can't have this value, two exclude each other, such as
            `bundle` and `rootfs`, or `trust` or `allow_hooks` is given without `bundle`; the
            namespace is closed, or is a PID namespace, too.
        :raises TypeError: an argument is of the wrong type, or unknown.
        :raises UsernsError: the reasons are those of ``usernsctl run``.
        """
        self._request = request = Request.for_host({"idmap": idmap, **options})
        self._begun: Begun[PreparedNamespace] = Begun(lambda: PreparedNamespace(request))
        self._is_closed = False

    @classmethod
    async def create_async(
        cls, idmap: AnyIdMap | None = None, **options: Unpack[NamedHostOptions]
    ) -> Self:
        """Make one from asyncio, and return when it can be used.

        If this is cancelled, nothing is left of it.

        :raises UsernsError: as the constructor does.
        :raises ValueError: likewise.
        :raises TypeError: likewise.
        """
        return await cls(idmap, **options).__aenter__()

    @property
    def prepared(self) -> PreparedNamespace:
        """What was made; this waits for it where that has only been begun.

        :raises UsernsError: it could not be made.
        """
        return self._begun.get()

    @property
    def directory(self) -> int:
        """A descriptor of the directory for the files of the sandboxes; -1 once it is closed."""
        return self.prepared.directory

    @property
    def namespace(self) -> Namespace:
        """The namespaces that runsc runs in; they stay this object's to close."""
        return self.prepared.namespace

    def close(self) -> None:
        """Let go of the namespace. Sandboxes that still run keep what they need of it.

        Any thread may call it at any time, and so may a handler of signals.
        """
        self._is_closed = True
        if self._begun.settle():
            self._begun.get().close()

    def _holds(self) -> bool:
        return not getattr(self, "_is_closed", True) and self._begun.is_there()

    def __repr__(self) -> str:
        shown = self._request.bundle or self._request.rootfs or "/"
        if shown == "/" and not self._request.expose_root:
            shown = "this machine's programs"
        return f"<SandboxHost: {shown}{', closed' if self._is_closed else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a SandboxHost can't be copied or pickled: it holds descriptors; "
            "make one in each process"
        )


def _new_place(idmap: IdMap) -> Place:
    planned = plan(idmap)
    return Place(uid=planned.uid, gid=planned.gid, become=planned.become, target=Target())


def _join(kept: Namespace | str) -> tuple[Namespace, Place]:
    """Kept namespaces, with a new mount namespace for a root filesystem.

    :returns: descriptors of our own.
    :raises ValueError: they are closed, or have a PID namespace: /proc would be another one's.
    :raises NamespaceError: there are none of that name, or the kernel refused.
    """
    with contextlib.ExitStack() as undo:
        if isinstance(kept, str):
            kept = undo.enter_context(Namespace.open(kept))
        if kept.has("pid"):
            raise ValueError("namespace: one with a PID namespace of its own can't have sandboxes")
        # A mount namespace needs a process that makes it: this one gets no further than to start.
        command = isolated.command("usernsctl.gvisor.prepare", "0")
        maker = undo.enter_context(kept.popen(command, mount=True, stdin=PIPE, stderr=DEVNULL))
        undo.callback(maker.kill)
        uid, gid = (read_map(f"/proc/{maker.pid}/{name}_map") for name in ("uid", "gid"))
        joined = Namespace.from_pid(maker.pid)
        setup = joined.target().setup
    become = (-1 if setup.uid is None else setup.uid, -1 if setup.gid is None else setup.gid)
    return joined, Place(uid=uid, gid=gid, become=become, target=Target())


def _make_order(request: Request, place: Place, program: str) -> Order:
    config.check_ids(place, (0, 0))
    bundle = open_bundle(request, request.bundle, place) if request.bundle else None
    return Order(
        request=request,
        used=launch.resolve(request, program, bundle),
        bundle=bundle.config if bundle is not None else None,
        uid=place.uid,
        gid=place.gid,
        homes=paths.home_directories(os.environ),
        is_root=os.geteuid() == 0,
        state=state_directory(),
    )


def _prepare(namespace: Namespace, order: Order) -> tuple[Prepared, int]:
    """Have a child inside make the root filesystem.

    :returns: what was made, and a descriptor of the directory for the files of the sandboxes.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = isolated.command("usernsctl.gvisor.prepare", str(theirs.fileno()))
            done = namespace.run(
                command,
                input=pickle.dumps(order),
                stdout=PIPE,
                stderr=PIPE,
                pass_fds=[theirs.fileno(), *order.used.descriptors()],
            )
        _, fds = receive(ours, 1, 1)
    with contextlib.ExitStack() as undo:
        for fd in fds:
            undo.callback(os.close, fd)
        if done.returncode != 0:
            told = done.stderr.decode(errors="replace").strip().split("\n")[-1]
            told = told or f"what makes it ended with status {done.returncode}"
            raise NamespaceError(f"the root filesystem could not be made: {told}", step="sandbox")
        # It comes from a child of ours that runs our own program.
        result = pickle.loads(done.stdout)
        if isinstance(result, Prepared):
            undo.pop_all()
            return result, fds[0]
        raise result
