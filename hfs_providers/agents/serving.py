"""The roles' agents on Agno's AgentOS: work comes over HTTP and waits in its durable job queue in PostgreSQL.

Each role is an agent of AgentOS whose message is a `WorkItem` and whose content is a `WorkResult`, both as JSON, as for
a worker. docs/agents-serving.md says which work survives which failure.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar, Final

from agno.agents.base import BaseExternalAgent
from agno.run.agent import RunContentEvent, RunOutput
from agno.run.concurrency import background_run_slot, get_worker_ownership

from hfs_providers import HfsProvidersError, SettingsError
from hfs_providers.agents.contract import ROLES, ContractError, Role, WorkItem, WorkResult, read_item
from hfs_providers.agents.queueing import MAX_CONCURRENT_AGENTS, max_concurrent_agents
from hfs_providers.agents.roles import AgentUnavailableError, RoleAgent, create_agent
from hfs_providers.contract.environment import AGENTS_DATABASE, AGENTS_KEY
from hfs_providers.core.inventory import take_inventory

if TYPE_CHECKING:
    from fastapi import FastAPI

TIMEOUT: Final = 60
"""Seconds that a job may take."""

# The lease of a job: seconds until another server resumes the jobs of a killed one. It is renewed every third of it.
_LEASE: Final = 15
_DRAIN: Final = 10
# Agno compares keys as ASCII, and takes a bearer that begins like this for a token of its own.
_USABLE_KEY: Final = re.compile(r"(?!agno_pat_)[!-~]{16,}")
# With either of them set, AgentOS checks JWTs and ignores its security key.
_JWT: Final = ("JWT_VERIFICATION_KEY", "JWT_JWKS_FILE")
_EXTRA: Final = {"fastapi": "agno[os]", "uvicorn": "agno[os]", "sqlalchemy": "agno[os]", "psycopg": "agno[postgres]"}


class MissingExtraError(HfsProvidersError, ImportError):
    """A part of this library needs modules that are not installed (`missing`); the extra `extra` installs them."""

    def __init__(self, extra: str, missing: tuple[str, ...]) -> None:
        self.extra = extra
        self.missing = missing
        super().__init__(f"not installed: {', '.join(missing)}. Run: pip install 'hfs-providers[{extra}]'")


class ServingError(HfsProvidersError):
    """A server that cannot be started."""


class WorkFailedError(HfsProvidersError):
    """Work that was not done, as an error of Agno. Args: result: says why."""

    def __init__(self, result: WorkResult) -> None:
        self.result = result
        super().__init__(result.error or "no reason given")


def require_extra() -> None:
    """Raise MissingExtraError unless what serving needs is installed."""
    missing = tuple(name for name in _EXTRA if find_spec(name) is None)
    if missing:
        raise MissingExtraError("agents", missing)


def checked_key(key: str, host: str) -> str | None:
    """The key that callers have to send, or None if one may be generated.

    Raises SettingsError if the key is unusable, would be ignored, or is missing although others can reach `host`.
    """
    ignored = [name for name in _JWT if os.environ.get(name)]
    if ignored:
        raise SettingsError(f"with {ignored[0]} set AgentOS would ignore {AGENTS_KEY}. Unset {ignored[0]}")
    if key:
        if _USABLE_KEY.fullmatch(key) is None:
            raise SettingsError(
                f"{AGENTS_KEY} cannot be used: it must have at least 16 printable ASCII characters, no blanks, "
                "and must not begin with agno_pat_"
            )
        return key
    if not _is_loopback(host):
        raise SettingsError(f"others can reach {host}, so a key is needed. Set {AGENTS_KEY}, or leave out --host")
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def database_url(text: str) -> str:
    """The URL of a PostgreSQL database as Agno takes it.

    Raises SettingsError if `text` is not one. The error does not repeat it, because it can hold a password.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    example = "postgresql://user@host/name"
    if not text:
        raise SettingsError(
            f"the queue needs a PostgreSQL database. Set {AGENTS_DATABASE} or give --database ({example})"
        )
    try:
        url = make_url(re.sub(r"^postgres://", "postgresql://", text))
    except (ArgumentError, ValueError):
        raise SettingsError(f"the database's URL cannot be read. It must look like {example}") from None
    if url.get_backend_name() != "postgresql" or not url.database:
        raise SettingsError(f"the queue needs the URL of a PostgreSQL database, such as {example}")
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def check_database(url: str) -> None:
    """Raise ServingError unless a database can be reached. The URL is one that `database_url` returned."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(url, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        where = make_url(url)
        why = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
        raise ServingError(
            f"the database {where.database} at {where.host or 'localhost'}:{where.port or 5432} cannot be used: {why}. "
            f"Check {AGENTS_DATABASE} or --database"
        ) from None
    finally:
        engine.dispose()


class ServedAgent(BaseExternalAgent):
    """A role's agent as AgentOS runs it."""

    _sdk_name: ClassVar[str] = "hfs-providers"
    # AgentOS checks a message against it before it accepts the work.
    input_schema: ClassVar[type[WorkItem]] = WorkItem

    def __init__(self, agent: RoleAgent) -> None:
        super().__init__(id=agent.role, name=agent.role)
        self._agent = agent

    async def start(self) -> str | None:
        """Get ready for work. Returns why that failed, or None."""
        try:
            await self._agent.start_session()
        except AgentUnavailableError as error:
            self.description = f"unavailable: {error.reason}"
            return error.reason
        self.description = "available"
        return None

    async def stop(self) -> None:
        """Cancel all work."""
        await self._agent.stop_session()

    async def _arun_adapter(self, input: Any, *, history: Any = None, **kwargs: Any) -> str:
        run_id: str = kwargs["run_id"]
        item = _item_of(input)
        owner = get_worker_ownership(run_id)
        if owner is not None and owner.attempt > 1 and not item.idempotent:
            result = WorkResult.failed(
                item.id, "the server ended while it did this work, which is not idempotent, so it was not started again"
            )
        else:
            # A job of the queue holds one of the slots already.
            async with nullcontext() if owner is not None else background_run_slot(run_id):
                result = await self._work(item, run_id)
        kwargs["run_state"]["result"] = result
        if not result.success:
            raise WorkFailedError(result)
        return result.model_dump_json()

    async def _work(self, item: WorkItem, run_id: str) -> WorkResult:
        if self._agent.session_id is None and (reason := await self.start()) is not None:
            return WorkResult.failed(item.id, f"the {self.id} is unavailable: {reason}")
        # Two callers may choose one id. The timeout comes before that of the queue, so that its result is ours.
        task = item.model_copy(update={"id": run_id, "timeout": min(item.timeout, TIMEOUT - 1.0)})
        self._set_run_handle(run_id, run_id)
        result = await self._agent.work(task)
        return result.model_copy(update={"item_id": item.id})

    async def _arun_adapter_stream(
        self, input: Any, *, history: Any = None, **kwargs: Any
    ) -> AsyncIterator[RunContentEvent]:
        yield RunContentEvent(content=await self._arun_adapter(input, **kwargs))

    async def _ainterrupt_run(self, handle: Any) -> None:
        self._agent.cancel(handle)

    def _is_retryable_error(self, error: Exception) -> bool:
        # The chain has retried what is worth it.
        return False

    def _annotate_run_output(self, run: RunOutput, run_state: dict[str, Any]) -> None:
        result: WorkResult | None = run_state.get("result")
        if result is not None:
            run.content, run.content_type = result.dump(), WorkResult.__name__
            if result.served_by is not None:
                run.model, run.model_provider = result.served_by.model, result.served_by.provider


def _item_of(input: Any) -> WorkItem:
    if isinstance(input, str):
        try:
            input = json.loads(input)
        except ValueError:
            raise ContractError("WorkItem", ("it: not JSON",)) from None
    return read_item(input)


def build_app(
    database: str,
    key: str,
    started: Callable[[Mapping[Role, str | None]], None],
    max_concurrent: int = MAX_CONCURRENT_AGENTS,
) -> FastAPI:
    """The application: the four roles behind AgentOS's routes, with the worker of its queue.

    Args:
        key: the bearer token that callers have to send.
        started: called when it runs, with the reason why each role cannot work, or None if it can.
    """
    from agno.db.postgres import AsyncPostgresDb
    from agno.job_queue import QueueConfig
    from agno.os import AgentOS
    from agno.os.config import CORSConfig
    from agno.os.settings import AgnoAPISettings

    served = {role: ServedAgent(create_agent(role)) for role in ROLES}

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        started({role: await agent.start() for role, agent in served.items()})
        try:
            yield
        finally:
            for agent in served.values():
                await agent.stop()

    queue = QueueConfig(
        durable=True,
        max_concurrency=max_concurrent,
        timeout_seconds=TIMEOUT,
        # A second attempt is made if the first one's server was lost: `ServedAgent` works on it if it is idempotent.
        max_attempts=2,
        retry_delay_seconds=0,
        lock_grace_seconds=_LEASE,
        stop_timeout_seconds=_DRAIN,
    )
    system = AgentOS(
        id="hfs-providers",
        name="hfs-providers",
        agents=list(served.values()),
        db=AsyncPostgresDb(db_url=database),
        queue=queue,
        # Given in full, because Agno reads what is missing from the environment.
        settings=AgnoAPISettings(os_security_key=key, authorization_enabled=False),
        # By default, Agno's websites may send requests.
        cors=CORSConfig(origins=[]),
        lifespan=life,
        telemetry=False,
    )
    return system.get_app()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free port. Raises ServingError if there is none."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ServingError(
            f"cannot listen on {host}, port {port}: {error.strerror if isinstance(error, OSError) else error}"
        ) from None


def serve(
    database: str | None, host: str, port: int, say: Callable[[str], object], max_concurrent: int | None = None
) -> None:
    """Serve until SIGINT or SIGTERM. These take effect when work has ended or was returned to the queue.

    Args:
        database: of the queue; None for what `HFS_AGENTS_DB` says.
        port: 0 for any that is free.
        say: called with each line to show: a generated key, the state of the roles, and last the address.
        max_concurrent: jobs that are worked on at once; None for `HFS_MAX_CONCURRENT_AGENTS`, or 4.

    Raises:
        MissingExtraError: what is needed is not installed.
        SettingsError: the key, the database's URL or the number of jobs is unusable.
        ServingError: the database or the address cannot be used, or AgentOS did not start.
    """
    require_extra()
    import uvicorn

    env = take_inventory().settings.env
    key = checked_key(env.get(AGENTS_KEY, "").strip(), host)
    at_once = max_concurrent_agents(env, max_concurrent)
    url = database_url((database or env.get(AGENTS_DATABASE, "")).strip())
    check_database(url)
    with listen(host, port) as listening:
        if key is None:
            key = secrets.token_urlsafe(32)
            say(f"{AGENTS_KEY} is not set. The key of this run: {key}")

        def started(reasons: Mapping[Role, str | None]) -> None:
            for role, reason in reasons.items():
                say(f"{role}: {'available' if reason is None else f'unavailable: {reason}'}")
            say(f"Serving on http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")

        app = build_app(url, key, started, at_once)
        # Not AgentOS.serve: the variable AGENT_OS_HOST would override the address.
        config = uvicorn.Config(app, lifespan="on", access_log=False, log_config=None, server_header=False)
        server = uvicorn.Server(config)
        server.run(sockets=[listening])
        if not server.started:
            raise ServingError("AgentOS did not start; its log says why")
