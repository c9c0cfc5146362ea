// An operation as it goes on, and how one has ended.

import { h } from "./dom.js";
import { age, plural, took } from "./format.js";
import { PHASES } from "./store.js";

/** `swap v1 → v2`, `restart v1`. */
export function title({ kind, from, to }) {
  return kind === "restart" || !from ? `${kind} ${to}` : `${kind} ${from} → ${to}`;
}

/** The phases as steps: those that are over with their times, the one that runs counting, those to come. */
export function steps(operation, now) {
  const { phases, phase: current } = operation;
  const shown = PHASES.filter((name) => name !== "bake" || phases.bake || current === "bake");
  return h(
    "ol",
    { class: "steps", "aria-label": "Phases" },
    shown.map((name) => {
      const seen = phases[name];
      const runs = seen ? seen.seconds === null : name === current;
      const state = runs ? "runs" : seen ? "done" : "ahead";
      const seconds = seen && (seen.seconds ?? Math.max(0, now - seen.began));
      return h(
        "li",
        { key: name, class: state, "aria-current": runs && "step" },
        h("span", { class: "name" }, name),
        h("span", { class: "time" }, seen ? (runs ? age(seconds) : took(seconds)) : ""),
      );
    }),
  );
}

/** `12 connections finished, 1 was closed at the deadline`. */
export function drained({ drained: finished, forced }) {
  if (!finished && !forced) return "nothing had to be drained";
  const words = finished ? [`${plural(finished, "connection")} finished`] : [];
  if (forced) words.push(`${plural(forced, "connection")} ${forced === 1 ? "was" : "were"} closed at the deadline`);
  return words.join(", ");
}

/** Who asked for it: `root, pid 12 (proxyctl …)`. */
export function asker(by) {
  if (!by?.via) return "";
  const right = by.as && by.as !== "loopback" ? `${by.as}, ` : "";
  return `${right}${by.from || by.via}`;
}

/** Why it failed: the reason, what to do, the last lines that the backend printed. */
export function failure(result) {
  return [
    h("p", { class: "reason" }, result.error || "no reason was given"),
    result.hint && h("p", { class: "hint" }, result.hint),
    result.output?.length > 0 && [
      h("p", { class: "label" }, "The backend's last lines"),
      h("pre", { class: "output", tabindex: 0, "aria-label": "The backend's last lines" }, result.output.join("\n")),
    ],
  ];
}
