"""The single values of a config.json, and the form that each must have.

A rule about one value is written as its type; the ``description`` of that is what an error message
says would be right.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

MAX_ID = 2**32 - 1

Id = Annotated[int, Meta(ge=0, le=MAX_ID, description=f"a whole number from 0 to {MAX_ID}")]
Size = Annotated[int, Meta(ge=1, le=MAX_ID, description=f"a whole number from 1 to {MAX_ID}")]
Umask = Annotated[int, Meta(ge=0, le=0o777, description="a whole number from 0 to 511 (0777)")]
WholeNumber = Annotated[
    int, Meta(ge=-(2**31), le=2**31 - 1, description="a whole number of 32 bits, with a sign")
]
Limit = Annotated[int, Meta(ge=0, description="a whole number, 0 or more")]
Flag = Annotated[bool, Meta(description="true or false")]
# JSON reaches runsc as UTF-8, which has no surrogates (Python's way to hold a byte that is none).
_CHARACTER = r"[^\0\ud800-\udfff]"
_UTF8 = "UTF-8, without NUL characters"

Text = Annotated[str, Meta(pattern=rf"^{_CHARACTER}*\Z", description=f"a string in {_UTF8}")]
NonEmptyText = Annotated[
    str, Meta(pattern=rf"^{_CHARACTER}+\Z", description=f"a string, not empty, in {_UTF8}")
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

#: What may hold secrets: a message says what was wrong with one, and not what is in it.
SECRET = EnvEntry

#: What runsc has no use for, or is not to have: it may be anything, since it goes no further.
Withheld = Annotated[Any, Meta(extra={"withheld": True})]
WithheldText = Annotated[
    str,
    Meta(
        pattern=rf"^{_CHARACTER}*\Z",
        description=f"a string in {_UTF8}",
        extra={"withheld": True},
    ),
]
