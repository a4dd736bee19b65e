// Keeps pages fresh: renews the part named `live` when the server says that something changed. Without it the
// pages work as they are.

// A burst of changes costs one request in this time (milliseconds).
const THROTTLE = 1000;
// Between tries to follow again, when the server refuses: longer each time.
const FIRST_PAUSE = 3000;
const LONGEST_PAUSE = 60000;

const live = document.getElementById("live");
const connection = document.getElementById("connection");
// Nothing is followed while the page is hidden: a browser has six connections for all of its tabs.
let source = null;
let retry = null;
let pause = FIRST_PAUSE;
let due = null;
let loading = false;
let again = false;
let pressed = false;

function words(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function tick() {
  if (busy()) return;
  for (const time of document.querySelectorAll("time[data-relative], time[data-since]")) {
    const age = (Date.now() - Date.parse(time.dateTime)) / 1000;
    const text = "since" in time.dataset ? words(age) : age < 0 ? `in ${words(-age)}` : `${words(age)} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
}

function say(state, text) {
  connection.dataset.state = state;
  if (connection.textContent !== text) connection.textContent = text;
}

// How it stands with the connection, whatever was said meanwhile.
function report() {
  if (source?.readyState === EventSource.OPEN) say("on", "live");
  else say("off", source?.readyState === EventSource.CONNECTING ? "reconnecting…" : "not live");
}

// Whether a person is about to click or to copy something that a new content would take away.
function busy() {
  const selection = getSelection();
  return pressed || (selection && !selection.isCollapsed && live?.contains(selection.anchorNode));
}

async function renew() {
  due = null;
  if (document.hidden || loading || busy()) {
    again = true;
    return;
  }
  loading = true;
  again = false;
  try {
    const url = new URL(location.href);
    url.searchParams.set("fragment", "rows");
    const answer = await fetch(url, { redirect: "manual", signal: AbortSignal.timeout(10000) });
    if (answer.type === "opaqueredirect") {
      // To the sign-in form: the session is over.
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(answer.status);
    const text = await answer.text();
    if (busy()) {
      again = true;
    } else {
      swap(text);
      report();
    }
  } catch {
    say("off", "not updated");
    retry ??= setTimeout(reopen, pause);
  } finally {
    loading = false;
    if (again) schedule();
  }
}

function swap(text) {
  // The focus stays on the same link although its element is a new one.
  const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  live.innerHTML = text;
  if (focused) [...live.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus({ preventScroll: true });
  tick();
}

function schedule() {
  if (!document.hidden) due ??= setTimeout(renew, THROTTLE);
}

function close() {
  clearTimeout(retry);
  retry = null;
  source?.close();
  source = null;
}

function open() {
  source = new EventSource("/api/v1/events");
  source.onopen = () => {
    pause = FIRST_PAUSE;
    report();
    // What changed while nobody listened.
    renew();
  };
  source.onerror = () => {
    report();
    // A connection that broke is the browser's to mend. One that was refused is not: the session may be over, which
    // renewing finds out, or the server has too many streams.
    if (source.readyState === EventSource.CLOSED) {
      close();
      retry = setTimeout(reopen, pause);
      pause = Math.min(pause * 2, LONGEST_PAUSE);
      renew();
    }
  };
  for (const kind of ["job", "runner", "lagged"]) source.addEventListener(kind, schedule);
}

function reopen() {
  close();
  if (!document.hidden) open();
}

if (live) {
  reopen();
  document.addEventListener("visibilitychange", reopen);
  addEventListener("pagehide", close);
  // Back from the browser's cache.
  addEventListener("pageshow", (event) => event.persisted && reopen());
  // The click comes after the release.
  const release = () =>
    setTimeout(() => {
      pressed = false;
      if (again) schedule();
    });
  addEventListener("pointerdown", () => (pressed = true));
  addEventListener("pointerup", release);
  addEventListener("pointercancel", release);
  // A menu or another window may have taken the release.
  addEventListener("pointermove", (event) => pressed && event.buttons === 0 && release());
  document.addEventListener("selectionchange", () => again && !busy() && schedule());
}
setInterval(tick, 1000);
