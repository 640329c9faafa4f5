// The audio of a call from the browser: microphone -> 16 kHz frames -> WebSocket -> jitter buffer -> loudspeaker.

import { socketUrl } from "./events.js";

const QUIET = -50;
/** Bytes that may wait in the socket, 0.4 s: more is delay, so frames are dropped. */
const BACKLOG = 12800;

/** What this browser calls itself towards the server, so that it is remembered apart from others. Made once, by chance. */
function browserId() {
  const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(10)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    const known = localStorage.getItem("browser") ?? "";
    if (/^[a-z0-9]{8,32}$/.test(known)) return known;
    const made = fresh();
    localStorage.setItem("browser", made);
    return made;
  } catch {
    return fresh(); // without storage it is another browser with each call
  }
}

export class TalkError extends Error {}

const MICROPHONE = {
  NotAllowedError: "The browser was not allowed to use the microphone. Allow it at the left of the address, then try again.",
  NotFoundError: "No microphone was found. Plug one in, then try again.",
  NotReadableError: "The microphone is used by another program.",
};

/** One call. `tell(name, value)` is called with "started" (call_id), "ended" (reason), "levels", "onset" (seconds waited). */
export class AudioLink {
  #context = null;
  #stream = null;
  #socket = null;
  #tell;
  #voiced = -Infinity;
  #over = false;
  #player = null;
  levels = { microphone: -100, loudspeaker: -100 };
  depth = 0;
  gaps = 0;
  dropped = 0;

  constructor(tell) { this.#tell = tell; }

  /** Ask for the microphone and call. Raises `TalkError` with a sentence for the owner. */
  async start() {
    if (!globalThis.isSecureContext || !navigator.mediaDevices || !globalThis.AudioWorkletNode) {
      throw new TalkError("A browser gives the microphone only to pages at localhost or with https. Open this page at http://localhost on the machine itself, or set up a certificate.");
    }
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true } });
    } catch (error) {
      throw new TalkError(MICROPHONE[error.name] ?? `The microphone cannot be used: ${error.message}`);
    }
    try {
      await this.#connect();
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  async #connect() {
    const context = new AudioContext({ latencyHint: "interactive" });
    this.#context = context;
    await Promise.all(["capture", "player"].map((name) => context.audioWorklet.addModule(new URL(`${name}-worklet.js`, import.meta.url))));
    await context.resume();
    if (this.#over) return;
    const capture = new AudioWorkletNode(context, "capture", { numberOfInputs: 1, numberOfOutputs: 0 });
    const player = new AudioWorkletNode(context, "player", { numberOfInputs: 0, numberOfOutputs: 1, outputChannelCount: [1] });
    this.#player = player;
    const url = socketUrl("talk");
    url.searchParams.set("browser", browserId());
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    capture.port.onmessage = ({ data }) => this.#captured(data);
    player.port.onmessage = ({ data }) => this.#played(data);
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ reason }) => this.#end(reason || "the connection was closed");
    context.createMediaStreamSource(this.#stream).connect(capture);
    player.connect(context.destination);
    for (const track of this.#stream.getTracks()) track.onended = () => this.#end("the microphone was taken away");
  }

  #captured({ pcm, level, at }) {
    this.levels.microphone = level;
    if (level > QUIET) this.#voiced = at;
    if (this.#socket.readyState === WebSocket.OPEN) {
      if (this.#socket.bufferedAmount > BACKLOG) this.dropped += 1;
      else this.#socket.send(pcm);
    }
    this.#tell("levels");
  }

  #played({ onset, level, depth, gaps }) {
    if (onset !== undefined) {
      this.#tell("onset", onset - this.#voiced + this.outputLatency);
      return;
    }
    Object.assign(this, { depth, gaps });
    this.levels.loudspeaker = level;
    this.#tell("levels");
  }

  #received(data) {
    if (typeof data !== "string") {
      this.#player.port.postMessage(data, [data]);
      return;
    }
    let message;
    try { message = JSON.parse(data); } catch { return; }
    if (message.type === "started") this.#tell("started", message.call_id);
    if (message.type === "ended") this.#end(message.reason);
  }

  /** Seconds from the worklet to the loudspeaker, as far as the browser knows. */
  get outputLatency() { return this.#context?.outputLatency || this.#context?.baseLatency || 0; }

  #end(reason) {
    if (this.#over) return;
    this.stop();
    this.#tell("ended", String(reason ?? ""));
  }

  /** Hang up and give the microphone back. Nothing is told after this. */
  stop() {
    this.#over = true;
    for (const track of this.#stream?.getTracks() ?? []) { track.onended = null; track.stop(); }
    if (this.#socket) this.#socket.onclose = null;
    this.#socket?.close(1000);
    this.#context?.close();
  }
}
