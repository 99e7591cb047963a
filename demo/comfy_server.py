"""A real ComfyUI server in a process of its own, spoken to over HTTP; the tests use it too."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from PIL import Image

PACK_FOLDER = "lags"
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.pyc", "node_modules", "output")


class PromptError(RuntimeError):
    """A prompt was refused, failed or was interrupted; `entry` is what the server said of it."""

    def __init__(self, message: str, entry: dict[str, Any]) -> None:
        super().__init__(message)
        self.entry = entry


class Server:
    """One ComfyUI process on a free port, with a base directory of its own and this pack only.

    Args:
        root: ComfyUI's folder.
        base: where it finds models and packs and writes all that it writes.
        pack: this pack, of which it gets a copy.
        python: an interpreter with ComfyUI's packages.
        flags: more of ComfyUI's flags.
    """

    def __init__(
        self, root: Path, base: Path, pack: Path, python: str, flags: Sequence[str] = ()
    ) -> None:
        self.root, self.base, self.pack, self.python = root, base, pack, python
        self.flags, self.port, self.log = flags, 0, base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_file: IO[bytes] | None = None

    def start(self, timeout: float = 180.0) -> None:
        """Install the pack, start the process and wait until it answers."""
        copy_pack(self.pack, self.base / "custom_nodes" / PACK_FOLDER)
        self.port = _free_port()
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
        self._log_file = self.log.open("wb")
        self._process = subprocess.Popen(  # noqa: S603
            [self.python, *self.script(), *self._flags()],
            cwd=self.base,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
        )
        self._wait_for_answer(timeout)

    def script(self) -> list[str]:
        """What the interpreter is given ahead of ComfyUI's flags."""
        return [str(self.root / "main.py")]

    @property
    def url(self) -> str:
        """Where a browser would look."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the process; what it has written stays until the base directory goes."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
        if self._log_file is not None:
            self._log_file.close()

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """What the server says of every node, or of one."""
        return self._json("/object_info" + (f"/{node}" if node else ""))

    def submit(self, prompt: dict[str, Any]) -> str:
        """Put a workflow in API format into the queue; returns the prompt's id."""
        return json.loads(self._request("/prompt", {"prompt": prompt}))["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 120.0) -> dict[str, Any]:
        """The history entry of a prompt once it has ended, well or not."""
        history = self._poll(f"/history/{prompt_id}", lambda found: prompt_id in found, timeout)
        return history[prompt_id]

    def wait_until_running(self, prompt_id: str, timeout: float = 60.0) -> None:
        """Return once the prompt no longer waits for its turn: it runs, or has already ended."""
        self._poll(
            "/queue",
            lambda queue: all(item[1] != prompt_id for item in queue["queue_pending"]),
            timeout,
        )

    def queue(self, prompt: dict[str, Any], timeout: float = 120.0) -> dict[str, Any]:
        """Run a workflow in API format to its end; its history entry, or a PromptError."""
        entry = self.wait(self.submit(prompt), timeout)
        if entry["status"]["status_str"] != "success":
            raise PromptError(describe_failure(entry), entry)
        return entry

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> Image.Image:
        """One image that a workflow has saved; takes an item of outputs[...]["images"] as **."""
        query = {"filename": filename, "subfolder": subfolder, "type": type}
        image = Image.open(io.BytesIO(self._request("/view?" + urllib.parse.urlencode(query))))
        image.load()
        return image

    def interrupt(self) -> None:
        """Ask the running prompt to stop, as the button in the browser does."""
        self._request("/interrupt", {})

    def pictures(self, entry: dict[str, Any]) -> list[Image.Image]:
        """All images that a prompt has saved, in order; takes its history entry."""
        saved = [output.get("images", []) for output in entry["outputs"].values()]
        return [self.view(**image) for images in saved for image in images]

    def log_tail(self, lines: int = 60) -> str:
        """The end of what the process has printed."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _flags(self) -> list[str]:
        """ComfyUI's flags: no browser, no network, no other pack, nothing outside `base`."""
        return [
            *self.flags,
            *("--listen", "127.0.0.1", "--port", str(self.port)),
            *("--base-directory", str(self.base), "--temp-directory", str(self.base / "server")),
            *("--disable-auto-launch", "--disable-api-nodes"),
            *("--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_FOLDER),
            *("--database-url", "sqlite:///:memory:"),
        ]

    def _wait_for_answer(self, timeout: float) -> None:
        """Ask for /system_stats until it comes, the process dies, or time is up."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                self._request("/system_stats")
            except OSError:
                self._check_alive()
                time.sleep(0.2)
            else:
                return
        failure = self._failure(f"no answer on port {self.port} after {timeout:.0f} s")
        self.stop()
        raise failure

    def _poll(self, path: str, done: Callable[[Any], bool], timeout: float) -> Any:
        """The answer to `path` once done(answer) holds."""
        deadline = time.monotonic() + timeout
        while not done(answer := self._json(path)):
            if time.monotonic() > deadline:
                raise self._failure(f"{path} not ready after {timeout:.0f} s, last: {answer}")
            self._check_alive()
            time.sleep(0.02)
        return answer

    def _check_alive(self) -> None:
        """Raise with the log if the process has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise self._failure(f"the process ended with code {self._process.returncode}")

    def _failure(self, message: str) -> RuntimeError:
        """An error that carries the end of the server's log."""
        return RuntimeError(f"ComfyUI server: {message}\n--- {self.log}\n{self.log_tail()}")

    def _json(self, path: str) -> Any:
        """The JSON answer to a GET."""
        return json.loads(self._request(path))

    def _request(self, path: str, data: dict[str, Any] | None = None) -> bytes:
        """The body of the answer to a GET, or to a POST of `data` as JSON; else an error."""
        status, body = self.answer(path, data)
        if status == 400 and path == "/prompt":
            refused = json.loads(body)
            raise PromptError(f"refused: {json.dumps(refused, indent=1)}", refused)
        if status != 200:
            said = body.decode("utf-8", "replace")
            raise self._failure(f"HTTP status {status} for {path}: {said}")
        return body

    def answer(self, path: str, data: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and body of the answer to a GET, or to a POST of `data` as JSON."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            if data is None:
                connection.request("GET", path)
            else:
                kind = {"Content-Type": "application/json"}
                connection.request("POST", path, json.dumps(data), kind)
            answer = connection.getresponse()
            return answer.status, answer.read()


def describe_failure(entry: dict[str, Any]) -> str:
    """The failed node, its error and its traceback, from a history entry."""
    for kind, message in entry["status"]["messages"]:
        if kind in ("execution_error", "execution_interrupted"):
            node = f"{kind} in node {message.get('node_id')} ({message.get('node_type')})"
            trace = "".join(message.get("traceback", []))
            return f"{node}: {message.get('exception_message', '')}\n{trace}"
    return f"status {entry['status']}"


def copy_pack(pack: Path, target: Path) -> None:
    """Copy the pack as its users get it: git's files, or all but the hidden without git."""
    if target.exists():
        shutil.rmtree(target)
    files = _git_files(pack)
    if files is None:
        shutil.copytree(pack, target, ignore=_LEFT_OUT)
        return
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pack / name, target / name)


def _git_files(pack: Path) -> list[str] | None:
    """Tracked and untracked files that git does not ignore; None where git can't tell."""
    git = shutil.which("git")
    if git is None or not (pack / ".git").exists():
        return None
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=pack, capture_output=True, check=False)  # noqa: S603
    if listed.returncode != 0:
        return None
    names = listed.stdout.decode("utf-8", "surrogateescape").split("\0")
    return [name for name in names if name and (pack / name).is_file()]


def _free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
