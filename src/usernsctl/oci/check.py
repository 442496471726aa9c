"""What in a bundle an unprivileged runsc will stumble over, told before it is started.

Every rule comes from a run of runsc (20240729) that failed; most of them failed with no more
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
from usernsctl.oci.refusals import Network, check_refusals
from usernsctl.oci.shape import validate


def check(
    config: dict[str, Any],
    bundle: str | os.PathLike[str],
    uid_map: Sequence[Extent],
    gid_map: Sequence[Extent],
    *,
    network: Network = "none",
    memory_overlay: bool = False,
) -> list[Finding]:
    """Find what would fail under rootless runsc in a user and mount namespace with these ids.

    Call it outside that namespace: files are judged by the outside ids of the map.

    :param bundle: the directory that relative paths of `config` start at.
    :param network: runsc's ``--network``.
    :param memory_overlay: whether runsc gets ``--overlay2=root:memory``, so that the root
        filesystem need not be writable.
    :raises BundleError: `config` hasn't the shape of a config.json (:func:`validate`).
    """
    typed = validate(config)
    ids = IdView(uid_map, gid_map)
    view = FileView(os.path.abspath(bundle), Reach(ids), memory_overlay)
    return [
        *check_ids(typed, ids),
        *check_files(typed, view),
        *check_refusals(typed, network),
    ]
