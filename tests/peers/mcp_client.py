"""The client of the `mcp` package, against the server that its arguments start. Prints JSON lines."""
import asyncio, json, sys
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client


def say(**what):
    print(json.dumps(what), flush=True)


async def roots(context):
    return types.ListRootsResult(roots=[types.Root(uri="file:///here", name="here")])


async def sampling(context, params):
    content = types.TextContent(type="text", text="sampled")
    return types.CreateMessageResult(role="assistant", model="none", content=content)


async def main():
    server = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=None)
    async with stdio_client(server) as (reads, writes):
        async with ClientSession(reads, writes, sampling_callback=sampling,
                                 list_roots_callback=roots) as session:
            await session.initialize()
            await session.send_ping()
            say(tools=[tool.name for tool in (await session.list_tools()).tools])

            async def text(name, arguments={}, **how):
                return (await session.call_tool(name, arguments, **how)).content[0].text

            say(roots=await text("roots"), said=await text("say"))
            told = []

            async def progress(done, total, message):
                told.append((done, total))

            counted = await text("count", {"to": 20}, progress_callback=progress)
            say(counted=counted, first=told[0], last=told[-1], times=len(told))
            # Many at once, and one that is called off among them.
            called_off = types.CancelledNotificationParams(requestId=session._request_id)
            request = types.CallToolRequestParams(name="count", arguments={"to": 100000})
            waits = asyncio.create_task(session.send_request(
                types.ClientRequest(types.CallToolRequest(method="tools/call", params=request)),
                types.CallToolResult))
            await asyncio.sleep(0)  # it has been given that id
            many = [asyncio.create_task(text("count", {"to": n})) for n in range(1, 9)]
            await asyncio.sleep(0.05)
            await session.send_notification(types.ClientNotification(types.CancelledNotification(
                method="notifications/cancelled", params=called_off)))
            say(many=[await one for one in many])
            waits.cancel()
            say(after=await text("count", {"to": 1}))
    say(closed=True)


asyncio.run(main())
