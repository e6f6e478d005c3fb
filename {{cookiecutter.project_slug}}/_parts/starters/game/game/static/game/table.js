// A table's page: shows each state that the server sends, and sends the player's actions.

const board = document.getElementById("board");
const columns = Array.from(board.querySelectorAll("button"));
const discs = Array.from(board.querySelectorAll(".disc"));
const actions = Array.from(document.querySelectorAll("[data-action]"));
const status = document.getElementById("status");
const notice = document.getElementById("notice");
const link = document.getElementById("link");

const OPPONENT = { red: "yellow", yellow: "red" };
const MIN_RETRY_DELAY_MS = 500; // doubled after each failed attempt
const MAX_RETRY_DELAY_MS = 30_000;
const FINAL_CLOSE_CODES = [3000, 4429]; // reconnecting would not help

let state;
let retryDelay = MIN_RETRY_DELAY_MS;
let socket;
let timer;

function connect() {
  clearTimeout(timer);
  const url = new URL(board.dataset.socket, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", reconnect);
}

function reconnect(event) {
  if (FINAL_CLOSE_CODES.includes(event.code)) {
    notice.textContent = `The server closed the connection: ${event.reason} Reload the page to try again.`;
    return;
  }
  const delay = retryDelay * (0.75 + Math.random() / 2); // so that pages do not all reconnect at once
  retryDelay = Math.min(2 * retryDelay, MAX_RETRY_DELAY_MS);
  notice.textContent = `Connection lost. Reconnecting in ${Math.ceil(delay / 1000)} s.`;
  timer = setTimeout(connect, delay);
}

function receive(frame) {
  if ("ping" in frame) {
    socket.send(JSON.stringify(frame));
  } else if ("error" in frame) {
    notice.textContent = frame.error;
  } else if (frame.version >= (state?.version ?? 0)) { // an older state may arrive after a newer one
    retryDelay = MIN_RETRY_DELAY_MS;
    notice.textContent = "";
    state = frame;
    show();
  }
}

function show() {
  const you = ["red", "yellow"].find((color) => state[color] && state[color] === board.dataset.player);
  const last = state.discs.at(-1)?.[0];
  const colors = new Map(state.discs);
  discs.forEach((disc, cell) => {
    const color = colors.get(cell) ?? "";
    disc.className = `disc ${color}`;
    disc.firstElementChild.textContent = color || "empty";
    disc.parentElement.className = [state.line.includes(cell) && "line", cell === last && "last"].filter(Boolean).join(" ");
  });
  columns.forEach((button, column) => {
    button.setAttribute("aria-disabled", !you || state.turn !== you || colors.has(column));
  });
  for (const color of ["red", "yellow"]) {
    const player = document.getElementById(color);
    player.querySelector("strong").textContent = state[color] || "a free seat";
    player.classList.toggle("on-turn", state.turn === color);
  }
  const allowed = {
    sit: !you && !state.yellow,
    rematch: you && state.result && state.rematch !== you,
    claim: you && state.turn && state.away.includes(OPPONENT[you]),
    resign: you && state.turn,
  };
  for (const button of actions) {
    const focused = button === document.activeElement;
    button.hidden = !allowed[button.dataset.action];
    if (focused && button.hidden) columns[3].focus(); // otherwise the focus would move to the top of the page
  }
  const text = describe(you);
  if (status.textContent !== text) status.textContent = text; // screen readers announce each change
}

function describe(you) {
  const name = (color) => (color === you ? "You" : state[color]);
  const verb = (color, yours, theirs) => `${name(color)} ${color === you ? yours : theirs}`;
  const sentences = [];
  if (state.discs.length) {
    const [cell, color] = state.discs.at(-1);
    sentences.push(`${name(color)}: column ${(cell % columns.length) + 1}.`);
  }
  if (!state.yellow) sentences.push("Waiting for a second player.");
  if (state.turn) sentences.push(state.turn === you ? "It is your turn." : `It is ${state[state.turn]}'s turn.`);
  if (state.turn && state.away.length) sentences.push(`Away: ${state.away.map((color) => state[color]).join(", ")}.`);
  if (state.result === "draw") sentences.push("The board is full: a draw.");
  if (state.result === "line") sentences.push(`Four in a row: ${verb(state.winner, "win", "wins")}.`);
  if (state.result === "resignation") sentences.push(`${verb(OPPONENT[state.winner], "resign", "resigns")}: ${verb(state.winner, "win", "wins")}.`);
  if (state.result === "timeout") sentences.push(`${verb(OPPONENT[state.winner], "were", "was")} away: ${verb(state.winner, "win", "wins")}.`);
  if (state.rematch) sentences.push(`${verb(state.rematch, "offer", "offers")} a rematch.`);
  return sentences.join(" ");
}

function send(action, column) {
  if (socket.readyState !== WebSocket.OPEN || !state) {
    notice.textContent = "Not connected. Try again in a moment.";
    return;
  }
  socket.send(JSON.stringify({ action, column, version: state.version }));
}

function drop(column) {
  columns[column].focus();
  if (columns[column].getAttribute("aria-disabled") !== "true") send("drop", column);
}

board.addEventListener("click", (event) => {
  const column = event.target.closest("th, td")?.cellIndex;
  if (column !== undefined) drop(column);
});
board.addEventListener("keydown", (event) => {
  const focused = columns.indexOf(document.activeElement);
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) columns.at((focused + step) % columns.length).focus();
  if (event.key >= "1" && event.key <= String(columns.length)) drop(Number(event.key) - 1);
});
for (const button of actions) {
  button.addEventListener("click", () => {
    if (button.dataset.action !== "resign" || confirm("Resign this game?")) send(button.dataset.action);
  });
}
link.addEventListener("focus", () => link.select());
window.addEventListener("online", () => {
  if (socket.readyState === WebSocket.CLOSED) connect();
});
connect();
