// Getting started: from nothing to a call that worked, in four steps that tick themselves off.

import { get, patch } from "./api.js";
import { h, heading, setText } from "./dom.js";
import { on } from "./events.js";
import { callerOf, clock } from "./format.js";
import { describe, openForm } from "./clients.js";
import { onStatus, repeat } from "./state.js";

export const title = "Getting started";

export async function show(root, { signal }) {
  let clients = [];
  let done = [false, false, false, false];
  const hearing = h("a", { class: "button", href: "#/talk" }, "Talk now");
  const adding = h("button", { onclick: () => openForm({ taken: clients.map((client) => client.client_id), done: load }) }, "Add New SIP Client");
  const starting = h("a", { class: "button", href: "#/clients" }, "To the SIP clients");
  const steps = [
    step("The phone is ready", "Its models are loaded and it takes calls."),
    step("Add your account", "Tell it the account that your PBX or SIP provider gave you. No account? Skip this and the next step.", adding),
    step("Start it", "Press Start and wait for the green light.", starting),
    step("Make a call", "", hearing),
  ];
  const success = h("section", { class: "card", role: "status" });
  root.append(heading("Getting started"), h("div", { class: "stack" },
    h("p", { class: "muted" }, "Four steps to the first call. Each is ticked off by itself."),
    h("section", { class: "card" }, h("ol", { class: "steps" }, steps.map((one) => one.row))), success));
  success.hidden = true;

  function step(caption, text, ...actions) {
    const mark = h("span", { class: "mark", "aria-hidden": "true" });
    const said = h("span", { class: "visually-hidden" });
    const about = h("p", { class: "muted break" }, text);
    return { row: h("li", {}, mark, h("h2", {}, caption, said), about, h("div", { class: "actions" }, actions)), mark, said, about };
  }

  function draw() {
    const now = done.indexOf(false);
    steps.forEach(({ row, mark, said }, index) => {
      row.className = done[index] ? "done" : index === now ? "now" : "";
      for (const action of row.querySelectorAll(".actions > *")) action.classList.toggle("quiet", index !== now && index !== 3);
      setText(mark, done[index] ? "✓" : index + 1);
      setText(said, done[index] ? " (done)" : "");
    });
  }

  async function load() {
    try {
      const [found, answer] = await Promise.all([get("sip-clients", { signal }), get("calls?limit=10", { signal })]);
      clients = found.sip_clients;
      const registered = clients.find((client) => client.state === "registered");
      const trying = clients.find((client) => client.state !== "stopped");
      const call = answer.calls.find((one) => one.answered !== null && one.ended !== null && one.seconds > 3);
      done = [done[0], clients.length > 0, Boolean(registered), Boolean(call)];
      setText(steps[2].about, registered ? `${registered.display_name || registered.client_id} is registered.` : trying ? `${trying.display_name || trying.client_id}: ${describe(trying)[1]}` : "Press Start and wait for the green light.");
      setText(steps[3].about, registered ? `Dial ${registered.username} from any phone at ${registered.server_ip}, or talk from this browser.` : "Talk from this browser with the microphone; no phone is needed.");
      if (call && success.hidden) finish(call);
      draw();
    } catch { /* the frame says that the server does not answer */ }
  }

  async function finish(call) {
    success.hidden = false;
    success.replaceChildren(h("h2", {}, "It works"),
      h("p", {}, `The call with ${callerOf(call)[0]} lasted ${clock(call.seconds)}. `, h("a", { href: `#/call/${encodeURIComponent(call.id)}` }, "Read what was said"), ", and see how long each answer took."));
    try { await patch("settings", { guide_done: true }); } catch { /* it is shown again then, which does no harm */ }
  }

  onStatus((status) => { done[0] = status.ready === true; draw(); }, signal);
  for (const type of ["registration", "ended", "clients", "connected"]) on(type, load, signal);
  repeat(load, 5000, signal);
  draw();
  await load();
}
