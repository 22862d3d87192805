// Touch, in two modes: fingers touch the desktop where they touch the picture, or the picture is a trackpad for the desktop's
// pointer. On devices with a touch screen, the on-screen keyboard appears by its button only.

const MAX_TOUCHES = 10;
/** Longest time and distance of a tap, and time after it in which a touch begins a drag. */
const TAP_MS = 250, TAP_DISTANCE = 12, DRAG_MS = 200;
/** Pixels of the desktop's pointer per pixel of a finger. */
const SPEED = 1.5;

const $ = (id) => document.getElementById(id);

/** Fingers touch the desktop. `push(event)` sends an event, `at(event)` is a position in the picture. */
export class DirectTouch {
  constructor(push, at) {
    this.push = push;
    this.at = at;
    this.ids = new Map();
  }

  reset() { this.ids.clear(); }

  down(event) {
    const id = [...Array(MAX_TOUCHES).keys()].find((id) => ![...this.ids.values()].includes(id));
    if (id === undefined) return;
    this.ids.set(event.pointerId, id);
    this.push({ t: "touch", id, phase: "down", ...this.at(event) });
  }

  move(event) {
    const id = this.ids.get(event.pointerId);
    if (id !== undefined) this.push({ t: "touch", id, phase: "move", ...this.at(event) });
  }

  up(event) {
    const id = this.ids.get(event.pointerId);
    this.ids.delete(event.pointerId);
    if (id !== undefined) this.push({ t: "touch", id, phase: "up", ...this.at(event) });
  }
}

/**
 * One finger moves the pointer, two scroll. A tap clicks: with one finger the left button, with two the right one, with three
 * the middle one. A tap with one finger that touches again at once drags.
 */
export class Trackpad {
  constructor(push) {
    this.push = push;
    this.fingers = new Map();
    this.release = 0;         // timer that releases the left button after a tap
    this.dragging = false;
  }

  /** Forgets the fingers; the desktop releases the buttons by itself. */
  reset() {
    clearTimeout(this.release);
    this.release = 0;
    this.dragging = false;
    this.fingers.clear();
  }

  down({ pointerId, clientX, clientY, timeStamp }) {
    if (!this.fingers.size) {
      Object.assign(this, { start: timeStamp, moved: 0, most: 0, dragging: this.release !== 0 });
      clearTimeout(this.release);
      this.release = 0;
    }
    this.fingers.set(pointerId, { x: clientX, y: clientY });
    this.most = Math.max(this.most, this.fingers.size);
  }

  move({ pointerId, clientX, clientY }) {
    const finger = this.fingers.get(pointerId);
    if (!finger) return;
    const dx = clientX - finger.x, dy = clientY - finger.y;
    Object.assign(finger, { x: clientX, y: clientY });
    this.moved += Math.hypot(dx, dy);
    if (!dx && !dy) return;
    if (this.most === 1) this.push({ t: "motion", dx: dx * SPEED, dy: dy * SPEED });
    else if (this.fingers.size === 2) this.push({ t: "scroll", dx: -dx, dy: -dy });
  }

  up({ pointerId, timeStamp }) {
    if (!this.fingers.delete(pointerId) || this.fingers.size) return;
    const isTap = timeStamp - this.start < TAP_MS && this.moved < TAP_DISTANCE;
    if (this.dragging) {
      this.dragging = false;
      this.button(0, false);
      // Two taps are a double click.
      if (isTap) this.click(0);
    } else if (isTap && this.most === 1) {
      this.button(0, true);
      this.release = setTimeout(() => { this.release = 0; this.button(0, false); }, DRAG_MS);
    } else if (isTap) {
      this.click(this.most === 2 ? 2 : 1);
    }
  }

  button(button, down) { this.push({ t: "button", button, down }); }

  click(button) { this.button(button, true); this.button(button, false); }
}

/** Buttons for the mode of touches and for the on-screen keyboard. */
export class TouchButtons {
  /** `keys`: the text field that has the focus; `changed()` is called when the mode changes. */
  constructor(keys, changed) {
    this.keys = keys;
    this.changed = changed;
    this.seen = matchMedia("(any-pointer: coarse)").matches;
    this.available = false;
    this.trackpad = false;
    try { this.trackpad = localStorage.getItem("touch") === "trackpad"; } catch { /* private mode */ }
    if (this.seen) keys.inputMode = "none";
    addEventListener("pointerdown", ({ pointerType }) => { if (pointerType === "touch" && !this.seen) { this.seen = true; this.keys.inputMode = "none"; this.paint(); } }, { capture: true });
    $("touch").onclick = () => this.setTrackpad(!this.trackpad);
    $("osk").onclick = () => this.showKeyboard(keys.inputMode === "none");
  }

  setTrackpad(trackpad) {
    this.trackpad = trackpad;
    try { localStorage.setItem("touch", trackpad ? "trackpad" : ""); } catch { /* private mode: the setting is not kept */ }
    this.changed();
    this.paint();
  }

  /** Browsers show their keyboard when a field with an input mode gets the focus. */
  showKeyboard(shown) {
    this.keys.inputMode = shown ? "text" : "none";
    this.keys.blur();
    this.keys.focus({ preventScroll: true });
    this.paint();
  }

  /** `available`: true if this viewer may control the desktop. */
  paint(available = this.available) {
    this.available = available;
    $("touch").hidden = $("osk").hidden = !available || !this.seen;
    $("touch").setAttribute("aria-pressed", String(this.trackpad));
    $("touch").title = $("touch").ariaLabel = this.trackpad ? "Touches move the pointer; change to direct touch" : "Use the screen as a trackpad";
    $("osk").setAttribute("aria-pressed", String(this.keys.inputMode !== "none"));
  }
}
