// Requests to the dashboard. The token comes in the URL's fragment, which no server sees, and is removed from it at once.

const KEPT = "hfs-dashboard-token";

export function takeToken() {
  const found = /(?:^#|&)token=([\w-]+)/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(KEPT, found[1]);
  const rest = location.hash.replace(found[0], found[0].startsWith("#") ? "#" : "");
  history.replaceState(null, "", rest === "#" ? "#overview" : rest);
}

export const keepToken = (token) => sessionStorage.setItem(KEPT, token.trim());
export const hasToken = () => sessionStorage.getItem(KEPT) !== null;

export class Failed extends Error {
  constructor(status, message, remedy) {
    super(message);
    this.status = status;
    this.remedy = remedy;
  }
}

async function asked(path, options) {
  const token = sessionStorage.getItem(KEPT);
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(`dashboard/api/${path}`, { ...options, headers, credentials: "omit", cache: "no-store" });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const error = said.error;
  throw new Failed(answer.status, (typeof error === "string" ? error : error?.message) ?? `HTTP ${answer.status}`, said.remedy);
}

const path = (name, query) => {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${name}?${new URLSearchParams(given)}` : name;
};

export const get = async (name, query = {}, signal) => (await asked(path(name, query), { signal })).json();
export const text = async (name, query = {}) => (await asked(path(name, query), {})).text();
export const post = async (name, body) =>
  (await asked(name, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();
