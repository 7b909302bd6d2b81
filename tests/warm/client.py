"""What is run in place of Python: asks the server for a fork that has its streams, and ends as the fork does.

Modules written in C alone are imported: it takes 15 ms in all.
"""

import _signal
import _socket
import array
import marshal
import os
import sys

REAL, SOCKET = "__REAL__", "__SOCKET__"
KNOWN = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def plain() -> bool:
    """Whether a fork is the same: no option, variable or closed stream that an interpreter starts differently with."""
    variables = {name for name in os.environ if name.startswith("PYTHON")}
    program = sys.argv[2:] if sys.argv[1:2] == ["-P"] else sys.argv[1:]
    return variables <= KNOWN and program[:1] in (["-c"], ["-m"]) and None not in (sys.stdin, sys.stdout, sys.stderr)


def ask() -> _socket.socket:
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    server.connect(SOCKET)
    asked = marshal.dumps((sys.argv[1:], dict(os.environ), os.getcwd()))
    streams = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
    server.sendmsg([len(asked).to_bytes(4, "big")], [streams])
    server.sendall(asked)
    return server


def answer(server: _socket.socket) -> int:
    told = server.recv(4)
    if not told:
        sys.exit("the server of the warm interpreters has ended")
    return int.from_bytes(told, "big")


def main() -> None:
    if not plain():
        os.execv(REAL, [REAL, *sys.argv[1:]])
    server = ask()
    pid = answer(server)
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, lambda number, _: os.kill(pid, number))
    os.closerange(0, 3)
    code = os.waitstatus_to_exitcode(answer(server))
    if code < 0:
        if -code != _signal.SIGKILL:
            _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
