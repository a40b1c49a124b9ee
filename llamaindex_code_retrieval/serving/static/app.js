// The page: read the form, show answers and hits, open code, follow the keyboard.
import { ask, get } from "./api.js";
import { codeBlock } from "./colour.js";
import { codeLink, element, placeOf } from "./dom.js";
import { growing } from "./markdown.js";
import * as viewer from "./viewer.js";

const POLL_MILLISECONDS = 2000;

const $ = (id) => document.getElementById(id);
const form = $("form");
const input = $("question");
const status = $("status");
const results = $("results");
let conversation = null; // its id, which the server gave; it lives no longer than this page
let running = null;
let mode = "ask";

function say(text, { busy = false, bad = false } = {}) {
  status.textContent = text;
  status.className = `status${busy ? " busy" : ""}${bad ? " bad" : ""}`;
}

function filters() {
  const value = (name) => form.elements[name]?.value.trim() || undefined;
  return {
    repository: value("repository"),
    paths: (value("paths") || "").split(/[,\s]+/).filter(Boolean),
    languages: value("languages") ? [value("languages")] : [],
    kind: value("kind"),
    include_tests: form.elements.tests.checked ? false : undefined,
  };
}

function showFilterCount() {
  const { paths, languages, kind, include_tests: tests } = filters();
  const count = Boolean(paths.length) + languages.length + Boolean(kind) + (tests === false);
  $("filtered").textContent = count || "";
}

function setMode(name) {
  mode = name;
  form.classList.toggle("mode-search", name === "search");
}

// --- search --------------------------------------------------------------------------------------------------------

// Returns the first lines of a hit without the indentation that they have in common.
function preview(text) {
  const lines = text.split("\n").slice(0, 8);
  const indents = lines.filter((line) => line.trim()).map((line) => line.match(/^\s*/)[0].length);
  return lines.map((line) => line.slice(Math.min(...indents))).join("\n");
}

function hitItem(hit) {
  const place = { path: hit.path, repository: hit.repository, ranges: [[hit.first, hit.last]], focus: hit.first };
  return element(
    "li", { class: "hit" },
    codeLink(
      place, {},
      element("span", { class: "scope" }, hit.scope || hit.path.split("/").at(-1)),
      element("span", { class: "tag" }, hit.kind),
      form.elements.repository ? element("span", { class: "tag" }, hit.repository) : "",
      element("span", { class: "place" }, `${hit.path}:${hit.first}-${hit.last}`),
    ),
    codeBlock(preview(hit.text), hit.language),
  );
}

async function search(question, signal) {
  say("Searching…", { busy: true });
  const started = performance.now();
  const { hits, notes } = await get("/api/search", { question, limit: 20, ...filters() }, signal);
  conversation = null;
  results.replaceChildren(element("ol", { class: "hits", "aria-label": "Hits" }, ...hits.map(hitItem)));
  const seconds = ((performance.now() - started) / 1000).toFixed(2);
  const count = hits.length === 1 ? "1 hit" : `${hits.length || "No"} hits`;
  say([`${count} in ${seconds} s.`, ...notes].join(" "));
  const fields = [...new FormData(form)].filter(([, value]) => value);
  history.replaceState(null, "", `/?${new URLSearchParams(fields)}`);
}

// --- ask -----------------------------------------------------------------------------------------------------------

function newTurn(question) {
  const body = element("div", { class: "body" });
  const turn = element("article", { class: "turn", "aria-busy": "true" }, element("h2", {}, question), body);
  if (!results.querySelector(".turn")) results.replaceChildren();
  results.prepend(turn);
  return { turn, body };
}

function sources(passages, cited) {
  const items = [...passages.values()].map((passage) =>
    element(
      "li", { class: cited.has(passage.number) || !cited.size ? "" : "unused" },
      codeLink(passage, { class: "cite", "aria-label": `Source ${passage.number}` }, `${passage.number}`), " ",
      codeLink(passage, { class: "place" }, passage.place), " ",
      element("span", { class: "scope" }, passage.scope),
    ));
  return element("ul", { class: "sources" }, element("li", {}, element("h3", {}, "Sources")), ...items);
}

async function answer(question, signal) {
  const { turn, body } = newTurn(question);
  const passages = new Map();
  const chosen = filters();
  const show = growing(body, passages);
  let notes = [];
  let text = "";
  let frame = 0;
  const paint = () => {
    frame = 0;
    show(text);
  };
  const on = {
    status: (data) => {
      const forgotten = conversation && data.is_new;
      conversation = data.conversation;
      notes = forgotten ? ["The earlier conversation was forgotten.", ...data.notes] : data.notes;
    },
    passages: (data) => {
      for (const each of data.passages) {
        passages.set(each.number, { ...each, ranges: each.lines, focus: each.first || each.lines[0]?.[0], repository: chosen.repository });
      }
      say(passages.size ? `Reading ${passages.size} passages…` : "", { busy: true });
    },
    text: (data) => {
      text += data.text;
      frame ||= requestAnimationFrame(paint);
    },
    citations: (data) => passages.size && turn.append(sources(passages, new Set(data.citations))),
    warnings: (data) => turn.append(...data.warnings.map((each) => element("p", { class: "warning" }, `Check this: ${each}.`))),
    done: (data) => say([`Answered from ${passages.size} passages in ${data.seconds.toFixed(2)} s.`, ...notes].join(" ")),
    error: (data) => {
      turn.append(element("p", { class: "warning bad" }, data.error));
      say("The answer failed.", { bad: true });
    },
  };
  say("Searching the code…", { busy: true });
  try {
    await ask({ question, conversation, ...chosen }, (name, data) => on[name]?.(data), signal);
    input.select();
  } catch (error) {
    if (!text && !signal.aborted) turn.remove();
    if (signal.aborted) turn.append(element("p", { class: "warning" }, "Stopped."));
    throw error;
  } finally {
    cancelAnimationFrame(frame);
    show(text);
    turn.removeAttribute("aria-busy");
  }
}

async function submit() {
  const question = input.value.trim();
  if (!question) return;
  running?.abort();
  const mine = (running = new AbortController());
  try {
    await (mode === "search" ? search : answer)(question, mine.signal);
  } catch (error) {
    if (mine === running) say(mine.signal.aborted ? "Stopped." : error.message, { bad: !mine.signal.aborted });
  } finally {
    if (mine === running) running = null;
  }
}

// --- keyboard, clicks, theme ---------------------------------------------------------------------------------------

function moveThroughHits(step) {
  const links = [...results.querySelectorAll(".hit > a")];
  if (!links.length) return false;
  const at = links.indexOf(document.activeElement);
  if (at < 0 && document.activeElement !== input) return false;
  const next = at + step;
  if (next < 0) input.focus();
  else links[Math.min(next, links.length - 1)].focus();
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, select, textarea");
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    input.focus();
    input.select();
  } else if (event.key === "Escape") {
    if (viewer.isOpen()) viewer.close();
    else if (running) running.abort();
    else input.blur();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (moveThroughHits(event.key === "ArrowDown" ? 1 : -1)) event.preventDefault();
  }
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-code]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  viewer.open(placeOf(link), link);
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
for (const name of ["ask", "search"]) {
  $(name).addEventListener("click", () => setMode(name));
}
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault(); // else the browser clicks the first button
  submit();
});
form.addEventListener("change", showFilterCount);

const theme = $("theme");
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const nameTheme = () => {
  theme.textContent = isDark() ? "Light theme" : "Dark theme";
};
theme.hidden = false;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
  try {
    localStorage.setItem("theme", document.documentElement.dataset.theme);
  } catch {
    // kept until the page is closed
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();

// While an index is built, the page says so; when it is there, the page that nobody has used yet shows its languages.
async function awaitIndex() {
  const { repositories } = await get("/api/status", {});
  if (repositories.some((each) => each.state === "building")) {
    setTimeout(awaitIndex, POLL_MILLISECONDS);
  } else if (!input.value && results.querySelector(".empty")) {
    location.reload();
  } else {
    const files = repositories.reduce((sum, each) => sum + each.files, 0);
    $("about").textContent = $("about").textContent.replace("being indexed", `${files} files`);
  }
}

$("hint").hidden = false;
if ("building" in $("about").dataset) setTimeout(awaitIndex, POLL_MILLISECONDS);
showFilterCount();
if (results.querySelector(".hits")) setMode("search");
if (!document.body.classList.contains("plain")) input.focus();
