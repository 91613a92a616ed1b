#!/usr/bin/env python3
"""Runs every query of the dashboard, of the recording rules and of the alerts against a real Prometheus that scraped a
real server under load. Fails when a query errors, and when one that should have data has none.

    tools/check_dashboard.py [--binary build/release/sluice] [--model models/tiny-mod] [--seconds 25]

Needs the Debian package `prometheus`; exits with 77 (skipped) without it. Panels whose description says "No data
without experts" may be empty for a model that has none, those that say "No data without a GPU" always, and so may alerts:
they are conditions that should not hold.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/blackbox"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.environ.get("SLUICE_BINARY", str(ROOT / "build/release/sluice")))
    parser.add_argument("--model", default=str(ROOT / "models/tiny-mod"))
    parser.add_argument("--seconds", type=float, default=25.0, help="how long the server is under load")
    arguments = parser.parse_args()
    if not shutil.which("prometheus"):
        print("SKIPPED: prometheus is not installed (tools/setup.sh test)")
        return 77
    os.environ["SLUICE_BINARY"] = arguments.binary
    os.environ["SLUICE_MODELS"] = str(pathlib.Path(arguments.model).resolve().parent)
    import sluice_process  # reads the environment when it is imported

    with sluice_process.Sluice(model=pathlib.Path(arguments.model).name) as server, \
            tempfile.TemporaryDirectory() as folder:
        prometheus = Prometheus(pathlib.Path(folder), server.metrics_port, sluice_process.free_ports(1)[0])
        try:
            prometheus.wait_ready()
            generate_load(server, arguments.seconds)
            failures = check_all(prometheus, server)
        finally:
            prometheus.stop()
    for failure in failures:
        print("FAILED", failure)
    return 1 if failures else 0


class Prometheus:
    """The real program with the shipped rules, scraping one target every second."""

    def __init__(self, folder, target_port, port):
        self.url = f"http://127.0.0.1:{port}"
        shipped = (ROOT / "deploy/prometheus.yml").read_text()
        config = re.sub(r"(scrape|evaluation)_interval: \d+s", r"\1_interval: 1s", shipped)
        config = config.replace("server:9100", f"127.0.0.1:{target_port}").replace("localhost:9090", f"127.0.0.1:{port}")
        config = config.replace("- prometheus/rules", f"- {ROOT}/deploy/prometheus/rules")
        (folder / "prometheus.yml").write_text(config)
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=self.log, stderr=subprocess.STDOUT)

    def wait_ready(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=2).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.log.seek(0)
                    raise SystemExit("prometheus did not start:\n" + self.log.read()[-2000:])
                time.sleep(0.1)

    def get(self, path, **parameters):
        """The `data` of an answer; raises ValueError with Prometheus' own words when it is an error."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from None

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def generate_load(server, seconds):
    """Completions, streams, chat, errors and a cancel, from four clients, for a bounded time."""
    deadline = time.monotonic() + seconds

    def client(seed):
        while time.monotonic() < deadline:
            server.complete(prompt="Once upon a time there was " * (1 + seed), max_tokens=24, seed=seed, ignore_eos=True)
            for _ in server.stream(prompt="The dog", max_tokens=16, seed=seed):
                pass
            server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
            server.post("/v1/completions", {"prompt": ""})
            next(server.stream(prompt="The king", max_tokens=200, ignore_eos=True))  # leaves early: a cancel
            time.sleep(0.05)
    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check_all(prometheus, server):
    failures = []
    has_experts = bool(server.metrics().select("sluice_expert_load_max_over_mean"))
    checked = 0
    dashboard = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        description = panel.get("description", "")
        may_be_empty = "No data without a GPU" in description or (
            not has_experts and "No data without experts" in description)
        for target in panel.get("targets", []):
            checked += 1
            failures += check_query(prometheus, f"panel '{panel['title']}'", resolve(target["expr"]), may_be_empty)
    for variable in dashboard["templating"]["list"]:
        checked += 1
        name = re.fullmatch(r"label_values\((\w+), \w+\)", variable["definition"]).group(1)
        may_be_empty = not has_experts and "expert" in name
        failures += check_query(prometheus, f"variable '{variable['name']}'", name, may_be_empty)
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            checked += 1
            if rule["health"] != "ok":
                failures.append(f"rule '{rule['name']}': {rule['health']} {rule.get('lastError', '')}")
            alert = rule["type"] == "alerting"
            failures += check_query(prometheus, f"rule '{rule['name']}'", rule["query"], may_be_empty=alert)
            if alert and rule["state"] == "firing":
                failures.append(f"alert '{rule['name']}' fires on a healthy server")
    failures += [f"target {target['scrapeUrl']}: {target['lastError']}"
                 for target in prometheus.get("targets")["activeTargets"] if target["health"] != "up"]
    print(f"check_dashboard: {checked} queries, {len(failures)} failures")
    return failures


def resolve(expression):
    """What Grafana does to a query before it sends it."""
    return (expression.replace("$__rate_interval", "20s").replace("$instance", ".*").replace("$layer", "1"))


def check_query(prometheus, where, expression, may_be_empty):
    now = time.time()
    try:
        result = prometheus.get("query_range", query=expression, start=now - 15, end=now, step=1)["result"]
    except ValueError as error:
        return [f"{where}: {error}: {expression}"]
    numbers = [value for series in result for _, value in series["values"] if value not in ("NaN", "+Inf", "-Inf")]
    if not numbers and not may_be_empty:
        return [f"{where}: no data: {expression}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
