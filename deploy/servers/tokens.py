"""A token streamer on LitServe, without weights: it says as many tokens as it is asked for, each after the pause it is told.

    python tokens.py --port 8000            # POST /predict {"tokens": 20, "pause_ms": 20}: a line of JSON for each token
    python tokens.py --port 8000 --whole    # the same words in one answer

{"fail": true} is an exception in the model's code.
"""

import argparse
import ctypes
import os
import signal
import time

import litserve

LOAD_SECONDS = 2.0
PR_SET_PDEATHSIG = 1


def end_with_parent():
    """LitServe's workers outlive a server that is killed; these do not."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# Forked workers pass here; spawned ones import this file.
os.register_at_fork(after_in_child=end_with_parent)
end_with_parent()


def tokens(request):
    """Yields the tokens that were asked for."""
    if request.get("fail"):
        raise RuntimeError("the model's code failed")
    for number in range(int(request.get("tokens", 1))):
        time.sleep(request.get("pause_ms", 0) / 1000)
        yield f"word-{number} "


class Streamed(litserve.LitAPI):
    """One line for each token, as it comes."""

    def setup(self, device):
        time.sleep(LOAD_SECONDS)

    def predict(self, request):
        yield from tokens(request)

    def encode_response(self, output):
        for token in output:
            yield {"token": token}


class Whole(litserve.LitAPI):
    """All tokens in one answer."""

    def setup(self, device):
        time.sleep(LOAD_SECONDS)

    def predict(self, request):
        return {"text": "".join(tokens(request))}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--whole", action="store_true")
    given = arguments.parse_args()
    api = Whole() if given.whole else Streamed(stream=True)
    litserve.LitServer(api, accelerator="cpu").run(host="127.0.0.1", port=given.port, generate_client_file=False)
