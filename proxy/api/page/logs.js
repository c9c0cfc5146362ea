// What a generation prints, as it prints it.

import { servicePath, stream } from "./api.js";
import { h, patch } from "./dom.js";

const LINES = 200; // of before
const KEPT = 5000;

/** Show the end of it, and go on until the dialog is closed. */
export async function showLogs(name, { id, version }) {
  const dialog = document.getElementById("logs");
  const opener = document.activeElement;
  const reading = new AbortController();
  let lines = [];
  let end = "";
  let state = "";
  const draw = () => {
    const shown = dialog.querySelector("pre");
    const follows = !shown || shown.scrollHeight - shown.scrollTop - shown.clientHeight < 40;
    patch(dialog, [
      h(
        "header",
        {},
        h("h2", { id: "logs-title" }, `${name}, generation ${id} (${version})`),
        h("form", { method: "dialog" }, h("button", { class: "quiet" }, "Close")),
      ),
      h(
        "pre",
        { class: "output", tabindex: 0, role: "log", "aria-label": `Output of ${name} generation ${id}` },
        lines.join("\n") || "(it has printed nothing)",
      ),
      state && h("p", { class: "muted", role: "status" }, state),
    ]);
    const after = dialog.querySelector("pre");
    if (follows) after.scrollTop = after.scrollHeight;
  };
  dialog.addEventListener(
    "close",
    () => {
      reading.abort();
      opener?.focus();
    },
    { once: true },
  );
  draw();
  dialog.showModal();
  let due = false;
  const drawSoon = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      draw();
    });
  };
  try {
    const path = `${servicePath(name, "versions", version, "logs")}?generation=${id}&lines=${LINES}&follow=true`;
    for await (const piece of stream(path, reading.signal)) {
      const whole = (end + piece).split("\n");
      end = whole.pop();
      lines = lines.concat(whole).slice(-KEPT);
      drawSoon();
    }
    state = "That is the end of it.";
  } catch (error) {
    if (reading.signal.aborted) return;
    state = `It cannot be shown any further: ${error.message}`;
  }
  drawSoon();
}
