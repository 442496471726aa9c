"""``usernsctl plan``: show id maps, which program would write each map, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from usernsctl._text import shown
from usernsctl.cli.parser import Parser, integer
from usernsctl.cli.terminal import is_utf8
from usernsctl.maps import Extent, Fill, IdMap, Plan, Range
from usernsctl.maps import plan as make_plan

_BAR_WIDTH = 24


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl plan``."""
    parser = Parser(prog, show)
    number, extents = integer(0, 2**32 - 2), "I:O:N|auto|subids|all"
    add, add_flag = parser.add_option, parser.add_flag
    add_flag("-r", "--map-root-user", dest="root", help="Map your ids to 0.")
    add_flag("-c", "--map-current-user", dest="current", help="Map your ids to themselves.")
    add("--map-user", parse=number, metavar="UID", help="Map your uid to UID.")
    add("--map-group", parse=number, metavar="GID", help="Map your gid to GID.")
    add("--map-users", repeats=True, metavar=extents, help="Map these uids.")
    add("--map-groups", repeats=True, metavar=extents, help="Map these gids.")
    add_flag("--map-auto", help="Map all your subordinate ranges.")
    add_flag("--map-subids", help="Map all your subordinate ranges to themselves.")
    add_flag("--allow-single-id", help="Map your ids alone if ranges can't be mapped.")
    add(
        "--setgroups",
        choices=["auto", "allow", "deny"],
        default="auto",
        help="Allow or deny setgroups(2) inside.",
    )
    add_flag("--json", dest="as_json", help="Print JSON, for programs.")
    return parser


def show(as_json: bool, **given: Any) -> None:
    """Show the id maps for options of usernsctl-exec, which program writes each map, and why.

    plan starts nothing. Without map options, plan shows the default maps of `usernsctl run`: your
    own ids become 0, and no other id is mapped.
    """
    decided = make_plan(_idmap(**given))
    if as_json:
        print(json.dumps(_as_json(decided), indent=2))
        return
    for line in _lines(decided):
        print(line)


def _idmap(
    root: bool,
    current: bool,
    map_user: int | None,
    map_group: int | None,
    map_users: Sequence[str],
    map_groups: Sequence[str],
    map_auto: bool,
    map_subids: bool,
    allow_single_id: bool,
    setgroups: Any,
) -> IdMap:
    everything: Fill = "auto" if map_auto else "subids" if map_subids else "none"
    users, fill_users = _split(map_users, everything)
    groups, fill_groups = _split(map_groups, everything)
    named = map_user is not None or map_group is not None or users or groups
    filled = fill_users != "none" or fill_groups != "none"
    if current:
        own = IdMap.current()
    elif root or not (named or filled):
        own = IdMap.root()
    else:
        own = IdMap()
    return IdMap(
        map_user=own.map_user if map_user is None else map_user,
        map_group=own.map_group if map_group is None else map_group,
        map_users=users,
        map_groups=groups,
        fill_users=fill_users,
        fill_groups=fill_groups,
        setgroups=setgroups,
        allow_single_id=allow_single_id,
    )


def _split(given: Sequence[str], fill: Fill) -> tuple[tuple[Extent, ...], Fill]:
    extents = []
    for text in given:
        if text in ("auto", "subids", "all"):
            fill = text  # type: ignore[assignment]  # mypy does not narrow str by "in"
        else:
            extents.append(Extent.parse(text))
    return tuple(extents), fill


_Kind = tuple[str, tuple[Extent, ...], str, str, tuple[Range, ...]]


def _kinds(decided: Plan) -> tuple[_Kind, _Kind]:
    return (
        ("uid", decided.uid, decided.uid_writer, decided.uid_reason, decided.clipped_uid),
        ("gid", decided.gid, decided.gid_writer, decided.gid_reason, decided.clipped_gid),
    )


def _remarks(decided: Plan) -> list[str]:
    """Return the lines to print below the id maps."""
    lines = []
    if decided.setgroups != "auto":
        lines.append(f"setgroups: {decided.setgroups}")
    for kind, _, _, _, clipped in _kinds(decided):
        lines += [
            f"left out: {kind} {_ids(ids.start, ids.count)}, not mapped in this user namespace"
            for ids in clipped
        ]
    if decided.single_id_reason is not None:
        lines.append(f"one id only, as --allow-single-id allows: {decided.single_id_reason}")
    return lines + [f"note: {notice}" for notice in decided.notices]


def _as_json(decided: Plan) -> dict[str, Any]:
    maps = {
        kind: {
            "extents": [
                {"inside": e.inside, "outside": e.outside, "count": e.count} for e in extents
            ],
            "writer": writer,
            "reason": reason,
            "clipped": [{"start": ids.start, "count": ids.count} for ids in clipped],
        }
        for kind, extents, writer, reason, clipped in _kinds(decided)
    }
    return {
        **maps,
        "setgroups": decided.setgroups,
        "single_id_reason": decided.single_id_reason,
        "notices": list(decided.notices),
    }


def _lines(decided: Plan) -> Iterator[str]:
    bar, point = ("━", "▶") if is_utf8() else ("=", ">")
    for kind, extents, writer, reason, _ in _kinds(decided):
        yield shown(f"{kind} map, written by {writer}: {reason}")
        most = max((extent.count for extent in extents), default=1)
        rows = [("inside", "", "outside", "count")]
        for extent in extents:
            length = max(1, round(_BAR_WIDTH * extent.count / most)) if most > 1 else 1
            inside, outside = (
                _ids(first, extent.count) for first in (extent.inside, extent.outside)
            )
            rows.append((inside, bar * length + point, outside, str(extent.count)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for inside, drawn, outside, count in rows if extents else ():
            ids = f"{inside:>{widths[0]}} {drawn:<{widths[1]}} {outside:<{widths[2]}}"
            yield f"  {ids}  {count:>{widths[3]}}"
    yield from map(shown, _remarks(decided))


def _ids(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"
