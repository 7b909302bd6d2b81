// Shows the chosen page, and reads its data again and again.

import { takeToken } from "./api.js";
import { card, fill, h } from "./dom.js";
import { Keys } from "./keys.js";
import { Live } from "./live.js";
import { Overview } from "./overview.js";
import { Usage } from "./usage.js";

const PAGES = { overview: [Overview, "Overview"], keys: [Keys, "Keys"], live: [Live, "Live"], usage: [Usage, "Usage"] };
const main = document.getElementById("main");
const link = document.getElementById("link");
const theme = document.getElementById("theme");

let shown = null;
let turn = 0;

function tell(fine, why = "") {
  link.className = `link ${fine ? "fine" : "lost"}`;
  fill(link, h("i", { "aria-hidden": "true" }), fine ? "live" : "not connected");
  link.title = why;
}

/** Read the page's data again and again while it is shown. */
async function follow(page, mine) {
  let failures = 0;
  while (mine === turn) {
    if (document.visibilityState === "hidden") {
      await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
      continue;
    }
    let pause;
    try {
      pause = await page.refresh();
      failures = 0;
      if (mine === turn) tell(true);
    } catch (error) {
      if (mine !== turn || error.name === "AbortError") return;
      failures += 1;
      pause = Math.min(10_000, 500 * 2 ** failures);
      tell(false, error.message);
      if (error.status) fill(main.querySelector(".trouble") ?? main.appendChild(h("div", { class: "trouble" })),
        card("This page cannot be shown", h("p", {}, error.message), error.remedy ? h("p", { class: "remedy" }, error.remedy) : null));
      else if (!main.querySelector(".trouble")) main.append(h("div", { class: "trouble" }, card("Not connected", h("p", {}, "The command that serves this page has ended, or cannot be reached. Start it again: "), h("code", {}, "hfs-providers dashboard"))));
      await new Promise((again) => setTimeout(again, pause));
      continue;
    }
    main.querySelector(".trouble")?.remove();
    await new Promise((again) => setTimeout(again, pause));
  }
}

function route() {
  takeToken();
  if (!turn) fill(link, h("span", {}, "loading …"));
  const [name, query] = location.hash.slice(1).split("?");
  const [Page, title] = PAGES[name] ?? PAGES.overview;
  turn += 1;
  shown?.close();
  main.replaceChildren();
  document.title = `${title} – hfs-providers`;
  for (const anchor of document.querySelectorAll("nav a")) {
    if (anchor.textContent === title) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  shown = new Page(main, new URLSearchParams(query ?? ""));
  main.dataset.page = title.toLowerCase();
  follow(shown, turn);
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const current = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");

function drawTheme() {
  const other = current() === "dark" ? "light" : "dark";
  theme.textContent = other === "dark" ? "☾" : "☀";
  theme.setAttribute("aria-label", `Use ${other} colours`);
}

theme.addEventListener("click", () => {
  const chosen = current() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try { localStorage.setItem("hfs-theme", chosen); } catch { /* Not allowed: only for this page. */ }
  drawTheme();
  route();
});
dark.addEventListener("change", () => { drawTheme(); route(); });
addEventListener("hashchange", () => { if (location.hash !== "#main") route(); });

drawTheme();
route();
