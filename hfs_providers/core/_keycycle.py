"""The one guarded import of keycycle.

Importing keycycle replaces the handlers of the root logger and opens `app.log` in the working directory (which fails
in a read-only one). Both happen in its module `keycycle.config.log_config`. An inert module of that name, put in its
place beforehand, leaves logging and the directory as they were; nothing process-wide is patched.
"""

from __future__ import annotations

import logging
import sys
import types

_LOG_CONFIG = "keycycle.config.log_config"


def _quiet_log_config() -> types.ModuleType:
    module = types.ModuleType(_LOG_CONFIG, "Stands in for keycycle's logging set-up, which would be process-wide.")
    module.__dict__["default_logger"] = logging.getLogger(_LOG_CONFIG)
    module.__dict__["configure_logging"] = lambda: None
    module.__dict__["LOGGING_CONFIG"] = {}
    return module


sys.modules.setdefault(_LOG_CONFIG, _quiet_log_config())

from keycycle import MultiProviderWrapper, NoAvailableKeyError  # noqa: E402  the stand-in must be there first

__all__ = ["MultiProviderWrapper", "NoAvailableKeyError"]
