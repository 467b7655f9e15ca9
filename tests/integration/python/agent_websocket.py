"""The `websockets` library as client and as server, for an agent between the two.

    agent_websocket.py serve          prints its port, and ends with its standard input
    agent_websocket.py call HOST:PORT texts, bytes, pings, large messages, closes; exits 0 when all is right
"""

import asyncio
import os
import sys
import threading

import websockets

LARGE = bytes(range(256)) * 8_000
PATIENCE = 60


async def answer(connection):
    async for message in connection:
        if message == "close":
            await connection.close(4001, "as asked")
            return
        await connection.send(message)


async def serve():
    async with websockets.serve(answer, "127.0.0.1", 0, max_size=None, subprotocols=["tokens"]) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


def end_with_input():
    sys.stdin.read()
    os._exit(0)


async def talk(address):
    async with websockets.connect(f"ws://{address}/ws?x=1", max_size=None, subprotocols=["tokens"]) as connection:
        assert connection.subprotocol == "tokens"
        for message in ("", "text \u00e9", b"", b"\x00\xff" * 100, LARGE):
            await connection.send(message)
            assert await connection.recv() == message
        # in pieces, with a ping between them
        await connection.send(part for part in ("one ", "two ", "three"))
        await (await connection.ping(b"still there"))
        assert await connection.recv() == "one two three"
        for n in range(300):
            await connection.send(str(n))
        assert [await connection.recv() for _ in range(300)] == [str(n) for n in range(300)]
        await connection.send("close")
        try:
            await connection.recv()
        except websockets.ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as asked"), closed
        else:
            sys.exit("it was not closed")
    async with websockets.connect(f"ws://{address}/", subprotocols=["tokens"]) as connection:
        await connection.send("last")
        assert await connection.recv() == "last"


async def call(address):
    await asyncio.wait_for(asyncio.gather(*(talk(address) for _ in range(8))), PATIENCE)
    print("websockets: as without the agent")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        threading.Thread(target=end_with_input, daemon=True).start()
        asyncio.run(serve())
    else:
        asyncio.run(call(sys.argv[2]))
