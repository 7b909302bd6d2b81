// Requests as they end, grouped by call: which keys refused it, and which one served it.

import { get } from "./api.js";
import { at, card, empty, fill, glyph, h, millis, money, num, table, wide } from "./dom.js";

const KEPT = 400;
const SHOWN = 100;

const outcome = (row) => (row.outcome === "ok" ? h("span", { class: "state" }, glyph("ready"), "ok")
  : h("span", { class: "two" }, h("span", { class: "state" }, glyph(row.outcome === "dead" ? "dead" : "cooling"), row.outcome.replaceAll("_", " ")),
    h("span", { class: "soft break" }, [row.status, row.reason, row.cooled_until ? `key is cooling until ${at(row.cooled_until)}` : ""].filter(Boolean).join(" · "))));

const model = (row) => h("span", { class: "two" }, h("b", {}, row.provider), h("span", { class: "soft break" }, row.model));

/** Requests, the latest first, grouped by call. */
function calls(rows) {
  const found = new Map();
  for (const row of rows) {
    const id = row.call_id || `request ${row.id}`;
    if (found.has(id)) found.get(id).push(row);
    else found.set(id, [row]);
  }
  return [...found].map(([id, attempts]) => ({ id, attempts }));
}

export class Live {
  constructor(place) {
    this.rows = [];
    this.opened = new Set();
    this.waiting = new AbortController();
    const again = () => this.draw();
    this.filter = h("input", { type: "search", id: "filter", placeholder: "provider, model, key, client …", on: { input: again } });
    this.failed = h("input", { type: "checkbox", id: "failed", on: { change: again } });
    this.pause = h("button", { type: "button", "aria-pressed": "false", on: { click: () => this.toggle() } }, "Pause");
    this.list = h("div");
    place.append(h("h1", { class: "hidden" }, "Live"),
      h("div", { class: "toolbar" },
        h("div", { class: "field" }, h("label", { for: "filter" }, "Filter"), this.filter),
        h("div", { class: "check" }, this.failed, h("label", { for: "failed" }, "only calls with failed requests")), this.pause),
      card("Requests as they end", this.list));
  }

  toggle() {
    this.paused = !this.paused;
    this.pause.setAttribute("aria-pressed", String(this.paused));
    this.pause.textContent = this.paused ? "Continue" : "Pause";
    if (!this.paused) this.draw();
  }

  async refresh() {
    const last = this.rows[0]?.id;
    const found = last === undefined
      ? await get("requests", { limit: 200 }, this.waiting.signal)
      : await get("live", { after: last, wait: 15 }, this.waiting.signal);
    this.rows = [...found.rows, ...this.rows].slice(0, KEPT);
    if (!this.paused && (found.rows.length || !this.drawn)) this.draw();
    // Without any request there is no number after which to wait.
    return this.rows.length ? 300 : 1000;
  }

  draw() {
    this.drawn = true;
    if (!this.rows.length) {
      fill(this.list, empty("No requests yet. Make one, and it appears here: ", "hfs-providers ask Hello"));
      return;
    }
    const text = this.filter.value.toLowerCase();
    const fits = ({ attempts }) => (!this.failed.checked || attempts.some((row) => row.outcome !== "ok"))
      && (!text || attempts.some((row) => [row.provider, row.model, row.key_id, row.client, row.outcome, row.reason].some((each) => each.toLowerCase().includes(text))));
    const chosen = calls(this.rows).filter(fits).slice(0, SHOWN);
    if (!chosen.length) {
      fill(this.list, empty("No request matches this filter."));
      return;
    }
    const columns = [["Ended", "num"], ["Model", ""], ["Key", ""], ["Outcome", ""], ["Client", ""], ["Time", "num"], ["Tokens", "num"], ["Cost", "num"], ["Attempts", "num"]];
    fill(this.list, wide(table("Requests, the latest first", columns, chosen.flatMap((call) => this.lines(call)), { class: "cards live" }), "Requests"));
  }

  lines({ id, attempts }) {
    const [last] = attempts;
    const many = attempts.length > 1;
    const open = this.opened.has(id);
    const toggle = () => { if (open) this.opened.delete(id); else this.opened.add(id); this.draw(); };
    const more = many ? h("button", { type: "button", class: "open", "aria-expanded": String(open), "aria-label": `${attempts.length} attempts of this call`, data: { focus: id }, on: { click: toggle } }, `${open ? "▾" : "▸"} ${attempts.length}`) : "1";
    const line = (row, end, kind) => ({
      class: kind,
      cells: [at(row.at), model(row), h("a", { href: `#keys?q=${encodeURIComponent(row.key_id)}` }, row.key_id), outcome(row), row.client || "–", millis(row.latency), num(row.tokens), money(row.cost_usd), end],
    });
    return [line(last, more, ""), ...(open ? attempts.slice(1).map((row) => line(row, `no. ${row.attempt}`, "attempt")) : [])];
  }

  close() { this.waiting.abort(); }
}
