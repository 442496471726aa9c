"""What a pool tells of itself."""

from __future__ import annotations

from usernsctl._records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What a pool has done, and what it has at a moment.

    :ivar made: how many sandboxes it has made.
    :ivar starting: how many are being made.
    :ivar waiting: how many are ready, and wait for somebody.
    :ivar handed_out: how many somebody has.
    :ivar queued: how many calls of ``acquire`` wait.
    :ivar acquired: how many calls of ``acquire`` were given a sandbox.
    :ivar waited: how long those waited, all together, in seconds.
    :ivar longest_wait: how long the one waited that waited longest, in seconds.
    :ivar failed: how many could not be made, or were found to be of no use afterwards.
    :ivar last_failure: why the last one of these was not.
    """

    made: int = 0
    starting: int = 0
    waiting: int = 0
    handed_out: int = 0
    queued: int = 0
    acquired: int = 0
    waited: float = 0
    longest_wait: float = 0
    failed: int = 0
    last_failure: BaseException | None = None
