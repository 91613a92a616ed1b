"""Keys, TLS and addresses. Every route asks for a key except the few that are public by design."""

import hashlib
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import unittest
import urllib.request

import sluice_process
from sluice_process import BlackBoxTest, Sluice

KEY, OTHER_KEY = "sk-test-0123456789", "sk-other-9876543210"
PUBLIC = ("/health", "/health/live", "/health/ready", "/")


def key_line(name, key, models="*"):
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}:{models}:*\n"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


class KeysTest(BlackBoxTest):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.key_file = os.path.join(cls.folder.name, "keys")
        with open(cls.key_file, "w") as file:
            file.write(key_line("first", KEY) + key_line("narrow", OTHER_KEY, "another-model"))
        cls.flags = ("--api-key-file", cls.key_file)
        super().setUpClass()

    def test_every_route_asks_for_a_key(self):
        routes = set(self.server.get("/openapi.json", headers=bearer(KEY)).json()["paths"])
        routes |= {"/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/metrics", "/v1/routing",
                   "/openapi.json", "/no/such/path"}
        for route in sorted(routes - set(PUBLIC)):
            for method in ("GET", "POST"):
                answer = self.server.request(method, route, "{}" if method == "POST" else None)
                self.assertEqual(answer.status, 401, f"{method} {route}: {answer.text[:200]}")
                self.assertIn("www-authenticate", answer.headers)
                error = answer.json()["error"]
                self.assertEqual((error["type"], error["code"]), ("authentication_error", "invalid_api_key"))

    def test_probes_need_none(self):
        for route in PUBLIC[:3]:
            self.assertEqual(self.server.get(route).status, 200, route)
        self.assertNotEqual(self.server.get("/").status, 401)
        self.assertEqual(self.server.request("GET", "/metrics", port=self.server.metrics_port).status, 200)

    def test_right_and_wrong_keys(self):
        good = {"prompt": "a", "max_tokens": 1}
        self.assertEqual(self.server.post("/v1/completions", good, headers=bearer(KEY)).status, 200)
        for wrong in ("", "x", KEY[:-1], KEY + "x", KEY.upper(), "Bearer " + KEY):  # 24
            self.assertEqual(self.server.post("/v1/completions", good, headers=bearer(wrong)).status, 401, wrong)
        answer = self.server.post("/v1/completions", good, headers=bearer(OTHER_KEY))  # 25
        self.assertEqual((answer.status, answer.json()["error"]["code"]), (403, "model_not_allowed"))

    def test_a_hangup_reloads_the_keys(self):
        with open(self.key_file, "a") as file:
            file.write(key_line("second", "sk-second"))
        self.server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while self.server.get("/v1/models", headers=bearer("sk-second")).status != 200:
            self.assertLess(time.monotonic(), deadline, "the new key never worked")
            time.sleep(0.02)
        self.assertEqual(self.server.get("/v1/models", headers=bearer(KEY)).status, 200)

    def test_keys_stay_out_of_logs_and_metrics(self):
        self.server.get("/v1/models", headers=bearer("sk-wrong-key-canary"))
        for secret in (KEY, OTHER_KEY, "sk-wrong-key-canary"):
            self.assertNotIn(secret, self.server.log())
            self.assertNotIn(secret, self.server.metrics_text())


class AddressesTest(unittest.TestCase):

    def test_other_addresses_need_keys(self):
        server = Sluice("--host", "0.0.0.0", wait=False)
        self.assertEqual(server.process.wait(20), 64, server.log())
        with Sluice("--host", "0.0.0.0", "--allow-no-auth") as server:
            self.assertEqual(server.get("/v1/models").status, 200)


@unittest.skipUnless(shutil.which("openssl"), "openssl is not installed")
class TlsTest(unittest.TestCase):

    def test_https(self):
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = f"{folder}/cert.pem", f"{folder}/key.pem"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out",
                            certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
                           check=True, capture_output=True)
            server = Sluice("--tls-cert", certificate, "--tls-key", key, wait=False)
            try:
                context = ssl.create_default_context(cafile=certificate)
                deadline = time.monotonic() + sluice_process.START_LIMIT_S
                while True:
                    try:
                        url = f"https://127.0.0.1:{server.port}/health/ready"
                        with urllib.request.urlopen(url, context=context, timeout=5) as answer:
                            self.assertEqual(answer.status, 200)
                        break
                    except OSError:
                        self.assertIsNone(server.process.poll(), server.log())
                        self.assertLess(time.monotonic(), deadline, server.log())
                        time.sleep(0.05)
                old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
                old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
                with self.assertRaises(OSError):
                    urllib.request.urlopen(url, context=old, timeout=5)
                with self.assertRaises(OSError):
                    server.get("/health/ready")  # plain HTTP on the TLS port
            finally:
                self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    sluice_process.main()
