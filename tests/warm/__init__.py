"""A Python that starts with what takes long to import: a fork of a process that has imported it.

`python()` is the path of a program to run in place of `sys.executable`. It has arguments, environment, working
directory, streams, signals and exit code as any other, and another process id than the one that its parent sees;
by its `sys.executable` it starts others of its kind. It is no use where a test is about what is imported, or about
what comes first on the path: there it is `sys.executable` that has to be run.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


@cache
def python() -> str:
    """The program. Starts the process that is forked, which ends with this one."""
    if sys.platform != "linux":
        return sys.executable
    here = Path(__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, socket = folder / "python", folder / "socket"
    source = (here / "client.py").read_text().replace("__REAL__", sys.executable).replace("__SOCKET__", str(socket))
    program.write_text(f"#!{sys.executable} -IS\n{source}")
    program.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, "-P", here / "server.py", socket, program],
        env={name: value for name, value in os.environ.items() if not name.startswith("HFS_")},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(server.stdin.close)
    return str(program)
