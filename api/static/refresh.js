// Keeps an open page true; it can be read without. When the monitor cannot be reached the page says so.
const place = document.getElementById("live");

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(8_000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (!fresh) throw new Error(`HTTP ${answer.status}`);
    place.replaceChildren(...fresh.childNodes);
    place.classList.remove("lost");
    document.title = page.title;
  } catch {
    place.classList.add("lost");
    document.title = "Out of reach · http-monitoring";
  }
}

setInterval(refresh, 10_000);
document.addEventListener("visibilitychange", refresh);
