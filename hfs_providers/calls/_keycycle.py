"""The one guarded import of keycycle.

Importing keycycle replaces the handlers of the root logger and opens `app.log` in the working directory (which fails
in a read-only one). Both happen in its module `keycycle.config.log_config`. A module of that name that does nothing is
put in its place first, so logging and the directory stay as they were. Nothing process-wide is patched.

keycycle's OpenAI adapter imports the openai SDK, which takes as long again as keycycle itself. It is imported when it
is used.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import types
from typing import Any

_LOG_CONFIG = "keycycle.config.log_config"
_ADAPTER = "keycycle.adapters.openai_adapter"


def _quiet_log_config() -> types.ModuleType:
    module = types.ModuleType(_LOG_CONFIG, "Stands in for keycycle's logging set-up, which would be process-wide.")
    module.__dict__["default_logger"] = logging.getLogger(_LOG_CONFIG)
    module.__dict__["configure_logging"] = lambda: None
    module.__dict__["LOGGING_CONFIG"] = {}
    return module


def _late_adapter() -> types.ModuleType:
    module = types.ModuleType(_ADAPTER, "Stands in for keycycle's OpenAI adapter until one of its clients is made.")
    for name in ("RotatingOpenAIClient", "RotatingAsyncOpenAIClient"):
        module.__dict__[name] = functools.partial(_make, name)
    return module


def _make(name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(importlib.import_module(_ADAPTER), name)(*args, **kwargs)


sys.modules.setdefault(_LOG_CONFIG, _quiet_log_config())
_adapter = _late_adapter()
sys.modules.setdefault(_ADAPTER, _adapter)

# The stand-ins must be there first.
from keycycle import KeyNotFoundError, MultiProviderWrapper, NoAvailableKeyError  # noqa: E402
from keycycle.config.dataclasses import (  # noqa: E402
    GlobalStats,
    KeyDetailedStats,
    KeySummary,
    ModelAggregatedStats,
    UsageSnapshot,
)

if sys.modules.get(_ADAPTER) is _adapter:
    # Whoever asks for the module itself gets the real one.
    del sys.modules[_ADAPTER]

__all__ = [
    "GlobalStats",
    "KeyDetailedStats",
    "KeyNotFoundError",
    "KeySummary",
    "ModelAggregatedStats",
    "MultiProviderWrapper",
    "NoAvailableKeyError",
    "UsageSnapshot",
]
