"""Conversations with `sessile mcp`, by the protocol's own client for Python, as it comes.

    client.py SCENARIO MODE URL
    client.py SCENARIO MODE COMMAND ARGUMENT...

MODE is how the client negotiates: `auto` for the newest revision, `legacy` for the handshake of earlier
ones. An assertion that fails ends it with exit code 1.
"""

import asyncio
import json
import os
import re
import sys
import time

import httpx2
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

SCENARIO, MODE, *SERVER = sys.argv[1:]


def connect():
    if SERVER[0].startswith("http"):
        token = os.environ.get("SESSILE_MCP_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        http = httpx2.AsyncClient(headers=headers, timeout=60)
        return Client(streamable_http_client(SERVER[0], http_client=http), mode=MODE)
    server = StdioServerParameters(command=SERVER[0], args=SERVER[1:], env=dict(os.environ))
    return Client(stdio_client(server), mode=MODE)


async def call(client, tool, /, wrong=False, progress=None, **arguments):
    result = await client.call_tool(tool, arguments, read_timeout_seconds=60, progress_callback=progress)
    assert bool(result.is_error) == wrong, result
    return result


def text(result):
    return result.content[0].text


async def begin(client, code="x = 41"):
    result = await call(client, "run_python", code=code)
    session = result.structured_content["session"]
    assert session.startswith("s_") and len(session) == 28, session
    assert f'[new session: pass `session` = "{session}"' in text(result)
    return session


async def until(what, done):
    """Waits for an event, and no longer than anything takes."""
    deadline = time.monotonic() + 30
    while not await done():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


# ---- scenarios ------------------------------------------------------------------------------------


async def conversation(client):
    """Each session has its own variables; what a model needs to know is said."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {"run_python", "reset", "close_session", "list_sessions", "variables"} <= set(tools)
    assert tools["run_python"].input_schema["required"] == ["code"]
    one, other = await begin(client), await begin(client, "x = 'other'")
    assert one != other
    result = await call(client, "run_python", session=one, code="print('hello')\nx + 1")
    assert text(result) == "stdout:\n```text\nhello\n```\nresult:\n```text\n42\n```\n", text(result)
    data = result.structured_content
    assert (data["ok"], data["stdout"], data["result"]) == (True, "hello\n", "42")
    raised = await call(client, "run_python", wrong=True, session=one, code="1 / 0")
    assert "ZeroDivisionError: division by zero" in text(raised)
    assert raised.structured_content["error"]["name"] == "ZeroDivisionError"
    stopped = await call(client, "run_python", wrong=True, session=one, code="while 1: pass", timeout=0.2)
    assert "at the time limit; variables are kept]" in text(stopped), text(stopped)
    assert text(await call(client, "run_python", session=one, code="x")) == "result:\n```text\n41\n```\n"
    assert "| x | str | 'other' |" in text(await call(client, "variables", session=other))
    assert "no variables, no files" in text(await call(client, "reset", session=one))
    assert text(await call(client, "variables", session=one)) == "[no variables]\n"
    assert text(await call(client, "close_session", session=other)) == f"[session {other} is closed]\n"
    gone = await call(client, "run_python", wrong=True, session=other, code="x")
    assert "is gone, and its variables with it: it was closed, as asked" in text(gone), text(gone)


async def guessed(client):
    """A handle that was not given out is refused by every tool, and tells nothing."""
    session = await begin(client)
    guess = session[:-1] + ("a" if session[-1] != "a" else "b")
    for name, more in [("run_python", {"code": "x"}), ("reset", {}), ("close_session", {}), ("variables", {}),
                       ("put_file", {"name": "a", "text": ""}), ("get_file", {"name": "a"}), ("list_files", {})]:
        for handle in [guess, "", "alice", "x" * 10_000]:
            result = await call(client, name, wrong=True, session=handle, **more)
            assert text(result).startswith("there is no session "), text(result)
            assert session not in text(result) and len(text(result)) < 300
    async with connect() as second:
        listed = await call(second, "list_sessions")
        assert session not in json.dumps(listed.structured_content) + text(listed)
    assert text(await call(client, "run_python", session=session, code="x")) == "result:\n```text\n41\n```\n"


async def hundred(client):
    """100 conversations at once, with several calls each: none finds another's variables."""

    async def talk(client, number):
        session = await begin(client, f"mine = [{number}]")
        for turn in range(5):
            result = await call(client, "run_python", session=session, code=f"mine.append({turn}); mine[0]")
            assert result.structured_content["result"] == str(number), (number, result)
        last = await call(client, "run_python", session=session, code="mine")
        assert last.structured_content["result"] == str([number, 0, 1, 2, 3, 4]), (number, last)

    if SERVER[0].startswith("http"):
        async def several(first):
            async with connect() as client:
                await asyncio.gather(*(talk(client, first + n) for n in range(10)))
        await asyncio.gather(*(several(first) for first in range(0, 100, 10)))
    else:
        await asyncio.gather(*(talk(client, number) for number in range(100)))


async def progress(client):
    """Output is told while the cell runs: the cell goes on only when it was."""
    session = await begin(client)
    put = await call(client, "list_files", session=session)
    assert text(put) == "[no files]\n"
    heard = []

    async def hear(_progress, _total, message):
        heard.append(message)

    code = "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('done')"
    running = asyncio.create_task(call(client, "run_python", session=session, code=code, progress=hear))

    async def is_heard():
        return "".join(message or "" for message in heard).startswith("begun")

    await until("what was printed is told", is_heard)
    assert not running.done()
    running.cancel()


async def cancel(client):
    """A call that is called off interrupts its cell, and its session keeps its variables."""
    session = await begin(client)
    started = asyncio.Event()

    async def hear(_progress, _total, _message):
        started.set()

    code = "x = 42\nprint('begun', flush=True)\nwhile True: pass"
    running = asyncio.create_task(
        call(client, "run_python", session=session, code=code, timeout=300, progress=hear))
    await asyncio.wait_for(started.wait(), 30)
    running.cancel()
    after = await asyncio.wait_for(call(client, "run_python", session=session, code="x"), 30)
    assert after.structured_content["result"] == "42", after


async def files(client):
    """What is put is there for code, what code writes can be fetched, as resources too."""
    put = await call(client, "put_file", name="in/data.csv", text="a,b\n1,2\n")
    session = put.structured_content["session"]
    code = "text = open('in/data.csv').read()\nopen('out é.txt', 'w').write(text.upper())\nopen('raw.bin', 'wb').write(bytes([0, 255]))"
    await call(client, "run_python", session=session, code=code)
    listed = await call(client, "list_files", session=session)
    assert text(listed) == "in/data.csv\nout é.txt\nraw.bin\n", text(listed)
    links = {block.name: block for block in listed.content[1:]}
    assert links["in/data.csv"].mime_type == "text/csv"
    got = await call(client, "get_file", session=session, name="out é.txt")
    assert got.content[1].resource.text == "A,B\n1,2\n"
    read = await client.read_resource(str(links["out é.txt"].uri))
    assert read.contents[0].text == "A,B\n1,2\n", read
    raw = await client.read_resource(f"sessile://{session}/raw.bin")
    assert raw.contents[0].blob == "AP8=", raw
    for name in ["../secret", "/etc/passwd", "nowhere"]:
        missing = await call(client, "get_file", wrong=True, session=session, name=name)
        assert "cannot be read" in text(missing), text(missing)
    both = await call(client, "put_file", wrong=True, name="a", text="", base64="")
    assert text(both) == "give the contents, either as `text` or as `base64`"
    templates = await client.list_resource_templates()
    assert templates.resource_templates[0].uri_template == "sessile://{session}/{+name}"


async def plot(client):
    """A figure arrives as a PNG, and a table as a table."""
    session = await begin(client, "import matplotlib.pyplot as plt")
    result = await call(client, "run_python", session=session, code="plt.plot([1, 3, 2]); plt.show()")
    images = [block for block in result.content if block.type == "image"]
    assert [image.mime_type for image in images] == ["image/png"], result
    assert images[0].data.startswith("iVBORw0KGgo") and "\n" not in images[0].data
    table = await call(client, "run_python", session=session,
                       code="import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': [3, 4]})")
    assert "| 0 | 1 | 3 |" in " ".join(text(table).split(" ")).replace("  ", " "), text(table)


async def lost(client):
    """A crash says what is lost, and the session begins anew."""
    session = await begin(client)
    code = "print('so far', flush=True)\nimport os; os._exit(3)"
    died = await call(client, "run_python", wrong=True, session=session, code=code)
    assert "so far" in text(died) and f"all variables and files of session {session} are gone" in text(died)
    assert died.structured_content["state_lost"] is True
    result = await call(client, "run_python", session=session, code="'x' in dir()")
    assert result.structured_content["result"] == "False"


async def evicted(client):
    """Room for two: the one that was used least recently goes, and says why."""
    first, second = await begin(client), await begin(client)
    await call(client, "run_python", session=first, code="x")
    third = await begin(client)
    gone = await call(client, "run_python", wrong=True, session=second, code="x")
    assert "it made room for another: no more than 2 are kept" in text(gone), text(gone)
    for session in [first, third]:
        assert (await call(client, "run_python", session=session, code="x")).structured_content["result"] == "41"


async def idle(client):
    """Nobody used it: it is closed, and says so."""
    session = await begin(client)

    async def is_gone():
        listed = await call(client, "list_sessions")
        return session not in text(listed)

    if MODE == "legacy":
        assert not await is_gone()
    await until("it is closed", is_gone)
    gone = await call(client, "run_python", wrong=True, session=session, code="x")
    assert "nobody used it for 0.5 s" in text(gone), text(gone)


async def many(client):
    """So many calls, each of a session of its own, that a leak would show."""
    for number in range(300):
        result = await call(client, "run_python", code=f"'y' * 100_000; {number}")
        assert result.structured_content["result"] == str(number)


async def hold(client):
    """Runs until somebody ends this process: then its cell is to end, too."""
    session = await begin(client)

    async def hear(_progress, _total, _message):
        print(session, flush=True)

    code = "x = 42\nprint('begun', flush=True)\nwhile True: pass"
    await call(client, "run_python", session=session, code=code, timeout=300, progress=hear)


async def after(client):
    session = os.environ["SESSION"]
    result = await call(client, "run_python", session=session, code="x")
    assert result.structured_content["result"] == "42", result


async def slow(client):
    """A call that is running when the server is told to end is answered."""
    code = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1)\n6 * 7"

    async def hear(_progress, _total, message):
        print(message.strip(), flush=True)

    result = await call(client, "run_python", code=code, progress=hear)
    assert result.structured_content["result"] == "42", result


async def said(client):
    """All that tools say, for a person to read it as a model does."""
    print(json.dumps({"instructions": client.instructions}, indent=1))
    for tool in (await client.list_tools()).tools:
        print(f"## {tool.name}\n{tool.description}")
        print(json.dumps(tool.input_schema["properties"], indent=1, ensure_ascii=False))
    session = None

    async def show(tool, /, **arguments):
        nonlocal session
        result = await client.call_tool(tool, arguments, read_timeout_seconds=60)
        session = session or (result.structured_content or {}).get("session")
        shown = {**arguments, **({"session": "HANDLE"} if "session" in arguments else {})}
        print(f"\n> {tool} {json.dumps(shown)}" + ("  (error)" if result.is_error else ""))
        for block in result.content:
            shown = getattr(block, "text", None) or f"<{block.type} {getattr(block, 'uri', '')}>\n"
            # Of a slow machine, or of another Python.
            shown = re.sub(r"after [0-9.]+ s,", "after 0.1 s,", shown)
            shown = re.sub(r"^ *[~^]+\n", "", shown, flags=re.MULTILINE)
            print(shown.replace(session or "HANDLE", "HANDLE"), end="" if shown.endswith("\n") else "\n")

    await show("list_sessions")
    await show("run_python", code="x = 41\nprint('hello')\nx + 1")
    await show("run_python", code="x / 0", session=session)
    await show("run_python", code="while True: pass", session=session, timeout=0.1)
    await show("run_python", code="x", session="s_guessed")
    await show("run_python", code="x", session=session, timeout=-1)
    await show("run_python", kode="x")
    await show("variables", session=session)
    await show("reset", session=session)
    await show("variables", session=session)
    await show("put_file", session=session, name="data.csv", text="a,b\n1,2\n")
    await show("put_file", session=session, name="data.csv")
    await show("list_files", session=session)
    await show("get_file", session=session, name="nowhere.txt")
    await show("run_python", code="import os; os._exit(3)", session=session)
    await show("close_session", session=session)
    await show("run_python", code="x", session=session)


async def main():
    async with connect() as client:
        await globals()[SCENARIO](client)


asyncio.run(asyncio.wait_for(main(), 240))
