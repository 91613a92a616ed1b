"""The process as an operator sees it: exit codes, what it prints, how soon it is ready, what memory it takes, how it
stops."""

import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import sluice_process
from sluice_process import BINARY, MODELS, Sluice, free_ports

TINY = str(MODELS / "tiny-mod")


def run(*arguments, timeout=60, environment=None):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})})


class CommandLineTest(unittest.TestCase):

    def test_version_and_help(self):
        self.assertRegex(run("version").stdout, r"\d+\.\d+\.\d+")
        answer = run("serve", "--help")
        self.assertEqual(answer.returncode, 0)
        self.assertIn("--model", answer.stdout)

    def test_wrong_flags_exit_64_and_name_the_nearest(self):
        answer = run("serve", "--modle", TINY)
        self.assertEqual(answer.returncode, 64, answer.stderr)
        self.assertIn("--model", answer.stderr)
        for arguments in (("srve",), ("serve",), ("serve", "--model", TINY, "--port", "70000"),
                          ("serve", "--model", TINY, "--threads", "many"),
                          ("serve", "--model", TINY, "--device", "abacus")):
            answer = run(*arguments)
            self.assertEqual(answer.returncode, 64, f"{arguments}: {answer.stderr}")
            self.assertTrue(answer.stderr.strip())

    def test_a_product_that_the_processor_lacks_is_refused(self):
        """oneDNN has bf16 with AVX-512 only; here it is told that there is none."""
        answer = run("generate", "--model", TINY, "--gemm", "onednn", "--weights", "bf16", "--prompt", "a",
                     environment={"ONEDNN_MAX_CPU_ISA": "AVX2"})
        self.assertEqual(answer.returncode, 64, answer.stderr)
        self.assertRegex(answer.stderr, "oneDNN (has no product of bf16|is not built in)")

    def test_a_distance_that_no_kernel_heeds_is_refused(self):
        for kernels in (("--device", "reference"), ("--gemm", "amx-emulation", "--weights", "int8")):
            answer = run("generate", "--model", TINY, "--prefetch-bytes", "8192", "--prompt", "a", *kernels)
            self.assertEqual(answer.returncode, 64, answer.stderr)
            self.assertIn("do not prefetch; leave it out", answer.stderr)

    def test_environment_and_flag_file(self):
        port, grpc_port, metrics_port = free_ports(3)
        with tempfile.NamedTemporaryFile("w", suffix=".flags") as flags:
            flags.write("--port=1\n--served-model-name=from-file\n")
            flags.flush()
            # precedence: flag > environment > file
            process = subprocess.Popen([BINARY, "serve", "--model", TINY, "--flagfile", flags.name, "--grpc-port",
                                        str(grpc_port), "--metrics-port", str(metrics_port)],
                                       env={**os.environ, "SLUICE_PORT": str(port)}, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            try:
                server = Sluice.__new__(Sluice)
                server.port, server.process, server.started_at = port, process, time.monotonic()
                server.log = lambda: ""
                server.wait_ready()
                self.assertEqual(server.get("/v1/models").json()["data"][0]["id"], "from-file")
            finally:
                process.terminate()
                self.assertEqual(process.wait(30), 0)

    def test_inspect(self):
        spec = json.loads(run("inspect", "--model", TINY, "--json").stdout)
        self.assertIsInstance(spec, dict)
        text = run("inspect", "--model", TINY).stdout
        self.assertRegex(text.lower(), r"skip|capacity")

    def test_generate(self):
        answer = run("generate", "--model", TINY, "--prompt", "Once upon a time", "--max-tokens", "8")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertTrue(answer.stdout.strip())

    def test_generate_samples_as_the_model_says(self):
        def text(*flags):
            answer = run("generate", "--model", TINY, "--prompt", "Once upon a time", "--max-tokens", "32", "--seed", "3", *flags)
            self.assertEqual(answer.returncode, 0, answer.stderr)
            return answer.stdout

        self.assertEqual(text(), text("--temperature", "0.4"))
        self.assertNotEqual(text(), text("--temperature", "0"))
        plain = ("--generation-config", "none")
        self.assertEqual(text(*plain), text(*plain, "--temperature", "0"))
        self.assertNotEqual(text(*plain), text("--temperature", "0"))  # the model's repetition penalty

    def test_the_models_sampling_can_be_switched_off(self):
        fields = {"prompt": "Once upon a time", "max_tokens": 32, "seed": 7}
        with Sluice("--generation-config=none") as server:
            self.assertRegex(server.log(), "sampling +temperature 1 unless")
            self.assertEqual(server.complete(**fields)["choices"], server.complete(**fields, temperature=1, top_p=1, repetition_penalty=1)["choices"])
            self.assertNotEqual(server.complete(**fields)["choices"],
                                server.complete(**fields, temperature=0.4, top_p=0.9, repetition_penalty=1.1)["choices"])
        with Sluice() as server:
            self.assertRegex(server.log(), "sampling +temperature 0.4, top_p 0.9, repetition_penalty 1.1 unless")


class BrokenModelTest(unittest.TestCase):
    """Exit code 65 and one clear line, whatever is wrong with the files."""

    def check(self, damage):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "model"
            shutil.copytree(TINY, model)
            damage(model)
            answer = run("serve", "--model", str(model), "--port", "0", "--grpc-port", "0", "--metrics-port", "0")
            self.assertEqual(answer.returncode, 65, answer.stderr[-1000:])
            self.assertTrue(answer.stderr.strip())
            self.assertNotIn("terminate called", answer.stderr)

    def test_missing_directory(self):
        answer = run("serve", "--model", "/no/such/model", "--port", "0", "--grpc-port", "0", "--metrics-port", "0")
        self.assertEqual(answer.returncode, 65, answer.stderr)

    def test_missing_files(self):
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            with self.subTest(name):
                self.check(lambda model, name=name: (model / name).unlink())

    def test_cut_weights(self):
        for size in (0, 4, 8, 100, 100_000):
            with self.subTest(size):
                self.check(lambda model, size=size: os.truncate(model / "model.safetensors", size))

    def test_wild_header_length(self):
        def damage(model):
            with open(model / "model.safetensors", "r+b") as file:
                file.write((2**63).to_bytes(8, "little"))
        self.check(damage)

    def test_config_that_does_not_fit(self):
        for field, value in (("hidden_size", 191), ("num_hidden_layers", 9), ("vocab_size", 4000),
                             ("num_attention_heads", 0), ("model_type", "no-such-model"), ("hidden_size", 2**40)):
            with self.subTest(field=field, value=value):
                def damage(model, field=field, value=value):
                    config = json.loads((model / "config.json").read_text())
                    config[field] = value
                    (model / "config.json").write_text(json.dumps(config))
                self.check(damage)

    def test_sampling_defaults_that_no_request_could_have(self):
        self.check(lambda model: (model / "generation_config.json").write_text('{"top_p": 0}'))

    def test_config_that_is_not_json(self):
        self.check(lambda model: (model / "config.json").write_text("{"))

    def test_weights_that_are_a_pipe(self):
        def damage(model):
            (model / "model.safetensors").unlink()
            os.mkfifo(model / "model.safetensors")
        self.check(damage)

    def test_a_flipped_bit_with_a_manifest(self):
        manifest = pathlib.Path(TINY) / "manifest.json"
        if not manifest.exists():
            self.skipTest("the shipped model has no manifest.json")

        def damage(model):
            with open(model / "model.safetensors", "r+b") as file:
                file.seek(-1000, os.SEEK_END)
                byte = file.read(1)[0]
                file.seek(-1000, os.SEEK_END)
                file.write(bytes([byte ^ 4]))
        self.check(damage)


class StartTest(unittest.TestCase):

    def test_port_in_use_exits_69_and_names_the_flag(self):
        with Sluice() as first:
            for flag, port in (("--port", first.port), ("--grpc-port", first.grpc_port),
                               ("--metrics-port", first.metrics_port)):
                ports = {"--port": "0", "--grpc-port": "0", "--metrics-port": "0", flag: str(port)}
                answer = run("serve", "--model", TINY, *[part for pair in ports.items() for part in pair])
                self.assertEqual(answer.returncode, 69, f"{flag}: {answer.stderr}")
                self.assertIn(flag, answer.stderr)

    def test_ready_soon(self):
        seconds = []
        for _ in range(3):
            server = Sluice(wait=False)
            with server:
                seconds.append(server.wait_ready())
                self.assertRegex(server.log(), r"ready in [\d.]+ s")
        if not sluice_process.SANITIZED:
            self.assertLess(min(seconds), 2.0, seconds)

    def test_the_start_up_report(self):
        with Sluice() as server:
            log = server.log()
            for word in ("tiny-mod", "weights", "arena", "keys and values", str(server.port), str(server.grpc_port),
                         str(server.metrics_port)):
                self.assertIn(word.lower(), log.lower())
            self.assertRegex(log, r"AMX|AVX|scalar|oneDNN|reference")

    def test_what_the_cache_can_never_hold_is_refused_before_the_stream_opens(self):
        with Sluice("--kv-memory", "400K") as server:
            answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1000, "stream": True})
            self.assertEqual(answer.status, 400)
            error = answer.json()["error"]
            self.assertEqual((error["code"], error["param"]), ("kv_capacity", "max_tokens"))
            # Without a wish the answer may be as long as the cache allows, not as the context does.
            chat = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
            self.assertEqual(chat.status, 200, chat.text)

    def test_masks_that_leave_no_token_are_the_clients_mistake(self):
        with Sluice() as server:
            answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 4, "allowed_token_ids": [0],
                                                     "min_tokens": 2, "stop_token_ids": [0]})
            self.assertEqual(answer.status, 400)
            self.assertEqual(answer.json()["error"]["code"], "no_token_allowed")

    @unittest.skipIf(sluice_process.SANITIZED, "memory is not comparable under a sanitizer")
    def test_peak_memory_is_what_was_printed(self):
        """Peak memory under load within 1.05 x (weights + KV + arena as printed) + 64 MB."""
        with Sluice("--kv-memory", str(64 << 20)) as server:
            def work():
                for _ in range(4):
                    server.complete(prompt="word " * 400, max_tokens=64, ignore_eos=True, logprobs=5)
            threads = [threading.Thread(target=work) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            printed = printed_bytes(server.log())
            peak = server.resident_bytes("VmHWM")
            self.assertLess(peak, 1.05 * printed + (64 << 20), f"peak {peak}, printed {printed}")


def printed_bytes(log):
    """Weights + KV + arena from the memory line of the start-up report."""
    units = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    total = 0.0
    for part in ("weights", "keys and values", "arena"):
        match = re.search(rf"memory .*?\b{part} ([\d.]+) ([KMG]iB|B)\b", log)
        if not match:
            raise AssertionError(f"no {part} in the memory line:\n{log[-2000:]}")
        total += float(match.group(1)) * units[match.group(2)]
    return total


class StopTest(unittest.TestCase):

    def test_a_stream_runs_to_its_end_while_new_requests_get_503(self):
        with Sluice() as server:
            events = server.stream(prompt="Once upon a time", max_tokens=900, ignore_eos=True, temperature=0)
            first = next(events)
            server.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 2
            while server.get("/health/ready").status != 503:
                self.assertLess(time.monotonic(), deadline, "readiness stayed up")
            self.assertEqual(server.get("/health/live").status, 200)
            refused = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})  # 63
            self.assertEqual((refused.status, refused.json()["error"]["code"]), (503, "shutting_down"))
            self.assertIn("retry-after", refused.headers)
            rest = list(events)
            self.assertEqual(rest[-1]["choices"][0]["finish_reason"], "length")
            self.assertTrue(first["choices"])
            self.assertEqual(server.process.wait(10), 0)

    def test_idle_it_stops_at_once(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with Sluice() as server:
                started = time.monotonic()
                self.assertEqual(server.stop(number), 0)
                self.assertLess(time.monotonic() - started, 5 if sluice_process.SANITIZED else 2)

    def test_a_second_signal_does_not_wait(self):
        with Sluice() as server:
            events = server.stream(prompt="Once upon a time", max_tokens=900, ignore_eos=True)
            next(events)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(5)
            self.assertLess(time.monotonic() - started, 2)

    def test_the_drain_timeout_is_kept(self):
        with Sluice("--drain-timeout", "1", "--max-sequences", "1") as server:
            statuses = []
            threads = [threading.Thread(target=lambda: statuses.append(self.long_request(server))) for _ in range(8)]
            for thread in threads:
                thread.start()
            while server.metrics().value("sluice_requests_waiting") < 3:
                time.sleep(0.01)
            started = time.monotonic()
            code = server.stop()
            self.assertLess(time.monotonic() - started, 10 if sluice_process.SANITIZED else 4)
            self.assertEqual(code, 0)
            for thread in threads:
                thread.join()
            self.assertEqual(len(statuses), 8, "everybody was answered")
            self.assertIn((503, "shutting_down"), statuses)
            self.assertLessEqual(set(statuses), {(200, None), (503, "shutting_down")})

    def long_request(self, server):
        answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1000, "ignore_eos": True})
        return answer.status, answer.json().get("error", {}).get("code")

    def test_a_stream_that_outlives_the_drain_ends_with_an_error(self):
        with Sluice("--drain-timeout", "1") as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            body = {"prompt": "a", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": 16}
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.readline()
            server.process.send_signal(signal.SIGTERM)
            events = response.read().decode().strip().split("\n\n")
            if events[-1] != "data: [DONE]":  # a fast machine may have been done in time
                self.assertIn("shutting_down", events[-1])
            self.assertEqual(server.process.wait(20), 0)


if __name__ == "__main__":
    sluice_process.main()
