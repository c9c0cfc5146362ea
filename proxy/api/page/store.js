// What is known of the proxy, put together from its event stream.

import { ask } from "./api.js";

const KEPT = 200; // entries of the history
const SAMPLES = 150; // of connections, as the proxy keeps
const INTERVAL = 2; // seconds between two of them
export const PHASES = ["start", "health", "switch", "bake", "drain", "stop"];

export class Store {
  constructor() {
    this.link = { state: "connecting", since: Date.now() / 1000 };
    this.access = null;
    this.proxy = null;
    this.services = {};
    this.history = [];
    this.actions = [];
    this.progress = new Map(); // operation id: its phases, as far as they were seen
    this.times = []; // Unix times of samples
    this.samples = new Map(); // service: generation: connections at these times
    this.skew = 0; // seconds that the proxy's clock is ahead of this one
    this.announce = () => {};
  }

  /** The Unix time by the proxy's clock. */
  get now() {
    return Date.now() / 1000 + this.skew;
  }

  get isLive() {
    return this.link.state === "live";
  }

  get mayAct() {
    return this.isLive && this.access?.role === "act" && !this.proxy?.stopping;
  }

  connected(state) {
    if (this.link.state !== state) this.link = { state, since: Date.now() / 1000 };
  }

  /** Learn from one event of the stream. */
  take(event) {
    const take = { status: this.#status, phase: this.#phase, result: this.#result, action: this.#action }[event.type];
    take?.call(this, event);
  }

  /** What happened before the page was there, or while it was cut off. */
  async catchUp() {
    const [access, past] = await Promise.all([ask("/v1/access"), ask(`/v1/history?limit=${KEPT}`)]);
    this.access = access;
    // What has come over the stream meanwhile may be newer than the answer.
    this.history = merged(past.history, this.history, ({ id, started }) => `${id} ${started}`, "finished");
    this.actions = merged(past.actions, this.actions, identity, "time");
  }

  #status(event) {
    this.skew = event.time - Date.now() / 1000;
    if (event.whole) {
      this.services = {};
      this.progress = new Map();
      this.#takeSamples(event.samples);
    }
    if (event.proxy) this.proxy = event.proxy;
    Object.assign(this.services, event.services);
    for (const name of event.gone || []) delete this.services[name];
  }

  #phase({ operation, service, phase, state, seconds, time }) {
    const known = this.progress.get(operation) || { operation, service, phases: {} };
    known.phases[phase] = { began: known.phases[phase]?.began ?? time, seconds: state === "end" ? seconds : null };
    this.progress.set(operation, known);
    if (state === "begin") this.announce(`${service}: ${phase}`);
  }

  #result({ operation, result }) {
    this.progress.delete(operation);
    this.history = [...this.history.filter((each) => each.id !== result.id), result].slice(-KEPT);
    this.announce(`${result.service}: ${result.kind} to ${result.to} ${result.result.replace("_", " ")}`);
  }

  #action({ type, ...action }) {
    this.actions = merged(this.actions, [action], identity, "time");
  }

  /** The operation of a service that is under way, as far as it was seen. */
  operationOf(name) {
    const begun = this.services[name].operation;
    const seen = [...this.progress.values()].filter((each) => each.service === name);
    return begun ? { ...begun, phases: this.progress.get(begun.id)?.phases || {} } : seen.at(-1);
  }

  // Samples: those that the proxy has taken, and from then on our own.

  #takeSamples({ times, services }) {
    this.times = times;
    this.samples = new Map(Object.entries(services).map(([name, rows]) => [name, new Map(Object.entries(rows))]));
  }

  /** Add a sample, when it is time for one. */
  sample() {
    const now = this.now;
    if (!this.isLive || (this.times.length && isWithin(now - this.times.at(-1), INTERVAL))) return;
    this.times.push(now);
    for (const [name, service] of Object.entries(this.services)) {
      const rows = this.samples.get(name) || new Map();
      this.samples.set(name, rows);
      for (const generation of service.generations) {
        const row = rows.get(String(generation.id)) || Array(this.times.length - 1).fill(null);
        rows.set(String(generation.id), row);
        row[this.times.length - 1] = generation.connections;
      }
    }
    const extra = this.times.length - SAMPLES;
    if (extra > 0) this.times.splice(0, extra);
    for (const rows of this.samples.values()) {
      for (const [id, row] of rows) {
        if (extra > 0) row.splice(0, extra);
        if (row.every((count) => count === null || count === undefined)) rows.delete(id);
      }
    }
  }
}

/** A clock that was set back says nothing of how long ago it was. */
function isWithin(passed, interval) {
  return passed >= 0 && passed < interval;
}

function identity({ time, action, service, by }) {
  return `${time} ${action} ${service} ${by?.from}`;
}

/** Both lists as one, without what is in both, oldest first. */
function merged(some, more, keyOf, when) {
  const all = new Map([...some, ...more].map((each) => [keyOf(each), each]));
  return [...all.values()].sort((a, b) => a[when] - b[when]).slice(-KEPT);
}
