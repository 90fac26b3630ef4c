"""A server of the `mcp` package's, which asks back in each way that there is."""
import asyncio, sys
from mcp import types
from mcp.server.fastmcp import Context, FastMCP
from pydantic import BaseModel

server = FastMCP("asks back")


class Name(BaseModel):
    name: str


@server.tool()
async def everything(context: Context) -> str:
    roots = await context.session.list_roots()
    content = types.TextContent(type="text", text="?")
    message = types.SamplingMessage(role="user", content=content)
    sampled = await context.session.create_message(messages=[message], max_tokens=5)
    elicited = await context.elicit("Who are you?", schema=Name)
    return f"{roots.roots[0].uri} {sampled.content.text} {elicited.data.name}"


@server.tool()
async def count(to: int, context: Context) -> str:
    for n in range(to):
        await context.report_progress(n + 1, to)
        await asyncio.sleep(0.005)
    return f"counted to {to}"


@server.tool()
async def waits(context: Context) -> str:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("called off", file=sys.stderr, flush=True)
        raise
    return "never"


server.run()
print("ended", file=sys.stderr, flush=True)
