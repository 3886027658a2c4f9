// The chat: what the server says goes to the view, what the person does goes to the server.

import { Socket } from "./socket.js";
import * as view from "./view.js";

const TYPING_EVERY_MS = 1_500;
const TYPING_LASTS_MS = 3_000;
const NAMES = ["Otter", "Heron", "Badger", "Lynx", "Marten", "Plover", "Wren", "Ibex"];

let name = localStorage.getItem("name");
let room = roomInAddress();
/** Who is in the room: id → name. */
let people = new Map();
/** The number of the newest message shown. Numbers are dense in a room, so a hole is seen. */
let newest = 0;
/** Which life of the server that number belongs to. */
let life = null;
/** While what was missed comes in: `{ messages, mark }`, how many messages so far and where they begin. */
let missed = null;
/** When the connection was lost. */
let leftAt = null;
let rooms = [];
/** Room → how many messages of it were seen. */
const seen = new Map();
const typing = new Map();
let typedAt = 0;

const socket = new Socket("/chat", () => ({ name }))
  .on("connect", ({ recovered }) => {
    view.connection("live");
    missed = recovered ? { messages: 0, mark: view.mark() } : null;
    if (!recovered) enter(room);
  })
  .on("recovered", () => {
    if (missed) view.caughtUp({ ...missed, seconds: awaySeconds() });
    missed = leftAt = null;
  })
  .on("disconnect", () => (leftAt ??= Date.now()))
  .on("retry", ({ why, wait }) => view.connection("offline", `${why[0].toUpperCase()}${why.slice(1)}.`, wait))
  .on("refused", (why) => askName(why))
  .on("rooms", (now) => {
    rooms = now;
    showRooms();
  })
  .on("news", ({ room: where, messages }) => {
    const one = rooms.find(({ name }) => name === where);
    if (one) one.messages = messages;
    showRooms();
  })
  .on("here", ({ id, name }) => {
    const isNew = !people.has(id);
    people.set(id, name);
    view.people(people, socket.id);
    if (isNew && id !== socket.id && !missed) view.note(`${name} came in`);
  })
  .on("gone", ({ id, name }) => {
    if (people.delete(id) && id !== socket.id && !missed) view.note(`${name} left`);
    stopTyping(id);
    view.people(people, socket.id);
  })
  .on("said", (message) => {
    stopTyping(message.id);
    if (missed) missed.messages += 1;
    show(message);
  })
  .on("typing", ({ id, name }) => {
    clearTimeout(typing.get(id)?.timer);
    typing.set(id, { name, timer: setTimeout(() => stopTyping(id), TYPING_LASTS_MS) });
    view.typing([...typing.values()].map(({ name }) => name));
  });

/** Goes into a room: who is there, and what was said last. */
async function enter(next) {
  const isOther = next !== room;
  room = next;
  if (location.hash !== `#/${room}`) history.replaceState(null, "", `#/${room}`);
  if (isOther) {
    newest = 0;
    view.clear();
  }
  view.room(room);
  const answer = await socket.ask("enter", { room: next });
  if (answer.error) return view.note(answer.error);
  // Meanwhile somebody may have gone on to another room.
  if (room !== next) return;
  if (life !== null && life !== answer.life) {
    newest = 0;
    view.note("The server began anew: what was said before is only on this page.");
  }
  life = answer.life;
  people = new Map(answer.people.map(({ id, name }) => [id, name]));
  typing.forEach((_, id) => stopTyping(id));
  view.people(people, socket.id);
  const before = newest;
  const unseen = answer.messages.filter(({ n }) => n > newest);
  if (before > 0 && unseen.length > 0) {
    const lost = unseen[0].n - before - 1;
    view.caughtUp({ mark: view.mark(), messages: unseen.length, seconds: awaySeconds(), lost });
  }
  leftAt = null;
  unseen.forEach(show);
  view.settled(newest === 0);
}

function show(message) {
  if (message.n <= newest) return;
  newest = message.n;
  seen.set(room, newest);
  const isMine = view.isOwn(message.key) || message.id === socket.id;
  view.message({ ...message, isMine, state: isMine ? "stored" : null });
}

async function say(text) {
  const key = crypto.randomUUID();
  view.message({ key, name, text, at: Date.now(), isMine: true, state: "waiting" });
  const answer = await socket.ask("say", { room, key, text }, () => view.state(key, "sent"));
  if (answer.error) return view.state(key, "refused", answer.error);
  if (answer.n === newest + 1) newest = answer.n;
  seen.set(answer.room, Math.max(answer.n, seen.get(answer.room) ?? 0));
  view.state(key, "stored");
}

function stopTyping(id) {
  clearTimeout(typing.get(id)?.timer);
  if (typing.delete(id)) view.typing([...typing.values()].map(({ name }) => name));
}

function showRooms() {
  view.rooms(
    rooms.map((one) => {
      if (!seen.has(one.name)) seen.set(one.name, one.messages);
      return { ...one, unread: one.name === room ? 0 : Math.max(0, one.messages - seen.get(one.name)) };
    }),
    room,
  );
}

function awaySeconds() {
  return leftAt === null ? null : Math.round((Date.now() - leftAt) / 1_000);
}

function roomInAddress() {
  return /^#\/([a-z0-9][a-z0-9-]{0,23})$/.exec(location.hash)?.[1] ?? "lobby";
}

function askName(why) {
  const chosen = (wanted) => {
    name = wanted;
    localStorage.setItem("name", name);
    view.me(name);
    socket.leave();
    socket.connect();
  };
  const suggestion = name ?? NAMES[Math.floor(Math.random() * NAMES.length)];
  view.askName({ suggestion, why, isNeeded: !name || why !== undefined, chosen });
}

view.start({
  say,
  rename: () => askName(),
  retry: () => socket.connect(),
  enter(next) {
    if (next === room) return;
    enter(next);
    showRooms();
  },
  typing() {
    if (Date.now() - typedAt < TYPING_EVERY_MS) return;
    typedAt = Date.now();
    socket.tell("typing", {});
  },
});
addEventListener("hashchange", () => {
  if (roomInAddress() !== room) enter(roomInAddress()).then(showRooms);
});
view.room(room);
if (name) {
  view.me(name);
  socket.connect();
} else {
  askName();
}
