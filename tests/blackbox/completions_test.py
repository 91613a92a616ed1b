"""What a client of the OpenAI-style API sees when all is well: text, streams, stops, seeds, and the compute summary
of a Mixture-of-Depths model."""

import json

import sluice_process
from sluice_process import BlackBoxTest

PROMPT = "Once upon a time"


class CompletionsTest(BlackBoxTest):
    flags = ("--allow-routing-trace",)

    def text(self, **fields):
        wanted = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, **fields}
        return self.server.complete(**wanted)["choices"][0]["text"]

    def test_shape_of_a_completion(self):
        answer = self.server.complete(prompt=PROMPT, max_tokens=8, temperature=0)
        self.assertEqual(answer["object"], "text_completion")
        self.assertEqual(answer["model"], "tiny-mod")
        self.assertEqual(answer["choices"][0]["index"], 0)
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")
        usage = answer["usage"]
        self.assertEqual(usage["completion_tokens"], 8)
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + 8)
        self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"], 0)

    def test_greedy_is_repeatable(self):
        self.assertEqual(self.text(), self.text())

    def test_a_seed_is_honoured(self):
        first = self.text(temperature=1, seed=7, max_tokens=32)
        self.assertEqual(first, self.text(temperature=1, seed=7, max_tokens=32))
        others = {self.text(temperature=1, seed=seed, max_tokens=32) for seed in range(8, 12)}
        self.assertGreater(len(others | {first}), 1)

    def test_sampling_fields_left_out_are_the_models(self):
        fields = {"prompt": PROMPT, "max_tokens": 32, "seed": 7}
        self.assertEqual(self.server.get("/v1/models").json()["data"][0]["meta"]["sampling_defaults"],
                         {"temperature": 0.4, "top_p": 0.9, "top_k": 0, "min_p": 0, "repetition_penalty": 1.1})
        left_out = self.server.complete(**fields, temperature=None)["choices"][0]["text"]
        self.assertEqual(left_out, self.text(**fields, temperature=0.4, top_p=0.9, repetition_penalty=1.1))
        for other in ({"temperature": 1}, {"top_p": 0.1}, {"repetition_penalty": 1.5}):
            self.assertNotEqual(left_out, self.server.complete(**fields, **{"temperature": None, **other})["choices"][0]["text"])

    def test_a_stream_gives_the_same_text(self):
        events = list(self.server.stream(prompt=PROMPT, max_tokens=16, temperature=0,
                                         stream_options={"include_usage": True}))
        text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
        self.assertEqual(text, self.text())
        self.assertEqual(events[-1]["choices"], [])
        self.assertEqual(events[-1]["usage"]["completion_tokens"], 16)
        finishes = [event["choices"][0]["finish_reason"] for event in events if event["choices"]]
        self.assertEqual(finishes[-1], "length")
        self.assertEqual(set(finishes[:-1]), {None} if len(finishes) > 1 else set())

    def test_a_stop_string_ends_the_text_and_is_not_sent(self):
        whole = self.text(max_tokens=32)
        stop = whole.strip().split(" ")[3]
        answer = self.server.complete(prompt=PROMPT, max_tokens=32, temperature=0, stop=[stop])["choices"][0]
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(answer["text"], whole[:whole.index(stop)])
        streamed = "".join(event["choices"][0]["text"] for event in self.server.stream(
            prompt=PROMPT, max_tokens=32, temperature=0, stop=[stop]) if event["choices"])
        self.assertEqual(streamed, answer["text"])
        kept = self.text(max_tokens=32, stop=[stop], include_stop_str_in_output=True)
        self.assertEqual(kept, answer["text"] + stop)

    def test_lists_of_prompts_and_n(self):
        answer = self.server.complete(prompt=[PROMPT, "The dog"], n=2, max_tokens=4, temperature=0)
        self.assertEqual([choice["index"] for choice in answer["choices"]], [0, 1, 2, 3])
        texts = [choice["text"] for choice in answer["choices"]]
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(texts[2], texts[3])
        self.assertEqual(answer["usage"]["completion_tokens"], 16)

    def test_token_ids_in_and_out(self):
        ids = self.server.post("/tokenize", {"prompt": PROMPT}).json()["tokens"]
        self.assertTrue(ids and all(isinstance(token, int) for token in ids))
        self.assertIn(PROMPT, self.server.post("/detokenize", {"tokens": ids}).json()["prompt"])
        self.assertEqual(self.text(prompt=ids), self.text())
        answer = self.server.complete(prompt=PROMPT, max_tokens=4, temperature=0, return_token_ids=True)
        self.assertEqual(len(answer["choices"][0]["token_ids"]), 4)

    def test_sampling_fields_act(self):
        ids = [300, 301, 302]
        answer = self.server.complete(prompt=PROMPT, max_tokens=8, allowed_token_ids=ids, seed=1, return_token_ids=True)
        self.assertLessEqual(set(answer["choices"][0]["token_ids"]), set(ids))
        biased = self.server.complete(prompt=PROMPT, max_tokens=4, temperature=0, logit_bias={"333": 100},
                                      return_token_ids=True)
        self.assertEqual(biased["choices"][0]["token_ids"], [333] * 4)
        for fields in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 0.9999}):
            self.assertEqual(self.text(temperature=1, seed=3, **fields), self.text(), fields)

    def test_chat(self):
        body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]}],
                "max_completion_tokens": 8, "temperature": 0}
        answer = self.server.post("/v1/chat/completions", body)
        self.assertEqual(answer.status, 200, answer.text)
        message = answer.json()["choices"][0]["message"]
        self.assertEqual(message["role"], "assistant")
        events = list(self.server.stream("/v1/chat/completions", **body))
        self.assertEqual(events[0]["choices"][0]["delta"].get("role"), "assistant")
        self.assertEqual("".join(event["choices"][0]["delta"].get("content") or "" for event in events
                                 if event["choices"]), message["content"])

    def test_special_tokens_in_messages_are_plain_text(self):  # 58
        special = self.server.post("/tokenize", {"prompt": "x", "add_special_tokens": False}).json()["tokens"]
        end = json.loads((sluice_process.MODELS / "tiny-mod/tokenizer.json").read_text())["added_tokens"][0]
        body = {"messages": [{"role": "user", "content": end["content"]}]}
        ids = self.server.post("/tokenize", body).json()["tokens"]
        plain = self.server.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]}).json()["tokens"]
        self.assertEqual(ids.count(end["id"]), plain.count(end["id"]), special)

    def test_other_routes(self):
        self.assertEqual(self.server.get("/v1/models").json()["data"][0]["id"], "tiny-mod")
        for path in ("/health", "/health/live", "/health/ready", "/version", "/tokenizer_info", "/openapi.json"):
            self.assertEqual(self.server.get(path).status, 200, path)
        schema = self.server.get("/openapi.json").json()
        self.assertTrue(schema["openapi"].startswith("3."))
        self.assertIn("/v1/completions", schema["paths"])
        rendered = self.server.post("/apply-template", {"messages": [{"role": "user", "content": "Hi"}]})
        self.assertIn("Hi", rendered.json()["prompt"])

    def test_request_ids_come_back(self):
        body = {"prompt": PROMPT, "max_tokens": 1}
        answer = self.server.post("/v1/completions", body, headers={"X-Request-Id": "my-id-1"})
        self.assertEqual(answer.headers["x-request-id"], "my-id-1")
        self.assertTrue(self.server.post("/v1/completions", body).headers["x-request-id"])

    def test_a_deadline_is_kept(self):
        answer = self.server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True,
                                                      "timeout_ms": 20})
        self.assertEqual(answer.status, 504)
        self.assertEqual((answer.json()["error"]["code"], answer.json()["error"]["param"]),
                         ("deadline_exceeded", "timeout_ms"))

    # ---- sparse computation ----

    def test_a_mod_model_skips(self):
        compute = self.server.complete(prompt=PROMPT, max_tokens=64, temperature=0)["usage"]["compute"]
        self.assertGreater(compute["skipped_ratio_all_layers"], 0.3, compute)
        offered = compute["executed_token_layers"] + compute["skipped_token_layers"]
        self.assertAlmostEqual(compute["skipped_ratio"], compute["skipped_token_layers"] / offered, places=6)
        self.assertAlmostEqual(compute["skipped_ratio_all_layers"], compute["skipped_token_layers"] / (2 * offered),
                               places=6)  # half of its layers are routed
        self.assertLess(compute["flops"], compute["dense_flops"])

    def test_capacity_0_and_1_are_exact(self):
        for capacity, executed in ((0, 0.0), (1, 1.0)):
            answer = self.server.complete(prompt=PROMPT, max_tokens=8, temperature=0, routing={"capacity": capacity})
            compute = answer["usage"]["compute"]
            offered = compute["executed_token_layers"] + compute["skipped_token_layers"]
            self.assertEqual(compute["executed_token_layers"] / offered, executed)
        self.assertAlmostEqual(compute["flops"], compute["dense_flops"], delta=1e-9 * compute["dense_flops"])

    def test_more_capacity_runs_more(self):
        def executed(capacity):
            answer = self.server.complete(prompt=PROMPT, max_tokens=64, temperature=0, ignore_eos=True,
                                          routing={"capacity": capacity})
            compute = answer["usage"]["compute"]
            return compute["executed_token_layers"]
        counts = [executed(capacity) for capacity in (0, 0.1, 0.3, 0.6, 1)]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(len(set(counts)), len(counts))

    def test_a_trace_agrees_with_the_summary(self):
        answer = self.server.complete(prompt=PROMPT, max_tokens=32, temperature=0, ignore_eos=True,
                                      routing={"trace": True})
        trace = answer["routing"]["trace"][0]["tokens"]
        self.assertEqual(len(trace), 32)
        for token in trace:
            self.assertEqual(token["depth"], 4 + len(token["executed_layers"]))
            self.assertLessEqual(set(map(int, token["executed_layers"])), {1, 3, 5, 7})


if __name__ == "__main__":
    sluice_process.main()
