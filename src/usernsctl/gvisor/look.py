"""What must be known of the machine and the caller to decide a launch; nothing is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from usernsctl import _core
from usernsctl._records import dataclass
from usernsctl._system.opened import Opened
from usernsctl._typing import Any
from usernsctl.errors import CommandError
from usernsctl.gvisor import config, environment, paths, runsc
from usernsctl.gvisor.config import OpenBundle, open_bundle
from usernsctl.gvisor.place import Ids, Place
from usernsctl.gvisor.request import Bind, Request
from usernsctl.gvisor.rootfs import refuse_own
from usernsctl.gvisor.steps import Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a launch is decided by, besides the request. All paths are absolute.

    :ivar version: of this package.
    :ivar ids: those that the namespace has.
    :ivar is_root: whether the caller is root, who may read more than programs inside should.
    :ivar homes: the home directories of the caller, which stay hidden; ``None``: those of whoever
        starts it later.
    :ivar runsc: runsc, by the path that it is called by.
    :ivar runsc_file: the same without symbolic links.
    :ivar runsc_is_script: whether it has to be executed by its path.
    :ivar watcher: the program that waits for runsc.
    :ivar verifier: the program that proves the kernel, or ``None`` if that is not wanted.
    :ivar runsc_env: the environment of runsc.
    :ivar tree: the root filesystem to be shown as it is, or ``None`` for this machine's programs.
    :ivar binds: those of the request, their sources without symbolic links.
    :ivar sources: what is to be bound, by the source that `binds` and `bundle` have for it.
    :ivar state: the directory for runsc's state, or ``None`` for one of the run's own.
    :ivar debug_log: the same for its logs.
    :ivar bundle: the config.json of a bundle as :func:`config.read_bundle` gave it, or ``None``.
    :ivar scratch: where the run's tmpfs may go.
    """

    version: str
    ids: Ids
    is_root: bool = False
    homes: frozenset[str] | None = frozenset()
    runsc: str
    runsc_file: str
    runsc_is_script: bool = False
    watcher: str
    verifier: str | None
    runsc_env: Mapping[str, str]
    tree: str | None = None
    binds: tuple[Bind, ...] = ()
    sources: Mapping[str, str]
    state: str | None = None
    debug_log: str | None = None
    bundle: Mapping[str, Any] | None = None
    scratch: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was found.

    :ivar used: the files, held open, so that they stay those that were found.
    :ivar place: where runsc is to run.
    """

    facts: Facts
    used: paths.Paths
    place: Place


def look(
    request: Request,
    caller: Mapping[str, str],
    *,
    notify: Callable[[str], object] = lambda text: None,
    makes: bool = True,
) -> Looked:
    """Look for all that a run takes, and open its files.

    :param caller: the environment of the caller.
    :param notify: is told what the user should know.
    :param makes: whether directories for runsc to write to are made, if need be.
    :raises UsernsError: something can't be had, or may not be.
    """
    if request.terminal and not os.isatty(0):
        # gVisor would wait for a terminal that isn't there.
        raise CommandError("a terminal was asked for, but standard input is none", step="terminal")
    program = runsc.find(caller, request.program)
    assert request.kept is None or isinstance(request.kept, str)
    place = Place.kept(request.kept) if request.kept is not None else Place.new(request.idmap)
    if place.single_id_reason is not None:
        notify(f"going on with one id, as --allow-single-id allows: {place.single_id_reason}")
    config.check_ids(place.ids, request.user or (0, 0))
    bundle = open_bundle(request, request.bundle, place.ids) if request.bundle else None
    used = resolve(request, program, bundle, makes=makes)
    own = [one.path for one in (used.state, used.debug_log) if one is not None]
    refuse_own(used.sources, config.writable_sources(used.binds, bundle), own)
    scratch = used.scratch_places()
    facts = gather(request, caller, program, used, place.ids, bundle, scratch=scratch)
    return Looked(facts=facts, used=used, place=place)


def resolve(
    request: Request, program: str, bundle: OpenBundle | None, *, makes: bool = True
) -> paths.Paths:
    """Open what a request names besides its bundle.

    :param makes: see :func:`look`.
    :raises UsernsError: something of it can't be had.
    """
    if bundle is not None:
        return paths.resolve(request, program, bundle.tree, bundle.sources, makes=makes)
    tree = "/" if request.expose_root else request.rootfs
    return paths.resolve(request, program, tree, makes=makes)


def gather(
    request: Request,
    caller: Mapping[str, str],
    program: str,
    used: paths.Paths,
    ids: Ids,
    bundle: OpenBundle | None,
    *,
    scratch: tuple[str, ...],
) -> Facts:
    """The facts about files that are open.

    :param program: runsc, by the path that it is called by.
    :param scratch: where the run's tmpfs may go.
    """
    return Facts(
        version=_core.version(),
        ids=ids,
        is_root=os.geteuid() == 0,
        homes=frozenset(paths.home_directories(caller)),
        runsc=program,
        runsc_file=used.runsc.path,
        runsc_is_script=is_script(used.runsc),
        watcher=used.watcher.path,
        verifier=used.verifier.path if used.verifier is not None else None,
        runsc_env=environment.for_runsc(is_named=request.program is not None),
        tree=used.tree.path if used.tree is not None else None,
        binds=used.binds,
        sources={name: source.path for name, source in used.sources.items()},
        state=_directory(used.state, request.state),
        debug_log=_directory(used.debug_log, request.debug_log),
        bundle=bundle.config if bundle is not None else None,
        scratch=scratch,
    )


def descriptors(launch: Launch, files: Iterable[Opened]) -> list[int]:
    """Those of the files that a launch calls its sources, in the order of these."""
    known = {file.path: file.fd for file in files}
    return [known[source.path] for source in launch.sources]


def _directory(found: Opened | None, wanted: str | None) -> str | None:
    """The path of a directory, which may be missing yet."""
    if found is not None or wanted is None:
        return found.path if found is not None else None
    return os.path.abspath(wanted)


def is_script(program: Opened) -> bool:
    """Whether it is executed by an interpreter, which needs a path to read it by."""
    try:
        with open(program.open(), "rb") as file:
            return file.read(2) == b"#!"
    except PermissionError:
        return False
