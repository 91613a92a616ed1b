"""A server of any make, started on a free port and stopped on the way out."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import IO

START_LIMIT_S, STOP_LIMIT_S = 600, 60


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (503, 404)
    except OSError:
        return False


class RunningServer:
    """`command` is a list of words in which {port} stands for the port; `log` gets what the server prints."""

    def __init__(self, command: list[str], log: int | IO = subprocess.DEVNULL):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.begin = f"http://127.0.0.1:{port}", time.monotonic()
        self.process = subprocess.Popen([word.replace("{port}", str(port)) for word in command], stdout=log, stderr=log)
        self.ready_seconds = 0.0

    def __enter__(self) -> "RunningServer":
        try:
            while not answers(self.url + "/health") and not answers(self.url + "/health/ready"):
                if self.process.poll() is not None or time.monotonic() - self.begin > START_LIMIT_S:
                    raise SystemExit(f"{self.process.args[0]} does not start, exit status {self.process.poll()}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise
        self.ready_seconds = time.monotonic() - self.begin
        return self

    def __exit__(self, *unused) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
