"""Run a script as usual, but keep it off the network, and write down what it does to the machine.

Usage: python watch.py REPORT PACK_FOLDER SCRIPT [its arguments]

REPORT gets a line of JSON for every file that is written, folder that is changed, address that is
looked up or connected to, process that is started and object that is unpickled: `kind`, `what`,
and `ours`, whether a file below PACK_FOLDER is among the callers. All but this machine's own
addresses are refused. sys.audit("lags.mark", "a word") in the script writes a line of its own.

Python's audit hooks see what Python does; a compiled library that opens files by itself is not
seen, so tests look into the folders, too.
"""

from __future__ import annotations

import ipaddress
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
CHANGES |= {"os.chmod", "os.utime", "sqlite3.connect"}
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
TALKS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"}
PROCESSES = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"}


class Refused(OSError):
    """The test does not let this process reach another machine."""


def written(event: str, args: tuple[Any, ...]) -> list[str]:
    """The paths that an event writes to or changes."""
    if event == "open":
        path, _, flags = args
        return [as_path(path)] if flags & WRITING and not isinstance(path, int) else []
    if event in CHANGES:
        two = event in ("os.rename", "os.link", "os.symlink")
        return [as_path(path) for path in args[: 2 if two else 1] if not isinstance(path, int)]
    return []


def as_path(path: Any) -> str:
    """A path as a string, absolute; SQLite's name for a database in memory stays as it is."""
    name = os.fsdecode(path)
    return name if ":memory:" in name else os.path.abspath(name)


def foreign_host(event: str, args: tuple[Any, ...]) -> str | None:
    """The other machine that an event wants to reach; None where there is none."""
    if event in LOOKUPS:
        host = args[0]
    elif event in TALKS:
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # else a socket that is a file
    else:
        return None
    host = os.fsdecode(host) if host is not None else None
    if host in (None, "", "localhost"):
        return None
    try:
        return None if ipaddress.ip_address(host).is_loopback else host
    except ValueError:
        return host


def called_from(folder: str) -> bool:
    """Whether a file of this folder is among the callers."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(folder):
            return True
        frame = frame.f_back
    return False


def watch(report: Path, pack: Path) -> None:
    """Install the hook: it stays until the process ends."""
    target = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    folder = f"{pack}{os.sep}"

    def say(kind: str, what: str) -> None:
        line = {"kind": kind, "what": what, "ours": called_from(folder)}
        os.write(target, (json.dumps(line) + "\n").encode())

    def hook(event: str, args: tuple[Any, ...]) -> None:
        for path in written(event, args):
            say("write", path)
        if event == "lags.mark":
            say("mark", args[0])
        elif event in PROCESSES:
            say("process", f"{event} {args[0] if args else ''}")
        elif event == "pickle.find_class":
            say("unpickle", ".".join(args))
        elif (host := foreign_host(event, args)) is not None:
            say("network", host)
            raise Refused(f"{event} {host}: refused by the test")

    sys.addaudithook(hook)


def main(report: str, pack: str, script: str, arguments: list[str]) -> None:
    """Watch from here on, then run the script with its own folder first on sys.path."""
    watch(Path(report), Path(pack))
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4:])
