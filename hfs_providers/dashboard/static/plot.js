// Lines over time, with a table of the same numbers for people who cannot see them.

import { at, h, num, table, wide } from "./dom.js";

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3], [4, 2], [1, 3], [10, 4], [3, 6]];

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * A plot in a figure.
 *
 * Args: `label` says what it shows, `write` formats a value, `choose(since, until)` gets a span that was dragged.
 */
export class Plot {
  constructor(label, { write = num, choose = null } = {}) {
    this.label = label;
    this.write = write;
    this.choose = choose;
    this.key = "";
    this.legend = h("ul", { class: "legend" });
    this.place = h("div", { class: "plot", role: "img", "aria-label": label });
    this.details = h("details", {}, h("summary", {}, "Show as a table"));
    this.element = h("figure", {}, this.legend, this.place, this.details);
    this.details.addEventListener("toggle", () => this.tell());
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.place);
  }

  show({ starts, lines, period }) {
    this.found = { starts, lines, period };
    const key = JSON.stringify([lines.map((line) => line.name), document.documentElement.dataset.theme, period]);
    const data = [starts, ...lines.map((line) => line.values)];
    if (this.plot && key === this.key) this.plot.setData(data);
    else this.make(key, data, lines);
    this.tell();
  }

  make(key, data, lines) {
    this.key = key;
    this.plot?.destroy();
    const colours = lines.map((_, place) => style(`--line-${place % 8}`));
    const axis = { stroke: style("--soft"), grid: { stroke: style("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const series = lines.map((line, place) => ({
      label: line.name, stroke: colours[place], width: 2, dash: DASHES[place % 8], points: { show: data[0].length < 2, size: 6 },
    }));
    const clock = (moments) => moments.map((moment) => {
      const said = new Date(1000 * moment);
      const pad = (value) => String(value).padStart(2, "0");
      const midnight = said.getHours() === 0 && said.getMinutes() === 0;
      return midnight ? said.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : `${pad(said.getHours())}:${pad(said.getMinutes())}`;
    });
    this.plot = new uPlot({
      width: Math.max(200, this.place.clientWidth), height: 240,
      legend: { show: false },
      cursor: { drag: { x: Boolean(this.choose), y: false, setScale: false }, points: { size: 8 } },
      scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.08, 1e-9)] } },
      axes: [{ ...axis, values: (_, moments) => clock(moments), space: 60, size: 30 }, { ...axis, values: (_, values) => values.map(this.write), size: 56 }],
      series: [{}, ...series],
      hooks: {
        setSelect: [(made) => {
          if (!this.choose || made.select.width < 4) return;
          const ends = [made.select.left, made.select.left + made.select.width].map((x) => made.posToVal(x, "x"));
          made.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          this.choose(...ends);
        }],
        setCursor: [(made) => this.point(made.cursor.idx)],
      },
    }, data, this.place);
    this.values = lines.map(() => h("b", { class: "num" }));
    this.when = h("li", { class: "when" });
    const items = lines.map((line, place) => {
      const key = h("i", { class: `key line-${place % 8}` });
      return h("li", {}, key, h("span", {}, line.name || "–"), this.values[place]);
    });
    this.legend.replaceChildren(...items, this.when);
  }

  point(place) {
    const { starts, lines } = this.found;
    const there = place !== null && place !== undefined && starts[place] !== undefined;
    lines.forEach((line, each) => { this.values[each].textContent = there ? this.write(line.values[place]) : ""; });
    this.when.textContent = there ? at(starts[place], false) : "";
  }

  fit() {
    if (this.plot && this.place.clientWidth) this.plot.setSize({ width: this.place.clientWidth, height: 240 });
  }

  tell() {
    if (!this.details.open || !this.found) return;
    const { starts, lines } = this.found;
    const rows = starts.map((start, place) => [at(start, false), ...lines.map((line) => this.write(line.values[place]))]).reverse();
    const columns = [["from", ""], ...lines.map((line) => [line.name || "–", "num"])];
    this.details.replaceChildren(this.details.firstChild, wide(table(this.label, columns, rows.slice(0, 500)), `${this.label}, as a table`));
  }

  close() {
    this.watch.disconnect();
    this.plot?.destroy();
  }
}
