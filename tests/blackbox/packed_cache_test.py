"""--packed-cache: the second start answers as the first, and nothing that is wrong with the cache keeps a model from
being served, but for a directory that cannot hold one."""

import os
import pathlib
import resource
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import sluice_process
from sluice_process import BINARY, MODELS, Sluice

WRITTEN, READ = "packed and written for the next start", "read and verified"


class PackedCacheTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def answer(self, *flags, says="", **options):
        """What a server with the cache answers; `says` stands in its start-up report."""
        with Sluice("--packed-cache", str(self.folder), *flags, **options) as server:
            self.assertIn(says, server.log())
            return self.ask(server)

    def ask(self, server):
        answer = server.complete(prompt="Once upon a time", max_tokens=16, temperature=0, logprobs=2)
        return answer["choices"][0]["text"], answer["choices"][0]["logprobs"]

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())

    def test_the_second_start_answers_as_the_first(self):
        for model, weights in (("tiny-mod", "auto"), ("tiny-moe", "int8")):
            with self.subTest(model=model, weights=weights):
                flags = ("--weights", weights)
                with Sluice(*flags, model=model) as server:
                    self.assertNotIn("packed", server.log())
                    expected = self.ask(server)
                self.assertEqual(self.answer(*flags, model=model, says=WRITTEN), expected)
                self.assertEqual(self.answer(*flags, model=model, says=READ), expected)
        self.assertEqual(len(self.files()), 2)

    def test_damage_is_said_and_repaired(self):
        expected = self.answer(says=WRITTEN)
        file = self.folder / self.files()[0]
        whole = file.read_bytes()
        for bent in (whole[:-1], whole[:len(whole) // 2] + b"?" + whole[len(whole) // 2 + 1:], b""):
            file.write_bytes(bent)
            with Sluice("--packed-cache", str(self.folder)) as server:
                self.assertEqual(self.ask(server), expected)
                self.assertIn("packed cache refused", server.log())
                self.assertIn(WRITTEN, server.log())
            self.assertEqual(file.read_bytes(), whole)

    def test_without_room_the_model_is_served_and_no_file_is_left(self):
        def little_room():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        command = [BINARY, "generate", "--model", str(MODELS / "tiny-mod"), "--prompt", "Once", "--max-tokens", "4",
                   "--packed-cache", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=little_room)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("not written: cannot be written: File too large", done.stderr)
        self.assertEqual(self.files(), [])
        self.assertIn(WRITTEN, subprocess.run(command, capture_output=True, text=True, timeout=60).stderr)

    def test_a_directory_that_cannot_be_used_exits_64(self):
        file = self.folder / "file"
        file.touch()
        for command in (("serve", "--port", "0", "--grpc-port", "0", "--metrics-port", "0"),
                        ("generate", "--prompt", "Once"), ("bench",), ("bench", "quality")):
            for place in (self.folder / "missing", file, "/proc"):
                done = subprocess.run([BINARY, *command, "--model", str(MODELS / "tiny-mod"), "--packed-cache",
                                       str(place)], capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 64, f"{command} {place}: {done.stderr}")
                self.assertIn(f"--packed-cache: {place}: ", done.stderr)

    def test_two_servers_at_once(self):
        answers = []
        starts = [threading.Thread(target=lambda: answers.append(self.answer())) for _ in range(2)]
        for start in starts:
            start.start()
        for start in starts:
            start.join()
        self.assertEqual(len(answers), 2)
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(self.answer(says=READ), answers[0])
        self.assertEqual(len(self.files()), 1)

    def test_a_start_that_is_cut_short_leaves_nothing_that_matters(self):
        expected = self.answer(says=WRITTEN)
        file = self.folder / self.files()[0]
        for milliseconds in range(0, 60, 5):
            file.unlink(missing_ok=True)
            server = Sluice("--packed-cache", str(self.folder), wait=False)
            time.sleep(milliseconds / 1000)
            os.kill(server.pid, signal.SIGKILL if milliseconds % 2 else signal.SIGINT)
            server.stop()
        self.assertEqual(self.answer(), expected)
        self.assertEqual(self.answer(says=READ), expected)
        self.assertEqual(self.files(), [file.name])


if __name__ == "__main__":
    sluice_process.main()
