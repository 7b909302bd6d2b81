"""`agents serve`: the four roles on Agno's AgentOS, until it is told to end."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hfs_providers.cli import output

if TYPE_CHECKING:
    from hfs_providers.agents import Role


def serve(database: str | None, host: str, port: int) -> None:
    """Serve until a signal ends it.

    Args:
        database: of the queue; None for what `HFS_AGENTS_DB` says.
        host: the address to listen on.
        port: 0 for any that is free.
    """
    from hfs_providers import survey
    from hfs_providers.agents import serving

    serving.require_extra()
    env = survey().settings.env
    key = serving.checked_key(env.get(serving.KEY, "").strip() or None, host)
    url = serving.database_url((database or env.get(serving.DATABASE, "")).strip())
    serving.check_database(url)
    _log_to_stderr()
    with serving.listen(host, port) as listening:
        shown, bound = f"[{host}]" if ":" in host else host, listening.getsockname()[1]
        if key is None:
            key = secrets.token_urlsafe(32)
            output.note(f"{serving.KEY} is not set. The key until this server ends: {key}")

        def started(reasons: Mapping[Role, str | None]) -> None:
            for role, reason in reasons.items():
                output.note(f"{role}: {'available' if reason is None else f'unavailable: {reason}'}")
            output.note(f"Serving on http://{shown}:{bound}")

        serving.run_app(serving.build_app(url, key, started), listening)


def _log_to_stderr() -> None:
    """Show what Agno and uvicorn warn of: of a server, its owner sees nothing else."""
    output.set_up_agno_logging()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # On the handler, because AgentOS sets its logger's level itself.
    handler.setLevel(logging.getLogger("hfs_providers").level)
    for name in ("agno", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
