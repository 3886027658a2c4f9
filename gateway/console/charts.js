// Charts as inline SVG, drawn anew at each status: a line in a table cell, and the flow of all messages.

import { compact } from "./words.js";
import { SECONDS } from "./rates.js";

const NS = "http://www.w3.org/2000/svg";

/** A small line without axes. */
export function spark(history, kind) {
  const [width, height] = [96, 22];
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: `spark ${kind}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const shown = history.slice(-60);
  if (shown.length > 1) {
    const max = Math.max(1, ...shown);
    const points = shown.map((rate, i) => point(width - (shown.length - 1 - i) * (width / 59), height - 2 - (rate / max) * (height - 4)));
    svg.append(draw("path", { d: `M${points.join("L")}` }));
  }
  return svg;
}

/** The flow of messages: `series` is `[{ kind, history }]`, stacked from the first up. */
export function flow(series, width) {
  const [height, left, bottom, top] = [190, 46, 22, 10];
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  const total = Array.from({ length: SECONDS }, (_, i) => series.reduce((sum, { history }) => sum + at(history, i), 0));
  const max = nice(Math.max(10, ...total));
  const x = (i) => left + (i / (SECONDS - 1)) * (width - left - 6);
  const y = (rate) => height - bottom - (rate / max) * (height - bottom - top);
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(draw("path", { class: "grid", d: `M${left} ${y(max * share)}H${width - 6}` }));
    if (share % 0.5 === 0) svg.append(label(left - 8, y(max * share) + 4, compact(max * share), "end"));
  }
  for (const seconds of [120, 90, 60, 30, 0]) {
    const anchor = seconds === 0 ? "end" : seconds === SECONDS ? "start" : "middle";
    svg.append(label(x(SECONDS - 1 - Math.min(seconds, SECONDS - 1)), height - 5, seconds ? `−${seconds} s` : "now", anchor));
  }
  const below = new Array(SECONDS).fill(0);
  for (const { kind, history } of series) {
    const upper = below.map((base, i) => base + at(history, i));
    if (history.some((rate) => rate > 0)) {
      const points = (rates) => rates.map((rate, i) => point(x(i), y(rate))).slice(SECONDS - history.length);
      const line = points(upper);
      const back = points(below).reverse();
      svg.append(draw("path", { class: `area ${kind}`, d: `M${line.join("L")}L${back.join("L")}Z` }));
      svg.append(draw("path", { class: `line ${kind}`, d: `M${line.join("L")}` }));
    }
    upper.forEach((rate, i) => (below[i] = rate));
  }
  const now = series.map(({ kind, history }) => `${compact(history.at(-1) ?? 0)} ${kind}`).join(", ");
  svg.setAttribute("aria-label", `Messages per second now: ${now}`);
  return svg;
}

/** The rate at place `i` of the time shown; what has not been measured is 0. */
function at(history, i) {
  return history[i - (SECONDS - history.length)] ?? 0;
}

/** A round number at or above `max`. */
function nice(max) {
  const unit = 10 ** Math.floor(Math.log10(max));
  return [1, 2, 4, 5, 10].map((times) => times * unit).find((round) => round >= max);
}

function point(x, y) {
  return `${x.toFixed(1)} ${y.toFixed(1)}`;
}

function label(x, y, text, anchor) {
  const element = draw("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
