"""What gives away a request that somebody else's page made a browser send.

Such a page can reach whatever the browser can. Three things betray it, or stop it: the name that it had to use for this
machine (Host; that also ends DNS rebinding), where it comes from (Origin, Sec-Fetch-Site), and that it cannot send
`application/json` to another site without asking first, which nothing here ever allows (Fetch Standard, "CORS
protocol").
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from proxy.api.errors import RequestError

if TYPE_CHECKING:
    from starlette.datastructures import Headers

_OWN_PAGE = ("same-origin", "none")  # "none": typed into the address bar
_SINGLE = ("host", "origin", "content-type", "authorization", "sec-fetch-site")
# No user, no path: nothing but a name or an address, and a port (RFC 9110, section 7.2).
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", re.IGNORECASE)
_ONLY_OURS = "only this proxy's own pages may"


def ambiguous(headers: Headers) -> RequestError | None:
    """Return why a request is refused in which a field stands twice that decides something, or None."""
    for name in _SINGLE:
        if len(headers.getlist(name)) > 1:
            return RequestError(400, "usage", f"the request has several {name} fields")
    return None


def wrong_host(headers: Headers, *, only_loopback: bool) -> RequestError | None:
    """Return why a request to that name is refused, or None.

    Where no token is needed, the name has to be one of this machine's own. Any port will do: a tunnel (ssh -L) has
    another one, and no page can make a browser lie about it.
    """
    host = headers.get("host", "")
    found = _HOST.fullmatch(host)
    if found and (not only_loopback or _is_loopback(found["name"].strip("[]"))):
        return None
    return _forbidden(f'the Host header says "{host:.100}"', "use 127.0.0.1, [::1] or localhost")


def foreign_page(headers: Headers, *, must_say: bool) -> RequestError | None:
    """Return why a request that a page elsewhere has made is refused, or None. `must_say`: it has to say where it comes
    from, as browsers do in all that changes something.
    """
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is None:
        if must_say:
            return _forbidden("it is not said which page asked", f"{_ONLY_OURS} use its cookie; scripts have a token")
    elif origin.lower() not in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}:
        return _forbidden(f'a page of "{origin:.100}" asked', f"{_ONLY_OURS} do that")
    site = headers.get("sec-fetch-site")
    if site is not None and site not in _OWN_PAGE:
        return _forbidden(f"a {site:.100} page asked", f"{_ONLY_OURS} do that")
    return None


def wrong_content_type(headers: Headers) -> RequestError | None:
    """Return why a request that is to change something is refused for the type of its body, or None."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return None
    return RequestError(
        415,
        "content_type",
        f'the Content-Type is "{content_type:.100}"',
        hint="send Content-Type: application/json, also without a body",
    )


def _forbidden(message: str, hint: str) -> RequestError:
    return RequestError(403, "forbidden", message, hint=hint)


def _is_loopback(name: str) -> bool:
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
