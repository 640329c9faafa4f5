// The event stream: one WebSocket for the page, opened again when it breaks, resumed after the last event seen.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10000;
const SIGN_IN_AGAIN = 4001;

const listeners = new Map();
let socket = null;
let last = null;
let wait = FIRST_WAIT;
let timer = 0;

/** Call `handler(event)` for each event of this type ("*" is every type) until `signal` aborts. */
export function on(type, handler, signal) {
  const set = listeners.get(type) ?? new Set();
  listeners.set(type, set.add(handler));
  signal?.addEventListener("abort", () => set.delete(handler));
}

function tell(type, event) {
  for (const handler of listeners.get(type) ?? []) handler(event);
}

/** Where a WebSocket of the server is: "talk" -> "ws://host/api/talk". */
export function socketUrl(name) {
  const url = new URL(`api/${name}`, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return url;
}

/** Open the stream, if it is not. */
export function connect() {
  clearTimeout(timer);
  if (socket && socket.readyState <= WebSocket.OPEN) return;
  const url = socketUrl("events");
  if (last !== null) url.searchParams.set("after", last);
  socket = new WebSocket(url);
  socket.onopen = () => { wait = FIRST_WAIT; tell("connected", {}); };
  socket.onmessage = ({ data }) => receive(data);
  socket.onclose = ({ code }) => {
    tell("disconnected", {});
    if (code === SIGN_IN_AGAIN) { dispatchEvent(new Event("signed-out")); return; }
    timer = setTimeout(connect, wait);
    wait = Math.min(2 * wait, LONGEST_WAIT);
  };
}

/** Close the stream for good: the owner signed out. */
export function disconnect() {
  clearTimeout(timer);
  if (socket) socket.onclose = null;
  socket?.close();
  socket = null;
}

function receive(data) {
  let event;
  try { event = JSON.parse(data); } catch { return; }
  if (Number.isInteger(event.last)) last = event.last;
  else if (Number.isInteger(event.id)) last = event.id;
  tell(String(event.type), event);
  tell("*", event);
}
