"""Every bad input of the HTTP API gets its exact status, type, code and param, in the one error shape, and never
repeats the input. After each, the server answers a normal request with the same text as before. Numbers in comments
are the register of bad inputs."""

import json
import socket

import sluice_process
from raw_socket import exchange, head
from sluice_process import BlackBoxTest

INVALID = "invalid_request_error"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
GOOD = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
MESSAGES = [{"role": "user", "content": "Hello"}]


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


class BadInputsTest(BlackBoxTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.expected = cls.server.complete(**GOOD)["choices"][0]["text"]

    def assert_still_right(self):
        self.assertEqual(self.server.complete(**GOOD)["choices"][0]["text"], self.expected)

    def assert_error(self, status, error_type, code, param, answer, what):
        self.assertEqual(answer.status, status, f"{what}: {answer.text[:300]}")
        self.assertIn("application/json", answer.headers.get("content-type", ""), what)
        error = answer.json()["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"}, what)
        self.assertEqual((error["type"], error["code"]), (error_type, code), f"{what}: {error}")
        if param is not Ellipsis:
            self.assertEqual(error["param"], param, f"{what}: {error}")
        self.assertIsInstance(error["message"], str)
        self.assertTrue(error["message"], what)

    def check(self, body, code, param=..., status=400, path=COMPLETIONS, error_type=INVALID, headers=None):
        with self.subTest(body=str(body)[:120], path=path):
            answer = self.server.post(path, body, headers=headers)
            self.assert_error(status, error_type, code, param, answer, str(body)[:200])

    # ---- bytes that are not a request ----

    def test_bodies_that_are_not_json(self):  # 1, 2
        for body in ("{", "{'a':1}", "not json", '{"prompt":"a",}', "{} {}", '{"temperature":NaN}', "\x00", ""):
            self.check(body, "invalid_json", None)
        self.assert_still_right()

    def test_bodies_that_are_not_objects(self):  # 3
        for body in ("[]", '"x"', "42", "null", "true"):
            self.check(body, "not_an_object", None)
        self.assert_still_right()

    def test_nesting(self):  # 4
        for depth in (65, 10**5, 10**6):
            self.check('{"prompt":' + "[" * depth + "]" * depth + "}", "json_too_deep")
            self.check('{"a":' * depth + "1" + "}" * depth, "json_too_deep")
        self.assert_still_right()

    def test_too_many_nodes(self):
        with self.subTest("300,000 empty objects"):
            answer = self.server.post(COMPLETIONS, '{"x":[' + ",".join(["{}"] * 300_000) + "]}")
            self.assertEqual(answer.status, 400, answer.text[:200])
        self.assert_still_right()

    def test_invalid_utf8(self):  # 19
        for raw in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"abc\xe2\x82"):
            answer = self.server.post(COMPLETIONS, b'{"prompt":"' + raw + b'"}')
            self.assert_error(400, INVALID, "invalid_utf8", ..., answer, raw)
        self.assert_still_right()

    def test_nul_is_a_character(self):  # 21
        self.assertEqual(self.server.post(COMPLETIONS, '{"prompt":"a\\u0000b","max_tokens":1}').status, 200)
        self.assertEqual(self.server.post(CHAT, json.dumps(
            {"messages": [{"role": "user", "content": "a\0b"}], "max_tokens": 1})).status, 200)

    def test_media_types_and_encodings(self):  # 11, 13
        body = json.dumps(GOOD)
        self.check(body, "unsupported_media_type", ..., 415, headers={"Content-Type": "text/plain"})
        self.check(body, "unsupported_encoding", ..., 415,
                   headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
        self.assert_still_right()

    def test_paths_and_methods(self):  # 16, 17
        answer = self.server.get("/v1/nothing")
        self.assert_error(404, "not_found_error", "unknown_url", ..., answer, "unknown path")
        for method in ("GET", "DELETE", "PUT"):
            answer = self.server.request(method, COMPLETIONS)
            self.assert_error(405, INVALID, "method_not_allowed", ..., answer, method)
            self.assertIn("POST", answer.headers.get("allow", ""))
        self.assert_still_right()

    # ---- fields ----

    def test_prompts(self):  # 34, 35, 37
        self.check(without("prompt"), "empty_prompt", "prompt")
        for prompt in (None, "", [], [[]], [""]):
            self.check({**GOOD, "prompt": prompt}, "empty_prompt", "prompt")
        for prompt in ([-1], [4096], [2**31], [[1], [4096]]):
            self.check({**GOOD, "prompt": prompt}, "token_out_of_vocab", "prompt")
        self.check({**GOOD, "prompt": ["a"] * 33}, "too_many_sequences", "prompt")
        self.check({**GOOD, "prompt": ["a"] * 17, "n": 4}, "too_many_sequences", "prompt")
        for prompt in ({"a": 1}, 7, True, ["a", 1]):
            self.check({**GOOD, "prompt": prompt}, "wrong_type")
        self.assert_still_right()

    def test_context_length(self):  # 38, 39
        self.check({**GOOD, "prompt": [5] * 1025}, "context_length_exceeded", "prompt")
        self.check({**GOOD, "prompt": [5] * 100, "max_tokens": 1000}, "context_length_exceeded", "max_tokens")
        self.check({"messages": [{"role": "user", "content": "word " * 3000}]}, "context_length_exceeded",
                   "messages", path=CHAT)
        self.assert_still_right()

    def test_max_tokens(self):  # 41
        for value in (0, -1, 2**32, 2**63 - 1, -2**63):
            self.check({**GOOD, "max_tokens": value}, "integer_out_of_range", "max_tokens")
        for value in (1.5, "5", True, [], {}):
            self.check({**GOOD, "max_tokens": value}, "wrong_type", "max_tokens")
        for value in ("1e10", "18446744073709551616"):  # no integers to a JSON reader of 64 bits
            answer = self.server.post(COMPLETIONS, '{"prompt":"a","max_tokens":' + value + "}")
            self.assertEqual(answer.status, 400, answer.text)
            self.assertEqual(answer.json()["error"]["param"], "max_tokens")
        self.assert_still_right()

    def test_numbers(self):  # 44, 45, 48
        for field, values in (("temperature", (-0.1, 2.1)), ("top_p", (0, 1.1, -1)), ("min_p", (-1, 1)),
                              ("typical_p", (0, 1.5)), ("presence_penalty", (-2.1, 2.1)),
                              ("frequency_penalty", (-2.1, 2.1)), ("repetition_penalty", (0, -1))):
            for value in values:
                self.check({**GOOD, field: value}, "number_out_of_range", field)
            self.check({**GOOD, field: "hot"}, "wrong_type", field)
        answer = self.server.post(COMPLETIONS, '{"prompt":"a","temperature":1e400}')
        self.assertEqual(answer.status, 400, answer.text)
        self.assertIn(answer.json()["error"]["code"], ("number_out_of_range", "invalid_json"))
        self.assert_still_right()

    def test_counts(self):
        self.check({**GOOD, "n": 0}, "integer_out_of_range", "n")
        self.check({**GOOD, "n": 17}, "integer_out_of_range", "n")
        self.check({**GOOD, "logprobs": 21}, "integer_out_of_range", "logprobs")
        self.check({**GOOD, "logprobs": -1}, "integer_out_of_range", "logprobs")
        self.check({**GOOD, "top_k": -2}, "integer_out_of_range", "top_k")
        self.check({**GOOD, "timeout_ms": 0}, "integer_out_of_range", "timeout_ms")
        self.check({**GOOD, "min_tokens": 5}, "integer_out_of_range", "min_tokens")
        self.check({"messages": MESSAGES, "logprobs": True, "top_logprobs": 21}, "integer_out_of_range",
                   "top_logprobs", path=CHAT)
        self.assert_still_right()

    def test_stop_strings(self):
        self.check({**GOOD, "stop": ["a"] * 17}, "too_many_entries", "stop")
        self.check({**GOOD, "stop": ["a" * 257]}, "invalid_value", "stop")
        self.check({**GOOD, "stop": [""]}, "invalid_value", "stop")
        self.check({**GOOD, "stop": 3}, "wrong_type", "stop")
        self.check({**GOOD, "stop_token_ids": [4096]}, "token_out_of_vocab", "stop_token_ids")
        self.assert_still_right()

    def test_logit_bias(self):  # 50
        self.check({**GOOD, "logit_bias": {str(i): 1 for i in range(1025)}}, "too_many_entries", "logit_bias")
        for bias in ({"abc": 1}, {"-1": 1}, {"4096": 1}, {"5": 101}, {"5": -101}, {"5": "x"}, [1, 2]):
            answer = self.server.post(COMPLETIONS, {**GOOD, "logit_bias": bias})
            self.assertEqual((answer.status, answer.json()["error"]["param"]), (400, "logit_bias"), answer.text)
        self.assert_still_right()

    def test_models(self):  # 27, 28
        for model in (7, ["tiny-mod"], {}):
            self.check({**GOOD, "model": model}, "wrong_type", "model")
        for model in ("gpt-4", "../../etc/passwd", "tiny-mod/", "tiny-mod\x00"):
            self.check({**GOOD, "model": model}, "model_not_found", "model", 404, error_type="not_found_error")
        self.assert_still_right()

    def test_messages(self):  # 30, 31, 32
        def check(messages, code, param):
            self.check({"messages": messages, "max_tokens": 2}, code, param, path=CHAT)
        self.check({"max_tokens": 2}, "missing_required", "messages", path=CHAT)
        check([], "empty_array", "messages")
        for messages in ("hello", {"role": "user"}, 3):
            check(messages, "wrong_type", "messages")
        check([{}], "missing_required", "messages")
        check([{"content": "x"}], "invalid_value", "messages[0].role")
        check([{"role": "wizard", "content": "x"}], "invalid_value", "messages[0].role")
        image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
        check([{"role": "user", "content": [{"type": "text", "text": "x"}, image]}], "unsupported_content",
              "messages[0].content[1]")
        self.assert_still_right()

    def test_what_does_not_exist_yet_is_named(self):  # 43, 53, 54, 57
        for field, value in (("best_of", 2),):
            self.check({**GOOD, field: value}, "unsupported_parameter", field)
        tool = {"type": "function", "function": {"name": "f"}}
        for field, value in (("tools", [tool]), ("response_format", {"type": "json_object"}),
                             ("chat_template", "{{ messages }}")):
            self.check({"messages": MESSAGES, "max_tokens": 2, field: value}, "unsupported_parameter", field,
                       path=CHAT)
        self.assert_still_right()

    def test_routing(self):
        for routing, code, param in (({"capacity": 1.1}, "number_out_of_range", "routing.capacity"),
                                     ({"capacity": -0.1}, "number_out_of_range", "routing.capacity"),
                                     ({"mode": "magic"}, "unsupported_parameter", "routing.mode"),
                                     ({"experts_per_token": 2}, "unsupported_parameter",
                                      "routing.experts_per_token"),
                                     ({"trace": True}, "unsupported_parameter", "routing.trace")):
            self.check({**GOOD, "routing": routing}, code, param)
        self.check({**GOOD, "routing": 3}, "wrong_type", "routing")
        self.assert_still_right()

    def test_unknown_fields_are_counted_and_ignored(self):  # 23
        self.assertEqual(self.server.complete(**GOOD, no_such_field=1)["choices"][0]["text"], self.expected)

    def test_errors_never_repeat_the_input(self):
        canary = "c4n4ry-5ecret"
        bodies = [{**GOOD, "model": canary}, {**GOOD, "prompt": {canary: 1}}, {**GOOD, "stop": {canary: 1}},
                  {"messages": [{"role": canary, "content": canary}]}, {**GOOD, "routing": {"mode": canary}},
                  {**GOOD, "logit_bias": {canary: 1}}, canary, '{"prompt":"' + canary]
        for body in bodies:
            for path in (COMPLETIONS, CHAT):
                self.assertNotIn(canary, self.server.post(path, body).text)
        self.assertNotIn(canary, self.server.get("/" + canary).text)
        self.assertNotIn(canary, self.server.metrics_text())
        self.assertNotIn(canary, self.server.log())

    # ---- HTTP itself ----

    def check_raw(self, data, status, code=None, close=True):
        with self.subTest(data=data[:80]):
            answered, _, body = exchange(self.server.port, data)
            self.assertEqual(answered, status, body[:300])
            if code:
                self.assertEqual(json.loads(body)["error"]["code"], code)

    def test_hosts(self):  # 18
        self.check_raw(b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "bad_host")
        self.check_raw(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_host")
        self.assert_still_right()

    def test_sizes_of_heads(self):  # 14
        self.check_raw(head("GET", "/v1/models", {"X-Padding": "a" * 17 * 1024}), 431, "headers_too_large")
        self.check_raw(head("GET", "/v1/models", {f"X-{i}": "a" for i in range(101)}), 431, "headers_too_large")
        self.check_raw(head("GET", "/" + "a" * 9000), 414)
        self.assert_still_right()

    def test_sizes_of_bodies(self):  # 6, 7
        limit = 8 << 20
        announced = head("POST", COMPLETIONS, {"Content-Type": "application/json",
                                               "Content-Length": str(limit + 1)})
        self.check_raw(announced, 413, "content_too_large")
        chunked = head("POST", COMPLETIONS, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        self.check_raw(chunked + piece * 9 + b"0\r\n\r\n", 413, "content_too_large")
        self.check_raw(chunked + b"1\r\n \r\n" * 70_000 + b"0\r\n\r\n", 413, "content_too_large")
        self.assert_still_right()

    def test_numeric_headers(self):
        for length in ("-1", "+5", "1e3", "0x10", "5 5", "99999999999999999999", "abc"):
            data = head("POST", COMPLETIONS, {"Content-Type": "application/json", "Content-Length": length})
            with self.subTest(length=length):
                self.assertIn(exchange(self.server.port, data + b"{}")[0], (400, 413))
        self.assert_still_right()

    def test_request_smuggling(self):
        json_type = "Content-Type: application/json\r\n"
        for lines in ("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
                      "Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length : 2\r\n",
                      "X-Folded: a\r\n b\r\nContent-Length: 2\r\n", "X-Bare: a\nb: c\rd\r\nContent-Length: 2\r\n"):
            data = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: a\r\n{json_type}{lines}\r\n".encode() + b"{}"
            self.check_raw(data, 400)
        self.assert_still_right()

    def test_garbage(self):
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, b"\r\n\r\n\r\n\r\n",
                     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n\r\n", b"\xff" * 2000, b"GET  / HTTP/9.9\r\n\r\n"):
            with self.subTest(data=data[:30]):
                try:
                    status = exchange(self.server.port, data)[0]
                except OSError:
                    status = None  # closed without a word is fine too
                self.assertTrue(status is None or 400 <= status <= 505, status)
        self.assert_still_right()

    def test_half_requests_then_silence_do_not_hold_others_up(self):  # 66, without waiting for the time limit
        idle = [socket.create_connection(("127.0.0.1", self.server.port)) for _ in range(100)]
        for index, connection in enumerate(idle):
            connection.sendall(head("POST", COMPLETIONS, {"Content-Length": "100"})[:20 + index])
        self.assert_still_right()
        for connection in idle:
            connection.close()


class StrictTest(BlackBoxTest):
    flags = ("--strict",)

    def test_unknown_fields_are_refused(self):  # 23
        answer = self.server.post(COMPLETIONS, {**GOOD, "no_such_field": 1})
        self.assertEqual((answer.status, answer.json()["error"]["code"]), (400, "unknown_parameter"))


if __name__ == "__main__":
    sluice_process.main()
