"""Clients of kernels, as Python has them.

The first argument says which, the second is the gateway's port, the third its token. A line on standard
input says what to do; the answer is a line with a number. What is timed is timed here, so that the way
between this process and the one that asks is not in it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

which, port, token = sys.argv[1:]
# Libraries may print what they like.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


class BlockingKernelClient:
    """A kernel of its own, over ZeroMQ: asks, waits for the reply and for the end of the output."""

    def __init__(self):
        from jupyter_client.manager import start_new_kernel

        self.start_new_kernel = start_new_kernel

    def start(self):
        self.manager, self.client = self.start_new_kernel(kernel_name="python3")

    def run(self, code):
        request = self.client.execute(code, reply=True)["parent_header"]["msg_id"]
        value = None
        while True:
            message = self.client.get_iopub_msg()
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if message["msg_type"] == "execute_result":
                value = content["data"]["text/plain"]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return value

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


class WebSocketClient:
    """A kernel behind the gateway: what a program with `websocket-client` does, and its defaults."""

    def __init__(self):
        import websocket

        self.connect = websocket.create_connection

    def ask(self, method, path):
        headers = {"Authorization": f"token {token}"}
        url = f"http://127.0.0.1:{port}/api/kernels{path}"
        body = b"{}" if method == "POST" else None
        with urllib.request.urlopen(
            urllib.request.Request(url, data=body, headers=headers, method=method)
        ) as answer:
            return answer.read()

    def start(self):
        self.session = uuid.uuid4().hex
        self.kernel = json.loads(self.ask("POST", ""))["id"]
        url = f"ws://127.0.0.1:{port}/api/kernels/{self.kernel}/channels?session_id={self.session}"
        self.socket = self.connect(url, header=[f"Authorization: token {token}"])

    def run(self, code):
        request = uuid.uuid4().hex
        header = {"msg_id": request, "msg_type": "execute_request", "username": ""}
        header |= {"session": self.session, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": True}
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}}
        self.socket.send(json.dumps(message | {"content": content}))
        value, replied, idle = None, False, False
        while not (replied and idle):
            message = json.loads(self.socket.recv())
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "execute_result":
                value = content["data"]["text/plain"]
            elif kind == "execute_reply":
                replied = True
            elif kind == "status":
                idle |= content["execution_state"] == "idle"
        return value

    def end(self):
        self.socket.close()
        self.ask("DELETE", f"/{self.kernel}")


class Qwen:
    """Qwen-Agent's tool, called as its agents call it."""

    def __init__(self):
        from qwen_agent.tools.code_interpreter import CodeInterpreter

        self.tool, self.folder = CodeInterpreter, tempfile.TemporaryDirectory()

    def start(self):
        self.one = self.tool({"work_dir": self.folder.name})

    def run(self, code):
        said = self.one.call(json.dumps({"code": code}))
        return said.removeprefix("execute_result:\n\n```\n").removesuffix("\n```")

    def end(self):
        # This is all that its users have. It does not wait for the process, which may not end of itself.
        from qwen_agent.tools import code_interpreter

        processes = list(code_interpreter._MISC_SUBPROCESSES.values())
        del self.one
        for process in processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


client = {"blocking": BlockingKernelClient, "websocket": WebSocketClient, "qwen": Qwen}[which]()
started = False
for line in sys.stdin:
    word, *count = line.split()
    if word == "start":
        if started:
            client.end()
        begun = time.perf_counter_ns()
        client.start()
        value = client.run("1+1")
        answer = time.perf_counter_ns() - begun
        assert value == "2", value
        started = True
    elif word == "cells":
        begun = time.perf_counter_ns()
        values = [client.run("1+1") for _ in range(int(count[0]))]
        answer = time.perf_counter_ns() - begun
        assert set(values) == {"2"}, values
    else:
        answer = int(client.run("import os\nos.getpid()"))
    print(answer, file=answers, flush=True)
if started:
    client.end()
