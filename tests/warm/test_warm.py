"""A warm interpreter does what one of its own does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import warm

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="warm interpreters are forked, and found by their pidfd"
)

SHOWS = """
import json, os, sys
shown = [sys.argv, sys.path, dict(os.environ), os.getcwd(), sys.stdin.read(), __name__]
for name in ("stdin", "stdout", "stderr"):
    stream = getattr(sys, name)
    shown.append([stream.encoding, stream.errors, stream.line_buffering, stream.write_through, stream.isatty()])
print(json.dumps(shown))
"""
ENDS = {
    "an exit code": "import sys; sys.exit(3)",
    "a text": "import sys; sys.exit('no disk left')",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "a signal that none catches": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "an interrupt": "raise KeyboardInterrupt",
    "at once": "import os; os._exit(7)",
    "exit handlers": "import atexit; atexit.register(print, 'at the end')",
    "a thread": "import threading; threading.Timer(0.01, print, ['later']).start()",
    "an object left": "class Left:\n    def __del__(self): print('left')\nit = Left()",
    "standard output closed": "import os; os.close(1); print('unsaid')",
}


def both(arguments: Sequence[str], **options: Any) -> list[tuple[int, str, str]]:
    """How it ends, and what it prints, on a Python of its own and on a warm one."""
    done = [
        subprocess.run([python, *arguments], capture_output=True, text=True, timeout=60, **options)
        for python in (sys.executable, warm.python())
    ]
    return [(each.returncode, each.stdout, each.stderr) for each in done]


@pytest.mark.parametrize("env", [{}, {"PYTHONPATH": "/nowhere:/else"}, {"PYTHONUNBUFFERED": "1"}], ids=str)
@pytest.mark.parametrize(
    "options", [["-c", SHOWS], ["-P", "-c", SHOWS], ["-m", "shows"]], ids=lambda options: options[0]
)
def test_it_starts_alike(tmp_path: Path, options: list[str], env: Mapping[str, str]) -> None:
    (tmp_path / "shows.py").write_text(SHOWS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    own, warmed = both([*options, "one", "two words"], env={**kept, **env}, cwd=tmp_path, input="given")
    assert (own[0], own[2], json.loads(own[1])) == (warmed[0], warmed[2], json.loads(warmed[1]))


@pytest.mark.parametrize("program", ENDS.values(), ids=ENDS)
def test_it_ends_alike(program: str) -> None:
    own, warmed = both(["-c", program])
    assert own[:2] == warmed[:2]
    # Its traceback has more lines.
    assert own[2].splitlines()[-1:] == warmed[2].splitlines()[-1:]


def test_it_has_imported_what_takes_long() -> None:
    own, warmed = both(["-c", "import sys; print('agno' in sys.modules)"])
    assert (own[1], warmed[1]) == ("False\n", "True\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_reaches_it(number: signal.Signals) -> None:
    # A signal that comes just before a sleep begins is noticed only after it.
    program = "import os, time; print(os.getpid(), flush=True); [time.sleep(0.1) for _ in range(600)]"
    process = subprocess.Popen(
        [warm.python(), "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(60) == -number
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_it_starts_is_warm() -> None:
    inner = "import sys; print('agno' in sys.modules)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    done = subprocess.run([warm.python(), "-c", outer], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n"
