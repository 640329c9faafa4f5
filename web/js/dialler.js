// Place a call: the assistant calls somebody from one of the registered lines.

import { get, post } from "./api.js";
import { field, h, showErrors, toast, values } from "./dom.js";

/** "+46 (0)70-123 45 67" -> "+460701234567": a number as people write it; an address stays as it is. */
export function dialled(text) {
  const trimmed = text.trim();
  return /^\+?[\d\s()./-]+$/.test(trimmed) ? trimmed.replace(/[^\d+]/g, "") : trimmed;
}

/** Ask whom to call and from which line, in a dialog. */
export async function openDialler() {
  const { sip_clients: clients } = await get("sip-clients").catch(() => ({ sip_clients: [] }));
  const ready = clients.filter((client) => client.state === "registered");
  const cancel = h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, ready.length ? "Cancel" : "Close");
  const call = h("button", { type: "submit" }, "Call");
  const form = h("form", { novalidate: true, onsubmit: submit },
    h("div", { class: "form-grid" },
      field({ label: "Number or address", name: "uri", type: "tel", required: true, maxlength: "255", spellcheck: "false", autocomplete: "off", placeholder: "1002", hint: "A number at the line's server, or a SIP address such as sip:1002@pbx.example.org." }),
      field({ label: "From", name: "line_id", options: ready.map((one) => [one.client_id, one.display_name || one.client_id]), hint: "The SIP client that calls." })),
    h("p", { class: "form-error", role: "alert" }), h("div", { class: "actions" }, call, cancel));
  const dialog = h("dialog", { "aria-labelledby": "dialler-title", onclose: () => dialog.remove() },
    h("h2", { id: "dialler-title" }, "Place a call"),
    ready.length ? [h("p", { class: "hint" }, "The assistant speaks first, with the line's greeting, as soon as it is answered."), form]
      : [h("p", {}, "No SIP client is registered. Start one first; it is the line that the call goes out on."), h("div", { class: "actions" }, h("a", { class: "button", href: "#/clients", onclick: () => dialog.close() }, "To the SIP clients"), cancel)]);
  document.body.append(dialog);
  dialog.showModal();

  async function submit(event) {
    event.preventDefault();
    const body = values(form);
    body.uri = dialled(body.uri);
    if (!body.uri) return showErrors(form, { message: "", fields: [{ field: "uri", message: "Whom to call is needed here." }] });
    call.disabled = true;
    try {
      await post("calls", body);
      dialog.close();
      toast(`Calling ${body.uri}.`);
    } catch (error) {
      showErrors(form, error);
    } finally {
      call.disabled = false;
    }
    return undefined;
  }
}
