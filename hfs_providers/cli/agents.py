"""`agents`: agents under supervision. `worker` is what a supervisor in any language starts."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class RoleName(StrEnum):
    """A role, as typer wants its choices. The same as `hfs_providers.agents.ROLES`, which costs pydantic to import."""

    orchestrator = "orchestrator"
    optimizer = "optimizer"
    reviewer = "reviewer"
    executor = "executor"


app = typer.Typer(
    help="Agents under supervision: run work, watch it, or be a supervisor's worker.", no_args_is_help=True
)


@app.command()
def worker(
    role: Annotated[RoleName, typer.Option("--role", help="What its agents are for.")],
    heartbeat: Annotated[float, typer.Option("--heartbeat", min=0.01, help="Seconds between heartbeats.")] = 30.0,
) -> None:
    """Work for a supervisor: JSON-RPC 2.0 on stdin and stdout, one object a line. See docs/agents.md."""
    from hfs_providers.agents import run_worker

    raise typer.Exit(run_worker(role.value, heartbeat))
