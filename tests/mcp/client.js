// A conversation with `sessile mcp`, by the protocol's own client for TypeScript, as it comes.
//
//     client.js URL
//     client.js COMMAND ARGUMENT...

const assert = require("node:assert");
const { createRequire } = require("node:module");
const found = createRequire(process.cwd() + "/");
const { Client } = found("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = found("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = found("@modelcontextprotocol/sdk/client/streamableHttp.js");

const [server, ...args] = process.argv.slice(2);

async function connect() {
  const client = new Client({ name: "test", version: "1" });
  await client.connect(
    server.startsWith("http")
      ? new StreamableHTTPClientTransport(new URL(server))
      : new StdioClientTransport({ command: server, args, env: process.env }),
  );
  return client;
}

async function talk(client, number) {
  const call = (name, args, options) => client.callTool({ name, arguments: args }, undefined, options);
  const begun = await call("run_python", { code: `mine = ${number}\nprint('hello')` });
  assert.ok(begun.content[0].text.startsWith("stdout:\n```text\nhello\n```\n[new session: "));
  const { session } = begun.structuredContent;
  for (let turn = 0; turn < 3; turn++) {
    const result = await call("run_python", { session, code: "mine" });
    assert.strictEqual(result.structuredContent.result, String(number));
  }
  const raised = await call("run_python", { session, code: "1 / 0" });
  assert.ok(raised.isError && raised.content[0].text.includes("ZeroDivisionError"));

  // Called off while it runs, which progress tells.
  const off = new AbortController();
  const onprogress = () => off.abort();
  const code = "mine += 1\nprint('begun', flush=True)\nwhile True: pass";
  const running = call("run_python", { session, code, timeout: 300 }, { signal: off.signal, onprogress });
  await assert.rejects(running);
  const after = await call("run_python", { session, code: "mine" });
  assert.strictEqual(after.structuredContent.result, String(number + 1));
  await call("close_session", { session });
}

async function main() {
  const client = await connect();
  assert.strictEqual(client.getServerVersion().name, "sessile");
  assert.ok((await client.listTools()).tools.length >= 5);
  await Promise.all(Array.from({ length: 20 }, (_, number) => talk(client, number)));
  await client.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
