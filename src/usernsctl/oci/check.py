"""What in a bundle an unprivileged runsc will stumble over, and what reaches outside of it.

Every rule about what fails comes from a run of runsc (20240729) that did; most of them told no more
than ``waiting for sandbox to start: EOF``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from usernsctl.idmap import Extent
from usernsctl.oci.access import Reach
from usernsctl.oci.files import FileView, check_files
from usernsctl.oci.finding import Finding
from usernsctl.oci.ids import IdView, check_ids
from usernsctl.oci.load import Bundle
from usernsctl.oci.outside import check_outside
from usernsctl.oci.refusals import Network, check_refusals
from usernsctl.oci.shape import validate


def check(
    config: dict[str, Any],
    bundle: str | os.PathLike[str] | Bundle,
    uid_map: Sequence[Extent],
    gid_map: Sequence[Extent],
    *,
    network: Network = "none",
    memory_overlay: bool = False,
) -> list[Finding]:
    """Find what would fail under rootless runsc in a user and mount namespace with these ids, and
    all that reaches outside of the bundle.

    Call it outside that namespace: files are judged by the outside ids of the map.

    :param bundle: the directory that relative paths of `config` start at, or it opened.
    :param network: runsc's ``--network``.
    :param memory_overlay: whether runsc gets ``--overlay2=root:memory``, so that the root
        filesystem need not be writable.
    :raises BundleError: `config` hasn't the shape of a config.json (:func:`validate`), or there is
        no such directory.
    """
    typed = validate(config)
    if not isinstance(bundle, Bundle):
        with Bundle(bundle) as opened:
            return check(
                config, opened, uid_map, gid_map, network=network, memory_overlay=memory_overlay
            )
    ids = IdView(uid_map, gid_map)
    view = FileView(os.path.abspath(bundle.path), Reach(ids), memory_overlay)
    return [
        *check_outside(typed, bundle),
        *check_ids(typed, ids),
        *check_files(typed, view),
        *check_refusals(typed, network),
    ]
