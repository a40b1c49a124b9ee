// The panel that shows the code of a file with lines marked.
import { get } from "./api.js";
import { coloured } from "./colour.js";
import { codeLink, element } from "./dom.js";

const BEFORE = 600; // lines that are loaded before the line in focus, if it is not near the top
const STEP = 1200;

const panel = document.getElementById("code");
const main = document.getElementById("main");
let opener = null;
let loading = null;

export function isOpen() {
  return !panel.hidden && main.classList.contains("split");
}

export function close() {
  loading?.abort();
  panel.hidden = true;
  main.classList.remove("split");
  for (const each of document.querySelectorAll(".open")) each.classList.remove("open");
  if (opener?.isConnected) opener.focus({ preventScroll: true });
  opener = null;
}

function rows(text, place) {
  const isMarked = (number) => place.ranges.some(([first, last]) => first <= number && number <= last);
  return coloured(text.text.split("\n"), text.language).map((nodes, i) => {
    const number = text.first + i;
    const marked = isMarked(number);
    return element("span", { class: marked ? "line marked" : "line", id: `L${number}`, "data-line": number }, ...nodes, "\n");
  });
}

function more(label, load, position, code) {
  const button = element("button", { class: "more", type: "button" }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await load();
      button.remove();
    } catch (error) {
      button.textContent = error.message;
    }
  });
  code[position](button);
}

function windowed(code, text, place) {
  const read = (first, last) => get("/api/read", { path: text.path, repository: text.repository, first, last });
  const before = async (first, scroller) => {
    const earlier = await read(Math.max(1, first - STEP), first - 1);
    const height = scroller.scrollHeight;
    code.prepend(...rows(earlier, place));
    scroller.scrollTop += scroller.scrollHeight - height; // what is being read stays where it is
    offerBefore(earlier.first);
  };
  const after = async (last) => {
    const later = await read(last + 1, Math.min(text.total, last + STEP));
    code.append(...rows(later, place));
    offerAfter(later.last);
  };
  const offerBefore = (first) => first > 1 && more(`Show lines before ${first}`, () => before(first, code.closest(".lines")), "before", code);
  const offerAfter = (last) => last < text.total && more(`Show lines after ${last}`, () => after(last), "after", code);
  offerBefore(text.first);
  offerAfter(text.last);
}

async function showRelated(place, button) {
  button.disabled = true;
  const list = element("ul", { class: "related", "aria-label": "Related code" });
  try {
    const { hits } = await get("/api/related", { path: place.path, line: place.focus, repository: place.repository });
    for (const hit of hits) {
      const to = { path: hit.path, repository: hit.repository, ranges: [[hit.first, hit.last]], focus: hit.first };
      list.append(element("li", {}, codeLink(to, { class: "place" }, `${hit.path}:${hit.first}`), ` ${hit.scope}`, element("span", { class: "tag" }, hit.related)));
    }
    if (!hits.length) list.append(element("li", {}, "Nothing is related to these lines."));
  } catch (error) {
    list.append(element("li", { class: "warning bad" }, error.message));
  }
  panel.append(list);
}

function head(place) {
  const related = element("button", { class: "quiet", type: "button" }, "Related");
  related.addEventListener("click", () => showRelated(place, related));
  const exit = element("button", { class: "quiet", type: "button", "aria-label": "Close the code", title: "Close (Escape)" }, "✕");
  exit.addEventListener("click", close);
  const lines = place.ranges.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(",");
  const name = lines ? `${place.path}:${lines}` : place.path;
  return element("header", {}, element("h2", { title: name }, element("bdi", {}, name)), related, exit);
}

// Opens the file of a place with its lines marked, and scrolls to them.
export async function open(place, from) {
  loading?.abort();
  loading = new AbortController();
  const { signal } = loading;
  if (!panel.contains(from)) opener = from;
  for (const each of document.querySelectorAll(".open")) each.classList.remove("open");
  (from.closest(".hit") || from).classList.add("open");
  const scroller = element("div", { class: "lines", tabindex: "0", role: "region", "aria-label": `Lines of ${place.path}`, "aria-busy": "true" });
  panel.replaceChildren(head(place), scroller);
  panel.hidden = false;
  main.classList.add("split");
  try {
    const first = place.focus <= STEP ? 1 : place.focus - BEFORE;
    const text = await get("/api/read", { path: place.path, repository: place.repository, first, last: first + STEP + BEFORE }, signal);
    const code = element("code", {}, ...rows(text, place));
    scroller.replaceChildren(element("pre", {}, code));
    windowed(code, text, place);
    const target = code.querySelector(`#L${place.focus}`);
    if (target) scroller.scrollTop = target.offsetTop - scroller.offsetTop - scroller.clientHeight / 4;
  } catch (error) {
    if (!signal.aborted) scroller.replaceChildren(element("p", { class: "warning bad" }, error.message));
  }
  scroller.removeAttribute("aria-busy");
  scroller.focus({ preventScroll: true });
}
