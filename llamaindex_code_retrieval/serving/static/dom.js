// Builds elements. Text always becomes a text node, so nothing of it is ever read as HTML.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null && child !== ""));
  return made;
}

// A link to lines of a file. Without JavaScript it opens a page; here it opens the viewer.
export function codeLink(place, attributes, ...children) {
  const lines = place.ranges.map(([first, last]) => `${first}-${last}`).join(",");
  const query = new URLSearchParams({ path: place.path });
  if (lines) query.set("lines", lines);
  if (place.focus) query.set("focus", place.focus);
  if (place.repository) query.set("repository", place.repository);
  return element("a", { href: `/code?${query}`, "data-code": true, ...attributes }, ...children);
}

// The place that a link made by codeLink, or by the server, names.
export function placeOf(link) {
  const query = new URL(link.href).searchParams;
  const ranges = (query.get("lines") || "").split(",").filter(Boolean).map((range) => {
    const [first, last] = range.split("-").map(Number);
    return [first, last || first];
  });
  const focus = Number(query.get("focus")) || (ranges.length ? ranges[0][0] : 1);
  return { path: query.get("path"), repository: query.get("repository") || undefined, ranges, focus };
}
