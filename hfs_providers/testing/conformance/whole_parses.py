"""Keeps pytest from crashing because of a bug in Python before 3.11.8, which many failing checks trigger."""

from __future__ import annotations

import ast
import functools
import gc
import sys
import threading
from typing import Any


def keep_parses_whole() -> None:
    """Switch the garbage collector off while source code is parsed. Does nothing on a Python without the bug.

    Python 3.11 counts the depth of a syntax tree in one counter for the whole process, and may collect garbage while it
    builds the tree. If the collection runs code that parses (formatting the traceback of a failed finalizer), or lets
    another thread parse, the count is wrong, and `ast.parse` raises "SystemError: AST constructor recursion depth
    mismatch". pytest parses the source of each frame of a failure, and crashes with that error.
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
