"""A connection to a Redis server or cluster: it runs scripts in pipelines within a timeout, and explains errors.

The only module that imports redis-py, and only when a connection is made. The scripts are in `scripts/*.lua`; what they
store and in which keys is explained in `prelude.lua`, with which each of them begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import resources
from typing import Any, NamedTuple

from hfs_providers.contract.records import Problem

REDIS_TIMEOUT = 0.25
"""Seconds that a call may wait for an answer."""

_CONNECTING = 1.0
"""Seconds to wait for a connection."""

_AT_ONCE = 500
"""Scripts of one pipeline, so that its answer comes in time."""


def _scripts() -> dict[str, str]:
    folder = resources.files(__package__) / "scripts"
    files = [file for file in folder.iterdir() if file.name.endswith(".lua")]
    texts = {file.name.removesuffix(".lua"): file.read_text(encoding="utf-8") for file in files}
    prelude = texts.pop("prelude")
    return {name: prelude + text for name, text in texts.items()}


SCRIPTS = _scripts()
"""The text of each script by its name."""


class ScriptCall(NamedTuple):
    """A script to run, by its name in `SCRIPTS`."""

    script: str
    keys: Sequence[str]
    args: Sequence[str | int]


class RedisConnection:
    """A connection for one thread.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with user, password and TLS options as redis-py takes them.
        timeout: seconds to wait for an answer.

    Raises:
        ImportError: redis-py is not installed.
        ValueError: the URL cannot be read. The message holds no part of the URL.
    """

    def __init__(self, url: str, timeout: float = REDIS_TIMEOUT) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.connection import parse_url
        from redis.retry import Retry

        self._redis = redis
        self._timeout = timeout
        self.errors = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
        """The errors that any method may raise."""
        try:
            given: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]  # redis-py's
        except Exception:
            # Not chained: the error may quote the URL, and with it the password.
            raise ValueError("it is not a redis://, rediss:// or unix:// URL") from None
        self._secrets = [given[name] for name in ("password", "username") if given.get(name)]
        where = given.get("path") or f"{given.get('host', 'localhost')}:{given.get('port', 6379)}"
        self.name: str = f"{where}/{given.get('db', 0)}"
        """Host, port and database; neither user nor password."""
        # These come last, so that nothing in the URL makes a call wait longer.
        self._options: dict[str, Any] = {
            **given,
            "protocol": 2,
            "decode_responses": True,
            "encoding_errors": "replace",
            "socket_timeout": timeout,
            "socket_connect_timeout": _CONNECTING,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
        }
        self._client: Any = None
        self._hashes: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"RedisConnection({self.name})"

    def open(self) -> None:
        """Connect, and load the scripts into the server."""
        redis = self._redis
        self.close()
        client: Any = redis.Redis.from_pool(redis.ConnectionPool(**self._options))
        self._client = client
        client.ping()
        try:
            clustered = bool(client.info("cluster").get("cluster_enabled"))
        except redis.ResponseError:
            clustered = False  # a server that forbids INFO
        if clustered:
            client.close()
            self._client = self._cluster()
        self._load()

    def _cluster(self) -> Any:
        options = {name: value for name, value in self._options.items() if name not in ("connection_class", "db")}
        options.pop("retry_on_error")
        if self._options.get("connection_class") is self._redis.SSLConnection:
            options["ssl"] = True
        return self._redis.RedisCluster(**options)

    def _load(self) -> None:
        self._hashes = {name: self._client.script_load(body) for name, body in SCRIPTS.items()}

    def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts in their order, a pipeline of them in one round trip, and return their answers."""
        answers: list[Any] = []
        for start in range(0, len(calls), _AT_ONCE):
            answers += self._run(calls[start : start + _AT_ONCE])
        return answers

    def _run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        answers = self._pipeline(calls)
        missing = [i for i, answer in enumerate(answers) if isinstance(answer, self._redis.exceptions.NoScriptError)]
        if missing:
            self._load()
            for i, answer in zip(missing, self._pipeline([calls[i] for i in missing]), strict=True):
                answers[i] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _pipeline(self, calls: Sequence[ScriptCall]) -> list[Any]:
        whole = isinstance(self._client, self._redis.Redis)
        pipeline: Any = self._client.pipeline(transaction=False) if whole else self._client.pipeline()
        for script, keys, args in calls:
            # The method `evalsha` is forbidden in redis-py's pipelines for clusters.
            pipeline.execute_command("EVALSHA", self._hashes[script], len(keys), *keys, *args)
        found: list[Any] = pipeline.execute(raise_on_error=False)
        return found

    def close(self) -> None:
        """Disconnect; safe at any time."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(*self.errors):
                client.close()

    def forget(self) -> None:
        """In a child after `fork`: the connection is the parent's."""
        self._client = None

    def problem(self, error: BaseException) -> Problem:
        """What is wrong, without the password."""
        exceptions = self._redis.exceptions
        remedy: str | None = "Check HFS_REDIS_URL and the server"
        if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError) or "NOAUTH" in str(error):
            words = "refuses the user or the password"
            remedy = "Set user and password in HFS_REDIS_URL: redis://user:password@host:port/0"
        elif isinstance(error, exceptions.ReadOnlyError):
            words = "is a read-only replica"
            remedy = "Name the primary in HFS_REDIS_URL"
        elif isinstance(error, exceptions.OutOfMemoryError):
            words = "is out of memory"
            remedy = "Give it more (maxmemory), with the policy noeviction"
        elif isinstance(error, exceptions.TimeoutError | TimeoutError):
            words = f"did not answer within {self._timeout * 1000:.0f} ms"
        else:
            said = str(error) or type(error).__name__
            for secret in self._secrets:
                said = said.replace(secret, "***")
            words = f"fails: {said[:300]}"
        return Problem(f"Redis at {self.name} {words}; each process goes on alone until it is back", remedy)
