"""Who may use the gateway, for what, and how often."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import NamedTuple

from hfs_providers.contract.instants import NEVER
from hfs_providers.contract.records import LIMIT_NAMES, Limits, Problem
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.core.config_file import ClientRules
from hfs_providers.gateway.client_file import clients_of, digest_of
from hfs_providers.gateway.guard import Headers
from hfs_providers.gateway.refusals import Refusal
from hfs_providers.keys.file_watch import FileWatch
from hfs_providers.keys.key_files import PrivateFile, read_private_file
from hfs_providers.keys.limits import Allowance, Meter
from hfs_providers.keys.windows import WindowEntry

# Seconds until it is worth asking again where only requests in flight stand in the way.
_SOON = 1.0
_log = logging.getLogger("hfs_providers")


class AllowedModels:
    """The models that a client may use.

    Args:
        patterns: for names as `provider/model`, or as clients may ask for: `groq`, `tier/careful`, `any`.
    """

    __slots__ = ("_patterns",)

    def __init__(self, *patterns: str) -> None:
        self._patterns = patterns

    def __contains__(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)


class _Request:
    """What one request of a client comes to."""

    __slots__ = ("sent", "tokens")

    def __init__(self) -> None:
        self.sent = False
        self.tokens = 0


_running: ContextVar[_Request | None] = ContextVar("hfs_client_request", default=None)


def count_for_client(row: UsageRow) -> None:
    """Count what was sent to a provider against the limits of the client for whom this context works."""
    request = _running.get()
    if request is not None:
        request.sent = True
        request.tokens += row.charged


class Terms:
    """What one client may do.

    Args:
        rules: of the configuration file; None: it may do all.
        clock: monotonic, in seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        rules: ClientRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        models, limits = rules or ClientRules()
        self.models = None if models is None else AllowedModels(*models)
        """None: all."""
        self._name = name
        self._clock = clock
        self._wall = wall
        self._allowance = Allowance(Meter(wall), limits) if limits is not None else None

    @property
    def limited(self) -> bool:
        """Whether it has limits."""
        return self._allowance is not None

    def restore(self, used: Sequence[WindowEntry]) -> None:
        """Count what was used before, oldest first, at instants of the wall clock."""
        if self._allowance is not None:
            now, ago = self._clock(), self._wall() - self._clock()
            entries = [(at - ago, requests, tokens) for at, requests, tokens in used]
            for window in self._allowance.meter.windows.values():
                window.restore(now, entries)

    def request(self, tokens: int) -> AbstractContextManager[None]:
        """One request, as long as the context lasts. It counts against the limits if it was sent to a provider.

        Args:
            tokens: that it will use, as far as one can tell.

        Raises:
            Refusal: the limits are used up.
        """
        return _UNLIMITED if self._allowance is None else self._counted(self._allowance, tokens)

    @contextmanager
    def _counted(self, allowance: Allowance, tokens: int) -> Iterator[None]:
        meter = allowance.meter
        now = self._clock()
        if not allowance.fits(tokens, now):
            raise self._used_up(allowance, tokens, now)
        meter.in_flight += 1
        meter.reserved += tokens
        request = _Request()
        outer = _running.set(request)
        try:
            yield
        finally:
            _running.reset(outer)
            meter.in_flight -= 1
            meter.reserved -= tokens
            if request.sent:
                meter.record(self._clock(), request.tokens)

    def _used_up(self, allowance: Allowance, tokens: int, now: float) -> Refusal:
        ready_at = max(allowance.ready(tokens, now))
        wait = ready_at - now if ready_at < NEVER else _SOON
        limits = allowance.limits or Limits()
        said = ", ".join(f"{name} = {most}" for name in LIMIT_NAMES if (most := getattr(limits, name)) is not None)
        message = f"The client {self._name!r} has used up its limits ({said}). Ask again in {wait:.0f} s."
        return Refusal(429, "client_limited", message, retry_after=wait)


_UNLIMITED = nullcontext()


class Client(NamedTuple):
    """Who sends a request.

    Args:
        name: empty if it is not known.
        admin: whether it may read what the gateway tells of itself.
        terms: what else it may do.
    """

    name: str
    admin: bool
    terms: Terms


CLIENT = "hfs.client"
"""Where a request's scope has its client."""

ANYBODY = Client("", True, Terms(""))
"""Who comes in without a token."""


class Clients:
    """Tells clients by their tokens. Without a file of clients everybody is let in; with one, nobody without a token,
    even if the file goes away.

    Args:
        rules: by name, what the configuration file says of clients.
        used: tells what a client has used within a day; see `Terms.restore`.
        clock, wall: as for `Terms`.
    """

    def __init__(
        self,
        rules: Mapping[str, ClientRules],
        used: Callable[[str], Sequence[WindowEntry]] = lambda _: (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.required = False
        """Whether a token is needed."""
        self.problems: list[Problem] = []
        """What is wrong with the file at the moment."""
        self._rules = rules
        self._used = used
        self._clock = clock
        self._wall = wall
        self._terms: dict[str, Terms] = {}
        self._by_digest: Mapping[bytes, Client] = {}
        self._watch: FileWatch | None = None
        self._path = ""

    def follow(self, path: str) -> None:
        """Let in whom a file lists, now and after each change of it; see `close`.

        Args:
            path: absolute. The file may be made later.
        """
        self._path = path
        self.apply(read_private_file(path))
        self._watch = FileWatch(path, self.apply)

    def close(self) -> None:
        """Do not look after the file any more. Safe to call twice."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def apply(self, file: PrivateFile) -> bool:
        """Let in whom a file lists from now on. If it cannot be used, those remain that were there before.

        Returns:
            True.
        """
        listed = clients_of(file)
        # That there is no file yet is nothing wrong.
        missing = file.data is None and not self.required
        problems = [] if missing else listed.problems(self._path, file.exposed)
        for problem in problems:
            if problem not in self.problems:
                _log.warning("%s. %s", problem.message, problem.remedy)
        self.problems = problems
        if not listed.fault:
            before = {client.name for client in self._by_digest.values()}
            self._by_digest = {
                token.digest: Client(token.name, token.admin, self._terms_of(token.name)) for token in listed.tokens
            }
            self.required = True
            if (names := set(listed.names)) != before:
                _log.info("clients: %s", ", ".join(sorted(names)) or "none")
        return True

    def identify(self, headers: Headers) -> Client:
        """Who sends a request.

        Raises:
            Refusal: it needs a token, and has none that is known.
        """
        if not self.required:
            return ANYBODY
        known = self._by_digest
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = [token.strip()] if scheme.lower() == b"bearer" else []
        given.append(headers.get(b"x-api-key", b"").strip())
        for each in given:
            # What is looked up is the digest: how long that takes tells nothing of a token.
            if each and (client := known.get(digest_of(each))) is not None:
                return client
        said = "This token is not known; it may have been revoked." if any(given) else "This gateway needs a token."
        message = f"{said} Send it as Authorization: Bearer, or as x-api-key."
        raise Refusal(401, "invalid_api_key", message, headers=[(b"www-authenticate", b"Bearer")])

    def _terms_of(self, name: str) -> Terms:
        """Kept over changes of the file, because it has counted."""
        if name not in self._terms:
            terms = Terms(name, self._rules.get(name), self._clock, self._wall)
            if terms.limited:
                terms.restore(self._used(name))
            self._terms[name] = terms
        return self._terms[name]
