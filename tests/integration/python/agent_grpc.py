"""gRPC's own library as client and as server, for an agent between the two.

    agent_grpc.py serve               prints its port, and ends with its standard input
    agent_grpc.py call HOST:PORT      all four kinds of calls, errors, deadlines, metadata; exits 0 when all is right
"""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "modelmeter.Test"
LARGE = b"x" * 3_000_000
HANGING = threading.Event()


def echo(request, context):
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-seen", metadata.get("x-asked", "nothing")),))
    if request == b"fail":
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full: 100 % \u00e9")
    if request == b"hang":
        HANGING.set()
        time.sleep(60)
    if request == b"does one hang?":
        return b"yes" if HANGING.wait(30) else b"no"
    return request


def count(request, context):
    for n in range(int(request)):
        yield b"%d" % n
        if n == 3 and context.invocation_metadata() and ("x-asked", "break") in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAVAILABLE, "half-way")


def total(requests, context):
    return b"%d" % sum(int(request) for request in requests)


def talk(requests, context):
    for request in requests:
        yield request.upper()


def serve():
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
    }
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    os._exit(0)


def failure_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    sys.exit("a call that had to fail did not")


def call(address):
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        path = f"/{SERVICE}/".__add__
        unary = channel.unary_unary(path("Echo"))
        answer, state = unary.with_call(b"hello", metadata=(("x-asked", "this"),), timeout=30)
        assert (answer, state.code()) == (b"hello", grpc.StatusCode.OK)
        assert ("x-seen", "this") in state.trailing_metadata(), state.trailing_metadata()
        assert unary(LARGE, timeout=60) == LARGE
        assert unary(b"", timeout=30) == b""
        assert failure_of(lambda: unary(b"fail", timeout=30)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "full: 100 % \u00e9",
        )
        hanging = unary.future(b"hang", timeout=60)
        assert unary(b"does one hang?", timeout=60) == b"yes"
        assert hanging.cancel()
        # either side may be the first to see that the time is over
        assert failure_of(lambda: unary(b"hang", timeout=1))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        missing = channel.unary_unary(path("Nothing"))
        assert failure_of(lambda: missing(b"", timeout=30))[0] == grpc.StatusCode.UNIMPLEMENTED

        counted = channel.unary_stream(path("Count"))
        assert list(counted(b"500", timeout=60)) == [b"%d" % n for n in range(500)]
        assert list(counted(b"0", timeout=30)) == []
        broken = counted(b"9", metadata=(("x-asked", "break"),), timeout=30)
        assert failure_of(lambda: list(broken)) == (grpc.StatusCode.UNAVAILABLE, "half-way")

        summed = channel.stream_unary(path("Total"))
        assert summed((b"%d" % n for n in range(300)), timeout=60) == b"44850"

        # one by one: the next is said when the answer to the last has been heard
        heard = threading.Semaphore(1)

        def words():
            for n in range(100):
                assert heard.acquire(timeout=30)
                yield b"word %d" % n

        said = []
        for answer in channel.stream_stream(path("Talk"))(words(), timeout=60):
            said.append(answer)
            heard.release()
        assert said == [b"WORD %d" % n for n in range(100)]

        # many at once on one connection
        with futures.ThreadPoolExecutor(32) as pool:
            words = [b"%d" % n for n in range(400)]
            assert list(pool.map(lambda word: unary(word, timeout=60), words)) == words
    print("grpc: as without the agent")


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else call(sys.argv[2])
