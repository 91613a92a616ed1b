"""Requests as evaluation harnesses and load generators send them: token-id lists of unequal lengths with echo,
one token and log-probabilities; usage in a chunk of its own; fields set to null."""

import math

import sluice_process
from sluice_process import BlackBoxTest

TEXTS = ["Once upon a time there was a little girl.", "The", "A dog ran over the hill and into the wood.",
         "Yes, said he."]


class EvaluationRequestsTest(BlackBoxTest):

    def tokenize(self, text):
        return self.server.post("/tokenize", {"prompt": text}).json()["tokens"]

    def score(self, prompts, **fields):
        return self.server.complete(prompt=prompts, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234,
                                    **fields)["choices"]

    def test_loglikelihoods(self):
        prompts = [self.tokenize(text) for text in TEXTS]
        self.assertGreater(len(set(map(len, prompts))), 2)
        for prompt, choice in zip(prompts, self.score(prompts)):
            logprobs = choice["logprobs"]
            values, tops = logprobs["token_logprobs"], logprobs["top_logprobs"]
            self.assertEqual(len(values), len(prompt) + 1)  # the prompt's tokens, then the generated one
            self.assertEqual((len(tops), len(logprobs["tokens"])), (len(values), len(values)))
            self.assertIsNone(values[0])
            for value, top in zip(values[1:], tops[1:]):
                self.assertTrue(-100 < value <= 0)
                self.assertGreaterEqual(max(top.values()), value)
            # Greedy: the generated token is the best one, and both numbers are the same float.
            self.assertEqual(values[-1], max(tops[-1].values()))

    def test_a_continuation_is_scored_alike_in_any_list(self):
        prompts = [self.tokenize(text) for text in TEXTS]
        together = self.score(prompts)
        for prompt, choice in zip(prompts, together):
            alone = self.score([prompt])[0]
            self.assertEqual(alone["logprobs"]["token_logprobs"], choice["logprobs"]["token_logprobs"])

    def test_scores_are_those_of_generation(self):
        """Feeding a greedy text back must score each of its tokens exactly as when it was generated."""
        ids = self.tokenize(TEXTS[0])
        made = self.server.complete(prompt=ids, max_tokens=12, temperature=0, logprobs=1, return_token_ids=True,
                                    ignore_eos=True)["choices"][0]
        scored = self.score([ids + made["token_ids"]])[0]["logprobs"]["token_logprobs"]
        self.assertEqual(scored[len(ids):-1], made["logprobs"]["token_logprobs"])

    def test_echo_without_generation(self):
        ids = self.tokenize(TEXTS[2])
        choice = self.server.complete(prompt=ids, max_tokens=0, logprobs=0, echo=True)["choices"][0]
        self.assertEqual(len(choice["logprobs"]["token_logprobs"]), len(ids))
        self.assertEqual(choice["text"].strip(), TEXTS[2])

    def test_probabilities_sum_to_at_most_one(self):
        choice = self.server.complete(prompt=TEXTS[0], max_tokens=4, logprobs=20, temperature=0)["choices"][0]
        for top in choice["logprobs"]["top_logprobs"]:
            self.assertLessEqual(sum(math.exp(value) for value in top.values()), 1 + 1e-5)

    def test_a_load_generator(self):
        """Usage only in a chunk with empty choices; a list of parts as content; null and neutral fields."""
        events = list(self.server.stream(
            "/v1/chat/completions", model="tiny-mod",
            messages=[{"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]}],
            max_completion_tokens=8, repetition_penalty=1.0, logprobs=None, temperature=0.0,
            stream_options={"include_usage": True}))
        self.assertEqual(events[-1]["choices"], [])
        self.assertLessEqual(events[-1]["usage"]["completion_tokens"], 8)
        for event in events[:-1]:
            self.assertEqual(len(event["choices"]), 1)
            self.assertFalse(event.get("usage"))


if __name__ == "__main__":
    sluice_process.main()
