// Keeps the list of tables up to date.

const list = document.getElementById("tables");
const status = document.getElementById("status");
const MIN_RETRY_DELAY_MS = 500; // doubled after each failed attempt
const MAX_RETRY_DELAY_MS = 30_000;

let retryDelay = MIN_RETRY_DELAY_MS;

function connect() {
  const url = new URL(list.dataset.socket, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.addEventListener("message", (event) => {
    const frame = JSON.parse(event.data);
    if ("ping" in frame) socket.send(event.data);
    else show(frame.tables);
  });
  socket.addEventListener("close", () => {
    status.textContent = "Connection lost. Reconnecting…";
    setTimeout(connect, retryDelay * (0.75 + Math.random() / 2)); // so that pages do not all reconnect at once
    retryDelay = Math.min(2 * retryDelay, MAX_RETRY_DELAY_MS);
  });
}

function show(tables) {
  retryDelay = MIN_RETRY_DELAY_MS;
  const focused = document.activeElement.href;
  list.replaceChildren(...tables.map(({ id, red, yellow }) => {
    const [item, link] = ["li", "a"].map((tag) => document.createElement(tag));
    item.className = "card";
    link.href = `${list.dataset.tables}${id}/`;
    link.textContent = yellow ? `${red} against ${yellow}` : `${red} is waiting for a second player`;
    item.append(link);
    return item;
  }));
  Array.from(list.querySelectorAll("a")).find((link) => link.href === focused)?.focus();
  const free = tables.filter((table) => !table.yellow).length;
  status.textContent = tables.length ? `Free seats: ${free}.` : "Nobody is playing.";
}

connect();
