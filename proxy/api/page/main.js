// The page: what is known (store.js) as a picture (dom.js), drawn anew when something has happened, and each second.

import { Actions } from "./actions.js";
import { h, patch } from "./dom.js";
import { age, clock, plural } from "./format.js";
import { history } from "./history.js";
import { Link } from "./link.js";
import { service } from "./service.js";
import { Store } from "./store.js";

const MANY = 6; // services, above which they are folded
const TOAST = 8000; // milliseconds

const root = document.getElementById("root");
const spoken = document.getElementById("spoken");
const store = new Store();
const folded = new Map(); // service: whether somebody has folded or unfolded it
let filter = "";
let toast = "";
let due = false;

const actions = new Actions(store, (text) => {
  toast = text;
  redraw();
  setTimeout(() => {
    if (toast === text) toast = "";
    redraw();
  }, TOAST);
});
const link = new Link(store, redraw);

store.announce = (text) => {
  spoken.textContent = text;
};

/** Once for all that has happened until the next picture is due. */
function redraw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}

function draw() {
  document.title = title();
  patch(root, [header(), lost(), troubles(), main(), h("p", { class: toast ? "toast shown" : "toast", role: "status" }, toast)]);
}

function title() {
  const states = Object.values(store.services).map(({ state }) => state);
  if (store.link.state === "lost") return "✕ proxyctl";
  if (states.includes("down")) return "● down · proxyctl";
  return states.includes("swapping") || states.includes("draining") ? "◐ proxyctl" : "proxyctl";
}

function header() {
  const { proxy } = store;
  const connections = proxy?.workers.reduce((sum, each) => sum + each.connections, 0);
  return h(
    "header",
    { class: "top", key: "top" },
    h("h1", {}, h("img", { src: "/page/icon.svg", alt: "", width: 28, height: 28 }), "proxyctl"),
    h("span", { class: `link ${store.link.state}` }, { live: "live", lost: "lost", connecting: "connecting" }[store.link.state]),
    proxy &&
      h(
        "p",
        { class: "muted facts" },
        `${proxy.version} · up ${age(store.now - proxy.since)} · ${plural(proxy.workers.length, "worker")} · ` +
          `${plural(connections, "relayed connection")}`,
        proxy.worker_restarts > 0 && h("span", { class: "warn" }, ` · ${plural(proxy.worker_restarts, "worker restart")}`),
        proxy.upgrade && h("span", { class: "warn" }, ` · upgrade: ${proxy.upgrade.phase}`),
        proxy.stopping && h("span", { class: "warn" }, " · stopping"),
      ),
    h(
      "div",
      { class: "buttons", role: "group", "aria-label": "Actions on the proxy" },
      h("button", { type: "button", disabled: !store.mayAct, onclick: () => actions.open("reload") }, "Reload"),
      h("button", { type: "button", class: "danger", disabled: !store.mayAct, onclick: () => actions.open("stop") }, "Stop"),
      store.access?.right === "page" &&
        h("form", { method: "post", action: "/logout" }, h("button", { class: "quiet" }, "Sign out")),
    ),
    store.access?.role === "read" && h("p", { class: "notice" }, "Signed in to look on: nothing can be changed from here."),
  );
}

function lost() {
  if (store.link.state !== "lost") return null;
  return h(
    "p",
    { key: "lost", class: "banner", role: "alert" },
    `The connection to the proxy was lost at ${clock(store.link.since)}, and what is shown is from then. Trying again. ` +
      "Traffic does not depend on it.",
  );
}

/** Only what the trouble is interrupts whoever listens; for how long it has lasted changes each second. */
function troubles() {
  return (store.proxy?.trouble || []).map(({ kind, message, hint, since }) =>
    h(
      "div",
      { key: `trouble-${kind}-${since}`, class: "banner trouble" },
      h("p", { role: "alert" }, h("strong", {}, "Trouble: "), message),
      h("p", { class: "hint" }, hint && `${hint} `, `(for ${age(store.now - since)})`),
    ),
  );
}

function main() {
  const names = Object.keys(store.services);
  if (!store.proxy) return h("main", { key: "main" }, h("p", { class: "empty" }, "Asking the proxy …"));
  const isMany = names.length > MANY;
  const shown = isMany ? names.filter((name) => name.toLowerCase().includes(filter.toLowerCase())) : names;
  return h(
    "main",
    { key: "main", class: store.isLive ? "" : "stale" },
    isMany && search(names, shown),
    shown.map((name) => {
      const isOpen = !isMany || (folded.get(name) ?? needsAttention(store.services[name]));
      const toggle = () => {
        folded.set(name, !isOpen);
        redraw();
      };
      return service(store, name, { actions, isOpen, toggle: isMany && toggle });
    }),
    history(store, (name) => !isMany || !filter || shown.includes(name), redraw),
  );
}

function needsAttention({ state }) {
  return state !== "serving";
}

function search(names, shown) {
  const states = new Map();
  for (const name of names) states.set(store.services[name].state, (states.get(store.services[name].state) || 0) + 1);
  const counts = [...states].map(([state, count]) => `${count} ${state}`).join(", ");
  return h(
    "div",
    { class: "search", key: "search" },
    h(
      "label",
      {},
      "Find a service",
      h("input", {
        type: "search",
        autocomplete: "off",
        oninput: (event) => {
          filter = event.target.value;
          redraw();
        },
      }),
    ),
    h("p", { class: "muted", role: "status" }, `${shown.length} of ${plural(names.length, "service")}: ${counts}`),
  );
}

setInterval(() => {
  store.sample();
  if (!document.hidden) redraw();
}, 1000);
redraw();
link.open();
