// Open connections of each generation over the last minutes: a swap is where one line falls and another rises.

import { h } from "./dom.js";
import { plural } from "./format.js";

const WIDTH = 600;
const HEIGHT = 120;
const COLORS = 6; // in the style sheet
const LONGEST = 300; // seconds
const SHORTEST = 60;

/** Which of the colours a generation has, as a class: the same in the list and in the chart. */
export function colorOf(id) {
  return `color-${id % COLORS}`;
}

/** `rows`: generation: connections at `times` (Unix), null where it was not there. */
export function chart(name, times, rows, now) {
  const span = Math.min(LONGEST, Math.max(SHORTEST, now - (times[0] ?? now)));
  const begin = now - span;
  const drawn = [...(rows || [])].map(([id, row]) => ({ id: Number(id), points: visible(times, row, begin) }));
  const lines = drawn.filter(({ points }) => isOfInterest(points, times.at(-1))).sort((a, b) => a.id - b.id);
  const top = nice(Math.max(1, ...lines.flatMap(({ points }) => points.map(([, count]) => count))));
  const x = (time) => ((time - begin) / span) * WIDTH;
  const y = (count) => HEIGHT - (count / top) * (HEIGHT - 6) - 1;
  return h(
    "figure",
    { class: "chart" },
    h(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": spoken(name, lines, span),
      },
      [0, 0.5, 1].map((part) => h("line", { class: "grid", x1: 0, x2: WIDTH, y1: y(part * top), y2: y(part * top) })),
      lines.map(({ id, points }) => [
        h("path", { key: `area-${id}`, class: `area ${colorOf(id)}`, d: area(points, x, y) }),
        h("path", { key: `line-${id}`, class: `curve ${colorOf(id)}`, d: path(points, x, y) }),
      ]),
    ),
    h("span", { class: "top", "aria-hidden": "true" }, top.toLocaleString()),
    h(
      "figcaption",
      {},
      h("span", {}, `${ago(span)} ago`),
      h(
        "span",
        { class: "legend" },
        lines.map(({ id }) => h("span", { key: id, class: colorOf(id) }, `gen ${id}`)),
      ),
      h("span", {}, "now"),
    ),
  );
}

function ago(span) {
  return span < 120 ? `${Math.round(span)} s` : `${Math.round(span / 60)} min`;
}

/** A generation that never had a connection, and is gone, is not. */
function isOfInterest(points, last) {
  return points.length && (points.at(-1)[0] === last || points.some(([, count]) => count > 0));
}

/** Its points. One that is gone has no connection any more: its line falls, and ends there. */
function visible(times, row, begin) {
  const points = [];
  for (let i = 0; i < times.length; i++) {
    const count = row[i] ?? (row[i - 1] > 0 ? 0 : null);
    if (count !== null && times[i] >= begin) points.push([times[i], count]);
  }
  return points;
}

function path(points, x, y) {
  return points.map(([time, count], i) => `${i ? "L" : "M"}${x(time).toFixed(1)} ${y(count).toFixed(1)}`).join("");
}

function area(points, x, y) {
  const [first, last] = [points[0][0], points.at(-1)[0]];
  return `${path(points, x, y)}L${x(last).toFixed(1)} ${HEIGHT}L${x(first).toFixed(1)} ${HEIGHT}Z`;
}

/** The next number above that people count in: 1, 2, 5, 10, 20, … */
function nice(count) {
  const power = 10 ** Math.floor(Math.log10(count));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= count);
}

function spoken(name, lines, span) {
  const said = lines.map(({ id, points }) => `generation ${id} has ${plural(points.at(-1)[1], "connection")}`);
  return `Open connections of ${name} over the last ${ago(span)}: ${said.join(", ") || "none"}`;
}
