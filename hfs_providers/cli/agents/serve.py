"""`agents serve`: the four roles on Agno's AgentOS, until it is told to end."""

from __future__ import annotations

import logging

from hfs_providers.cli import output


def serve(database: str | None, host: str, port: int, max_concurrent: int | None) -> None:
    """Serve until a signal ends it; see `hfs_providers.agents.serve`."""
    from hfs_providers.agents import serve

    _log_to_stderr()
    serve(database, host, port, output.note, max_concurrent)


def _log_to_stderr() -> None:
    """Show what Agno and uvicorn warn of: of a server, its owner sees nothing else."""
    output.set_up_agno_logging()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # On the handler, because AgentOS sets its logger's level itself.
    handler.setLevel(logging.getLogger("hfs_providers").level)
    if not output.debugging():
        handler.addFilter(_drop_traceback)
    for name in ("agno", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False


def _drop_traceback(record: logging.LogRecord) -> bool:
    # Agno logs one with every work that failed.
    record.exc_info = None
    return True
