// Usage and cost over any span of time.

import { get, text } from "./api.js";
import { at, card, empty, fill, h, millis, money, num, percent, say, table, wide } from "./dom.js";
import { Plot } from "./plot.js";

const SPANS = [["1h", 3600, "1 hour"], ["24h", 86_400, "24 hours"], ["7d", 604_800, "7 days"], ["35d", 3_024_000, "35 days"], ["all", null, "all"]];
const GROUPS = ["provider", "model", "key", "client", "outcome", "day", "hour"];
const LINES = ["provider", "model", "key", "client", "outcome"];

export class Usage {
  constructor(place) {
    this.chosen = "24h";
    this.by = "provider";
    this.of = "requests";
    this.buttons = new Map();
    const again = () => this.refresh().catch((error) => say(error.message, true));
    const choice = (label, items, current, choose) => {
      const group = h("div", { class: "choice", role: "group", "aria-label": label });
      for (const [value, name] of items) {
        const button = h("button", { type: "button", "aria-pressed": String(value === current), on: { click: () => {
          for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
          choose(value);
          again();
        } } }, name);
        this.buttons.set(value, button);
        group.append(button);
      }
      return group;
    };
    this.spans = choice("Span of time", SPANS.map(([value, , name]) => [value, name]), "24h", (value) => { this.chosen = value; this.dragged = null; });
    const measure = choice("Measure", [["requests", "Requests"], ["cost_nanousd", "Cost"]], "requests", (value) => { this.of = value; });
    const select = h("select", { id: "by", on: { change: () => { this.by = select.value; again(); } } }, GROUPS.map((name) => h("option", { value: name }, name)));
    const save = h("button", { type: "button", on: { click: () => this.save() } }, "CSV");
    this.plot = new Plot("Usage over time", { write: (value) => (this.of === "requests" ? num(value) : money(value)), choose: (since, until) => { this.drag(since, until); again(); } });
    [this.totals, this.none, this.groups, this.money] = [h("div"), h("div"), h("div"), h("div")];
    this.said = h("p", { class: "soft num", role: "status" });
    place.append(h("h1", { class: "hidden" }, "Usage"),
      h("div", { class: "toolbar" }, this.spans, measure, h("div", { class: "field" }, h("label", { for: "by" }, "Group by"), select), save),
      this.totals, card("Over time", this.said, this.none, this.plot.element), this.money, card("By group", this.groups));
  }

  get span() {
    if (this.dragged) return this.dragged;
    const length = SPANS.find(([value]) => value === this.chosen)[1];
    // Begins at a quarter of an hour, because the file has the sums of these.
    return { since: length === null ? null : Math.floor((Date.now() / 1000 - length) / 900) * 900, until: null };
  }

  drag(since, until) {
    this.dragged = { since: Math.round(since), until: Math.round(until) };
    for (const button of this.spans.children) button.setAttribute("aria-pressed", "false");
  }

  async refresh() {
    const lines = LINES.includes(this.by) ? this.by : "provider";
    const asked = JSON.stringify([this.span, this.by, this.of]);
    const found = await get("usage", { ...this.span, by: this.by, of: this.of, lines });
    if (asked !== JSON.stringify([this.span, this.by, this.of])) return 100;
    this.draw(found);
    return 10_000;
  }

  draw(found) {
    const { total } = found;
    const some = Boolean(total?.requests);
    const { since, until } = this.span;
    fill(this.said, `${since ? `from ${at(since, false)}` : "from the beginning"} ${until ? `until ${at(until, false)}` : "until now"}`,
      this.dragged ? h("button", { type: "button", class: "open", on: { click: () => { this.dragged = null; this.buttons.get(this.chosen).click(); } } }, "show the whole span again") : h("span", {}, " · drag over the plot to choose a span"),
      found.exact ? null : " · widened to whole quarters of an hour, because older rows were pruned");
    const tile = (name, value, below) => h("div", { class: "tile" }, h("h2", {}, name), h("p", { class: "value num" }, value), h("p", { class: "soft" }, below));
    fill(this.totals, some ? h("div", { class: "tiles" },
      tile("Requests", num(total.requests), `${num(total.requests - total.ok)} failed`), tile("Tokens in", num(total.tokens_in), `${percent(total.tokens_in ? total.tokens_cached / total.tokens_in : null)} cached`),
      tile("Tokens out", num(total.tokens_out), `${num(total.tokens)} in total`), tile("Cost", money(total.cost_usd), total.unpriced ? `${num(total.unpriced)} without a price` : "all have a price"),
      tile("Mean time", millis(total.latency), "of a request")) : null);
    fill(this.none, some ? null : empty("No requests in this span. Make one: ", "hfs-providers ask Hello"));
    this.plot.element.hidden = !some;
    if (some) this.plot.show(found.timeline);
    fill(this.money, this.budgets(found.budgets));
    fill(this.groups, some ? this.table(found) : empty("Nothing to show."));
  }

  budgets(budgets) {
    if (!budgets.length) return null;
    return card("Budgets", h("ul", { class: "budgets" }, budgets.map((each) => {
      const share = each.usd ? each.spent_usd / each.usd : 1;
      return h("li", {}, h("span", {}, h("b", {}, each.name), h("span", { class: "soft" }, ` per ${each.per}, resets ${at(each.until, false)}`)),
        h("span", { class: "num" }, `${money(each.spent_usd)} of ${money(each.usd)}`, h("span", { class: "soft" }, ` (${percent(share)})`)),
        h("span", { class: "meter" }, h("i", { class: share >= 1 ? "full" : share >= 0.8 ? "high" : "", "width%": 100 * share })));
    })));
  }

  table(found) {
    const name = this.of === "requests" ? "requests" : "cost_usd";
    const timed = this.by === "day" || this.by === "hour";
    const ordered = timed ? [...found.rows].sort((one, other) => (one.group[0] < other.group[0] ? 1 : -1)) : found.rows;
    const most = Math.max(1e-12, ...ordered.map((row) => row[name]));
    const rows = ordered.map((row) => [
      h("span", { class: "with-bar" }, h("span", { class: "break" }, this.by === "hour" ? row.group[0].slice(0, 16).replace("T", " ") : row.group[0] || "–"), h("span", { class: "meter" }, h("i", { "width%": (100 * row[name]) / most }))),
      num(row.requests), num(row.requests - row.ok), num(row.tokens_in), percent(row.tokens_in ? row.tokens_cached / row.tokens_in : null), num(row.tokens_out), money(row.cost_usd), millis(row.latency),
    ]);
    const heading = this.by[0].toUpperCase() + this.by.slice(1);
    const columns = [[heading, ""], ["Requests", "num"], ["Failed", "num"], ["Tokens in", "num"], ["Cached", "num"], ["Tokens out", "num"], ["Cost", "num"], ["Mean time", "num"]];
    return [wide(table(`Usage by ${this.by}`, columns, rows, { class: "cards" }), `Usage by ${this.by}`), found.more ? h("p", { class: "soft" }, `The CSV has ${num(found.more)} more.`) : null];
  }

  async save() {
    try {
      const url = URL.createObjectURL(new Blob([await text("usage.csv", { ...this.span, by: this.by })], { type: "text/csv" }));
      const link = h("a", { href: url, download: "usage.csv" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    } catch (error) {
      say(error.message, true);
    }
  }

  close() { this.plot.close(); }
}
