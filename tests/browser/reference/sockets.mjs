// What every test socket of the reference server does by itself: its middlewares, its listeners, and what is written down
// about it for later questions. The namespaces are `/` and, dynamically, `/t-…` (open), `/auth-…` (needs a token), and
// `/guarded-…` (a middleware for each event).

/** Registers the namespaces; returns what the scenarios share. */
export function meetSockets(io) {
  const world = { middlewareRuns: 0, newNamespaces: [], roomEvents: new Map(), left: [], seen: new Map(), attempts: new Map(), errors: [] };
  io.on("new_namespace", (namespace) => world.newNamespaces.push(namespace.name));
  const open = io.of(/^\/t-/);
  const guarded = io.of(/^\/guarded-/);
  const auth = io.of(/^\/auth-/);
  auth.use((socket, next) => {
    world.middlewareRuns += 1;
    if (socket.handshake.auth.token === "secret") return next();
    const refusal = new Error("not authorized");
    refusal.data = { hint: "ask for a token" };
    next(refusal);
  });
  for (const namespace of [io.of("/"), open, guarded, auth]) {
    namespace.on("connection", (socket) => greet(socket, world));
  }
  guarded.on("connection", (socket) => {
    socket.use(([name], next) => next(name === "forbidden" ? new Error("not this event") : undefined));
    socket.on("error", (error) => world.errors.push(error.message));
  });
  return world;
}

function greet(socket, world) {
  socket.on("echo", (...args) => socket.emit("echo", ...args));
  socket.on("question", (...args) => args.pop()(...args));
  socket.on("silent", () => {});
  socket.on("note", (value) => {
    if (!world.seen.has(socket.nsp.name)) world.seen.set(socket.nsp.name, []);
    world.seen.get(socket.nsp.name).push(value);
  });
  // Answers only the third attempt, so that whoever tries again can be seen doing it.
  socket.on("third time", (key, answer) => {
    const attempt = (world.attempts.get(key) ?? 0) + 1;
    world.attempts.set(key, attempt);
    if (attempt >= 3) answer(attempt);
  });
  const leaving = {};
  socket.on("disconnecting", (reason) => Object.assign(leaving, { reason, rooms: [...socket.rooms].filter((room) => room !== socket.id).sort() }));
  socket.on("disconnect", (reason) => {
    world.left.push({ id: socket.id, disconnecting: leaving, disconnect: { reason, rooms: [...socket.rooms].filter((room) => room !== socket.id) } });
  });
}

/** What the official protocol suites expect of the server. */
export function suite(io) {
  const answer = (socket) => {
    socket.emit("auth", socket.handshake.auth);
    socket.on("message", (...args) => socket.emit("message-back", ...args));
    socket.on("message-with-ack", (...args) => args.pop()(...args));
  };
  io.on("connection", answer);
  io.of("/custom").on("connection", answer);
}
