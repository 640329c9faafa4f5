// Signing in, when the server asks for a password.

import { post, remove, setCsrf } from "./api.js";
import { field, h, setText } from "./dom.js";

export const title = "Sign in";

export async function show(root) {
  const password = field({ label: "Password", name: "password", type: "password", autocomplete: "current-password", required: true });
  const input = password.querySelector("input");
  const button = h("button", {}, "Sign in");
  const problem = h("p", { class: "error", role: "alert" });
  const form = h("form", { onsubmit: submit }, password, problem, button);
  root.append(h("section", { class: "card login" }, h("h1", { tabindex: "-1" }, "Sign in"), h("p", { class: "muted" }, "This phone system asks for its owner's password."), h("br"), form));
  input.focus();

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      const session = await post("session", { password: input.value });
      setCsrf(session.csrf_token);
      dispatchEvent(new Event("signed-in"));
    } catch (error) {
      setText(problem, error.status === 401 ? "That is not the password." : error.message);
      input.select();
    } finally {
      button.disabled = false;
    }
  }
}

export async function signOut() {
  try { await remove("session"); } finally { dispatchEvent(new Event("signed-out")); }
}
