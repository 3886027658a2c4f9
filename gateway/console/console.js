// The console: asks for the status once a second, shows it, publishes and watches.

import * as api from "./api.js";
import { flow } from "./charts.js";
import { Rates } from "./rates.js";
import * as tables from "./tables.js";
import { compact, duration, h, microseconds, number } from "./words.js";

const EVERY_MS = 1_000;
const MESSAGES_SHOWN = 200;

const $ = (id) => document.getElementById(id);
const rates = new Rates();
/** Topic → { p50_us, p99_us, max_us, messages } of the last second in which it had messages. */
const latencies = new Map();
let last = null;
let detailed = null;
let watching = null;
let measuring = null;

async function poll() {
  try {
    const status = await api.status();
    take(status);
    connection("live");
  } catch (error) {
    if (error instanceof api.Unauthorized) return askToken();
    connection("offline");
  }
  setTimeout(poll, EVERY_MS);
}

function take(status) {
  const counts = new Map(status.server.topics.map(({ name, next }) => [name, next]));
  const sum = (isPart) => [...counts].reduce((all, [name, count]) => (isPart(name) ? all + count : all), 0);
  const channel = new Map(status.server.topics.map(({ name, channel }) => [name, channel]));
  const isOwn = (name) => name.startsWith("$");
  const isEvents = (name) => name === "$events" || name.startsWith("$events/");
  counts.set("all", sum((name) => !isOwn(name) || isEvents(name)));
  counts.set("all reliable", sum((name) => !isOwn(name) && channel.get(name) === "reliable"));
  counts.set("all fast", sum((name) => !isOwn(name) && channel.get(name) === "fast"));
  counts.set("all events", sum(isEvents));
  rates.take(counts, performance.now());
  last = status;
  show();
}

function show() {
  if (!last) return;
  const { server, events, gateway } = last;
  $("server").textContent = `${server.name} · ${server.version} · up ${duration(server.uptime_seconds)}`;
  const dropped = server.topics.reduce((sum, topic) => sum + tables.dropCount(topic), 0);
  fill("tiles", tables.tiles({ server, gateway, events, rates, dropped }));
  showFlow();
  $("topics-count").textContent = number(tables.userTopics(server).length);
  fill("topics", tables.topics(server, rates, latencies, $("filter").value));
  $("sessions-count").textContent = number(server.sessions_total);
  fill("sessions", tables.sessions(server));
  fill("namespaces", tables.namespaces(events));
  fill("gateway", tables.gateway(gateway));
  fill("queues", tables.queues(server));
  fill("drops", tables.drops(server, events, gateway));
  fill("topic-names", tables.userTopics(server).slice(0, 500).map(({ name }) => h("option", { value: name })));
  const topic = server.topics.find(({ name }) => name === detailed);
  if (topic && $("detail").open) fill("detail", tables.detail(topic));
}

function showFlow() {
  const kinds = ["reliable", "fast", "events"];
  const series = kinds.map((kind) => ({ kind, history: rates.history(`all ${kind}`) }));
  $("flow").replaceChildren(flow(series, $("flow").clientWidth || 600));
}

/** Puts new content in; what had the focus keeps it. */
function fill(id, children) {
  const element = $(id);
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const same = focused && [...focused.attributes].find(({ name }) => name.startsWith("data-"));
  element.replaceChildren(...children.flat().filter(Boolean));
  if (same) element.querySelector(`[${same.name}="${CSS.escape(same.value)}"]`)?.focus();
}

function connection(state) {
  $("connection").dataset.state = state;
  $("connection").textContent = state === "live" ? "live" : "no answer, trying again";
}

function askToken() {
  connection("offline");
  if (sessionStorage.getItem("twinlane console token")) $("token-why").textContent = "The server does not know this token. It makes a new one at each start.";
  $("token-form").onsubmit = () => {
    api.useToken($("token").value);
    poll();
  };
  $("token-dialog").showModal();
}

function watch(topic) {
  watching?.abort();
  watching = new AbortController();
  $("watch").elements.topic.value = topic;
  $("watch").querySelector("button").textContent = "Stop";
  $("messages").replaceChildren();
  facts(`listening on ${topic}`);
  const { signal } = watching;
  const ended = (why) => {
    if (signal.aborted) return;
    facts(why);
    stopWatching();
  };
  api.subscribe({ topic }, signal, heard).then(() => ended("the server ended it"), (error) => ended(error.message));
}

function stopWatching() {
  watching?.abort();
  watching = null;
  $("watch").querySelector("button").textContent = "Watch";
}

function heard(kind, data) {
  if (kind === "second") return second(data);
  if (kind === "message") return line(messageLine(data));
  if (kind === "gap") return line(h("li", { class: "gap" }, `${data.topic}: ${number(data.messages)} missing, ${data.cause}`));
  if (kind === "end") facts(data.why);
}

/** What the last second was like. */
function second({ topics, skipped }) {
  for (const [name, latency] of Object.entries(topics)) latencies.set(name, latency);
  if (!watching) return;
  const messages = Object.values(topics).reduce((sum, topic) => sum + topic.messages, 0);
  const worst = Math.max(0, ...Object.values(topics).map(({ p99_us }) => p99_us));
  const words = [`${compact(messages)}/s`];
  if (messages) words.push(`p99 ${microseconds(worst)}`);
  if (skipped) words.push(`${compact(skipped)} not shown`);
  facts(words.join(" · "));
}

function messageLine({ topic, offset, latency_us: latency, text, base64, bytes, key }) {
  const shown = text ?? `${base64} (base64)`;
  return h("li", {},
    h("span", { class: "where" }, topic, h("small", {}, ` #${number(offset)}${key ? ` · key ${key}` : ""} · ${microseconds(latency)}`)),
    h("code", {}, shown, bytes > shown.length && text !== undefined && h("small", {}, ` … ${number(bytes)} bytes`)),
  );
}

function line(item) {
  $("messages").prepend(item);
  if ($("messages").childElementCount > MESSAGES_SHOWN) $("messages").lastElementChild.remove();
}

function facts(text) {
  $("watch-facts").textContent = text;
}

/** Latencies of all topics, while it is asked for. */
function measure(isOn) {
  measuring?.abort();
  measuring = null;
  latencies.clear();
  if (isOn) {
    measuring = new AbortController();
    const { signal } = measuring;
    const ended = () => !signal.aborted && ($("latency").checked = false);
    const taken = (kind, data) => kind === "second" && Object.entries(data.topics).forEach(([name, one]) => latencies.set(name, one));
    api.subscribe({ topic: "**", show: "none" }, signal, taken).then(ended, ended);
  }
  show();
}

$("filter").oninput = show;
$("latency").onchange = ({ target }) => measure(target.checked);
$("publish").onsubmit = async (event) => {
  event.preventDefault();
  const { topic, text, key } = Object.fromEntries(new FormData(event.target));
  try {
    const { seq, offset, channel } = await api.publish(key ? { topic, text, key } : { topic, text });
    $("published").className = "answer good";
    $("published").textContent = channel === "fast" ? `sent as message ${number(seq)} of its publisher` : `stored at offset ${number(offset)}`;
  } catch (error) {
    $("published").className = "answer bad";
    $("published").textContent = error instanceof api.Unauthorized ? "the token is no longer known: reload the page" : error.message;
  }
};
$("watch").onsubmit = (event) => {
  event.preventDefault();
  if (watching) stopWatching(), facts("");
  else watch(event.target.elements.topic.value);
};
$("topics").onclick = ({ target }) => {
  detailed = target.closest("[data-topic]")?.dataset.topic ?? null;
  const topic = last?.server.topics.find(({ name }) => name === detailed);
  if (!topic) return;
  fill("detail", tables.detail(topic));
  $("detail").showModal();
};
$("detail").onclick = ({ target }) => {
  const { watch: toWatch, publish: toPublish } = target.dataset;
  if (target === $("detail") || target.closest("[data-close]") || toWatch || toPublish) $("detail").close();
  if (toWatch) watch(toWatch), $("watch").scrollIntoView({ block: "nearest" });
  if (toPublish) ($("publish").elements.topic.value = toPublish), $("publish").elements.text.focus();
};
new ResizeObserver(showFlow).observe($("flow"));

api.takeToken();
poll();
