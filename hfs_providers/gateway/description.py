"""`/openapi.json`: the gateway's description of itself."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse

from hfs_providers import __version__


async def describe(request: Request) -> JSONResponse:
    """The description, in OpenAPI's form."""
    return JSONResponse(_description())


@cache
def _description() -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(__file__).with_name("openapi.json").read_bytes())
    info = found["info"]
    assert isinstance(info, dict)
    info["version"] = __version__
    return found
