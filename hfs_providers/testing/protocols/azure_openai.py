"""Azure OpenAI: https://learn.microsoft.com/azure/ai-services/openai/reference"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hfs_providers.testing.answers import Request
from hfs_providers.testing.refusals import Answer, wait_headers
from hfs_providers.testing.scripts import ModelGone, RateLimited, Step, Unauthorized
from hfs_providers.testing.spoken import OpenAIDialect

_DEPLOYMENT = re.compile(r"/deployments/(?P<name>[^/]+)(?=/)")


class AzureOpenAIDialect(OpenAIDialect):
    """OpenAI's protocol, with the deployment in the path and the key in `api-key`."""

    def __init__(self, provider: str, keyless: bool = False, base_path: str = "/openai") -> None:
        super().__init__(provider, base_path=base_path, key_prefix="", keyless=keyless)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        bearer = f"Bearer {headers.get('api-key', '')}"
        deployment = _DEPLOYMENT.search(path)
        if deployment is not None:
            body = {**body, "model": deployment["name"]}
        return super().read(method, _DEPLOYMENT.sub("", path, count=1), {**headers, "authorization": bearer}, body)

    def refuse(self, request: Request, step: Step) -> Answer | None:
        match step:
            case Unauthorized():
                message = "Access denied due to invalid subscription key or wrong API endpoint."
                return 401, {"error": {"code": "401", "message": message}}, {}
            case RateLimited():
                message = "Requests have exceeded the call rate limit of your current pricing tier."
                return 429, {"error": {"code": "429", "message": message}}, wait_headers(step)
            case ModelGone():
                message = "The API deployment for this resource does not exist."
                return 404, {"error": {"code": "DeploymentNotFound", "message": message}}, {}
        return super().refuse(request, step)
