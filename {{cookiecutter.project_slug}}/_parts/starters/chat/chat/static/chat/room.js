// A room's page: shows and sends messages, and reconnects after a lost connection.

const log = document.getElementById("log");
const list = document.getElementById("messages");
const form = document.getElementById("say");
const input = document.getElementById("message");
const status = document.getElementById("status");
const here = document.getElementById("here");

const MIN_RETRY_DELAY_MS = 500; // doubled after each failed attempt
const MAX_RETRY_DELAY_MS = 30_000;
const FINAL_CLOSE_CODES = [3000, 4003, 4008]; // reconnecting would not help

const unsent = new Map(); // maps each key to its text until the server has stored the message
let lastId = Number(list.lastElementChild?.dataset.id ?? 0);
let retryDelay = MIN_RETRY_DELAY_MS;
let socket;
let timer;

function connect() {
  clearTimeout(timer);
  const url = new URL(`${list.dataset.socket}?after=${lastId}&presence=1`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.addEventListener("open", () => {
    retryDelay = MIN_RETRY_DELAY_MS;
    status.textContent = "Connected.";
    sendNext();
  });
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", reconnect);
}

function reconnect(event) {
  if (FINAL_CLOSE_CODES.includes(event.code)) {
    status.textContent = `The server closed the connection: ${event.reason} Reload the page to try again.`;
    return;
  }
  const delay = retryDelay * (0.75 + Math.random() / 2); // so that pages do not all reconnect at once
  retryDelay = Math.min(2 * retryDelay, MAX_RETRY_DELAY_MS);
  status.textContent = `Connection lost. Reconnecting in ${Math.ceil(delay / 1000)} s.`;
  timer = setTimeout(connect, delay);
}

function receive(frame) {
  if ("id" in frame) {
    if (frame.id > lastId) show(frame);
  } else if ("ping" in frame) {
    socket.send(JSON.stringify(frame));
  } else if ("here" in frame) {
    here.textContent = frame.here.join(", ");
  } else if ("stored" in frame) {
    unsent.delete(frame.stored);
    if (unsent.size === 0) status.textContent = "Connected.";
    sendNext();
  } else if ("error" in frame) {
    status.textContent = frame.error;
    if (frame.wait) {
      setTimeout(sendNext, frame.wait * 1000);
    } else {
      if (input.value === "") input.value = unsent.get(frame.key) ?? "";
      unsent.delete(frame.key);
      sendNext();
    }
  }
}

function show({ id, user, message, sent }) {
  lastId = id;
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 50;
  const item = document.createElement("li");
  const [name, time, text] = ["strong", "time", "p"].map((tag) => document.createElement(tag));
  item.dataset.id = id;
  name.textContent = user;
  time.dateTime = sent;
  text.textContent = message;
  item.append(name, " ", time, text);
  list.append(item);
  inLocalTime(time);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// Shows the time in the reader's time zone, with the date unless it is today. The tooltip includes the time zone.
function inLocalTime(time) {
  const date = new Date(time.dateTime);
  const isToday = date.toDateString() === new Date().toDateString();
  time.textContent = date.toLocaleString([], { dateStyle: isToday ? undefined : "medium", timeStyle: "short" });
  time.title = date.toLocaleString([], { dateStyle: "full", timeStyle: "long" });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const message = input.value.trim();
  if (!message) return;
  const key = newKey();
  unsent.set(key, message);
  input.value = "";
  if (socket.readyState === WebSocket.OPEN) {
    if (unsent.size === 1) sendNext();
  } else status.textContent = "Not connected. Your message will be sent after reconnecting.";
});

// Sends the first unsent message. The next one follows when the server has stored this one.
function sendNext() {
  const [next] = unsent;
  if (next && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ key: next[0], message: next[1] }));
}

// crypto.randomUUID exists only over HTTPS and on localhost.
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

list.querySelectorAll("time").forEach(inLocalTime);
log.scrollTop = log.scrollHeight;
window.addEventListener("online", () => {
  if (socket.readyState === WebSocket.CLOSED) connect();
});
connect();
