// What toxiproxy-node-client says about the server at $TOXIPROXY, and what its toxics do to a connection.
"use strict";
const assert = require("node:assert");
const net = require("node:net");
const { Toxiproxy } = require("toxiproxy-node-client");

// An upstream that gives back what it gets.
function echo() {
  return new Promise((resolve) => {
    const server = net.createServer((client) => {
      client.on("error", () => client.destroy());
      client.pipe(client);
    });
    server.listen(0, "127.0.0.1", () => resolve(server));
  });
}

// How an exchange of `bytes` through the proxy ends: milliseconds, or the error's code.
function exchange(listen, bytes) {
  const port = Number(listen.split(":").pop());
  return new Promise((resolve) => {
    const start = process.hrtime.bigint();
    let left = bytes;
    const socket = net.connect(port, "127.0.0.1", () => socket.write(Buffer.alloc(bytes, 1)));
    socket.on("error", (error) => resolve({ code: error.code }));
    socket.on("end", () => resolve({ code: "END", read: bytes - left }));
    socket.on("data", (data) => {
      left -= data.length;
      if (left === 0) {
        socket.destroy();
        resolve({ ms: Number(process.hrtime.bigint() - start) / 1e6 });
      }
    });
  });
}

async function main() {
  const upstream = await echo();
  const server = new Toxiproxy(process.env.TOXIPROXY);
  assert.match(await server.getVersion(), /2\.\d+/);
  const body = { name: "echo", listen: "127.0.0.1:0", upstream: `127.0.0.1:${upstream.address().port}` };
  let proxy = await server.createProxy(body);
  await assert.rejects(server.createProxy(body), /409/);
  await assert.rejects(server.get("nobody"), /404/);
  assert.ok((await exchange(proxy.listen, 100)).ms > 0);

  const latency = await proxy.addToxic({ type: "latency", attributes: { latency: 150, jitter: 0 } });
  assert.strictEqual(latency.name, "latency_downstream");
  assert.ok((await exchange(proxy.listen, 100)).ms >= 150);
  const updated = await latency.update({ attributes: { latency: 250 } });
  assert.deepStrictEqual(updated.attributes, { latency: 250, jitter: 0 });
  assert.ok((await exchange(proxy.listen, 100)).ms >= 250);
  assert.strictEqual((await proxy.getToxic("latency_downstream")).attributes.latency, 250);
  await latency.remove();
  await assert.rejects(proxy.getToxic("latency_downstream"), /404/);

  const endings = [
    ["reset_peer", { timeout: 50 }, { code: "ECONNRESET" }],
    ["timeout", { timeout: 100 }, { code: "ECONNRESET" }],
    ["limit_data", { bytes: 500 }, { code: "END", read: 500 }],
  ];
  for (const [type, attributes, ending] of endings) {
    const toxic = await proxy.addToxic({ type, attributes, name: "t", stream: "downstream", toxicity: 1 });
    assert.deepStrictEqual(await exchange(proxy.listen, 5000), ending, type);
    await toxic.remove();
  }
  const rate = await proxy.addToxic({ type: "bandwidth", attributes: { rate: 100 } });
  assert.ok((await exchange(proxy.listen, 50000)).ms >= 490);
  await rate.remove();

  proxy = await proxy.update({ ...proxy.toJson(), enabled: false });
  assert.strictEqual(proxy.enabled, false);
  assert.strictEqual((await exchange(proxy.listen, 1)).code, "ECONNREFUSED");
  await server.reset();
  assert.ok((await server.getAll()).echo.enabled);
  const populated = await server.populate([proxy.toJson(), { ...body, name: "other" }]);
  assert.deepStrictEqual(Object.keys(populated).sort(), ["echo", "other"]);
  for (const one of Object.values(await server.getAll())) await one.remove();
  assert.deepStrictEqual(await server.getAll(), {});
  upstream.close();
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
