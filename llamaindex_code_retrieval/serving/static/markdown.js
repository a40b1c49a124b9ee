// Turns an answer into elements: paragraphs, headings, lists, fenced code, code spans, bold text and citations.
import { codeBlock } from "./colour.js";
import { codeLink, element } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^\n]*$/;
const QUOTED = /^\[(\d+)\] (.+) \(quoted (?:code|test|documentation)\)$/;
const INLINE = /(`+)([^`\n]+?)\1(?!`)|\*\*([^*\n]+)\*\*|\[\^?(\d{1,3}(?:\s?[-–,;]\s?\d{1,3})*)\]|((?:[\w@.+-]+\/)*[\w@+-]+\.[A-Za-z]\w{0,9}):(\d{1,7})(?:-(\d{1,7}))?/g;

// Splits text into blocks {kind, text, …}. The last one may be unfinished while the answer is streamed.
function blocks(text) {
  const found = [];
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i += 1) {
    const fence = lines[i].match(FENCE);
    if (fence) {
      const start = i + 1;
      const closes = (line) => line.trim().startsWith(fence[1]) && !line.trim().replaceAll(fence[1][0], "");
      do i += 1; while (i < lines.length && !closes(lines[i]));
      const last = found.at(-1);
      const heading = last?.kind === "p" && last.text.match(QUOTED) ? found.pop().text : "";
      found.push({ kind: "code", text: lines.slice(start, i).join("\n"), language: fence[2], heading });
    } else if (/^#{1,6} /.test(lines[i])) {
      found.push({ kind: "heading", text: lines[i].replace(/^#+ /, "") });
    } else if (/^\s*(?:[-*+]|\d+[.)]) /.test(lines[i])) {
      const ordered = /^\s*\d/.test(lines[i]);
      const kind = ordered ? "ol" : "ul";
      const item = lines[i].replace(/^\s*(?:[-*+]|\d+[.)]) /, "");
      if (found.at(-1)?.kind === kind && lines[i - 1].trim()) found.at(-1).text += `\n${item}`;
      else found.push({ kind, text: item });
    } else if (lines[i].trim()) {
      if (found.at(-1)?.kind === "p" && lines[i - 1]?.trim() && !lines[i].match(QUOTED)) found.at(-1).text += `\n${lines[i]}`;
      else found.push({ kind: "p", text: lines[i] });
    }
  }
  return found;
}

function numbersIn(text) {
  return text.split(/[,;]/).flatMap((part) => {
    const [first, last = first] = part.split(/[-–]/).map(Number);
    return Array.from({ length: Math.min(Math.max(last - first, 0), 20) + 1 }, (_, i) => first + i);
  });
}

function cite(number, passages) {
  const passage = passages.get(number);
  if (!passage) return `[${number}]`;
  return codeLink(passage, { class: "cite", title: passage.place, "aria-label": `Source ${number}: ${passage.place}` }, `${number}`);
}

function inline(text, passages) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    const [whole, , code, bold, numbers, path, first, last] = match;
    const source = path && [...passages.values()].find((each) => each.path === path || each.path.endsWith(`/${path}`));
    if (code !== undefined) nodes.push(element("code", {}, code));
    else if (bold !== undefined) nodes.push(element("strong", {}, ...inline(bold, passages)));
    else if (numbers !== undefined) nodes.push(...numbersIn(numbers).flatMap((number, i) => [i ? " " : "", cite(number, passages)]));
    else if (source) {
      const ranges = [[Number(first), Number(last || first)]];
      nodes.push(codeLink({ ...source, ranges, focus: ranges[0][0] }, { class: "place" }, whole));
    } else nodes.push(whole);
  }
  nodes.push(text.slice(at));
  return nodes.filter((node) => node !== "");
}

function render(block, passages) {
  if (block.kind === "code") {
    const quoted = block.heading.match(QUOTED);
    const passage = quoted && passages.get(Number(quoted[1]));
    const caption = quoted && element(
      "figcaption", {}, cite(Number(quoted[1]), passages), " ",
      passage ? codeLink(passage, { class: "place" }, passage.place) : quoted[2],
      passage?.scope ? element("span", { class: "scope" }, ` ${passage.scope}`) : "",
    );
    return element("figure", {}, caption, codeBlock(block.text, block.language));
  }
  if (block.kind === "heading") return element("h3", {}, ...inline(block.text, passages));
  if (block.kind === "ul" || block.kind === "ol") {
    return element(block.kind, {}, ...block.text.split("\n").map((item) => element("li", {}, ...inline(item, passages))));
  }
  return element("p", {}, ...inline(block.text, passages));
}

// Returns a function that shows the text so far in a target; blocks that have not changed stay as they are.
export function growing(target, passages) {
  let shown = [];
  return (text) => {
    const now = blocks(text).map((block) => ({ block, key: JSON.stringify(block) }));
    let same = 0;
    while (same < shown.length && same < now.length && shown[same] === now[same].key) same += 1;
    while (target.childNodes.length > same) target.lastChild.remove();
    target.append(...now.slice(same).map(({ block }) => render(block, passages)));
    shown = now.map(({ key }) => key);
  };
}
