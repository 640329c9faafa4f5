// Figures as people read them.

const two = (number) => String(number).padStart(2, "0");

/** 65 -> "1:05", 3700 -> "1:01:40". */
export function clock(seconds) {
  const total = Math.max(0, Math.floor(Number(seconds) || 0));
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor(total / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`;
}

/** 93784 -> "1 d 2 h", 125 -> "2 min 5 s". */
export function duration(seconds) {
  const total = Math.max(0, Math.floor(Number(seconds) || 0));
  const parts = [["d", 86400, Infinity], ["h", 3600, 24], ["min", 60, 60], ["s", 1, 60]]
    .map(([unit, size, wrap]) => [Math.floor(total / size) % wrap, unit])
    .filter(([count]) => count > 0);
  return parts.slice(0, 2).map(([count, unit]) => `${count} ${unit}`).join(" ") || "0 s";
}

/** 0.734 -> "730 ms", 1.26 -> "1.26 s". */
export function delay(seconds) {
  const value = Number(seconds);
  if (!Number.isFinite(value)) return "–";
  if (value >= 0.9995) return `${value.toFixed(2)} s`;
  return `${Math.round(value * 1000)} ms`;
}

/** A wall clock time (seconds): "14:05" today, "Mon 14:05" this week, "3 Nov 14:05" before. */
export function when(seconds, now = Date.now()) {
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const age = now - date.getTime();
  if (date.toDateString() === new Date(now).toDateString()) return time;
  if (age >= 0 && age < 6 * 86400e3) return `${date.toLocaleDateString([], { weekday: "short" })} ${time}`;
  return `${date.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

/** The whole date and time, for titles. */
export const exactly = (seconds) => new Date(seconds * 1000).toLocaleString();

export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

export function bytes(number) {
  if (!Number.isFinite(number)) return "";
  if (number < 1e6) return `${Math.round(number / 1e3)} kB`;
  return number < 1e9 ? `${Math.round(number / 1e6)} MB` : `${(number / 1e9).toFixed(1)} GB`;
}

/** "sip:100@pbx" and its display name -> "Anna (sip:100@pbx)". */
export const callerOf = (call) => {
  const address = String(call.caller ?? "").replace(/^<|>$/g, "");
  const name = String(call.caller_name ?? "");
  return name && name !== address ? [name, address] : [address || "unknown caller", ""];
};

/** The parts of a turn's latency in their order, with what they mean. */
export const PARTS = [
  ["patience", "Patience", "waiting to be sure that the caller has finished"],
  ["transcript", "Transcript", "Whisper, beyond the patience"],
  ["first_token", "First token", "the language model reads and begins"],
  ["first_phrase", "First phrase", "the language model until the first phrase is complete"],
  ["first_audio", "First audio", "the voice, until its first sound"],
  ["playout", "Playout", "until the first audible packet is sent"],
];
