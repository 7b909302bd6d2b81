"""`agents serve`: the four roles on Agno's AgentOS, until a signal ends it."""

from __future__ import annotations

from hfs_providers.cli import output


def serve(database: str | None, host: str, port: int, max_concurrent: int | None) -> None:
    """Serve until a signal ends it; see `hfs_providers.agents.serve`."""
    from hfs_providers.agents import serve

    output.set_up_agno_logging()
    output.log_to_stderr("agno", "uvicorn")
    serve(database, host, port, output.note, max_concurrent)
