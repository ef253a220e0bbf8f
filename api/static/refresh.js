// Keeps an open page true; it can be read without. When the monitor cannot be reached the page says so.
const place = document.getElementById("live");

function isBeingFilled() {
  return [...place.querySelectorAll("input, textarea")].some((field) => field.value !== field.defaultValue || field.matches(":focus"));
}

// What is folded out stays so, and whoever walks by keyboard stays where they are.
function replace(fresh) {
  const active = document.activeElement;
  const focused = place.contains(active) ? active.id || active.closest("summary")?.parentElement.id : "";
  for (const details of place.querySelectorAll("details[id]")) {
    const same = fresh.querySelector(`#${CSS.escape(details.id)}`);
    if (same) same.open = details.open;
  }
  place.replaceChildren(...fresh.childNodes);
  const again = focused && document.getElementById(focused);
  if (again) (again.querySelector(":scope > summary") ?? again).focus({ preventScroll: true });
}

// A page that waits for something says so.
let soon;
function refreshSoon() {
  clearTimeout(soon);
  if (place.querySelector("[data-soon]")) soon = setTimeout(refresh, 1_500);
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(8_000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (!fresh) throw new Error(`HTTP ${answer.status}`);
    place.classList.remove("lost");
    document.title = page.title;
    // What somebody types is not taken from under their hands.
    if (!isBeingFilled()) replace(fresh);
    refreshSoon();
  } catch {
    place.classList.add("lost");
    document.title = "Out of reach · http-monitoring";
  }
}

setInterval(refresh, 10_000);
refreshSoon();
document.addEventListener("visibilitychange", refresh);
