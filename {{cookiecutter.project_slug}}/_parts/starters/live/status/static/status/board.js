// Updates the board: the server sends each new result as an event.

const board = document.getElementById("board");
const connection = document.getElementById("connection");
const MAX_BARS = 30;
const MAX_RETRY_DELAY_MS = 30_000;

let url = board.dataset.events;
let retryDelay = 1000;
let source;

// Connects only while the page is visible: over HTTP/1.1, all tabs of a browser share six connections to a site.
function connect() {
  if (document.hidden || (source && source.readyState !== EventSource.CLOSED)) return;
  source = new EventSource(url);
  source.addEventListener("open", () => {
    connection.textContent = "";
    retryDelay = 1000;
  });
  source.addEventListener("message", (event) => {
    url = url.replace(/after=\d+/, `after=${event.lastEventId}`);
    show(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    connection.textContent = "Connection lost. Reconnecting…";
    // The browser reconnects automatically, unless the server responded with an error.
    if (source.readyState === EventSource.CLOSED) {
      setTimeout(connect, retryDelay);
      retryDelay = Math.min(2 * retryDelay, MAX_RETRY_DELAY_MS);
    }
  });
}

function show({ service, state, milliseconds, detail, height, checked }) {
  const card = board.querySelector(`[data-service="${service}"]`);
  if (!card) return location.reload(); // a new service
  const badge = card.querySelector(".state");
  badge.className = `state ${state}`;
  badge.textContent = state;
  card.querySelector(".detail").textContent = `${milliseconds} ms, ${detail}`;
  card.querySelector("time").dateTime = checked;
  inLocalTime(card.querySelector("time"));

  const chart = card.querySelector(".chart");
  const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  bar.setAttribute("class", state);
  bar.setAttribute("width", 3);
  bar.setAttribute("height", height);
  chart.append(bar);
  if (chart.children.length > MAX_BARS) chart.firstElementChild.remove();
  Array.from(chart.children).forEach((each, index) => each.setAttribute("x", 4 * index));
}

// Shows the time in the reader's time zone, with the date unless it is today. The tooltip includes the time zone.
function inLocalTime(time) {
  if (!time.dateTime) return; // not checked yet
  const date = new Date(time.dateTime);
  const isToday = date.toDateString() === new Date().toDateString();
  time.textContent = date.toLocaleString([], { dateStyle: isToday ? undefined : "medium", timeStyle: "short" });
  time.title = date.toLocaleString([], { dateStyle: "full", timeStyle: "long" });
}

const measure = document.getElementById("measure");
measure.hidden = false;
measure.addEventListener("click", async () => {
  measure.disabled = true;
  for (const view of ["sync", "async"]) {
    const time = document.getElementById(`${view}-time`);
    time.textContent = "…";
    try {
      const { milliseconds, error } = await (await fetch(`${view}/`)).json();
      time.textContent = error ?? `${milliseconds} ms`;
    } catch {
      time.textContent = "no response";
    }
  }
  measure.disabled = false;
});

board.querySelectorAll("time").forEach(inLocalTime);
document.addEventListener("visibilitychange", () => (document.hidden ? source?.close() : connect()));
connect();
