// The frame around the pages: which page is shown, the state of the server, the theme, signing in.
//
// A page is a module with `title` and `show(main, {argument, signal, state})`. `signal` aborts when the page is
// left: listeners, timers and requests hang on it, so that a page needs no other end.

import { get, setCsrf } from "./api.js";
import { h, setText } from "./dom.js";
import { connect, disconnect, on } from "./events.js";
import { repeat, state } from "./state.js";

const PAGES = {
  clients: () => import("./clients.js"),
  live: () => import("./live.js"),
  history: () => import("./history.js"),
  call: () => import("./call.js"),
  dashboard: () => import("./dashboard.js"),
  talk: () => import("./talk.js"),
  personas: () => import("./personas.js"),
  settings: () => import("./settings.js"),
  guide: () => import("./guide.js"),
  login: () => import("./login.js"),
};
const PARENT = { call: "history" };

const main = document.getElementById("main");
const nav = document.getElementById("nav");
let leave = new AbortController();
let first = true;

function route() {
  const [, name = "", argument = ""] = location.hash.split("/");
  let decoded = "";
  try { decoded = decodeURIComponent(argument); } catch { /* a broken link leads to the page without an argument */ }
  return [name in PAGES && name !== "login" ? name : "clients", decoded];
}

async function go() {
  const [name, argument] = state.signedOut ? ["login", ""] : route();
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  closeMenu();
  const current = PARENT[name] ?? name;
  for (const link of nav.querySelectorAll("a")) {
    if (link.hash === `#/${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    const page = await PAGES[name]();
    if (signal.aborted) return;
    document.title = `${page.title} · aiphone`;
    const body = h("div", { class: "page", data: { page: name } });
    main.replaceChildren(body);
    await page.show(body, { argument, signal, state });
    if (signal.aborted) return;
    // A reader of the page starts at its heading; at the first page the browser's own start is right.
    if (!first && !main.contains(document.activeElement)) body.querySelector("h1")?.focus({ preventScroll: true });
    if (!first) scrollTo(0, 0);
    first = false;
  } catch (error) {
    if (signal.aborted || state.signedOut) return;
    console.error(error);
    main.replaceChildren(h("div", { class: "card empty", role: "alert" },
      h("p", { class: "lead" }, "This page could not be shown"), h("p", {}, String(error.message)),
      h("button", { onclick: go }, "Try again")));
  }
}

// ------------------------------------------------------------------ state of the server

function showReadiness() {
  const box = document.getElementById("readiness");
  const { status, reachable } = state;
  const [kind, text] = !reachable ? ["bad", "The server does not answer"]
    : status === null ? ["waiting", "Connecting"]
    : status.ready ? ["good", "Ready for calls"] : ["busy", "Starting"];
  box.dataset.light = kind;
  setText(document.getElementById("readiness-text"), text);
  main.classList.toggle("stale", !reachable);
  const badge = document.getElementById("live-count");
  const calls = status?.active_calls ?? 0;
  badge.hidden = calls === 0;
  setText(badge, calls);
}

async function refresh() {
  try {
    state.status = await get("status", { timeout: 5000 });
    state.reachable = true;
    dispatchEvent(new CustomEvent("status", { detail: state.status }));
  } catch (error) {
    state.reachable = error.status > 0;
  }
  showReadiness();
}

// ------------------------------------------------------------------ signing in

async function start() {
  const session = await get("session").catch(() => null);
  state.session = session ?? {};
  setCsrf(session?.csrf_token);
  document.getElementById("log-out").hidden = !(session?.password_required && session.signed_in);
  if (session?.signed_in === false) dispatchEvent(new Event("signed-out"));
  else connect();
}

addEventListener("signed-out", () => {
  if (state.signedOut) return;
  state.signedOut = true;
  disconnect();
  go();
});
addEventListener("signed-in", async () => {
  state.signedOut = false;
  await start();
  refresh();
  go();
});

// ------------------------------------------------------------------ theme and menu

const THEMES = { "": "automatic", light: "light", dark: "dark" };

function showTheme() {
  setText(document.querySelector("#theme span"), `Theme: ${THEMES[document.documentElement.dataset.theme ?? ""]}`);
}

document.getElementById("theme").addEventListener("click", () => {
  const order = Object.keys(THEMES);
  const next = order[(order.indexOf(document.documentElement.dataset.theme ?? "") + 1) % order.length];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  try { localStorage.setItem("theme", next); } catch { /* it lasts as long as the page then */ }
  showTheme();
});

const menu = document.getElementById("menu");
function closeMenu() {
  menu.setAttribute("aria-expanded", "false");
  nav.classList.remove("open");
}
menu.addEventListener("click", () => {
  menu.setAttribute("aria-expanded", String(nav.classList.toggle("open")));
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && nav.classList.contains("open")) { closeMenu(); menu.focus(); }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.getElementById("log-out").addEventListener("click", async () => {
  const { signOut } = await import("./login.js");
  await signOut();
});

// ------------------------------------------------------------------ begin

addEventListener("hashchange", go);
for (const type of ["ringing", "ended", "registration"]) on(type, refresh);
showTheme();
// Nothing waits for anything else: the page draws itself while the session and the status are on their way.
Promise.all([start(), refresh()]);
go();
repeat(refresh, 5000);
