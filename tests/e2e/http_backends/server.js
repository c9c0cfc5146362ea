// Node's http server: `POST /ids/ID` counts an id, anything else says who answers. See ledger.py for the environment.
"use strict";
const fs = require("node:fs");
const http = require("node:http");

const name = `${process.env.PROXY_VERSION} ${process.env.PROXY_GENERATION}`;
const ledger = fs.openSync(process.env.LEDGER, "a");

const server = http.createServer((request, response) => {
  request.resume();
  request.on("end", () => {
    const id = request.url.startsWith("/ids/") ? request.url.slice("/ids/".length) : "";
    if (id) fs.writeSync(ledger, `${id} ${name}\n`);
    response.end(id ? `${name} ${id}` : name);
  });
});

// close() closes idle connections too, and the process ends with the last one.
process.on("SIGTERM", () => server.close());
server.listen(Number(process.argv[2]), "127.0.0.1");
