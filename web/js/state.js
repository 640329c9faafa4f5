// What all pages know of the server, and a timer that rests while nobody looks.

/** `status` is the last body of GET api/status, or null. Each new one is told by a "status" event on the window. */
export const state = { status: null, reachable: true, signedOut: false, session: {} };

/** Run `task` now and then: every `period` ms, not while the page is hidden, at once when it is shown again. */
export function repeat(task, period, signal) {
  const timer = setInterval(() => { if (!document.hidden) task(); }, period);
  const shown = () => { if (!document.hidden) task(); };
  document.addEventListener("visibilitychange", shown, { signal });
  signal?.addEventListener("abort", () => clearInterval(timer));
}

/** Call `handler(status)` with the status there is, and with each new one. */
export function onStatus(handler, signal) {
  if (state.status) handler(state.status);
  addEventListener("status", (event) => handler(event.detail), { signal });
}

/** Run `task` once in the next frame, however often it is asked for until then. */
export function inNextFrame(task, signal) {
  let asked = 0;
  signal?.addEventListener("abort", () => cancelAnimationFrame(asked));
  return () => {
    if (asked || signal?.aborted) return;
    asked = requestAnimationFrame(() => { asked = 0; task(); });
  };
}
