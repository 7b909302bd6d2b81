"""The one guarded import of keycycle.

Importing keycycle replaces the handlers of the root logger and opens `app.log` in the working directory (which fails
in a read-only one). Both happen in its module `keycycle.config.log_config`. A module of that name that does nothing is
put in its place first, so logging and the directory stay as they were. Nothing process-wide is patched.

Three of its modules take far longer than all others: the OpenAI adapter imports the openai SDK, the database imports
SQLAlchemy, and the models' limits are parsed from YAML. They are imported when something of theirs is used.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections import UserDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

_LOG_CONFIG = "keycycle.config.log_config"


def _quiet_log_config() -> types.ModuleType:
    module = types.ModuleType(_LOG_CONFIG, "Replaces keycycle's logging set-up, which would change the whole process.")
    module.__dict__["default_logger"] = logging.getLogger(_LOG_CONFIG)
    module.__dict__["configure_logging"] = lambda: None
    return module


def _late_class(module: str, name: str) -> type:
    def make(_: type, *args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    return type(name, (), {"__new__": make})


class _LateDict(UserDict[str, Any]):
    def __init__(self, module: str, name: str) -> None:
        self._home = module, name

    @cached_property
    def data(self) -> dict[str, Any]:  # type: ignore[override]  # an attribute in the base class, set on first use
        module, name = self._home
        found: dict[str, Any] = getattr(importlib.import_module(module), name)
        return found


_LATE: Mapping[str, tuple[Callable[[str, str], object], str]] = {
    "keycycle.adapters.openai_adapter": (_late_class, "RotatingOpenAIClient RotatingAsyncOpenAIClient"),
    "keycycle.config.models": (_LateDict, "MODEL_LIMITS PROVIDER_STRATEGIES"),
    "keycycle.usage.db_logic": (_late_class, "UsageDatabase"),
}
"""The modules that are imported late, each with stand-ins for the names that other modules import from it."""


def _late(module: str) -> types.ModuleType:
    stand_in = types.ModuleType(module, "Stands in for a module of keycycle until something of it is used.")
    make, names = _LATE[module]
    for name in names.split():
        stand_in.__dict__[name] = make(module, name)
    return stand_in


sys.modules.setdefault(_LOG_CONFIG, _quiet_log_config())
_stand_ins = {name: _late(name) for name in _LATE}
for _name, _module in _stand_ins.items():
    sys.modules.setdefault(_name, _module)

# keycycle can be imported only now that the stand-ins are in place.
from keycycle import KeyNotFoundError, MultiProviderWrapper, NoAvailableKeyError  # noqa: E402
from keycycle.config.dataclasses import (  # noqa: E402
    GlobalStats,
    KeyDetailedStats,
    KeySummary,
    ModelAggregatedStats,
    UsageSnapshot,
)

for _name, _module in _stand_ins.items():
    if sys.modules.get(_name) is _module:
        # Code that imports the module itself gets the real one.
        del sys.modules[_name]

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
