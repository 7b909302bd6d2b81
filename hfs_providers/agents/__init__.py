"""Agents under supervision: four roles over this library's models, workers as processes, and their supervisor.

The names are loaded on first use, because the roles need Agno and the contract pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.lazy import lazy_exports

if TYPE_CHECKING:
    from hfs_providers.agents.batch import Batch as Batch
    from hfs_providers.agents.batch import answered_in as answered_in
    from hfs_providers.agents.contract import CANCELLED as CANCELLED
    from hfs_providers.agents.contract import ROLES as ROLES
    from hfs_providers.agents.contract import AgentConfig as AgentConfig
    from hfs_providers.agents.contract import AgentEvent as AgentEvent
    from hfs_providers.agents.contract import AgentHealth as AgentHealth
    from hfs_providers.agents.contract import AgentSnapshot as AgentSnapshot
    from hfs_providers.agents.contract import AgentState as AgentState
    from hfs_providers.agents.contract import ContractError as ContractError
    from hfs_providers.agents.contract import Role as Role
    from hfs_providers.agents.contract import WorkItem as WorkItem
    from hfs_providers.agents.contract import WorkResult as WorkResult
    from hfs_providers.agents.contract import json_schema as json_schema
    from hfs_providers.agents.events import Subscription as Subscription
    from hfs_providers.agents.pipeline import PIPELINE as PIPELINE
    from hfs_providers.agents.pipeline import run_pipeline as run_pipeline
    from hfs_providers.agents.queueing import max_concurrent_agents as max_concurrent_agents
    from hfs_providers.agents.roles import AgentUnavailableError as AgentUnavailableError
    from hfs_providers.agents.roles import RoleAgent as RoleAgent
    from hfs_providers.agents.roles import create_agent as create_agent
    from hfs_providers.agents.serving import serve as serve
    from hfs_providers.agents.structures import Artifacts as Artifacts
    from hfs_providers.agents.structures import Improvement as Improvement
    from hfs_providers.agents.structures import Plan as Plan
    from hfs_providers.agents.structures import Verdict as Verdict
    from hfs_providers.agents.supervisor import Supervisor as Supervisor
    from hfs_providers.agents.worker import run_worker as run_worker
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "hfs_providers.agents.batch": "Batch answered_in",
            "hfs_providers.agents.contract": (
                "CANCELLED ROLES AgentConfig AgentEvent AgentHealth AgentSnapshot AgentState ContractError Role "
                "WorkItem WorkResult json_schema"
            ),
            "hfs_providers.agents.events": "Subscription",
            "hfs_providers.agents.pipeline": "PIPELINE run_pipeline",
            "hfs_providers.agents.queueing": "max_concurrent_agents",
            "hfs_providers.agents.roles": "AgentUnavailableError RoleAgent create_agent",
            "hfs_providers.agents.serving": "serve",
            "hfs_providers.agents.structures": "Artifacts Improvement Plan Verdict",
            "hfs_providers.agents.supervisor": "Supervisor",
            "hfs_providers.agents.worker": "run_worker",
        },
    )
