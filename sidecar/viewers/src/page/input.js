// Sends keyboard, pointer and touch events to the desktop. contract/src/input.rs describes the events.

import { stats } from "./stats.js";
import { DirectTouch, TouchButtons, Trackpad } from "./touch.js";

const MAX_EVENTS = 64, MAX_TEXT = 256;
/** A wheel reports 120 per detent; larger multiples come from wheels, other values from touchpads. */
const DETENT = 120, LINES_PER_DETENT = 3;

/** Layouts guessed from the characters of a few keys (Keyboard Map API). */
const GUESSES = [
  ["de", { KeyY: "z", Semicolon: "ö", Minus: "ß" }], ["ch", { KeyY: "z", Semicolon: "ö" }], ["fr", { KeyQ: "a", KeyM: "," }],
  ["es", { Semicolon: "ñ" }], ["se", { Semicolon: "ö", Quote: "ä" }], ["no", { Semicolon: "ø" }], ["dk", { Semicolon: "æ" }],
  ["it", { Semicolon: "ò" }], ["pt", { Semicolon: "ç" }], ["us(dvorak)", { KeyS: "o", KeyD: "e" }], ["gb", { Backslash: "#" }],
  ["us", { KeyQ: "q", Semicolon: ";" }],
];

const MAC = /Mac|iPhone|iPad/.test(navigator.userAgent);
/** Time in which a browser fires the paste event of a key. */
const PASTE_MS = 300;

/** Captures input while the viewer controls the desktop. */
export class InputCapture {
  /** `surface`: the canvas; `keys`: a text field that has the focus while keys are captured; `send(message)`. */
  constructor(surface, keys, send) {
    this.surface = surface;
    this.keys = keys;
    this.send = send;
    this.enabled = false;
    this.events = [];
    this.position = null;
    this.layout = null;         // selected, but not sent yet
    this.last = null;           // last position that was sent
    this.scheduled = false;
    this.pressed = new Set();
    this.direct = new DirectTouch((event) => this.push(event), (event) => this.at(event));
    this.trackpad = new Trackpad((event) => this.push(event));
    this.touchButtons = new TouchButtons(keys, () => this.release());
    this.clipboard = null;      // set by the page if there is one
    this.holding = false;       // true while events wait for the clipboard
    this.onpaste = null;
    const on = (target, type, handler, options) => target.addEventListener(type, handler.bind(this), options);
    on(surface, "pointerdown", this.pointerDown);
    on(surface, "pointermove", this.pointerMove);
    on(surface, "pointerup", this.pointerUp);
    on(surface, "pointercancel", this.pointerUp);
    on(surface, "wheel", this.wheel, { passive: false });
    on(surface, "contextmenu", (event) => { if (this.enabled) event.preventDefault(); });
    on(keys, "keydown", this.keyDown);
    on(keys, "keyup", this.keyUp);
    on(keys, "compositionend", this.composed);
    on(keys, "input", this.typed);
    on(keys, "paste", this.pasted);
    on(keys, "blur", this.release);
    on(window, "blur", this.release);
    on(document, "visibilitychange", () => { if (document.hidden) this.release(); });
  }

  /** Starts or stops to capture. */
  enable(enabled) {
    if (this.enabled === enabled) return;
    if (!enabled) { this.holding = false; this.release(); this.unlock(); }
    this.enabled = enabled;
    this.surface.classList.toggle("control", enabled);
    if (enabled) this.focus();
  }

  focus() { this.keys.focus({ preventScroll: true }); }

  /** Selects the desktop's layout, from the next event on; `""` for one like the viewer's keyboard. */
  async setLayout(layout) { this.layout = layout || (await guessLayout()) || null; }

  /** True while the pointer is locked: it is hidden, and moves by distances without a limit. */
  get locked() { return document.pointerLockElement === this.surface; }

  /** True while this viewer moves the pointer by distances: by a locked pointer, or by fingers on a trackpad. */
  get relative() { return this.locked || (this.touchButtons.trackpad && this.touchButtons.seen); }

  /** Receiver of touches in the selected mode. */
  get touch() { return this.touchButtons.trackpad ? this.trackpad : this.direct; }

  /** Locks the pointer until Esc, without the operating system's acceleration if possible. Fails if the browser refuses. */
  async lock() {
    if (!this.enabled) return;
    try {
      await this.surface.requestPointerLock({ unadjustedMovement: true });
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      await this.surface.requestPointerLock();
    }
    // Control may have been lost meanwhile.
    if (this.enabled) this.focus(); else this.unlock();
  }

  unlock() { if (this.locked) document.exitPointerLock(); }

  /** Queues an event; positions are merged until the next animation frame. */
  push(event) {
    if (!this.enabled) return;
    if (this.layout && event.t !== "release") {
      this.events.push({ t: "layout", layout: this.layout });
      this.layout = null;
    }
    if (this.position && event.t !== "pointer") { this.events.push(this.position); this.position = null; }
    if (event.t === "pointer") this.position = this.last = event;
    else this.events.push(event);
    if (event.t === "pointer" || event.t === "motion" || event.t === "scroll" || event.t === "wheel") this.schedule();
    else this.flush();
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => { this.scheduled = false; this.flush(); });
  }

  flush() {
    if (this.holding) return;
    if (this.position) { this.events.push(this.position); this.position = null; }
    while (this.events.length) {
      const events = this.events.splice(0, MAX_EVENTS);
      stats.input += events.length;
      this.send({ type: "input", events });
    }
  }

  release() {
    this.pressed.clear();
    this.direct.reset();
    this.trackpad.reset();
    this.push({ t: "release" });
  }

  /** Moves the desktop's pointer. While it is locked, events have a distance and no position. */
  move(event) {
    if (!this.locked) this.push({ t: "pointer", ...this.at(event) });
    else if (event.movementX || event.movementY) this.push({ t: "motion", dx: event.movementX, dy: event.movementY });
  }

  at(event) {
    const box = this.surface.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  pointerDown(event) {
    if (!this.enabled) return;
    this.focus();
    event.preventDefault();
    if (event.pointerType === "touch") {
      this.touch.down(event);
      return;
    }
    // A locked pointer is captured already; the method would throw.
    if (!this.locked) this.surface.setPointerCapture(event.pointerId);
    if (event.button >= 0 && event.button <= 4) {
      this.move(event);
      this.push({ t: "button", button: event.button, down: true });
    }
  }

  pointerMove(event) {
    if (!this.enabled) return;
    if (event.pointerType === "touch") {
      this.touch.move(event);
    } else {
      this.move(event);
      // With a button held, further buttons are reported as moves.
      if (event.button >= 0 && event.button <= 4) {
        this.push({ t: "button", button: event.button, down: (event.buttons & [1, 4, 2, 8, 16][event.button]) !== 0 });
      }
    }
  }

  pointerUp(event) {
    if (!this.enabled) return;
    if (event.pointerType === "touch") {
      this.touch.up(event);
    } else if (event.button >= 0 && event.button <= 4) {
      this.move(event);
      this.push({ t: "button", button: event.button, down: false });
    }
  }

  wheel(event) {
    if (!this.enabled) return;
    event.preventDefault();
    const { deltaX, deltaY, deltaMode } = event;
    if (deltaMode === WheelEvent.DOM_DELTA_PIXEL && !isWheel(event)) {
      this.push({ t: "scroll", dx: deltaX, dy: deltaY });
      return;
    }
    const detents = (delta, raw) => (deltaMode === WheelEvent.DOM_DELTA_PIXEL ? -raw : delta / LINES_PER_DETENT * DETENT);
    this.push({ t: "wheel", dx: detents(deltaX, event.wheelDeltaX), dy: detents(deltaY, event.wheelDeltaY) });
  }

  keyDown(event) {
    // Keys of an input method have no code, or are part of a composition: their text arrives as an input event.
    if (!this.enabled || event.isComposing || event.keyCode === 229 || !event.code) return;
    if (event.ctrlKey && event.altKey && event.shiftKey && isV(event) && this.clipboard && !$("clip").disabled) {
      event.preventDefault();
      this.clipboard.toggle();
      return;
    }
    if (isPaste(event) && this.clipboard?.toDesktop && !this.holding) {
      if (!event.repeat) this.pasteKey(event);
      return;
    }
    event.preventDefault();
    if (event.repeat) return;
    this.pressed.add(event.code);
    this.push({ t: "key", code: event.code, down: true });
  }

  /** Sends the viewer's clipboard before the key that pastes it. Events wait meanwhile; without the content, the key is lost. */
  async pasteKey(event) {
    const { code } = event;
    // Browsers fire a paste event for the keys of their system, without asking for permission.
    const isNative = !MAC || event.metaKey;
    if (!isNative) event.preventDefault();
    this.holding = true;
    const keys = MAC && event.metaKey ? this.controlV() : [{ t: "key", code, down: true }];
    this.pressed.add(code);
    this.events.push(...keys);
    const fired = isNative ? new Promise((resolve) => { this.onpaste = resolve; setTimeout(() => resolve(true), PASTE_MS); }) : this.clipboard.pasted(null);
    const sent = await fired;
    this.onpaste = null;
    if (!sent) this.events = this.events.filter((event) => !keys.includes(event));
    this.holding = false;
    this.flush();
  }

  /** The desktop's keys for a paste: on a Mac, Command is held. */
  controlV() {
    const key = (code, down) => ({ t: "key", code, down });
    const held = [...this.pressed].filter((code) => code.startsWith("Meta"));
    for (const code of held) this.pressed.delete(code);
    return [...held.map((code) => key(code, false)), key("ControlLeft", true), key("KeyV", true), key("KeyV", false), key("ControlLeft", false)];
  }

  /** A paste of a key, or by the browser's menu: then the desktop gets the key, too. */
  async pasted(event) {
    event.preventDefault();
    if (!this.enabled || !this.clipboard?.toDesktop) return;
    const { onpaste } = this;
    this.onpaste = null;
    const sent = this.clipboard.pasted(event.clipboardData);
    if (onpaste) onpaste(sent);
    else if (await sent) for (const key of this.controlV()) this.push(key);
  }

  keyUp(event) {
    if (!this.enabled || !this.pressed.has(event.code)) return;
    event.preventDefault();
    // While Meta is held, macOS reports no release of other keys.
    const released = event.key === "Meta" ? [...this.pressed] : [event.code];
    for (const code of released) {
      this.pressed.delete(code);
      this.push({ t: "key", code, down: false });
    }
  }

  /** The text of a composition is entered here, and input events of compositions are ignored. */
  composed(event) {
    this.text(event.data);
    this.keys.value = "";
  }

  /**
   * Browsers differ in the input event of a composition's end. Chromium dispatches it before `compositionend`, with
   * `isComposing`; Firefox dispatches one after it, without `isComposing`, and newer versions another one before it. The type
   * is `insertCompositionText`; Safari has `insertFromComposition` and `deleteCompositionText`, in old versions without
   * `isComposing`.
   */
  typed(event) {
    if (event.isComposing) return;
    if (!event.inputType.includes("Composition")) this.text(event.data ?? this.keys.value);
    this.keys.value = "";
  }

  text(text) {
    const characters = [...(text ?? "")];
    while (characters.length) this.push({ t: "text", text: characters.splice(0, MAX_TEXT).join("") });
  }
}

const $ = (id) => document.getElementById(id);

/** True for the key V, also of layouts without Latin letters. */
const isV = ({ key, code }) => key.toLowerCase() === "v" || (code === "KeyV" && !/^[a-z]$/i.test(key));

/** True for the keys that paste in the viewer's system or in the desktop. */
function isPaste(event) {
  const { code, ctrlKey, metaKey, shiftKey, altKey } = event;
  if (code === "Insert") return shiftKey && !ctrlKey && !altKey && !metaKey;
  return isV(event) && !altKey && (ctrlKey || (MAC && metaKey));
}

/** True for a wheel with detents, in browsers that report pixels for both. */
function isWheel({ wheelDeltaX = 0, wheelDeltaY = 0, deltaX, deltaY }) {
  const whole = (raw, delta) => raw % DETENT === 0 && (delta === 0 || Math.abs(raw) !== Math.abs(delta) * 3);
  return whole(wheelDeltaX, deltaX) && whole(wheelDeltaY, deltaY);
}

/** The layout of the viewer's keyboard, as far as the browser tells; `""` otherwise. */
async function guessLayout() {
  const map = await navigator.keyboard?.getLayoutMap?.().catch(() => null);
  if (!map) return "";
  const found = GUESSES.find(([, keys]) => Object.entries(keys).every(([code, character]) => map.get(code) === character));
  return found?.[0] ?? "";
}
