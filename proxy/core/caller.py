"""Who asks the proxy to do something: what the log and the history say of each action."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """`via` is the way: "socket" (the control socket), "tcp" (admin.listen), "signal", or "config" (an edit of it that
    was found at a start). `place` is where from: a process, an address, the signal's name. `right` is by what right:
    the user of a process, "token", "page" (somebody who is signed in there) or "loopback".
    """

    via: str
    place: str = ""
    right: str = ""

    def describe(self) -> dict[str, str]:
        return {"via": self.via, "from": self.place, "as": self.right}

    @classmethod
    def from_description(cls, values: dict[str, str]) -> Caller:
        return cls(values.get("via", ""), values.get("from", ""), values.get("as", ""))


NOBODY = Caller("")
"""For what was asked for in an earlier release, which did not write it down."""
