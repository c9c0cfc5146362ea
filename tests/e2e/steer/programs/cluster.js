// Node's cluster with two workers: any request says who answers. The primary listens, and hands connections on.
"use strict";
const cluster = require("node:cluster");
const http = require("node:http");

if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();
  process.on("SIGTERM", () => cluster.disconnect());
} else {
  const name = `${process.env.PROXY_VERSION} ${process.env.PROXY_GENERATION} 0 ${process.pid}`;
  http.createServer((request, response) => response.end(name)).listen(Number(process.argv[2]), "127.0.0.1");
  process.on("SIGTERM", () => {});
}
