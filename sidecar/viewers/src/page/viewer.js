// Viewer page: receives access units from the WebSocket, decodes them with WebCodecs and draws each picture at once.
// server/wire.rs describes the messages.

const IDR = 1, REPEAT = 2, BACKLOG = 8;
const HEADER = 28;
// The page is late if more than LATE_QUEUE units wait in the decoder, or a unit was sent more than LATE_LAG_MS ago. It
// skips to the next keyframe when late for LATE_MS, or with LATE_MAX units waiting.
const LATE_QUEUE = 3, LATE_LAG_MS = 1000, LATE_MS = 250, LATE_MAX = 30;
const BACKOFF_MS = 250, BACKOFF_MAX_MS = 8000;
const SILENCE_MS = 12000;       // the server sends something every 2 s; after this silence the connection is dead
const HIDDEN_MS = 15000;        // after this time a hidden page disconnects, which frees its place for another viewer
const AWAKE_MS = 2500;          // the controls hide after this time without input

const $ = (id) => document.getElementById(id);
const canvas = $("screen");
const context = canvas.getContext("2d", { alpha: false });

/** The q-quantile of `values`; null if there are none. */
function quantile(values, q) {
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
  since(serverMs) { const best = this.best; return best ? performance.now() + best.offset - serverMs : null; }
}

const stats = {
  frames: 0, lastSeq: -1, units: 0, dropped: 0, errors: 0, connects: 0, decoded: 0,
  fps: new Window(2000), bytes: new Window(2000), latency: new Window(4000), decode: new Window(4000),
  clock: new Clock(), info: null, connected: false, width: 0, height: 0,
};

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
class Player {
  constructor(requestKeyframe) {
    this.requestKeyframe = requestKeyframe;
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

  drop() { stats.dropped++; this.requestKeyframe(); }

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
      if (!supported) fatal("no-h264", "This browser cannot decode the stream",
        `It has no H.264 decoder for ${found.codec}. Use Chrome, Edge or Safari, or a Firefox with H.264. Chromium without proprietary codecs has no H.264.`);
    }, () => {});
    return true;
  }

  reset() {
    const decoder = this.decoder;
    this.decoder = null;
    this.sps = "";
    this.pending.clear();
    if (decoder && decoder.state !== "closed") decoder.close();
  }

  fail(error) {
    stats.errors++;
    console.warn("decoder:", error.message ?? error);
    this.reset();
    this.needKey = true;
    if (++this.failures > 20) fatal("decoder-failed", "The stream cannot be decoded", `The decoder failed repeatedly: ${error.message ?? error}. Reload the page to try again.`);
    else this.requestKeyframe();
  }

  show(frame) {
    const unit = this.pending.get(frame.timestamp), now = performance.now();
    this.pending.delete(frame.timestamp);
    stats.decoded++;
    this.failures = 0;
    if (unit) stats.decode.add(now - unit.fed, now);
    // Drawing can take longer than decoding: while catching up, draw at most every 100 ms.
    if (!unit || (this.pending.size > LATE_QUEUE && now - this.lastDraw < 100)) { frame.close(); return; }
    const { displayWidth: width, displayHeight: height } = frame;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = stats.width = width;
      canvas.height = stats.height = height;
      canvas.hidden = false;
      layout();
    }
    context.drawImage(frame, 0, 0, width, height);
    frame.close();
    this.lastDraw = now;
    stats.frames++;
    stats.lastSeq = unit.seq;
    stats.fps.add(1, now);
    const latency = unit.flags & (REPEAT | BACKLOG) ? null : stats.clock.since(unit.captureMs);
    if (latency !== null) { stats.latency.add(latency); spark.push(latency); }
    if (!live) setLive();
    hook.onframe?.({
      seq: unit.seq, t: performance.now(), flags: unit.flags, latency,
      server: unit.sentMs - unit.captureMs, transit: unit.transit, decode: now - unit.fed,
    });
  }
}

/** The WebSocket; reconnects with back-off. */
class Connection {
  constructor() { this.failures = 0; this.socket = null; this.timer = 0; this.lastKeyframe = 0; }

  open() {
    clearTimeout(this.timer);
    if (this.socket || stopped || document.hidden) return;
    const url = new URL("ws", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = this.socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.heard = performance.now();
    socket.onopen = () => { stats.connected = true; stats.connects++; this.askTime(); };
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.heard = performance.now();
      if (typeof data === "string") this.text(JSON.parse(data)); else this.unit(data);
    };
    socket.onclose = ({ code, reason }) => { if (socket === this.socket) this.lost(code, reason); };
  }

  close() {
    const socket = this.socket;
    this.socket = null;
    stats.connected = false;
    clearTimeout(this.timer);
    socket?.close();
  }

  async lost(code, reason) {
    this.close();
    player.reset();
    player.needKey = true;
    live = false;
    const wait = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.failures++) * (0.5 + Math.random() / 2);
    this.timer = setTimeout(() => this.open(), wait);
    waiting("lost", reason || "Connection lost", "Reconnecting…");
    if (this.failures < 2) return;
    // Scripts cannot see why a WebSocket was rejected; the status of a plain request shows it.
    const answer = await fetch("status", { method: "HEAD", cache: "no-store" }).catch(() => null);
    if (this.socket && this.socket.readyState === WebSocket.OPEN) return;
    if (answer?.status === 401) {
      this.close();
      fatal("token-required", "This stream requires a token", "The token changed, or this browser no longer has its cookie.", ["Enter the token", () => location.reload()]);
    } else if (answer?.ok && code === 1006) {
      waiting("rejected", "The connection was rejected", "The maximum number of viewers may be connected. Retrying…");
    } else if (!answer) {
      waiting("unreachable", "The server does not respond", "Reconnecting…");
    }
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  askTime() { this.send({ type: "time", t0: performance.now() }); }

  requestKeyframe() {
    const now = performance.now();
    if (now - this.lastKeyframe < 1000) return;
    this.lastKeyframe = now;
    this.send({ type: "keyframe" });
  }

  text(message) {
    if (message.type === "time") {
      stats.clock.add(message.t0, performance.now(), message.server_us / 1000);
      if (stats.clock.samples.length < 5) this.askTime();
    } else if (message.type === "info") {
      stats.info = message;
      describe();
    }
  }

  unit(buffer) {
    const view = new DataView(buffer);
    if (buffer.byteLength <= HEADER || view.getUint8(0) !== 1) return;
    this.failures = 0;
    stats.units++;
    stats.bytes.add(buffer.byteLength);
    player.push({
      flags: view.getUint8(1),
      seq: Number(view.getBigUint64(4, true)),
      captureMs: Number(view.getBigUint64(12, true)) / 1e6,
      sentMs: Number(view.getBigUint64(20, true)) / 1e6,
      data: new Uint8Array(buffer, HEADER),
    });
  }

  tick() {
    if (!this.socket) return;
    if (performance.now() - this.heard > SILENCE_MS) { this.lost(0, "The server does not respond"); return; }
    this.askTime();
    const latency = quantile(stats.latency.values(), 0.5) ?? 0;
    this.send({ type: "stats", fps: stats.fps.perSecond(), latency_ms: latency, dropped: stats.dropped });
  }
}

// User interface.

let live = false, stopped = false;

/** Shows that the page waits for the server. `kind` identifies the message for scripts: `body[data-notice]`. */
function waiting(kind, title, text) {
  if (stopped) return;
  document.body.dataset.notice = kind;
  $("dot").dataset.state = "wait";
  const seen = !canvas.hidden;
  document.body.classList.toggle("stale", seen);
  $("notice").hidden = seen;
  $("toast").hidden = !seen;
  $("toast-text").textContent = text;
  $("notice-title").textContent = title;
  $("notice-text").textContent = text;
}

function setLive() {
  live = true;
  delete document.body.dataset.notice;
  document.body.classList.remove("stale");
  $("notice").hidden = $("toast").hidden = true;
  $("dot").dataset.state = "live";
}

/** Shows an error and stops the viewer. `kind` as for `waiting`. */
function fatal(kind, title, text, action) {
  stopped = true;
  document.body.dataset.notice = kind;
  connection.close();
  player.reset();
  $("notice").hidden = false;
  $("notice").classList.add("fatal");
  $("toast").hidden = true;
  $("dot").dataset.state = "down";
  $("notice-title").textContent = title;
  $("notice-text").replaceChildren(...[text].flat());
  $("notice-actions").replaceChildren();
  if (!action) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = action[0];
  button.onclick = action[1];
  $("notice-actions").append(button);
}

/** Plays the MP4 stream in a video element, for browsers without WebCodecs. Adds about a second of latency. */
function playPlain() {
  const video = Object.assign(document.createElement("video"), { autoplay: true, muted: true, playsInline: true, controls: true, src: "stream.mp4" });
  $("stage").replaceChildren(video);
  $("notice").hidden = true;
}

/** Scales the canvas to fit, in whole device pixels. A scale just above 1 becomes 1, which is sharp. */
function layout() {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth, clientHeight } = $("stage");
  let scale = Math.min(clientWidth * ratio / canvas.width, clientHeight * ratio / canvas.height);
  if (scale >= 1 && scale < 1.03) scale = 1;
  canvas.style.width = `${Math.round(canvas.width * scale) / ratio}px`;
  canvas.style.height = `${Math.round(canvas.height * scale) / ratio}px`;
}

/** Names of frame paths: short for the bar, long for the statistics. */
const PATHS = {
  ResourceId: { short: "zero-copy", long: "resource ID (zero-copy)" },
  Pixels: { short: "pixels", long: "pixels" },
  Local: { short: "local", long: "local encoder" },
};

function describe() {
  const { name, frame_path: path, reason } = stats.info;
  document.title = name ? `${name} – desktopstream` : "desktopstream";
  $("name").textContent = name || "desktopstream";
  $("chip").hidden = !path;
  $("chip").dataset.path = path;
  $("chip").textContent = PATHS[path]?.short ?? path;
  $("chip").title = reason || "";
  $("v-reason").hidden = !reason;
  $("v-reason").textContent = reason;
}

const spark = {
  values: [],
  push(value) { this.values.push(value); if (this.values.length > 130) this.values.shift(); },
  draw() {
    const c = $("spark"), g = c.getContext("2d"), { values } = this;
    g.clearRect(0, 0, c.width, c.height);
    if (values.length < 2) return;
    const top = Math.max(20, ...values) * 1.15, step = c.width / 129;
    const at = (i) => [c.width - (values.length - 1 - i) * step, c.height - 2 - (values[i] / top) * (c.height - 6)];
    g.beginPath();
    values.forEach((_, i) => g.lineTo(...at(i)));
    g.lineWidth = 2.5;
    g.lineJoin = "round";
    g.strokeStyle = "#4fd1a5";
    g.stroke();
    g.lineTo(c.width, c.height);
    g.lineTo(at(0)[0], c.height);
    g.fillStyle = "#4fd1a522";
    g.fill();
  },
};

function paint() {
  const s = hook.stats();
  const ms = (value) => (value === null ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
  const rate = s.bitrate_kbps >= 1000 ? `${(s.bitrate_kbps / 1000).toFixed(1)} Mbit/s` : `${Math.round(s.bitrate_kbps)} kbit/s`;
  $("brief").textContent = live ? `${Math.round(s.fps)} fps · ${ms(s.latency_ms.p50)}` : "";
  if ($("overlay").hidden) return;
  $("v-latency").textContent = s.latency_ms.p50 === null ? "–" : `${ms(s.latency_ms.p50)} · p95 ${ms(s.latency_ms.p95)}`;
  $("v-fps").textContent = `${s.fps.toFixed(0)} fps · decode ${ms(s.decode_ms.p50)}`;
  $("v-bitrate").textContent = rate;
  $("v-size").textContent = s.width ? `${s.width} × ${s.height} · ${s.info?.codec || "?"}` : "–";
  $("v-path").textContent = PATHS[s.info?.frame_path]?.long ?? s.info?.frame_path ?? "–";
  $("v-encoder").textContent = s.info?.encoder || "–";
  $("v-dropped").textContent = s.errors ? `${s.dropped} · ${s.errors} decoder errors` : s.dropped;
  $("v-viewers").textContent = s.info?.viewers ?? "–";
  $("v-rtt").textContent = ms(s.rtt_ms);
  spark.draw();
}

let awakeTimer = 0;
function awake() {
  document.body.classList.add("awake");
  clearTimeout(awakeTimer);
  awakeTimer = setTimeout(() => document.body.classList.remove("awake"), AWAKE_MS);
}

function toggleInfo() {
  const hidden = ($("overlay").hidden = !$("overlay").hidden);
  $("info").setAttribute("aria-pressed", String(!hidden));
  try { localStorage.setItem("overlay", hidden ? "" : "1"); } catch { /* private mode: the setting is not kept */ }
  paint();
}

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => {});
}

// Interface for tests and the browser's console.
const hook = {
  onframe: window.desktopstream?.onframe ?? null,   // called after each drawn frame
  get frames() { return stats.frames; },
  get lastSeq() { return stats.lastSeq; },
  stats() {
    const { frames, lastSeq, units, dropped, errors, connects, decoded, connected, width, height, info, fps, bytes, latency, decode, clock } = stats;
    const range = (window) => { const v = window.values(); return { p50: quantile(v, 0.5), p95: quantile(v, 0.95), max: quantile(v, 1) }; };
    return {
      frames, lastSeq, units, dropped, errors, connects, decoded, connected, width, height, info, live,
      fps: fps.perSecond(), bitrate_kbps: bytes.perSecond() * 8 / 1000, latency_ms: range(latency), decode_ms: range(decode), rtt_ms: clock.best?.rtt ?? null,
    };
  },
};
window.desktopstream = hook;

const player = new Player(() => connection.requestKeyframe());
const connection = new Connection();

function start() {
  for (const event of ["pointermove", "pointerdown", "keydown", "touchstart"]) addEventListener(event, awake, { passive: true });
  $("info").onclick = $("close").onclick = toggleInfo;
  $("full").onclick = $("stage").ondblclick = toggleFull;
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "i") toggleInfo();
    if (event.key === "f") toggleFull();
  });
  document.addEventListener("fullscreenchange", () => $("full").setAttribute("aria-pressed", String(!!document.fullscreenElement)));
  new ResizeObserver(layout).observe($("stage"));
  try { if (localStorage.getItem("overlay")) toggleInfo(); } catch { /* private mode */ }
  awake();

  if (!("VideoDecoder" in window)) {
    const code = Object.assign(document.createElement("code"), { textContent: `kubectl port-forward POD 8080:${location.port || 80}` });
    if (window.isSecureContext) {
      fatal("no-webcodecs", "This browser does not support WebCodecs", "Use Chrome or Edge 94, Safari 16.4 or Firefox 130, or later.", ["Play as video, with more latency", playPlain]);
    } else {
      fatal("insecure-context", "This page requires HTTPS or localhost", [
        `Browsers support WebCodecs only in secure contexts, and ${location.origin} is not one. Forward the port to your machine, e.g. `,
        code, ", and open http://localhost:8080/, or serve the stream through a TLS proxy.",
      ], ["Play as video, with more latency", playPlain]);
    }
    return;
  }

  let hiddenTimer = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) {
      hiddenTimer = setTimeout(() => { connection.close(); player.reset(); }, HIDDEN_MS);
    } else if (connection.socket) {
      player.needKey = true;
      connection.requestKeyframe();
    } else {
      connection.failures = 0;
      connection.open();
    }
  });
  addEventListener("online", () => connection.open());
  setInterval(() => connection.tick(), 2000);
  setInterval(paint, 500);
  connection.open();
}

start();
