// Who controls the desktop: shows it, and asks for, gives and takes control.

import { stats } from "./stats.js";

const $ = (id) => document.getElementById(id);

/** Shows the state of control and enables the capture of input while this viewer has it. */
export class Control {
  constructor(capture, send) {
    this.capture = capture;
    this.send = send;
    this.info = null;
    $("control").onclick = () => this.toggle();
    $("lock").onclick = () => this.lockPointer();
    document.addEventListener("pointerlockchange", () => this.paint());
    $("grant").onclick = () => this.give(this.info?.requests[0]);
    $("layout").onchange = ({ target }) => this.chooseLayout(target.value);
  }

  /** Applies a message of type `input`. */
  update(info) {
    const had = this.controls;
    if (info.layouts) this.listLayouts(info.layouts);
    this.info = info;
    stats.control = info;
    this.capture.enable(this.controls);
    if (this.controls && !had) this.capture.setLayout(this.storedLayout());
    this.paint();
  }

  /** Forgets the state: the connection is lost. */
  reset() {
    this.info = null;
    stats.control = null;
    this.capture.enable(false);
    this.paint();
  }

  get available() { return this.permitted && !!this.info.backend; }

  /** True if this viewer's token and the desktop's policy allow control. */
  get permitted() { return !!this.info && this.info.policy !== "None" && this.info.allowed; }

  /** With shared control, and while no viewer has exclusive control, events of this viewer are accepted. */
  get controls() { return this.available && this.inControl; }

  /** True if the desktop follows the size of this viewer's window, even if it accepts no input. */
  get resizes() { return this.permitted && this.inControl; }

  /** True if this viewer alone has control. */
  get owns() { return !!this.info && this.info.controller === this.info.you; }

  get inControl() {
    const { info } = this;
    return info.policy === "Shared" || info.controller === null || info.controller === info.you;
  }

  toggle() {
    const { info } = this;
    if (!this.available || info.policy === "Shared") return;
    if (info.controller === info.you) this.give(null);
    else if (info.controller === null || info.requests.includes(info.you)) this.send({ type: "control", action: "take" });
    else this.send({ type: "control", action: "request" });
  }

  give(to) { this.send({ type: "control", action: "give", to: to ?? null }); this.capture.focus(); }

  /** Browsers refuse for a second after Esc, for example; the button then stays as it is. */
  lockPointer() { this.capture.lock().catch((error) => console.warn(`The pointer is not locked: ${error.message}`)); }

  listLayouts(layouts) {
    const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
    $("layout").replaceChildren(option("", "Keyboard: automatic"), ...layouts.map(([name, text]) => option(name, text)));
    $("layout").value = this.storedLayout();
  }

  storedLayout() { try { return localStorage.getItem("layout") ?? ""; } catch { return ""; } }

  chooseLayout(layout) {
    try { localStorage.setItem("layout", layout); } catch { /* private mode: the setting is not kept */ }
    this.capture.setLayout(layout);
    this.capture.focus();
  }

  paint() {
    const { info } = this, button = $("control");
    button.hidden = !info || info.policy === "None";
    $("layout").hidden = !this.available;
    button.setAttribute("aria-pressed", String(this.controls));
    button.disabled = !this.available;
    button.title = button.ariaLabel = !info ? "" : this.title(info);
    this.paintLock();
    this.capture.touchButtons.paint(this.available);
    const asks = this.controls && info.requests.length > 0;
    $("request").hidden = !asks;
    if (asks) $("request-text").textContent = `Viewer ${info.requests[0]} asks for control`;
  }

  paintLock() {
    const button = $("lock"), { locked } = this.capture;
    button.hidden = !this.available || !("requestPointerLock" in Element.prototype);
    button.disabled = !this.controls;
    button.setAttribute("aria-pressed", String(locked));
    button.ariaLabel = "Lock pointer";
    button.title = locked ? "The pointer is locked; press Esc to unlock it"
      : this.controls ? "Lock pointer, for games and 3D views; Esc unlocks it" : "Take control to lock the pointer";
  }

  title({ allowed, backend, reason, controller, you, requests, policy }) {
    if (!allowed) return "This link is for viewing only";
    if (!backend) return reason ? `No input: ${reason}` : "Input is not available yet";
    if (policy === "Shared") return "All viewers control the desktop";
    if (controller === you) return "You control the desktop; click to give it up";
    if (controller === null) return "Control the desktop";
    return requests.includes(you) ? `Viewer ${controller} has control; click again to take it` : `Viewer ${controller} has control; click to ask for it`;
  }
}
