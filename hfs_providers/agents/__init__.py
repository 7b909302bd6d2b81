"""Agents under supervision: four roles over this library's models, workers as processes, and their supervisor.

The names below are loaded on first use (PEP 562), because the roles need Agno and the contract pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfs_providers.agents.batch import Batch, answered_in
    from hfs_providers.agents.contract import (
        CANCELLED,
        ROLES,
        AgentConfig,
        AgentEvent,
        AgentHealth,
        AgentSnapshot,
        AgentState,
        ContractError,
        Role,
        WorkItem,
        WorkResult,
        json_schema,
    )
    from hfs_providers.agents.events import Subscription
    from hfs_providers.agents.pipeline import PIPELINE, run_pipeline
    from hfs_providers.agents.queueing import max_concurrent_agents
    from hfs_providers.agents.roles import AgentUnavailableError, RoleAgent, create_agent
    from hfs_providers.agents.serving import serve
    from hfs_providers.agents.structures import Artifacts, Improvement, Plan, Verdict
    from hfs_providers.agents.supervisor import Supervisor
    from hfs_providers.agents.worker import run_worker

_HOMES = {
    "batch": "Batch answered_in",
    "contract": (
        "CANCELLED ROLES AgentConfig AgentEvent AgentHealth AgentSnapshot AgentState ContractError Role WorkItem "
        "WorkResult json_schema"
    ),
    "events": "Subscription",
    "pipeline": "PIPELINE run_pipeline",
    "queueing": "max_concurrent_agents",
    "roles": "AgentUnavailableError RoleAgent create_agent",
    "serving": "serve",
    "structures": "Artifacts Improvement Plan Verdict",
    "supervisor": "Supervisor",
    "worker": "run_worker",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "CANCELLED",
    "PIPELINE",
    "ROLES",
    "AgentConfig",
    "AgentEvent",
    "AgentHealth",
    "AgentSnapshot",
    "AgentState",
    "AgentUnavailableError",
    "Artifacts",
    "Batch",
    "ContractError",
    "Improvement",
    "Plan",
    "Role",
    "RoleAgent",
    "Subscription",
    "Supervisor",
    "Verdict",
    "WorkItem",
    "WorkResult",
    "answered_in",
    "create_agent",
    "json_schema",
    "max_concurrent_agents",
    "run_pipeline",
    "run_worker",
    "serve",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
