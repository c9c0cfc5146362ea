// What happened: operations with the times of their phases, and what else somebody asked for, newest first.

import { h } from "./dom.js";
import { clock, plural, took } from "./format.js";
import { asker, drained, failure, title } from "./operation.js";
import { PHASES } from "./store.js";

const MORE = 20;
let shown = MORE;

/** `wants` says of a service's name whether it is shown. */
export function history(store, wants, redraw) {
  const operations = store.history.map((result) => ({ time: result.finished, service: result.service, result }));
  // A swap, rollback or restart is in the list by how it ended.
  const actions = store.actions
    .filter(({ operation }) => operation === undefined)
    .map((action) => ({ time: action.time, service: action.service, action }));
  const entries = [...operations, ...actions].filter(({ service }) => wants(service)).sort((a, b) => b.time - a.time);
  return h(
    "section",
    { key: "history", class: "history", "aria-labelledby": "history-title" },
    h("h2", { id: "history-title" }, "History"),
    entries.length === 0 && h("p", { class: "empty" }, "Nothing has been swapped yet."),
    h(
      "ol",
      { class: "timeline" },
      entries.slice(0, shown).map((entry) => (entry.result ? operation(entry.result) : action(entry.action))),
    ),
    entries.length > shown &&
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          onclick: () => {
            shown += MORE;
            redraw();
          },
        },
        `Show ${Math.min(MORE, entries.length - shown)} more`,
      ),
  );
}

function operation(result) {
  const phases = PHASES.filter((name) => result.phases[name] > 0);
  const total = result.finished - result.started;
  const went = result.result === "swapped";
  return h(
    "li",
    { key: `operation-${result.id}-${result.started}`, class: `entry ${result.result}` },
    h("time", { datetime: iso(result.finished) }, clock(result.finished)),
    h(
      "div",
      {},
      h(
        "p",
        { class: "what" },
        h("strong", {}, result.service),
        ` ${title(result)} `,
        h("span", { class: `badge ${went ? "good" : "bad"}` }, result.result.replace("_", " ")),
        h("span", { class: "muted" }, ` took ${took(total)}, ${drained(result)}`),
      ),
      h(
        "div",
        { class: "phases", "aria-hidden": "true" },
        phases.map((name) =>
          h("span", { key: name, class: `phase in-${name}`, style: { "flex-grow": String(result.phases[name]) } }),
        ),
      ),
      h(
        "p",
        { class: "muted times" },
        phases.map((name) =>
          h("span", { key: name }, h("i", { class: `phase in-${name}` }), ` ${name} ${took(result.phases[name])} `),
        ),
        asker(result.by) && h("span", { class: "by" }, `by ${asker(result.by)}`),
      ),
      !went && h("details", {}, h("summary", {}, "Why"), failure(result)),
      went && result.error && h("p", { class: "reason" }, result.error),
    ),
  );
}

function action({ time, action: name, service, by, now, changes }) {
  const what = { stop: now ? "stop now" : "stop", reload: `reload, ${plural(changes ?? 0, "change")}` }[name] || name;
  return h(
    "li",
    { key: `action-${time}-${name}-${service}`, class: "entry action" },
    h("time", { datetime: iso(time) }, clock(time)),
    h(
      "p",
      { class: "what" },
      h("strong", {}, service || "proxy"),
      ` ${what}`,
      h("span", { class: "muted by" }, asker(by) && ` by ${asker(by)}`),
    ),
  );
}

function iso(time) {
  return new Date(time * 1000).toISOString();
}
