// The viewer page: controls, messages and statistics. player.js decodes and draws, connection.js talks to the server.

import { Clipboard } from "./clipboard.js";
import { Connection } from "./connection.js";
import { Control } from "./control.js";
import { Cursor } from "./cursor.js";
import { InputCapture } from "./input.js";
import { Player } from "./player.js";
import { WindowSize } from "./size.js";
import { Sound } from "./sound.js";
import { snapshot, stats } from "./stats.js";
import { createSession, takeToken } from "./token.js";

const HIDDEN_MS = 15000;        // after this time a hidden page disconnects, which frees its place for another viewer
const RENEW_MS = 1800000;       // a session lasts hours after its last renewal
const AWAKE_MS = 2500;          // the controls hide after this time without input

const $ = (id) => document.getElementById(id);
const canvas = $("screen");

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
  cursor.paint();
}

/** Names of frame paths: short for the bar, long for the statistics. */
const PATHS = {
  ResourceId: { short: "zero-copy", long: "resource ID" },
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
  $("v-sound").textContent = s.sound?.playing ? `${ms(s.sound.delay_ms)}` : "–";
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
  onsound: window.desktopstream?.onsound ?? null,   // called after each decoded chunk of sound
  get frames() { return stats.frames; },
  get lastSeq() { return stats.lastSeq; },
  stats: () => ({ ...snapshot(), live }),
};
window.desktopstream = hook;

/** Forgets what the server said: the connection is lost or closed. */
function disconnected() {
  player.reset();
  control.reset();
  sound.reset();
  clipboard.reset();
  cursor.reset();
  followWindow();
  live = false;
}

const player = new Player(canvas, {
  requestKeyframe: () => connection.requestKeyframe(),
  sizeChanged: layout,
  drawn: (frame) => {
    if (frame.latency !== null) spark.push(frame.latency);
    if (!live) setLive();
    hook.onframe?.(frame);
  },
  fatal,
});
const connection = new Connection({
  unit: (unit) => player.push(unit),
  info: () => { describe(); followWindow(); },
  input: (info) => { control.update(info); clipboard.paint(); followWindow(); cursor.paint(); },
  cursor: (message) => cursor.update(message),
  sound: (info) => sound.update(info),
  packet: (packet) => sound.push(packet),
  clipboard: (message) => clipboard.message(message),
  chunk: (view) => clipboard.chunk(view),
  lost: disconnected,
  waiting,
  fatal,
});

const send = (message) => connection.send(message);
const capture = new InputCapture(canvas, $("keys"), send);
const control = new Control(capture, send);
const cursor = new Cursor(canvas, $("cursor"), {
  controls: () => control.controls && !capture.relative,
  owns: () => control.owns && !capture.relative,
  position: () => capture.last,
});
document.addEventListener("pointerlockchange", () => cursor.paint());
const windowSize = new WindowSize($("stage"), send);
const followWindow = () => windowSize.follow(stats.info?.size === "FollowViewer" && control.resizes, control.owns, stats.info?.viewers ?? 0);
const sound = new Sound(send, (chunk) => hook.onsound?.(chunk));
const clipboard = new Clipboard({
  send,
  buffered: () => connection.buffered,
  controls: () => control.controls,
  failed: (reason) => { $("toast").hidden = false; $("toast-text").textContent = `The clipboard was not sent: ${reason}`; setTimeout(() => { if (live) $("toast").hidden = true; }, 4000); },
});
clipboard.closed = () => capture.focus();
capture.clipboard = clipboard;
Object.assign(hook, { clipboard, cursor, holding: () => capture.holding });

/** Uses a token in the URL. A link to this page that is opened in its tab changes the fragment only. */
async function login() {
  const token = takeToken();
  if (token !== null && await createSession(token).catch(() => false) && stopped) location.reload();
}

function start() {
  addEventListener("hashchange", login);
  login();
  for (const event of ["pointermove", "pointerdown", "keydown", "touchstart"]) addEventListener(event, awake, { passive: true });
  $("info").onclick = $("close").onclick = toggleInfo;
  $("full").onclick = toggleFull;
  $("stage").ondblclick = () => { if (!capture.enabled) toggleFull(); };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === $("keys") || event.target === $("clip-text")) return;
    if (event.key === "i") toggleInfo();
    if (event.key === "f") toggleFull();
    if (event.key === "m") sound.toggle();
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
      // A viewer that listens stays connected.
      if (sound.on) return;
      hiddenTimer = setTimeout(() => { connection.close(); disconnected(); }, HIDDEN_MS);
    } else if (connection.socket) {
      player.needKey = true;
      connection.requestKeyframe();
    } else if (!stopped) {
      connection.failures = 0;
      connection.open();
    }
  });
  addEventListener("online", () => { if (!stopped) connection.open(); });
  setInterval(() => connection.tick(), 2000);
  setInterval(() => connection.renewSession(), RENEW_MS);
  setInterval(paint, 500);
  connection.open();
}

start();
