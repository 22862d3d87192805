// Plays decoded sound at the times at which it was captured, plus a delay. Runs on the browser's audio thread.
//
// The timeline replaces a queue: each block of output has a capture time that it should play, and where there is no sound for it
// (silence has no packets), it plays silence.

/** Samples per millisecond; the context has the stream's rate. */
const PER_MS = sampleRate / 1000;
/** Sound that is this far from its time jumps there, ms. */
const RESYNC_MS = 80;
/** Sound that is this far from its time is played faster or slower until it is within half of that, ms. */
const TOLERANCE_MS = 10, SPEEDUP = 0.01;
/** Maximum number of queued chunks of 10 ms. */
const MAX_CHUNKS = 100;
/** Blocks between two reports. */
const REPORT_BLOCKS = 36;

class SoundPlayer extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunks = [];           // {time, start, channels}: capture time in ms, whether it continues its predecessor, samples
    this.at = 0;                // position in the first chunk, samples
    this.playing = false;
    this.step = 1;
    this.clock = null;          // server's time in ms at which the output of context time 0 is heard
    this.delay = 0;             // ms from capture to output
    this.blocks = this.peak = this.late = this.resyncs = 0;
    this.port.onmessage = ({ data }) => {
      if (data.chunk) this.add(data.chunk);
      else if (data.clock !== undefined) ({ clock: this.clock, delay: this.delay } = data);
      else if (data.reset) { this.chunks = []; this.playing = false; }
    };
  }

  add(chunk) {
    this.chunks.push(chunk);
    if (this.chunks.length > MAX_CHUNKS) { this.chunks.shift(); this.playing = false; this.late++; }
  }

  /** Capture time of the sample that is next. */
  get head() { return this.chunks[0].time + this.at / PER_MS; }

  process(_, [output]) {
    if (this.clock !== null) {
      const wanted = this.clock + currentTime * 1000 - this.delay;
      if (this.playing) this.follow(wanted);
      if (!this.playing) this.begin(wanted, output[0].length);
      if (this.playing) this.fill(output);
      this.report(wanted, output[0]);
    }
    return true;
  }

  /** Starts at the sample of the wanted time, if its chunk is there. */
  begin(wanted, block) {
    const { chunks } = this;
    while (chunks.length && chunks[0].time + chunks[0].channels[0].length / PER_MS <= wanted) { chunks.shift(); this.late++; }
    if (!chunks.length || chunks[0].time > wanted + block / PER_MS) return;
    this.at = Math.max(0, Math.round((wanted - chunks[0].time) * PER_MS));
    this.step = 1;
    this.playing = true;
  }

  /** Corrects the speed, or stops for a new start. */
  follow(wanted) {
    const error = this.head - wanted;
    if (Math.abs(error) > RESYNC_MS) { this.playing = false; this.resyncs++; return; }
    if (Math.abs(error) > TOLERANCE_MS) this.step = error > 0 ? 1 - SPEEDUP : 1 + SPEEDUP;
    else if (Math.abs(error) < TOLERANCE_MS / 2 && this.step !== 1) { this.step = 1; this.at = Math.round(this.at); }
  }

  fill(output) {
    const { chunks } = this;
    for (let i = 0; i < output[0].length; i++) {
      while (this.at >= chunks[0].channels[0].length) {
        this.at -= chunks[0].channels[0].length;
        chunks.shift();
        // A chunk that does not continue this one waits for its own time.
        if (!chunks.length || chunks[0].start) { this.playing = false; return; }
      }
      const from = Math.floor(this.at), part = this.at - from;
      output.forEach((channel, number) => {
        const samples = chunks[0].channels[number % chunks[0].channels.length];
        const after = from + 1 < samples.length ? from + 1 : from;
        channel[i] = samples[from] + (samples[after] - samples[from]) * part;
      });
      this.at += this.step;
    }
  }

  report(wanted, samples) {
    for (const sample of samples) this.peak = Math.max(this.peak, Math.abs(sample));
    if (++this.blocks % REPORT_BLOCKS) return;
    const error = this.playing && this.chunks.length ? this.head - wanted : null;
    this.port.postMessage({ playing: this.playing, wanted, error, peak: this.peak, late: this.late, resyncs: this.resyncs });
    this.peak = 0;
  }
}

registerProcessor("sound-player", SoundPlayer);
