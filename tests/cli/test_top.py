"""`hfs-providers top`, in a real terminal and without one."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfs_providers.usage import Store
from tests import warm
from tests.dashboard.made_up import environment, fill
from tests.usage_rows import row, write

DEADLINE = 60.0
TOP = ["-m", "hfs_providers", "top"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A machine with three keys."""
    made = environment(tmp_path, {"groq": 3})
    fill(made, hours=2, a_minute=1)
    # pytest-xdist sets a width for its workers.
    return {**{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}, **made}


def test_without_a_terminal_it_prints_once(env: dict[str, str]) -> None:
    write(Store(env["HFS_USAGE_DB"]), [row(time.time(), model="evil\x1b[2Jmodel")])
    done = subprocess.run([warm.python(), *TOP], env=env, input="", capture_output=True, text=True, check=True)
    assert "groq#1" in done.stdout
    assert "last hour:" in done.stdout
    # What comes from outside does not steer the terminal.
    assert "evil?[2Jmodel" in done.stdout
    assert "\x1b" not in done.stdout


def test_without_keys_or_requests_it_says_what_to_do(tmp_path: Path) -> None:
    env = {**os.environ, **environment(tmp_path, {})}
    done = subprocess.run([warm.python(), *TOP], env=env, input="", capture_output=True, text=True, check=True)
    assert "hfs-providers status" in done.stdout
    assert "hfs-providers ask Hello" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_in_a_terminal_it_goes_on_until_q_is_pressed(env: dict[str, str]) -> None:
    import fcntl
    import pty
    import struct
    import termios

    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = subprocess.Popen([sys.executable, *TOP], env={**env, "TERM": "xterm"}, stdin=end, stdout=end, stderr=end)
    os.close(end)
    shown = b""

    def see(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            assert select.select([terminal], [], [], DEADLINE)[0], f"{text!r} is not in {shown[-3000:]!r}"
            shown += os.read(terminal, 4096)
        shown = shown[shown.index(text) :]

    try:
        see(b"Keys by state")
        see(b"groq#3")
        see(b"q ends")
        os.write(terminal, b"s")
        see(b"Keys by used")
        write(Store(env["HFS_USAGE_DB"]), [row(time.time(), model="a-model-just-asked")])
        see(b"a-model-just-asked")
        os.write(terminal, b"\x1b[A\x1bOPf")
        see(b"Refused requests")
        os.write(terminal, b"q")
        # The screen that was there before is back.
        see(b"\x1b[?1049l")
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
