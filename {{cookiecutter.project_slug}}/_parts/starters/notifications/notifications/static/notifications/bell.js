// Updates the bell, the title and the list: the server sends an event whenever the user's notifications change.

const bell = document.getElementById("bell");
const count = document.getElementById("unread");
const list = document.getElementById("notifications");
const allow = document.getElementById("allow");
const title = document.title;
const announcer = document.createElement("p"); // read aloud by screen readers

// These names contain the site and the user: other sites may share the host, and other users may share the browser.
const LAST_ID = `last id of ${bell.dataset.events}`; // of the last notification that a page in this browser has announced
const STREAM_LOCK = `stream of ${bell.dataset.events}`;
const VISIBLE_LOCK = `visible page of ${bell.dataset.events}`;
const MAX_RETRY_DELAY_MS = 30_000;
const MAX_SHOWN_AT_ONCE = 3;

let retryDelay = 1000;
let source;
let wantsToKeepStream = false;
let keepsStream = false;
let refreshes = 0;

// Over HTTP/1.1, all tabs of a browser share six connections to a site, so hidden pages close their streams.
// If the user has allowed browser notifications, one page keeps its stream open for them, visible or not.
function connect() {
  if ((document.hidden && !keepsStream) || (source && source.readyState !== EventSource.CLOSED)) return;
  source = new EventSource(`${bell.dataset.events}&after=${localStorage[LAST_ID] ?? ""}`);
  source.addEventListener("open", () => (retryDelay = 1000));
  source.addEventListener("message", (event) => {
    localStorage[LAST_ID] = event.lastEventId;
    update(JSON.parse(event.data));
  });
  source.addEventListener("signed-out", () => {
    source.close();
    bell.hidden = true;
    document.title = title;
  });
  source.addEventListener("error", () => {
    // The browser reconnects automatically, unless the server responded with an error.
    if (source.readyState === EventSource.CLOSED) {
      setTimeout(connect, retryDelay);
      retryDelay = Math.min(2 * retryDelay, MAX_RETRY_DELAY_MS);
    }
  });
}

function update({ unread, new: latest }) {
  showCount(unread);
  if (latest.length > MAX_SHOWN_AT_ONCE) latest = [{ text: `${latest.length} new notifications`, url: bell.href }];
  announcer.textContent = latest.map(({ text }) => text).join(", ");
  if (keepsStream) showOutside(latest);
  if (list) refreshList();
}

function showCount(unread) {
  bell.hidden = false;
  count.hidden = !unread;
  count.firstElementChild.textContent = unread;
  document.title = unread ? `(${unread}) ${title}` : title;
}

async function refreshList() {
  const number = ++refreshes;
  const response = await fetch(location.href);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const current = page.getElementById(list.id);
  if (!current || number < refreshes) return; // signed out, or a newer request has started
  const focused = document.activeElement.id;
  list.replaceChildren(...current.children);
  list.querySelectorAll("time").forEach(inLocalTime);
  document.getElementById(focused)?.focus();
}

// Shows the time in the reader's time zone, with the date unless it is today. The tooltip includes the time zone.
function inLocalTime(time) {
  const date = new Date(time.dateTime);
  const isToday = date.toDateString() === new Date().toDateString();
  time.textContent = date.toLocaleString([], { dateStyle: isToday ? undefined : "medium", timeStyle: "short" });
  time.title = date.toLocaleString([], { dateStyle: "full", timeStyle: "long" });
}

function keepStream() {
  if (wantsToKeepStream || window.Notification?.permission !== "granted") return;
  wantsToKeepStream = true;
  navigator.locks.request(STREAM_LOCK, () => {
    keepsStream = true;
    connect();
    return new Promise(() => {}); // never resolves: another page gets the lock when this one is closed
  });
}

function holdWhileVisible() {
  if (document.hidden) return;
  navigator.locks?.request(VISIBLE_LOCK, { mode: "shared" }, () => {
    return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  });
}

async function showOutside(latest) {
  const { held } = await navigator.locks.query();
  if (held.some(({ name }) => name === VISIBLE_LOCK)) return; // a page with the bell is visible
  for (const { text, url } of latest) {
    const notification = new Notification(text);
    notification.addEventListener("click", () => {
      window.focus();
      location.assign(url || bell.href);
    });
  }
}

if (allow && window.Notification?.permission === "default" && window.isSecureContext) {
  allow.hidden = false;
  allow.addEventListener("click", async () => {
    allow.hidden = (await Notification.requestPermission()) !== "default";
    keepStream();
  });
}

announcer.className = "visually-hidden";
announcer.setAttribute("role", "status");
bell.after(announcer);
list?.querySelectorAll("time").forEach(inLocalTime);
showCount(Number(count.firstElementChild.textContent));
document.addEventListener("visibilitychange", () => {
  holdWhileVisible();
  keepStream();
  if (document.hidden && !keepsStream) source?.close();
  else connect();
});
holdWhileVisible();
keepStream();
connect();
