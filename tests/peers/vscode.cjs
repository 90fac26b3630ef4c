// vscode-jsonrpc, in both directions. Over TCP with a port, or over the standard streams of a child.
const rpc = require("vscode-jsonrpc/node");
const net = require("net");
const { spawn } = require("child_process");

const say = (what) => console.log(JSON.stringify(what));
const failure = (error) => ({ code: error.code, message: error.message });

async function bothWays(port) {
  const socket = net.connect(port, "127.0.0.1");
  const peer = rpc.createMessageConnection(
    new rpc.StreamMessageReader(socket), new rpc.StreamMessageWriter(socket));
  peer.onRequest("double", (n) => n * 2);
  peer.onRequest("waits", (_, token) => new Promise((done) => {
    token.onCancellationRequested(() => { say({ theirs: "called off" }); done("late"); });
    peer.sendNotification("waiting");
  }));
  peer.listen();
  const asks = new rpc.CancellationTokenSource();
  const slow = peer.sendRequest("slow", {}, asks.token).then((answer) => ({ answer }), failure);
  const pieces = [];
  peer.onProgress(new rpc.ProgressType(), "p", (piece) => pieces.push(piece));
  say({ whole: await peer.sendRequest("pieces", { partialResultToken: "p" }), pieces });
  asks.cancel();
  say({ ours: await slow });
  say({ back: await peer.sendRequest("ask back", 21) });
  say({ unknown: await peer.sendRequest("unknown", {}).catch(failure) });
  await peer.sendRequest("call off");
  socket.on("close", () => process.exit(0));
  socket.end();
}

async function languageServer(command, ...args) {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  const peer = rpc.createMessageConnection(
    new rpc.StreamMessageReader(child.stdout), new rpc.StreamMessageWriter(child.stdin));
  peer.listen();
  const uri = "file:///a", at = { textDocument: { uri }, position: { line: 1, character: 0 } };
  say({ can: await peer.sendRequest("initialize", { capabilities: {} }) });
  peer.sendNotification("initialized", {});
  peer.sendNotification("textDocument/didOpen", { textDocument: { uri, text: "one\ntwo three" } });
  say({ before: await peer.sendRequest("textDocument/hover", at) });
  for (let n = 0; n < 100; n++)
    peer.sendNotification("textDocument/didChange",
      { textDocument: { uri }, contentChanges: [{ text: "\n" + "word ".repeat(n + 1) }] });
  say({ after: await peer.sendRequest("textDocument/hover", at) });
  say({ end: await peer.sendRequest("shutdown") });
  peer.sendNotification("exit");
  child.on("exit", (code) => { say({ exit: code }); process.exit(0); });
}

if (process.argv.length === 3) bothWays(+process.argv[2]);
else languageServer(...process.argv.slice(2));
