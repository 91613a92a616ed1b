"""What Prometheus scrapes: valid for promtool, equal to a brute-force count, and bounded whatever clients send."""

import random
import shutil
import string
import subprocess

import sluice_process
from sluice_process import BlackBoxTest

NUM_ROUTED = 4  # layers 1, 3, 5, 7 of tiny-mod
NUM_LAYERS = 8

# Every name of the interface that a Mixture-of-Depths model exports from the first scrape on.
EXPECTED = """
sluice_token_layers_total sluice_skipped_token_ratio sluice_token_depth_bucket sluice_router_capacity
sluice_flops_total sluice_weight_bytes_read_total sluice_kv_pages sluice_kv_bytes_saved sluice_requests_total
sluice_requests_running sluice_requests_waiting sluice_requests_paused
sluice_time_to_first_token_seconds_bucket sluice_inter_token_latency_seconds_bucket
sluice_request_latency_seconds_bucket sluice_queue_seconds_bucket sluice_step_seconds_bucket
sluice_prompt_tokens_total sluice_generated_tokens_total sluice_cached_prompt_tokens_total
sluice_draft_tokens_total sluice_preemptions_total sluice_cancellations_total sluice_degraded_requests_total
sluice_log_lines_dropped_total
sluice_invariant_violations_total sluice_build_info sluice_model_info
""".split()


class MetricsTest(BlackBoxTest):
    flags = ("--allow-routing-trace", "--metrics-compat=vllm")

    def test_promtool_finds_nothing(self):
        if not shutil.which("promtool"):
            self.skipTest("promtool is not installed (Debian package prometheus)")
        self.server.complete(prompt="Once", max_tokens=4)
        text = self.server.metrics_text()
        ours = "".join(line + "\n" for line in text.splitlines() if "vllm:" not in line)
        checked = subprocess.run(["promtool", "check", "metrics"], input=ours, text=True, capture_output=True)
        self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, ""))

    def test_every_promised_name_is_there(self):
        self.server.complete(prompt="Once", max_tokens=4)
        names = self.server.metrics().names()
        self.assertEqual([name for name in EXPECTED if name not in names], [])
        for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc",
                     "vllm:time_to_first_token_seconds_bucket"):
            self.assertIn(name, names)

    def test_counts_equal_a_brute_force_count(self):
        """Three counts of the same work must agree exactly: the counters, the sum over the answers' usage.compute,
        and rows x layers worked out from the token counts and, for generated tokens, from the traces."""
        before = self.server.metrics()
        rows = executed = skipped = prompt_tokens = generated = 0
        flops = dense_flops = 0.0
        for index in range(12):
            answer = self.server.complete(prompt="The little dog ran " * (1 + index % 4), max_tokens=5 + index, seed=index,
                                          ignore_eos=True, routing={"trace": True})
            usage = answer["usage"]
            compute = usage["compute"]
            # The last generated token is never fed back, so it is no row.
            request_rows = usage["prompt_tokens"] + usage["completion_tokens"] - 1
            self.assertEqual(compute["executed_token_layers"] + compute["skipped_token_layers"],
                             request_rows * NUM_ROUTED)
            rows += request_rows
            executed += compute["executed_token_layers"]
            skipped += compute["skipped_token_layers"]
            flops += compute["flops"]
            dense_flops += compute["dense_flops"]
            prompt_tokens += usage["prompt_tokens"]
            generated += usage["completion_tokens"]
        after = self.server.metrics()

        def grown(name, **labels):
            return after.value(name, **labels) - before.value(name, **labels)
        self.assertEqual(grown("sluice_token_layers_total", outcome="executed"), executed)
        self.assertEqual(grown("sluice_token_layers_total", outcome="skipped"), skipped)
        for layer in ("1", "3", "5", "7"):
            self.assertEqual(grown("sluice_token_layers_total", layer=layer), rows, layer)
        self.assertEqual(grown("sluice_token_depth_count"), rows)
        self.assertEqual(grown("sluice_token_depth_sum"), executed + rows * (NUM_LAYERS - NUM_ROUTED))
        self.assertEqual(grown("sluice_prompt_tokens_total"), prompt_tokens)
        self.assertEqual(grown("sluice_generated_tokens_total"), generated)
        self.assertAlmostEqual(grown("sluice_flops_total", kind="executed") / flops, 1, places=6)
        self.assertAlmostEqual(grown("sluice_flops_total", kind="dense_equivalent") / dense_flops, 1, places=6)
        self.assertEqual(grown("sluice_request_latency_seconds_count"), 12)
        self.assertEqual(grown("sluice_time_to_first_token_seconds_count"), 12)

    def test_one_token_at_a_time_the_trace_gives_the_counters(self):
        """A generated token's trace is the work of the row that produced it: with a prompt of one token, the traces of
        all tokens are all rows."""
        before = self.server.metrics()
        answer = self.server.complete(prompt=[5], max_tokens=40, temperature=0, ignore_eos=True, routing={"trace": True})
        after = self.server.metrics()
        trace = answer["routing"]["trace"][0]["tokens"]
        for layer in (1, 3, 5, 7):
            taken = sum(layer in map(int, token["executed_layers"]) for token in trace)
            counted = (after.value("sluice_token_layers_total", layer=str(layer), outcome="executed")
                       - before.value("sluice_token_layers_total", layer=str(layer), outcome="executed"))
            self.assertEqual(counted, taken, f"layer {layer}")

    def test_gauges(self):
        self.server.complete(prompt="Once upon a time", max_tokens=64, ignore_eos=True)
        metrics = self.server.metrics()
        ratio = metrics.value("sluice_skipped_token_ratio", layer="all")
        self.assertTrue(0.5 < ratio < 1, ratio)
        for layer in ("1", "3", "5", "7"):
            self.assertAlmostEqual(metrics.value("sluice_router_capacity", layer=layer), 0.125)
        self.assertGreater(metrics.value("sluice_kv_pages", state="free"), 0)
        self.assertEqual(metrics.value("sluice_invariant_violations_total"), 0)

    def test_codes_are_counted(self):
        before = self.server.metrics()
        self.server.post("/v1/completions", {"prompt": ""})
        after = self.server.metrics()
        labels = {"api": "completions", "code": "INVALID_ARGUMENT"}
        self.assertEqual(after.value("sluice_requests_total", **labels)
                         - before.value("sluice_requests_total", **labels), 1)

    def test_series_are_bounded(self):
        generator = random.Random(1)

        def word():
            return "".join(generator.choices(string.ascii_letters, k=12))
        names_before = len(self.server.metrics().samples)
        for _ in range(300):
            self.server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "model": word(), "user": word(),
                                                 word(): word()})
            self.server.get("/" + word())
        samples = self.server.metrics().samples
        self.assertLessEqual(len(samples), 2000)
        self.assertLessEqual(len(samples) - names_before, 20)  # only codes not seen before

    def test_the_routing_page(self):
        answer = self.server.get("/v1/routing")
        self.assertIn(answer.status, (200, 503), answer.text)
        self.assertIsInstance(answer.json(), dict)

    def test_metrics_on_the_api_port_too(self):
        self.assertEqual(self.server.get("/metrics").status, 200)


if __name__ == "__main__":
    sluice_process.main()
