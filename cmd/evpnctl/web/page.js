"use strict";
// The page works without this: it makes the tables follow what happens, lists events, and adds keys.

const kept = 500; // events
const list = document.getElementById("events");
const live = document.getElementById("live");

let due = null;
let reading = false;

// refresh draws the tables again, at most once in two seconds, and leaves the focus where it is.
function refresh() {
  if (due || document.hidden) return;
  due = setTimeout(async () => {
    due = null;
    if (reading) return;
    reading = true;
    try {
      const answer = await fetch(location.href);
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const id of ["hosts", "matrix", "cell"]) {
        const old = document.getElementById(id);
        const now = fresh.getElementById(id);
        if (!old || !now || old.innerHTML === now.innerHTML) continue;
        const focus = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
        const scroll = old.querySelector(".scroll")?.scrollLeft;
        old.replaceChildren(...now.childNodes);
        if (scroll) old.querySelector(".scroll").scrollLeft = scroll;
        if (focus) old.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
      }
    } catch {
      // the event stream says that nobody answers
    } finally {
      reading = false;
    }
  }, 2000);
}

const stream = new EventSource("/events");
stream.onopen = () => { live.textContent = "live"; live.className = "ok"; list.replaceChildren(); refresh(); };
stream.onerror = () => { live.textContent = "evpnctl web does not answer"; live.className = "fault"; };
stream.onmessage = (message) => {
  const items = JSON.parse(message.data).reverse().map((line) => {
    const item = document.createElement("li");
    item.textContent = line;
    return item;
  });
  list.prepend(...items);
  while (list.children.length > kept) list.lastChild.remove();
  refresh();
};
setInterval(refresh, 10000);
document.addEventListener("visibilitychange", refresh);

// Keys: / to the search, Escape out of it, arrows between the cells of the matrix.
const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
document.addEventListener("keydown", (key) => {
  const search = document.getElementById("q");
  if (key.ctrlKey || key.altKey || key.metaKey) return;
  if (document.activeElement === search) {
    if (key.key === "Escape") search.blur();
    return;
  }
  if (key.key === "/") {
    key.preventDefault();
    search.focus();
    search.select();
    return;
  }
  const step = steps[key.key];
  const cell = document.activeElement.closest?.(".matrix td, .matrix thead th");
  if (!step || !cell) return;
  const rows = cell.closest("table").rows;
  let row = cell.parentElement.rowIndex, column = cell.cellIndex;
  for (;;) {
    row += step[0];
    column += step[1];
    const next = rows[row]?.cells[column];
    if (!next) return;
    const link = next.querySelector("a");
    if (link) {
      key.preventDefault();
      link.focus();
      return;
    }
  }
});
