// Every key: its state now and over a day, the used share of its limits, and the actions on it.

import { get, hasToken, keepToken, post } from "./api.js";
import { STATES, at, card, empty, fill, glyph, h, millis, money, num, percent, say, span, stateOf, table, until, wide } from "./dom.js";

const LETTERS = { r: "ready", l: "limited", c: "cooling", d: "dead" };
const PAGE = 100;
const KINDS = {
  key_cooling: "cools down", key_dead: "is dead", key_revived: "is in rotation again", limits_learned: "its limits were learned from an answer",
  key_joined: "was added", key_left: "was removed",
};

const VERDICTS = { works: "works", limited: "is limited", dead: "is dead", unknown: "is in an unknown state" };

/** All keys as small shapes on a canvas, because thousands of elements would be slow. */
class HeatMap {
  constructor(open) {
    this.canvas = h("canvas", { role: "img" });
    this.tip = h("p", { class: "soft tip num" }, "");
    this.element = h("div", { class: "map" }, this.canvas, this.tip);
    this.found = { ids: [], states: "", used: [] };
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => { this.tip.textContent = this.said; });
    this.canvas.addEventListener("click", (event) => { const id = this.under(event); if (id !== null) open(this.found.ids[id]); });
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.element);
  }

  show(found) {
    this.found = found;
    const counts = STATES.map((state) => [state, [...found.states].filter((letter) => letter === state[0]).length]);
    this.said = counts.filter(([, count]) => count).map(([state, count]) => `${num(count)} ${state}`).join(" · ") || "no key";
    this.canvas.setAttribute("aria-label", `Keys by state: ${this.said}. The table below lists them.`);
    if (!this.canvas.matches(":hover")) this.tip.textContent = this.said;
    this.draw();
  }

  draw() {
    const width = this.element.clientWidth;
    const count = this.found.ids.length;
    if (!width) return;
    this.cell = count <= 60 ? 26 : count <= 400 ? 20 : count <= 1500 ? 14 : width < 500 ? 6 : 10;
    this.columns = Math.max(1, Math.floor(width / this.cell));
    const height = Math.max(1, Math.ceil(count / this.columns)) * this.cell;
    const ratio = devicePixelRatio || 1;
    Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const styles = getComputedStyle(document.documentElement);
    const colour = Object.fromEntries(STATES.map((state) => [state[0], styles.getPropertyValue(`--${state}`).trim()]));
    for (let place = 0; place < count; place++) this.shape(pen, place, this.found.states[place], colour);
  }

  shape(pen, place, letter, colour) {
    const size = this.cell - (this.cell > 12 ? 4 : 2);
    const x = (place % this.columns) * this.cell + 1;
    const y = Math.floor(place / this.columns) * this.cell + 1;
    pen.fillStyle = pen.strokeStyle = colour[letter];
    pen.lineWidth = Math.max(1.5, size / 7);
    pen.beginPath();
    if (letter === "r") {
      // The fuller its limits, the more opaque.
      pen.globalAlpha = 0.45 + 0.55 * (this.found.used[place] ?? 0);
      pen.roundRect(x, y, size, size, size / 5);
      pen.fill();
      pen.globalAlpha = 1;
    } else if (letter === "l") {
      pen.arc(x + size / 2, y + size / 2, size / 2 - 1, 0, 2 * Math.PI);
      pen.stroke();
      pen.beginPath();
      pen.arc(x + size / 2, y + size / 2, size / 2 - 1, -Math.PI / 2, Math.PI / 2);
      pen.fill();
    } else if (letter === "c") {
      pen.moveTo(x + size / 2, y);
      pen.lineTo(x + size, y + size);
      pen.lineTo(x, y + size);
      pen.fill();
    } else {
      const edge = size / 6;
      pen.moveTo(x + edge, y + edge);
      pen.lineTo(x + size - edge, y + size - edge);
      pen.moveTo(x + size - edge, y + edge);
      pen.lineTo(x + edge, y + size - edge);
      pen.stroke();
    }
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.cell);
    const place = Math.floor((event.clientY - box.top) / this.cell) * this.columns + column;
    return column < this.columns && place < this.found.ids.length ? place : null;
  }

  point(event) {
    const place = this.under(event);
    this.canvas.style.cursor = place === null ? "" : "pointer";
    this.tip.textContent = place === null ? this.said : `${this.found.ids[place]}: ${LETTERS[this.found.states[place]]}, ${percent(this.found.used[place])} of its fullest limit used`;
  }

  close() { this.watch.disconnect(); }
}

function strip(key, hours) {
  const most = Math.max(1, ...key.strip.map((cell) => cell.requests));
  const bad = key.strip.filter((cell) => cell.state).length;
  const cells = key.strip.map((cell, place) => {
    const start = at(hours + 3600 * place, false);
    const failed = cell.failed ? `, ${num(cell.failed)} failed` : "";
    const made = h("i", { class: `cell ${cell.state || (cell.requests ? "used" : "")}`, title: `${start}: ${num(cell.requests)} requests${failed}${cell.state ? `, ${cell.state}` : ""}` });
    if (cell.requests && !cell.state) made.style.opacity = String(0.3 + (0.7 * cell.requests) / most);
    return made;
  });
  return h("span", { class: "strip", role: "img", "aria-label": `Last 24 hours: ${num(key.requests)} requests, not ready in ${bad} hours` }, cells);
}

const window_ = (each) => {
  const share = each.limit ? each.used / each.limit : 1;
  return h("span", { class: "limit", title: `${num(each.used)} of ${num(each.limit)} ${each.unit} per ${each.per}` },
    h("span", { class: "limit-name" }, `${each.unit[0]}p${each.per[0]}`),
    h("span", { class: "meter" }, h("i", { class: share >= 1 ? "full" : share >= 0.8 ? "high" : "", "width%": 100 * share })),
    h("span", { class: "num limit-of" }, `${num(each.used)}/${num(each.limit)}`));
};

const windows = (key) => (key.windows.length ? h("span", { class: "limits" }, key.windows.map(window_)) : h("span", { class: "soft" }, "none known"));

const why = (key) => h("span", { class: "two" }, stateOf(key.state),
  key.reason ? h("span", { class: "soft break" }, key.reason, key.until ? `, ${key.state === "dead" ? "tried again" : "free"} ${until(key.until)}` : "") : null);

/** One key: its models, its events, its last requests, and the actions on it. */
class Details {
  constructor(changed) {
    this.changed = changed;
    this.trying = new Set();
    this.inside = h("div");
    this.dialog = h("dialog", { class: "details", "aria-label": "Key" }, this.inside);
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    this.dialog.addEventListener("close", () => { this.id = null; this.verdict = null; });
  }

  async open(id, actions) {
    this.id = id;
    this.verdict = null;
    this.actions = actions;
    await this.refresh();
    if (!this.dialog.open) this.dialog.showModal();
  }

  async refresh() {
    if (!this.id) return;
    const key = await get("key", { id: this.id });
    if (key.id !== this.id) return;
    fill(this.inside, this.content(key));
  }

  content(key) {
    const events = key.events.map((each) => h("li", {}, h("time", { class: "num" }, at(each.at)),
      h("span", {}, h("b", {}, KINDS[each.kind] ?? each.kind.replaceAll("_", " ")), each.until && each.kind === "key_cooling" ? ` for ${span(each.until - each.at)}, until ${at(each.until)}` : "",
        each.reason ? h("span", { class: "soft break" }, each.reason, each.model ? ` · ${each.model}` : "") : each.model ? h("span", { class: "soft break" }, each.model) : null)));
    const rows = key.rows.map((row) => [at(row.at), h("span", { class: "break" }, row.model), row.outcome === "ok" ? "ok" : h("span", { class: "bad break" }, [row.outcome, row.status, row.reason].filter(Boolean).join(" · ")), millis(row.latency), num(row.tokens)]);
    const models = key.models.map((each) => [h("span", { class: "break" }, each.model), why(each), windows(each)]);
    return [
      h("header", {}, h("h2", {}, key.id), h("button", { type: "button", class: "icon", "aria-label": "Close", data: { focus: "close" }, on: { click: () => this.dialog.close() } }, "✕")),
      h("div", { class: "about" }, why(key), h("p", { class: "soft break" }, `fingerprint ${key.fingerprint}`, key.source ? ` · from ${key.source}` : "", key.account ? ` · account ${key.account}` : "")),
      strip(key, key.hours),
      this.buttons(key),
      h("p", { class: "verdict", role: "status" }, this.verdict),
      h("h3", {}, "What happened, last 24 hours"),
      events.length ? h("ul", { class: "events" }, events) : empty("Nothing: the key was neither refused nor retired."),
      h("h3", {}, "Models"), wide(table("Models", [["Model", ""], ["State", ""], ["Limits used", ""]], models, { class: "cards" }), "Models"),
      h("h3", {}, "Last requests"),
      rows.length ? wide(table("Last requests", [["Ended", "num"], ["Model", ""], ["Outcome", ""], ["Time", "num"], ["Tokens", "num"]], rows, { class: "cards" }), "Last requests") : empty("None yet."),
    ];
  }

  buttons(key) {
    if (!this.actions) return h("p", { class: "soft" }, "This dashboard is read-only.");
    const act = (name, focus, said) => h("button", { type: "button", data: { focus }, on: { click: () => this.act(name, key.id, said) } }, focus);
    if (!hasToken()) {
      const field = h("input", { type: "password", autocomplete: "off", id: "token", data: { focus: "token" } });
      const keep = (event) => { event.preventDefault(); keepToken(field.value); this.refresh(); };
      return h("form", { class: "actions", on: { submit: keep } }, h("label", { for: "token" }, "Actions need the token that the command printed"), field, h("button", {}, "Unlock"));
    }
    return h("div", { class: "actions" },
      h("button", { type: "button", disabled: this.trying.has(key.id), data: { focus: "Try" }, on: { click: () => this.try(key.id) } }, this.trying.has(key.id) ? "Trying …" : "Try"),
      key.state === "ready" ? null : act("revive", "Revive", "is in rotation again"),
      key.state === "dead" ? null : act("retire", "Retire", "is out of rotation"));
  }

  /** Send a request with the key, and show what the answer means. */
  async try(id) {
    this.trying.add(id);
    this.verdict = null;
    await this.refresh();
    let said;
    try {
      const found = await post("try", { key: id });
      said = [`${at(Date.now() / 1000)}: ${id} ${VERDICTS[found.outcome]}`, found.reason, found.latency === null ? "" : `answered in ${millis(found.latency)}`, found.free_in ? `free in ${span(found.free_in)}` : ""].filter(Boolean).join(" · ");
    } catch (error) {
      if (error.status === 401) sessionStorage.clear();
      said = error.message;
      say(error.message, true);
    }
    this.trying.delete(id);
    // Another key may be open by now.
    if (this.id === id) this.verdict = said;
    else say(said);
    await this.refresh();
    this.changed();
  }

  async act(name, id, said) {
    try {
      await post(name, { key: id });
      say(`${id} ${said}`);
    } catch (error) {
      if (error.status === 401) sessionStorage.clear();
      say(error.message, true);
    }
    await this.refresh();
    this.changed();
  }
}

export class Keys {
  constructor(place, query) {
    this.actions = false;
    this.rows = [];
    // The `after` of each page before this one; that of the first is empty.
    this.before = [];
    this.after = "";
    this.details = new Details(() => this.refresh());
    this.map = new HeatMap((id) => this.open(id));
    const changed = () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.reload(), 150); };
    const select = (name, label, options, chosen) => {
      const field = h("select", { id: name, on: { change: changed } }, options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
      return [h("label", { for: name }, label), field];
    };
    const search = h("input", { type: "search", id: "q", placeholder: "id, account, reason …", on: { input: changed } });
    search.value = query.get("q") ?? "";
    this.provider = select("provider", "Provider", [["", "all"]], "");
    this.provider[1].dataset.wanted = query.get("provider") ?? "";
    this.state = select("state", "State", [["", "all"], ...STATES.map((state) => [state, state])], query.get("state") ?? "");
    this.sort = select("sort", "Sort by", [["order", "name"], ["state", "state"], ["used", "limit used"], ["requests", "requests"], ["failed", "failed"]], "order");
    this.search = search;
    const field = (parts) => h("div", { class: "field" }, parts);
    this.list = h("div", {});
    const turn = (name, to) => h("button", { type: "button", data: { focus: name }, on: { click: to } }, name);
    [this.back, this.on] = [turn("Previous", () => this.turn(this.before.pop())), turn("Next", () => { this.before.push(this.after); return this.turn(this.next); })];
    this.place = h("p", { class: "soft num", role: "status" });
    this.pages = h("nav", { class: "pages", "aria-label": "Pages of the table", hidden: true }, this.back, this.place, this.on);
    place.append(h("h1", { class: "hidden" }, "Keys"),
      h("div", { class: "toolbar", role: "search" }, field([h("label", { for: "q" }, "Search"), search]), field(this.provider), field(this.state), field(this.sort)),
      card("All keys", this.map.element), h("section", { class: "card" }, h("h2", { class: "hidden" }, "Table of keys"), this.list, this.pages), this.details.dialog);
  }

  get wanted() {
    return { q: this.search.value, provider: this.provider[1].value || this.provider[1].dataset.wanted, state: this.state[1].value, sort: this.sort[1].value };
  }

  async refresh() {
    const wanted = JSON.stringify([this.wanted, this.after]);
    if (this.known === undefined) {
      this.known = await get("overview");
      this.actions = this.known.actions;
      this.provider[1].append(...this.known.providers.map((name) => h("option", { value: name, selected: name === this.provider[1].dataset.wanted }, name)));
      this.provider[1].dataset.wanted = "";
    }
    const [page, map] = await Promise.all([get("keys", { ...this.wanted, limit: PAGE, after: this.after }), get("map", this.wanted)]);
    if (wanted !== JSON.stringify([this.wanted, this.after])) return 100;
    [this.rows, this.next, this.first, this.total, this.hours] = [page.keys, page.next, page.first, page.total, page.hours];
    this.map.show(map);
    this.draw();
    await this.details.refresh();
    return 2000;
  }

  /** The filter or the order has changed. */
  reload() {
    this.before = [];
    this.after = "";
    return this.refresh().catch((error) => say(error.message, true));
  }

  async turn(after) {
    this.after = after;
    await this.refresh().catch((error) => say(error.message, true));
    this.list.scrollIntoView({ block: "start" });
  }

  open(id) { return this.details.open(id, this.actions); }

  draw() {
    this.pages.hidden = this.total <= PAGE;
    [this.back.disabled, this.on.disabled] = [!this.before.length, !this.next];
    const said = `${num(this.first)} to ${num(this.first + this.rows.length - 1)} of ${num(this.total)}`;
    if (this.place.textContent !== said) this.place.textContent = said;
    if (!this.rows.length) {
      const filtered = this.search.value || this.wanted.provider || this.wanted.state;
      fill(this.list, filtered ? empty("No key matches this filter.") : empty("No key is configured yet. To see how: ", "hfs-providers status"));
      return;
    }
    const rows = this.rows.map((key, place) => ({
      // The heading counts as the first row.
      "aria-rowindex": this.first + place + 1,
      cells: [
        h("button", { type: "button", class: "open", data: { focus: key.id }, on: { click: () => this.open(key.id) } }, key.id),
        why(key), strip(key, this.hours), windows(key), num(key.requests), num(key.failed), percent(key.cached), money(key.cost_usd),
      ],
    }));
    const columns = [["Key", ""], ["State", ""], ["Last 24 hours", ""], ["Limits used", ""], ["Requests", "num"], ["Failed", "num"], ["Cached", "num"], ["Cost", "num"]];
    fill(this.list, wide(table(`${this.total} keys`, columns, rows, { class: "cards keys", "aria-rowcount": this.total + 1 }), "Keys"));
  }

  close() {
    this.map.close();
    clearTimeout(this.typing);
  }
}
