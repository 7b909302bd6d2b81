// Creates elements and formats values. Texts may come from outside, so they only become text nodes.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes, `on` with listeners, `data` with data attributes; children are nodes or texts. */
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [kind, listener] of Object.entries(value)) made.addEventListener(kind, listener);
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name === "width%") made.style.inlineSize = `${Math.min(100, Math.max(0, value))}%`;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const SHAPES = {
  ready: () => [svg("rect", { x: 1, y: 1, width: 10, height: 10, rx: 2.5 })],
  limited: () => [
    svg("circle", { cx: 6, cy: 6, r: 4.2, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    svg("path", { d: "M6 1.8a4.2 4.2 0 0 1 0 8.4z" }),
  ],
  cooling: () => [svg("path", { d: "M6 .8 11.4 10.6H.6z" })],
  dead: () => [svg("path", { d: "M2 2l8 8M10 2l-8 8", stroke: "currentColor", "stroke-width": 2.4, "stroke-linecap": "round" })],
};

/** A state as a shape: each state has its own, because not everybody can distinguish the colours. */
export function glyph(state) {
  return svg("svg", { viewBox: "0 0 12 12", class: `glyph ${state}`, "aria-hidden": "true" }, ...(SHAPES[state] ?? SHAPES.ready)());
}

/** A state as a shape and a word. */
export const stateOf = (state) => h("span", { class: "state" }, glyph(state), state);

export const STATES = ["ready", "limited", "cooling", "dead"];

/** Keys by state as one bar. */
export function stateBar(counts) {
  const total = STATES.reduce((sum, state) => sum + (counts[state] ?? 0), 0);
  const said = STATES.filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`).join(", ");
  const parts = STATES.filter((state) => counts[state]).map((state) => h("i", { class: state, "width%": (100 * counts[state]) / total }));
  return h("span", { class: "bar-of", role: "img", "aria-label": said || "no keys" }, parts);
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const brief = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const num = (value) => (value === null || value === undefined ? "–" : Math.abs(value) < 10_000 ? whole.format(value) : brief.format(value));
export const percent = (share, digits = 0) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`);

export function money(usd) {
  if (usd === null || usd === undefined) return "–";
  if (usd === 0) return "$0";
  return usd < 0.01 ? `$${usd.toPrecision(2)}` : usd < 1000 ? `$${usd.toFixed(2)}` : `$${brief.format(usd)}`;
}

export const millis = (seconds) => (!seconds ? "–" : seconds < 1 ? `${whole.format(1000 * seconds)} ms` : `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`);

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const short = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** A moment: its time, with the day if it is not today. */
export function at(seconds, exact = true) {
  if (seconds === null || seconds === undefined) return "–";
  const moment = new Date(1000 * seconds);
  const said = (exact ? clock : short).format(moment);
  return moment.toDateString() === new Date().toDateString() ? said : `${day.format(moment)} ${said}`;
}

export function span(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

/** The time from now until a moment. */
export const until = (seconds) => (seconds === null || seconds === undefined ? "" : `in ${span(seconds - Date.now() / 1000)}`);

/** A table: columns are [heading, class]; cells are nodes or texts. */
export function table(caption, columns, rows, attributes = {}) {
  const heads = columns.map(([name, kind]) => h("th", { scope: "col", role: "columnheader", class: kind }, name || h("span", { class: "hidden" }, "More")));
  const body = rows.map((row) => {
    const { cells, ...others } = Array.isArray(row) ? { cells: row } : row;
    return h("tr", { role: "row", ...others }, cells.map((cell, place) => h("td", { role: "cell", class: columns[place][1], "data-label": columns[place][0] }, cell)));
  });
  return h("table", { role: "table", ...attributes }, h("caption", { class: "hidden" }, caption), h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), h("tbody", { role: "rowgroup" }, body));
}

/** A table that may be wider than the page: it has its own scrolling, also with the keyboard. */
export const wide = (made, label) => h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label }, made);

/** A card with a heading. */
export const card = (title, ...children) => h("section", { class: "card" }, h("h2", {}, title), ...children);

/** The text for a place without data: what to do. */
export const empty = (said, command) => h("p", { class: "empty" }, said, command ? h("code", {}, command) : null);

/** Replace the content of a place, and keep the focus. */
export function fill(place, ...children) {
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  place.replaceChildren(...children.flat().filter(Boolean));
  if (focused) place.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

let hiding = 0;

/** Show a message for a while, also to screen readers. */
export function say(text, bad = false) {
  const place = document.getElementById("said");
  place.textContent = text;
  place.classList.toggle("bad", bad);
  place.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => place.classList.remove("shown"), 6000);
}
