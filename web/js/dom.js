// Making and updating elements. Whatever a caller says or a SIP header carries becomes text nodes only:
// nothing in web/ assigns HTML.

const SVG = "http://www.w3.org/2000/svg";

function put(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element && !(element instanceof SVGElement) && typeof value !== "string") element[name] = value;
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else element.setAttribute(name === "className" ? "class" : name, value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element: `h("p", {class: "hint", onclick: f}, "text", child)`. Strings become text nodes. */
export const h = (tag, properties, ...children) => put(document.createElement(tag), properties, children);

/** The same for SVG. */
export const s = (tag, properties, ...children) => put(document.createElementNS(SVG, tag), properties, children);

/** An icon of the sprite in index.html. */
export const icon = (name) => s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));

/** Set an element's text, only when it changes: a screen reader announces each change. */
export function setText(element, text) {
  const value = String(text ?? "");
  if (element.textContent !== value) element.textContent = value;
}

/** A light with its words beside it; a light never speaks alone. */
export const light = () => h("span", { class: "light", "aria-hidden": "true" });

/** The key of each element that `keep` made; not an attribute, since a key may be anything a caller said. */
const keys = new WeakMap();

/** Make the children of `parent` match `items`: one child for each key, created, updated, moved or removed. */
export function keep(parent, items, keyOf, create, update = () => {}) {
  const present = new Map([...parent.children].map((child) => [keys.get(child), child]));
  items.forEach((item, index) => {
    const key = String(keyOf(item, index));
    const child = present.get(key) ?? create(item);
    present.delete(key);
    keys.set(child, key);
    update(child, item);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  for (const child of present.values()) child.remove();
}

let ids = 0;

/** A labelled form field: `{label, name, value, type, hint, ...attributes}`. An error text can be shown below it. */
export function field({ label, name, hint = "", type = "text", value = "", options = null, ...rest }) {
  const id = `f${++ids}`;
  const described = `${id}-hint ${id}-error`;
  const common = { id, name, "aria-describedby": described, ...rest };
  let input;
  if (options) {
    input = h("select", common, options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  } else if (type === "textarea") {
    input = h("textarea", { rows: "3", ...common });
    input.value = value;
  } else if (type === "checkbox") {
    input = h("input", { type, ...common, checked: Boolean(value) });
  } else {
    input = h("input", { type, ...common });
    input.value = value;
  }
  const caption = h("label", { for: id }, label);
  const small = h("p", { class: "hint", id: `${id}-hint` }, hint);
  const error = h("p", { class: "error", id: `${id}-error` });
  const box = h("div", { class: type === "checkbox" ? "field check" : "field", data: { field: name } });
  box.append(...(type === "checkbox" ? [input, caption, small, error] : [caption, input, small, error]));
  return box;
}

/** The values of a form by field name: numbers as numbers, check boxes as booleans. */
export function values(form) {
  const result = {};
  for (const input of form.elements) {
    if (!input.name) continue;
    if (input.type === "checkbox") result[input.name] = input.checked;
    else if (input.type === "number") result[input.name] = input.value === "" ? null : Number(input.value);
    else result[input.name] = input.value;
  }
  return result;
}

/** Show each message at its field, the rest in the form's own error line, and focus the first wrong field. */
export function showErrors(form, error) {
  const fields = new Map((error?.fields ?? []).map((one) => [one.field, one.message]));
  let first = null;
  for (const box of form.querySelectorAll("[data-field]")) {
    const message = fields.get(box.dataset.field) ?? "";
    fields.delete(box.dataset.field);
    const input = box.querySelector("input, select, textarea");
    setText(box.querySelector(".error"), message);
    if (message) {
      input.setAttribute("aria-invalid", "true");
      first ??= input;
    } else input.removeAttribute("aria-invalid");
  }
  const rest = [...fields].map(([name, message]) => `${name}: ${message}`);
  setText(form.querySelector(".form-error"), error && !first ? [error.message, ...rest].join(" ") : rest.join(" "));
  first?.closest("details")?.setAttribute("open", "");
  first?.focus();
}

/** Say something once at the edge of the page, and to a screen reader. */
export function toast(text, kind = "good") {
  const note = h("p", { class: "toast", data: { kind } }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), kind === "bad" ? 9000 : 4000);
}

/** Ask before something that cannot be undone; resolves to true or false. */
export function confirmed(question, action) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "small", "aria-label": question, onclose: () => { resolve(dialog.returnValue === "yes"); dialog.remove(); } },
      h("form", { method: "dialog" },
        h("p", {}, question),
        h("div", { class: "actions" },
          h("button", { value: "yes", class: "danger" }, action),
          h("button", { value: "no", class: "quiet", autofocus: true }, "Cancel"))));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A heading for a page, with what belongs at its right. */
export const heading = (title, ...side) => h("div", { class: "heading" }, h("h1", { tabindex: "-1" }, title), ...side);

/** What a page shows when there is nothing. */
export const empty = (title, text, ...more) => h("div", { class: "empty" }, h("p", { class: "lead" }, title), h("p", {}, text), ...more);
