// Shares the viewer's clipboard with the desktop. server/wire/clipboard.rs describes the messages.

import { stats } from "./stats.js";

const TAG = 67, VERSION = 1, HEADER = 8, MAX_CHUNK = 32 << 10, MAX_CONTENT = 8 << 20;
const TEXT = "text/plain", HTML = "text/html", PNG = "image/png";
/** Formats in the order of their numbers, which begin at 1. */
const FORMATS = [TEXT, HTML, PNG];
/** Time limit for the desktop to take a content, and pause between two. */
const STORED_MS = 20000, PAUSE_MS = 500, BYTES_PER_MS = 4096;
/** Bytes that wait in the socket at most, so that input is not delayed. */
const MAX_BUFFERED = 256 << 10;
const WINDOWS = navigator.userAgent.includes("Windows");

const $ = (id) => document.getElementById(id);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const encode = (text) => new TextEncoder().encode(WINDOWS ? text.replaceAll("\r\n", "\n") : text);
const size = (content) => [...content.values()].reduce((sum, bytes) => sum + bytes.length, 0);
const equal = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);

/** Exchanges contents: maps from format to bytes. */
export class Clipboard {
  /** `send(message)`; `buffered()`: bytes that wait to be sent; `controls()`: true if this viewer has control. */
  constructor({ send, buffered, controls, failed }) {
    Object.assign(this, { send, buffered, controls, failed });
    this.info = null;
    this.received = null;       // the newest content of the desktop
    this.unwritten = null;      // the same, while the browser refuses to write it to the viewer's clipboard
    this.seen = null;           // content that the viewer's clipboard had when it was last read or written
    this.incoming = null;
    this.waiting = new Map();
    this.id = 0;
    this.notBefore = 0;
    $("clip").onclick = () => this.toggle();
    $("clip-close").onclick = () => this.toggle();
    $("clip-copy").onclick = () => this.copy();
    $("clip-paste").onclick = () => this.paste();
    $("clip-send").onclick = () => this.report(this.store(new Map([[TEXT, encode($("clip-text").value)]]), true));
    $("clip-panel").addEventListener("paste", (event) => {
      event.preventDefault();
      this.report(content(event.clipboardData).then((pasted) => { this.show(pasted); return this.store(pasted, true); }));
    });
    $("clip-panel").addEventListener("keydown", (event) => { if (event.key === "Escape") this.toggle(); });
    for (const gesture of ["pointerdown", "keydown"]) addEventListener(gesture, () => this.write(), { passive: true });
    addEventListener("focus", () => this.focused());
  }

  /** True if contents of this viewer reach the desktop. */
  get toDesktop() { return this.allows("ToDesktop"); }
  get fromDesktop() { return this.allows("FromDesktop"); }
  allows(direction) { return !!this.info?.protocol && [direction, "Both"].includes(this.info.policy); }

  /** Handles a message of the server. */
  message(message) {
    if (message.type === "clipboard") this.update(message);
    else if (message.type === "selection") this.begin(message);
    else { this.waiting.get(message.id)?.(message.error ?? ""); this.waiting.delete(message.id); }
  }

  update(info) {
    if (!this.info && info.policy !== "Off") this.send({ type: "accepts", formats: FORMATS });
    this.info = info;
    stats.clipboard = info;
    this.paint();
  }

  /** Forgets the state: the connection is lost. */
  reset() {
    this.info = this.incoming = stats.clipboard = null;
    for (const done of this.waiting.values()) done("the connection was lost");
    this.waiting.clear();
    this.paint();
  }

  // From the desktop.

  begin({ id, parts }) {
    const total = parts.reduce((sum, { bytes }) => sum + bytes, 0);
    this.incoming = total <= MAX_CONTENT ? { id, left: total, parts: parts.map(({ format, bytes }) => ({ format, at: 0, bytes: new Uint8Array(bytes) })) } : null;
  }

  /** Handles a binary message. */
  chunk(view) {
    const { incoming } = this;
    if (view.byteLength <= HEADER || view.getUint8(1) !== VERSION || view.getUint32(4, true) !== incoming?.id) return;
    const part = incoming.parts.find(({ at, bytes }) => at < bytes.length);
    const bytes = new Uint8Array(view.buffer, HEADER);
    if (!part || FORMATS[view.getUint8(2) - 1] !== part.format || part.at + bytes.length > part.bytes.length) { this.incoming = null; return; }
    part.bytes.set(bytes, part.at);
    part.at += bytes.length;
    incoming.left -= bytes.length;
    if (incoming.left > 0) return;
    this.incoming = null;
    this.received = this.unwritten = new Map(incoming.parts.map(({ format, bytes }) => [format, bytes]));
    this.show(this.received);
    this.write();
  }

  /** Writes what the desktop copied to the viewer's clipboard. Browsers refuse it without focus, some without a gesture. */
  async write() {
    const content = this.unwritten;
    if (!content || !navigator.clipboard?.write) return false;
    const supported = [...content].filter(([format]) => ClipboardItem.supports?.(format) ?? true);
    const blobs = supported.map(([format, bytes]) => [format, new Blob([bytes], { type: format })]);
    try {
      await navigator.clipboard.write([new ClipboardItem(Object.fromEntries(blobs))]);
      this.seen = content;
      if (this.unwritten === content) this.unwritten = null;
    } catch { /* the next gesture or the panel writes it */ }
    this.paint();
    return this.unwritten !== content;
  }

  // To the desktop.

  /**
   * Sends a content, unless it is what the viewer's clipboard had before: then the desktop's may be newer. Fails with a reason to
   * show. After it, the desktop can paste.
   */
  async store(content, always = false) {
    if (!this.toDesktop || !content.size || (!always && await same(content, this.seen))) return;
    const total = size(content);
    if (total > MAX_CONTENT) throw new Error(`the content has more than ${MAX_CONTENT >> 20} MiB`);
    const now = performance.now(), pause = this.notBefore - now;
    this.notBefore = Math.max(now, this.notBefore) + PAUSE_MS + total / BYTES_PER_MS;
    if (pause > 0) await wait(pause);
    const id = this.id = (this.id + 1) >>> 0;
    const stored = new Promise((resolve) => { this.waiting.set(id, resolve); });
    this.send({ type: "selection", id, parts: [...content].map(([format, bytes]) => ({ format, bytes: bytes.length })) });
    for (const [format, bytes] of content) {
      for (let at = 0; at < bytes.length; at += MAX_CHUNK) {
        while (this.buffered() > MAX_BUFFERED && this.waiting.has(id)) await wait(10);
        if (id !== this.id) throw new Error("another content replaced it");
        this.send(chunk(id, format, bytes.subarray(at, at + MAX_CHUNK)));
      }
    }
    const error = await Promise.race([stored, wait(STORED_MS).then(() => "the desktop does not take it")]);
    this.waiting.delete(id);
    if (error) throw new Error(error);
    this.seen = content;
  }

  /** Sends what a paste event or, without one, the browser gives. False if a paste must not follow. */
  async pasted(data) {
    try {
      await this.store(await (data ? content(data) : read()));
      return true;
    } catch (error) {
      this.failed(error.message);
      return false;
    }
  }

  /** Sends the viewer's clipboard if the browser gives it without asking, so that menus of the desktop paste it. */
  async focused() {
    if (!this.toDesktop || !this.controls()) return;
    const permission = await navigator.permissions?.query({ name: "clipboard-read" }).catch(() => null);
    if (permission?.state === "granted") await read().then((content) => this.store(content)).catch(() => {});
  }

  // The panel: for browsers that refuse access, and to see what is transferred.

  get open() { return !$("clip-panel").hidden; }

  toggle() {
    const open = !this.open;
    $("clip-panel").hidden = !open;
    $("clip").setAttribute("aria-expanded", String(open));
    $("clip-status").textContent = "";
    if (open) $("clip-text").focus(); else this.closed?.();
  }

  show(content) {
    const text = content.get(TEXT), image = content.get(PNG), canvas = $("clip-image");
    $("clip-text").value = text ? new TextDecoder().decode(text) : "";
    canvas.hidden = !image;
    if (!image) return;
    createImageBitmap(new Blob([image], { type: PNG })).then((bitmap) => {
      Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
    }).catch(() => { canvas.hidden = true; });
  }

  async copy() {
    this.unwritten ??= this.received;
    const text = encode($("clip-text").value);
    if (!this.unwritten || (text.length && !equal(text, this.unwritten.get(TEXT) ?? []))) this.unwritten = new Map([[TEXT, text]]);
    $("clip-status").textContent = await this.write() ? "Copied" : "The browser refuses: select the text and copy it";
    if (this.unwritten) $("clip-text").select();
  }

  async paste() {
    const content = await read().catch(() => null);
    if (content) { this.show(content); this.report(this.store(content, true)); }
    else { $("clip-status").textContent = "The browser refuses: paste into the field"; $("clip-text").focus(); }
  }

  async report(sending) {
    $("clip-status").textContent = "Sending…";
    $("clip-status").textContent = await sending.then(() => "The desktop can paste it", (error) => `Not sent: ${error.message}`);
  }

  paint() {
    const { info } = this, button = $("clip");
    button.hidden = !info || info.policy === "Off" || !this.controls();
    button.disabled = !info?.protocol;
    button.dataset.waiting = String(!!this.unwritten);
    const title = info?.protocol ? (this.unwritten ? "Clipboard: click to copy what the desktop copied" : "Clipboard") : `No clipboard: ${info?.reason || "not connected yet"}`;
    button.title = button.ariaLabel = `${title} (Ctrl+Alt+Shift+V)`;
    $("clip-copy").hidden = !this.fromDesktop;
    $("clip-paste").hidden = $("clip-send").hidden = !this.toDesktop;
    if (button.hidden && this.open) this.toggle();
  }
}

function chunk(id, format, bytes) {
  const message = new Uint8Array(HEADER + bytes.length), view = new DataView(message.buffer);
  message.set([TAG, VERSION, FORMATS.indexOf(format) + 1, 0]);
  view.setUint32(4, id, true);
  message.set(bytes, HEADER);
  return message;
}

/** Content of a paste event. It must be read before the event ends. */
async function content(data) {
  const texts = [TEXT, HTML].map((format) => [format, encode(data.getData(format))]);
  const image = [...data.files].find(({ type }) => type === PNG);
  return parts([...texts, [PNG, image && new Uint8Array(await image.arrayBuffer())]]);
}

/** Content of the viewer's clipboard. The browser may ask the viewer for permission. */
async function read() {
  const items = await navigator.clipboard.read();
  const all = items.flatMap((item) => item.types.filter((type) => FORMATS.includes(type)).map(async (type) => {
    const blob = await item.getType(type);
    return [type, type === PNG ? new Uint8Array(await blob.arrayBuffer()) : encode(await blob.text())];
  }));
  const found = new Map(await Promise.all(all));
  return parts(FORMATS.map((format) => [format, found.get(format)]));
}

const parts = (all) => new Map(all.filter(([, bytes]) => bytes?.length));

/** True for the same text, or without text the same picture: browsers change HTML and encode images again. */
async function same(a, b) {
  if (!b) return false;
  if (a.has(TEXT) || b.has(TEXT)) return equal(a.get(TEXT) ?? [], b.get(TEXT) ?? []);
  if (!a.has(PNG) || !b.has(PNG)) return false;
  const [one, other] = await Promise.all([a, b].map((content) => pixels(content.get(PNG)).catch(() => null)));
  return !!one && !!other && one.width === other.width && equal(one.data, other.data);
}

async function pixels(png) {
  const bitmap = await createImageBitmap(new Blob([png], { type: PNG }));
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}
