"""A language model server that does what it is told to, well or badly. Its own thread, a port on loopback."""

import asyncio
import json
import threading

MODELS = {"data": [{"id": "stand-in"}]}


def chunk(text="", finish=None, **more):
    """One server-sent event of a chat completion."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def good(*texts, finish="stop"):
    """A whole stream."""
    return [chunk(), *(chunk(text) for text in texts), chunk(finish=finish), b"data: [DONE]\n\n"]


class Hang:
    """In a script: send nothing more, and wait until the client hangs up."""


class StandIn:
    """Each chat request takes the next script: a status with headers and body, or a list of pieces of a stream."""

    def __init__(self):
        self.scripts = []
        self.otherwise = good("Hello", " there.")
        self.requests = []
        self.headers = []
        self.hung_up = threading.Event()
        self.asked = threading.Semaphore(0)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.run, daemon=True)
        started = threading.Event()
        self.loop.call_soon(lambda: self.loop.create_task(self.listen(started)))
        self.thread.start()
        assert started.wait(5)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()

    async def listen(self, started):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        started.set()

    def close(self):
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(fields["content-length"]))
            if head.startswith("GET"):
                self.headers.append(fields)
                writer.write(answer(200, json.dumps(MODELS).encode()))
            else:
                self.headers.append(fields)
                self.requests.append(json.loads(body))
                self.asked.release()
                await self.play(self.scripts.pop(0) if self.scripts else self.otherwise, reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            writer.close()

    async def play(self, script, reader, writer):
        if isinstance(script, bytes):
            writer.write(script)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in script:
            if piece is Hang:
                await reader.read()  # ends, or raises, when the client hangs up
                self.hung_up.set()
                return
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


def answer(status, body=b"", headers=""):
    """A plain answer."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body
