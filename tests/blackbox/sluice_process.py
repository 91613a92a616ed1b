"""Starts the real binary on free loopback ports, waits until it is ready, looks at it from outside, stops it.

Environment: SLUICE_BINARY (build/release/sluice), SLUICE_MODELS (models/), SLUICE_SANITIZED=1 when the binary
carries a sanitizer, so that limits on time and memory do not apply.
"""

import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BINARY", str(ROOT / "build/release/sluice"))
MODELS = pathlib.Path(os.environ.get("SLUICE_MODELS", str(ROOT / "models")))
SANITIZED = os.environ.get("SLUICE_SANITIZED", "") == "1"
START_LIMIT_S = 60.0
SKIPPED = 77  # ctest's SKIP_RETURN_CODE


def free_ports(count):
    """Ports that nobody listens on now, all different; below the range that outgoing connections take theirs from."""
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class DidNotStart(AssertionError):
    """With the end of the log."""


class Sluice:
    """One running server. Use as a context manager; `port`, `grpc_port` and `metrics_port` are its own."""

    def __init__(self, *flags, model="tiny-mod", wait=True, environment=None):
        self.model = model
        self.port, self.grpc_port, self.metrics_port = free_ports(3)
        self.log_file = tempfile.NamedTemporaryFile("w+", prefix="sluice_", suffix=".log")
        command = [BINARY, "serve", "--model", str(MODELS / model), "--port", str(self.port),
                   "--grpc-port", str(self.grpc_port), "--metrics-port", str(self.metrics_port), *flags]
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log_file,
                                        stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})
        if wait:
            self.wait_ready()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stop()

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return pathlib.Path(self.log_file.name).read_text(errors="replace")

    def wait_ready(self):
        """Seconds from start to the first 200 of /health/ready."""
        while time.monotonic() - self.started_at < START_LIMIT_S:
            if self.process.poll() is not None:
                raise DidNotStart(f"sluice exited with {self.process.returncode}:\n{self.log()[-3000:]}")
            try:
                if self.get("/health/ready").status == 200:
                    return time.monotonic() - self.started_at
            except OSError:
                pass
            time.sleep(0.01)
        raise AssertionError(f"not ready after {START_LIMIT_S} s:\n{self.log()[-3000:]}")

    def stop(self, signal_number=signal.SIGTERM, timeout=40):
        """Sends the signal and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not exit within {timeout} s of signal {signal_number}:\n{self.log()[-3000:]}")

    def request(self, method, path, body=None, headers=None, timeout=60, port=None):
        """One exchange on its own connection; the answer has .status, .headers, .text and .json()."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        try:
            data = body
            sent = dict(headers or {})
            if isinstance(body, (dict, list)):
                data = json.dumps(body)
            if data is not None:
                sent.setdefault("Content-Type", "application/json")
            connection.request(method, path, data, sent)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body, **options):
        return self.request("POST", path, body, **options)

    def complete(self, **fields):
        """A /v1/completions request that must succeed; the parsed answer."""
        answer = self.post("/v1/completions", fields)
        if answer.status != 200:
            raise AssertionError(f"{answer.status}: {answer.text[:500]}")
        return answer.json()

    def stream(self, path="/v1/completions", **fields):
        """Events of a streamed answer, parsed; ends at [DONE], and fails when the stream ends without it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", path, json.dumps({**fields, "stream": True}),
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise AssertionError(f"{response.status}: {response.read(500)}")
            for line in response:
                text = line.decode("utf-8").rstrip("\r\n")
                if text == "data: [DONE]":
                    return
                if text.startswith("data: "):
                    yield json.loads(text[6:])
            raise AssertionError("stream ended without [DONE]")
        finally:
            connection.close()

    def metrics_text(self):
        answer = self.request("GET", "/metrics", port=self.metrics_port)
        if answer.status != 200:
            raise AssertionError(f"/metrics answered {answer.status}")
        return answer.text

    def metrics(self):
        return Metrics(self.metrics_text())

    def used_pages(self):
        return self.metrics().value("sluice_kv_pages", state="used")

    def wait_idle(self, seconds=10):
        """Waits until no request runs and no page is used; the last value seen when it never happens."""
        deadline = time.monotonic() + seconds
        while True:
            metrics = self.metrics()
            busy = (metrics.value("sluice_kv_pages", state="used") + metrics.value("sluice_requests_running")
                    + metrics.value("sluice_requests_waiting"))
            if busy == 0 or time.monotonic() > deadline:
                return busy
            time.sleep(0.05)

    def num_file_descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident_bytes(self, field="VmRSS"):
        """VmRSS: now; VmHWM: the peak."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M).group(1)) * 1024


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.bytes = response.read()

    @property
    def text(self):
        return self.bytes.decode("utf-8")

    def json(self):
        return json.loads(self.bytes)


class Metrics:
    """A parsed Prometheus text exposition."""

    _LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \d+)?$")
    _LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.samples = []
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            match = self._LINE.match(line)
            if not match:
                raise AssertionError(f"not a metrics line: {line!r}")
            labels = dict(self._LABEL.findall(match.group(2) or ""))
            self.samples.append((match.group(1), labels, float(match.group(3))))

    def select(self, name, **labels):
        return [(found, value) for sample, found, value in self.samples
                if sample == name and all(found.get(key) == wanted for key, wanted in labels.items())]

    def value(self, name, **labels):
        """Sum over the series that match; 0 when there are none."""
        return sum(value for _, value in self.select(name, **labels))

    def names(self):
        return {name for name, _, _ in self.samples}


class BlackBoxTest(unittest.TestCase):
    """A test class with one server for all its tests. Afterwards no page may be in use."""

    flags = ()
    model = "tiny-mod"

    @classmethod
    def setUpClass(cls):
        cls.server = Sluice(*cls.flags, model=cls.model)

    @classmethod
    def tearDownClass(cls):
        if cls.server.process.poll() is not None:
            code, log = cls.server.process.returncode, cls.server.log()[-3000:]
            raise AssertionError(f"the server died with {code} during the tests:\n{log}")
        busy = cls.server.wait_idle()
        code = cls.server.stop()
        if busy:
            raise AssertionError(f"{busy} pages or requests left after the tests")
        if code != 0:
            raise AssertionError(f"exit code {code}:\n{cls.server.log()[-3000:]}")


def main():
    """Runs the tests of the calling file; exit code 77 when every one was skipped."""
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    if result.wasSuccessful() and result.testsRun == len(result.skipped):
        sys.exit(SKIPPED)
    sys.exit(0 if result.wasSuccessful() else 1)
