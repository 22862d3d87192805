// Statistics of the viewer: values over time windows, and the offset of the server's clock.

/** The q-quantile of `values`; null if there are none. */
export function quantile(values, q) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];
}

/** Values of the last `span` milliseconds. */
class Window {
  constructor(span) { this.span = span; this.items = []; }
  add(value, now = performance.now()) { this.items.push([now, value]); this.trim(now); }
  trim(now) { while (this.items.length && this.items[0][0] < now - this.span) this.items.shift(); }
  values() { this.trim(performance.now()); return this.items.map(([, value]) => value); }
  perSecond() { return this.values().reduce((sum, value) => sum + value, 0) * 1000 / this.span; }
}

/** Offset of the server's clock, measured by the fastest of the last 12 round trips. */
class Clock {
  constructor() { this.samples = []; }
  add(t0, t1, serverMs) {
    this.samples.push({ rtt: t1 - t0, offset: serverMs - (t0 + t1) / 2 });
    if (this.samples.length > 12) this.samples.shift();
  }
  get best() { return this.samples.reduce((a, b) => (a && a.rtt <= b.rtt ? a : b), null); }
  /** Milliseconds since a time of the server's clock; null before the first round trip. */
  since(serverMs) { const best = this.best; return best ? performance.now() + best.offset - serverMs : null; }
}

/** Counters since the page was loaded, recent values, and the stream's description. */
export const stats = {
  frames: 0, lastSeq: -1, units: 0, dropped: 0, errors: 0, connects: 0, decoded: 0,
  fps: new Window(2000), bytes: new Window(2000), latency: new Window(4000), decode: new Window(4000),
  clock: new Clock(), info: null, control: null, sound: null, clipboard: null, input: 0, connected: false, width: 0, height: 0,
};

/** The statistics as plain values. */
export function snapshot() {
  const { control, sound, clipboard, input, frames, lastSeq, units, dropped, errors, connects, decoded, connected, width, height, info, fps, bytes, latency, decode, clock } = stats;
  const range = (window) => { const v = window.values(); return { p50: quantile(v, 0.5), p95: quantile(v, 0.95), max: quantile(v, 1) }; };
  return {
    frames, lastSeq, units, dropped, errors, connects, decoded, connected, width, height, info, control, sound, clipboard, input,
    fps: fps.perSecond(), bitrate_kbps: bytes.perSecond() * 8 / 1000, latency_ms: range(latency), decode_ms: range(decode), rtt_ms: clock.best?.rtt ?? null,
  };
}
