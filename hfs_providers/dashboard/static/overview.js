// The summary.

import { get } from "./api.js";
import { STATES, at, card, empty, fill, glyph, h, millis, money, num, percent, stateBar, table, until, wide } from "./dom.js";
import { Plot } from "./plot.js";

const sum = (counts, state) => Object.values(counts).reduce((found, each) => found + (each[state] ?? 0), 0);

function change(now, before) {
  if (!before) return now ? "none in the hour before" : "the hour before: 0";
  const share = now / before - 1;
  return `${share >= 0 ? "+" : "−"}${percent(Math.abs(share))} on the hour before`;
}

const tile = (name, value, below, extra) =>
  h("div", { class: "tile" }, h("h2", {}, name), h("p", { class: "value num" }, value), extra, h("p", { class: "soft" }, below));

function tiles(found) {
  const counts = Object.fromEntries(STATES.map((state) => [state, sum(found.counts, state)]));
  const total = STATES.reduce((all, state) => all + counts[state], 0);
  const { hour, before } = found;
  const failed = hour ? hour.requests - hour.ok : 0;
  const not = STATES.slice(1).filter((state) => counts[state]).map((state) => h("span", { class: "state" }, glyph(state), `${num(counts[state])} ${state}`));
  const none = "no requests yet";
  return h("div", { class: "tiles" },
    tile("Keys ready", h("span", {}, num(counts.ready), h("small", {}, ` of ${num(total)}`)), not.length ? h("span", { class: "states" }, not) : total ? "all can be used now" : "no key is configured", stateBar(counts)),
    tile("Requests, last hour", num(hour?.requests ?? 0), hour ? change(hour.requests, before.requests) : none),
    tile("Failed", h("span", {}, num(failed), h("small", {}, hour?.requests ? ` ${percent(failed / hour.requests, 1)}` : "")), hour ? `the hour before: ${num(before.requests - before.ok)}` : none),
    tile("Tokens", num(hour?.tokens ?? 0), hour?.tokens_in ? `${percent(hour.tokens_cached / hour.tokens_in)} of the input cached` : none),
    tile("Cost", money(hour?.cost_usd ?? 0), hour ? (hour.unpriced ? `${num(hour.unpriced)} requests without a price` : change(hour.cost_usd, before.cost_usd)) : none),
    tile("Mean time", millis(hour?.latency), hour ? `the hour before: ${millis(before.latency)}` : none));
}

function providers(found) {
  if (!found.providers.length) return empty("No provider has a key yet. To see what is missing: ", "hfs-providers status");
  const rows = found.providers.map((name) => {
    const lately = found.hours[name];
    const counts = found.counts[name] ?? {};
    const total = STATES.reduce((all, state) => all + (counts[state] ?? 0), 0);
    return [
      h("a", { href: `#keys?provider=${encodeURIComponent(name)}`, data: { focus: `provider ${name}` } }, name),
      h("span", { class: "with-bar" }, `${num(counts.ready ?? 0)} of ${num(total)}`, stateBar(counts)),
      num(lately?.requests ?? 0), num(lately ? lately.requests - lately.ok : 0), millis(lately?.latency), money(lately?.cost_usd ?? 0),
    ];
  });
  const columns = [["Provider", ""], ["Keys ready", ""], ["Requests", "num"], ["Failed", "num"], ["Mean time", "num"], ["Cost", "num"]];
  return wide(table("Providers in the last hour", columns, rows, { class: "cards" }), "Providers");
}

const left = (room) => (room.requests === null ? "no limit" : num(room.requests));

function dry(each) {
  if (!each.rate) return h("span", { class: "soft" }, "not in use");
  if (each.dry_in === null) return "not within a day";
  return h("strong", { class: "warn" }, each.dry_in < 1 ? "now" : `${at(each.dry_at, false)}, ${until(each.dry_at)}`);
}

function capacities(found) {
  if (!found.capacities) return card("Capacity", empty("Being computed …"));
  if (!found.capacities.length) return null;
  // The models that run dry first come first; models in use come before the others.
  const place = (each) => [each.dry_in ?? Infinity, -each.rate];
  const ordered = [...found.capacities].sort((one, other) => {
    const [a, b] = [place(one), place(other)];
    return a[0] === b[0] ? a[1] - b[1] : a[0] - b[0];
  });
  const rows = ordered.map((each) => [
    h("span", { class: "two" }, h("b", {}, each.provider), h("span", { class: "soft break" }, each.model)),
    each.rate ? `${each.rate < 10 ? each.rate.toFixed(1) : num(each.rate)}/min` : "–", left(each.minute), left(each.hour), left(each.day), dry(each), each.limit ?? "–",
  ]);
  const columns = [["Model", ""], ["Load", "num"], ["Left this minute", "num"], ["This hour", "num"], ["Today", "num"], ["Runs dry", ""], ["Limit", ""]];
  return card("Capacity", wide(table("Remaining capacity of the keys", columns, rows, { class: "cards" }), "Capacity"));
}

export function problems(found) {
  const all = [...(found.unkept ? [found.unkept] : []), ...found.problems];
  if (!all.length) return null;
  const items = all.map((each) => h("li", { class: each.level },
    h("span", { class: "level" }, each.level), h("span", {}, each.message, each.remedy ? h("span", { class: "remedy" }, each.remedy) : null)));
  return card("Problems", h("ul", { class: "problems" }, items));
}

export class Overview {
  constructor(place) {
    this.tiles = h("div");
    this.plot = new Plot("Requests an hour by provider, last 24 hours");
    this.requests = h("div");
    this.rest = h("div", { class: "stack" });
    place.append(h("h1", { class: "hidden" }, "Overview"), this.tiles, card("Requests an hour by provider, last 24 hours", this.requests, this.plot.element), this.rest);
    this.plot.element.hidden = true;
  }

  async refresh() {
    const found = await get("overview");
    fill(this.tiles, tiles(found));
    const some = found.timeline.starts.length > 0;
    fill(this.requests, some ? null : empty("No requests yet. Make one: ", "hfs-providers ask Hello"));
    this.plot.element.hidden = !some;
    if (some) this.plot.show(found.timeline);
    fill(this.rest, problems(found), card("Providers, last hour", providers(found)), capacities(found),
      h("p", { class: "soft foot" }, found.file ? `Usage file: ${found.file}` : "Usage is not kept", ` · hfs-providers ${found.version}`));
    return 2000;
  }

  close() { this.plot.close(); }
}
