// A streaming resampler (windowed sinc) for the audio worklets: the server speaks 16 kHz, a sound card hardly ever.

const PHASES = 128;
/** Zero crossings of the sinc on each side. */
const ZEROS = 12;
/** Share of the narrower band that passes. */
const PASS = 0.94;
const ROOM = 8192;

export class Resampler {
  constructor(from, to) {
    this.step = from / to;
    const scale = Math.min(1, to / from) * PASS;
    this.half = Math.ceil(ZEROS / scale);
    const length = 2 * this.half;
    this.kernels = Array.from({ length: PHASES + 1 }, (_, phase) => Float32Array.from({ length }, (_, k) => {
      const x = k - this.half + 1 - phase / PHASES;
      const window = Math.abs(x) >= this.half ? 0 : Math.cos((Math.PI * x) / (2 * this.half)) ** 2;
      const y = Math.PI * scale * x;
      return scale * window * (y === 0 ? 1 : Math.sin(y) / y);
    }));
    this.kept = new Float32Array(ROOM);
    this.filled = this.half;
    this.at = this.half;
  }

  /** Resample a block of at most 4096 samples; `put(sample)` is called for each that comes out. */
  process(input, put) {
    this.kept.set(input, this.filled);
    this.filled += input.length;
    let base = Math.floor(this.at);
    while (base + this.half < this.filled) {
      const kernel = this.kernels[Math.round((this.at - base) * PHASES)];
      const start = base - this.half + 1;
      let sum = 0;
      for (let k = 0; k < kernel.length; k += 1) sum += kernel[k] * this.kept[start + k];
      put(sum);
      this.at += this.step;
      base = Math.floor(this.at);
    }
    const gone = Math.min(this.filled, base - this.half + 1);
    if (gone > 0) {
      this.kept.copyWithin(0, gone, this.filled);
      this.filled -= gone;
      this.at -= gone;
    }
  }
}

/** Level of a block in dBFS, from -100. */
export function levelOf(block, full = 1) {
  let sum = 0;
  for (const sample of block) sum += sample * sample;
  return Math.max(-100, 10 * Math.log10(sum / (block.length || 1) / (full * full) + 1e-10));
}
