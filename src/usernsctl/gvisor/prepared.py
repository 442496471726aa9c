"""A kept namespace that has a root filesystem, for any number of sandboxes."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import pickle
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import NoReturn, Self

from usernsctl import hardening
from usernsctl._system import isolated
from usernsctl._system.descriptors import Shared
from usernsctl._system.state import state_directory
from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.commands.popen import PIPE
from usernsctl.commands.target import Target
from usernsctl.errors import NamespaceError
from usernsctl.gvisor import checks, config, environment, launch, oci, paths, runsc
from usernsctl.gvisor.config import open_bundle
from usernsctl.gvisor.place import Place
from usernsctl.gvisor.prepare import Order, Prepared
from usernsctl.gvisor.request import Bind, Request
from usernsctl.maps import IdMap, plan
from usernsctl.namespaces.namespace import Namespace

# Until a sandbox says what it runs; a config.json must have a command.
_NO_COMMAND = ("true",)


class PreparedNamespace:
    """What sandboxes share: :class:`SandboxHost` without those that start them."""

    def __init__(
        self,
        idmap: IdMap | None = None,
        *,
        bundle: StrOrBytesPath | None = None,
        trust: bool = False,
        allow_hooks: bool = False,
        rootfs: StrOrBytesPath | None = None,
        expose_root: bool = False,
        binds: Iterable[Bind] = (),
        hostname: str | None = None,
        network: str = "none",
        platform: str | None = None,
        verify: bool = True,
    ) -> None:
        """Make the namespace and the root filesystem, as ``usernsctl run`` does.

        :param idmap: the ids inside; by default there is one, the caller's, which is root there.
        :param bundle: the directory of an OCI bundle, whose config.json then decides all that is
            left open; without it, `rootfs` or `expose_root`, sandboxes see the machine's programs.
        :param trust: whether the bundle's bind mounts and annotations are taken as they are
            written. Otherwise it is a stranger's data, and may show nothing but its own files.
        :param allow_hooks: whether the bundle's hooks are run: programs that runsc starts for each
            sandbox OUTSIDE gVisor, on this machine's kernel, as you.
        :param rootfs: the directory of a root filesystem to show.
        :param expose_root: whether all of this machine's files are shown, read-only.
        :param binds: what else of this machine is shown.
        :param network: ``"none"`` or ``"host"``.
        :param platform: runsc's, such as ``"systrap"``; by default runsc chooses.
        :param verify: whether it is proven that the kernel is gVisor's before a command starts.
        :raises ValueError: more than one of `bundle`, `rootfs` and `expose_root` is given, `trust`
            or `allow_hooks` without `bundle`, or there is no such network or platform.
        :raises TypeError: an argument is of the wrong type.
        :raises UsernsError: the reasons are those of ``usernsctl run``.
        """
        idmap = IdMap.root() if idmap is None else idmap
        _check_types(idmap, hostname)
        self.request = Request(
            args=() if bundle is not None else _NO_COMMAND,
            bundle=checks.path("bundle", bundle),
            trust_bundle=bool(trust),
            allow_hooks=bool(allow_hooks),
            rootfs=checks.path("rootfs", rootfs),
            expose_root=expose_root,
            binds=checks.binds(binds),
            hostname=hostname,
            network=network,
            platform=platform,
            verify=verify,
            env={} if bundle is not None else environment.base(os.environ, everything=False),
            idmap=idmap,
        )
        _check_request(self.request)
        self._place = _make_place(idmap)
        self.runsc = runsc.find(os.environ)
        order = _make_order(self.request, self._place, self.runsc)
        self.restrictions = hardening.for_run(ids=self._place.id_count)
        with contextlib.closing(order.used):
            self.namespace, self.prepared, self.directory = _make_namespace(idmap, order)
        self._shared = Shared("the host", [self.directory])

    def config_for(
        self,
        args: Iterable[str],
        *,
        env: Mapping[str, str] | None,
        cwd: str | None,
        user: tuple[int, int] | None,
    ) -> bytes:
        """The config.json of one sandbox.

        :raises PlanError: `user` is not mapped.
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
            binds=(),
        )
        config.apply_request(wanted, request, wanted["root"]["path"], ())
        process = wanted["process"]
        if cwd is not None:
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

    def close(self) -> None:
        """Let go of the namespace. Sandboxes that still run keep what they need of it."""
        self.namespace.close()
        self.directory = -1
        self._shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        shown = self.request.bundle or self.request.rootfs or "/"
        if shown == "/" and not self.request.expose_root:
            shown = "this machine's programs"
        return f"<SandboxHost: {shown}{', closed' if self.directory < 0 else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a SandboxHost can't be copied or pickled: it holds descriptors; "
            "make one in each process"
        )

    def __del__(self) -> None:
        if hasattr(self, "_shared"):
            self.close()


def _check_types(idmap: IdMap, hostname: str | None) -> None:
    checks.instance("idmap", idmap, IdMap)
    if hostname is not None:
        checks.instance("hostname", hostname, str)


def _check_request(request: Request) -> None:
    roots = (request.bundle is not None, request.rootfs is not None, request.expose_root)
    if sum(roots) > 1:
        raise ValueError("bundle, rootfs and expose_root exclude each other")
    if request.bundle is None and (request.trust_bundle or request.allow_hooks):
        raise ValueError("trust and allow_hooks are about a bundle, and none is given")
    _check_choice("network", request.network, runsc.NETWORKS)
    if request.platform is not None:
        _check_choice("platform", request.platform, runsc.PLATFORMS)


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}")


def _make_place(idmap: IdMap) -> Place:
    planned = plan(idmap)
    place = Place(uid=planned.uid, gid=planned.gid, become=planned.become, target=Target())
    config.check_ids(place, (0, 0))
    return place


def _make_order(request: Request, place: Place, program: str) -> Order:
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


def _make_namespace(idmap: IdMap, order: Order) -> tuple[Namespace, Prepared, int]:
    """The namespace, and what :func:`_prepare` has made in it."""
    namespace = Namespace.create(idmap, mount=True)
    try:
        return namespace, *_prepare(namespace, order)
    except BaseException:
        namespace.close()
        raise


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
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    with contextlib.ExitStack() as undo:
        for fd in fds:
            undo.callback(os.close, fd)
        if done.returncode != 0:
            told = done.stderr.decode(errors="replace").strip().split("\n")[-1]
            raise NamespaceError(f"the root filesystem could not be made: {told}", step="sandbox")
        # It comes from a child of ours that runs our own program.
        result = pickle.loads(done.stdout)
        if isinstance(result, Prepared):
            undo.pop_all()
            return result, fds[0]
        raise result
