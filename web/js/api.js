// The HTTP API, described at api/openapi.json.

const TIMEOUT = 15000;

/** A refused request: `status`, `message`, and `fields`: [{field, message}]. Status 0: the server does not answer. */
export class ApiError extends Error {
  constructor(status, message, fields = []) {
    super(message);
    this.status = status;
    this.fields = fields;
  }
}

let csrf = "";
/** The session's token against forged requests, sent with whatever changes something. */
export const setCsrf = (token) => { csrf = token ?? ""; };

async function request(method, path, { body, etag, signal, timeout = TIMEOUT } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  if (etag) headers["If-Match"] = etag;
  const limit = AbortSignal.timeout(timeout);
  let response;
  try {
    response = await fetch(`api/${path}`, {
      method, headers, cache: "no-store", credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "The server does not answer. Is it still running?");
  }
  const text = await response.text();
  let answer = null;
  try { answer = text ? JSON.parse(text) : null; } catch { /* an answer that is no JSON is described by its status */ }
  if (!response.ok) throw refusal(response.status, answer);
  return { answer, etag: response.headers.get("ETag") };
}

function refusal(status, answer) {
  const error = answer?.error ?? {};
  const fields = (error.fields ?? error.problems ?? []).map((one) => ({ field: String(one.field), message: sentence(one) }));
  if (status === 401) dispatchEvent(new Event("signed-out"));
  if (status === 412) return new ApiError(status, "Somebody else changed this meanwhile. Load it again before you save.", fields);
  return new ApiError(status, String(error.message ?? `The server answered ${status}.`), fields);
}

/** {problem: "is empty", expected: "1 to 64 letters"} -> "Is empty. Expected: 1 to 64 letters." */
function sentence({ message, problem, expected }) {
  const text = String(message ?? problem ?? "is wrong");
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return expected ? `${start}. Expected: ${expected}.` : start;
}

export const get = async (path, options) => (await request("GET", path, options)).answer;
export const getWithTag = (path, options) => request("GET", path, options);
export const post = async (path, body, options) => (await request("POST", path, { body: body ?? {}, ...options })).answer;
export const put = async (path, body, options) => (await request("PUT", path, { body, ...options })).answer;
export const patch = async (path, body, options) => (await request("PATCH", path, { body, ...options })).answer;
export const remove = async (path, options) => (await request("DELETE", path, options)).answer;

/** A path of segments that may hold anything: `path("sip-clients", id)`. */
export const path = (...segments) => segments.map(encodeURIComponent).join("/");

/** `query({text: "a b", line: ""})` -> "?text=a+b"; empty values are left out. */
export function query(parameters) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
}
