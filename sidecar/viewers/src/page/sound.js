// The desktop's sound: decodes packets with WebCodecs, and plays them in step with the picture.
//
// Sound starts muted: browsers play sound only after a click or key. While it is muted, the server sends none.

import { quantile, stats } from "./stats.js";

const RATE = 48000, CHANNELS = 2;
/** Flag of a packet that does not continue its predecessor, see server/wire.rs. */
const DISCONTINUITY = 4;
/** Limits of the delay from capture to output, ms. */
const DELAY_MIN = 20, DELAY_MAX = 800;
/** Time from a packet's arrival until its samples can be played: decoding, and messages to the audio thread. */
const MARGIN_MS = 12;
/** The delay changes if it is wrong by more than this, ms. */
const DELAY_STEP_MS = 10;
const ADJUST_MS = 250, WINDOW_MS = 4000, PAUSE_MS = 150;
/** Time after the start in which arrivals are not counted: the page starts the decoder and the output, ms. */
const WARM_UP_MS = 500;
/** Decoder failures after which sound stays muted. */
const MAX_FAILURES = 5;

const $ = (id) => document.getElementById(id);

/** Plays sound while it is not muted. */
export class Sound {
  /** `send(message)`; `decoded(chunk)` is called with each decoded chunk. */
  constructor(send, decoded) {
    this.send = send;
    this.decoded = decoded;
    this.info = null;
    this.on = false;
    this.failures = 0;
    this.leads = [];            // [time, ms from capture to decoded] of recent packets
    this.decoding = [];         // {time, start} of packets in the decoder, whose outputs have their order
    this.lastPush = 0;
    this.warmAt = 0;
    this.delay = 0;
    this.offsets = [];
    this.lastSeq = -1;
    $("sound").onclick = () => this.toggle();
    $("volume").oninput = ({ target }) => this.setVolume(Number(target.value));
    $("volume").value = this.storedVolume();
  }

  /** True if this browser can decode and play sound. */
  get supported() { return "AudioDecoder" in window && "AudioWorkletNode" in window; }

  /** Applies a message of type `sound`. The first one of a connection shows that the stream has sound. */
  update(info) {
    const first = !this.info;
    this.info = info;
    if (first && this.on) this.send({ type: "sound", on: true });
    this.paint();
  }

  /** The connection is lost: what is decoded is played, and the next connection asks again. */
  reset() {
    this.info = null;
    this.lastSeq = -1;
    this.paint();
  }

  async toggle() {
    if (!this.supported || !(this.info || this.on)) return;
    this.on = !this.on;
    this.paint();
    this.send({ type: "sound", on: this.on });
    if (!this.on) { this.silence(); return; }
    try {
      await this.start();
    } catch (error) {
      this.giveUp(error);
    }
  }

  /** Makes the context, inside the click that browsers ask for, and continues it. */
  async start() {
    if (!this.context) {
      const context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
      await context.audioWorklet.addModule("sound-worklet.js");
      this.context = context;
      this.gain = new GainNode(context);
      this.node = new AudioWorkletNode(context, "sound-player", { numberOfInputs: 0, outputChannelCount: [CHANNELS] });
      this.node.port.onmessage = ({ data }) => this.played(data);
      this.node.connect(this.gain).connect(context.destination);
      this.setVolume(this.storedVolume());
      setInterval(() => this.adjust(), ADJUST_MS);
    }
    if (!this.on) { this.silence(); return; }
    this.offsets = [];
    this.warmAt = performance.now() + WARM_UP_MS;
    // Settles late if the browser waits for a click.
    await this.context.resume();
    this.adjust();
  }

  /** Stops the output without delay. */
  silence() {
    this.node?.port.postMessage({ reset: true });
    this.context?.suspend();
    this.leads = [];
    this.decoding = [];
    this.decoder?.reset();
    stats.sound = null;
  }

  push(packet) {
    if (!this.on || !this.context) return;
    const start = !!(packet.flags & DISCONTINUITY) || packet.seq !== this.lastSeq + 1;
    this.lastSeq = packet.seq;
    const now = performance.now();
    // After a pause the decoder is empty: a packet without output is forgotten.
    if (now - this.lastPush > PAUSE_MS) this.decoding = [];
    this.lastPush = now;
    try {
      this.configure();
      this.decoding.push({ time: packet.captureMs, start });
      this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: packet.captureMs * 1000, data: packet.data }));
    } catch (error) {
      this.fail(error);
    }
  }

  configure() {
    if (this.decoder?.state === "configured") return;
    this.decoding = [];
    const decoder = this.decoder = new AudioDecoder({
      output: (data) => { if (decoder === this.decoder) this.play(data); data.close(); },
      error: (error) => { if (decoder === this.decoder) this.fail(error); },
    });
    decoder.configure({ codec: "opus", sampleRate: RATE, numberOfChannels: CHANNELS });
  }

  play(data) {
    // Decoders count timestamps from their first packet, so a pause is not in them.
    const { time, start } = this.decoding.shift() ?? {};
    if (time === undefined) return;
    const frames = data.numberOfFrames;
    const channels = Array.from({ length: data.numberOfChannels }, (_, planeIndex) => {
      const samples = new Float32Array(frames);
      data.copyTo(samples, { planeIndex, format: "f32-planar" });
      return samples;
    });
    this.failures = 0;
    const lead = stats.clock.since(time), now = performance.now();
    if (lead !== null && now > this.warmAt) this.leads.push([now, lead]);
    while (this.leads.length && this.leads[0][0] < now - WINDOW_MS) this.leads.shift();
    this.decoded?.({ time, lead, channels, start });
    this.node?.port.postMessage({ chunk: { time, start, channels } }, channels.map(({ buffer }) => buffer));
  }

  fail(error) {
    console.warn("sound:", error.message ?? error);
    const decoder = this.decoder;
    this.decoder = null;
    if (decoder && decoder.state !== "closed") decoder.close();
    if (++this.failures >= MAX_FAILURES) this.giveUp(error);
  }

  giveUp(error) {
    if (!this.on) return;
    this.failures = 0;
    this.on = false;
    this.send({ type: "sound", on: false });
    this.silence();
    this.paint(`Sound failed: ${error.message ?? error}; click to try again`);
  }

  /** Server's time in ms at which the output of context time 0 is heard, and the time between rendering and output. */
  outputClock() {
    const { context } = this, best = stats.clock.best;
    if (!best) return null;
    let { contextTime, performanceTime } = context.getOutputTimestamp?.() ?? {};
    const now = performance.now();
    if (!(performanceTime > 0)) {
      performanceTime = now + (context.outputLatency || context.baseLatency || 0) * 1000;
      contextTime = context.currentTime;
    }
    // Browsers report times in steps of their buffers: the median is steadier.
    this.offsets.push(performanceTime + best.offset - contextTime * 1000);
    if (this.offsets.length > 9) this.offsets.shift();
    const server = quantile(this.offsets, 0.5);
    return { server, latency: Math.max(0, server + context.currentTime * 1000 - (now + best.offset)) };
  }

  /** Sets the delay: as long as the picture's, and long enough for packets to arrive in time. */
  adjust() {
    const output = this.on && this.context?.state === "running" ? this.outputClock() : null;
    if (!output) return;
    const arrival = quantile(this.leads.map(([, lead]) => lead), 0.98);
    if (arrival !== null) {
      const picture = quantile(stats.latency.values(), 0.5);
      if (picture !== null) this.picture = picture;
      this.needed = arrival + output.latency + MARGIN_MS;
      const delay = Math.min(DELAY_MAX, Math.max(DELAY_MIN, this.needed, this.picture ?? 0));
      if (Math.abs(delay - this.delay) > DELAY_STEP_MS) this.delay = delay;
    }
    this.latency = output.latency;
    this.node?.port.postMessage({ clock: output.server, delay: this.delay });
  }

  /** A report of the worklet. */
  played({ playing, error, peak, late, resyncs }) {
    if (!this.on) return;
    // Sound that is behind its time has a negative error.
    const delay = this.delay - (error ?? 0);
    stats.sound = {
      playing, peak, late, resyncs, delay_ms: delay, needed_ms: this.needed ?? null, output_ms: this.latency,
      arrival_ms: quantile(this.leads.map(([, lead]) => lead), 0.5),
      offset_ms: this.picture === undefined ? null : delay - this.picture,
    };
  }

  storedVolume() { try { return Number(localStorage.getItem("volume") ?? 100); } catch { return 100; } }

  setVolume(percent) {
    // Loudness is perceived by the logarithm of the level.
    if (this.gain) this.gain.gain.value = (percent / 100) ** 2;
    try { localStorage.setItem("volume", String(percent)); } catch { /* private mode: the setting is not kept */ }
  }

  paint(problem = "") {
    const { info, on } = this, button = $("sound");
    button.hidden = !info && !on;
    $("volume").hidden = button.hidden || !on;
    button.disabled = !this.supported;
    button.setAttribute("aria-pressed", String(on));
    button.dataset.state = !on ? "muted" : info?.running ? "on" : info?.reason ? "unavailable" : "starting";
    button.title = button.ariaLabel = problem || this.title();
  }

  title() {
    if (!this.supported) return "No sound: this browser has no WebCodecs AudioDecoder; use Chrome or Edge 94, Safari 26, Firefox 130, or later";
    if (!this.on) return "Unmute (m)";
    return this.info?.reason ? `No sound: ${this.info.reason}` : "Mute (m)";
  }
}
