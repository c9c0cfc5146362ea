// What can be done: each asks first, and says what will happen.

import { ask, Refused, servicePath } from "./api.js";
import { h, patch } from "./dom.js";
import { duration, plural } from "./format.js";
import { showLogs } from "./logs.js";

export class Actions {
  #dialog = document.getElementById("dialog");
  #opener = null;
  #opened = 0; // how many there have been

  constructor(store, say) {
    this.store = store;
    this.say = say;
    this.#dialog.addEventListener("close", () => {
      this.#opened += 1;
      this.#opener?.focus();
    });
  }

  /** `name` is a service, or nothing for what concerns the whole proxy. */
  open(verb, name) {
    const plan = () => VERBS[verb](this.store, name, name && this.store.services[name]);
    this.#show(plan(), name, () => (name && !this.store.services[name] ? null : plan().yes));
  }

  logs(name, generation) {
    showLogs(name, generation);
  }

  /**
   * `title`, `text` (what will happen), `fields`, `yes` (the button), `danger`, and `act` with the form's values.
   * `yesNow` says what the button would say now: others act too, while somebody reads.
   */
  #show(plan, name, yesNow) {
    this.#opener = document.activeElement;
    const number = ++this.#opened; // of another number, everything in it is new: nothing is left that was filled in
    const isOpen = () => this.#opened === number;
    let problem = null;
    let isBusy = false;
    const draw = () => isOpen() && patch(this.#dialog, form());
    const submit = async (event) => {
      event.preventDefault();
      if (isBusy) return;
      const values = Object.fromEntries(new FormData(event.target));
      isBusy = true;
      problem = null;
      draw();
      try {
        if (yesNow() !== plan.yes) throw new Refused(409, CHANGED);
        const answer = await ask(...plan.act(values));
        if (isOpen()) this.#dialog.close();
        this.say(plan.done?.(answer) || `${name ? `${name}: ` : ""}${plan.title.toLowerCase()} has begun`);
      } catch (error) {
        problem = error;
        if (!isOpen()) this.say(`${plan.title}: ${error.message}`);
      }
      isBusy = false;
      draw();
    };
    const form = () =>
      h(
        "form",
        { key: number, method: "dialog", onsubmit: submit, "aria-busy": String(isBusy) },
        h("h2", { id: "dialog-title" }, name ? `${plan.title} ${name}` : plan.title),
        plan.text.filter(Boolean).map((text, i) => h("p", { key: i }, text)),
        plan.fields?.(draw),
        problem && refusal(problem),
        h(
          "div",
          { key: "buttons", class: "buttons" },
          h("button", { type: "button", class: "quiet", onclick: () => this.#dialog.close() }, "Cancel"),
          h(
            "button",
            {
              type: "submit",
              class: plan.danger ? "danger" : "primary",
              // Not `disabled`: that would take the focus from whoever has pressed it with the keyboard.
              "aria-disabled": isBusy && "true",
            },
            plan.yes,
          ),
        ),
      );
    draw();
    this.#dialog.showModal();
  }
}

const CHANGED = {
  message: "It has changed meanwhile what this would do, and nothing was done.",
  hint: "Close this, and look again.",
};

function refusal(error) {
  const isOurs = error instanceof Refused;
  return h(
    "div",
    { key: "refusal", class: "failure", role: "alert" },
    h("p", { class: "reason" }, isOurs ? error.message : "The proxy does not answer; nothing is known to have changed."),
    isOurs && error.hint && h("p", { class: "hint" }, error.hint),
    isOurs && error.details.length > 0 && h("pre", { class: "output", tabindex: 0 }, error.details.join("\n")),
  );
}

function activeOf(found) {
  return found.generations.find((each) => each.state === "active");
}

/** What becomes of the connections that are open when another generation takes over. */
function connectionsText(found) {
  const open = activeOf(found)?.connections ?? 0;
  const limit = duration(found.deadline);
  if (found.protocol === "http") {
    return (
      `Kept connections (${open.toLocaleString()} now) move over between two requests. ` +
      `Requests, websockets and downloads that are under way may finish within ${limit}; what is open then is closed.`
    );
  }
  return (
    `Open connections (${open.toLocaleString()} now) stay with ${found.active ?? "the old version"} and may finish ` +
    `within ${limit}; what is open then is closed.`
  );
}

function deadlineField(found) {
  return h(
    "label",
    { key: "deadline" },
    "Time for open connections",
    h("input", { name: "deadline", placeholder: duration(found.deadline), autocomplete: "off", size: 8 }),
  );
}

function withDeadline(body, { deadline }) {
  return deadline ? { ...body, deadline } : body;
}

const OTHER = "…";

function swap(store, name, found) {
  const others = found.versions.filter((version) => version !== found.active);
  const mayBring = store.access?.commands;
  let chosen = others[0] ?? OTHER;
  return {
    title: "Swap",
    yes: "Swap",
    text: [
      `The new version is started beside ${found.active ?? "nothing"} and checked. When it is healthy, new connections ` +
        "go to it in one step. If it does not get healthy, nothing changes.",
      connectionsText(found),
      others.length === 0 && !mayBring && "There is no other version: add one to the config and reload.",
    ],
    fields: (draw) => [
      h(
        "label",
        {},
        "Version",
        h(
          "select",
          {
            name: "version",
            onchange: (event) => {
              chosen = event.target.value;
              draw();
            },
          },
          others.map((version) => h("option", { key: version, value: version }, version)),
          mayBring && h("option", { value: OTHER }, "another one, by its command"),
        ),
      ),
      chosen === OTHER &&
        mayBring && [
          h("label", { key: "new" }, "Its name", h("input", { name: "new", required: true, autocomplete: "off" })),
          h(
            "label",
            { key: "command" },
            "Its command",
            h("input", { name: "command", required: true, placeholder: "./app --port {port}", autocomplete: "off" }),
          ),
        ],
      deadlineField(found),
    ],
    act: (values) => [
      servicePath(name, "swap"),
      withDeadline(
        values.version === OTHER
          ? { version: values.new, command: values.command }
          : { version: values.version ?? "" },
        values,
      ),
    ],
  };
}

function rollback(_store, name, found) {
  const warm = found.generations.find(({ version, state }) => version === found.previous && state === "warm");
  return {
    title: "Roll back",
    yes: `Roll back to ${found.previous}`,
    text: [
      warm
        ? `New connections go back to ${found.previous} at once: generation ${warm.id} of it still runs.`
        : `${found.previous} is started again and checked. When it is healthy, new connections go to it in one step.`,
      connectionsText(found),
    ],
    fields: () => deadlineField(found),
    act: (values) => [servicePath(name, "rollback"), withDeadline({}, values)],
  };
}

function restart(_store, name, found) {
  return {
    title: "Restart",
    yes: `Restart ${found.active}`,
    text: [
      `A new generation of ${found.active} is started beside the one that runs and checked. When it is healthy, new ` +
        "connections go to it in one step. If it does not get healthy, nothing changes.",
      connectionsText(found),
    ],
    fields: () => deadlineField(found),
    act: (values) => [servicePath(name, "restart"), withDeadline({}, values)],
  };
}

function pause(_store, name, found) {
  const what = found.protocol === "http" ? "New connections and requests" : "New connections";
  return {
    title: "Pause",
    yes: "Pause",
    text: [
      `${what} are accepted and held, and reach no backend until you resume. Nobody is refused, but everybody who ` +
        "comes waits.",
      "Open connections go on.",
    ],
    act: () => [servicePath(name, "pause"), {}],
    done: () => `${name} is paused`,
  };
}

function resume(_store, name) {
  return {
    title: "Resume",
    yes: "Resume",
    text: ["Everybody who was held is let go, and new connections reach the backend again."],
    act: () => [servicePath(name, "resume"), {}],
    done: () => `${name} serves again`,
  };
}

function reload(store) {
  return {
    title: "Reload the config",
    yes: "Reload",
    text: [
      `${store.proxy.config} is read again and applied: new services listen, those that are gone drain, and a service ` +
        "whose “active” was edited is swapped to that version. If it is not valid, nothing changes.",
    ],
    act: () => ["/v1/reload", {}],
    done: ({ changes, warnings }) => ["Reloaded.", ...(changes.length ? changes : ["Nothing has changed."]), ...warnings].join(" "),
  };
}

function stop(store) {
  const services = Object.values(store.services);
  const open = services.reduce((sum, { generations }) => sum + generations.reduce((s, each) => s + each.connections, 0), 0);
  const longest = Math.max(0, ...services.map(({ deadline }) => deadline));
  return {
    title: "Stop the proxy",
    yes: "Stop the proxy",
    danger: true,
    text: [
      `The public ports of ${plural(services.length, "service")} are closed: whoever connects from then on is refused.`,
      `Open connections (${open.toLocaleString()} now) may finish within ${duration(longest)}. Then every backend is ` +
        "stopped, and the proxy ends. This page ends with it.",
    ],
    fields: () =>
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", name: "now", value: "true" }),
        "Do not wait: close what is open at once",
      ),
    act: ({ now }) => ["/v1/stop", { now: now === "true" }],
    done: () => "The proxy is stopping",
  };
}

const VERBS = { swap, rollback, restart, pause, resume, reload, stop };
