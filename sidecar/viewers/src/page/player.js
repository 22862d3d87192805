// Decodes access units with WebCodecs and draws each picture at once.

import { stats } from "./stats.js";

/** Flags of an access unit, see server/wire.rs. */
const IDR = 1, REPEAT = 2, BACKLOG = 8;
// The page is late if more than LATE_QUEUE units wait in the decoder, or a unit was sent more than LATE_LAG_MS ago. It
// skips to the next keyframe when late for LATE_MS, or with LATE_MAX units waiting.
const LATE_QUEUE = 3, LATE_LAG_MS = 1000, LATE_MS = 250, LATE_MAX = 30;
/** Consecutive decoder failures after which the viewer stops. */
const MAX_FAILURES = 20;

/** RFC 6381 codec string and SPS of an Annex B access unit; null without an SPS. */
function parameters(data) {
  for (let i = 0; i + 7 < data.length; i++) {
    if (data[i] || data[i + 1] || data[i + 2] !== 1 || (data[i + 3] & 31) !== 7) continue;
    let end = i + 4;
    while (end + 2 < data.length && (data[end] || data[end + 1] || data[end + 2] > 1)) end++;
    const hex = (byte) => byte.toString(16).toUpperCase().padStart(2, "0");
    return { codec: `avc1.${hex(data[i + 4])}${hex(data[i + 5])}${hex(data[i + 6])}`, sps: data.slice(i + 3, end).join() };
  }
  return null;
}

/** Decodes and draws. Requests a keyframe when it cannot continue without one. */
export class Player {
  /** Callbacks: `requestKeyframe()`, `sizeChanged()`, `drawn(frame)`, `fatal(kind, title, text)`. */
  constructor(canvas, callbacks) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.callbacks = callbacks;
    this.decoder = null;
    this.sps = "";
    this.needKey = true;
    this.pending = new Map();
    this.ticket = 0;
    this.lateSince = 0;
    this.lastDraw = 0;
    this.failures = 0;
  }

  push(unit) {
    const key = !!(unit.flags & IDR);
    unit.transit = stats.clock.since(unit.sentMs);
    if (document.hidden) { this.needKey = true; return; }
    if (this.needKey && !key) { this.drop(); return; }
    if (key && !this.configure(unit.data)) return;
    if (!key && this.isLate(unit)) { this.needKey = true; this.drop(); return; }
    if (key) this.lateSince = 0;
    this.needKey = false;
    const timestamp = ++this.ticket;
    this.pending.set(timestamp, { ...unit, data: null, fed: performance.now() });
    try {
      this.decoder.decode(new EncodedVideoChunk({ type: key ? "key" : "delta", timestamp, data: unit.data }));
    } catch (error) {
      this.fail(error);
    }
  }

  drop() { stats.dropped++; this.callbacks.requestKeyframe(); }

  isLate(unit) {
    const queue = this.decoder.decodeQueueSize, now = performance.now();
    const late = queue > LATE_QUEUE || unit.transit > LATE_LAG_MS + stats.clock.best?.rtt;
    if (!late || unit.flags & BACKLOG) { this.lateSince = 0; return false; }
    this.lateSince ||= now;
    return queue > LATE_MAX || now - this.lateSince > LATE_MS;
  }

  /** Configures a decoder for an IDR's parameter sets; keeps the current one if they are the same. */
  configure(data) {
    const found = parameters(data);
    if (!found) { this.fail(new Error("keyframe without parameter sets")); return false; }
    if (this.decoder?.state === "configured" && this.sps === found.sps) return true;
    this.reset();
    const decoder = new VideoDecoder({
      output: (frame) => (decoder === this.decoder ? this.show(frame) : frame.close()),
      error: (error) => { if (decoder === this.decoder) this.fail(error); },
    });
    this.decoder = decoder;
    this.sps = found.sps;
    const config = { codec: found.codec, optimizeForLatency: true };
    try { decoder.configure(config); } catch (error) { this.fail(error); return false; }
    VideoDecoder.isConfigSupported(config).then(({ supported }) => {
      if (!supported) this.callbacks.fatal("no-h264", "This browser cannot decode the stream",
        `It has no H.264 decoder for ${found.codec}. Use Chrome, Edge or Safari, or a Firefox with H.264. Chromium without proprietary codecs has no H.264.`);
    }, () => {});
    return true;
  }

  reset() {
    const decoder = this.decoder;
    this.decoder = null;
    this.sps = "";
    this.needKey = true;
    this.pending.clear();
    if (decoder && decoder.state !== "closed") decoder.close();
  }

  fail(error) {
    stats.errors++;
    console.warn("decoder:", error.message ?? error);
    this.reset();
    if (++this.failures > MAX_FAILURES) {
      this.callbacks.fatal("decoder-failed", "The stream cannot be decoded",
        `The decoder failed repeatedly: ${error.message ?? error}. Reload the page to try again.`);
    } else {
      this.callbacks.requestKeyframe();
    }
  }

  show(frame) {
    const unit = this.pending.get(frame.timestamp), now = performance.now();
    this.pending.delete(frame.timestamp);
    stats.decoded++;
    this.failures = 0;
    if (unit) stats.decode.add(now - unit.fed, now);
    // Drawing can take longer than decoding: while catching up, draw at most every 100 ms.
    if (!unit || (this.pending.size > LATE_QUEUE && now - this.lastDraw < 100)) { frame.close(); return; }
    const { canvas } = this, { displayWidth: width, displayHeight: height } = frame;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = stats.width = width;
      canvas.height = stats.height = height;
      canvas.hidden = false;
      this.callbacks.sizeChanged();
    }
    this.context.drawImage(frame, 0, 0, width, height);
    frame.close();
    this.lastDraw = now;
    stats.frames++;
    stats.lastSeq = unit.seq;
    stats.fps.add(1, now);
    const latency = unit.flags & (REPEAT | BACKLOG) ? null : stats.clock.since(unit.captureMs);
    if (latency !== null) stats.latency.add(latency);
    this.callbacks.drawn({
      seq: unit.seq, t: performance.now(), flags: unit.flags, latency,
      server: unit.sentMs - unit.captureMs, transit: unit.transit, decode: now - unit.fed,
    });
  }
}
