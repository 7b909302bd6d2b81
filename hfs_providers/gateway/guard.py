"""Checks where requests come from: on this machine everybody may send them, except web pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hfs_providers.gateway.refusals import Refusal

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine that nobody can redirect to another machine."""

READ = frozenset(
    {b"host", b"origin", b"sec-fetch-site", b"content-type", b"content-length", b"authorization", b"x-api-key"}
)
"""Names of the headers that are read in every request."""

_FOREIGN = frozenset({b"cross-site", b"same-site"})

Headers = Mapping[bytes, bytes]


class Guard:
    """Checks a request before it is read.

    Any web page can make a browser send requests to any address. Such a request has one of these: a foreign `Origin`;
    `Sec-Fetch-Site`; a `Host` that is not a name of this machine (DNS rebinding); or a POST body that is not JSON, the
    only kind that a page may send without the browser's preflight request.

    Args:
        hosts: the gateway's host names besides those of this machine.
        origins: web origins that may use it.
    """

    def __init__(self, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._hosts = frozenset({*LOOPBACK, *(host.lower() for host in hosts)})
        self._origins = frozenset(origin.rstrip("/").lower().encode() for origin in origins)
        self._known_hosts: set[bytes] = set()

    def admit(
        self, scope: Mapping[str, Any], read: Collection[bytes] = READ, any_host: bool = False
    ) -> dict[bytes, bytes]:
        """Admit a request, and return the headers that are needed.

        Args:
            read: names of the headers: `READ`, and possibly others.
            any_host: whether any host name is allowed, because a token is required, which a DNS rebinding page does not
                have.

        Raises:
            Refusal: the request is not admitted.
        """
        found: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in read:
                if name in found:
                    raise Refusal(400, "repeated_header", f"The request has the header {name.decode('latin-1')} twice.")
                found[name] = value
        if not any_host:
            self._check_host(found.get(b"host", b""))
        if found.get(b"sec-fetch-site") in _FOREIGN and not self.allows(found):
            raise Refusal(403, "foreign_page", "A web page of another site may not use this gateway.")
        if b"origin" in found and not self.allows(found):
            raise Refusal(403, "foreign_origin", "This origin may not use the gateway. Allow it with --allow-origin.")
        if scope["method"] == "POST":
            kind = found.get(b"content-type", b"")
            if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
                raise Refusal(415, "unsupported_media_type", "The body must be sent as application/json.")
        return found

    def allows(self, headers: Headers) -> bool:
        """Whether the origin of a request is an allowed one, or the gateway itself."""
        origin = headers.get(b"origin", b"").lower()
        if origin in self._origins:
            return True
        scheme, _, host = origin.partition(b"://")
        return scheme in (b"http", b"https") and host == headers.get(b"host", b"").lower()

    def _check_host(self, host: bytes) -> None:
        if host in self._known_hosts:
            return
        text = host.decode("latin-1").lower()
        name = text.rpartition(":")[0] if text.rpartition(":")[2].isdigit() else text
        if name.strip("[]") not in self._hosts:
            raise Refusal(403, "foreign_host", "This is not a host name of the gateway. Allow it with --allow-host.")
        if len(self._known_hosts) < 100:
            self._known_hosts.add(host)
