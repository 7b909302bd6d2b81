"""The command line as a whole: help, version, ends."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

import hfs_providers
from hfs_providers.testing import LoopbackServer
from tests import warm

COMMANDS = ("status", "plugins", "models", "ask", "demo", "doctor")


def test_version(cli):
    done = cli("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"hfs-providers {hfs_providers.__version__}")


def test_script_is_installed():
    from importlib.metadata import entry_points

    (point,) = entry_points(group="console_scripts", name="hfs-providers")
    assert point.value == "hfs_providers.cli:main"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command(cli, flag):
    done = cli(flag)
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli, command):
    done = cli(command, "-h")
    assert done.returncode == 0
    assert f"hfs-providers {command}" in done.stdout


@pytest.mark.parametrize("args", [["nonsense"], ["status", "--nonsense"], ["demo", "--calls", "0"], ["ask"]])
def test_wrong_usage_is_exit_code_2(cli, args):
    done = cli(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_library_log_is_shown_only_on_request(cli):
    quiet, verbose = cli("status"), cli("--verbose", "status", "--build")
    assert "hfs_providers" not in quiet.stderr
    assert "WARNING hfs_providers: Missing NUM_GROQ environment variable" in verbose.stderr
    assert "hfs_providers:" not in verbose.stdout


@pytest.mark.parametrize("args", [["status", "--build", "-v"], ["keys", "-v"], ["keys", "groq", "--verbose"]])
def test_the_log_can_be_asked_for_after_the_command(cli, args):
    done = cli(*args, env={"NUM_GROQ": "1", "GROQ_API_KEY_1": "gsk_0123456789abcdef"})
    assert "INFO hfs_providers: Initialized groq with 1 key" in done.stderr


@pytest.mark.parametrize("args", [["usage", "prune"], ["agents", "run"], ["keys", "revive"], ["models"]])
def test_every_command_takes_verbose(cli, args):
    assert "--verbose" in cli(*args, "-h").stdout


BREAKS = "import hfs_providers.core.inventory as i\ndef breaks(*a, **k):\n    {}\ni.take_inventory = breaks\n"


def _main_with(body: str, bare_env: dict[str, str], tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    program = BREAKS.format(body) + "from hfs_providers.cli import main\nmain()"
    return subprocess.run(
        [warm.python(), "-c", program, "status"],
        env={**bare_env, **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_unexpected_error_is_one_line(bare_env, tmp_path):
    done = _main_with("raise RuntimeError('the disk is\\n upside down')", bare_env, tmp_path)
    assert done.returncode == 1
    assert done.stderr == "Error: RuntimeError: the disk is upside down (HFS_DEBUG=1 shows the traceback)\n"


def test_debug_shows_the_traceback_without_locals(bare_env, tmp_path):
    done = _main_with("secret = 'hunter' + '2'; raise RuntimeError('oh')", bare_env, tmp_path, HFS_DEBUG="1")
    assert "Traceback" in done.stderr
    assert "hunter2" not in done.stderr


def test_interrupt_is_exit_code_130(bare_env, tmp_path):
    done = _main_with("raise KeyboardInterrupt", bare_env, tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_termination_runs_the_exit_handlers(bare_env, tmp_path):
    body = "import atexit, os, signal; atexit.register(print, 'flushed'); os.kill(os.getpid(), signal.SIGTERM)"
    done = _main_with(body, bare_env, tmp_path)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "flushed\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows closes no stream so")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error_of_ours(bare_env, tmp_path, closed):
    command = f"{warm.python()} -m hfs_providers --version {closed}"
    done = subprocess.run(["sh", "-c", command], env=bare_env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
@pytest.mark.parametrize("args", [["status"], ["status", "--json"], ["plugins", "--json"], ["--version"]])
def test_reader_that_goes_away_causes_no_complaint(bare_env, tmp_path, args):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [warm.python(), "-m", "hfs_providers", *args],
        env=bare_env,
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_interrupt_of_a_call_that_hangs_is_exit_code_130(bare_env, tmp_path, stream):
    with LoopbackServer() as server, server.hold() as gate:
        # Agno turns the interrupt into a run with status cancelled.
        process = subprocess.Popen(
            [warm.python(), "-m", "hfs_providers", "ask", "hi", "-p", "groq", *stream],
            env={**bare_env, **server.env({"groq": 1})},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert gate.wait_for(1, timeout=60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_interrupt_of_the_demo_is_exit_code_130(bare_env, tmp_path):
    process = subprocess.Popen(
        [warm.python(), "-m", "hfs_providers", "demo", "--calls", "2000"],
        env=bare_env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "cools down" not in process.stdout.readline():
        assert process.poll() is None
    for patience in (10, 10, 60):
        # pydantic-core 2 takes an interrupt in one of its lookups of attributes for "no such attribute", and goes on:
        # whoever pressed Ctrl-C presses it again.
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            _, err = process.communicate(timeout=patience)
            break
    assert process.returncode == 130
    assert "Traceback" not in err
