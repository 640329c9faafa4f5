// The microphone: 20 ms frames of int16 at 16 kHz, each with its level and the time of its end.

import { levelOf, Resampler } from "./resampler.js";

const RATE = 16000;
const FRAME = 320;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE);
    this.frame = new Int16Array(FRAME);
    this.filled = 0;
  }

  process([input]) {
    const channel = input?.[0];
    if (!channel) return true;
    this.resampler.process(channel, (sample) => {
      this.frame[this.filled] = Math.max(-32768, Math.min(32767, Math.round(sample * 32767)));
      this.filled += 1;
      if (this.filled < FRAME) return;
      const level = levelOf(this.frame, 32768);
      this.port.postMessage({ pcm: this.frame.buffer, level, at: currentTime }, [this.frame.buffer]);
      this.frame = new Int16Array(FRAME);
      this.filled = 0;
    });
    return true;
  }
}

registerProcessor("capture", Capture);
