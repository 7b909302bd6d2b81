"""`agents`: agents under supervision. `worker` is what a supervisor in any language starts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hfs_providers.cli.commands import Command, SubGroup


class RoleName(StrEnum):
    """A role, in the form that typer needs for choices. The same as `hfs_providers.agents.ROLES`, which would import
    pydantic."""

    orchestrator = "orchestrator"
    optimizer = "optimizer"
    reviewer = "reviewer"
    executor = "executor"


AtOnceOption = Annotated[
    int | None,
    typer.Option(
        "--max-concurrent-agents",
        metavar="N",
        min=1,
        help="Items worked on at once; by default HFS_MAX_CONCURRENT_AGENTS, or 4.",
        show_default=False,
    ),
]

# In the help rather than as a metavar, which would be broken within the names.
_ROLES = ", ".join(RoleName)


app = typer.Typer(
    cls=SubGroup,
    name="agents",
    help="Agents under supervision: run work, watch it, or be a supervisor's worker.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command(cls=Command)
def run(
    source: Annotated[str, typer.Argument(help="A file of work items, one JSON object per line; - reads stdin.")] = "-",
    role: Annotated[
        RoleName, typer.Option("--role", "-r", metavar="ROLE", help=f"The role that does the work: {_ROLES}.")
    ] = RoleName.executor,
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="Plan, carry out and review each item, instead of one role.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", "-w", metavar="N", min=1, max=4, help="Worker processes per role.")
    ] = 1,
    at_once: AtOnceOption = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence",
            metavar="N",
            min=0,
            max=1,
            help="With --pipeline: ask the reviewer again if its confidence is below this; by default 0.5.",
            show_default=False,
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            "--events", help="Write the events to this file, for `watch`; it is overwritten.", show_default=False
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Results of an earlier run: skip the items that have one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run work items and print one result per line, in order of completion.

    Exit code: 0 all succeeded, 1 some failed, 2 wrong usage or unreadable input, 3 no agent is available for it.
    """
    from hfs_providers.cli.agents import run

    options = run.Options(
        None if pipeline else role.value, workers, at_once, min_confidence, events=events, resume=resume
    )
    raise typer.Exit(run.run(source, options))


@app.command(cls=Command)
def watch(events: Annotated[Path, typer.Argument(help="The file that `run --events` writes.")]) -> None:
    """Watch the agents of a `run` in another terminal: their states and what happens, until it ends."""
    from hfs_providers.cli.agents import watch

    raise typer.Exit(watch.watch(events))


@app.command(cls=Command)
def worker(
    role: Annotated[RoleName, typer.Option("--role", "-r", metavar="ROLE", help=f"The role of its agents: {_ROLES}.")],
    heartbeat: Annotated[float, typer.Option("--heartbeat", min=0.01, help="Seconds between heartbeats.")] = 30.0,
) -> None:
    """Work for a supervisor: JSON-RPC 2.0 on stdin and stdout, one object per line. See docs/agents.md."""
    from hfs_providers.agents import run_worker

    raise typer.Exit(run_worker(role.value, heartbeat))


@app.command(cls=Command)
def serve(
    database: Annotated[
        str | None,
        typer.Option(
            "--database", help="The PostgreSQL database of the job queue; by default HFS_AGENTS_DB.", show_default=False
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 is any free port.")] = 7777,
    at_once: AtOnceOption = None,
) -> None:
    """Serve the four roles over HTTP on Agno's AgentOS, with its durable job queue. See docs/agents-serving.md.

    Callers send the key in HFS_AGENTS_KEY as a bearer token. If it is not set, a key is generated and printed.
    """
    from hfs_providers.cli.agents import serve

    serve.serve(database, host, port, at_once)
