"""Keeps pytest from dying of a fault of Python before 3.11.8, which many failing checks bring out."""

from __future__ import annotations

import ast
import functools
import gc
import sys
import threading
from typing import Any


def keep_parses_whole() -> None:
    """Let no garbage be collected while a source is parsed. Does nothing where Python has no need of it.

    Python 3.11 counts the depth of a syntax tree in one place for the whole process, and may collect garbage while it
    makes the tree. If the collection runs code that parses (the traceback of a finalizer that fails is formatted), or
    lets another thread parse, the count is wrong, and `ast.parse` raises "SystemError: AST constructor recursion depth
    mismatch". pytest parses the source of each frame of a failure, and does not survive that error.
    """
    # https://github.com/python/cpython/issues/106905
    if sys.version_info >= (3, 11, 8) or hasattr(ast.parse, "__wrapped__"):
        return
    parse, lock = ast.parse, threading.RLock()

    @functools.wraps(parse)
    def whole(*args: Any, **options: Any) -> Any:
        with lock:
            collects = gc.isenabled()
            gc.disable()
            try:
                return parse(*args, **options)
            finally:
                if collects:
                    gc.enable()

    setattr(ast, "parse", whole)  # noqa: B010  a function of the standard library
