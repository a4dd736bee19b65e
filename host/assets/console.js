// Keeps pages fresh: renews the part named `live` when the server says that something changed. Without it the
// pages work as they are.

// A burst of changes costs one request in this time (milliseconds).
const THROTTLE = 1000;

const live = document.getElementById("live");
const connection = document.getElementById("connection");
let due = null;
let loading = false;
let again = false;

function words(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function tick() {
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

async function renew() {
  due = null;
  if (document.hidden || loading) {
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
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(answer.status);
    swap(await answer.text());
    tick();
  } catch {
    say("off", "not updated");
    again = true;
  } finally {
    loading = false;
    if (again && !document.hidden) schedule();
  }
}

function swap(text) {
  // The focus stays on the same link although its element is a new one.
  const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  live.innerHTML = text;
  if (focused) [...live.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus({ preventScroll: true });
}

function schedule() {
  due ??= setTimeout(renew, THROTTLE);
}

function follow() {
  const source = new EventSource("/api/v1/events");
  let opened = false;
  source.onopen = () => {
    say("on", "live");
    // What changed while nobody listened.
    if (opened) schedule();
    opened = true;
  };
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return say("off", "reconnecting…");
    say("off", "not live");
    setTimeout(follow, 10000);
  };
  for (const kind of ["job", "runner", "lagged"]) source.addEventListener(kind, schedule);
  addEventListener("pagehide", () => source.close(), { once: true });
}

setInterval(tick, 1000);
if (live) {
  follow();
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && again) schedule();
  });
}
