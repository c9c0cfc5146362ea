// A service: what it is, what runs of it, what is under way.

import { chart, colorOf } from "./chart.js";
import { h } from "./dom.js";
import { age, plural, took } from "./format.js";
import { drained, failure, steps, title } from "./operation.js";

const GOOD = ["serving", "active"];
const BAD = ["down", "failed"];
const QUIET = ["warm", "stopping"];

/** `actions` opens the dialogs; `isOpen` and `toggle` fold the service where there are many. */
export function service(store, name, { actions, isOpen, toggle }) {
  const found = store.services[name];
  const operation = store.operationOf(name);
  const id = `service-${name}`;
  return h(
    "article",
    { key: name, class: `service ${found.state}`, "aria-labelledby": id },
    h(
      "header",
      {},
      h(
        "h2",
        { id },
        toggle
          ? h("button", { type: "button", class: "fold", "aria-expanded": String(isOpen), onclick: toggle }, name)
          : name,
      ),
      badge(found.state),
      h("span", { class: "version" }, found.active || "no version"),
      h("span", { class: "muted facts" }, `${found.protocol} · ${found.datapath} · ${found.listen.join(", ")}`),
      !isOpen && h("span", { class: "muted count" }, plural(connections(found), "connection")),
      isOpen && buttons(store, name, found, actions),
    ),
    !isOpen && found.generations.filter((each) => each.drain).map((each) => drain(each, store.now)),
    isOpen && [
      found.datapath !== found.datapath_configured &&
        h(
          "p",
          { class: "notice" },
          `“${found.datapath_configured}” is configured, and “${found.datapath}” in effect` +
            (found.datapath_reason ? `: ${found.datapath_reason}` : ""),
        ),
      operation
        ? h(
            "div",
            { class: "operation", key: "operation" },
            operation.kind && h("p", { class: "label" }, title(operation)),
            steps(operation, store.now),
          )
        : last(found.last_swap, store.now),
      h(
        "div",
        { class: "body" },
        h(
          "ul",
          { class: "generations", "aria-label": `Generations of ${name}` },
          [...found.generations].reverse().map((each) => generation(name, each, store.now, actions)),
        ),
        chart(name, store.times, store.samples.get(name), store.now),
      ),
    ],
  );
}

function connections(found) {
  return found.generations.reduce((sum, each) => sum + each.connections, 0);
}

function badge(state) {
  const kind = GOOD.includes(state) ? "good" : BAD.includes(state) ? "bad" : QUIET.includes(state) ? "quiet" : "busy";
  return h("span", { class: `badge ${kind}` }, state);
}

function buttons(store, name, found, actions) {
  const button = (verb, text, isPossible = true) =>
    h(
      "button",
      {
        type: "button",
        disabled: !store.mayAct || !isPossible,
        "aria-label": `${text} ${name}`,
        onclick: () => actions.open(verb, name),
      },
      text,
    );
  return h(
    "div",
    { class: "buttons", role: "group", "aria-label": `Actions on ${name}` },
    button("swap", "Swap"),
    button("rollback", "Roll back", found.previous),
    button("restart", "Restart", found.active),
    found.state === "paused" ? button("resume", "Resume") : button("pause", "Pause", found.datapath !== "inherit"),
  );
}

function last(result, now) {
  if (!result) return null;
  const ago = age(now - result.finished);
  if (result.result === "swapped") {
    const text = `${title(result)} ${ago} ago, took ${took(result.finished - result.started)}, ${drained(result)}`;
    return h("p", { key: "last", class: "muted last" }, text);
  }
  return h(
    "div",
    { key: "last", class: "failure" },
    h("p", { class: "label" }, `${title(result)} ${result.result.replace("_", " ")}, ${ago} ago`),
    failure(result),
  );
}

function generation(name, found, now, actions) {
  return h(
    "li",
    { key: found.id, class: `generation ${found.state}` },
    h(
      "div",
      { class: "line" },
      h("span", { class: `swatch ${colorOf(found.id)}`, "aria-hidden": "true" }),
      h("span", { class: "number" }, `gen ${found.id}`),
      h("strong", {}, found.version),
      badge(found.state),
      h("span", { class: "muted" }, age(now - found.since)),
      h(
        "div",
        { class: "connections" },
        h(
          "span",
          {},
          h("b", {}, found.connections.toLocaleString()),
          found.connections === 1 ? " connection" : " connections",
          found.in_flight !== null && h("span", { class: "muted" }, `, ${found.in_flight.toLocaleString()} in flight`),
        ),
        h(
          "button",
          {
            type: "button",
            class: "quiet",
            "aria-label": `Logs of ${name} generation ${found.id}`,
            onclick: () => actions.logs(name, found),
          },
          "Logs",
        ),
      ),
    ),
    drain(found, now),
    h("ul", { class: "replicas", "aria-label": `Replicas of generation ${found.id}` }, found.replicas.map(replica)),
  );
}

/** How far a drain is: a bar that fills as connections end, and how long the rest has. */
function drain({ id, version, drain: found, open }, now) {
  if (!found) return null;
  const done = found.initial ? (found.initial - found.remaining) / found.initial : 1;
  const left = `${found.remaining.toLocaleString()} of ${found.initial.toLocaleString()} connections left`;
  return h(
    "div",
    { key: `drain-${id}`, class: "drain" },
    h(
      "div",
      {
        class: "bar",
        role: "progressbar",
        "aria-label": `${version} drains`,
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-valuenow": Math.round(done * 100),
        "aria-valuetext": left,
      },
      h("span", { style: { width: `${(done * 100).toFixed(1)}%` } }),
    ),
    h(
      "p",
      {},
      h("b", {}, left),
      `, closed in ${age(found.deadline - now)}`,
      open && h("span", { class: "muted" }, `, idle for ${age(open.least_idle)} to ${age(open.most_idle)}`),
    ),
  );
}

function replica(found) {
  const facts = [found.pid && `pid ${found.pid}`, found.address].filter(Boolean);
  const restarts = found.restarts > 0 && `restarted ${plural(found.restarts, "time")}`;
  return h(
    "li",
    { key: found.replica, class: found.healthy ? "healthy" : "sick" },
    h("span", { class: "health" }, found.healthy ? "healthy" : "not healthy"),
    ` ${facts.join(" · ")}`,
    restarts && h("span", { class: "warn" }, ` · ${restarts}`),
    !found.healthy && found.reason && h("span", { class: "warn" }, ` · ${found.reason}`),
  );
}
