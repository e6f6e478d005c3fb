// The page of a room: shows what arrives, sends what is typed, and connects again when the connection is lost.

const list = document.getElementById("messages");
const form = document.getElementById("say");
const input = document.getElementById("message");
const status = document.getElementById("status");
const here = document.getElementById("here");

const FIRST_PAUSE = 500; // ms; doubles with each attempt that fails
const LONGEST_PAUSE = 30_000;
const REFUSED = [3000, 4003, 4008]; // close codes that another attempt would only meet again

const unsent = new Map(); // key → text, until the server says that it is stored
let last = Number(list.lastElementChild?.dataset.id ?? 0);
let pause = FIRST_PAUSE;
let socket;
let timer;

function connect() {
  clearTimeout(timer);
  const url = new URL(`${list.dataset.socket}?after=${last}&presence=1`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.addEventListener("open", () => {
    pause = FIRST_PAUSE;
    status.textContent = "Connected.";
    sendNext();
  });
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", reconnect);
}

function reconnect(event) {
  if (REFUSED.includes(event.code)) {
    status.textContent = `The server closed the connection: ${event.reason} Load the page to try again.`;
    return;
  }
  const wait = pause * (0.75 + Math.random() / 2); // not all pages at the same moment
  pause = Math.min(2 * pause, LONGEST_PAUSE);
  status.textContent = `Connection lost. Trying again in ${Math.ceil(wait / 1000)} s.`;
  timer = setTimeout(connect, wait);
}

function receive(frame) {
  if ("id" in frame) {
    if (frame.id > last) show(frame);
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
  last = id;
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 50;
  const item = document.createElement("li");
  const [name, time, text] = ["strong", "time", "p"].map((tag) => document.createElement(tag));
  item.dataset.id = id;
  name.textContent = user;
  time.dateTime = sent;
  text.textContent = message;
  item.append(name, " ", time, text);
  list.append(item);
  inLocalTime(time);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function inLocalTime(time) {
  time.textContent = new Date(time.dateTime).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
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
  } else status.textContent = "Not connected: your message is sent as soon as it works again.";
});

// One after the other: the next one when the one before it is stored.
function sendNext() {
  const [next] = unsent;
  if (next && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ key: next[0], message: next[1] }));
}

// As crypto.randomUUID does, which is there with https and on localhost only.
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

list.querySelectorAll("time").forEach(inLocalTime);
list.scrollTop = list.scrollHeight;
window.addEventListener("online", () => {
  if (socket.readyState === WebSocket.CLOSED) connect();
});
connect();
