// What the reference server does when a test asks for it: one function for each line of the cheatsheet's server side, by the
// name of its test, and below them the small questions and moves that tests need in between.

const socketOf = (io, { nsp, id }) => {
  const socket = io.of(nsp).sockets.get(id);
  if (socket === undefined) throw new Error(`no socket ${id} in ${nsp}`);
  return socket;
};

/** The callback style of a broadcast with acknowledgements, as one answer. */
const gathered = (emit) => new Promise((resolve) => emit((error, answers) => resolve({ complete: !error, answers, missing: null })));

export const scenarios = {
  "line 1: basic emit": (io, to) => {
    const socket = socketOf(io, to);
    socket.emit("nothing");
    socket.emit("several", 1, "two", { three: [true, null] }, 4);
    socket.emit("binary", Buffer.from([1, 2, 3]), { deep: [Buffer.from([4, 5])] }, 6);
  },
  "line 2: emit with acknowledgement callback": (io, to) =>
    new Promise((resolve) => socketOf(io, to).emit("question", 1, (...answer) => resolve(answer))),
  "line 3: emitWithAck": (io, to) => socketOf(io, to).emitWithAck("question", 1),
  "line 4: timeout of an acknowledgement": async (io, to) => {
    const socket = socketOf(io, to);
    const answered = await socket.timeout(5_000).emitWithAck("question", 1);
    const late = await socket.timeout(to.ms).emitWithAck("silent", 1).then(() => "answered", () => "timeout");
    const byCallback = await new Promise((resolve) => socket.timeout(to.ms).emit("silent", 2, (error) => resolve(error ? "timeout" : "answered")));
    return { answered, late, byCallback };
  },
  "line 5: emit to all clients of the main namespace": (io) => {
    io.emit("all", 5);
  },
  "line 6: broadcast to all but the sender": (io, from) => {
    socketOf(io, from).broadcast.emit("others", 6);
  },
  "line 7: broadcast with acknowledgements, partial answers on timeout": (io, { nsp, ms }) =>
    gathered((done) => io.of(nsp).timeout(ms).emit("question", 7, done)),
  "line 8: broadcast emitWithAck": (io, { nsp, ms }) => io.of(nsp).timeout(ms).emitWithAck("question", 8),
  "line 9: to a room, in a room": (io, { nsp }) => {
    io.of(nsp).to("r1").emit("to", 9);
    io.of(nsp).in("r1").emit("in", 9);
  },
  "line 10: a room without the sender": (io, from) => {
    socketOf(io, from).to("r1").emit("others", 10);
  },
  "line 11: except a room": (io, { nsp }) => {
    io.of(nsp).except("r1").emit("except", 11);
  },
  "line 12: chain of to and except": (io, { nsp }) => {
    io.of(nsp).to("r1").to(["r2", "r3"]).except("r4").emit("chain", 12);
  },
  "line 13: another namespace and its rooms": (io, { nsp }) => {
    io.of(nsp).emit("all", 13);
    io.of(nsp).to("r1").emit("room", 13);
  },
  "line 14: full chain with timeout and acknowledgements": (io, { ms, ...from }) =>
    gathered((done) => socketOf(io, from).timeout(ms).to("r1").to(["r2", "r3"]).except("r4").emit("question", 14, done)),
  "line 15: private message by socket id": (io, { nsp, id }) => {
    io.of(nsp).to(id).emit("private", 15);
  },
  "line 16: the room of a socket's id, without the sender": (io, from) => {
    socketOf(io, from).to(from.id).emit("others", 16);
  },
  "line 17: local": (io, { nsp }) => {
    io.of(nsp).local.emit("local", 17);
    io.of(nsp).local.to("r1").emit("local room", 17);
  },
  "line 18: compress": (io, to) => {
    socketOf(io, to).compress(false).emit("plain", "x".repeat(4_096), 18);
    socketOf(io, to).compress(true).emit("compressed", "x".repeat(4_096), 18);
  },
  "line 19: volatile": (io, to) => {
    socketOf(io, to).volatile.emit("volatile", 19);
    io.of(to.nsp).volatile.emit("volatile to all", 19);
    io.of(to.nsp).to("r1").volatile.emit("volatile to a room", 19);
  },
  "line 19: volatile to a client that does not read": async (io, { count, bytes, ...to }) => {
    const socket = socketOf(io, to);
    for (let number = 0; number < count; number += 1) {
      socket.volatile.emit("volatile", number, Buffer.alloc(bytes));
      await new Promise(setImmediate);
    }
  },
  "line 24: reserved names": (io, to) =>
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"].map((name) => {
      try {
        socketOf(io, to).emit(name, 24);
        return "emitted";
      } catch {
        return "refused";
      }
    }),

  // Section 2.3: the server's API.
  "use: middleware runs": (_io, _args, world) => world.middlewareRuns,
  "new_namespace: names": (_io, _args, world) => world.newNamespaces,
  "of: names of namespaces": (io) => [...io._nsps.keys()],
  "fetchSockets": async (io, { nsp, to = [], except = [] }) => {
    const sockets = await io.of(nsp).to(to).except(except).fetchSockets();
    return sockets.map(({ id, rooms, data, handshake }) => ({ id, rooms: [...rooms].filter((room) => room !== id).sort(), data, auth: handshake.auth }));
  },
  "socketsJoin": (io, { nsp, to = [], rooms }) => io.of(nsp).to(to).socketsJoin(rooms),
  "socketsLeave": (io, { nsp, to = [], rooms }) => io.of(nsp).to(to).socketsLeave(rooms),
  "disconnectSockets": (io, { nsp, to = [], close }) => io.of(nsp).to(to).disconnectSockets(close),
  "socket: disconnect": (io, { close, ...of }) => {
    socketOf(io, of).disconnect(close);
  },
  "socket: attributes": (io, of) => {
    const { id, recovered, rooms, data, handshake } = socketOf(io, of);
    const { address, auth, headers, issued, query, secure, url, xdomain } = handshake;
    const custom = headers["x-custom"] ?? null;
    return { id, recovered, rooms: [...rooms], data, handshake: { address, auth, custom, issuedMs: issued, query, secure, url, crossOrigin: xdomain } };
  },
  "socket: set data": (io, { data, ...of }) => {
    Object.assign(socketOf(io, of).data, data);
  },
  "socket: left": (_io, { id }, world) => world.left.find((leaving) => leaving.id === id) ?? null,
  "socket: send": (io, to) => {
    socketOf(io, to).send("hello", 1);
  },
  "socket: listeners": (io, { step, ...of }) => {
    const socket = socketOf(io, of);
    const state = (socket.data.listeners ??= { heard: [] });
    const listener = (value) => state.heard.push(`first ${value}`);
    switch (step) {
      case "on":
        socket.on("listened", (value) => state.heard.push(`first ${value}`));
        socket.on("listened", (value) => state.heard.push(`second ${value}`));
        return socket.eventNames().includes("listened");
      case "once":
        socket.once("listened", (value) => state.heard.push(`once ${value}`));
        return;
      case "off":
        socket.on("listened", listener);
        socket.off("listened", listener);
        return;
      case "off all":
        socket.removeAllListeners("listened");
        return socket.eventNames().includes("listened");
      default:
        return state.heard.splice(0);
    }
  },
  "socket: catch-all": (io, { step, ...of }) => {
    const socket = socketOf(io, of);
    const state = (socket.data.any ??= { heard: [] });
    switch (step) {
      case "on":
        socket.on("any", () => state.heard.push("listener"));
        socket.onAny((name, ...args) => state.heard.push(`in ${name} ${args}`));
        socket.prependAny((name) => state.heard.push(`before ${name}`));
        socket.onAnyOutgoing((name, ...args) => state.heard.push(`out ${name} ${args[0]}`));
        socket.prependAnyOutgoing((name) => state.heard.push(`before out ${name}`));
        return;
      case "emit":
        socket.emit("outgoing", 1);
        return;
      case "emit to all":
        socket.nsp.emit("outgoing to all", 2);
        return;
      case "off":
        socket.offAny();
        socket.offAnyOutgoing();
        return;
      default:
        return state.heard.splice(0);
    }
  },
  "socket: errors of middlewares": (_io, _args, world) => world.errors.splice(0),
  "engine: clients": (io) => io.engine.clientsCount,
  "engine: close the transport": (io, of) => {
    socketOf(io, of).conn.close();
  },

  // Section 2.4: rooms.
  "rooms: watch": (io, { nsp }, world) => {
    const events = [];
    world.roomEvents.set(nsp, events);
    const adapter = io.of(nsp).adapter;
    adapter.on("create-room", (room) => events.push(["create-room", room]));
    adapter.on("delete-room", (room) => events.push(["delete-room", room]));
    adapter.on("join-room", (room, id) => events.push(["join-room", room, id]));
    adapter.on("leave-room", (room, id) => events.push(["leave-room", room, id]));
  },
  "rooms: events": (_io, { nsp }, world) => world.roomEvents.get(nsp).splice(0),
  "rooms: of a socket": (io, of) => [...socketOf(io, of).rooms],
  "rooms: members": (io, { nsp, room }) => [...(io.of(nsp).adapter.rooms.get(room) ?? [])],

  // Moves and questions for tests.
  "join": (io, { rooms, ...of }) => socketOf(io, of).join(rooms),
  "leave": (io, { room, ...of }) => socketOf(io, of).leave(room),
  "mark": (io, { nsp, number }) => {
    io.of(nsp).emit("mark", number);
  },
  "noted": (_io, { nsp }, world) => world.seen.get(nsp) ?? [],
  "emit": (io, { nsp, to = [], volatile = false, name, args }) => {
    const target = to.length > 0 ? io.of(nsp).to(to) : io.of(nsp);
    (volatile ? target.volatile : target).emit(name, ...args);
  },
  "emit with ack": (io, { ms, name, args, ...to }) =>
    socketOf(io, to).timeout(ms).emitWithAck(name, ...args).then((answer) => ({ answer }), () => ({ timeout: true })),
  // Numbered events at a steady rate, in the background.
  "stream": (io, { nsp, count, perSecond }) => {
    const started = performance.now();
    let number = 0;
    const tick = () => {
      const due = Math.min(count, Math.floor(((performance.now() - started) * perSecond) / 1_000));
      for (; number < due; number += 1) io.of(nsp).emit("numbered", number, {});
      if (number < count) setTimeout(tick, 5);
      else io.of(nsp).emit("finished", count);
    };
    tick();
  },
};
