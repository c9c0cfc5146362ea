// Node's http client: an agent with keepAlive and one socket for each client. See loop.py for the arguments.
"use strict";
const http = require("node:http");
const { setTimeout: sleep } = require("node:timers/promises");

const [base, clients, requests, pause, prefix] = process.argv.slice(2);
const tally = { requests: 0, errors: {}, connections: 0 };

function failed(text) {
  tally.errors[text] = (tally.errors[text] ?? 0) + 1;
}

function ask(agent, id) {
  return new Promise((resolve) => {
    const options = { agent, method: id ? "POST" : "GET", headers: id ? { "Content-Length": 100 } : {} };
    const path = id ? `/ids/${id}` : "/";
    const request = http.request(base.replace(/\/$/, "") + path, options, (response) => {
      let body = "";
      response.setEncoding("latin1");
      response.on("data", (data) => (body += data));
      response.on("error", (error) => resolve(failed(`${error.code}: ${error.message}`)));
      response.on("end", () => {
        if (response.statusCode !== 200 || !body.endsWith(id)) failed(`${id}: ${response.statusCode} ${body}`);
        resolve();
      });
    });
    request.on("socket", () => (tally.connections += !request.reusedSocket));
    request.on("error", (error) => resolve(failed(`${error.code}: ${error.message}`)));
    request.end(id ? "x".repeat(100) : undefined);
  });
}

async function run(client) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let number = 0; number < requests; number++) {
    await sleep(Math.random() * 2000 * pause);
    await ask(agent, prefix ? `${prefix}-${client}-${number}` : "");
    tally.requests++;
  }
  agent.destroy();
}

Promise.all(Array.from({ length: Number(clients) }, (_, client) => run(client))).then(() =>
  console.log(JSON.stringify(tally)),
);
