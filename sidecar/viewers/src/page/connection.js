// The WebSocket to the server. server/wire.rs describes the messages.

import { quantile, stats } from "./stats.js";

/** Version, size of the header, and kinds of binary messages. */
const VERSION = 1, HEADER = 28, KIND_UNIT = 0, KIND_SOUND = 1;
/** First byte of binary messages with a part of the clipboard. */
const CLIPBOARD = 67;
const BACKOFF_MS = 250, BACKOFF_MAX_MS = 8000;
const SILENCE_MS = 12000;       // the server answers every 2 s; after this silence the connection is dead

/** Reconnects with back-off until closed. */
export class Connection {
  /** Callbacks: `unit(unit)`, `info()`, `input(info)`, `cursor(message)`, `sound(info)`, `packet(packet)`, `clipboard(message)`, `chunk(view)`, `lost()`, `waiting(kind, title, text)`, `fatal(kind, title, text, action)`. */
  constructor(callbacks) {
    this.callbacks = callbacks;
    this.failures = 0;
    this.socket = null;
    this.timer = 0;
    this.lastKeyframe = 0;
    this.heard = 0;
  }

  /** Connects now, unless connected or the page is hidden. */
  open() {
    clearTimeout(this.timer);
    if (this.socket || document.hidden) return;
    const url = new URL("ws", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = this.socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.heard = performance.now();
    socket.onopen = () => { stats.connected = true; stats.connects++; this.requestTime(); };
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.heard = performance.now();
      if (typeof data === "string") this.text(JSON.parse(data)); else this.binary(data);
    };
    socket.onclose = ({ code, reason }) => { if (socket === this.socket) this.lost(code, reason); };
  }

  /** Closes the connection and stops reconnecting until `open`. */
  close() {
    const socket = this.socket;
    this.socket = null;
    stats.connected = false;
    clearTimeout(this.timer);
    socket?.close();
  }

  async lost(code, reason) {
    this.close();
    const wait = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.failures++) * (0.5 + Math.random() / 2);
    this.timer = setTimeout(() => this.open(), wait);
    const { lost, waiting, fatal } = this.callbacks;
    lost();
    waiting("lost", reason || "Connection lost", "Reconnecting…");
    if (this.failures < 2) return;
    // Scripts cannot see why a WebSocket was rejected; the status of a plain request shows it.
    const response = await fetch("status", { method: "HEAD", cache: "no-store" }).catch(() => null);
    if (this.socket && this.socket.readyState === WebSocket.OPEN) return;
    if (response?.status === 401) {
      this.close();
      fatal("token-required", "This stream requires a token", "The token changed, or this browser's session ended.", ["Enter the token", () => location.reload()]);
    } else if (response?.ok && code === 1006) {
      waiting("rejected", "The connection was rejected", "The maximum number of viewers may be connected. Retrying…");
    } else if (!response) {
      waiting("unreachable", "The server does not respond", "Reconnecting…");
    }
  }

  send(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.socket.send(message instanceof Uint8Array ? message : JSON.stringify(message));
  }

  /** Bytes that wait to be sent. */
  get buffered() { return this.socket?.bufferedAmount ?? 0; }

  requestTime() { this.send({ type: "time", t0: performance.now() }); }

  /** Requests a keyframe, at most one per second. */
  requestKeyframe() {
    const now = performance.now();
    if (now - this.lastKeyframe < 1000) return;
    this.lastKeyframe = now;
    this.send({ type: "keyframe" });
  }

  text(message) {
    if (message.type === "time") {
      stats.clock.add(message.t0, performance.now(), message.server_us / 1000);
      if (stats.clock.samples.length < 5) this.requestTime();
    } else if (message.type === "info") {
      stats.info = message;
      this.callbacks.info();
    } else if (message.type === "input") {
      this.callbacks.input(message);
    } else if (message.type === "cursor") {
      this.callbacks.cursor(message);
    } else if (message.type === "sound") {
      this.callbacks.sound(message);
    } else if (message.type === "clipboard" || message.type === "selection" || message.type === "stored") {
      this.callbacks.clipboard(message);
    }
  }

  /** A binary message: a part of the clipboard, an access unit or a packet of sound. */
  binary(buffer) {
    const view = new DataView(buffer);
    if (buffer.byteLength && view.getUint8(0) === CLIPBOARD) { this.callbacks.chunk(view); return; }
    if (buffer.byteLength <= HEADER || view.getUint8(0) !== VERSION) return;
    const kind = view.getUint8(2);
    const message = {
      flags: view.getUint8(1),
      seq: Number(view.getBigUint64(4, true)),
      captureMs: Number(view.getBigUint64(12, true)) / 1e6,
      sentMs: Number(view.getBigUint64(20, true)) / 1e6,
      data: new Uint8Array(buffer, HEADER),
    };
    stats.bytes.add(buffer.byteLength);
    if (kind === KIND_SOUND) this.callbacks.packet(message);
    if (kind !== KIND_UNIT) return;
    this.failures = 0;
    stats.units++;
    this.callbacks.unit(message);
  }

  /** Renews the session: the server extends the cookie of a request that it answers. */
  renewSession() { fetch("status", { method: "HEAD", cache: "no-store" }).catch(() => {}); }

  /** Every 2 s: detects a dead connection, measures the clock offset, reports statistics. */
  tick() {
    if (!this.socket) return;
    if (performance.now() - this.heard > SILENCE_MS) { this.lost(0, "The server does not respond"); return; }
    this.requestTime();
    const latency = quantile(stats.latency.values(), 0.5) ?? 0;
    this.send({ type: "stats", fps: stats.fps.perSecond(), latency_ms: latency, dropped: stats.dropped });
  }
}
