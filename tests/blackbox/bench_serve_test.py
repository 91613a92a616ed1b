"""`sluice bench serve` against the real server and against servers that do everything wrong."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import xml.etree.ElementTree as ElementTree

import sluice_process
from sluice_process import BINARY, Sluice, free_ports

EVENT = {"choices": [{"text": "a", "finish_reason": None}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 3}}


def command(url, *flags):
    return [BINARY, "bench", "serve", "--url", url, "--prompt-tokens=8", "--output-tokens=3", "--requests=4",
            "--warmup-requests=0", "--json", *flags]


def run(url, *flags, environment=None):
    answer = subprocess.run(command(url, *flags), capture_output=True, text=True, timeout=60,
                            stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    return answer.returncode, answer.stdout, answer.stderr


def sse(*events):
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events).encode()


class Odd(http.server.BaseHTTPRequestHandler):
    """Answers completion `n` by `self.server.answer(n, body, self)`; lists one model."""

    def log_message(self, *unused):
        pass

    def do_GET(self):
        self.reply(200, b'{"data":[{"id":"odd"}]}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number, self.server.count = self.server.count, self.server.count + 1
        self.server.seen.append((dict(self.headers), body))
        self.server.answer(number, body, self)

    def reply(self, status, body, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            self.wfile.flush()


class OddServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *unused):
        pass


@contextlib.contextmanager
def odd_server(answer):
    server = OddServer(("127.0.0.1", 0), Odd)
    server.answer, server.count, server.lock, server.seen = answer, 0, threading.Lock(), []
    server.released = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


GOOD = sse(EVENT, EVENT, EVENT, USAGE, "[DONE]")


def good(number, body, request):
    request.reply(200, GOOD)


def good_first(then):
    """The probe is answered; what comes after it is not."""
    return lambda number, body, request: good(number, body, request) if number == 0 else then(request)


class RealServerTest(sluice_process.BlackBoxTest):
    url = property(lambda self: f"http://127.0.0.1:{self.server.port}")

    def measure(self, *flags):
        code, out, err = run(self.url, *flags)
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def test_closed_loop_counts_what_the_server_generated(self):
        before = self.server.metrics().value("sluice_generated_tokens_total")
        report = self.measure("--concurrency=3", "--requests=7", "--warmup-requests=2", "--output-tokens=6")
        self.assertEqual(report["model"], "tiny-mod")
        self.assertEqual((report["sent"], report["answered"], report["failed"]), (7, 7, 0))
        self.assertEqual(report["output_tokens"], 7 * 6)
        self.assertEqual(report["short_answers"], 0)
        self.assertEqual(report["prompt_tokens_per_request"], 8)
        self.assertEqual(report["most_in_flight"], 3)
        self.assertEqual(report["ttft_ms"]["count"], 7)
        self.assertGreater(report["generator_cpu_seconds"], 0)
        self.assertLessEqual(report["ttft_ms"]["p50"], report["ttft_ms"]["p99"])
        # the probe and the warm-up too, but not in the report
        self.server.wait_idle()
        generated = self.server.metrics().value("sluice_generated_tokens_total") - before
        self.assertEqual(generated, (1 + 2 + 7) * 6)

    def test_open_loop_sends_at_its_times_and_reports_goodput(self):
        report = self.measure("--rate=40", "--requests=20", "--seed=3", "--slo-ttft-ms=1e6", "--slo-itl-ms=1e6")
        self.assertEqual((report["answered"], report["good"]), (20, 20))
        again = self.measure("--rate=40", "--requests=20", "--seed=3", "--slo-ttft-ms=0")
        self.assertEqual((again["answered"], again["good"]), (20, 0))
        # 20 arrivals of this seed take 0.4 s or so at this rate; the load cannot be shorter than its schedule
        self.assertGreater(report["elapsed_seconds"], 0.2)

    def test_the_plot_shows_the_percentiles_of_the_report(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "load.svg")
            report = self.measure("--concurrency=2", f"--plot={path}", "--slo-ttft-ms=1e6")
            self.assertEqual(os.listdir(folder), ["load.svg"])
            plot = ElementTree.fromstring(path.read_bytes())
        name = "{http://www.w3.org/2000/svg}"
        self.assertEqual(plot.find(name + "title").text, f"tiny-mod at {self.url}")
        description = plot.find(name + "desc").text
        self.assertIn("2 clients: 4 sent, 4 answered, 0 failed", description)
        self.assertIn(f"goodput {report['goodput_requests_per_second']:.2f} requests/s: 4 of 4", description)
        shown = re.findall(r"p(\d+) ([\d.]+) ms", description)
        expected = [report[kind][f"p{percent}"] for kind in ("ttft_ms", "itl_ms") for percent in (50, 90, 99)]
        self.assertEqual([int(percent) for percent, _ in shown], [50, 90, 99] * 2)
        for (_, text), value in zip(shown, expected):
            self.assertAlmostEqual(float(text), value, delta=0.006 * max(1, value))
        self.assertEqual(len(list(plot.iter(name + "polyline"))), 2)

    def test_text_prompts_are_cut_to_the_tokens_asked_for(self):
        text = str(sluice_process.ROOT / "README.md")
        report = self.measure("--concurrency=2", f"--text={text}", "--prompt-tokens=100")
        self.assertEqual(report["answered"], 4)
        self.assertGreater(report["prompt_tokens_per_request"], 50)
        self.assertLess(report["prompt_tokens_per_request"], 200)

    def test_refused_prompts_end_with_the_servers_words(self):
        code, _, err = run(self.url, "--concurrency=1", "--prompt-tokens=100000")
        self.assertEqual(code, 69, err)
        self.assertIn("http_status: 400", err)

    def test_ctrl_c_ends_with_the_report_so_far(self):
        process = subprocess.Popen(command(self.url, "--rate=5", "--requests=100000"), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        served = self.server.metrics().value("sluice_generated_tokens_total")
        deadline = time.monotonic() + 30
        while self.server.metrics().value("sluice_generated_tokens_total") < served + 9 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 0, err)
        report = json.loads(out)
        self.assertTrue(report["interrupted"])
        self.assertGreater(report["answered"], 0)
        self.assertLess(report["sent"], 1000)


class KeyTest(unittest.TestCase):

    def test_the_key_comes_from_the_environment_and_is_sent(self):
        with odd_server(good) as (server, url):
            code, out, err = run(url, "--concurrency=1", environment={"SLUICE_API_KEY": "sk-1"})
            self.assertEqual(code, 0, err)
            self.assertNotIn("sk-1", out + err)
            self.assertTrue(all(headers["Authorization"] == "Bearer sk-1" for headers, _ in server.seen))
            self.assertTrue(all(body["ignore_eos"] and body["temperature"] == 0 for _, body in server.seen))
            self.assertEqual(len({json.dumps(body["prompt"]) for _, body in server.seen}), 5)


class BadServerTest(unittest.TestCase):

    def errors(self, then, *flags):
        """The report's errors after a good probe; every request of the load failed."""
        with odd_server(good_first(then)) as (_, url):
            code, out, err = run(url, "--concurrency=2", *flags)
        self.assertEqual(code, 69, err)
        self.assertIn("no request was answered", err)
        report = json.loads(out)
        self.assertEqual((report["sent"], report["answered"], report["failed"]), (4, 0, 4))
        return {kind: (error["count"], error["first_message"]) for kind, error in report["errors"].items()}

    def test_status_500(self):
        errors = self.errors(lambda request: request.reply(500, b'{"error":{"message":"on fire"}}'))
        self.assertEqual(errors, {"http_status": (4, "500: on fire")})

    def test_a_stream_that_is_cut(self):
        cut = self.errors(lambda request: request.reply(200, sse(EVENT), length=5000))
        self.assertEqual(cut, {"disconnected": (4, "the connection ended in the middle of the answer")})
        undone = self.errors(lambda request: request.reply(200, sse(EVENT)))
        self.assertEqual(undone, {"disconnected": (4, "the stream ended without [DONE]")})

    def test_a_server_that_never_answers_or_only_pings(self):
        silent = self.errors(lambda request: request.server.released.wait(30), "--timeout=2s", "--concurrency=4")
        self.assertEqual(list(silent), ["timeout"])

        def ping(request):
            request.send_response(200)
            request.end_headers()
            with contextlib.suppress(OSError):
                while not request.server.released.wait(0.02):
                    request.wfile.write(b": ping\n\n")

        pings = self.errors(ping, "--timeout=2s", "--concurrency=4")
        self.assertEqual(pings["timeout"][0], 4)

    def test_things_that_are_no_stream(self):
        page = self.errors(lambda request: request.reply(200, b"<html>hello</html>\n"))
        self.assertEqual(page, {"malformed": (4, "the answer is not a stream of events")})
        garbage = self.errors(lambda request: request.reply(200, sse("{]")))
        self.assertEqual(list(garbage), ["malformed"])
        error = self.errors(lambda request: request.reply(200, sse(EVENT, {"error": {"message": "lost\x1b"}})))
        self.assertEqual(error, {"server_error": (4, "lost ")})

        def ssh(request):
            request.wfile.write(b"SSH-2.0-x\r\n\r\n")

        self.assertEqual(self.errors(ssh), {"malformed": (4, "the answer is not HTTP")})

    def test_some_failures_leave_the_rest_measured(self):
        def half(number, body, request):
            request.reply(200, GOOD) if number % 2 == 0 else request.reply(503, b"busy")

        with odd_server(half) as (_, url):
            code, out, err = run(url, "--concurrency=1")
        self.assertEqual(code, 0, err)
        report = json.loads(out)
        self.assertEqual((report["answered"], report["failed"]), (2, 2))
        self.assertEqual(report["errors"]["http_status"], {"count": 2, "first_message": "503: busy"})

    def test_a_server_without_ignore_eos_is_measured_and_said(self):
        def strict(number, body, request):
            if "ignore_eos" in body:
                return request.reply(400, b'{"error":{"message":"unknown field"}}')
            request.reply(200, sse(EVENT, USAGE, "[DONE]"))

        with odd_server(strict) as (_, url):
            code, out, err = run(url, "--concurrency=1", "--output-tokens=5", "--no-json")
        self.assertEqual(code, 0, err)
        self.assertIn("note: the server refuses ignore_eos", out)
        self.assertIn("note: 4 answers ended before --output-tokens", out)

    def test_nobody_listens(self):
        (port,) = free_ports(1)
        code, _, err = run(f"http://127.0.0.1:{port}", "--concurrency=1")
        self.assertEqual(code, 69)
        self.assertIn(f"cannot connect to 127.0.0.1:{port}: Connection refused", err)

    def test_a_server_that_goes_away(self):
        def leave(number, body, request):
            if number == 2:
                request.server.socket.shutdown(socket.SHUT_RDWR)  # nobody listens any more
            good(number, body, request)

        with odd_server(leave) as (_, url):
            code, out, err = run(url, "--concurrency=1")
        self.assertEqual(code, 0, err)
        report = json.loads(out)
        self.assertEqual((report["answered"], report["failed"]), (2, 2))
        self.assertEqual(report["errors"]["connect"]["count"], 2)


class BadFlagTest(unittest.TestCase):

    def test_one_clear_line(self):
        url = "--url=http://127.0.0.1:1"
        for flags, expected in (((), "--url is required"), ((url,), "--rate (open loop) and --concurrency"),
                                ((url, "--rate=1", "--concurrency=1"), "--rate (open loop) and --concurrency"),
                                (("--url=https://h", "--rate=1"), "--url: https is not supported"),
                                (("--url=h", "--rate=1"), "--url: expected an address"),
                                ((url, "--rate=1", "--api-key=a b"), "--api-key: expected"),
                                ((url, "--rate=1", "--text=/nonexistent"), "--text: cannot read /nonexistent"),
                                ((url, "--rate=1", "--plot=/nonexistent/a.svg"), "--plot: /nonexistent/a.svg: No such"),
                                ((url, "--rate=1", "--model=x"), "unknown flag --model")):
            answer = subprocess.run([BINARY, "bench", "serve", *flags], capture_output=True, text=True, timeout=30)
            self.assertEqual(answer.returncode, 64, flags)
            self.assertIn(expected, answer.stderr)


if __name__ == "__main__":
    sluice_process.main()
