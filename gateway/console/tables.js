// What a status says, as tables and lists. Nothing here asks the server or keeps anything.

import { spark } from "./charts.js";
import { bytes, compact, duration, h, microseconds, number } from "./words.js";

const MORE = "…";

export function tiles({ server, gateway, events, rates, dropped }) {
  const own = userTopics(server);
  const browsers = gateway ? Object.values(gateway.open ?? {}).reduce((sum, count) => sum + count, 0) : null;
  return [
    tile("published per second", compact(rates.now("all")), spark(rates.history("all"), "reliable")),
    tile("topics", number(own.length), `${number(own.filter(({ channel }) => channel === "fast").length)} fast`),
    tile("sessions", number(server.sessions_total), `${number(server.connections_open)} connections`),
    tile("browsers", browsers === null ? "–" : number(browsers), events ? `${number(events.sockets_total)} sockets` : ""),
    tile("kept in memory", bytes(server.memory_bytes), server.log ? `${bytes(server.log.file_bytes)} on disk` : "no log on disk"),
    tile("dropped", compact(dropped), dropped ? "reasons below" : "nothing so far", dropped > 0),
  ];
}

function tile(name, value, more, isWarning = false) {
  return h("div", { class: isWarning ? "tile warn" : "tile" }, h("span", {}, name), h("strong", {}, value), h("small", {}, more));
}

/** The topics that people made; the server's own begin with `$`. */
export function userTopics({ topics }) {
  return topics.filter(({ name }) => !name.startsWith("$"));
}

export function topics(server, rates, latencies, filter) {
  const shown = userTopics(server).filter(({ name }) => name.includes(filter));
  shown.sort((a, b) => rates.now(b.name) - rates.now(a.name) || a.name.localeCompare(b.name));
  if (shown.length === 0) return [nothing(filter ? `No topic has “${filter}” in its name.` : "No topics yet. Publish something below.")];
  const rows = shown.slice(0, 200).map((topic) => {
    const latency = latencies.get(topic.name);
    const lag = Math.max(0, ...topic.subscribers.map(({ lag }) => lag));
    return h("tr", { "data-testid": `topic-${topic.name}` },
      h("th", { scope: "row" }, h("button", { class: "link", "data-topic": topic.name }, lane(topic.channel), topic.name)),
      h("td", {}, badges(topic)),
      h("td", { class: "rate" }, spark(rates.history(topic.name), topic.channel), h("b", {}, compact(rates.now(topic.name)))),
      h("td", { class: "number" }, compact(topic.next - topic.oldest), h("small", {}, bytes(topic.storage === "disk" ? topic.log_bytes : topic.memory_bytes))),
      h("td", { class: "number" }, number(topic.publishers), " → ", number(topic.subscribers_total)),
      h("td", { class: "number" }, lag ? compact(lag) : "0"),
      h("td", { class: "number" }, latency ? [microseconds(latency.p50_us), h("small", {}, `p99 ${microseconds(latency.p99_us)}`)] : "–"),
      h("td", { class: "number" }, dropCount(topic) ? h("b", { class: "bad" }, compact(dropCount(topic))) : "0"),
    );
  });
  const head = ["Topic", "Kind", "Per second", "Kept", "Writers → readers", "Lag", "Latency", "Dropped"];
  return [headings(head, 2), h("tbody", {}, rows), shown.length > 200 && more(head.length, shown.length - 200)];
}

function badges(topic) {
  const words = [topic.channel === "fast" ? topic.mode : topic.storage === "disk" ? "on disk" : "in memory"];
  if (topic.deadline_us) words.push(microseconds(topic.deadline_us));
  if (topic.last !== "none" && topic.last) words.push(`last of each ${topic.last}`.replace("each topic", "all"));
  return h("span", { class: `badge ${topic.channel}` }, `${topic.channel} · ${words.join(" · ")}`);
}

export function lane(channel) {
  const template = document.createElement("template");
  const d = "M2 4h18";
  template.innerHTML = `<svg viewBox="0 0 22 8" class="lanes" aria-hidden="true"><path class="${channel === "fast" ? "fast" : "reliable"}" d="${d}"/></svg>`;
  return template.content;
}

export function sessions({ sessions, sessions_total: total }) {
  if (total === 0) return [nothing("No client is connected by twinlane's own protocol.")];
  const rows = sessions.slice(0, 200).map((session) =>
    h("tr", {},
      h("th", { scope: "row" }, session.client || "a client", h("small", { class: "mono" }, session.id.slice(0, 8))),
      h("td", { class: "mono" }, session.peer),
      h("td", {}, over("reliable", session.reliable_over)),
      h("td", {}, over("fast", session.fast_over)),
      h("td", { class: "why" }, session.why, session.switches.length > 0 && h("small", {}, switches(session))),
      h("td", { class: "number" }, session.udp ? [microseconds(session.udp.round_trip_us), h("small", {}, `${loss(session.udp)} lost`)] : "–"),
      h("td", { class: "number" }, number(session.publishers), " / ", number(session.subscriptions)),
    ),
  );
  const head = ["Client", "Address", "Reliable over", "Fast over", "Why", "Round trip", "Publishes / subscribes"];
  return [headings(head, 5), h("tbody", {}, rows), total > rows.length && more(head.length, total - rows.length)];
}

/** What carries a channel; `-` while the session has no connection. */
function over(channel, transport) {
  return transport === "-" ? h("small", {}, "away") : h("span", { class: `badge ${channel}` }, transport);
}

function switches({ switches: all, why }) {
  const last = all.at(-1);
  const times = all.length === 1 ? "once" : `${all.length} times`;
  return `changed ${times}, last ${duration(Math.round(last.ago_ms / 1_000))} ago${last.why === why ? "" : `: ${last.why}`}`;
}

function loss({ sent_packets: sent, lost_packets: lost }) {
  return sent === 0 ? "0 %" : `${((100 * lost) / sent).toFixed(lost === 0 ? 0 : 1)} %`;
}

export function namespaces(events) {
  const all = events?.namespaces ?? [];
  if (all.length === 0) return [h("p", { class: "nothing" }, "No namespace is in use.")];
  return all.slice(0, 50).map((one) => {
    const rooms = one.rooms ?? [];
    const unnamed = (one.rooms_total ?? rooms.length) - rooms.length;
    return h("div", { class: "namespace", "data-testid": `namespace-${one.name}` },
      h("h3", {}, one.name, h("small", {}, namespaceFacts(one))),
      rooms.length > 0 && h("ul", { class: "rooms" }, rooms.map(({ name, sockets }) => h("li", {}, name, h("b", {}, number(sockets)))),
        unnamed > 0 && h("li", {}, `${MORE} ${number(unnamed)} more`)),
    );
  });
}

function namespaceFacts(one) {
  const words = [`${number(one.sockets)} here`];
  if (one.away) words.push(`${number(one.away)} may come back`);
  if (one.events !== undefined) words.push(`${number(one.events)} events`);
  for (const [why, count] of Object.entries(one.drops ?? {})) words.push(`${number(count)} ${why.replaceAll("_", " ")}`);
  return words.join(" · ");
}

/** Whatever the gateway counts: names are words with `_`, groups are one level deep. */
export function gateway(status) {
  if (!status) return [h("p", { class: "nothing" }, "No gateway is in this process.")];
  return Object.entries(status).flatMap(([name, value]) => {
    const isGroup = value !== null && typeof value === "object";
    const parts = isGroup ? Object.entries(value).filter(([, count]) => count) : [];
    const text = isGroup ? parts.map(([part, count]) => `${figure(part, count)} ${part.replaceAll("_", " ")}`).join(", ") || "none" : figure(name, value);
    return [h("dt", {}, name.replace(/_(bytes|total)/g, "").replaceAll("_", " ")), h("dd", {}, text)];
  });
}

function figure(name, value) {
  if (typeof value !== "number") return String(value);
  return /(^|_)bytes(_|$)/.test(name) ? bytes(value) : number(value);
}

export function queues({ queues, queues_total: total }) {
  if (!total) return [nothing("No queue groups.")];
  const rows = queues.slice(0, 100).map((queue) =>
    h("tr", {},
      h("th", { scope: "row" }, queue.topic, h("small", {}, queue.group)),
      ...[queue.ready, queue.in_flight, queue.delayed, queue.settled, queue.members].map((count) => h("td", { class: "number" }, compact(count))),
      h("td", { class: "number" }, queue.dead + queue.missing > 0 ? h("b", { class: "bad" }, compact(queue.dead + queue.missing)) : "0"),
    ),
  );
  const head = ["Queue", "Ready", "In flight", "Delayed", "Settled", "Workers", "Dead"];
  return [headings(head, 1), h("tbody", {}, rows), total > rows.length && more(head.length, total - rows.length)];
}

/** All drops by reason, then all refusals. */
export function drops(server, events, gateway) {
  const sums = new Map(Object.entries(events?.drops ?? {}).map(([why, count]) => [why, { count, topics: ["events"] }]));
  for (const topic of server.topics) {
    for (const [why, count] of Object.entries(topic.drops)) {
      const sum = sums.get(why) ?? { count: 0, topics: [] };
      sums.set(why, { count: sum.count + count, topics: [...sum.topics, topic.name] });
    }
  }
  const dropped = [...sums].filter(([, { count }]) => count > 0).map(([why, { count, topics }]) => bar(why, count, topics.slice(0, 3).join(", ")));
  const refused = Object.entries({ ...server.refused, ...gateway?.refused_total }).filter(([, count]) => count > 0);
  const parts = dropped.length > 0 ? [h("ul", { class: "bars" }, dropped)] : [h("p", { class: "nothing" }, "No message was dropped.")];
  if (refused.length > 0) {
    parts.push(h("h3", {}, "Turned away"), h("ul", { class: "bars" }, refused.map(([why, count]) => bar(why, count, "connections"))));
  }
  return parts;
}

function bar(why, count, where) {
  return h("li", {}, h("b", {}, compact(count)), h("span", {}, why.replaceAll("_", " ")), h("small", {}, where));
}

export function dropCount({ drops }) {
  return Object.values(drops).reduce((sum, count) => sum + count, 0);
}

/** All there is to say of one topic. */
export function detail(topic) {
  const readers = topic.subscribers.slice(0, 100).map((one) =>
    h("tr", {}, h("td", { class: "mono" }, one.session.slice(0, 8)), h("td", {}, one.over), h("td", { class: "number" }, compact(one.lag)), h("td", {}, one.policy)),
  );
  const facts = [
    ["offsets", `${number(topic.oldest)} to ${number(topic.next)}`],
    ["keeps", `${bytes(topic.retain_bytes)}, ${topic.retain_messages ? `${number(topic.retain_messages)} messages` : "any number"}${topic.retain_age_ms ? `, ${duration(topic.retain_age_ms / 1_000)}` : ""}`],
    ["message at most", bytes(topic.payload_bytes_max)],
    ["declared by", topic.declared_by],
    ...Object.entries(topic.drops).map(([why, count]) => [`dropped: ${why.replaceAll("_", " ")}`, number(count)]),
  ];
  return [
    h("div", { class: "head" }, h("h2", { id: "detail-title" }, lane(topic.channel), topic.name), h("button", { "data-close": "", "aria-label": "Close" }, "✕")),
    badges(topic),
    h("ul", { class: "sentences" }, topic.explanation.map((sentence) => h("li", {}, sentence))),
    h("dl", {}, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("h3", {}, `Read by ${number(topic.subscribers_total)}`),
    readers.length > 0 && h("table", {}, headings(["Session", "Over", "Lag", "When it is slow"], 2, 3), h("tbody", {}, readers)),
    h("div", { class: "row" }, h("button", { class: "main", "data-watch": topic.name }, "Watch"), h("button", { class: "main", "data-publish": topic.name }, "Publish")),
  ];
}

/** Column headings; from `numbersFrom` on they stand over numbers. */
function headings(names, numbersFrom, numbersTo = names.length) {
  const cell = (name, i) => h("th", { scope: "col", class: numbersFrom <= i && i < numbersTo ? "number" : null }, name);
  return h("thead", {}, h("tr", {}, names.map(cell)));
}

function nothing(text) {
  return h("tbody", {}, h("tr", {}, h("td", { class: "nothing" }, text)));
}

function more(columns, count) {
  return h("tfoot", {}, h("tr", {}, h("td", { colspan: columns, class: "nothing" }, `and ${number(count)} more`)));
}
