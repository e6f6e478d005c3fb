// Shows the answers of the conversation as the server streams them.

const answers = document.getElementById("answers");
const status = document.getElementById("status");
const LOST_AFTER_MS = 2000; // the server ends each stream after a while, and the browser opens another one

let lastId = answers.lastElementChild?.dataset.id ?? 0;
let lostTimer;
let source;

const isRunning = () => answers.lastElementChild?.dataset.state === "running";

function connect() {
  source?.close();
  source = new EventSource(`${answers.dataset.events}?after=${lastId}`);
  source.addEventListener("open", () => {
    clearTimeout(lostTimer);
    showStatus();
  });
  source.addEventListener("answer", ({ data, lastEventId }) => {
    lastId = lastEventId;
    keepAtEnd(() => showAnswer(data));
    showStatus();
    closeIfHidden();
  });
  source.addEventListener("text", ({ data }) => keepAtEnd(() => showText(JSON.parse(data))));
  source.addEventListener("error", () => {
    clearTimeout(lostTimer);
    const isFinal = source.readyState === EventSource.CLOSED;
    lostTimer = setTimeout(() => {
      status.textContent = isFinal ? "Connection lost. Load the page again." : "Connection lost. Trying again.";
    }, isFinal ? 0 : LOST_AFTER_MS);
  });
}

// The HTML is the server's, which has cleaned what the language model wrote.
function showAnswer(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const answer = template.content.firstElementChild;
  const old = document.getElementById(answer.id);
  const hadFocus = old?.contains(document.activeElement);
  if (old) old.replaceWith(answer);
  else answers.append(answer);
  if (hadFocus) (answer.querySelector("button") ?? document.querySelector("[name=question]")).focus();
}

function showText({ id, finished, last }) {
  const answer = document.getElementById(`answer-${id}`);
  answer.querySelector(".finished").insertAdjacentHTML("beforeend", finished);
  answer.querySelector(".last").innerHTML = last;
}

// For screen readers, too: they would not follow a text that changes ten times a second.
function showStatus() {
  if (isRunning()) status.textContent = "The assistant is answering.";
  else status.textContent = status.textContent && "The answer has ended.";
}

// Scrolls with the text, unless the reader has scrolled up.
function keepAtEnd(change) {
  const page = document.documentElement;
  const isAtEnd = page.scrollHeight - innerHeight - scrollY < 80;
  change();
  if (isAtEnd) scrollTo(0, page.scrollHeight);
}

// Over HTTP/1.1 a browser opens six connections to a site, for all of its tabs: hidden ones need none,
// unless an answer is running, which the server would stop.
function closeIfHidden() {
  if (document.hidden && !isRunning()) source.close();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) closeIfHidden();
  else if (source.readyState === EventSource.CLOSED) connect();
});
addEventListener("pageshow", ({ persisted }) => persisted && connect());
addEventListener("pagehide", () => source.close());
connect();
