// The loudspeaker: a small jitter buffer between the frames of the network and the clock of the sound card.
//
// It fills to `target` before it plays. When it runs dry in the middle of a sound, the target grows; what is too much
// is taken out where nobody speaks, so that a late stretch does not stay as delay.

import { levelOf, Resampler } from "./resampler.js";

const RATE = 16000;
const FIRST_TARGET = 0.06;
const STEP = 0.02;
const HIGHEST_TARGET = 0.2;
/** More than the target plus this much is shortened in silence. */
const SLACK = 0.06;
/** The longest that is ever kept, in seconds. */
const CAPACITY = 2;
/** Silence and sound are told apart here, as the server does (dBFS). */
const AUDIBLE = -45;
/** A sound after so much silence is the beginning of an answer (seconds). */
const PAUSE = 0.3;
const REPORT = 0.05;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(RATE, sampleRate);
    this.size = Math.ceil(CAPACITY * sampleRate);
    this.ring = new Float32Array(this.size);
    this.read = 0;
    this.depth = 0;
    this.target = FIRST_TARGET;
    this.priming = true;
    this.gaps = 0;
    this.level = -100;
    this.heard = -Infinity;
    this.reported = 0;
    this.port.onmessage = ({ data }) => this.take(new Int16Array(data));
  }

  take(frame) {
    const block = Float32Array.from(frame, (sample) => sample / 32768);
    this.resampler.process(block, (sample) => {
      if (this.depth === this.size) this.drop(1);
      this.ring[(this.read + this.depth) % this.size] = sample;
      this.depth += 1;
    });
  }

  drop(count) {
    this.read = (this.read + count) % this.size;
    this.depth -= count;
  }

  process(_, [[output]]) {
    if (this.priming && this.depth >= this.target * sampleRate) this.priming = false;
    if (!this.priming && this.depth < output.length) {
      // Dry: a gap only when there was sound, since nothing is sent for silence.
      if (this.level > AUDIBLE) {
        this.gaps += 1;
        this.target = Math.min(HIGHEST_TARGET, this.target + STEP);
      }
      this.priming = true;
    }
    if (this.priming) output.fill(0);
    else {
      for (let i = 0; i < output.length; i += 1) output[i] = this.ring[(this.read + i) % this.size];
      this.drop(output.length);
    }
    this.level = levelOf(output);
    if (this.level > AUDIBLE) {
      if (currentTime - this.heard > PAUSE) this.port.postMessage({ onset: currentTime });
      this.heard = currentTime;
    } else if (this.depth > (this.target + SLACK) * sampleRate) this.drop(Math.min(output.length, this.depth));
    if (currentTime - this.reported >= REPORT) {
      this.reported = currentTime;
      this.port.postMessage({ level: this.level, depth: this.depth / sampleRate, gaps: this.gaps });
    }
    return true;
  }
}

registerProcessor("player", Player);
