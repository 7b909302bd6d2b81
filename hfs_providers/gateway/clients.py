"""The clients of the gateway: who they are, which models they may use, and how often."""

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

# Seconds until it is worth asking again if only requests in flight exceed the limits.
_SOON = 1.0
_log = logging.getLogger("hfs_providers")


class AllowedModels:
    """The models that a client may use.

    Args:
        patterns: for names such as `provider/model`, or for the other names in requests: `groq`, `tier/careful`, `any`.
    """

    __slots__ = ("_patterns",)

    def __init__(self, *patterns: str) -> None:
        self._patterns = patterns

    def __contains__(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)


class _Request:
    """The usage of one request of a client."""

    __slots__ = ("sent", "tokens")

    def __init__(self) -> None:
        self.sent = False
        self.tokens = 0


_running: ContextVar[_Request | None] = ContextVar("hfs_client_request", default=None)


def count_for_client(row: UsageRow) -> None:
    """Count a request that was sent to a provider against the limits of this context's client."""
    request = _running.get()
    if request is not None:
        request.sent = True
        request.tokens += row.charged


class Terms:
    """What one client may do.

    Args:
        rules: its rules in the configuration file; None: it may do everything.
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
        """Count earlier usage, oldest first, at instants of the wall clock."""
        if self._allowance is not None:
            now, ago = self._clock(), self._wall() - self._clock()
            entries = [(at - ago, requests, tokens) for at, requests, tokens in used]
            for window in self._allowance.meter.windows.values():
                window.restore(now, entries)

    def request(self, tokens: int) -> AbstractContextManager[None]:
        """A context for one request. It counts against the limits if it was sent to a provider.

        Args:
            tokens: the estimated tokens of the request.

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
    """The sender of a request.

    Args:
        name: empty if it is not known.
        admin: whether it may read /metrics and the dashboard.
        terms: what else it may do.
    """

    name: str
    admin: bool
    terms: Terms


CLIENT = "hfs.client"
"""The name of the client in a request's scope."""

ANYBODY = Client("", True, Terms(""))
"""The client of requests without a token."""


class Clients:
    """Identifies clients by their tokens. Without a file of clients everybody is admitted. Once there is a file, a
    token is required, even if the file is removed.

    Args:
        rules: the rules of clients in the configuration file, by name.
        used: returns what a client has used within a day; see `Terms.restore`.
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
        """The current problem with the file."""
        self._rules = rules
        self._used = used
        self._clock = clock
        self._wall = wall
        self._terms: dict[str, Terms] = {}
        self._by_digest: Mapping[bytes, Client] = {}
        self._watch: FileWatch | None = None
        self._path = ""

    def follow(self, path: str) -> None:
        """Admit the clients in a file, now and after each change of it, until `close`.

        Args:
            path: an absolute path. The file may be created later.
        """
        self._path = path
        self.apply(read_private_file(path))
        self._watch = FileWatch(path, self.apply)

    def close(self) -> None:
        """Stop watching the file. Safe to call twice."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def apply(self, file: PrivateFile) -> bool:
        """Admit the clients in a file from now on. If it cannot be used, the clients stay the same.

        Returns:
            True.
        """
        listed = clients_of(file)
        # It is not a problem that there is no file yet.
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
        """The sender of a request.

        Raises:
            Refusal: it needs a token, and has no known one.
        """
        if not self.required:
            return ANYBODY
        known = self._by_digest
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = [token.strip()] if scheme.lower() == b"bearer" else []
        given.append(headers.get(b"x-api-key", b"").strip())
        for each in given:
            # The digest is looked up, so that the time of the lookup reveals nothing about a token.
            if each and (client := known.get(digest_of(each))) is not None:
                return client
        said = "This token is not known; it may have been revoked." if any(given) else "This gateway needs a token."
        message = f"{said} Send it as Authorization: Bearer, or as x-api-key."
        raise Refusal(401, "invalid_api_key", message, headers=[(b"www-authenticate", b"Bearer")])

    def _terms_of(self, name: str) -> Terms:
        """The terms of a client. They are kept when the file changes, because they have counts."""
        if name not in self._terms:
            terms = Terms(name, self._rules.get(name), self._clock, self._wall)
            if terms.limited:
                terms.restore(self._used(name))
            self._terms[name] = terms
        return self._terms[name]
