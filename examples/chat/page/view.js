// The page: all that touches the document. Text of people becomes text, never markup.

const $ = (id) => document.getElementById(id);
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
/** Messages of one person within this time stand together. */
const TOGETHER_MS = 3 * 60_000;
const HUES = 8;
const STATES = {
  waiting: "waiting for the connection",
  sent: "sent",
  stored: "stored by the server",
  refused: "refused",
};

let last = null;
let countdown = null;
let isAtEnd = true;
const own = new Map();

/** Wires the page to what the person may do. */
export function start({ say, rename, retry, enter, typing }) {
  const text = $("text");
  const send = () => {
    const said = text.value.trim();
    if (!said) return;
    isAtEnd = true;
    say(said);
    text.value = "";
    fit(text);
  };
  $("composer").onsubmit = (event) => (event.preventDefault(), send(), text.focus());
  text.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), send();
  };
  text.oninput = () => (fit(text), text.value && typing());
  $("new-room").onsubmit = (event) => {
    event.preventDefault();
    enter($("new-room-name").value);
    $("new-room-name").value = "";
    panel(null);
    text.focus();
  };
  $("rooms").onclick = ({ target }) => {
    const chosen = target.closest("button")?.dataset.room;
    if (chosen) enter(chosen), panel(null);
  };
  $("me").onclick = rename;
  $("offline-retry").onclick = retry;
  $("newest").onclick = toEnd;
  $("scroll").onscroll = ({ target }) => {
    isAtEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40;
    if (isAtEnd) $("newest").hidden = true;
  };
  new ResizeObserver(() => isAtEnd && toEnd()).observe($("scroll"));
  document.querySelectorAll("[data-panel]").forEach((button) => {
    button.onclick = () => panel(document.body.dataset.panel === button.dataset.panel ? null : button.dataset.panel);
  });
  $("shade").onclick = () => panel(null);
  addEventListener("keydown", ({ key }) => key === "Escape" && panel(null));
}

/** Asks for a name; where one `isNeeded`, until there is one. */
export function askName({ suggestion, why, isNeeded, chosen }) {
  const dialog = $("name-dialog");
  dialog.returnValue = "";
  dialog.onclose = () => isNeeded && !dialog.returnValue && dialog.showModal();
  $("name").value = suggestion;
  $("name-why").textContent = why ?? "Everybody in the room sees this name.";
  $("name-form").onsubmit = () => chosen($("name").value.trim());
  if (!dialog.open) dialog.showModal();
  $("name").select();
}

export function me(name) {
  $("me").replaceChildren(avatar(name), h("span", {}, h("strong", {}, name), h("small", {}, "change name")));
}

export function room(name) {
  document.title = `#${name} · twinlane chat`;
  $("room-title").textContent = name;
  $("text").placeholder = `Write to #${name}`;
  $("command").textContent = `cargo run --example chat \\\n  -- --terminal NAME \\\n  --room ${name}`;
}

export function rooms(all, current) {
  const items = all.map(({ name, people, unread }) => {
    const isCurrent = name === current;
    const count = people ? h("span", { class: "count", title: `${people} here` }, String(people)) : null;
    const news = unread ? h("span", { class: "unread" }, unread > 99 ? "99+" : String(unread)) : null;
    if (news) news.append(h("span", { class: "hidden" }, " unread"));
    const properties = { "data-room": name, "data-testid": `room-${name}` };
    if (isCurrent) properties["aria-current"] = "page";
    return h("li", {}, h("button", properties, h("span", { class: "name" }, name), news ?? count));
  });
  // Where the focus was, it stays.
  const focused = $("rooms").contains(document.activeElement) ? document.activeElement.dataset.room : null;
  $("rooms").replaceChildren(...items);
  if (focused) $("rooms").querySelector(`[data-room="${focused}"]`)?.focus();
}

export function people(all, myId) {
  const sorted = [...all].sort(([a, one], [b, other]) => (b === myId) - (a === myId) || one.localeCompare(other));
  $("people").replaceChildren(
    ...sorted.map(([id, name]) =>
      h("li", { "data-testid": `person-${name}` }, avatar(name), h("span", {}, name), id === myId && h("small", {}, "you")),
    ),
  );
  const names = sorted.length === 1 ? "only you are here" : `${sorted.length} people are here`;
  $("room-people").textContent = sorted.length ? names : "";
}

/** Forgets what is shown, for another room. */
export function clear() {
  $("messages").replaceChildren();
  last = null;
  own.clear();
  isAtEnd = true;
}

/** The history is there; perhaps it is empty. */
export function settled(isEmpty) {
  $("messages").classList.toggle("empty", isEmpty);
  toEnd();
}

/** Whether this is the copy of a message that is shown already. */
export function isOwn(key) {
  return own.has(key);
}

export function message({ key, id, name, text, at, isMine, state: now }) {
  if (own.has(key)) return state(key, now);
  const time = new Date(at);
  if (!last?.at || new Date(last.at).toDateString() !== time.toDateString()) rule("day", date.format(time));
  const isContinued = last?.id === (isMine ? "me" : id) && last.name === name && at - last.at < TOGETHER_MS;
  const meta = h("span", { class: "meta" }, h("time", { datetime: time.toISOString() }, clock.format(time)));
  const bubble = h("div", { class: "bubble" }, h("p", {}, text), meta);
  const item = h("li", { class: "message", "data-testid": "message", "data-author": name });
  item.classList.toggle("mine", isMine);
  item.classList.toggle("continued", isContinued);
  if (!isContinued && !isMine) item.append(avatar(name), h("span", { class: "author" }, name));
  item.append(bubble);
  if (isMine) {
    own.set(key, item);
    meta.append(h("span", { class: "tick" }));
    state(key, now);
  }
  add(item);
  last = { id: isMine ? "me" : id, name, at };
}

/** How far a message of ours has come. */
export function state(key, now, why = STATES[now]) {
  const item = own.get(key);
  if (!item) return;
  item.dataset.state = now;
  const tick = item.querySelector(".tick");
  tick.replaceChildren(now === "refused" ? "not sent" : icon(`i-${now}`), h("span", { class: "hidden" }, why));
  tick.title = why;
}

/** A line about somebody who comes or goes. */
export function note(text) {
  rule("note", text);
}

/** The last thing shown: where a line about what was missed belongs. */
export function mark() {
  return $("messages").lastElementChild;
}

/** Says, after `mark`, what came in while we were away. */
export function caughtUp({ mark, messages, seconds, lost = 0 }) {
  const away = seconds === null ? "" : `away for ${seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`} · `;
  const came = messages === 0 ? "nothing missed" : `${count(messages, "message")} caught up`;
  const gone = lost > 0 ? ` · ${count(lost, "older one")} no longer kept` : "";
  const line = rule("caught-up", away + came + gone);
  line.dataset.testid = "caught-up";
  mark?.after(line);
}

export function typing(names) {
  const line = $("typing");
  if (names.length === 0) return line.replaceChildren();
  const who = names.length > 2 ? "several people are" : `${names.join(" and ")} ${names.length > 1 ? "are" : "is"}`;
  line.replaceChildren(h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i")), `${who} typing`);
}

/** `live`, `connecting`, or `offline` with its reason and the time until the next try. */
export function connection(now, why, waitMs) {
  clearInterval(countdown);
  $("connection").dataset.state = now;
  $("connection").textContent = now;
  $("offline").hidden = now !== "offline";
  if (now !== "offline") return;
  $("offline-why").textContent = why;
  const due = Date.now() + waitMs;
  const tell = () => {
    const seconds = Math.ceil((due - Date.now()) / 1_000);
    $("offline-retry").textContent = seconds > 0 ? `Try now (${seconds} s)` : "Trying …";
  };
  tell();
  countdown = setInterval(tell, 500);
}

function rule(kind, text) {
  const item = h("li", { class: `rule ${kind}` }, h("span", {}, text));
  add(item);
  last = { at: kind === "day" ? null : last?.at };
  return item;
}

function add(item) {
  $("messages").classList.remove("empty");
  $("messages").append(item);
  if (isAtEnd) toEnd();
  else $("newest").hidden = false;
}

function toEnd() {
  const scroll = $("scroll");
  scroll.scrollTop = scroll.scrollHeight;
  $("newest").hidden = true;
}

/** On small screens the lists at the sides come when they are called. */
function panel(which) {
  if (which) document.body.dataset.panel = which;
  else delete document.body.dataset.panel;
  $("shade").hidden = !which;
  document.querySelectorAll("[data-panel]:not(body)").forEach((button) => {
    button.setAttribute("aria-expanded", String(button.dataset.panel === which));
  });
}

function fit(text) {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight, 160)}px`;
}

function avatar(name) {
  const hue = [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 9_973, 7) % HUES;
  return h("span", { class: `avatar hue-${hue}`, "aria-hidden": "true" }, [...name][0]?.toUpperCase() ?? "?");
}

function icon(id) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#${id}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child || child === 0));
  return element;
}
